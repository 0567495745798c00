//! Giving the disk back: segments in which nothing is live go, and what little is live in the
//! oldest is copied forward, so that one stuck message never pins everything behind it.
//!
//! Segments go from the oldest on, so it is a *run* of the oldest that is made free: the shortest
//! whose live records would take less than a tenth of its bytes as copies. (A run rather than a
//! segment: one that is a third live must not keep a hundred behind it that are empty.)
//!
//! Why this ends, and costs little: let `m` bytes have been written as copies and `u` bytes by
//! users. Each run that is freed had at most a tenth of its bytes copied, and no byte is freed
//! twice, so m < (u + m) / 10, which is m < u / 9. A run that was copied and cannot go yet is not
//! copied again: what has a later copy is left alone.
//!
//! A death in the middle leaves some copies more; the next one finds them and goes on. Nothing but
//! the log says how far it got.

use std::collections::VecDeque;
use std::sync::Arc;

use super::live::{self, Backlog, Live, Survey};
use super::{coalesced, kept, snapshot};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose, RESERVE_SLACK};
use crate::commitlog::catalog::Segment;
use crate::commitlog::links::{MovedDraft, moved_len};
use crate::commitlog::prepare::{Maintenance, SMALLEST};
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Error, Result};
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, G_SETTLED, G_SNAP_BEFORE, G_SNAP_END, R_BASE, R_LIMIT, W_DURABLE,
};

/// A run is copied forward if that takes less than one of so many of its bytes.
const SHARE: u64 = 10;
/// Most records of one transaction: each changes about eight words.
const RECORDS: usize = 64;
/// Most bytes of one transaction.
const BYTES: u64 = 64 << 10;
/// The shortest copy of a message. (Those that are parts of a BATCH are shorter; those are dead
/// letters, which [`Backlog`] does not count.)
const SHORTEST: u64 = moved_len(48) as u64;

/// When a store is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// While it is used: a run that was not worth it is looked at again when the log has grown.
    InUse,
    /// It has come to rest, or is short of room.
    AtRest,
}

/// Removes the segments that nothing needs, and copies forward what keeps the next ones.
pub(crate) fn reclaim(log: &Log, held: &Maintenance<'_>, when: When) -> Result<()> {
    free(log, held)?;
    if move_forward(log, held, when)? {
        log.flush_now(log.ctl.patience())?;
        free(log, held)?;
    }
    Ok(())
}

/// On a full disk, or at rest, no roll begins a new snapshot, and the last two keep what they stand
/// for: up to two new ones let everything go that is consumed.
pub(crate) fn free_space(log: &Log, held: &Maintenance<'_>) -> Result<()> {
    let ctl = &log.ctl;
    kept::note(log, held)?;
    move_forward(log, held, When::AtRest)?;
    log.flush_now(ctl.patience())?;
    for _ in 0..2 {
        if !snapshot_frees(log)? {
            break;
        }
        snapshot::write(log, held)?;
    }
    log.flush_now(ctl.patience())?;
    coalesced::note(log)?;
    if coalesced::crowd(log) {
        snapshot::write(log, held)?;
        snapshot::write(log, held)?;
        log.flush_now(ctl.patience())?;
        coalesced::note(log)?;
    }
    Ok(())
}

/// Whether the oldest segment can go once there is one snapshot more: nothing in it is needed but
/// by an older snapshot, or by acks that only a snapshot has room for.
fn snapshot_frees(log: &Log) -> Result<bool> {
    let ctl = &log.ctl;
    let oldest = log.sealed_from(ctl.global(G_OLDEST))?.into_iter().next();
    let Some(oldest) = oldest.filter(|oldest| !log.is_in_region(oldest.number)) else {
        return Ok(false);
    };
    if Survey::new(log, &Live::when_acks_are_noted(log)?).holds(&oldest)? {
        return Ok(false);
    }
    Ok(oldest.end > ctl.global(G_SNAP_BEFORE)
        || ctl.global(G_SETTLED) != 0 && Survey::new(log, &Live::read(log)?).holds(&oldest)?)
}

/// Removes the oldest segments as far as nothing in them is live.
fn free(log: &Log, held: &Maintenance<'_>) -> Result<()> {
    let ctl = &log.ctl;
    if ctl.global(G_SNAP_END) == 0 || ctl.global(G_SNAP_END) > ctl.load(W_DURABLE) {
        return Ok(());
    }
    let (sealed, active) = log.sealed_and_active(ctl.global(G_OLDEST))?;
    let snap = ctl.global(G_SNAP_BEFORE);
    if sealed.first().is_none_or(|first| first.end > snap) {
        return Ok(());
    }
    // What is counted as kept may hold them.
    kept::note(log, held)?;
    // Mostly consumers have not come so far: that is seen without looking at any message.
    if let Some(first) = sealed.first().filter(|s| !log.is_in_region(s.number)) {
        if Backlog::read(ctl).surely_in(log, first)? > log.moved_count()? {
            return Ok(());
        }
    }
    let live = Live::read(log)?;
    let survey = Survey::new(log, &live);
    let pin = snap.min(live.chunk_pin);
    let mut gone = 0;
    for segment in &sealed {
        if segment.end > pin || log.is_in_region(segment.number) || survey.holds(segment)? {
            break;
        }
        gone += 1;
    }
    if gone == 0 {
        return Ok(());
    }
    // What was active when they were listed may be sealed by now, and nobody has looked at it.
    let active = if broken!(UnseenReclaimed) {
        ctl.global(G_ACTIVE)
    } else {
        active
    };
    let first_kept = match sealed.get(gone) {
        Some(segment) => Some((segment.number, segment.base)),
        None => log.recent(active).map(|segment| (active, segment.base)),
    };
    let Some((first_kept, base)) = first_kept else {
        // So much was sent meanwhile that it is not known any more: the next look begins anew.
        return Ok(());
    };
    live::advance_first(log, first_kept, base)?;
    log.reclaim_before(held, first_kept, live.as_of, &|tx| live.still_holds(tx))
}

/// Copies forward, within one turn's bounds, what is live in the run of oldest segments that can be
/// made free. Whether there was anything.
fn move_forward(log: &Log, held: &Maintenance<'_>, when: When) -> Result<bool> {
    let tail = log.tail();
    let mut moving = log.moving.lock();
    if log.is_short() {
        // A plan of before may be too large now.
        moving.todo.clear();
    }
    if moving.todo.is_empty() {
        if when == When::InUse && tail < moving.look_again_at {
            return Ok(false);
        }
        let mut read = 0;
        let planned = plan(log, moving.paid, &mut read);
        log.close_files_to(log.ctl.global(G_ACTIVE));
        let Some((todo, last)) = planned? else {
            // What is read in vain stays below a tenth of what is written.
            moving.look_again_at = tail + (active_span(log) / 4).max(SHARE * read);
            return Ok(false);
        };
        (moving.todo, moving.last) = (todo, last);
    }
    let last = moving.last;
    let moved = move_some(log, held, &mut moving.todo, last);
    log.close_files_to(last);
    match moved {
        Ok(whole) => {
            if whole && moving.todo.is_empty() {
                moving.paid = last;
            }
            Ok(true)
        }
        Err(e) => {
            moving.todo.clear();
            moving.look_again_at = tail + active_span(log) / 4;
            // A full disk gets room by what consumers settle; damage is told to whoever reads it.
            if e.code() == Code::Full {
                return Ok(false);
            }
            Err(e)
        }
    }
}

fn active_span(log: &Log) -> u64 {
    let word = |w| {
        let recent = log.ctl.layout.recent(log.ctl.global(G_ACTIVE), w);
        log.ctl.load(recent)
    };
    word(R_LIMIT).saturating_sub(word(R_BASE))
}

/// The original LSNs of what must be copied forward so that a run of the oldest segments can go,
/// and the number of the run's last segment. `None`: it is not worth it, or there is nothing.
/// Segments up to `paid` have been copied from before, and only wait to be removed. `read` counts
/// the bytes of the records that were read.
fn plan(log: &Log, paid: u64, read: &mut u64) -> Result<Option<(VecDeque<u64>, u64)>> {
    let ctl = &log.ctl;
    let mut sealed = log.sealed_from(ctl.global(G_OLDEST))?;
    // A chunk that comes later lies behind what is sealed now.
    let pin = log.chunk_pin();
    let fits = |s: &Arc<Segment>| s.end <= pin && !log.is_in_region(s.number);
    sealed.truncate(sealed.iter().take_while(|s| fits(s)).count());
    let span = |s: &Arc<Segment>| s.end - s.base;
    let worth = sealed.iter().map(span).sum::<u64>() / SHARE;
    let segment = ctl.layout.geometry.segment;
    // Not all the disk is looked through for a long run. What little room a full disk has is for
    // acks: it is used for few copies only, and if they make room for a new segment.
    let (most, gain) = if log.is_short() {
        (worth.min(RESERVE_SLACK / 4), 2 * segment.min(SMALLEST))
    } else {
        (worth.min(2 * segment), 0)
    };
    sealed.truncate(could_be_worth_it(log, &sealed, (paid, gain))?);
    if sealed.is_empty() {
        return Ok(None);
    }
    // What was acked is not worth a copy: the log learns of it soon.
    let live = Live::when_acks_are_noted(log)?;
    let survey = Survey::new(log, &live);
    let (mut run, mut cost, mut freed) = (0, 0, 0);
    let mut todo = VecDeque::new();
    let mut ahead = ReadAhead::default();
    for segment in &sealed {
        freed += span(segment);
        if segment.number > paid {
            run += span(segment);
        }
        let room = (most - cost) / SHORTEST + 1;
        let left = survey.left_in(segment, usize::try_from(room).unwrap_or(usize::MAX))?;
        for original in left.records {
            match log.read(original, &mut ahead) {
                Ok(stored) => {
                    *read += stored.bytes().len() as u64;
                    cost += moved_len(stored.bytes().len()) as u64;
                }
                Err(e) if e.code() == Code::Corrupt => {
                    // It stays where it is, and its segment with it, until whoever is owed it is
                    // told, or it is purged.
                    crate::trace::keeper_failed("copying a damaged record forward", &e);
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
            if cost >= most {
                return Ok(None);
            }
            todo.push_back(original);
        }
        if cost * SHARE < run && freed >= gain && !todo.is_empty() {
            return Ok(Some((todo, segment.number)));
        }
    }
    Ok(None)
}

/// How many of the oldest segments the longest run has that may be worth it, for all that is seen
/// without looking at any message. A backlog must not be looked through again and again.
fn could_be_worth_it(
    log: &Log,
    sealed: &[Arc<Segment>],
    (paid, gain): (u64, u64),
) -> Result<usize> {
    let moved = log.moved_count()?;
    let backlog = Backlog::read(&log.ctl);
    let (mut run, mut freed, mut live, mut longest) = (0, 0, 0u64, 0);
    for (i, segment) in sealed.iter().enumerate() {
        let span = segment.end - segment.base;
        freed += span;
        if segment.number > paid {
            run += span;
        }
        live += backlog.surely_in(log, segment)?;
        let cost = live.saturating_sub(moved) * SHORTEST;
        if cost * SHARE < run && freed >= gain {
            longest = i + 1;
        }
    }
    Ok(longest)
}

/// Copies records forward until a quarter of the ring is filled with them. False: the plan does not
/// hold any more.
fn move_some(
    log: &Log,
    held: &Maintenance<'_>,
    todo: &mut VecDeque<u64>,
    last: u64,
) -> Result<bool> {
    let ring = log.ctl.layout.geometry.ring;
    let (turn, piece) = (ring / 4, BYTES.min(ring / 8));
    let mut ahead = ReadAhead::default();
    let (mut done, mut whole) = (0, true);
    while done < turn && !todo.is_empty() {
        let mut drafts: Vec<MovedDraft> = Vec::new();
        let mut bytes = 0;
        while let Some(&original) = todo.front() {
            if log.copy_of(original, last + 1)?.is_none() {
                let stored = match log.read(original, &mut ahead) {
                    Err(e) if e.code() == Code::Corrupt => {
                        // Settled and gone since this was planned, or damaged: plan again.
                        todo.clear();
                        whole = false;
                        break;
                    }
                    read => read?,
                };
                let Some(draft) = MovedDraft::new(&stored) else {
                    return Err(too_long(original));
                };
                let len = draft.len() as u64;
                if bytes > 0 && (bytes + len > piece || drafts.len() == RECORDS) {
                    break;
                }
                bytes += len;
                drafts.push(draft);
            }
            todo.pop_front();
        }
        if drafts.is_empty() {
            break;
        }
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let need = Need::new(len, 0, Purpose::Move).with_links(drafts.len() as u64);
        log.transact_holding(Some(held), need, log.ctl.patience(), |tx| {
            for draft in &mut drafts {
                log.append_moved(tx, draft);
            }
            Ok(())
        })?;
        done += bytes;
    }
    Ok(whole)
}

fn too_long(original: u64) -> Error {
    Error::new(
        Code::Internal,
        format!("the record at {original:#x} is too long to be copied forward"),
    )
}
