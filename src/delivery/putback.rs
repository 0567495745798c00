//! Leases that end without a settlement, and messages that wait for another attempt.
//!
//! A message that comes back is READY at once or WAITING in the timer wheel for its back-off. The
//! RETRY record only counts its attempts for the time after everybody died, so it is written where
//! there is room and left out where there is none: nothing here waits.

use super::bury::has_dead_letters;
use super::gone;
use super::settle::Return;
use super::slot::{self, Head, Owner, State};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::Result;
use crate::format::payload::{GroupConfig, Retry};
use crate::format::record::{Draft, Kind, padded};
use crate::options::Backoff;
use crate::shm::control::{
    G_TICK, P_BACKOFF_FIRST, P_BACKOFF_MAX, P_BACKOFF_SHAPE, P_FLAGS, P_MAX_ATTEMPTS, S_DUE,
    S_OWNER, TICK_MS, WHEEL,
};
use crate::shm::{Tx, wake};

/// Most expired leases and back-offs handled in one transaction.
const EXPIRE_MOST: u32 = 64;

/// Padded length of a RETRY record.
pub(super) const RETRY_LEN: usize = padded(40 + 32);

/// Puts a message whose lease has ended into READY or WAITING and notes the attempt in the log.
/// Returns whether it has no attempt left (it is READY then, and will be buried).
pub(super) fn put_back(
    log: &Log,
    tx: &mut Tx<'_>,
    slot: u32,
    group: u32,
    head: Head,
    back: Return,
) -> Result<bool> {
    let attempts = u32::from(head.attempts);
    let most = tx.get(tx.ctl.layout.group(group, P_MAX_ATTEMPTS));
    let exhausted = u64::from(attempts) >= most && has_dead_letters(tx.ctl, group);
    let wait = match back {
        _ if exhausted => 0,
        Return::After(ms) => ms,
        Return::Backoff => backoff(tx, group, attempts, slot),
    };
    note_retry(log, tx, slot, group, head, wait);
    if wait == 0 {
        let state = State::Ready;
        slot::set_head(tx, slot, Head { state, ..head });
        slot::ready_push(tx, group, slot)?;
    } else {
        let due = tx.ctl.host.boottime_ms().saturating_add(wait);
        wait_until(tx, slot, group, head, due)?;
    }
    Ok(exhausted)
}

/// Makes the message of a slot, which is in no list, wait until `due` (BOOTTIME ms).
pub(super) fn wait_until(
    tx: &mut Tx<'_>,
    slot: u32,
    group: u32,
    head: Head,
    due: u64,
) -> Result<()> {
    let state = State::Waiting;
    slot::set_head(tx, slot, Head { state, ..head });
    slot::wheel_insert(tx, slot, due)?;
    slot::count(tx, group, State::Waiting);
    Ok(())
}

/// Notes attempts in the log if there is room: they only matter after the death of everybody.
fn note_retry(log: &Log, tx: &mut Tx<'_>, slot: u32, group: u32, head: Head, wait: u64) {
    let (seq, lsn) = slot::message(tx, slot);
    let due = if wait == 0 {
        0
    } else {
        tx.ctl.host.realtime_ms().saturating_add(wait)
    };
    let retry = Retry {
        seq,
        lsn,
        attempts: u32::from(head.attempts),
        crashes: u32::from(head.crashes),
        due_ms: due,
    };
    let mut draft = Draft::new(Kind::Retry, 0, group, &[], &[&retry.encode()]);
    let need = Need::new(draft.bytes.len(), 0, Purpose::Settle);
    if matches!(log.reserve(tx, need), Ok(Ok(()))) {
        log.append(tx, &mut draft.bytes, 0);
    }
}

/// The wait after the attempt with this number: `first * factor^(attempts - 1)`, at most `max`,
/// changed by at most the jitter's share; or RocketMQ's.
fn backoff(tx: &Tx<'_>, group: u32, attempts: u32, slot: u32) -> u64 {
    let word = |w| tx.get(tx.ctl.layout.group(group, w));
    if word(P_FLAGS) & u64::from(GroupConfig::ROCKETMQ) != 0 {
        return rocketmq(attempts);
    }
    let (first, max, shape) = (
        word(P_BACKOFF_FIRST),
        word(P_BACKOFF_MAX),
        word(P_BACKOFF_SHAPE),
    );
    let factor = shape >> 32;
    let jitter = (shape & 0xffff_ffff).min(1000);
    let mut wait = first.min(max);
    for _ in 1..attempts.min(64) {
        wait = wait.saturating_mul(factor.max(1000)) / 1000;
        if wait >= max {
            wait = max;
            break;
        }
    }
    // Spread, not secret: any number that differs from message to message will do.
    let spread = (u64::from(slot) ^ tx.ctl.host.realtime_ms() ^ u64::from(attempts) << 40)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 44;
    let swing = wait.saturating_mul(jitter) / 1000;
    let offset = if swing == 0 {
        0
    } else {
        spread % (2 * swing + 1)
    };
    (wait - swing)
        .saturating_add(offset)
        .max(u64::from(first > 0))
}

/// RocketMQ's wait after the attempt with this number: exact, and the last again and again.
fn rocketmq(attempts: u32) -> u64 {
    let waits = Backoff::ROCKETMQ;
    let level = (attempts.max(1) as usize - 1).min(waits.len() - 1);
    u64::try_from(waits[level].as_millis()).unwrap_or(u64::MAX)
}

/// Ends what is due: leases that expired, back-offs that are over. At most a bounded number.
pub(crate) fn expire_due(log: &Log, tx: &mut Tx<'_>, now: u64) -> Result<u32> {
    let to = now / TICK_MS;
    let at = tx.global(G_TICK);
    if to <= at {
        return Ok(0);
    }
    // After a long pause every bucket is looked at once.
    let mut tick = at.max(to.saturating_sub(WHEEL as u64));
    let mut done = 0;
    while tick < to {
        let mut next = slot::bucket_first(tx, tick + 1)?;
        let mut steps = 0;
        while let Some(slot) = next {
            next = slot::next_in_list(tx, slot)?;
            steps += 1;
            if steps > tx.ctl.layout.geometry.slots {
                return Err(tx.ctl.damaged("a timer list has no end"));
            }
            if tx.get(tx.ctl.layout.slot(slot, S_DUE)) <= now {
                expire_one(log, tx, slot)?;
                done += 1;
                if done >= EXPIRE_MOST {
                    tx.set_global(G_TICK, tick);
                    return Ok(done);
                }
            }
        }
        tick += 1;
    }
    tx.set_global(G_TICK, to);
    Ok(done)
}

fn expire_one(log: &Log, tx: &mut Tx<'_>, slot: u32) -> Result<()> {
    let head = slot::head(tx, slot)?;
    let group = slot::owner(tx, slot)?.group;
    slot::wheel_remove(tx, slot)?;
    if gone::is_void(tx.ctl, group, slot::message(tx, slot).0) {
        slot::uncount(tx, group, head.state);
        return gone::free(tx, slot);
    }
    match head.state {
        State::Leased => {
            slot::uncount(tx, group, State::Leased);
            put_back(log, tx, slot, group, head, Return::Backoff)?;
        }
        State::Waiting => {
            slot::uncount(tx, group, State::Waiting);
            slot::set_head(
                tx,
                slot,
                Head {
                    state: State::Ready,
                    ..head
                },
            );
            slot::ready_push(tx, group, slot)?;
        }
        _ => return Err(tx.ctl.damaged("a timer runs for a message that has none")),
    }
    Ok(())
}

/// Ends the leases of one generation of a member, and closes its producers: it died (`crashed`) or
/// closes.
pub(crate) fn release_member(log: &Log, member: (u32, u32), crashed: bool) -> Result<()> {
    super::producers::release_member(log, member)?;
    let ctl = &log.ctl;
    let top = crate::shm::lock::low_half(ctl.global(crate::shm::control::G_SLOT_TOP))
        .min(ctl.layout.geometry.slots);
    let mut slot = 0;
    while slot < top {
        // Found without the lock, checked under it.
        let mut some = Vec::new();
        while slot < top && some.len() < 64 {
            let owner = Owner::unpack(ctl.load(ctl.layout.slot(slot, S_OWNER)));
            if owner.member == Some(member) {
                some.push(slot);
            }
            slot += 1;
        }
        if some.is_empty() {
            continue;
        }
        let mut tx = ctl.begin(ctl.patience())?;
        let mut groups = std::collections::BTreeSet::new();
        for slot in some {
            if let Some(group) = release_one(log, &mut tx, slot, member, crashed)? {
                groups.insert(group);
            }
        }
        tx.commit();
        for group in groups {
            wake_if_ready(log, group);
        }
    }
    Ok(())
}

fn release_one(
    log: &Log,
    tx: &mut Tx<'_>,
    slot: u32,
    member: (u32, u32),
    crashed: bool,
) -> Result<Option<u32>> {
    let head = slot::head(tx, slot)?;
    if head.state != State::Leased
        || Owner::unpack(tx.get(tx.ctl.layout.slot(slot, S_OWNER))).member != Some(member)
    {
        return Ok(None);
    }
    let group = slot::owner(tx, slot)?.group;
    slot::wheel_remove(tx, slot)?;
    slot::uncount(tx, group, State::Leased);
    if gone::is_void(tx.ctl, group, slot::message(tx, slot).0) {
        gone::free(tx, slot)?;
        return Ok(None);
    }
    let crashes = head.crashes.saturating_add(u8::from(crashed));
    // The first crash may be the process's fault; from the second on, the message waits.
    let back = if crashed && crashes >= 2 {
        Return::Backoff
    } else {
        Return::After(0)
    };
    put_back(log, tx, slot, group, Head { crashes, ..head }, back)?;
    Ok(Some(group))
}

/// Wakes a consumer if the group has something ready.
pub(crate) fn wake_if_ready(log: &Log, group: u32) {
    let ctl = &log.ctl;
    if ctl.load(ctl.layout.group(group, crate::shm::control::P_READY)) > 0 {
        ctl.arena.fence();
        wake::wake_group(ctl, group);
    }
}
