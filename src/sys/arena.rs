//! Shared memory as 64-bit atomic words and raw byte copies at checked offsets.
//!
//! Nothing else in the engine touches `ctl`. No reference to its bytes is ever handed out: another
//! process may write at any time, so every value is copied first and validated by the caller.
//! Offsets come from the layout in `shm/control.rs` or from other shared words, so each access is
//! bounds-checked; an offset out of bounds reads as zero and writes nothing, and is caught by the
//! validation of the caller (a hostile `ctl` must not panic a process).
#![allow(unsafe_code)]

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A mapped (or, in the simulator, heap-allocated) block of shared words.
#[derive(Clone)]
pub(crate) struct Arena {
    base: *mut u8,
    len: usize,
    /// False: mapped for reading only. Stores do nothing.
    writable: bool,
    /// Keeps the memory mapped. Dropped last.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is shared between processes anyway; every access is an atomic word access or
// a raw copy that tolerates concurrent change, so sharing it between threads adds nothing.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Wraps `len` bytes at `base`, kept alive by `owner`.
    ///
    /// # Safety
    /// `base` is valid for reads and writes of `len` bytes (for reads, if it is made
    /// [`read_only`](Self::read_only) before it is used), aligned to 8, for as long as `owner`
    /// lives, and no Rust reference to the bytes exists elsewhere.
    pub(crate) unsafe fn new(base: *mut u8, len: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        assert!(
            base.addr() % 8 == 0,
            "the arena must be aligned to its words"
        );
        Self {
            base,
            len,
            writable: true,
            _owner: owner,
        }
    }

    /// The same memory for reading only: stores do nothing and no compare-and-swap
    /// succeeds.
    pub(crate) fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// A zeroed block of this process's own, of at least `len` bytes.
    pub(crate) fn heap(len: usize) -> Self {
        let words: Arc<Vec<AtomicU64>> = Arc::new(
            std::iter::repeat_with(AtomicU64::default)
                .take(len.div_ceil(8))
                .collect(),
        );
        let base = words.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the words are one allocation of at least `len` bytes, aligned to 8, that lives
        // as long as the vector its owner holds and is changed through atomics or raw copies only.
        unsafe { Self::new(base, len, words) }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The start, for the futex call of `sys`.
    pub(super) fn word_ptr(&self, offset: usize) -> Option<*mut u32> {
        (offset % 4 == 0 && offset.checked_add(4)? <= self.len)
            // SAFETY: the offset was just checked to lie inside the block.
            .then(|| unsafe { self.base.add(offset).cast::<u32>() })
    }

    #[inline]
    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        if offset & 7 != 0 || offset > self.len.wrapping_sub(8) {
            return None;
        }
        // SAFETY: in bounds and aligned (checked above; `len` is at least a page); AtomicU64 may
        // alias memory that others change, as all of them use atomics or raw copies.
        Some(unsafe { &*self.base.add(offset).cast::<AtomicU64>() })
    }

    /// All words, for whoever changes many of them and checks their places itself. None where
    /// the memory is mapped for reading only.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let count = if self.writable { self.len / 8 } else { 0 };
        // SAFETY: the block has `count` whole words, aligned to 8, for as long as `self` lives;
        // AtomicU64 may alias memory that others change, as all of them use atomics or raw copies.
        unsafe { std::slice::from_raw_parts(self.base.cast::<AtomicU64>(), count) }
    }

    /// Reads a word (acquire).
    #[inline]
    pub(crate) fn load(&self, offset: usize) -> u64 {
        self.word(offset).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Writes a word (release). State words go through `shm::Tx::set` instead.
    #[inline]
    pub(crate) fn store(&self, offset: usize, value: u64) {
        if let Some(w) = self.word(offset).filter(|_| self.writable) {
            w.store(value, Ordering::Release);
        }
    }

    /// Compares and swaps a word (acquire and release); `Err` holds the word found.
    #[inline]
    pub(crate) fn cas(&self, offset: usize, old: u64, new: u64) -> Result<u64, u64> {
        match self.word(offset) {
            Some(w) if !self.writable => Err(w.load(Ordering::Acquire)),
            Some(w) => w.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire),
            None => Err(0),
        }
    }

    /// Adds to a word, wrapping; returns what it was.
    #[inline]
    pub(crate) fn fetch_add(&self, offset: usize, add: u64) -> u64 {
        match self.word(offset) {
            Some(w) if self.writable => w.fetch_add(add, Ordering::AcqRel),
            Some(w) => w.load(Ordering::Acquire),
            None => 0,
        }
    }

    /// Copies bytes in. The caller orders it against readers (release store of a position after).
    /// Out of bounds: nothing is written and false is returned.
    #[inline]
    #[must_use]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len()) else {
            return false;
        };
        if end > self.len || !self.writable {
            return false;
        }
        // SAFETY: the target range is inside the block; `bytes` is a private slice, so the two do
        // not overlap. Readers in other processes may see a mix of old and new bytes: they copy,
        // check a CRC, and re-read the watermark that says whether the copy may be used.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len());
        }
        true
    }

    /// Copies bytes out. A concurrent writer may tear them: validate the copy.
    #[inline]
    #[must_use]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len()) else {
            return false;
        };
        if end > self.len {
            return false;
        }
        // SAFETY: as in `copy_in`, with the roles swapped.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(offset), bytes.as_mut_ptr(), bytes.len());
        }
        true
    }

    /// Orders everything before against everything after, between processes.
    #[inline]
    pub(crate) fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
