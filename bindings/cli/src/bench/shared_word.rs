//! Two words that two processes share, for the bare futex hop that keepq's hop is compared with.
//!
//! The only unsafe code here: a reference into a file both processes map.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::thread::futex;

const LENGTH: usize = 4096;

/// A mapped file with room for words.
pub(super) struct SharedWords {
    map: MmapRaw,
}

impl SharedWords {
    /// Maps the file, which is made if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(LENGTH as u64)?;
        Ok(Self {
            map: MmapOptions::new().len(LENGTH).map_raw(&file)?,
        })
    }

    fn word(&self, line: usize) -> &AtomicU32 {
        // One word to a cache line, and never past the end of the map.
        let offset = (line * 64).min(LENGTH - 64);
        let word = self.map.as_mut_ptr().wrapping_add(offset).cast::<u32>();
        // SAFETY: the map is LENGTH bytes, page-aligned, lives as long as `self`, and every
        // process touches it through atomics only.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// Stores a value and wakes who waits for it.
    pub(super) fn post(&self, line: usize, value: u32) -> io::Result<()> {
        self.word(line).store(value, Ordering::Release);
        futex::wake(self.word(line), futex::Flags::empty(), 1)?;
        Ok(())
    }

    /// Sleeps until the word has the value.
    pub(super) fn wait_for(&self, line: usize, value: u32) -> io::Result<()> {
        loop {
            let now = self.word(line).load(Ordering::Acquire);
            if now == value {
                return Ok(());
            }
            let limit = futex::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            match futex::wait(self.word(line), futex::Flags::empty(), now, Some(&limit)) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
