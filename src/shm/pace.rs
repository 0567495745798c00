//! When a flush leader starts: a moment after it could, so that those whom the last flush has just
//! released join it.
//!
//! Threads that send one message after the other would otherwise fall into groups that take turns,
//! each flush with a third of them. A leader waits until as many have come since the last flush as
//! shared that one, and never longer than a share of what flushes take; a single sender has come
//! itself and waits for nobody. All of this is hints: they choose a moment, and no promise rests on
//! them. What a death leaves of them costs one such wait.

use super::control::{W_COME, W_FLUSH_BATCH, W_FLUSH_NANOS, W_TAKEN};
use super::undo::Ctl;

/// The part of a flush's mean time that a leader waits at most: one in so many.
const SHARE: u64 = 5;
/// And never longer than this, in nanoseconds.
const LONGEST: u64 = 1_000_000;

/// A sender has come to wait for the disk.
pub(crate) fn comes(ctl: &Ctl) {
    ctl.arena.fetch_add(W_COME, 1);
}

/// Lets others join the flush that is about to be led. F is held.
pub(crate) fn gather(ctl: &Ctl) {
    let (taken, batch) = (ctl.load(W_TAKEN), ctl.load(W_FLUSH_BATCH));
    let enough = || has_come(ctl.load(W_COME), taken, batch);
    if !enough() {
        ctl.host.linger(patience(ctl.load(W_FLUSH_NANOS)), &enough);
    }
}

/// A flush takes everybody who has come. F is held.
pub(crate) fn takes(ctl: &Ctl) {
    let come = ctl.load(W_COME);
    let batch = come.wrapping_sub(ctl.load(W_TAKEN));
    ctl.publish(W_TAKEN, come);
    ctl.publish(W_FLUSH_BATCH, batch);
}

/// A flush took so many nanoseconds. F is held.
pub(crate) fn took(ctl: &Ctl, nanos: u64) {
    ctl.publish(W_FLUSH_NANOS, mean(ctl.load(W_FLUSH_NANOS), nanos));
}

/// Whether as many have come as shared the last flush.
const fn has_come(come: u64, taken: u64, batch: u64) -> bool {
    come.wrapping_sub(taken) >= batch
}

/// How long a leader waits at most when flushes take `mean` nanoseconds.
const fn patience(mean: u64) -> u64 {
    let share = mean / SHARE;
    if share < LONGEST { share } else { LONGEST }
}

/// The mean of flushes, the last of which took `nanos`; that of the first is its own.
const fn mean(before: u64, nanos: u64) -> u64 {
    match before {
        0 => nanos,
        _ => before - before / 8 + nanos / 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_sender_waits_for_nobody() {
        // The last flush took one; one has come since: the leader itself.
        assert!(has_come(8, 7, 1));
    }

    #[test]
    fn a_leader_waits_for_as_many_as_shared_the_last_flush() {
        assert!(!has_come(9, 7, 3));
        assert!(has_come(10, 7, 3));
        assert!(has_come(1, u64::MAX, 2), "counters wrap around");
    }

    #[test]
    fn the_wait_has_an_end_whatever_the_words_hold() {
        assert_eq!(patience(0), 0, "nothing is known of this disk yet");
        assert_eq!(patience(100_000), 20_000);
        assert_eq!(patience(u64::MAX), LONGEST);
        assert_eq!(mean(0, 800), 800);
        assert_eq!(mean(800, 1600), 900);
        assert_eq!(mean(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(mean(1, u64::MAX), 1 + u64::MAX / 8);
    }
}
