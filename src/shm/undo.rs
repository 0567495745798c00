//! Changing shared state so that a death at any instruction leaves it whole.
//!
//! Invariants: `UNDO_N` = 0 whenever E is free; the sum over the STATE words is exact whenever
//! `UNDO_N` = 0; `PUBLISHED` = `TAIL` whenever E is free.
//!
//! [`Tx::set`] first notes (offset, old value), then stores. Commit stores the new sum (whose old
//! value is the first note), then `UNDO_N` = 0, then `PUBLISHED` = `TAIL`. Whoever takes lock E
//! over from a dead owner calls [`rollback`], which restores the notes in reverse order; doing so
//! twice is the same as once, so the rescuer may die as well. (The classic undo log, as in
//! Gray & Reuter, "Transaction Processing", 1993, chapter 10, kept in shared memory.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::control::{
    G_TAIL, Layout, UNDO_MAX, W_DAMAGED, W_PUBLISHED, W_ROLLBACKS, W_SUM, W_UNDO_N, W_UNNOTED,
};
use super::lock::{self, Which};
use crate::error::{Code, Error, Result};
use crate::sys::{Arena, Host};

/// The shared memory of an open store, as this process sees it.
pub(crate) struct Ctl {
    pub(crate) arena: Arena,
    pub(crate) layout: Layout,
    pub(crate) host: Arc<dyn Host>,
    /// This process's member slot; `u32::MAX` before it joined.
    me: AtomicU32,
    /// Slots whose byte this process holds to reap them: a second take through the same
    /// descriptor would succeed, and one unlock would free it for both.
    pub(super) reaping: Mutex<BTreeSet<u32>>,
    /// The store is open for reading only: no transaction begins.
    frozen: AtomicBool,
}

impl Ctl {
    /// Wraps a mapped `ctl` whose identity and layout were checked.
    pub(crate) fn new(arena: Arena, layout: Layout, host: Arc<dyn Host>) -> Self {
        Self {
            arena,
            layout,
            host,
            me: AtomicU32::new(u32::MAX),
            reaping: Mutex::new(BTreeSet::new()),
            frozen: AtomicBool::new(false),
        }
    }

    /// This process's member slot.
    #[inline]
    pub(crate) fn me(&self) -> u32 {
        self.me.load(Ordering::Relaxed)
    }

    pub(crate) fn set_me(&self, slot: u32) {
        self.me.store(slot, Ordering::Relaxed);
    }

    /// A word of `ctl`.
    #[inline]
    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.arena.load(offset)
    }

    /// A word of the globals.
    #[inline]
    pub(crate) fn global(&self, word: usize) -> u64 {
        self.arena.load(self.layout.global(word))
    }

    /// Publishes a word that is not part of the summed state (see the table in `control`).
    #[inline]
    pub(crate) fn publish(&self, offset: usize, value: u64) {
        kill_point!();
        self.arena.store(offset, value);
    }

    /// Says whether some acks may be in shared memory only. Lock E is held; nothing else is said
    /// while the change that it is about is not committed.
    pub(crate) fn set_unnoted(&self, may_be: bool) {
        self.publish(W_UNNOTED, u64::from(may_be));
    }

    /// From now on nothing changes shared state through this.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Whether the store is open for reading only.
    #[inline]
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Takes lock E, so that what is read is whole; without it where the store is open for reading
    /// only, and what others change meanwhile may be seen in part.
    pub(crate) fn begin_to_read(&self, deadline: u64) -> Result<Option<Tx<'_>>> {
        if self.is_frozen() {
            return Ok(None);
        }
        self.begin(deadline).map(Some)
    }

    /// The error of what would change something all the same.
    #[cold]
    pub(crate) fn read_only() -> Error {
        Error::new(
            Code::ReadOnly,
            "the store is open for reading only; open it without read_only for this",
        )
    }

    /// What somebody who only looks is told while a change that a death left is rolled back.
    #[cold]
    pub(crate) fn being_repaired(&self) -> Error {
        Error::new(
            Code::Busy,
            "a process died in the middle of a change, which the next one to use the store rolls \
             back; look again",
        )
    }

    /// Takes lock E and begins a change of shared state.
    pub(crate) fn begin(&self, deadline: u64) -> Result<Tx<'_>> {
        if self.is_frozen() {
            return Err(Self::read_only());
        }
        lock::acquire(self, Which::Engine, deadline)?;
        Ok(self.change())
    }

    /// As [`Ctl::begin`], if lock E is free: nobody waits, so no clock is read. Never on a store
    /// that is open for reading only.
    // Inlined so that the change is made where it is used.
    #[inline(always)]
    #[allow(clippy::inline_always)]
    pub(crate) fn try_begin(&self) -> Option<Tx<'_>> {
        if self.is_frozen() {
            return None;
        }
        lock::try_acquire(self, Which::Engine).then(|| self.change())
    }

    /// A change of shared state; lock E is held.
    #[inline(always)]
    #[allow(clippy::inline_always)]
    fn change(&self) -> Tx<'_> {
        Tx {
            ctl: self,
            words: self.arena.words(),
            noted: 0,
            sum: 0,
            open: true,
            in_undo: [0; REMEMBERED],
        }
    }

    /// The latest time (BOOTTIME ms) until which a call without a time-out waits for a lock
    /// whose owner is alive.
    pub(crate) fn patience(&self) -> u64 {
        self.host.boottime_ms() + 10_000
    }

    /// Notes that shared state makes no sense, and says so.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        self.publish(W_DAMAGED, 1);
        Error::new(
            Code::Corrupt,
            format!(
                "shared memory is damaged ({what}); close the store in every process and open \
                 it again: it is rebuilt from the log"
            ),
        )
        .at_path("ctl")
    }
}

/// A change of shared state: holds lock E. Dropped without [`Tx::commit`] it changes nothing.
pub(crate) struct Tx<'a> {
    pub(crate) ctl: &'a Ctl,
    /// The words of `ctl`.
    words: &'a [AtomicU64],
    noted: usize,
    sum: u64,
    open: bool,
    /// Some of the words (by number) whose value of before is in the undo list already: a second
    /// note would change nothing, because notes are restored in reverse order.
    in_undo: [u32; REMEMBERED],
}

/// How many words a transaction remembers to have noted: more than one change of the same word is
/// common in batches only, and there of few words.
const REMEMBERED: usize = 16;

const TOO_MANY: &str = "a transaction changes more words than its undo list holds";

/// The weight of a word in the sum: odd, so that no single change goes unnoticed.
#[inline]
const fn weight(offset: usize) -> u64 {
    (offset as u64) | 1
}

impl Tx<'_> {
    /// A word as it is now.
    #[inline]
    pub(crate) fn get(&self, offset: usize) -> u64 {
        self.ctl.arena.load(offset)
    }

    /// A word of the globals.
    #[inline]
    pub(crate) fn global(&self, word: usize) -> u64 {
        self.ctl.arena.load(self.ctl.layout.global(word))
    }

    /// Changes a word of the globals.
    #[inline]
    pub(crate) fn set_global(&mut self, word: usize, value: u64) {
        self.set(self.ctl.layout.global(word), value);
    }

    /// Changes a word of the summed state.
    ///
    /// Every operation is bounded well below [`UNDO_MAX`] changes; one too many is a defect of
    /// keepq and panics, which rolls the transaction back.
    #[inline]
    pub(crate) fn set(&mut self, offset: usize, value: u64) {
        debug_assert!(offset >= self.ctl.layout.state && offset < self.ctl.layout.state_end);
        debug_assert!(offset % 8 == 0 && self.open);
        // As with every access to shared words: what is out of bounds is zero, and stays so.
        let Some(word) = self.words.get(offset / 8) else {
            return;
        };
        let old = word.load(Ordering::Acquire);
        if old == value {
            return;
        }
        if broken!(UndoAfterStore) {
            word.store(value, Ordering::Release);
            kill_point!();
            self.note(offset, old);
        } else if broken!(UndoMissing) {
            kill_point!();
            word.store(value, Ordering::Release);
        } else {
            self.note(offset, old);
            kill_point!();
            word.store(value, Ordering::Release);
        }
        self.sum = self
            .sum
            .wrapping_add(value.wrapping_sub(old).wrapping_mul(weight(offset)));
    }

    /// Changes neighbouring words of the summed state, as [`Tx::set`] does one. None of them should
    /// have been changed in this transaction: their notes are not remembered.
    #[inline]
    pub(crate) fn set_words<const N: usize>(&mut self, offset: usize, values: [u64; N]) {
        debug_assert!(offset >= self.ctl.layout.state && offset % 8 == 0 && self.open);
        debug_assert!(offset + 8 * N <= self.ctl.layout.state_end);
        let all = self.words;
        let first = offset / 8;
        let Some(words) = all.get(first..first + N) else {
            return;
        };
        if broken!(UndoAfterStore) || broken!(UndoMissing) {
            for (n, value) in values.into_iter().enumerate() {
                self.set(offset + 8 * n, value);
            }
            return;
        }
        if self.noted == 0 {
            self.push(W_SUM, self.ctl.arena.load(W_SUM));
        }
        assert!(self.noted + N <= UNDO_MAX, "{TOO_MANY}");
        let at = self.ctl.layout.undo / 8 + self.noted * 2;
        let Some(notes) = all.get(at..at + 2 * N) else {
            return;
        };
        let mut noted = 0;
        for (n, (word, value)) in words.iter().zip(values).enumerate() {
            let old = word.load(Ordering::Acquire);
            if old != value {
                notes[2 * noted].store((offset + 8 * n) as u64, Ordering::Release);
                notes[2 * noted + 1].store(old, Ordering::Release);
                noted += 1;
            }
        }
        self.noted += noted;
        if let Some(count) = all.get(W_UNDO_N / 8) {
            count.store(self.noted as u64, Ordering::Release);
        }
        for (n, (word, value)) in words.iter().zip(values).enumerate() {
            kill_point!();
            let change = value.wrapping_sub(word.load(Ordering::Acquire));
            word.store(value, Ordering::Release);
            let weighed = change.wrapping_mul(weight(offset + 8 * n));
            self.sum = self.sum.wrapping_add(weighed);
        }
    }

    #[inline]
    fn note(&mut self, offset: usize, old: u64) {
        // `ctl` is far smaller than 2^32 words, and word 0 is not part of the state.
        let word = lock::low_half((offset / 8) as u64);
        let place = &mut self.in_undo[word as usize % REMEMBERED];
        if *place == word {
            return;
        }
        *place = word;
        if self.noted == 0 {
            self.push(W_SUM, self.ctl.arena.load(W_SUM));
        }
        self.push(offset, old);
    }

    #[inline]
    fn push(&mut self, offset: usize, old: u64) {
        assert!(self.noted < UNDO_MAX, "{TOO_MANY}");
        let at = self.ctl.layout.undo / 8 + self.noted * 2;
        if let Some([place, value]) = self.words.get(at..at + 2) {
            place.store(offset as u64, Ordering::Release);
            value.store(old, Ordering::Release);
        }
        self.noted += 1;
        if let Some(count) = self.words.get(W_UNDO_N / 8) {
            count.store(self.noted as u64, Ordering::Release);
        }
    }

    /// Makes the change final, publishes the records appended in it, and gives lock E back.
    #[inline]
    pub(crate) fn commit(mut self) {
        self.finish();
    }

    /// As [`Tx::commit`], without moving the change, after which it must not be used any more: a
    /// copy of what was written a moment ago stalls for as long as a small change takes.
    #[inline]
    pub(crate) fn finish(&mut self) {
        let arena = &self.ctl.arena;
        let tail = self.global(G_TAIL);
        if broken!(PublishedBeforeCommit) {
            arena.store(W_PUBLISHED, tail);
        }
        kill_point!();
        if self.noted > 0 {
            arena.store(W_SUM, arena.load(W_SUM).wrapping_add(self.sum));
            kill_point!();
            arena.store(W_UNDO_N, 0);
            kill_point!();
        }
        if arena.load(W_PUBLISHED) != tail {
            arena.store(W_PUBLISHED, tail);
        }
        kill_point!();
        self.open = false;
        lock::release(self.ctl, Which::Engine);
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.open && !killed!() {
            rollback(self.ctl);
            lock::release(self.ctl, Which::Engine);
        }
    }
}

/// Undoes a transaction that was not committed, and publishes one that was. Lock E is held.
pub(super) fn rollback(ctl: &Ctl) {
    let arena = &ctl.arena;
    let noted = usize::try_from(arena.load(W_UNDO_N))
        .unwrap_or(usize::MAX)
        .min(UNDO_MAX);
    if noted > 0 {
        // Odd while it lasts, also when an earlier rescuer died in the middle of it.
        let during = arena.load(W_ROLLBACKS) | 1;
        arena.store(W_ROLLBACKS, during);
        for i in (0..noted).rev() {
            let at = ctl.layout.undo + i * 16;
            let offset = usize::try_from(arena.load(at)).unwrap_or(usize::MAX);
            let in_state = (ctl.layout.state..ctl.layout.state_end).contains(&offset);
            if in_state || offset == W_SUM {
                kill_point!();
                arena.store(offset, arena.load(at + 8));
            }
        }
        arena.store(W_ROLLBACKS, during.wrapping_add(1));
        kill_point!();
        arena.store(W_UNDO_N, 0);
    }
    arena.store(W_PUBLISHED, ctl.global(G_TAIL));
}

/// The sum over the STATE words as they are. Exact only while nobody changes them.
pub(crate) fn state_sum(ctl: &Ctl) -> u64 {
    let mut sum = 0u64;
    let mut offset = ctl.layout.state;
    while offset < ctl.layout.state_end {
        sum = sum.wrapping_add(ctl.arena.load(offset).wrapping_mul(weight(offset)));
        offset += 8;
    }
    sum
}

/// Undoes what a dead process left unfinished. Only while nobody else is alive.
pub(crate) fn recover_alone(ctl: &Ctl) {
    lock::break_all(ctl);
    rollback(ctl);
    // Nobody rolls back any more, whatever stands there.
    let rollbacks = ctl.load(W_ROLLBACKS);
    ctl.arena.store(W_ROLLBACKS, rollbacks & !1);
}

/// Writes one word of a `ctl` that nobody else can see yet (it is not marked ready).
pub(crate) fn init(ctl: &Ctl, offset: usize, value: u64) {
    kill_point!();
    ctl.arena.store(offset, value);
}
