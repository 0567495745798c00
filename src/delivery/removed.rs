//! Dead letters that were purged: which sequences of a group's dead-letter stream are gone.
//!
//! What is purged from the beginning of the stream on moves the stream's first sequence; nothing
//! else is kept of it. A dead letter purged from the middle is remembered as a *run* of removed
//! sequences, in a slot of its own (state REMOVED: in no list, sequence = the run's first, key =
//! its length). Adjacent runs become one, and a run that the first sequence reaches is forgotten.
//!
//! Each removal is an ACK with the reason *removed* in the same transaction. It names the whole run
//! as it is then, merged with its neighbours, so that it stands alone: a snapshot that is being
//! written may have missed the neighbours (see [`super::snapshot`]), and replay sees the run.

use super::claim;
use super::slot::{self, Head, Owner, State};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::{Code, Error, Result};
use crate::format::payload::{Ack, Run, reason};
use crate::format::record::{Draft, Kind, padded};
use crate::shm::control::{
    G_SLOT_TOP, P_DEAD, P_DEAD_TOPIC, P_REMOVED, S_HEAD, S_KEY, S_LSN, S_OWNER, S_SEQ, T_FIRST,
    W_ROLLBACKS,
};
use crate::shm::id::place_of;
use crate::shm::{Ctl, Tx};

/// Removed sequences: [first, end).
pub(crate) type Range = (u64, u64);

/// Most dead letters of one transaction: it may merge as many runs.
pub(crate) const STEP: usize = 256;
/// Runs of one record: each names up to 2^32 - 1 sequences.
const RECORD_RUNS: usize = 16;
/// Slots that are left for messages whatever is purged, besides the shares of the groups.
const KEPT_BACK: u64 = 64;

/// What to remove.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Removal<'a> {
    pub(crate) group: u32,
    /// Its dead-letter stream.
    pub(crate) stream: u32,
    /// These sequences: `seqs`, and what lies between where nothing is.
    pub(crate) range: Range,
    /// The dead letters in it, ascending.
    pub(crate) seqs: &'a [u64],
}

/// Removes dead letters. Returns how many of them were still there, and the LSN that must be
/// durable for it.
pub(crate) fn remove(log: &Log, removal: &Removal<'_>, deadline: u64) -> Result<(u64, u64)> {
    let most = padded(64 + RECORD_RUNS * 12);
    let need = Need::new(most, 0, Purpose::Settle);
    log.transact(need, deadline, |tx| remove_in(log, tx, removal))
}

fn remove_in(log: &Log, tx: &mut Tx<'_>, removal: &Removal<'_>) -> Result<(u64, u64)> {
    super::places::check_group(tx.ctl, removal.group)?;
    let first_at = log.ctl.layout.topic(removal.stream, T_FIRST);
    let first = tx.get(first_at);
    let known = runs(tx.ctl, removal.group);
    let gone = |seq: u64| seq < first || known.iter().any(|(_, r)| (r.0..r.1).contains(&seq));
    let found = removal.seqs.iter().filter(|&&seq| !gone(seq)).count() as u64;
    let (mut from, mut to) = removal.range;
    if found == 0 || from >= to {
        return Ok((0, 0));
    }
    let (mut merged, mut stale) = (Vec::new(), Vec::new());
    for &(slot, (a, b)) in &known {
        if b <= first {
            // The stream was reclaimed past it.
            stale.push(slot);
        } else if a <= to && b >= from {
            // Ascending and apart: one pass takes everything that touches.
            merged.push(slot);
            (from, to) = (from.min(a), to.max(b));
        }
    }
    stale.truncate(STEP);
    if !broken!(PurgeNotNoted) {
        let noted = if broken!(PurgeNotedInPart) {
            removal.range
        } else {
            (from, to)
        };
        append(log, tx, removal.group, noted)?;
    }
    let end = tx.global(crate::shm::control::G_TAIL);
    if from <= first {
        tx.set(first_at, first.max(to));
    } else {
        let known = merged.pop();
        let slots = u64::from(log.ctl.layout.geometry.slots);
        let kept_back = KEPT_BACK.min(slots / 8) + claim::kept_for_shares(&log.ctl);
        if known.is_none() && claim::free_slots(&log.ctl) <= kept_back {
            return Err(too_many());
        }
        put(tx, removal.group, known, (from, to))?;
    }
    for slot in merged.into_iter().chain(stale) {
        forget(tx, removal.group, slot)?;
    }
    slot::sub(tx, log.ctl.layout.group(removal.group, P_DEAD), found);
    Ok((found, end))
}

fn append(log: &Log, tx: &mut Tx<'_>, group: u32, (from, to): Range) -> Result<()> {
    let mut runs = Vec::new();
    let mut first = from;
    while first < to {
        let count = u32::try_from(to - first).unwrap_or(u32::MAX);
        runs.push(Run { first, count });
        first += u64::from(count);
    }
    if runs.len() > RECORD_RUNS {
        return Err(tx.ctl.damaged("a run of removed dead letters"));
    }
    let ack = Ack {
        runs,
        reason: reason::REMOVED,
    };
    let mut draft = Draft::new(Kind::Ack, 0, group, &[], &[&ack.encode()]);
    log.append(tx, &mut draft.bytes, 0);
    Ok(())
}

fn too_many() -> Error {
    Error::new(
        Code::LimitExceeded,
        "too many dead letters were purged one by one while those around them stay; purge from \
         the oldest on, or all",
    )
}

/// Enters what the log tells of a group's dead letters into fresh shared memory: where its stream
/// is and where it begins, what was purged from it, and how many are left.
pub(crate) fn install(
    log: &Log,
    (group, stream): (u32, u32),
    (first, next): (u64, u64),
    runs: &[Range],
) -> Result<()> {
    let ctl = &log.ctl;
    let mut first = first;
    let mut kept: Vec<Range> = Vec::new();
    for &(from, to) in runs {
        if from <= first {
            first = first.max(to).min(next);
        } else {
            kept.push((from, to));
        }
    }
    let at = |word| ctl.layout.group(group, word);
    let mut tx = ctl.begin(ctl.patience())?;
    tx.set(at(P_DEAD_TOPIC), u64::from(stream) + 1);
    tx.set(ctl.layout.topic(stream, T_FIRST), first);
    tx.commit();
    for &run in &kept {
        let mut tx = ctl.begin(ctl.patience())?;
        put(&mut tx, group, None, run)?;
        tx.commit();
    }
    let mut dead = 0;
    loop {
        let some = log.candidates(stream, first, 512)?;
        let Some(&(last, _)) = some.last() else { break };
        let gone = |seq| kept.iter().any(|r| (r.0..r.1).contains(&seq));
        dead += some.iter().filter(|(seq, _)| !gone(*seq)).count() as u64;
        first = last + 1;
    }
    let mut tx = ctl.begin(ctl.patience())?;
    tx.set(at(P_DEAD), dead);
    tx.commit();
    Ok(())
}

/// Enters a run, into a slot that it replaces or a new one.
fn put(tx: &mut Tx<'_>, group: u32, slot: Option<u32>, run: Range) -> Result<()> {
    let layout = tx.ctl.layout;
    let slot = match slot {
        Some(slot) => slot,
        None => {
            let Some(slot) = slot::allocate(tx)? else {
                return Err(too_many());
            };
            slot::add(tx, layout.group(group, P_REMOVED), 1);
            slot
        }
    };
    let head = slot::head(tx, slot)?;
    slot::set_head(
        tx,
        slot,
        Head {
            attempts: 0,
            crashes: 0,
            state: State::Removed,
            ..head
        },
    );
    let member = None;
    tx.set(layout.slot(slot, S_OWNER), Owner { group, member }.pack());
    tx.set(layout.slot(slot, S_SEQ), run.0);
    tx.set(layout.slot(slot, S_KEY), run.1 - run.0);
    // It needs nothing of the log.
    tx.set(layout.slot(slot, S_LSN), u64::MAX);
    Ok(())
}

fn forget(tx: &mut Tx<'_>, group: u32, slot: u32) -> Result<()> {
    let head = slot::head(tx, slot)?;
    slot::free(tx, slot, head);
    slot::sub(tx, tx.ctl.layout.group(group, P_REMOVED), 1);
    Ok(())
}

/// The run in a slot, if it holds one, and the place of its group.
pub(crate) fn run_in(ctl: &Ctl, slot: u32) -> Option<(u32, Range)> {
    let word = |w| ctl.load(ctl.layout.slot(slot, w));
    let head = Head::unpack(word(S_HEAD))?;
    let (first, count) = (word(S_SEQ), word(S_KEY));
    (head.state == State::Removed).then(|| {
        (
            Owner::unpack(word(S_OWNER)).group,
            (first, first.saturating_add(count)),
        )
    })
}

/// The runs of a group with their slots, ascending.
fn runs(ctl: &Ctl, group: u32) -> Vec<(u32, Range)> {
    if ctl.load(ctl.layout.group(group, P_REMOVED)) == 0 {
        return Vec::new();
    }
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    let mut found: Vec<(u32, Range)> = (0..top)
        .filter_map(|slot| match run_in(ctl, slot) {
            Some((of, run)) if of == place_of(group) => Some((slot, run)),
            _ => None,
        })
        .collect();
    found.sort_unstable_by_key(|(_, run)| *run);
    found
}

/// The removed runs of a group above its stream's first sequence, ascending. Read without the lock:
/// what is being purged just now may be among them or not.
pub(crate) fn removed(ctl: &Ctl, group: u32) -> Result<Vec<Range>> {
    let mut tries = 0;
    loop {
        let rollbacks = ctl.load(W_ROLLBACKS);
        let found = runs(ctl, group).into_iter().map(|(_, run)| run).collect();
        if rollbacks % 2 == 0 && ctl.load(W_ROLLBACKS) == rollbacks {
            return Ok(found);
        }
        // Somebody rolls back: that ends, or he is dead and whoever takes the lock does it.
        tries += 1;
        if !ctl.is_frozen() {
            drop(ctl.begin(ctl.patience())?);
        } else if tries == 1000 {
            return Err(ctl.being_repaired());
        }
    }
}

/// The dead-letter stream of a group, if it has one yet.
pub(crate) fn stream_of(ctl: &Ctl, group: u32) -> Option<u32> {
    let known = ctl.load(ctl.layout.group(group, P_DEAD_TOPIC));
    let stream = u32::try_from(known).ok()?.checked_sub(1)?;
    ctl.has_topic(stream).then_some(stream)
}
