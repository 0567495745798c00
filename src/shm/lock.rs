//! The two shared locks, E (engine state) and F (flush), and their take-over from the dead.
//!
//! A lock word holds: bit 0 "somebody may sleep"; bits 1 to 11 the owner's member slot + 1, 0 =
//! free; bits 16 to 63 how often it was taken, so that a word seen once is never seen again with
//! another meaning (48 bits at 50 million a second last two months; a probe lasts microseconds).
//! Taking and giving back are compare-and-swaps of the whole word.
//!
//! A waiter that times out asks whether the owner's byte of LOCK is held. Held: the owner lives,
//! however slow or stopped, and is waited for until the caller's deadline, never robbed. Free: no
//! thread of it can run any more; [`member::repair`] takes the lock over and rolls back. A word
//! that names our own slot is another thread of this process, alive as we are: asking would be
//! wrong, because through its own descriptor a held byte reads as free. (After the robust futexes
//! of Linux, without their PIDs, which repeat between containers.)
//!
//! Order: F before E. Under E no system call but a futex wake, no I/O, no wait for F.

use std::time::Duration;

use super::control::{W_LOCK_E, W_LOCK_F};
use super::member;
use super::undo::Ctl;
use crate::error::{Code, Error, Result};
use crate::sys::Probe;

/// Which of the two locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// E: append, topics, groups, slots.
    Engine,
    /// F: writing to the log's files.
    Flush,
}

const SLEEPERS: u64 = 1;
const OWNER_MASK: u64 = 0x7ff << 1;
const COUNT_SHIFT: u32 = 16;
const SPINS: u32 = 60;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);

impl Which {
    pub(super) const fn offset(self) -> usize {
        match self {
            Self::Engine => W_LOCK_E,
            Self::Flush => W_LOCK_F,
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::Engine => "the engine lock (in the middle of a send, receive or ack)",
            Self::Flush => "the flush lock (writing the log to disk)",
        }
    }
}

/// The owner's member slot, if the word is taken.
#[allow(clippy::cast_possible_truncation)] // eleven bits
pub(super) const fn owner(word: u64) -> Option<u32> {
    match ((word & OWNER_MASK) >> 1) as u32 {
        0 => None,
        slot => Some(slot - 1),
    }
}

/// The word after `me` has taken the lock that `word` shows free (or its dead owner's).
const fn taken(word: u64, me: u32, sleepers: u64) -> u64 {
    ((word >> COUNT_SHIFT).wrapping_add(1) << COUNT_SHIFT) | ((me as u64 + 1) << 1) | sleepers
}

/// Takes the lock, waiting for a living owner until `deadline` (BOOTTIME ms), then `Busy`.
#[inline]
pub(crate) fn acquire(ctl: &Ctl, which: Which, deadline: u64) -> Result<()> {
    if try_acquire(ctl, which) {
        Ok(())
    } else {
        acquire_slowly(ctl, which, deadline)
    }
}

/// Takes the lock if it is free.
#[inline]
pub(crate) fn try_acquire(ctl: &Ctl, which: Which) -> bool {
    let word = ctl.arena.load(which.offset());
    kill_point!();
    owner(word).is_none()
        && ctl
            .arena
            .cas(which.offset(), word, taken(word, ctl.me(), word & SLEEPERS))
            .is_ok()
}

#[cold]
fn acquire_slowly(ctl: &Ctl, which: Which, deadline: u64) -> Result<()> {
    let at = which.offset();
    for _ in 0..SPINS {
        std::hint::spin_loop();
        if try_acquire(ctl, which) {
            return Ok(());
        }
    }
    let mut pause = SHORTEST;
    loop {
        let mut word = ctl.arena.load(at);
        let Some(holder) = owner(word) else {
            if ctl
                .arena
                .cas(at, word, taken(word, ctl.me(), SLEEPERS))
                .is_ok()
            {
                return Ok(());
            }
            continue;
        };
        if word & SLEEPERS == 0 {
            if ctl.arena.cas(at, word, word | SLEEPERS).is_err() {
                continue;
            }
            word |= SLEEPERS;
        }
        ctl.host.wait(&ctl.arena, at, low_half(word), pause);
        if ctl.arena.load(at) != word {
            pause = SHORTEST;
            continue;
        }
        if is_dead(ctl, holder) {
            member::repair(ctl, holder, Some((which, word)));
            pause = SHORTEST;
            continue;
        }
        if ctl.host.boottime_ms() >= deadline {
            return Err(busy(ctl, which, holder));
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// The owner's member slot of a lock word, if it is taken.
pub(crate) const fn owner_of(word: u64) -> Option<u32> {
    owner(word)
}

/// After a wait in which the lock word stayed `seen`: takes the lock over if its owner is dead.
pub(crate) fn rescue(ctl: &Ctl, which: Which, seen: u64) {
    if let Some(holder) = owner(seen) {
        if is_dead(ctl, holder) {
            member::repair(ctl, holder, Some((which, seen)));
        }
    }
}

/// Whether the process of this member slot is gone for good.
fn is_dead(ctl: &Ctl, slot: u32) -> bool {
    if broken!(LockStolenOnTimeout) {
        return true;
    }
    if slot == ctl.me() && !broken!(OwnSlotProbed) {
        return false;
    }
    matches!(ctl.host.probe_byte(member::byte(slot)), Ok(Probe::Free))
}

fn busy(ctl: &Ctl, which: Which, holder: u32) -> Error {
    let who = if holder == ctl.me() {
        "another thread of this process".to_owned()
    } else {
        format!(
            "process {} (or a forked child of it)",
            member::pid(ctl, holder)
        )
    };
    Error::new(
        Code::Busy,
        format!(
            "{who} holds {} and is alive but does not go on; is it stopped (SIGSTOP, a debugger, \
             a frozen container)? Let it continue or end it",
            which.doing()
        ),
    )
}

/// The half of a lock word that sleepers compare.
#[allow(clippy::cast_possible_truncation)] // the low half is meant
pub(crate) const fn low_half(word: u64) -> u32 {
    word as u32
}

/// Gives the lock back and wakes one sleeper.
#[inline]
pub(crate) fn release(ctl: &Ctl, which: Which) {
    let at = which.offset();
    let mut word = ctl.arena.load(at);
    loop {
        let free = word & !(OWNER_MASK | SLEEPERS);
        match ctl.arena.cas(at, word, free) {
            Ok(_) => break,
            Err(now) if now & OWNER_MASK == word & OWNER_MASK => word = now,
            // Somebody else owns it: only a broken protection gets here; never give his away.
            Err(_) => return,
        }
    }
    kill_point!();
    if word & SLEEPERS != 0 {
        ctl.host.wake(&ctl.arena, at, 1);
    }
}

/// Takes a lock over from a dead owner whose byte we hold. `seen` is the word it was found with.
pub(super) fn take_over(ctl: &Ctl, which: Which, dead: u32, seen: Option<u64>) -> bool {
    let at = which.offset();
    let mut word = ctl.arena.load(at);
    while owner(word) == Some(dead) {
        if seen.is_some_and(|s| s | SLEEPERS != word | SLEEPERS) {
            return false;
        }
        match ctl.arena.cas(at, word, taken(word, ctl.me(), SLEEPERS)) {
            Ok(_) => return true,
            Err(now) => word = now,
        }
    }
    false
}

/// Frees both locks whoever held them. Only while nobody else is alive (byte 0 is held).
pub(super) fn break_all(ctl: &Ctl) {
    for which in [Which::Engine, Which::Flush] {
        let word = ctl.arena.load(which.offset());
        let free = (word >> COUNT_SHIFT).wrapping_add(1) << COUNT_SHIFT;
        ctl.arena.store(which.offset(), free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_names_its_owner_and_never_repeats() {
        let first = taken(0, 0, 0);
        assert_eq!(owner(0), None);
        assert_eq!(owner(first), Some(0));
        assert_eq!(owner(taken(first, 1023, SLEEPERS)), Some(1023));
        assert_ne!(taken(first, 0, 0), first);
    }
}
