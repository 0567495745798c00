//! Which members have which group open: one bit each, part of the summed state.
//!
//! A member's bits go in the transaction that frees its slot, so whoever gets the slot next has
//! none of them; a group's go when its place is given to another one. So a group without any has no
//! consumer, and never had one since.

use super::control::P_STATE;
use super::id::{Life, state_word};
use super::undo::{Ctl, Tx};

/// The word of a group with a member's bit, and that bit.
fn bit(ctl: &Ctl, group: u32, member: u32) -> (usize, u64) {
    (ctl.layout.consumers(group, member / 64), 1 << (member % 64))
}

/// Whether this member has the group open. The group's id, or its place, is in bounds.
pub(crate) fn is_one(ctl: &Ctl, group: u32, member: u32) -> bool {
    let (at, bit) = bit(ctl, group, member);
    ctl.load(at) & bit != 0
}

/// Notes that this member has a group open.
pub(crate) fn enter(tx: &mut Tx<'_>, group: u32, member: u32) {
    let (at, bit) = bit(tx.ctl, group, member);
    let word = tx.get(at);
    tx.set(at, word | bit);
}

/// Notes that this member has a group open no more. Of a group that was deleted nothing is known:
/// its place may be another's.
pub(crate) fn leave(tx: &mut Tx<'_>, group: u32, member: u32) {
    if tx.get(tx.ctl.layout.group(group, P_STATE)) == state_word(group, Life::Live) {
        let (at, bit) = bit(tx.ctl, group, member);
        let word = tx.get(at);
        tx.set(at, word & !bit);
    }
}

/// Nobody has the group at this place open: it was just made.
pub(crate) fn begin(tx: &mut Tx<'_>, group: u32) {
    for word in 0..tx.ctl.layout.consumer_words() {
        tx.set(tx.ctl.layout.consumers(group, word), 0);
    }
}

/// This member ends, and with it whatever it has open.
pub(super) fn end(tx: &mut Tx<'_>, member: u32) {
    if broken!(ConsumersOutliveMembers) {
        return;
    }
    for place in 0..tx.ctl.layout.geometry.groups {
        let (at, bit) = bit(tx.ctl, place, member);
        let word = tx.get(at);
        tx.set(at, word & !bit);
    }
}

/// How many members have the group open.
pub(crate) fn count(ctl: &Ctl, group: u32) -> u64 {
    let words = 0..ctl.layout.consumer_words();
    let members = words.map(|word| ctl.load(ctl.layout.consumers(group, word)).count_ones());
    members.map(u64::from).sum()
}
