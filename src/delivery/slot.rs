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

/// Changes all words of a slot that is in no list, but for the chain of its order key: from
/// [`S_HEAD`] to [`S_LINK`].
#[inline]
pub(crate) fn set_all(tx: &mut Tx<'_>, slot: u32, words: [u64; 7]) {
    const { assert!(S_HEAD == 0 && S_LINK == 6 * 8) };
    let at = tx.ctl.layout.slot(slot, S_HEAD);
    tx.set_words(at, words);
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

/// The head of a slot that is given back.
fn freed(was: Head) -> Head {
    let generation = if broken!(GenerationNotBumped) {
        was.generation
    } else {
        was.generation.wrapping_add(1)
    };
    Head {
        generation,
        attempts: 0,
        crashes: 0,
        state: State::Free,
    }
}

/// Gives a slot back that is in no list. Its generation moves on, so no receipt fits any more.
pub(crate) fn free(tx: &mut Tx<'_>, slot: u32, was: Head) {
    let layout = tx.ctl.layout;
    set_head(tx, slot, freed(was));
    let next = tx.global(G_FREE_SLOT);
    tx.set(layout.slot(slot, S_LINK), next << 32);
    tx.set_global(G_FREE_SLOT, link_of(slot));
    tx.set_global(G_OUTSTANDING, tx.global(G_OUTSTANDING).saturating_sub(1));
}

/// Free slots that are chosen, many at a time, before any of them is taken.
pub(crate) struct Choosing {
    free: u64,
    top: u64,
}

impl Choosing {
    pub(crate) fn new(tx: &Tx<'_>) -> Self {
        Self {
            free: tx.global(G_FREE_SLOT),
            top: tx.global(G_SLOT_TOP),
        }
    }

    /// The next free slot.
    pub(crate) fn next(&mut self, tx: &Tx<'_>) -> Result<Option<u32>> {
        let layout = &tx.ctl.layout;
        if let Some(slot) = linked(tx, self.free)? {
            self.free = tx.get(layout.slot(slot, S_LINK)) >> 32;
            return Ok(Some(slot));
        }
        if self.top >= u64::from(layout.geometry.slots) {
            return Ok(None);
        }
        self.top += 1;
        Ok(Some(crate::shm::lock::low_half(self.top - 1)))
    }

    /// Takes what was chosen, so many slots.
    pub(crate) fn finish(self, tx: &mut Tx<'_>, taken: u64) {
        tx.set_global(G_FREE_SLOT, self.free);
        tx.set_global(G_SLOT_TOP, self.top);
        tx.set_global(G_OUTSTANDING, tx.global(G_OUTSTANDING) + taken);
    }
}

/// Several slots on their way into the wheel, all due at the same time.
pub(crate) struct Entering {
    pub(crate) due: u64,
    bucket: usize,
    /// What stood first in the bucket.
    first: u64,
}

impl Entering {
    pub(crate) fn new(tx: &Tx<'_>, due: u64) -> Self {
        let due = due_in_wheel(tx, due);
        let bucket = tx.ctl.layout.bucket(tick_of(due));
        let first = tx.get(bucket);
        Self { due, bucket, first }
    }

    /// The link of a slot that goes in after `before` (none: it is the first) and before `after`.
    pub(crate) fn link(&self, before: Option<u32>, after: Option<u32>) -> u64 {
        let next = before.map_or(self.first, link_of);
        next << 32 | after.map_or(0, link_of)
    }

    /// Makes the bucket lead to those between the first and the last that went in.
    pub(crate) fn finish(self, tx: &mut Tx<'_>, went_in: (u32, u32)) -> Result<()> {
        let (first, last) = went_in;
        if let Some(next) = linked(tx, self.first)? {
            let at = tx.ctl.layout.slot(next, S_LINK);
            tx.set(at, tx.get(at) & !0xffff_ffff | link_of(first));
        }
        tx.set(self.bucket, link_of(last));
        Ok(())
    }
}

/// Takes slots out of the wheel and frees them, many in one transaction: what they have in common
/// is changed once, by [`Freeing::finish`], and so are the neighbours of those that stand together.
pub(crate) struct Freeing {
    free: u64,
    count: u64,
    gap: Option<Gap>,
}

/// Where slots are taken out of a bucket: what stands before and behind them, as links.
struct Gap {
    bucket: usize,
    previous: u64,
    next: u64,
}

impl Freeing {
    pub(crate) fn new(tx: &Tx<'_>) -> Self {
        Self {
            free: tx.global(G_FREE_SLOT),
            count: 0,
            gap: None,
        }
    }

    /// Takes a leased slot out of the wheel and frees it.
    pub(crate) fn free(&mut self, tx: &mut Tx<'_>, slot: u32, was: Head) -> Result<()> {
        let layout = tx.ctl.layout;
        let link_at = layout.slot(slot, S_LINK);
        let link = tx.get(link_at);
        let (previous, next) = (link & 0xffff_ffff, link >> 32);
        match &mut self.gap {
            Some(gap) if gap.previous == link_of(slot) => gap.previous = previous,
            Some(gap) if gap.next == link_of(slot) => gap.next = next,
            _ => {
                self.close_gap(tx)?;
                let due = tx.get(layout.slot(slot, S_DUE));
                self.gap = Some(Gap {
                    bucket: layout.bucket(tick_of(due)),
                    previous,
                    next,
                });
            }
        }
        set_head(tx, slot, freed(was));
        tx.set(link_at, self.free << 32);
        self.free = link_of(slot);
        self.count += 1;
        Ok(())
    }

    fn close_gap(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let Some(gap) = self.gap.take() else {
            return Ok(());
        };
        let layout = tx.ctl.layout;
        match linked(tx, gap.previous)? {
            Some(previous) => {
                let at = layout.slot(previous, S_LINK);
                tx.set(at, tx.get(at) & 0xffff_ffff | gap.next << 32);
            }
            None => tx.set(gap.bucket, gap.next),
        }
        if let Some(next) = linked(tx, gap.next)? {
            let at = layout.slot(next, S_LINK);
            tx.set(at, tx.get(at) & !0xffff_ffff | gap.previous);
        }
        Ok(())
    }

    /// Makes it all good; the slots were leased to this group.
    pub(crate) fn finish(mut self, tx: &mut Tx<'_>, group: u32) -> Result<()> {
        self.close_gap(tx)?;
        tx.set_global(G_FREE_SLOT, self.free);
        let left = tx.global(G_OUTSTANDING).saturating_sub(self.count);
        tx.set_global(G_OUTSTANDING, left);
        sub(tx, tx.ctl.layout.group(group, P_LEASED), self.count);
        Ok(())
    }
}

/// The bucket of a time: the first tick that begins at or after it.
const fn tick_of(due: u64) -> u64 {
    due / TICK_MS + 1
}

/// A bucket that was passed already would be looked at only after a whole turn of the wheel.
fn due_in_wheel(tx: &Tx<'_>, due: u64) -> u64 {
    due.max(tx.global(G_TICK).saturating_mul(TICK_MS))
}

/// Enters a slot into the wheel, due at BOOTTIME ms `due`.
pub(crate) fn wheel_insert(tx: &mut Tx<'_>, slot: u32, due: u64) -> Result<()> {
    let layout = tx.ctl.layout;
    let due = due_in_wheel(tx, due);
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
