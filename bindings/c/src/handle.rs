//! Handles: opaque pointers whose value is an index into a table, never dereferenced.
//!
//! Invariants: a value is handed out once and never again, because each use of a slot has its own
//! generation and a slot whose generations are used up is retired. Kind, index and generation must
//! all match, so NULL, a closed handle, a handle of another kind and a made-up number are all
//! `KEEPQ_E_BAD_HANDLE`. A call holds a share of what its handle stands for: closing a handle while
//! another thread uses it is safe.

use engine::{Code, Error, Result};
use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const KIND_BITS: u32 = 2;
const INDEX_BITS: u32 = if usize::BITS >= 64 { 28 } else { 18 };
const GENERATION_BITS: u32 = usize::BITS - KIND_BITS - INDEX_BITS;
const MAX_INDEX: usize = (1 << INDEX_BITS) - 1;
const MAX_GENERATION: usize = (1 << GENERATION_BITS) - 1;

/// The handles of one kind.
pub(crate) struct Table<T> {
    /// Distinguishes the tables in a handle's lowest bits; never 0, so that no handle is NULL.
    kind: usize,
    noun: &'static str,
    closer: &'static str,
    /// Of the standard library: one that a forking thread can hold across the fork.
    slots: RwLock<Slots<T>>,
}

struct Slots<T> {
    all: Vec<Slot<T>>,
    free: Vec<usize>,
}

struct Slot<T> {
    generation: usize,
    value: Option<Arc<T>>,
}

impl<T> Table<T> {
    pub(crate) const fn new(kind: usize, noun: &'static str, closer: &'static str) -> Self {
        assert!(kind > 0 && kind < 1 << KIND_BITS);
        let slots = RwLock::new(Slots {
            all: Vec::new(),
            free: Vec::new(),
        });
        Self {
            kind,
            noun,
            closer,
            slots,
        }
    }

    // Nothing is left half done under the lock, so a panic under it spoils nothing.
    fn read(&self) -> RwLockReadGuard<'_, Slots<T>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots<T>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody else out until what this gives is dropped.
    pub(crate) fn lock_for_fork(&'static self) -> Option<Box<dyn Any>>
    where
        T: 'static,
    {
        crate::fork::take(|| match self.slots.try_write() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        })
    }

    /// Puts a value in and gives its handle.
    pub(crate) fn insert(&self, value: T) -> Result<usize> {
        let value = Arc::new(value);
        let mut slots = self.write();
        let index = match slots.free.pop() {
            Some(index) => index,
            None if slots.all.len() <= MAX_INDEX => {
                slots.all.push(Slot {
                    generation: 0,
                    value: None,
                });
                slots.all.len() - 1
            }
            None => return Err(self.exhausted()),
        };
        let slot = &mut slots.all[index];
        slot.value = Some(value);
        Ok(self.encode(index, slot.generation))
    }

    /// The value of a handle.
    pub(crate) fn get(&self, handle: usize) -> Result<Arc<T>> {
        let (index, generation) = self.decode(handle)?;
        let slots = self.read();
        match slots.all.get(index) {
            Some(slot) if slot.generation == generation => {
                slot.value.clone().ok_or_else(|| self.bad(handle))
            }
            _ => Err(self.bad(handle)),
        }
    }

    /// Takes the value out: from now on the handle is a bad one.
    pub(crate) fn remove(&self, handle: usize) -> Result<Arc<T>> {
        let (index, generation) = self.decode(handle)?;
        let mut slots = self.write();
        let slot = match slots.all.get_mut(index) {
            Some(slot) if slot.generation == generation => slot,
            _ => return Err(self.bad(handle)),
        };
        let value = slot.value.take().ok_or_else(|| self.bad(handle))?;
        if slot.generation < MAX_GENERATION {
            slot.generation += 1;
            slots.free.push(index);
        }
        Ok(value)
    }

    fn encode(&self, index: usize, generation: usize) -> usize {
        (generation << (INDEX_BITS + KIND_BITS)) | (index << KIND_BITS) | self.kind
    }

    fn decode(&self, handle: usize) -> Result<(usize, usize)> {
        if handle & ((1 << KIND_BITS) - 1) != self.kind {
            return Err(self.bad(handle));
        }
        let index = (handle >> KIND_BITS) & MAX_INDEX;
        Ok((index, handle >> (INDEX_BITS + KIND_BITS)))
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
        assert_eq!(table.read().all.len(), 1, "the slot is used again");
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
            usize::MAX,
            thing ^ (1 << 40),
        ] {
            assert_eq!(code(things.get(bad)), Some(Code::BadHandle), "{bad:#x}");
        }
        assert!(things.get(thing).is_ok());
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let table = Table::new(1, "thing", "thing_close");
        table.remove(table.insert(1).unwrap()).unwrap();
        table.write().all[0].generation = MAX_GENERATION;
        let last = table.insert(2).unwrap();
        table.remove(last).unwrap();
        let fresh = table.insert(3).unwrap();
        assert_eq!(code(table.get(last)), Some(Code::BadHandle));
        assert_eq!(table.decode(fresh).unwrap(), (1, 0));
    }
}
