//! What tests need of an open store besides its public face. Compiled with the feature `sim` only.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::commitlog::Log;
use crate::delivery::slot::{self, Head, Owner, State};
use crate::delivery::{kept, producers, registry, removed};
use crate::error::{Error, Result};
use crate::options::{RepairOptions, StoreOptions};
use crate::reports::RepairReport;
use crate::shm::control::{
    G_FREE_SLOT, G_KEPT_BYTES, G_OUTSTANDING, G_SETTLED, G_SLOT_TOP, G_TAIL, P_CURSOR, P_DEAD,
    P_LEASED, P_READY, P_READY_HEAD, P_READY_TAIL, P_REMOVED, P_SETTLED, P_TOPIC, P_WAITING, S_DUE,
    S_HEAD, S_LINK, S_OWNER, S_SEQ, T_FIRST, T_NEXT, TICK_MS, W_DURABLE, W_PUBLISHED, W_READY,
    W_SUM, W_UNDO_N, W_UNNOTED, W_WRITTEN, WHEEL,
};
use crate::shm::{Tx, consumers, member, undo};
use crate::sim::{SimProcess, SimWorld};
use crate::store::Store;
use crate::sys::{Env, RealDisk, RealHost, RuntimeDir};

mod ordered;

impl Store {
    /// Opens the store of a simulated machine as one of its processes.
    ///
    /// # Errors
    /// As [`StoreOptions::open`].
    pub fn open_simulated(process: &SimProcess, options: StoreOptions) -> Result<Self> {
        // Shared memory is in the store's directory all the same: a simulation has no other.
        let runtime = options.runtime_dir.as_ref().map(|dir| RuntimeDir {
            named: dir.to_string_lossy().into_owned(),
            disk: process.disk(),
        });
        let env = Env {
            disk: process.disk(),
            host: process.host(),
            runtime,
        };
        Self::open_in(&env, Path::new("simulated"), options)
    }

    /// One round of the keeper: what its thread does every 50 ms.
    pub fn look(&self) {
        if let Ok(_call) = self.inner().enter() {
            // What fails is tried again, as the thread does.
            let _ = self.inner().leave_rest();
            crate::keeper::look(&self.inner().log);
        }
    }

    /// Prepares, indexes, snapshots and reclaims; tells what failed.
    ///
    /// # Errors
    /// I/O errors, which the keeper would log and try again.
    pub fn maintain(&self) -> Result<()> {
        let _call = self.inner().enter()?;
        crate::keeper::maintain(&self.inner().log)
    }

    /// What the keeper does in a store that has come to rest.
    ///
    /// # Errors
    /// As [`Store::maintain`].
    pub fn rest(&self) -> Result<()> {
        let _call = self.inner().enter()?;
        crate::keeper::maintain(&self.inner().log)?;
        crate::keeper::give_back(&self.inner().log)
    }

    /// How many acks the log had no room for so far: a power cut undoes them.
    #[must_use]
    pub fn unnoted_acks(&self) -> u64 {
        self.inner().log.ctl.global(G_SETTLED)
    }

    /// Whether the disk was so full that only the reserve was left, when it was last looked at.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.inner().log.is_short()
    }

    /// Where the log ends: everything that returned so far lies below.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.inner().log.ctl.load(W_PUBLISHED)
    }

    /// Below this everything is said to be on disk.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        self.inner().log.ctl.load(W_DURABLE)
    }
}

/// Repairs the store of a simulated machine as one of its processes.
///
/// # Errors
/// As [`crate::repair()`].
pub fn repair_simulated(process: &SimProcess, options: &RepairOptions) -> Result<RepairReport> {
    let env = Env {
        disk: process.disk(),
        host: process.host(),
        runtime: None,
    };
    crate::repair::repair_in(&env, options)
}

impl SimWorld {
    /// What shared memory says is on disk; 0 while there is none that is finished.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        match self.map_word("ctl", W_READY) {
            Some(1) => self.map_word("ctl", W_DURABLE).unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether shared memory may hold acks that the log had no room for.
    #[must_use]
    pub fn may_have_unnoted_acks(&self) -> bool {
        self.map_word("ctl", W_UNNOTED)
            .is_some_and(|word| word != 0)
    }
}

impl StoreOptions {
    /// Sizes below the public limits, so that rolls, snapshots and full rings come soon.
    #[must_use]
    pub fn tiny(self) -> Self {
        self.sized(16 << 10, 128)
    }

    /// Makes or opens a store in a real directory, of sizes that may be below the public limits.
    ///
    /// # Errors
    /// As [`StoreOptions::open`].
    pub fn open_sized(self, path: &Path) -> Result<Store> {
        let failed = |e| Error::io("prepare", path, &e);
        let disk = RealDisk::create_dir(path, 0o600).map_err(failed)?;
        let host = RealHost::new(&disk).map_err(failed)?;
        let env = Env {
            disk: Arc::new(disk),
            host: Arc::new(host),
            runtime: None,
        };
        Store::open_in(&env, path, self)
    }

    /// Segments and a ring of this many bytes, and so many slots.
    #[must_use]
    pub fn sized(mut self, bytes: u64, slots: u32) -> Self {
        self.segment_size = Some(bytes);
        self.ring_size = Some(bytes);
        self.slots = Some(slots);
        self
    }
}

impl Store {
    /// Everything in shared memory that contradicts itself, one sentence each. Takes lock E, so
    /// what a dead owner left is repaired first.
    ///
    /// # Errors
    /// When the store is closed or lock E is not to be had.
    pub fn check_state(&self) -> Result<Vec<String>> {
        let _call = self.inner().enter()?;
        let log = &self.inner().log;
        let tx = log.ctl.begin(log.ctl.patience())?;
        let mut check = Check {
            log,
            tx: &tx,
            wrong: Vec::new(),
            listed: BTreeSet::new(),
        };
        check.words();
        check.slots();
        check.messages();
        Ok(check.wrong)
    }

    /// What the store holds in shared memory, one line a thing, without times and places: the same
    /// lines before and after whatever changes nothing.
    ///
    /// # Errors
    /// As [`Store::check_state`].
    pub fn describe_state(&self) -> Result<Vec<String>> {
        let _call = self.inner().enter()?;
        let ctl = &self.inner().log.ctl;
        let tx = ctl.begin(ctl.patience())?;
        let mut lines = Vec::new();
        for id in registry::live_topics(ctl) {
            let word = |w| tx.get(ctl.layout.topic(id, w));
            let name = registry::topic_name(ctl, id)?;
            // The first kept sequence is left out: it follows the files that are still there.
            lines.push(format!("topic {name} next {}", word(T_NEXT)));
        }
        for id in registry::live_groups(ctl) {
            let word = |w| tx.get(ctl.layout.group(id, w));
            let (name, topic) = (registry::group_name(ctl, id)?, word(P_TOPIC));
            let (cursor, dead) = (word(P_CURSOR), word(P_DEAD));
            lines.push(format!(
                "group {name} of topic {topic} cursor {cursor} dead {dead}"
            ));
        }
        lines.extend((0..producers::count(ctl)).map(|id| producers::describe(&tx, id)));
        let mut messages = Vec::new();
        for slot in 0..slot_top(&tx) {
            let word = |w| tx.get(ctl.layout.slot(slot, w));
            let group = Owner::unpack(word(S_OWNER)).group;
            match Head::unpack(word(S_HEAD)) {
                Some(head) if head.state == State::Free => {}
                Some(head) => messages.push((group, word(S_SEQ), head)),
                None => lines.push(format!("slot {slot} is unreadable")),
            }
        }
        messages.sort_by_key(|(group, seq, _)| (*group, *seq));
        for (group, seq, head) in messages {
            let Head {
                attempts,
                crashes,
                state,
                ..
            } = head;
            lines.push(format!(
                "message {seq} of group {group} {state:?} attempts {attempts} crashes {crashes}"
            ));
        }
        Ok(lines)
    }
}

fn slot_top(tx: &Tx<'_>) -> u32 {
    crate::shm::lock::low_half(tx.global(G_SLOT_TOP)).min(tx.ctl.layout.geometry.slots)
}

/// Looks at shared memory under lock E.
struct Check<'a> {
    log: &'a Log,
    tx: &'a Tx<'a>,
    wrong: Vec<String>,
    /// Slots met in a list so far.
    listed: BTreeSet<u32>,
}

impl Check<'_> {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    /// Invariants 1 and 7, and the sum.
    fn words(&mut self) {
        let ctl = &self.log.ctl;
        let undo_n = ctl.load(W_UNDO_N);
        self.expect(undo_n == 0, || {
            format!("{undo_n} undo entries with lock E free")
        });
        let (sum, kept) = (undo::state_sum(ctl), ctl.load(W_SUM));
        self.expect(sum == kept, || {
            format!("the sum is {sum:#x}, kept as {kept:#x}")
        });
        let marks = [W_DURABLE, W_WRITTEN, W_PUBLISHED].map(|w| ctl.load(w));
        let tail = ctl.global(G_TAIL);
        self.expect(marks[2] == tail, || {
            format!("published {:#x}, tail {tail:#x}", marks[2])
        });
        let ordered = marks.is_sorted() && tail - marks[0].min(tail) <= ctl.layout.geometry.ring;
        self.expect(ordered, || {
            format!("durable, written, published {marks:x?}, tail {tail:#x}")
        });
    }

    /// Every slot is in exactly one list, the one its state says, and the counters match.
    fn slots(&mut self) {
        let top = slot_top(self.tx);
        let free = self.free_list();
        let outstanding = self.tx.global(G_OUTSTANDING);
        self.expect(outstanding + free == u64::from(top), || {
            format!("{outstanding} outstanding and {free} free slots of {top}")
        });
        let groups = registry::groups(&self.log.ctl);
        for group in 0..groups {
            self.ready_list(group);
        }
        let mut timed = vec![(0, 0); groups as usize];
        for tick in 0..WHEEL as u64 {
            self.bucket(tick, &mut timed);
        }
        for (group, (leased, waiting)) in (0..).zip(timed) {
            let word = |w| self.tx.get(self.log.ctl.layout.group(group, w));
            let kept = (word(P_LEASED), word(P_WAITING));
            self.expect(kept == (leased, waiting), || {
                format!("group {group} has {leased} leased, {waiting} waiting, counted {kept:?}")
            });
        }
        self.removed(top);
        self.settled(top);
        self.orders();
        let unlisted: Vec<u32> = (0..top).filter(|s| !self.listed.contains(s)).collect();
        self.expect(unlisted.is_empty(), || {
            format!("slots in no list: {unlisted:?}")
        });
    }

    /// Runs of purged dead letters: in no list, counted, and apart from each other.
    fn removed(&mut self, top: u32) {
        let ctl = &self.log.ctl;
        for group in 0..registry::groups(ctl) {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for slot in 0..top {
                match removed::run_in(ctl, slot) {
                    Some((of, run)) if of == group => {
                        self.listed.insert(slot);
                        runs.push(run);
                    }
                    _ => {}
                }
            }
            runs.sort_unstable();
            let kept = self.tx.get(ctl.layout.group(group, P_REMOVED));
            self.expect(kept == runs.len() as u64, || {
                format!("group {group} has removed {runs:?}, counted {kept}")
            });
            let apart = runs.windows(2).all(|w| w[0].1 < w[1].0) && runs.iter().all(|r| r.0 < r.1);
            self.expect(apart, || format!("group {group} has removed {runs:?}"));
        }
    }

    /// Messages whose acks the log does not know yet: in no list, and counted.
    fn settled(&mut self, top: u32) {
        let ctl = &self.log.ctl;
        let mut counts = vec![0; registry::groups(ctl) as usize];
        for slot in 0..top {
            let word = |w| self.tx.get(ctl.layout.slot(slot, w));
            let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
            if state == Some(State::Settled) {
                self.listed.insert(slot);
                let group = Owner::unpack(word(S_OWNER)).group as usize;
                counts.iter_mut().skip(group).take(1).for_each(|n| *n += 1);
            }
        }
        let word = |group| self.tx.get(ctl.layout.group(group, P_SETTLED));
        let kept: Vec<u64> = (0..registry::groups(ctl)).map(word).collect();
        let all = self.tx.global(G_SETTLED);
        self.expect(kept == counts && all == counts.iter().sum::<u64>(), || {
            format!("settled messages {counts:?}, counted {kept:?}, {all} in all")
        });
    }

    /// Enters a slot that a list leads to; false if the list must not be followed further.
    fn enter(&mut self, slot: u32, list: &str, states: &[State]) -> bool {
        let new = slot < slot_top(self.tx) && self.listed.insert(slot);
        self.expect(new, || {
            format!("slot {slot} in {list} is in a list already")
        });
        let head = Head::unpack(self.tx.get(self.log.ctl.layout.slot(slot, S_HEAD)));
        let fits = head.is_some_and(|h| states.contains(&h.state));
        self.expect(fits, || format!("slot {slot} in {list}: {head:?}"));
        new
    }

    fn next(&self, slot: u32) -> Option<u32> {
        slot::next_in_list(self.tx, slot).ok().flatten()
    }

    fn free_list(&mut self) -> u64 {
        let mut free = 0;
        let first = u32::try_from(self.tx.global(G_FREE_SLOT)).unwrap_or(u32::MAX);
        let mut at = first.checked_sub(1);
        while let Some(slot) = at {
            if !self.enter(slot, "the free list", &[State::Free]) {
                break;
            }
            free += 1;
            at = self.next(slot);
        }
        free
    }

    fn ready_list(&mut self, group: u32) {
        let word = |check: &Self, w| check.tx.get(check.log.ctl.layout.group(group, w));
        let list = format!("the ready list of group {group}");
        let (mut at, mut last, mut count) = (word(self, P_READY_HEAD), 0, 0);
        while let Some(slot) = u32::try_from(at).ok().and_then(|at| at.checked_sub(1)) {
            if !self.enter(slot, &list, &[State::Ready]) {
                break;
            }
            count += 1;
            last = at;
            at = self.next(slot).map_or(0, |slot| u64::from(slot) + 1);
        }
        let kept = (word(self, P_READY), word(self, P_READY_TAIL));
        self.expect(kept == (count, last), || {
            format!("{list} has {count} slots, the last {last}; kept {kept:?}")
        });
    }

    fn bucket(&mut self, tick: u64, timed: &mut [(u64, u64)]) {
        let layout = self.log.ctl.layout;
        let list = format!("the timer list {tick}");
        let mut at = slot::bucket_first(self.tx, tick).ok().flatten();
        let mut before = 0;
        while let Some(slot) = at {
            if !self.enter(slot, &list, &[State::Leased, State::Waiting]) {
                break;
            }
            let link = self.tx.get(layout.slot(slot, S_LINK)) & 0xffff_ffff;
            self.expect(link == before, || {
                format!("{list}: slot {slot} follows {before}, but names {link}")
            });
            before = u64::from(slot) + 1;
            let due = self.tx.get(layout.slot(slot, S_DUE));
            self.expect((due / TICK_MS + 1) % WHEEL as u64 == tick, || {
                format!("{list}: slot {slot} is due at {due}")
            });
            let owner = Owner::unpack(self.tx.get(layout.slot(slot, S_OWNER)));
            let head = Head::unpack(self.tx.get(layout.slot(slot, S_HEAD)));
            if let Some(count) = timed.get_mut(owner.group as usize) {
                match head.map(|h| h.state) {
                    Some(State::Leased) => count.0 += 1,
                    _ => count.1 += 1,
                }
            }
            at = self.next(slot);
        }
    }

    /// Invariant 10 as far as shared memory shows it, and that no lease is a stranger's.
    fn messages(&mut self) {
        let ctl = &self.log.ctl;
        let mut seen = BTreeSet::new();
        for slot in 0..slot_top(self.tx) {
            let word = |w| self.tx.get(ctl.layout.slot(slot, w));
            let Some(head) = Head::unpack(word(S_HEAD)).filter(|h| h.state != State::Free) else {
                continue;
            };
            if head.state == State::Removed {
                continue;
            }
            let owner = Owner::unpack(word(S_OWNER));
            let (group, seq) = (owner.group, word(S_SEQ));
            let cursor = self.tx.get(ctl.layout.group(group, P_CURSOR));
            self.expect(seq < cursor, || {
                format!("slot {slot}: sequence {seq} of group {group}, whose cursor is {cursor}")
            });
            self.expect(seen.insert((group, seq)), || {
                format!("sequence {seq} of group {group} has two slots")
            });
            if let (State::Leased, Some((of, generation))) = (head.state, owner.member) {
                let there = member::in_use(ctl, of) && member::generation(ctl, of) == generation;
                self.expect(there, || {
                    format!("slot {slot} is leased to member {of}, generation {generation}, gone")
                });
            }
        }
        for group in registry::live_groups(ctl) {
            for of in (0..ctl.layout.geometry.members).filter(|&m| consumers::is_one(ctl, group, m))
            {
                self.expect(member::in_use(ctl, of), || {
                    format!("member {of} has group {group} open, and is gone")
                });
            }
        }
        let counted = registry::live_topics(ctl).map(|id| kept::kept(ctl, id).bytes);
        let (counted, all) = (counted.sum::<u64>(), self.tx.global(G_KEPT_BYTES));
        self.expect(counted == all, || {
            format!("all topics keep {all} bytes, each its own {counted}")
        });
        for id in registry::live_topics(ctl) {
            let word = |w| self.tx.get(ctl.layout.topic(id, w));
            let (first, next) = (word(T_FIRST), word(T_NEXT));
            self.expect(first <= next, || {
                format!("topic {id} has {first} to {next}")
            });
        }
    }
}
