//! One message in flight for each order key of an ordered group; the others with that key wait
//! behind it.
//!
//! Of the messages below the cursor that have the same key, the oldest is the *head*: leased,
//! waiting or ready, as any message. The others are PARKED: chained behind the head in order of
//! sequence, in no other list, until the head is settled; then the next one is the head, and READY.
//! A head that failed stays the head. Heads are found by group and hash of the key through a table
//! of buckets, lists through one word a slot ([`crate::shm::control::Layout::key`]), so that every
//! step costs the same however many keys there are. Keys with the same 64-bit hash count as one.
//!
//! Everything here runs under lock E.

use super::slot::{self, Head, Owner, State};
use crate::error::Result;
use crate::shm::Tx;
use crate::shm::control::{S_CHAIN, S_HEAD, S_KEY, S_LINK, S_OWNER};
use crate::shm::id::place_of;
use crate::shm::lock::low_half;

/// The bucket of a key in a group.
fn bucket(tx: &Tx<'_>, group: u32, key: u64) -> u32 {
    let mixed = key ^ u64::from(place_of(group)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    low_half(mixed % u64::from(tx.ctl.layout.geometry.slots))
}

/// The slot that a link (+ 1; 0 = none) names, checked.
fn linked(tx: &Tx<'_>, link: u64) -> Result<Option<u32>> {
    match u32::try_from(link & 0xffff_ffff) {
        Ok(0) => Ok(None),
        Ok(n) if n <= tx.ctl.layout.geometry.slots => Ok(Some(n - 1)),
        _ => Err(tx.ctl.damaged("an order key leads nowhere")),
    }
}

const fn link_of(slot: u32) -> u64 {
    slot as u64 + 1
}

/// The head of a key, if a message with it is in flight.
pub(crate) fn head_of(tx: &Tx<'_>, group: u32, key: u64) -> Result<Option<u32>> {
    let layout = &tx.ctl.layout;
    let mut next = linked(tx, tx.get(layout.key(bucket(tx, group, key))))?;
    let mut steps = 0;
    while let Some(slot) = next {
        let word = |w| tx.get(layout.slot(slot, w));
        let of_group = Owner::unpack(word(S_OWNER)).group == place_of(group);
        if word(S_KEY) == key && of_group {
            return Ok(Some(slot));
        }
        steps += 1;
        if steps > layout.geometry.slots {
            return Err(tx.ctl.damaged("a list of order keys has no end"));
        }
        next = linked(tx, tx.get(layout.key(slot)) >> 32)?;
    }
    Ok(None)
}

/// Makes this slot the head of its key, which has none. Its owner is set already.
pub(crate) fn lead(tx: &mut Tx<'_>, group: u32, key: u64, slot: u32) {
    let layout = tx.ctl.layout;
    tx.set(layout.slot(slot, S_KEY), key);
    tx.set(layout.slot(slot, S_CHAIN), 0);
    let first = layout.key(bucket(tx, group, key));
    let next = tx.get(first) & 0xffff_ffff;
    let own = layout.key(slot);
    tx.set(own, tx.get(own) & 0xffff_ffff | next << 32);
    // Read again: the bucket of this number and the slot of this number share a word.
    tx.set(first, tx.get(first) & !0xffff_ffff | link_of(slot));
}

/// Parks a slot that is in no list behind the head of its key, as the last.
pub(crate) fn park(tx: &mut Tx<'_>, head: u32, slot: u32) -> Result<()> {
    let layout = tx.ctl.layout;
    let key = tx.get(layout.slot(head, S_KEY));
    tx.set(layout.slot(slot, S_KEY), key);
    tx.set(layout.slot(slot, S_LINK), 0);
    tx.set(layout.slot(slot, S_CHAIN), 0);
    let chain_at = layout.slot(head, S_CHAIN);
    let chain = tx.get(chain_at);
    let first = match linked(tx, chain)? {
        Some(last) => {
            tx.set(layout.slot(last, S_LINK), link_of(slot) << 32);
            chain >> 32
        }
        None => link_of(slot),
    };
    tx.set(chain_at, first << 32 | link_of(slot));
    let group = slot::owner(tx, slot)?.group;
    slot::count(tx, group, State::Parked);
    Ok(())
}

/// Frees a slot whose message is settled and which is in no list, as [`leave`].
#[inline]
pub(crate) fn settled(tx: &mut Tx<'_>, slot: u32, was: Head) -> Result<()> {
    leave(tx, slot)?;
    slot::free(tx, slot, was);
    Ok(())
}

/// The message of a slot that is in no list is settled: if others were parked behind it, the first
/// of them is READY now.
#[inline]
pub(crate) fn leave(tx: &mut Tx<'_>, slot: u32) -> Result<()> {
    let key = tx.get(tx.ctl.layout.slot(slot, S_KEY));
    if key != 0 {
        give_way(tx, slot, key)?;
    }
    Ok(())
}

#[inline(never)]
fn give_way(tx: &mut Tx<'_>, slot: u32, key: u64) -> Result<()> {
    let layout = tx.ctl.layout;
    let group = slot::owner(tx, slot)?.group;
    let chain = tx.get(layout.slot(slot, S_CHAIN));
    let heir = if broken!(ParkedNotReleased) {
        None
    } else {
        linked(tx, chain >> 32)?
    };
    let after = tx.get(layout.key(slot)) >> 32;
    let replaced = match heir {
        None => after,
        Some(heir) => {
            let own = layout.key(heir);
            tx.set(own, tx.get(own) & 0xffff_ffff | after << 32);
            link_of(heir)
        }
    };
    replace(tx, bucket(tx, group, key), slot, replaced)?;
    let Some(heir) = heir else { return Ok(()) };
    let head = parked(tx, heir, key)?;
    let next = tx.get(layout.slot(heir, S_LINK)) >> 32;
    let last = if next == 0 { 0 } else { chain & 0xffff_ffff };
    tx.set(layout.slot(heir, S_CHAIN), next << 32 | last);
    slot::uncount(tx, group, State::Parked);
    slot::set_head(
        tx,
        heir,
        Head {
            state: State::Ready,
            ..head
        },
    );
    slot::ready_push(tx, group, heir)
}

/// The head word of a slot that is parked behind this key, checked.
fn parked(tx: &Tx<'_>, slot: u32, key: u64) -> Result<Head> {
    let head = slot::head(tx, slot)?;
    if head.state == State::Parked && tx.get(tx.ctl.layout.slot(slot, S_KEY)) == key {
        return Ok(head);
    }
    Err(tx
        .ctl
        .damaged("behind an order key stands what does not wait for it"))
}

/// Frees the first of the messages that are parked behind this one, as long as `gone` says so of
/// their sequence and `most`, which counts down, is not used up. Whether none of them is left.
pub(crate) fn drop_parked(
    tx: &mut Tx<'_>,
    head: u32,
    most: &mut usize,
    gone: impl Fn(u64) -> bool,
) -> Result<bool> {
    let layout = tx.ctl.layout;
    let key = tx.get(layout.slot(head, S_KEY));
    if key == 0 {
        return Ok(true);
    }
    let group = slot::owner(tx, head)?.group;
    let chain_at = layout.slot(head, S_CHAIN);
    loop {
        let chain = tx.get(chain_at);
        let Some(first) = linked(tx, chain >> 32)?.filter(|&s| gone(slot::message(tx, s).0)) else {
            return Ok(true);
        };
        if *most == 0 {
            return Ok(false);
        }
        *most -= 1;
        let was = parked(tx, first, key)?;
        let next = tx.get(layout.slot(first, S_LINK)) >> 32;
        let last = if next == 0 { 0 } else { chain & 0xffff_ffff };
        tx.set(chain_at, next << 32 | last);
        slot::uncount(tx, group, State::Parked);
        slot::free(tx, first, was);
    }
}

/// Where the list of a bucket leads to `slot`, lets it lead to `link` (a slot + 1; 0 = its end).
fn replace(tx: &mut Tx<'_>, bucket: u32, slot: u32, link: u64) -> Result<()> {
    let layout = tx.ctl.layout;
    let first_at = layout.key(bucket);
    let mut next = linked(tx, tx.get(first_at))?;
    if next == Some(slot) {
        tx.set(first_at, tx.get(first_at) & !0xffff_ffff | link);
        return Ok(());
    }
    for _ in 0..layout.geometry.slots {
        let Some(before) = next else { break };
        let at = layout.key(before);
        next = linked(tx, tx.get(at) >> 32)?;
        if next == Some(slot) {
            tx.set(at, tx.get(at) & 0xffff_ffff | link << 32);
            return Ok(());
        }
    }
    Err(tx.ctl.damaged("an order key is in no list"))
}

/// Enters a message that was looked at before, in order of sequence: as the head of its key, or
/// parked (true). Its owner is set; it is in no list, and goes into one if it is the head.
pub(crate) fn enter(tx: &mut Tx<'_>, group: u32, key: u64, slot: u32) -> Result<bool> {
    if let Some(head) = head_of(tx, group, key)? {
        let now = Head::unpack(tx.get(tx.ctl.layout.slot(slot, S_HEAD)))
            .ok_or_else(|| tx.ctl.damaged("the state of a slot is impossible"))?;
        slot::set_head(
            tx,
            slot,
            Head {
                state: State::Parked,
                ..now
            },
        );
        park(tx, head, slot)?;
        return Ok(true);
    }
    lead(tx, group, key, slot);
    Ok(false)
}
