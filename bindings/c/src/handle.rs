//! Handles: opaque pointers whose value is an index into a table, never dereferenced.
//!
//! Invariants: a value is handed out once and never again, because each use of a slot has its own
//! generation and a slot whose generations are used up is retired. Kind, index and generation must
//! all match, so NULL, a closed handle, a handle of another kind and a made-up number are all
//! `KEEPQ_E_BAD_HANDLE`. Closing a handle while another thread uses it is safe.
//!
//! One word of each slot says which generation it is in, whether its handle is open, and how many
//! calls use its value now. A call comes in only while the handle is open ([`Used`]), and whoever
//! leaves a closed slot last drops the value: a call takes no lock and nothing from the heap. Slots
//! to be used again are in a list without a lock; only the table's growth has one.

use engine::{Code, Error, Result};
use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

const KIND_BITS: u32 = 2;
const INDEX_BITS: u32 = if usize::BITS >= 64 { 28 } else { 18 };
const GENERATION_BITS: u32 = usize::BITS - KIND_BITS - INDEX_BITS;
const KIND_MASK: usize = (1 << KIND_BITS) - 1;
const MAX_INDEX: usize = (1 << INDEX_BITS) - 1;
const MAX_GENERATION: u64 = (1 << GENERATION_BITS) - 1;

/// Slots of the first chunk; each next one has twice as many.
const FIRST_BITS: u32 = 6;
const FIRST: usize = 1 << FIRST_BITS;
const CHUNKS: usize = (INDEX_BITS - FIRST_BITS + 1) as usize;

/// A slot's word: how many calls use the value, whether the handle is open, the generation.
const USERS: u64 = OPEN - 1;
const OPEN: u64 = 1 << 29;
const GENERATION_SHIFT: u32 = 30;
const _: () = assert!(GENERATION_SHIFT + GENERATION_BITS <= u64::BITS);

/// The handles of one kind.
pub(crate) struct Table<T> {
    /// Distinguishes the tables in a handle's lowest bits; never 0, so that no handle is NULL.
    kind: usize,
    noun: &'static str,
    closer: &'static str,
    /// Slots stay where they are. Made under the lock of `end`.
    chunks: [OnceLock<Box<[Slot<T>]>>; CHUNKS],
    /// The first of the slots that were closed and can be used again: its index and 1, 0 for none.
    /// Above that how often it changed, so that nobody takes an old first one for the present one.
    free: AtomicU64,
    /// From here on no slot was ever used. Of the standard library: a lock that a forking thread
    /// can hold across the fork.
    end: Mutex<usize>,
}

struct Slot<T> {
    word: AtomicU64,
    /// The next free one, as in `Table::free`.
    next: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

const CHANGED: u64 = 1 << 32;
const _: () = assert!(MAX_INDEX < u32::MAX as usize);

// SAFETY: the value is shared among those that are counted in `word`, as by `&T`. It is written and
// dropped, perhaps by another thread than made it, only by whoever has the slot alone.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// The use of a value by a call.
pub(crate) struct Used<'a, T> {
    table: &'a Table<T>,
    slot: &'a Slot<T>,
    index: usize,
}

impl<T> Deref for Used<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while this is counted in the slot's word, nobody writes the value.
        let value = unsafe { &*self.slot.value.get() };
        // What is counted has a value: it was put in before the handle was opened.
        value.as_ref().expect("a slot in use has a value")
    }
}

impl<T> Drop for Used<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let before = self.slot.word.fetch_sub(1, Ordering::Release);
        if before & (OPEN | USERS) == 1 {
            self.table.recycle(self.slot, self.index);
        }
    }
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            next: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        }
    }
}

impl<T> Table<T> {
    pub(crate) const fn new(kind: usize, noun: &'static str, closer: &'static str) -> Self {
        assert!(kind > 0 && kind < 1 << KIND_BITS);
        Self {
            kind,
            noun,
            closer,
            chunks: [const { OnceLock::new() }; CHUNKS],
            free: AtomicU64::new(0),
            end: Mutex::new(0),
        }
    }

    // Nothing is left half done under the lock, so a panic under it spoils nothing.
    fn end(&self) -> MutexGuard<'_, usize> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from making the table larger until what this gives is dropped.
    pub(crate) fn lock_for_fork(&'static self) -> Option<Box<dyn Any>>
    where
        T: 'static,
    {
        crate::fork::take(|| match self.end.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// The slot with this index, if there is one.
    #[inline(always)]
    fn slot(&self, index: usize) -> Option<&Slot<T>> {
        let place = index + FIRST;
        let chunk = usize::BITS - 1 - place.leading_zeros() - FIRST_BITS;
        let slots = self.chunks.get(chunk as usize)?.get()?;
        slots.get(place - (FIRST << chunk))
    }

    /// Takes a slot that nobody uses. Its index, and its generation.
    #[inline(always)]
    fn take_slot(&self) -> Result<(usize, &Slot<T>, u64)> {
        loop {
            let index = match self.pop_free() {
                Some(index) => index,
                None => self.next_new()?,
            };
            let slot = self.slot(index).ok_or_else(|| self.exhausted())?;
            let word = slot.word.load(Ordering::Relaxed);
            // Whatever the list says: only a closed slot without a user can be had, by one.
            if word & (OPEN | USERS) == 0 {
                let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
                let taken = slot.word.compare_exchange(word, word + 1, success, failure);
                if taken.is_ok() {
                    return Ok((index, slot, word >> GENERATION_SHIFT));
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // An index, and 1.
    fn pop_free(&self) -> Option<usize> {
        let mut first = self.free.load(Ordering::Acquire);
        loop {
            let index = (first as u32).checked_sub(1)? as usize;
            let next = self.slot(index)?.next.load(Ordering::Relaxed);
            let then = (first & !(CHANGED - 1)).wrapping_add(CHANGED) | u64::from(next);
            let (success, failure) = (Ordering::Acquire, Ordering::Acquire);
            match self
                .free
                .compare_exchange_weak(first, then, success, failure)
            {
                Ok(_) => return Some(index),
                Err(found) => first = found,
            }
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // An index, and 1.
    fn push_free(&self, slot: &Slot<T>, index: usize) {
        let mut first = self.free.load(Ordering::Relaxed);
        loop {
            slot.next.store(first as u32, Ordering::Relaxed);
            let this = index as u64 + 1;
            let then = (first & !(CHANGED - 1)).wrapping_add(CHANGED) | this;
            let (success, failure) = (Ordering::Release, Ordering::Relaxed);
            match self
                .free
                .compare_exchange_weak(first, then, success, failure)
            {
                Ok(_) => return,
                Err(found) => first = found,
            }
        }
    }

    /// The index of a slot that was never used.
    #[cold]
    fn next_new(&self) -> Result<usize> {
        let mut end = self.end();
        let index = *end;
        if index > MAX_INDEX {
            return Err(self.exhausted());
        }
        let place = index + FIRST;
        if place.is_power_of_two() {
            // The first of a chunk.
            let chunk = &self.chunks[(place.ilog2() - FIRST_BITS) as usize];
            chunk.get_or_init(|| (0..place).map(|_| Slot::new()).collect());
        }
        *end += 1;
        Ok(index)
    }

    /// Puts a value in and gives its handle.
    #[inline(always)]
    pub(crate) fn insert(&self, value: T) -> Result<usize> {
        let (index, slot, generation) = self.take_slot()?;
        // SAFETY: the slot is closed and this is all that is counted there: nobody else reads or
        // writes the value.
        unsafe { *slot.value.get() = Some(value) };
        let word = generation << GENERATION_SHIFT | OPEN;
        slot.word.store(word, Ordering::Release);
        Ok(self.encode(index, generation))
    }

    /// The value of a handle.
    #[inline(always)]
    pub(crate) fn get(&self, handle: usize) -> Result<Used<'_, T>> {
        self.enter(handle, |word| word + 1)
    }

    /// The value of a handle, which is closed by it: from now on it is a bad one. The value is
    /// dropped when the last call that uses it leaves.
    #[inline(always)]
    pub(crate) fn remove(&self, handle: usize) -> Result<Used<'_, T>> {
        self.enter(handle, |word| word + 1 - OPEN)
    }

    /// Counts a call in while the handle is open; `change` says how the word becomes.
    #[inline(always)]
    fn enter(&self, handle: usize, change: impl Fn(u64) -> u64) -> Result<Used<'_, T>> {
        let (index, generation) = Self::decode(handle);
        let slot = match self.slot(index) {
            Some(slot) if handle & KIND_MASK == self.kind => slot,
            _ => return Err(self.bad(handle)),
        };
        let mut word = slot.word.load(Ordering::Relaxed);
        loop {
            let free = word >> (GENERATION_SHIFT - 1) == generation << 1 | 1;
            if !free || word & USERS == USERS {
                return Err(self.refused(handle, free));
            }
            let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
            let changed = slot
                .word
                .compare_exchange_weak(word, change(word), success, failure);
            match changed {
                Ok(_) => break,
                Err(found) => word = found,
            }
        }
        Ok(Used {
            table: self,
            slot,
            index,
        })
    }

    /// Drops the value of a slot that was closed, after the last one left, and lets it be used
    /// again.
    fn recycle(&self, slot: &Slot<T>, index: usize) {
        // Whatever the others did with the value comes before its drop.
        fence(Ordering::Acquire);
        // SAFETY: the handle is closed, so nobody comes in, and the last one has left.
        unsafe { *slot.value.get() = None };
        let generation = slot.word.load(Ordering::Relaxed) >> GENERATION_SHIFT;
        if generation < MAX_GENERATION {
            let word = (generation + 1) << GENERATION_SHIFT;
            // The next one to use it finds it without a value.
            slot.word.store(word, Ordering::Release);
            self.push_free(slot, index);
        }
    }

    #[allow(clippy::cast_possible_truncation)] // It has GENERATION_BITS.
    fn encode(&self, index: usize, generation: u64) -> usize {
        (generation as usize) << (INDEX_BITS + KIND_BITS) | index << KIND_BITS | self.kind
    }

    /// Index and generation.
    #[inline(always)]
    fn decode(handle: usize) -> (usize, u64) {
        let index = (handle >> KIND_BITS) & MAX_INDEX;
        (index, (handle >> (INDEX_BITS + KIND_BITS)) as u64)
    }

    #[cold]
    fn refused(&self, handle: usize, open: bool) -> Error {
        if open {
            let text = format!("{USERS} calls use the same {} handle", self.noun);
            return Error::new(Code::LimitExceeded, text);
        }
        self.bad(handle)
    }

    #[cold]
    fn bad(&self, handle: usize) -> Error {
        let text = if handle == 0 {
            format!("the {} handle is NULL", self.noun)
        } else {
            format!(
                "{handle:#x} is not an open {} handle; it may have been given to {} before",
                self.noun, self.closer
            )
        };
        Error::new(Code::BadHandle, text)
    }

    #[cold]
    fn exhausted(&self) -> Error {
        let text = format!(
            "there are {} {} handles; give those no longer used to {}",
            MAX_INDEX + 1,
            self.noun,
            self.closer
        );
        Error::new(Code::LimitExceeded, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn code<T>(result: Result<T>) -> Option<Code> {
        result.err().map(|e| e.code())
    }

    #[test]
    fn a_removed_handle_is_bad_for_ever_even_when_its_slot_is_used_again() {
        let table = Table::new(1, "thing", "thing_close");
        let first = table.insert(10).unwrap();
        assert_eq!(*table.get(first).unwrap(), 10);
        assert_eq!(*table.remove(first).unwrap(), 10);
        let mut old = vec![first];
        for n in 0..100 {
            let next = table.insert(n).unwrap();
            for &handle in &old {
                assert_eq!(code(table.get(handle)), Some(Code::BadHandle));
                assert_eq!(code(table.remove(handle)), Some(Code::BadHandle));
            }
            table.remove(next).unwrap();
            old.push(next);
        }
        assert_eq!(*table.end(), 1, "the slot is used again");
    }

    #[test]
    fn null_foreign_and_invented_handles_are_bad() {
        let things = Table::new(1, "thing", "thing_close");
        let others = Table::new(2, "other", "other_close");
        let thing = things.insert(()).unwrap();
        let other = others.insert(()).unwrap();
        for bad in [
            0,
            other,
            thing + (1 << KIND_BITS),
            thing + (FIRST << KIND_BITS),
            MAX_INDEX << KIND_BITS | 1,
            usize::MAX,
            thing ^ (1 << 40),
        ] {
            assert_eq!(code(things.get(bad)), Some(Code::BadHandle), "{bad:#x}");
            assert_eq!(code(things.remove(bad)), Some(Code::BadHandle), "{bad:#x}");
        }
        assert!(things.get(thing).is_ok());
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let table = Table::new(1, "thing", "thing_close");
        table.remove(table.insert(1).unwrap()).unwrap();
        let slot = table.slot(0).unwrap();
        slot.word
            .store(MAX_GENERATION << GENERATION_SHIFT, Ordering::Relaxed);
        let last = table.insert(2).unwrap();
        table.remove(last).unwrap();
        let fresh = table.insert(3).unwrap();
        assert_eq!(code(table.get(last)), Some(Code::BadHandle));
        assert_eq!(Table::<i32>::decode(fresh), (1, 0));
    }

    #[test]
    fn many_handles_keep_their_values_while_the_table_grows() {
        let table = Table::new(1, "thing", "thing_close");
        let handles: Vec<usize> = (0..10_000).map(|n| table.insert(n).unwrap()).collect();
        let held = table.get(handles[0]).unwrap();
        for (n, &handle) in handles.iter().enumerate() {
            assert_eq!(*table.get(handle).unwrap(), n);
        }
        assert_eq!(*held, 0);
    }

    /// Counts the living.
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(count))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_value_lives_until_the_last_call_that_uses_it_leaves() {
        let living = Arc::default();
        let table = Table::new(1, "thing", "thing_close");
        let handle = table.insert(Counted::new(&living)).unwrap();
        let (one, two) = (table.get(handle).unwrap(), table.get(handle).unwrap());
        let closing = table.remove(handle).unwrap();
        assert_eq!(code(table.get(handle)), Some(Code::BadHandle));
        drop(closing);
        drop(one);
        assert_eq!(living.load(Ordering::Relaxed), 1);
        let other = table.insert(Counted::new(&living)).unwrap();
        let place = Table::<Counted>::decode(other);
        assert_eq!(place, (1, 0), "the slot is still in use");
        drop(two);
        assert_eq!(living.load(Ordering::Relaxed), 1);
        drop(table);
        assert_eq!(living.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_handle_that_is_used_by_as_many_as_can_be_counted_takes_no_more() {
        let table = Table::new(1, "thing", "thing_close");
        let handle = table.insert(1).unwrap();
        let slot = table.slot(0).unwrap();
        let word = slot.word.fetch_add(USERS, Ordering::Relaxed);
        assert_eq!(code(table.get(handle)), Some(Code::LimitExceeded));
        assert_eq!(code(table.remove(handle)), Some(Code::LimitExceeded));
        slot.word.store(word, Ordering::Relaxed);
        assert_eq!(*table.remove(handle).unwrap(), 1);
    }

    /// What a handle stands for knows it.
    struct Known {
        handle: OnceLock<usize>,
        _living: Counted,
    }

    /// Threads use handles that others close and slots that others fill again: each sees the value
    /// of its handle or a bad handle, and every value is dropped once.
    #[test]
    fn threads_that_use_and_close_handles_never_see_another_value() {
        let living = Arc::default();
        let table = Table::new(1, "thing", "thing_close");
        let places: [AtomicUsize; 8] = Default::default();
        let seen = AtomicUsize::new(0);
        let work = |thread: usize| {
            for n in 0..20_000 {
                let place = &places[(n * 7 + thread) % places.len()];
                if (n + thread) % 3 == 0 {
                    let known = Known {
                        handle: OnceLock::new(),
                        _living: Counted::new(&living),
                    };
                    let handle = table.insert(known).unwrap();
                    table.get(handle).unwrap().handle.set(handle).unwrap();
                    let old = place.swap(handle, Ordering::AcqRel);
                    if old != 0 {
                        table.remove(old).unwrap();
                    }
                } else {
                    let handle = place.load(Ordering::Acquire);
                    if let Ok(known) = table.get(handle) {
                        assert_eq!(known.handle.get(), Some(&handle));
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let work = &work;
                scope.spawn(move || work(thread));
            }
        });
        assert!(seen.load(Ordering::Relaxed) > 0);
        let left = places.iter().filter(|h| h.load(Ordering::Relaxed) != 0);
        assert_eq!(living.load(Ordering::Relaxed), left.count());
    }
}
