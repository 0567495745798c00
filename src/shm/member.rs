//! The processes that have the store open: joining, leaving, and cleaning up after the dead.
//!
//! A member is one process and library copy. It holds the OFD write lock on byte 16 + slot of
//! LOCK for as long as it lives, and nothing else says whether it lives. Order of a clean-up
//! (invariant 8): take the dead slot's byte, repair F then E, release its leases, free the slot,
//! give the byte back. While the byte is ours nobody can join into the slot, and nobody else can
//! clean it; if we die, the byte is free again and the next one starts over.

use super::consumers;
use super::control::{
    M_GENERATION, M_LEASES, M_PID, M_SINCE, M_STATE, PINS, W_DURABLE, W_INTENT, W_WRITTEN,
};
use super::lock::{self, Which};
use super::undo::{self, Ctl};
use crate::error::{Code, Error, Result};
use crate::sys::Probe;

/// The byte of LOCK that is held while the store is opened or recovered.
pub(crate) const BYTE_OPEN: u64 = 0;
/// The byte of LOCK held by whoever prepares segments, writes sidecars and snapshots, reclaims.
pub(crate) const BYTE_MAINTENANCE: u64 = 1;

/// The byte of LOCK that a member holds while it lives.
pub(crate) const fn byte(slot: u32) -> u64 {
    16 + slot as u64
}

/// The process id a member gave, for messages only.
pub(crate) fn pid(ctl: &Ctl, slot: u32) -> u64 {
    ctl.load(ctl.layout.member(slot, M_PID))
}

/// The generation of a member slot: tells its occupants apart.
pub(crate) fn generation(ctl: &Ctl, slot: u32) -> u32 {
    lock::low_half(ctl.load(ctl.layout.member(slot, M_GENERATION)))
}

/// Whether the slot is in use.
pub(crate) fn in_use(ctl: &Ctl, slot: u32) -> bool {
    ctl.load(ctl.layout.member(slot, M_STATE)) != 0
}

/// Whether any other process has the store open (its byte is held).
pub(crate) fn anybody_alive(host: &dyn crate::sys::Host, members: u32) -> Result<bool> {
    let probed = host.probe_bytes(byte(0), u64::from(members));
    let probed = probed.map_err(|e| Error::io("probe the locks of", "LOCK", &e))?;
    Ok(probed == Probe::Held)
}

/// Takes a member slot. Byte 0 is held, so nobody else joins meanwhile.
pub(crate) fn join(ctl: &Ctl, release: Release<'_>) -> Result<u32> {
    for slot in 0..ctl.layout.geometry.members {
        let taken = ctl
            .host
            .try_lock_byte(byte(slot))
            .map_err(|e| Error::io("lock a byte of", "LOCK", &e))?;
        if !taken {
            continue;
        }
        ctl.set_me(slot);
        // Its last occupant may have died, even in the middle of joining. The byte is ours
        // already: clean up before moving in.
        take_over_locks(ctl, slot, None);
        if in_use(ctl, slot) {
            finish(ctl, slot, release)?;
        }
        let mut tx = ctl.begin(ctl.patience())?;
        let at = |word| ctl.layout.member(slot, word);
        tx.set(at(M_STATE), 1);
        let generation = (tx.get(at(M_GENERATION)) + 1) & 0xffff_ffff;
        tx.set(at(M_GENERATION), generation.max(1));
        tx.set(at(M_PID), u64::from(ctl.host.pid()));
        tx.set(at(M_SINCE), ctl.host.realtime_ms());
        tx.set(at(M_LEASES), 0);
        tx.commit();
        return Ok(slot);
    }
    Err(Error::new(
        Code::LimitExceeded,
        format!(
            "{} processes have the store open, the most it was made for; close some",
            ctl.layout.geometry.members
        ),
    ))
}

/// Gives this process's slot back. Its leases were released before.
pub(crate) fn leave(ctl: &Ctl) -> Result<()> {
    let slot = ctl.me();
    clear_pins(ctl, slot);
    let left = ctl.begin(ctl.patience()).map(|mut tx| {
        consumers::end(&mut tx, slot);
        tx.set(ctl.layout.member(slot, M_STATE), 0);
        tx.commit();
    });
    // Where that failed, the next who looks cleans up after this member as after one that died.
    ctl.host.unlock_byte(byte(slot));
    left
}

/// Releases the leases of one generation of a member: given by the delivery layer above.
pub(crate) type Release<'a> = &'a dyn Fn(u32, u32) -> Result<()>;

/// Looks for dead members and cleans up after them. Returns how many there were.
pub(crate) fn sweep(ctl: &Ctl, release: Release<'_>) -> Result<u32> {
    let mut found = 0;
    for slot in 0..ctl.layout.geometry.members {
        if slot == ctl.me() || !in_use(ctl, slot) {
            continue;
        }
        if !matches!(ctl.host.probe_byte(byte(slot)), Ok(Probe::Free)) {
            continue;
        }
        let Some(_byte) = Taken::take(ctl, slot) else {
            continue;
        };
        // In use and its byte was free: nobody can have moved in since, the byte is ours now.
        if in_use(ctl, slot) {
            take_over_locks(ctl, slot, None);
            finish(ctl, slot, release)?;
            found += 1;
        }
    }
    Ok(found)
}

/// Takes over the locks of a dead member so that waiters can go on; its leases are left to the
/// sweep, because this runs in the middle of somebody's wait for a lock.
pub(super) fn repair(ctl: &Ctl, dead: u32, seen: Option<(Which, u64)>) {
    if broken!(LockStolenOnTimeout) || broken!(OwnSlotProbed) {
        return take_over_locks(ctl, dead, seen);
    }
    if let Some(_byte) = Taken::take(ctl, dead) {
        take_over_locks(ctl, dead, seen);
    }
}

fn take_over_locks(ctl: &Ctl, dead: u32, seen: Option<(Which, u64)>) {
    let word = |which| seen.and_then(|(w, word)| (w == which).then_some(word));
    let flush = lock::take_over(ctl, Which::Flush, dead, word(Which::Flush));
    if lock::take_over(ctl, Which::Engine, dead, word(Which::Engine)) {
        undo::rollback(ctl);
        lock::release(ctl, Which::Engine);
    }
    if flush {
        repair_flush(ctl);
        lock::release(ctl, Which::Flush);
    }
}

/// After the death of a flush leader: whatever it wrote is written again from the ring.
pub(crate) fn repair_flush(ctl: &Ctl) {
    if !broken!(IntentIgnored) {
        ctl.publish(W_WRITTEN, ctl.load(W_DURABLE));
    }
    ctl.publish(W_INTENT, 0);
}

fn finish(ctl: &Ctl, slot: u32, release: Release<'_>) -> Result<()> {
    let generation = generation(ctl, slot);
    if broken!(SlotFreedBeforeRepair) {
        let mut tx = ctl.begin(ctl.patience())?;
        tx.set(ctl.layout.member(slot, M_STATE), 0);
        tx.commit();
        return Ok(());
    }
    release(slot, generation)?;
    clear_pins(ctl, slot);
    let mut tx = ctl.begin(ctl.patience())?;
    consumers::end(&mut tx, slot);
    tx.set(ctl.layout.member(slot, M_STATE), 0);
    tx.commit();
    Ok(())
}

fn clear_pins(ctl: &Ctl, slot: u32) {
    for pin in 0..PINS {
        ctl.publish(ctl.layout.pin(slot, pin), 0);
    }
}

/// The byte of a dead member's slot, held while it is cleaned.
struct Taken<'a> {
    ctl: &'a Ctl,
    slot: u32,
}

impl<'a> Taken<'a> {
    fn take(ctl: &'a Ctl, slot: u32) -> Option<Self> {
        // One at a time in this process (see `Ctl::reaping`).
        if !ctl.reaping.lock().insert(slot) {
            return None;
        }
        if matches!(ctl.host.try_lock_byte(byte(slot)), Ok(true)) {
            Some(Self { ctl, slot })
        } else {
            ctl.reaping.lock().remove(&slot);
            None
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !killed!() {
            self.ctl.host.unlock_byte(byte(self.slot));
            self.ctl.reaping.lock().remove(&self.slot);
        }
    }
}
