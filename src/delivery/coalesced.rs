//! Acks on a disk that is full beyond the reserve: they count, and the log does not know them yet.
//!
//! Such an ack stays in its message's slot: state SETTLED, in no list, with the LSN at which the
//! log ended then in place of a due time. No consumer gets the message again, and the death of
//! every process changes nothing of it. A power cut does: then the message is outstanding as
//! before. So its slot keeps what that needs of the log, as if it were outstanding, until the ack
//! is written down: by an ACK record as soon as there is room for one, or by both snapshots that
//! recovery can start from, once they began after the ack and are durable. [`note`] finds out, and
//! frees the slot.

use std::collections::BTreeMap;

use super::slot::{self, Head, Owner, State};
use super::{claim, gone, kept, order, producers, registry, settle};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose, RESERVE_SLACK};
use crate::error::{Code, Error, Result};
use crate::format::payload::Ack;
use crate::format::record::{Draft, Kind, padded};
use crate::shm::control::{
    G_OUTSTANDING, G_SETTLED, G_SLOT_TOP, G_SNAP_BEFORE, G_SNAP_END, G_TAG_TOP, G_TAIL, P_SETTLED,
    S_DUE, S_HEAD, S_KEY, S_OWNER, W_DURABLE, W_PUBLISHED, W_UNNOTED,
};
use crate::shm::{Ctl, Tx};

/// Most slots that are freed in one transaction.
const STEP: usize = 64;

/// Keeps a slot, which is in no list, as that of a settled message. What was parked behind it goes
/// on.
pub(super) fn keep(tx: &mut Tx<'_>, slot: u32, group: u32, was: Head) -> Result<()> {
    if broken!(CoalescedNotKept) {
        return order::settled(tx, slot, was);
    }
    tx.ctl.set_unnoted(true);
    order::leave(tx, slot)?;
    let settled = Head {
        state: State::Settled,
        ..was
    };
    slot::set_head(tx, slot, settled);
    let layout = tx.ctl.layout;
    let member = None;
    let tail = tx.global(G_TAIL);
    tx.set(layout.slot(slot, S_OWNER), Owner { group, member }.pack());
    tx.set(layout.slot(slot, S_KEY), 0);
    tx.set(layout.slot(slot, S_DUE), tail);
    slot::add(tx, layout.group(group, P_SETTLED), 1);
    tx.set_global(G_SETTLED, tx.global(G_SETTLED) + 1);
    Ok(())
}

/// Frees a slot that [`keep`] kept. `group` may be its place.
pub(super) fn forget(tx: &mut Tx<'_>, slot: u32, group: u32) -> Result<()> {
    let head = slot::head(tx, slot)?;
    slot::free(tx, slot, head);
    slot::sub(tx, tx.ctl.layout.group(group, P_SETTLED), 1);
    tx.set_global(G_SETTLED, tx.global(G_SETTLED).saturating_sub(1));
    Ok(())
}

/// Frees the slots whose acks are written down, and writes down what the log has room for. In
/// steps, so that nobody waits long for the lock; several may do it at once.
pub(crate) fn note(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    if ctl.global(G_SETTLED) == 0 || ctl.is_frozen() {
        return Ok(());
    }
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    let (mut slot, mut room) = (0, true);
    while slot < top {
        // Found without the lock, checked under it.
        let mut some = Vec::new();
        while slot < top && some.len() < STEP {
            if is_kept(ctl, slot) {
                some.push(slot);
            }
            slot += 1;
        }
        if !some.is_empty() {
            room = note_some(log, &some, room)?;
        }
    }
    kept::settled(ctl);
    Ok(())
}

/// Writes down what the log has room for. Returns how many acks are left, and up to where the log
/// must be durable for all others. Without such acks nobody waits for the lock.
pub(crate) fn note_to_flush(log: &Log) -> Result<(u64, u64)> {
    let ctl = &log.ctl;
    if ctl.load(W_UNNOTED) == 0 || broken!(FlushLeavesAcksOut) {
        return Ok((0, ctl.load(W_PUBLISHED)));
    }
    if let Err(e) = note(log) {
        crate::trace::keeper_failed("noting acks", &e);
    }
    // Under the lock: what is noted meanwhile lies behind, and may be rolled back.
    let tx = ctl.begin(ctl.patience())?;
    let left = tx.global(G_SETTLED);
    if left == 0 {
        ctl.set_unnoted(false);
    }
    Ok((left, tx.get(W_PUBLISHED)))
}

/// The error of a flush that leaves so many acks out.
pub(crate) fn no_room(log: &Log, left: u64) -> Error {
    Error::new(
        Code::Full,
        format!(
            "the disk of {} has no room for {left} acks, which the death of every process does not \
             undo, but a power cut does; everything else is on disk. Free some room",
            log.dir.display("").display()
        ),
    )
    .at_path(log.dir.display(""))
}

fn is_kept(ctl: &Ctl, slot: u32) -> bool {
    Head::unpack(ctl.load(ctl.layout.slot(slot, S_HEAD)))
        .is_some_and(|head| head.state == State::Settled)
}

/// Whether there is room for more, as far as there was any.
fn note_some(log: &Log, some: &[u32], room: bool) -> Result<bool> {
    let ctl = &log.ctl;
    let mut tx = ctl.begin(ctl.patience())?;
    let known = written_down(&tx);
    let mut unknown: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
    let mut room = room;
    for &slot in some.iter().filter(|&&slot| is_kept(ctl, slot)) {
        let group = slot::owner(&tx, slot)?.group;
        let (seq, _) = slot::message(&tx, slot);
        let at = tx.get(ctl.layout.slot(slot, S_DUE));
        if at <= known || gone::is_void(ctl, group, seq) {
            forget(&mut tx, slot, group)?;
        } else {
            unknown.entry(group).or_default().push((seq, slot));
        }
    }
    for (group, mut settled) in unknown {
        settled.sort_unstable();
        let need = Need::new(padded(64 + settled.len() * 12), 0, Purpose::Settle);
        room = room && log.reserve(&mut tx, need)?.is_ok();
        if !room {
            break;
        }
        let seqs: Vec<u64> = settled.iter().map(|&(seq, _)| seq).collect();
        let ack = Ack {
            runs: settle::runs(&seqs),
            reason: crate::format::payload::reason::ACKED,
        };
        let mut draft = Draft::new(Kind::Ack, 0, group, &[], &[&ack.encode()]);
        log.append(&mut tx, &mut draft.bytes, 0);
        for (_, slot) in settled {
            forget(&mut tx, slot, group)?;
        }
    }
    tx.commit();
    Ok(room)
}

/// Acks of when the log ended here or before are in both snapshots that are kept.
fn written_down(tx: &Tx<'_>) -> u64 {
    if tx.global(G_SNAP_END) > tx.get(W_DURABLE) {
        return 0;
    }
    if broken!(CoalescedNotedTooEarly) && tx.global(G_SNAP_END) != 0 {
        return u64::MAX;
    }
    tx.global(G_SNAP_BEFORE)
}

/// Whether so many slots are kept that consumers may soon want for free ones, and there is room to
/// write two snapshots for that alone: as much again is left to those that give room back.
pub(crate) fn crowd(log: &Log) -> bool {
    let ctl = &log.ctl;
    let slots = u64::from(ctl.layout.geometry.slots);
    let settled = ctl.global(G_SETTLED);
    let few = claim::free_slots(ctl) <= claim::kept_for_shares(ctl) + slots / 16;
    let wanted = settled * 4 >= slots || few && settled * 64 >= slots;
    wanted && ctl.global(G_SNAP_END) != 0 && log.room_in_active() > 4 * next_snapshot(ctl)
}

/// The most that the next snapshot can take.
fn next_snapshot(ctl: &Ctl) -> u64 {
    let slots = ctl
        .global(G_OUTSTANDING)
        .saturating_sub(ctl.global(G_SETTLED));
    let tables = [registry::topics(ctl), registry::groups(ctl)].map(u64::from);
    let (tags, producers) = (ctl.global(G_TAG_TOP), u64::from(producers::count(ctl)));
    Log::snapshot_size([slots, tables[0], tables[1], tags, producers]) + RESERVE_SLACK / 8
}
