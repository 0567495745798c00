//! Handing messages out: first those that are ready again, then new ones at the group's cursor.
//!
//! Invariant 10: every sequence below the cursor is settled or has exactly one slot; none at or
//! above it has one. So claiming a new message is: take a slot, move the cursor past it.

use super::pick::{Labels, Passed, Picking};
use super::slot::{self, Head, Owner, State};
use super::{bury, gone, pick, places, putback, registry, settle};
use crate::commitlog::Log;
use crate::commitlog::index::Candidates;
use crate::error::{Code, Error, Result};
use crate::shm::control::{
    G_LEASES, G_OUTSTANDING, P_CURSOR, P_LEASE_MS, P_LEASED, P_LOST, P_LOST_COUNT, P_MAX_ATTEMPTS,
    P_MAX_OUTSTANDING, P_PARKED, P_PURGED, P_READY, P_SETTLED, P_STATE, P_TAGS, P_TOPIC, P_WAITING,
    S_OWNER, T_FLAGS, T_NEXT, TOPIC_SYNC, W_DURABLE, W_PUBLISHED,
};
use crate::shm::id::{Life, place_of, state_word};
use crate::shm::{Ctl, Tx, member};

/// A message that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) seq: u64,
    pub(crate) lsn: u64,
    /// From 1.
    pub(crate) attempt: u32,
}

/// What a try to claim came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// This many were handed out, perhaps none.
    Messages(usize),
    /// This slot's message has used up its attempts: dead-letter it and try again.
    Exhausted(u32),
    /// What was purged stood before what there is: try again.
    Swept,
    /// Messages were passed over, and none handed out: look further.
    Passed,
    /// A message is to be skipped, but there is no room in the log to say so.
    NoRoom,
}

/// What to claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) group: u32,
    pub(crate) max: usize,
    /// The leases do not end with this process.
    pub(crate) detached: bool,
}

/// Most messages of one transaction: each changes up to 22 words.
pub(super) const MOST: usize = 192;
/// Whether a claim could find something now, as read without the lock: a hint.
pub(crate) fn may_deliver(log: &Log, group: u32, topic: u32) -> bool {
    let ctl = &log.ctl;
    let group_word = |word| ctl.load(ctl.layout.group(group, word));
    if group_word(P_READY) > 0 || group_word(P_LOST_COUNT) > 0 {
        return true;
    }
    // Of one that was deleted the claim tells.
    if !ctl.has_group(group) {
        return true;
    }
    let cursor = group_word(P_CURSOR);
    if cursor >= ctl.load(ctl.layout.topic(topic, T_NEXT)) || room_for_new(ctl, group) == 0 {
        return false;
    }
    let sync = ctl.load(ctl.layout.topic(topic, T_FLAGS)) & TOPIC_SYNC != 0;
    let visible = ctl.load(if sync { W_DURABLE } else { W_PUBLISHED });
    match log.candidates(topic, cursor, 1) {
        Ok(found) => found.first().is_some_and(|(_, lsn)| *lsn < visible),
        // The claim will meet the error and report it.
        Err(_) => true,
    }
}

/// Claims up to `wanted.max` messages. `candidates` are those from the cursor on as looked up
/// without the lock: complete from their first sequence asked for to their last. `labels` belong to
/// them, in a group that is choosy.
pub(crate) fn claim(
    log: &Log,
    wanted: Wanted,
    candidates: &Candidates,
    asked_from: u64,
    labels: Option<&Labels>,
    out: &mut Vec<Claim>,
) -> Result<Claimed> {
    let ctl = &log.ctl;
    let mut tx = match ctl.try_begin() {
        Some(tx) => tx,
        None => ctl.begin(ctl.patience())?,
    };
    if tx.get(ctl.layout.group(wanted.group, P_STATE)) != state_word(wanted.group, Life::Live) {
        return Err(places::group_deleted());
    }
    // Read once, and only now: the wait for the lock must not shorten the leases.
    let now = ctl.host.boottime_ms();
    putback::expire_due(log, &mut tx, now)?;
    if let Some(lost) = report_loss(log, &mut tx, wanted.group)? {
        tx.commit();
        return Err(lost);
    }
    let before = out.len();
    let max = wanted.max.min(MOST);
    if let Some(claimed) = claim_ready(&mut tx, wanted, (max, now), out)? {
        tx.commit();
        return Ok(claimed);
    }
    let room = max - (out.len() - before);
    let mut passed = Passed::None;
    if asked_from > tx.get(ctl.layout.group(wanted.group, P_CURSOR)) {
        // The cursor was set back meanwhile: these candidates would skip messages.
    } else if let Some(labels) = labels {
        let picking = Picking {
            wanted,
            candidates,
            labels,
            room,
            now,
        };
        passed = pick::claim_chosen(log, &mut tx, &picking, out)?;
    } else {
        claim_new(&mut tx, wanted, candidates, (room, now), out)?;
    }
    let handed_out = out.len() - before;
    tx.finish();
    Ok(match passed {
        Passed::Some if handed_out == 0 => Claimed::Passed,
        Passed::NoRoom if handed_out == 0 => Claimed::NoRoom,
        _ => Claimed::Messages(handed_out),
    })
}

/// Hands out what is ready again, at most `max`. `Some`: that is all for this claim.
fn claim_ready(
    tx: &mut Tx<'_>,
    wanted: Wanted,
    (max, now): (usize, u64),
    out: &mut Vec<Claim>,
) -> Result<Option<Claimed>> {
    let before = out.len();
    while out.len() - before < max {
        let Some(slot) = slot::ready_first(tx, wanted.group)? else {
            break;
        };
        let head = slot::head(tx, slot)?;
        let handed_out = out.len() - before;
        let purged = tx.get(tx.ctl.layout.group(wanted.group, P_PURGED));
        if slot::message(tx, slot).0 < purged {
            if handed_out > 0 {
                return Ok(Some(Claimed::Messages(handed_out)));
            }
            // Purged by somebody who has not got round to freeing it.
            gone::free_ready(tx, wanted.group)?;
            return Ok(Some(Claimed::Swept));
        }
        if exhausted(tx, wanted.group, head) {
            if handed_out > 0 {
                break;
            }
            return Ok(Some(Claimed::Exhausted(slot)));
        }
        slot::ready_pop(tx, wanted.group)?;
        out.push(lease(tx, wanted, slot, head, now)?);
    }
    Ok(None)
}

/// Whether this delivery would be one too many.
fn exhausted(tx: &Tx<'_>, group: u32, head: Head) -> bool {
    u64::from(head.attempts) >= tx.get(tx.ctl.layout.group(group, P_MAX_ATTEMPTS))
        && bury::has_dead_letters(tx.ctl, group)
}

/// Hands out new messages, all with the same words where they can have: the slots are chosen first,
/// then written, each once, and then what all have in common.
fn claim_new(
    tx: &mut Tx<'_>,
    wanted: Wanted,
    candidates: &Candidates,
    (mut room, now): (usize, u64),
    out: &mut Vec<Claim>,
) -> Result<()> {
    let layout = tx.ctl.layout;
    let cursor = tx.get(layout.group(wanted.group, P_CURSOR));
    if tx.get(layout.group(wanted.group, P_TAGS)) != 0 {
        // It got a filter meanwhile, and these candidates have no labels.
        return Ok(());
    }
    let topic = topic_of(tx, wanted.group)?;
    let visible = visible_end(tx, topic);
    let most = room_for_new(tx.ctl, wanted.group);
    room = room.min(usize::try_from(most).unwrap_or(usize::MAX));
    let behind = behind_cursor(candidates, cursor);
    let mut leases = tx.global(G_LEASES);
    let before = out.len();
    let mut slots = slot::Choosing::new(tx);
    for &(seq, lsn) in candidates[behind..].iter().take(room) {
        if lsn >= visible {
            break;
        }
        let Some(slot) = slots.next(tx)? else {
            break;
        };
        leases = next_lease(leases);
        out.push(Claim {
            slot,
            generation: crate::shm::lock::low_half(leases),
            seq,
            lsn,
            attempt: 1,
        });
    }
    let claims = &mut out[before..];
    let Some(last) = claims.last().copied() else {
        return Ok(());
    };
    let taken = claims.len() as u64;
    slots.finish(tx, taken);
    write_leases(tx, wanted, claims, now)?;
    if !broken!(GenerationNotBumped) {
        tx.set_global(G_LEASES, leases);
    }
    slot::add(tx, layout.group(wanted.group, P_LEASED), taken);
    tx.set(layout.group(wanted.group, P_CURSOR), last.seq + 1);
    Ok(())
}

/// Writes the slots that were chosen for these claims, and enters them into the wheel.
fn write_leases(tx: &mut Tx<'_>, wanted: Wanted, claims: &mut [Claim], now: u64) -> Result<()> {
    let lease_ms = tx.get(tx.ctl.layout.group(wanted.group, P_LEASE_MS));
    let entering = slot::Entering::new(tx, now.saturating_add(lease_ms));
    let owner = owner_word(tx.ctl, wanted);
    for n in 0..claims.len() {
        let neighbour = |n: Option<usize>| n.and_then(|n| claims.get(n)).map(|c| c.slot);
        let link = entering.link(neighbour(n.checked_sub(1)), neighbour(Some(n + 1)));
        let claim = &mut claims[n];
        let free = slot::head(tx, claim.slot)?;
        if free.state != State::Free {
            return Err(tx.ctl.damaged("a slot in use is among those that are free"));
        }
        if broken!(GenerationNotBumped) {
            claim.generation = free.generation;
        }
        let head = Head {
            generation: claim.generation,
            attempts: 1,
            crashes: 0,
            state: State::Leased,
        }
        .pack();
        let (seq, lsn) = (claim.seq, claim.lsn);
        let words = [head, seq, lsn, entering.due, owner, 0, link];
        slot::set_all(tx, claim.slot, words);
    }
    match claims {
        [] => Ok(()),
        [first, .., last] => entering.finish(tx, (first.slot, last.slot)),
        [only] => entering.finish(tx, (only.slot, only.slot)),
    }
}

/// How many of the candidates, which ascend, lie behind the cursor: of a long list that is used up
/// one by one, most. Where no sequence is missing it is known without a search.
fn behind_cursor(candidates: &Candidates, cursor: u64) -> usize {
    let first = candidates.first().map_or(cursor, |(seq, _)| *seq);
    let guess = usize::try_from(cursor.saturating_sub(first)).unwrap_or(usize::MAX);
    match candidates.get(guess) {
        Some((seq, _)) if *seq == cursor => guess,
        _ => candidates.partition_point(|(seq, _)| *seq < cursor),
    }
}

/// The number of the lease after this one: also the generation of its slot.
fn next_lease(leases: u64) -> u64 {
    u64::from(crate::shm::lock::low_half(leases.wrapping_add(1)))
}

/// Who holds a lease of this claim, as its slot says it.
fn owner_word(ctl: &Ctl, wanted: Wanted) -> u64 {
    let me = ctl.me();
    let member = (!wanted.detached).then(|| (me, member::generation(ctl, me)));
    let group = wanted.group;
    Owner { group, member }.pack()
}

/// Where the messages end that may be delivered now: in a sync topic at the durable watermark.
pub(crate) fn visible_end(tx: &Tx<'_>, topic: u32) -> u64 {
    let sync = tx.get(tx.ctl.layout.topic(topic, T_FLAGS)) & TOPIC_SYNC != 0;
    let word = if sync && !broken!(VisibleBeforeWatermark) {
        W_DURABLE
    } else {
        W_PUBLISHED
    };
    tx.get(word)
}

/// The topic of a group, checked.
pub(crate) fn topic_of(tx: &Tx<'_>, group: u32) -> Result<u32> {
    topic_of_group(tx.ctl, group)
}

/// As [`topic_of`], for whoever need not hold the lock.
pub(crate) fn topic_of_group(ctl: &Ctl, group: u32) -> Result<u32> {
    let topic = ctl.load(ctl.layout.group(group, P_TOPIC));
    u32::try_from(topic)
        .ok()
        .filter(|&topic| place_of(topic) < registry::topics(ctl))
        .ok_or_else(|| ctl.damaged("a group belongs to no topic"))
}

/// Messages that the group has in flight: leased, waiting, ready again and parked.
#[inline]
pub(super) fn held(ctl: &Ctl, group: u32) -> u64 {
    let word = |w| ctl.load(ctl.layout.group(group, w));
    word(P_LEASED) + word(P_READY) + word(P_WAITING) + word(P_PARKED)
}

/// Backpressure: how many new messages the group may take now. At its cap none; above its share
/// only what is left beside the others' shares. Without the lock it is a hint.
///
/// That the shares are there: who takes a slot of his share leaves the rest of all shares; who
/// takes another leaves at least all of them. They are of all groups that there can be, so one that
/// is made later finds its share, too.
#[inline]
pub(super) fn room_for_new(ctl: &Ctl, group: u32) -> u64 {
    let held = held(ctl, group);
    let most = ctl.load(ctl.layout.group(group, P_MAX_OUTSTANDING));
    let free = free_slots(ctl);
    let settled = ctl.load(ctl.layout.group(group, P_SETTLED));
    let share = u64::from(ctl.layout.geometry.share).saturating_sub(held + settled);
    let kept = if broken!(ShareNotKept) {
        0
    } else {
        kept_for_shares(ctl)
    };
    let slots = free.saturating_sub(kept).max(share).min(free);
    most.saturating_sub(held).min(slots)
}

/// Slots that hold nothing.
pub(super) fn free_slots(ctl: &Ctl) -> u64 {
    u64::from(ctl.layout.geometry.slots).saturating_sub(ctl.global(G_OUTSTANDING))
}

/// Slots that nobody takes who has used up his share.
pub(super) fn kept_for_shares(ctl: &Ctl) -> u64 {
    let geometry = &ctl.layout.geometry;
    u64::from(geometry.share) * u64::from(geometry.groups)
}

/// Whether the group had no room for new messages before `settled` of its messages left, and has
/// some now.
pub(super) fn left_its_cap(ctl: &Ctl, group: u32, settled: u64) -> bool {
    let most = ctl.load(ctl.layout.group(group, P_MAX_OUTSTANDING));
    let held = held(ctl, group);
    held < most && held + settled >= most
}

pub(super) fn lease(
    tx: &mut Tx<'_>,
    wanted: Wanted,
    slot: u32,
    head: Head,
    now: u64,
) -> Result<Claim> {
    let layout = tx.ctl.layout;
    let leases = next_lease(tx.global(G_LEASES));
    let generation = crate::shm::lock::low_half(leases);
    if broken!(GenerationNotBumped) {
        slot::set_head(
            tx,
            slot,
            Head {
                generation: head.generation,
                ..head
            },
        );
    } else {
        tx.set_global(G_LEASES, leases);
    }
    let generation = if broken!(GenerationNotBumped) {
        head.generation
    } else {
        generation
    };
    let attempts = head.attempts.saturating_add(1);
    slot::set_head(
        tx,
        slot,
        Head {
            generation,
            attempts,
            crashes: head.crashes,
            state: State::Leased,
        },
    );
    tx.set(layout.slot(slot, S_OWNER), owner_word(tx.ctl, wanted));
    let until = now.saturating_add(tx.get(layout.group(wanted.group, P_LEASE_MS)));
    slot::wheel_insert(tx, slot, until)?;
    slot::count(tx, wanted.group, State::Leased);
    let (seq, lsn) = slot::message(tx, slot);
    Ok(Claim {
        slot,
        generation,
        seq,
        lsn,
        attempt: u32::from(attempts),
    })
}

/// Raises, once, that messages of the group's topic were lost through damage.
fn report_loss(log: &Log, tx: &mut Tx<'_>, group: u32) -> Result<Option<Error>> {
    let layout = log.ctl.layout;
    let (first_at, count_at) = (
        layout.group(group, P_LOST),
        layout.group(group, P_LOST_COUNT),
    );
    let count = tx.get(count_at);
    if count == 0 {
        return Ok(None);
    }
    let first = tx.get(first_at);
    let mut record = settle::told_draft(group, first, count).bytes;
    let need = crate::commitlog::append::Need::new(
        record.len(),
        0,
        crate::commitlog::append::Purpose::Settle,
    );
    if log.reserve(tx, need)?.is_err() {
        // No room to note it just now: the next receive reports it.
        return Ok(None);
    }
    log.append(tx, &mut record, 0);
    tx.set(count_at, 0);
    let topic = topic_of(tx, group)?;
    let name = registry::topic_name(tx.ctl, topic)?;
    Ok(Some(Error::new(
        Code::Corrupt,
        format!(
            "{count} messages of topic {name} were lost through damage of the disk, the first with \
             sequence {first}; they count as settled. Run keepq verify for where. Receiving \
             goes on"
        ),
    )))
}
