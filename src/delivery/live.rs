//! What of the log anybody still needs, for reclaim.
//!
//! A message is live from the lowest cursor of its topic's groups on (of a topic without groups,
//! from the first that is kept on), and below it while it is outstanding or the log does not know
//! that it was acked. A record is live if a
//! live message is in it, or if the record of a live message refers to it: a dead letter to the
//! message that was given up, a message in chunks to its chunks.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::removed::{self, Range};
use super::slot::{Head, Owner, State};
use super::{claim, gone, kept, registry};
use crate::commitlog::Log;
use crate::commitlog::catalog::Segment;
use crate::error::{Code, Result};
use crate::shm::control::{
    G_SLOT_TOP, P_CURSOR, P_TOPIC, S_HEAD, S_OWNER, S_SEQ, T_FIRST, T_GROUP, T_NEXT, W_DURABLE,
    W_ROLLBACKS,
};
use crate::shm::id::place_of;
use crate::shm::{Ctl, Tx};

/// Which messages are live.
pub(crate) struct Live {
    /// Where the log ended before it was looked at.
    pub(crate) as_of: u64,
    /// The lowest chunk of a send in progress.
    pub(crate) chunk_pin: u64,
    /// Of each topic in use, from which sequence on all are.
    from: BTreeMap<u32, u64>,
    /// Topic and sequence of those in slots.
    outstanding: BTreeSet<(u32, u64)>,
    /// Of streams of dead letters that nobody consumes, those that were purged.
    removed: BTreeMap<u32, Vec<Range>>,
}

impl Live {
    /// Reads it without holding the lock, in an order that is safe: what is claimed later lies at
    /// or above a cursor that was read; what is settled later only makes it too much. What was read
    /// may have been half a transaction, which is rolled back when its owner dies: so all who held
    /// the lock meanwhile are waited for, and if any was rolled back, it is read again. Between the
    /// cursors and the slots too: a claim that had moved the cursor has filled its slot then.
    pub(crate) fn read(log: &Log) -> Result<Self> {
        Self::read_with(log, true)
    }

    /// As [`Live::read`], and as if the log knew of all acks: what is live when it does.
    pub(crate) fn when_acks_are_noted(log: &Log) -> Result<Self> {
        Self::read_with(log, false)
    }

    fn read_with(log: &Log, settled: bool) -> Result<Self> {
        let ctl = &log.ctl;
        loop {
            let rollbacks = ctl.load(W_ROLLBACKS);
            let mut live = Self {
                as_of: log.tail(),
                chunk_pin: 0,
                from: lowest_cursors(ctl),
                outstanding: BTreeSet::new(),
                removed: BTreeMap::new(),
            };
            if !broken!(ReclaimOnHalfRead) {
                drop(ctl.begin(ctl.patience())?);
            }
            live.read_slots(ctl, settled)?;
            live.chunk_pin = log.chunk_pin();
            let tx = ctl.begin(ctl.patience())?;
            let unchanged = ctl.load(W_ROLLBACKS) == rollbacks && rollbacks % 2 == 0;
            drop(tx);
            if unchanged || broken!(ReclaimOnHalfRead) {
                return Ok(live);
            }
        }
    }

    fn read_slots(&mut self, ctl: &Ctl, settled: bool) -> Result<()> {
        let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
        for slot in 0..top {
            let word = |w| ctl.load(ctl.layout.slot(slot, w));
            let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
            if matches!(state, Some(State::Free | State::Removed))
                || state == Some(State::Settled) && !settled
            {
                continue;
            }
            let group = Owner::unpack(word(S_OWNER)).group;
            // What is purged or deleted needs nothing, also while its slot is not freed yet.
            if gone::is_void(ctl, group, word(S_SEQ)) {
                continue;
            }
            if let Ok(topic) = claim::topic_of_group(ctl, group) {
                self.outstanding.insert((topic, word(S_SEQ)));
            }
        }
        for group in registry::live_groups(ctl) {
            let Some(stream) = removed::stream_of(ctl, group) else {
                continue;
            };
            if ctl.load(ctl.layout.topic(stream, T_GROUP)) == 0 {
                self.removed.insert(stream, removed::removed(ctl, group)?);
            }
        }
        Ok(())
    }

    /// From which sequence on all messages of a topic are live: of one that was deleted, none.
    pub(crate) fn from(&self, topic: u32) -> u64 {
        self.from.get(&topic).copied().unwrap_or(u64::MAX)
    }

    /// Whether this message is live.
    pub(crate) fn is_live(&self, topic: u32, seq: u64) -> bool {
        let removed = || {
            let runs = self.removed.get(&topic);
            runs.is_some_and(|runs| runs.iter().any(|r| (r.0..r.1).contains(&seq)))
        };
        self.outstanding.contains(&(topic, seq)) || seq >= self.from(topic) && !removed()
    }

    /// The live messages of a topic with these sequences that are outstanding.
    fn outstanding(
        &self,
        topic: u32,
        seqs: std::ops::Range<u64>,
    ) -> impl Iterator<Item = u64> + '_ {
        let (first, end) = (seqs.start, seqs.end.max(seqs.start));
        let range = (topic, first)..(topic, end);
        self.outstanding.range(range).map(|(_, seq)| *seq)
    }

    /// Whether nobody has come meanwhile who needs more: a new group, or one that went back.
    pub(crate) fn still_holds(&self, tx: &Tx<'_>) -> bool {
        let now = lowest_cursors(tx.ctl);
        // A topic that came since has nothing in older segments.
        now.iter()
            .all(|(topic, now)| self.from.get(topic).is_none_or(|then| now >= then))
    }
}

/// What is live by the cursors of groups alone. What shared memory says meanwhile may be half a
/// change, so this only tells that there is no need to look closer.
pub(crate) struct Backlog {
    from: BTreeMap<u32, u64>,
    /// Streams of dead letters, of which some may have been purged from the middle.
    dead: BTreeSet<u32>,
}

impl Backlog {
    pub(crate) fn read(ctl: &Ctl) -> Self {
        Self {
            from: lowest_cursors(ctl),
            dead: registry::live_groups(ctl)
                .filter_map(|group| removed::stream_of(ctl, group))
                .collect(),
        }
    }

    /// How many messages of a sealed segment are live for that alone, copied forward or not: at
    /// least so many are, found without looking at any.
    pub(crate) fn surely_in(&self, log: &Log, segment: &Arc<Segment>) -> Result<u64> {
        let streams = log.streams(segment)?.iter();
        let live = streams.filter(|s| !self.dead.contains(&s.stream)).map(|s| {
            let from = self.from.get(&s.stream).copied().unwrap_or(u64::MAX);
            let (below, any) = (from.saturating_sub(s.first), from < s.end);
            s.count.saturating_sub(below) * u64::from(any)
        });
        Ok(live.sum())
    }
}

/// From which sequence on the messages of each topic in use are live, by its id.
fn lowest_cursors(ctl: &Ctl) -> BTreeMap<u32, u64> {
    let mut lowest: BTreeMap<u32, Option<u64>> =
        registry::live_topics(ctl).map(|id| (id, None)).collect();
    for group in registry::live_groups(ctl) {
        let word = |w| ctl.load(ctl.layout.group(group, w));
        let topic = crate::shm::lock::low_half(word(P_TOPIC));
        if let Some(lowest) = lowest.get_mut(&topic) {
            let cursor = word(P_CURSOR);
            *lowest = Some(lowest.map_or(cursor, |l: u64| l.min(cursor)));
        }
    }
    let from = |(topic, lowest): (u32, Option<u64>)| {
        let word = |w| ctl.load(ctl.layout.topic(topic, w));
        let from = match lowest {
            Some(cursor) if word(T_GROUP) != 0 => cursor,
            // Without a group, everything is kept.
            _ => word(T_FIRST),
        };
        // What is counted as kept is needed until the log knows that it is counted off.
        let from = from.min(kept::logged_from(ctl, topic).unwrap_or(from));
        (topic, from)
    };
    lowest.into_iter().map(from).collect()
}

/// Whether a topic has groups, and every one has settled this message.
pub(crate) fn is_settled_by_all(ctl: &Ctl, topic: u32, seq: u64) -> bool {
    let of = |group: &u32| ctl.load(ctl.layout.group(*group, P_TOPIC)) == u64::from(topic);
    let groups: Vec<u32> = registry::live_groups(ctl).filter(of).collect();
    let cursor = |group: &u32| ctl.load(ctl.layout.group(*group, P_CURSOR));
    if groups.is_empty() || groups.iter().any(|group| cursor(group) <= seq) {
        return false;
    }
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    !(0..top).any(|slot| {
        let word = |w| ctl.load(ctl.layout.slot(slot, w));
        let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
        let place = Owner::unpack(word(S_OWNER)).group;
        word(S_SEQ) == seq
            && !matches!(state, Some(State::Free | State::Removed | State::Settled))
            && groups.iter().any(|&group| place_of(group) == place)
    })
}

/// Looks for what is live in segments.
pub(crate) struct Survey<'a> {
    log: &'a Log,
    live: &'a Live,
    /// What was durable when it began: copies behind it do not count yet.
    durable: u64,
    /// Original LSNs that live records refer to.
    needed: OnceCell<BTreeSet<u64>>,
}

/// What is live in a segment and nowhere else.
#[derive(Default)]
pub(crate) struct Left {
    /// Original LSNs of records without a copy in a later segment.
    pub(crate) records: BTreeSet<u64>,
    /// There are copies of others that are not durable yet.
    pub(crate) pending: bool,
}

impl<'a> Survey<'a> {
    pub(crate) fn new(log: &'a Log, live: &'a Live) -> Self {
        Self {
            log,
            live,
            durable: log.ctl.load(W_DURABLE),
            needed: OnceCell::new(),
        }
    }

    /// Whether a segment must stay.
    pub(crate) fn holds(&self, segment: &Arc<Segment>) -> Result<bool> {
        let left = self.left_in(segment, 1)?;
        Ok(left.pending || !left.records.is_empty())
    }

    /// The live records of an indexed segment that have no later copy; at most `most` of them.
    pub(crate) fn left_in(&self, segment: &Arc<Segment>, most: usize) -> Result<Left> {
        let mut left = Left::default();
        let sidecar = self.log.sidecar(segment)?;
        for stream in sidecar.streams() {
            let (Some(first), Some(end)) = (sidecar.first_seq(stream), sidecar.end_seq(stream))
            else {
                continue;
            };
            let from = self.live.from(stream);
            let below = first..end.min(from);
            for seq in self.live.outstanding(stream, below) {
                if let Some((_, lsn)) = sidecar.at_or_after(stream, seq).filter(|f| f.0 == seq) {
                    if self.add(segment, lsn, &mut left, most)? {
                        return Ok(left);
                    }
                }
            }
            let mut next = from.max(first);
            while let Some((seq, lsn)) = sidecar.at_or_after(stream, next) {
                next = seq + 1;
                if self.live.is_live(stream, seq) && self.add(segment, lsn, &mut left, most)? {
                    return Ok(left);
                }
            }
        }
        for (&(stream, seq), &original) in &sidecar.links.messages {
            if self.live.is_live(stream, seq) && self.add(segment, original, &mut left, most)? {
                return Ok(left);
            }
        }
        let needed = self.needed()?;
        let here = needed.range(segment.base..segment.end).copied();
        let copies = sidecar.links.copies.keys().copied();
        for original in here.chain(copies.filter(|c| needed.contains(c))) {
            if self.add(segment, original, &mut left, most)? {
                break;
            }
        }
        Ok(left)
    }

    /// Adds a live record unless it has a copy; whether that is enough.
    fn add(
        &self,
        segment: &Arc<Segment>,
        original: u64,
        left: &mut Left,
        most: usize,
    ) -> Result<bool> {
        if left.records.contains(&original) {
            return Ok(false);
        }
        match self.log.copy_of(original, segment.number + 1)? {
            Some(at) => left.pending |= at >= self.durable && !broken!(UnlinkBeforeMovedDurable),
            None => {
                left.records.insert(original);
            }
        }
        Ok(left.records.len() >= most)
    }

    fn needed(&self) -> Result<&BTreeSet<u64>> {
        if let Some(needed) = self.needed.get() {
            return Ok(needed);
        }
        let mut needed = BTreeSet::new();
        if !broken!(OriginNotMoved) {
            for r in self.log.references(0)? {
                if self.live.is_live(r.stream, r.seq) || needed.contains(&r.from) {
                    needed.insert(r.target);
                }
            }
        }
        Ok(self.needed.get_or_init(|| needed))
    }
}

/// Moves the first kept sequence of every topic past what goes with the segments before
/// `first_kept`, which begins at `base`: groups made from now on start behind it.
pub(crate) fn advance_first(log: &Log, first_kept: u64, base: u64) -> Result<()> {
    let ctl = &log.ctl;
    for topic in registry::live_topics(ctl) {
        let at = ctl.layout.topic(topic, T_FIRST);
        let (before, next) = (ctl.load(at), ctl.load(ctl.layout.topic(topic, T_NEXT)));
        let mut first = before;
        while first < next {
            let some = match log.candidates(topic, first, 512) {
                // Deleted meanwhile.
                Err(e) if e.code() == Code::NotFound => break,
                found => found?,
            };
            let Some(&(last, _)) = some.last() else {
                break;
            };
            let kept = some.iter().find(|(_, at)| *at >= base);
            first = kept.map_or(last + 1, |(seq, _)| *seq);
            if kept.is_some() {
                break;
            }
        }
        let moved = log.moved_messages(topic, before..first, 1, first_kept)?;
        let first = moved.first().map_or(first, |(seq, _)| *seq);
        if first > before {
            let mut tx = ctl.begin(ctl.patience())?;
            if ctl.has_topic(topic) && tx.get(at) < first {
                tx.set(at, first);
            }
            tx.commit();
        }
    }
    Ok(())
}

/// Number of segments and bytes of all files of the log.
pub(crate) fn disk_use(log: &Log) -> Result<(u64, u64)> {
    let mut numbers = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for name in log.dir.list(crate::commitlog::LOG_DIR)? {
        if let Some(stat) = log.dir.try_stat(&Log::path(&name))? {
            bytes += stat.allocated;
        }
        if let Some(n) = crate::format::segment::parse_file_name(&name) {
            numbers.insert(n.number);
        }
    }
    Ok((numbers.len() as u64, bytes))
}
