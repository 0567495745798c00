//! The only way to the operating system: files, locks, clocks, shared memory and futexes.
//!
//! Two seams make the engine provable. [`Disk`] is every operation on files whose result matters
//! for durability; [`Host`] is everything else a process asks of its machine (clock, liveness
//! locks, shared memory, waiting). The real ones are [`RealDisk`] and [`RealHost`]; the simulated
//! ones live in [`crate::sim`] and are compiled for tests only. Nothing durable is written through
//! a map, so a simulated `Disk` is complete.
//!
//! Paths are relative to the store's directory, with `/` and without `..`; `""` is the directory.

mod arena;
mod at;
mod checks;
mod event;
mod files;
mod fork;
mod lock_file;
mod look;
mod real_disk;
mod real_host;
#[cfg(test)]
pub(crate) mod tests;
mod thread;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use arena::Arena;
pub(crate) use checks::{check_filesystem, describe_filesystem};
pub(crate) use event::Event;
pub(crate) use files::{Dir, Handle};
#[cfg(feature = "sim")]
pub(crate) use lock_file::LOCK_LEN;
pub(crate) use look::looking;
pub(crate) use real_disk::{RealDisk, file_size_limit};
pub(crate) use real_host::RealHost;
pub(crate) use thread::spawn_quietly;

/// What `broken!` and `killed!` are in a build without the simulator.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub(crate) const fn never() -> bool {
    false
}

/// How [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file must not exist. Created with the disk's file mode whatever
    /// the umask.
    Create,
}

/// What [`Disk::stat`] and [`File::stat`] tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Device number.
    pub(crate) dev: u64,
    /// Inode number.
    pub(crate) ino: u64,
    /// Number of hard links; 0 once unlinked.
    pub(crate) links: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Bytes allocated on disk.
    pub(crate) allocated: u64,
    /// Whether it is a directory.
    pub(crate) is_dir: bool,
}

/// One open file (an open file description of its own).
pub(crate) trait File: Send + Sync {
    /// Writes at `offset`; may write less than asked. `EINTR` is retried inside.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reads at `offset`; 0 at or past the end of the file. `EINTR` is retried inside.
    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes what was written durable, with the metadata needed to read it back.
    fn fdatasync(&self) -> io::Result<()>;
    /// Reserves space for `[0, len)` and extends the file to `len` (`fallocate`); where the file
    /// system cannot, falls back to extending the file.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Identity and length.
    fn stat(&self) -> io::Result<Stat>;
}

/// The files of one store's directory, as one process sees them.
pub(crate) trait Disk: Send + Sync {
    /// Opens a regular file. A symbolic link, a file that is not regular or has more than one
    /// link is refused (`InvalidData` with a sentence).
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn File>>;
    /// Renames, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Makes a directory (mode 0700, or the disk's mode with x where r is set); existing is fine.
    fn make_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Identity and length of a path; symbolic links are not followed.
    fn stat(&self, path: &str) -> io::Result<Stat>;
    /// The mode of files that are created from now on.
    fn set_mode(&self, mode: u32);
    /// The full path, for messages.
    fn display(&self, path: &str) -> std::path::PathBuf;
}

/// A byte of LOCK, as another process's hold on it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Nobody else holds it.
    Free,
    /// Another open file description holds it.
    Held,
}

/// What a process asks of its machine, bound to one store directory.
///
/// The byte locks are OFD locks on the file LOCK: they belong to the open file description, so
/// they end with the process (or its last forked child that kept the descriptor) and never before.
pub(crate) trait Host: Send + Sync {
    /// Opens LOCK (creating it with `create`, never otherwise); later calls need it.
    fn open_lock(&self, create: bool) -> io::Result<()>;
    /// Opens LOCK, which must be there, for probing its bytes only: nothing of it can be locked.
    fn open_lock_to_look(&self) -> io::Result<()>;
    /// Identity of LOCK as opened.
    fn lock_stat(&self) -> io::Result<Stat>;
    /// Tries to take one byte of LOCK, without waiting.
    fn try_lock_byte(&self, byte: u64) -> io::Result<bool>;
    /// Gives one byte back.
    fn unlock_byte(&self, byte: u64);
    /// Whether some *other* open file description holds the byte. One's own hold reads `Free`.
    fn probe_byte(&self, byte: u64) -> io::Result<Probe>;
    /// The same for any of `count` bytes from `first` on.
    fn probe_bytes(&self, first: u64, count: u64) -> io::Result<Probe> {
        for byte in first..first.saturating_add(count) {
            if self.probe_byte(byte)? == Probe::Held {
                return Ok(Probe::Held);
            }
        }
        Ok(Probe::Free)
    }
    /// Creates a shared-memory file of `len` bytes, fully written with zeros, at `path` (which
    /// must not exist), and maps it.
    fn create_map(&self, path: &str, len: u64) -> io::Result<Arena>;
    /// Maps an existing shared-memory file whole. Refuses links and anything but a regular file.
    fn open_map(&self, path: &str) -> io::Result<(Arena, Stat)>;
    /// As `open_map`, for reading only: what is stored through the arena is dropped.
    fn open_map_to_look(&self, path: &str) -> io::Result<(Arena, Stat)>;
    /// Milliseconds since boot, suspend included, the same in every time namespace.
    fn boottime_ms(&self) -> u64;
    /// Milliseconds since 1970, by the wall clock.
    fn realtime_ms(&self) -> u64;
    /// The id of this boot of the machine.
    fn boot_id(&self) -> [u8; 16];
    /// Random bits.
    fn random(&self) -> u64;
    /// This process's id, for messages only.
    fn pid(&self) -> u32;
    /// Sleeps while the 32-bit word at `offset` (little half of the word) is `expected`, at most
    /// `timeout`. Returns early at will (signals, spurious wakes).
    fn wait(&self, arena: &Arena, offset: usize, expected: u32, timeout: Duration);
    /// Wakes at most `count` sleepers of the word; returns how many.
    fn wake(&self, arena: &Arena, offset: usize, count: u32) -> usize;
    /// Lets time pass before something is tried again that sends no wake-up.
    fn pause(&self, time: Duration);
    /// Nanoseconds of a clock that only runs forward, to measure with.
    fn nanos(&self) -> u64;
    /// Lets other threads run until there are `enough` of them, for so many nanoseconds at most.
    fn linger(&self, nanos: u64, enough: &dyn Fn() -> bool);
    /// Whether this process is a forked child of the one that made the host.
    fn forked(&self) -> bool;
    /// Whether engine threads may be started (not in the simulator, which calls them itself).
    fn has_threads(&self) -> bool;
}

/// The two seams together, as the engine carries them.
#[derive(Clone)]
pub(crate) struct Env {
    /// Files.
    pub(crate) disk: Arc<dyn Disk>,
    /// Everything else.
    pub(crate) host: Arc<dyn Host>,
    /// Where shared memory lies, if not with the files.
    pub(crate) runtime: Option<RuntimeDir>,
}

/// A directory for shared memory alone.
#[derive(Clone)]
pub(crate) struct RuntimeDir {
    /// As it was named when the store was made.
    pub(crate) named: String,
    /// The store's own directory in it.
    pub(crate) disk: Arc<dyn Disk>,
}
