//! A real disk that is full as long as a file is there, for every process that was told of it.
//!
//! Others take whatever is given back at once: no file can grow. What has its length already has
//! its room too (the engine reserves it in one step), and can be written.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{Access, access, fstat};
use rustix::io::Errno;

static MARK: OnceLock<PathBuf> = OnceLock::new();

/// From now on the real disk is full for this process while a file of this name exists. Told once.
pub fn full_while_there_is(mark: PathBuf) {
    MARK.get_or_init(|| mark);
}

/// Whether this process takes the real disk for full.
#[must_use]
pub fn is_full() -> bool {
    MARK.get()
        .is_some_and(|mark| access(mark, Access::EXISTS).is_ok())
}

/// Refuses to let a real file grow to `end` on a full disk.
pub(crate) fn check_room(file: impl AsFd, end: u64) -> io::Result<()> {
    if is_full() {
        let len = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
        if end > len {
            return Err(Errno::NOSPC.into());
        }
    }
    Ok(())
}
