//! Waiting for one another, between processes, without polling and without trust.
//!
//! A waiter arms a word, looks again, and sleeps on a futex for at most [`LOOK`]; then it looks
//! again whether anybody woke it or not, because whoever should have woken it may have been killed
//! between its commit and its wake. A waker that finds nobody asleep clears the armed word, so
//! that dead waiters do not cost every later send a system call; waiters arm again before each
//! sleep.

use std::time::Duration;

use super::control::{
    G_GROUPS, W_ARMED_DURABLE, W_FLUSH_EVENT, W_FLUSH_SLEEPERS, W_QUOTA_WAIT, W_ROOM_EVENT,
    W_ROOM_SLEEPERS,
};
use super::lock::low_half;
use super::undo::Ctl;

/// The longest that anybody sleeps without looking.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Sleeps until flush number `flush` ends, at most `timeout`. `event` is the word as read before
/// the condition was checked.
pub(crate) fn sleep_until_flushed(ctl: &Ctl, flush: u64, event: u64, timeout: Duration) {
    let side = usize::from(flush & 1 == 1);
    ctl.arena.fetch_add(W_FLUSH_SLEEPERS[side], 1);
    ctl.arena.fence();
    ctl.host.wait(
        &ctl.arena,
        W_FLUSH_EVENT[side],
        low_half(event),
        timeout.min(LOOK),
    );
}

/// The event word of a flush number.
pub(crate) fn flush_event(ctl: &Ctl, flush: u64) -> u64 {
    ctl.load(W_FLUSH_EVENT[usize::from(flush & 1 == 1)])
}

/// Flush number `flush` ended: wakes all that waited for it, and one of those that wait for the
/// next, to lead it.
pub(crate) fn flush_ended(ctl: &Ctl, flush: u64) {
    if broken!(WakeLost) {
        return;
    }
    for (number, count) in [(flush, u32::MAX), (flush + 1, 1)] {
        let side = usize::from(number & 1 == 1);
        ctl.arena.fetch_add(W_FLUSH_EVENT[side], 1);
        ctl.arena.fence();
        if ctl.load(W_FLUSH_SLEEPERS[side]) == 0 {
            continue;
        }
        let woken = ctl.host.wake(&ctl.arena, W_FLUSH_EVENT[side], count);
        if count == u32::MAX || woken == 0 {
            ctl.arena.store(W_FLUSH_SLEEPERS[side], 0);
        }
    }
}

/// Sleeps until there may be room in the ring or a prepared segment.
pub(crate) fn sleep_until_room(ctl: &Ctl, event: u64, timeout: Duration) {
    ctl.arena.store(W_ROOM_SLEEPERS, 1);
    ctl.arena.fence();
    ctl.host
        .wait(&ctl.arena, W_ROOM_EVENT, low_half(event), timeout.min(LOOK));
}

/// The event word of [`sleep_until_room`].
pub(crate) fn room_event(ctl: &Ctl) -> u64 {
    ctl.load(W_ROOM_EVENT)
}

/// There may be room now.
pub(crate) fn room_made(ctl: &Ctl) {
    ctl.arena.fetch_add(W_ROOM_EVENT, 1);
    ctl.arena.fence();
    if ctl.load(W_ROOM_SLEEPERS) != 0 {
        ctl.arena.store(W_ROOM_SLEEPERS, 0);
        ctl.host.wake(&ctl.arena, W_ROOM_EVENT, u32::MAX);
    }
}

/// Says that a sender waits for room below a limit; returns the event to sleep on. The caller looks
/// for room once more before it sleeps.
pub(crate) fn arm_limit(ctl: &Ctl) -> u64 {
    let event = room_event(ctl);
    ctl.arena.store(W_QUOTA_WAIT, 1);
    ctl.arena.fence();
    event
}

/// There may be room below a limit now.
#[cold]
pub(crate) fn below_limit(ctl: &Ctl) {
    ctl.arena.store(W_QUOTA_WAIT, 0);
    room_made(ctl);
}

/// Arms a group's wait; returns the event to sleep on. The caller looks for messages once more
/// before it sleeps.
pub(crate) fn arm_group(ctl: &Ctl, topic: u32, group: u32) -> u64 {
    let event = ctl.load(ctl.layout.group_event(group));
    ctl.arena.store(ctl.layout.group_armed(group), 1);
    ctl.arena.store(ctl.layout.topic_armed(topic), 1);
    ctl.arena.store(W_ARMED_DURABLE, 1);
    ctl.arena.fence();
    event
}

/// Sleeps until the group may have a message.
pub(crate) fn sleep_on_group(ctl: &Ctl, group: u32, event: u64, timeout: Duration) {
    let at = ctl.layout.group_event(group);
    ctl.host
        .wait(&ctl.arena, at, low_half(event), timeout.min(LOOK));
}

/// Whether some consumer of the group may sleep.
#[inline]
pub(crate) fn group_is_armed(ctl: &Ctl, group: u32) -> bool {
    ctl.load(ctl.layout.group_armed(group)) != 0
}

/// Wakes one sleeping consumer of a group. Returns whether there was one.
pub(crate) fn wake_group(ctl: &Ctl, group: u32) -> bool {
    if ctl.load(ctl.layout.group_armed(group)) == 0 {
        return false;
    }
    ctl.arena.fetch_add(ctl.layout.group_event(group), 1);
    let woken = ctl.host.wake(&ctl.arena, ctl.layout.group_event(group), 1);
    if woken == 0 {
        ctl.arena.store(ctl.layout.group_armed(group), 0);
    }
    woken > 0
}

/// Wakes every consumer of a group (its store is closed or interrupted).
pub(crate) fn wake_whole_group(ctl: &Ctl, group: u32) {
    ctl.arena.fetch_add(ctl.layout.group_event(group), 1);
    ctl.host
        .wake(&ctl.arena, ctl.layout.group_event(group), u32::MAX);
}

/// Whether consumers of the topic may sleep. The caller has published its messages.
#[inline]
pub(crate) fn topic_is_armed(ctl: &Ctl, topic: u32) -> bool {
    ctl.arena.fence();
    ctl.load(ctl.layout.topic_armed(topic)) != 0
}

/// Forgets that the topic is armed: nobody was found asleep.
pub(crate) fn disarm_topic(ctl: &Ctl, topic: u32) {
    ctl.arena.store(ctl.layout.topic_armed(topic), 0);
}

/// More became durable: wakes a consumer of each group that waits.
pub(crate) fn durable_moved(ctl: &Ctl) {
    ctl.arena.fence();
    if ctl.load(W_ARMED_DURABLE) == 0 {
        return;
    }
    let mut woken = false;
    let groups = u32::try_from(ctl.global(G_GROUPS)).unwrap_or(0);
    for group in 0..groups.min(ctl.layout.geometry.groups) {
        woken |= wake_group(ctl, group);
    }
    if !woken {
        ctl.arena.store(W_ARMED_DURABLE, 0);
    }
}
