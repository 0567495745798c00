//! The table of outstanding messages: one slot a message, from its first delivery until it is
//! settled. Everything here runs under lock E.
//!
//! A slot is in exactly one list, by its state: FREE slots in the free list; READY ones in their
//! group's queue; LEASED and WAITING ones in the timer wheel (a hashed wheel, Varghese & Lauck
//! 1987, whose buckets are lists through the slots); PARKED ones behind the message whose order key
//! they have. SETTLED ones, whose acks the log does not know yet, and REMOVED ones, which hold no
//! message, are in none.
//! Indexes read from shared memory are checked before use; one that cannot be means that the memory
//! is damaged.

use crate::error::Result;
use crate::shm::Tx;
use crate::shm::control::{
    G_FREE_SLOT, G_OUTSTANDING, G_SLOT_TOP, G_TICK, P_LEASED, P_PARKED, P_READY, P_READY_HEAD,
    P_READY_TAIL, P_WAITING, S_DUE, S_HEAD, S_LINK, S_LSN, S_OWNER, S_SEQ, TICK_MS,
};
use crate::shm::id::place_of;

/// What a slot holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Free = 0,
    /// Handed out; ends by a settlement, at its deadline or with its owner.
    Leased = 1,
    /// Failed; waits for its back-off to end.
    Waiting = 2,
    /// Can be handed out again.
    Ready = 3,
    /// Waits behind a message with the same order key (see [`super::order`]).
    Parked = 4,
    /// No message: a run of dead letters that were purged (see [`super::removed`]).
    Removed = 5,
    /// Acked, and the log does not know it yet (see [`super::coalesced`]).
    Settled = 6,
}

/// The first word of a slot, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) generation: u32,
    pub(crate) attempts: u16,
    pub(crate) crashes: u8,
    pub(crate) state: State,
}

impl Head {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.generation) << 32
            | u64::from(self.attempts) << 16
            | u64::from(self.crashes) << 8
            | self.state as u64
    }

    pub(crate) fn unpack(word: u64) -> Option<Self> {
        let state = match word & 0xff {
            0 => State::Free,
            1 => State::Leased,
            2 => State::Waiting,
            3 => State::Ready,
            4 => State::Parked,
            5 => State::Removed,
            6 => State::Settled,
            _ => return None,
        };
        Some(Self {
            generation: u32::try_from(word >> 32).ok()?,
            attempts: u16::try_from(word >> 16 & 0xffff).ok()?,
            crashes: u8::try_from(word >> 8 & 0xff).ok()?,
            state,
        })
    }
}

/// Who holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The group; of a word taken apart only its place in the table.
    pub(crate) group: u32,
    /// `None`: detached, the lease outlives its process.
    pub(crate) member: Option<(u32, u32)>,
}

impl Owner {
    pub(crate) fn pack(self) -> u64 {
        let (slot, generation) = self.member.map_or((0, 0), |(slot, of)| (slot + 1, of));
        u64::from(generation) << 32
            | u64::from(slot & 0xffff) << 16
            | u64::from(place_of(self.group))
    }

    pub(crate) fn unpack(word: u64) -> Self {
        let low = crate::shm::lock::low_half;
        let slot = low(word >> 16) & 0xffff;
        Self {
            group: low(word) & 0xffff,
            member: (slot != 0).then(|| (slot - 1, low(word >> 32))),
        }
    }
}

/// The head of a slot, whose index is checked.
pub(crate) fn head(tx: &Tx<'_>, slot: u32) -> Result<Head> {
    if slot >= tx.ctl.layout.geometry.slots {
        return Err(tx.ctl.damaged("a slot number is impossible"));
    }
    Head::unpack(tx.get(tx.ctl.layout.slot(slot, S_HEAD)))
        .ok_or_else(|| tx.ctl.damaged("the state of a slot is impossible"))
}

pub(crate) fn set_head(tx: &mut Tx<'_>, slot: u32, head: Head) {
    let at = tx.ctl.layout.slot(slot, S_HEAD);
    tx.set(at, head.pack());
}

/// Which group a slot belongs to, checked: its id.
pub(crate) fn owner(tx: &Tx<'_>, slot: u32) -> Result<Owner> {
    let owner = Owner::unpack(tx.get(tx.ctl.layout.slot(slot, S_OWNER)));
    if owner.group >= super::registry::groups(tx.ctl) {
        return Err(tx.ctl.damaged("a slot belongs to no group"));
    }
    let group = super::places::group_at(tx.ctl, owner.group);
    Ok(Owner { group, ..owner })
}

/// The slot a link names (+ 1; 0 = none), checked.
fn linked(tx: &Tx<'_>, link: u64) -> Result<Option<u32>> {
    match u32::try_from(link) {
        Ok(0) => Ok(None),
        Ok(n) if n <= tx.ctl.layout.geometry.slots => Ok(Some(n - 1)),
        _ => Err(tx.ctl.damaged("a list of slots leads nowhere")),
    }
}

const fn link_of(slot: u32) -> u64 {
    slot as u64 + 1
}

/// Takes a free slot.
pub(crate) fn allocate(tx: &mut Tx<'_>) -> Result<Option<u32>> {
    let layout = tx.ctl.layout;
    let slot = match linked(tx, tx.global(G_FREE_SLOT))? {
        Some(slot) => {
            let next = tx.get(layout.slot(slot, S_LINK)) >> 32;
            tx.set_global(G_FREE_SLOT, next);
            slot
        }
        None => {
            let top = tx.global(G_SLOT_TOP);
            if top >= u64::from(layout.geometry.slots) {
                return Ok(None);
            }
            tx.set_global(G_SLOT_TOP, top + 1);
            crate::shm::lock::low_half(top)
        }
    };
    tx.set_global(G_OUTSTANDING, tx.global(G_OUTSTANDING) + 1);
    Ok(Some(slot))
}

/// Gives a slot back that is in no list. Its generation moves on, so no receipt fits any more.
pub(crate) fn free(tx: &mut Tx<'_>, slot: u32, was: Head) {
    let layout = tx.ctl.layout;
    let generation = if broken!(GenerationNotBumped) {
        was.generation
    } else {
        was.generation.wrapping_add(1)
    };
    set_head(
        tx,
        slot,
        Head {
            generation,
            attempts: 0,
            crashes: 0,
            state: State::Free,
        },
    );
    let next = tx.global(G_FREE_SLOT);
    tx.set(layout.slot(slot, S_LINK), next << 32);
    tx.set_global(G_FREE_SLOT, link_of(slot));
    tx.set_global(G_OUTSTANDING, tx.global(G_OUTSTANDING).saturating_sub(1));
}

/// The bucket of a time: the first tick that begins at or after it.
const fn tick_of(due: u64) -> u64 {
    due / TICK_MS + 1
}

/// Enters a slot into the wheel, due at BOOTTIME ms `due`.
pub(crate) fn wheel_insert(tx: &mut Tx<'_>, slot: u32, due: u64) -> Result<()> {
    let layout = tx.ctl.layout;
    // A bucket that was passed already would be looked at only after a whole turn of the wheel.
    let due = due.max(tx.global(G_TICK).saturating_mul(TICK_MS));
    tx.set(layout.slot(slot, S_DUE), due);
    let bucket = layout.bucket(tick_of(due));
    let first = tx.get(bucket);
    if let Some(next) = linked(tx, first)? {
        let at = layout.slot(next, S_LINK);
        let link = tx.get(at);
        tx.set(at, link & !0xffff_ffff | link_of(slot));
    }
    tx.set(layout.slot(slot, S_LINK), first << 32);
    tx.set(bucket, link_of(slot));
    Ok(())
}

/// Takes a slot out of the wheel.
pub(crate) fn wheel_remove(tx: &mut Tx<'_>, slot: u32) -> Result<()> {
    let layout = tx.ctl.layout;
    let link = tx.get(layout.slot(slot, S_LINK));
    let next = linked(tx, link >> 32)?;
    let previous = linked(tx, link & 0xffff_ffff)?;
    match previous {
        Some(previous) => {
            let at = layout.slot(previous, S_LINK);
            let word = tx.get(at);
            tx.set(at, word & 0xffff_ffff | link >> 32 << 32);
        }
        None => {
            let due = tx.get(layout.slot(slot, S_DUE));
            tx.set(layout.bucket(tick_of(due)), link >> 32);
        }
    }
    if let Some(next) = next {
        let at = layout.slot(next, S_LINK);
        let word = tx.get(at);
        tx.set(at, word & !0xffff_ffff | link & 0xffff_ffff);
    }
    Ok(())
}

/// The first slot of a bucket.
pub(crate) fn bucket_first(tx: &Tx<'_>, tick: u64) -> Result<Option<u32>> {
    linked(tx, tx.get(tx.ctl.layout.bucket(tick)))
}

/// The slot after this one in its list.
pub(crate) fn next_in_list(tx: &Tx<'_>, slot: u32) -> Result<Option<u32>> {
    linked(tx, tx.get(tx.ctl.layout.slot(slot, S_LINK)) >> 32)
}

/// Appends a slot to its group's READY queue.
pub(crate) fn ready_push(tx: &mut Tx<'_>, group: u32, slot: u32) -> Result<()> {
    let layout = tx.ctl.layout;
    let (head_at, tail_at) = (
        layout.group(group, P_READY_HEAD),
        layout.group(group, P_READY_TAIL),
    );
    tx.set(layout.slot(slot, S_LINK), 0);
    match linked(tx, tx.get(tail_at))? {
        Some(last) => tx.set(layout.slot(last, S_LINK), link_of(slot) << 32),
        None => tx.set(head_at, link_of(slot)),
    }
    tx.set(tail_at, link_of(slot));
    add(tx, layout.group(group, P_READY), 1);
    Ok(())
}

/// The first of a group's READY queue.
pub(crate) fn ready_first(tx: &Tx<'_>, group: u32) -> Result<Option<u32>> {
    linked(tx, tx.get(tx.ctl.layout.group(group, P_READY_HEAD)))
}

/// Takes the first of a group's READY queue.
pub(crate) fn ready_pop(tx: &mut Tx<'_>, group: u32) -> Result<Option<u32>> {
    let layout = tx.ctl.layout;
    let Some(slot) = ready_first(tx, group)? else {
        return Ok(None);
    };
    let next = tx.get(layout.slot(slot, S_LINK)) >> 32;
    tx.set(layout.group(group, P_READY_HEAD), next);
    if next == 0 {
        tx.set(layout.group(group, P_READY_TAIL), 0);
    }
    sub(tx, layout.group(group, P_READY), 1);
    Ok(Some(slot))
}

/// Counts one more message of the group in this state (READY is counted by its queue).
pub(crate) fn count(tx: &mut Tx<'_>, group: u32, state: State) {
    if let Some(word) = counter(state) {
        add(tx, tx.ctl.layout.group(group, word), 1);
    }
}

/// Counts one less.
pub(crate) fn uncount(tx: &mut Tx<'_>, group: u32, state: State) {
    if let Some(word) = counter(state) {
        sub(tx, tx.ctl.layout.group(group, word), 1);
    }
}

const fn counter(state: State) -> Option<usize> {
    match state {
        State::Leased => Some(P_LEASED),
        State::Waiting => Some(P_WAITING),
        State::Parked => Some(P_PARKED),
        _ => None,
    }
}

pub(crate) fn add(tx: &mut Tx<'_>, at: usize, n: u64) {
    let value = tx.get(at).wrapping_add(n);
    tx.set(at, value);
}

pub(crate) fn sub(tx: &mut Tx<'_>, at: usize, n: u64) {
    let value = tx.get(at).saturating_sub(n);
    tx.set(at, value);
}

/// The message of a slot: sequence and LSN.
pub(crate) fn message(tx: &Tx<'_>, slot: u32) -> (u64, u64) {
    let layout = &tx.ctl.layout;
    (
        tx.get(layout.slot(slot, S_SEQ)),
        tx.get(layout.slot(slot, S_LSN)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_owners_survive_packing() {
        let head = Head {
            generation: u32::MAX,
            attempts: 513,
            crashes: 255,
            state: State::Parked,
        };
        assert_eq!(Head::unpack(head.pack()), Some(head));
        assert_eq!(Head::unpack(7), None);
        for member in [None, Some((0, 7)), Some((1023, u32::MAX))] {
            let owner = Owner {
                group: 1023,
                member,
            };
            assert_eq!(Owner::unpack(owner.pack()), owner);
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        for due in [0, 1, 15, 16, 17, 31, 32, 1_000_003] {
            assert!(tick_of(due) * TICK_MS >= due);
            assert!(tick_of(due) * TICK_MS <= due + TICK_MS);
        }
    }
}
