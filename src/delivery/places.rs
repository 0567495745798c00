//! Places of topics and groups in the tables of shared memory: who has them, and who gets them
//! next.

use super::registry::{groups, topics};
use crate::error::{Code, Error, Result};
use crate::shm::control::{G_GROUPS, G_TOPICS, P_STATE, T_STATE};
use crate::shm::id::{Life, id_in, is_live, next_id, place_of, state_word};
use crate::shm::{Ctl, Tx};

/// The ids of all topics. Read without the lock, one that is made or deleted just now may be among
/// them or not.
pub(crate) fn live_topics(ctl: &Ctl) -> impl Iterator<Item = u32> {
    (0..topics(ctl)).filter_map(|place| live_id(ctl.load(ctl.layout.topic(place, T_STATE))))
}

/// The ids of all groups, as [`live_topics`].
pub(crate) fn live_groups(ctl: &Ctl) -> impl Iterator<Item = u32> {
    (0..groups(ctl)).filter_map(|place| live_id(ctl.load(ctl.layout.group(place, P_STATE))))
}

fn live_id(word: u64) -> Option<u32> {
    is_live(word).then(|| id_in(word))
}

/// The id of the group at this place of the table.
pub(crate) fn group_at(ctl: &Ctl, place: u32) -> u32 {
    id_in(ctl.load(ctl.layout.group(place, P_STATE)))
}

/// The id of a new topic or group: of the first place that is free, whose state `state_of` tells.
/// `None`: there is no place any more.
pub(super) fn new_id(used: u32, most: u32, state_of: impl Fn(u32) -> u64) -> Option<u32> {
    let again = |place| match state_of(place) {
        0 => Some(place),
        word if word & 0xff == Life::Free as u64 => {
            if broken!(IdReused) {
                return Some(id_in(word));
            }
            next_id(id_in(word))
        }
        _ => None,
    };
    let free = (0..used).find_map(again);
    free.or_else(|| (used < most).then_some(used))
}

/// Refuses what is asked of a group that was deleted. Lock E is held.
pub(crate) fn check_group(ctl: &Ctl, id: u32) -> Result<()> {
    if ctl.has_group(id) {
        return Ok(());
    }
    Err(group_deleted())
}

/// The error of whoever still uses a topic that was deleted.
#[cold]
pub(crate) fn topic_deleted() -> Error {
    Error::new(
        Code::NotFound,
        "the topic was deleted, here or in another process; ask the store for it again to make it \
         anew",
    )
}

/// The error of whoever still uses a group that was deleted.
#[cold]
pub(crate) fn group_deleted() -> Error {
    Error::new(
        Code::NotFound,
        "the group was deleted, alone or with its topic, here or in another process; open it again \
         to make it anew",
    )
}

/// As [`check_group`], for whoever does not hold the lock: a deletion that is not finished may
/// still be rolled back, so it is looked at again under the lock.
#[inline]
pub(crate) fn ask_group(ctl: &Ctl, id: u32) -> Result<()> {
    if ctl.has_group(id) {
        return Ok(());
    }
    let _tx = ctl.begin_to_read(ctl.patience())?;
    check_group(ctl, id)
}

/// As [`ask_group`], of a topic.
#[inline]
pub(crate) fn ask_topic(ctl: &Ctl, id: u32) -> Result<()> {
    if ctl.has_topic(id) {
        return Ok(());
    }
    let _tx = ctl.begin_to_read(ctl.patience())?;
    if ctl.has_topic(id) {
        return Ok(());
    }
    Err(topic_deleted())
}

/// Counts a place among those that were ever used.
pub(super) fn use_place(tx: &mut Tx<'_>, count: usize, id: u32) {
    tx.set_global(count, tx.global(count).max(u64::from(place_of(id)) + 1));
}

/// Notes that this id was used, at a place that nobody has now.
pub(crate) fn enter_used(tx: &mut Tx<'_>, group: bool, id: u32) {
    let (at, count) = if group {
        (tx.ctl.layout.group(id, P_STATE), G_GROUPS)
    } else {
        (tx.ctl.layout.topic(id, T_STATE), G_TOPICS)
    };
    tx.set(at, state_word(id, Life::Free));
    use_place(tx, count, id);
}
