//! [`Host`] over the real machine: OFD locks, shared maps, shared futexes and the kernel's clocks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use memmap2::MmapOptions;
use rustix::fs::{IFlags, Mode, OFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::rand::GetRandomFlags;
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};

use super::at::{At, check_regular, refused};
use super::fork::{ForkMark, ParentOnlyMap};
use super::lock_file::LockFile;
use super::real_disk::check_size;
use super::{Arena, Host, Open, Probe, RealDisk, Stat};

// A futex is 32 bits wide and its waiters name the low half of a 64-bit word by the word's address.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "keepq needs a little-endian machine"
);

const LOCK_NAME: &str = "LOCK";
/// A shared-memory file is never smaller than one page.
const MIN_MAP: u64 = 4096;
const BTRFS_MAGIC: u64 = 0x9123_683e;

/// The machine, as a process with the store open sees it.
pub(crate) struct RealHost {
    at: At,
    /// Where shared memory is made and mapped.
    maps: At,
    lock: OnceLock<LockFile>,
    /// Keeps two threads from opening LOCK at once: the second would hold bytes of its own.
    opening: parking_lot::Mutex<()>,
    mark: Arc<ForkMark>,
    boot_id: [u8; 16],
    /// What this process's time namespace adds to the time since boot.
    boottime_shift_ms: i64,
    pid: u32,
}

impl RealHost {
    /// The machine under the store of `disk`.
    pub(crate) fn new(disk: &RealDisk) -> io::Result<Self> {
        Self::with_maps(disk, disk)
    }

    /// The same, with shared memory in a directory of its own.
    pub(crate) fn with_maps(disk: &RealDisk, maps: &RealDisk) -> io::Result<Self> {
        Ok(Self {
            at: disk.at.clone(),
            maps: maps.at.clone(),
            lock: OnceLock::new(),
            opening: parking_lot::Mutex::new(()),
            mark: Arc::new(ForkMark::new()?),
            boot_id: read_boot_id()?,
            boottime_shift_ms: read_boottime_shift(),
            pid: std::process::id(),
        })
    }

    /// The number of LOCK's descriptor, for tests that close it behind our back.
    #[cfg(test)]
    pub(super) fn lock_fd(&self) -> std::os::fd::RawFd {
        self.lock.get().map_or(-1, LockFile::raw_fd)
    }

    fn lock(&self) -> io::Result<&LockFile> {
        self.lock.get().ok_or_else(|| Errno::BADF.into())
    }
}

impl Host for RealHost {
    fn open_lock(&self, create: bool) -> io::Result<()> {
        let _opening = self.opening.lock();
        if self.lock.get().is_none() {
            let opened = LockFile::open(&self.at, &self.mark, LOCK_NAME, create)?;
            let _ = self.lock.set(opened);
        }
        Ok(())
    }

    fn open_lock_to_look(&self) -> io::Result<()> {
        let _opening = self.opening.lock();
        if self.lock.get().is_none() {
            let opened = LockFile::open_to_look(&self.at, &self.mark, LOCK_NAME)?;
            let _ = self.lock.set(opened);
        }
        Ok(())
    }

    fn lock_stat(&self) -> io::Result<Stat> {
        Ok(self.lock()?.stat())
    }

    fn try_lock_byte(&self, byte: u64) -> io::Result<bool> {
        self.lock()?.try_lock(byte)
    }

    fn unlock_byte(&self, byte: u64) {
        // It can fail only after the descriptor was closed behind our back; the byte then stays
        // held until the process ends, which is the safe side.
        if let Ok(lock) = self.lock() {
            let _ = lock.unlock(byte);
        }
    }

    fn probe_byte(&self, byte: u64) -> io::Result<Probe> {
        self.lock()?.probe(byte, 1)
    }

    fn probe_bytes(&self, first: u64, count: u64) -> io::Result<Probe> {
        if count == 0 {
            // To the kernel a length of zero means all there are.
            return Ok(Probe::Free);
        }
        self.lock()?.probe(first, count)
    }

    fn create_map(&self, path: &str, len: u64) -> io::Result<Arena> {
        if len < MIN_MAP || len % 8 != 0 {
            return Err(Errno::INVAL.into());
        }
        let fd = self.maps.open_file(path, Open::Create)?;
        let made = fill_with_zeros(&fd, len).and_then(|()| map_whole(&self.mark, &fd, len));
        if made.is_err() {
            let _ = self.maps.unlink(path);
        }
        made
    }

    fn open_map(&self, path: &str) -> io::Result<(Arena, Stat)> {
        let fd = self.maps.open_file(path, Open::Write)?;
        let stat = check_map(&fd)?;
        Ok((map_whole(&self.mark, &fd, stat.len)?, stat))
    }

    fn open_map_to_look(&self, path: &str) -> io::Result<(Arena, Stat)> {
        let fd = self.maps.open_file(path, Open::Read)?;
        let stat = check_map(&fd)?;
        let len = usize::try_from(stat.len).map_err(|_| Errno::FBIG)?;
        let map = MmapOptions::new().len(len).map_raw_read_only(&fd)?;
        let map = ParentOnlyMap::new(map, &self.mark)?;
        let base = map.base();
        // SAFETY: a fresh shared mapping of `len` bytes for reading, page-aligned, alive as long as
        // its owner, made read-only before anything else; no reference to its bytes is made.
        let arena = unsafe { Arena::new(base, len, Arc::new(map)) };
        Ok((arena.read_only(), stat))
    }

    fn boottime_ms(&self) -> u64 {
        let here = millis(clock_gettime(ClockId::Boottime));
        u64::try_from(here.saturating_sub(self.boottime_shift_ms)).unwrap_or(0)
    }

    fn realtime_ms(&self) -> u64 {
        u64::try_from(millis(clock_gettime(ClockId::Realtime))).unwrap_or(0)
    }

    fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        let mut got = 0;
        while got < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[got..], GetRandomFlags::empty()) {
                Ok(n) => got += n,
                Err(Errno::INTR) => {}
                // Refused by a system-call filter: the standard library seeds its hash maps from
                // whatever the system has.
                Err(_) => return random_from_hasher(),
            }
        }
        u64::from_le_bytes(bytes)
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn wait(&self, arena: &Arena, offset: usize, expected: u32, timeout: Duration) {
        let Some(word) = futex_word(arena, offset) else {
            return;
        };
        let Ok(timeout) = Timespec::try_from(timeout) else {
            return;
        };
        // Woken, timed out, changed before the call or interrupted: the caller looks again.
        let _ = futex::wait(word, futex::Flags::empty(), expected, Some(&timeout));
    }

    fn wake(&self, arena: &Arena, offset: usize, count: u32) -> usize {
        let Some(word) = futex_word(arena, offset) else {
            return 0;
        };
        // The kernel reads the count as a signed number.
        let count = count.min(i32::MAX.unsigned_abs());
        futex::wake(word, futex::Flags::empty(), count).unwrap_or(0)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn nanos(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        seconds.unwrap_or(0).saturating_mul(1_000_000_000) + nanos.unwrap_or(0)
    }

    fn linger(&self, nanos: u64, enough: &dyn Fn() -> bool) {
        let started = self.nanos();
        while !enough() && self.nanos().saturating_sub(started) < nanos {
            rustix::thread::sched_yield();
        }
    }

    fn forked(&self) -> bool {
        self.mark.forked()
    }

    fn has_threads(&self) -> bool {
        true
    }
}

fn futex_word(arena: &Arena, offset: usize) -> Option<&AtomicU32> {
    let word = arena.word_ptr(offset)?;
    // SAFETY: inside the arena and aligned to 4 (checked by `word_ptr`), mapped as long as the
    // borrow of the arena lasts; the memory is shared, so it is only touched as an atomic.
    Some(unsafe { AtomicU32::from_ptr(word) })
}

fn check_map(fd: &OwnedFd) -> io::Result<Stat> {
    let stat = check_regular(fd.as_fd())?;
    if stat.len < MIN_MAP {
        return Err(refused("is shorter than any shared memory of a store"));
    }
    Ok(stat)
}

fn map_whole(mark: &Arc<ForkMark>, fd: &OwnedFd, len: u64) -> io::Result<Arena> {
    let len = usize::try_from(len).map_err(|_| Errno::FBIG)?;
    // A child that kept the map would see, and could change, what it is no member of.
    let map = ParentOnlyMap::new(MmapOptions::new().len(len).map_raw(fd)?, mark)?;
    let base = map.base();
    // SAFETY: a fresh shared mapping of `len` bytes, page-aligned, alive as long as its owner; no
    // reference to its bytes is made anywhere.
    Ok(unsafe { Arena::new(base, len, Arc::new(map)) })
}

/// Writes every byte, so that every page has its place on the disk and no store through the map
/// can raise SIGBUS later for lack of space.
fn fill_with_zeros(fd: &OwnedFd, len: u64) -> io::Result<()> {
    check_size(Some(len))?;
    #[cfg(feature = "sim")]
    crate::sim::check_room(fd, len)?;
    refuse_copy_on_write(fd);
    let zeros = vec![0; 256 * 1024];
    let mut at = 0;
    while at < len {
        let left = usize::try_from(len - at)
            .unwrap_or(usize::MAX)
            .min(zeros.len());
        match retry_on_intr(|| rustix::io::pwrite(fd, &zeros[..left], at))? {
            0 => return Err(Errno::NOSPC.into()),
            n => at += n as u64,
        }
    }
    Ok(())
}

/// On btrfs each writeback of a mapped page would need new space; switched off while the file is
/// empty, as far as the file system lets us.
fn refuse_copy_on_write(fd: &OwnedFd) {
    if rustix::fs::fstatfs(fd).is_ok_and(|fs| super::checks::magic(&fs) == BTRFS_MAGIC) {
        if let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
            let _ = rustix::fs::ioctl_setflags(fd, flags | IFlags::NOCOW);
        }
    }
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1000)
        .saturating_add(time.tv_nsec / 1_000_000)
}

fn random_from_hasher() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// Reads a file of /proc, up to `max` bytes of it.
pub(super) fn read_proc(path: &str, max: usize) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    let mut bytes = vec![0; max.min(4096)];
    let mut got = 0;
    loop {
        match retry_on_intr(|| rustix::io::read(&fd, &mut bytes[got..]))? {
            0 => break,
            n => got += n,
        }
        if got == bytes.len() {
            if got >= max {
                break;
            }
            bytes.resize(max.min(got * 2), 0);
        }
    }
    bytes.truncate(got);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_boot_id() -> io::Result<[u8; 16]> {
    let text = read_proc("/proc/sys/kernel/random/boot_id", 64)?;
    parse_uuid(text.trim()).ok_or_else(|| {
        let text = "/proc/sys/kernel/random/boot_id does not hold a boot id";
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|&c| c != '-')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok())
        .collect::<Option<_>>()?;
    if digits.len() == 32 {
        bytes.try_into().ok()
    } else {
        None
    }
}

/// What the time namespace adds to CLOCK_BOOTTIME here, so that members in several agree.
///
/// The file tells the offsets of the namespace that *children* will be in. It is one's own, except
/// in a process that called `unshare` for a new one and has not forked since; such a process is
/// taken to be in the first namespace itself, where the offset is zero.
fn read_boottime_shift() -> i64 {
    let own = rustix::fs::readlink("/proc/self/ns/time", Vec::new());
    let children = rustix::fs::readlink("/proc/self/ns/time_for_children", Vec::new());
    if own != children {
        return 0;
    }
    read_proc("/proc/self/timens_offsets", 1024).map_or(0, |text| parse_boottime_shift(&text))
}

fn parse_boottime_shift(text: &str) -> i64 {
    let mut lines = text.lines().map(str::split_whitespace);
    let Some(mut fields) =
        lines.find_map(|mut line| (line.next() == Some("boottime")).then_some(line))
    else {
        return 0;
    };
    let mut number = || {
        fields
            .next()
            .and_then(|field| field.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let (seconds, nanos) = (number(), number());
    seconds
        .saturating_mul(1000)
        .saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes_and_nothing_else() {
        let id = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").expect("a whole id");
        assert_eq!((id[0], id[1], id[15]), (0x00, 0x11, 0xff));
        for bad in [
            "",
            "0011",
            "zz112233-4455-6677-8899-aabbccddeeff",
            "0011223344556677",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
        assert_ne!(
            read_boot_id().expect("the boot id of this machine"),
            [0; 16]
        );
    }

    #[test]
    fn the_shift_of_a_time_namespace_is_read_in_milliseconds() {
        let text = "monotonic           0         0\nboottime       86400 500000000\n";
        assert_eq!(parse_boottime_shift(text), 86_400_500);
        assert_eq!(parse_boottime_shift("boottime -10 0\n"), -10_000);
        for bad in ["", "boottime", "boottime x y", "monotonic 5 0"] {
            assert_eq!(parse_boottime_shift(bad), 0, "{bad}");
        }
    }
}
