//! LOCK: one byte per member, held as OFD write locks of one open file description.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
#[cfg(test)]
use std::os::fd::RawFd;
use std::sync::Arc;

use memmap2::MmapOptions;
use rustix::io::{Errno, retry_on_intr};

use super::at::{At, check_regular};
use super::fork::{ForkMark, ParentOnlyFd, ParentOnlyMap};
use super::real_disk::check_size;
use super::{Open, Probe, Stat};

/// Length of LOCK. Its bytes are never written, only locked and mapped.
pub(crate) const LOCK_LEN: u64 = 4096;
const LOCK_MAP: usize = 4096;

#[cfg(target_env = "musl")]
use libc::flock as Flock;
#[cfg(not(target_env = "musl"))]
use libc::flock64 as Flock;

/// The opened LOCK of one member.
pub(super) struct LockFile {
    /// Keeps the open file description, and with it the locks, alive even if somebody closes
    /// every descriptor of the process (`os.closerange` in daemonizers). Not kept by children.
    _map: ParentOnlyMap,
    fd: ParentOnlyFd,
    stat: Stat,
}

impl LockFile {
    /// Opens LOCK; with `create` it is made if it is missing.
    pub(super) fn open(
        at: &At,
        mark: &Arc<ForkMark>,
        path: &str,
        create: bool,
    ) -> io::Result<Self> {
        let fd = ParentOnlyFd::open(|| match at.open_file(path, Open::Write) {
            Err(e) if create && e.raw_os_error() == Some(libc::ENOENT) => {
                match at.open_file(path, Open::Create) {
                    // Another process was faster.
                    Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                        at.open_file(path, Open::Write)
                    }
                    result => result,
                }
            }
            result => result,
        })?;
        if create && check_regular(fd.get()?)?.len < LOCK_LEN {
            check_size(Some(LOCK_LEN))?;
            let fd = fd.get()?;
            retry_on_intr(|| rustix::fs::ftruncate(fd, LOCK_LEN))?;
            retry_on_intr(|| rustix::fs::fsync(fd))?;
        }
        Self::of(fd, mark)
    }

    /// Opens LOCK for probing only.
    pub(super) fn open_to_look(at: &At, mark: &Arc<ForkMark>, path: &str) -> io::Result<Self> {
        Self::of(ParentOnlyFd::open(|| at.open_file(path, Open::Read))?, mark)
    }

    fn of(fd: ParentOnlyFd, mark: &Arc<ForkMark>) -> io::Result<Self> {
        let stat = check_regular(fd.get()?)?;
        let map = MmapOptions::new()
            .len(LOCK_MAP)
            .map_raw_read_only(fd.get()?.as_raw_fd())?;
        Ok(Self {
            _map: ParentOnlyMap::new(map, mark)?,
            fd,
            stat,
        })
    }

    pub(super) fn stat(&self) -> Stat {
        self.stat
    }

    #[cfg(test)]
    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.get().map_or(-1, |fd| fd.as_raw_fd())
    }

    pub(super) fn try_lock(&self, byte: u64) -> io::Result<bool> {
        let mut range = range_of(byte, libc::F_WRLCK)?;
        match self.control(libc::F_OFD_SETLK, &mut range) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn unlock(&self, byte: u64) -> io::Result<()> {
        let mut range = range_of(byte, libc::F_UNLCK)?;
        self.control(libc::F_OFD_SETLK, &mut range)
    }

    pub(super) fn probe(&self, first: u64, count: u64) -> io::Result<Probe> {
        let mut range = range_of(first, libc::F_WRLCK)?;
        range.l_len = i64::try_from(count).map_err(|_| Errno::INVAL)?;
        self.control(libc::F_OFD_GETLK, &mut range)?;
        if range.l_type == short(libc::F_UNLCK) {
            Ok(Probe::Free)
        } else {
            Ok(Probe::Held)
        }
    }

    fn control(&self, command: libc::c_int, range: &mut Flock) -> io::Result<()> {
        let fd = self.fd.get()?;
        loop {
            // SAFETY: the descriptor is open, and `range` is the structure these commands take.
            let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut *range) };
            if result != -1 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

fn range_of(byte: u64, kind: libc::c_int) -> io::Result<Flock> {
    let start = i64::try_from(byte).map_err(|_| Errno::INVAL)?;
    // SAFETY: a structure of plain integers, for which all zeros is a value. `l_pid` must be 0.
    let mut range: Flock = unsafe { std::mem::zeroed() };
    range.l_type = short(kind);
    range.l_whence = short(libc::SEEK_SET);
    range.l_start = start;
    range.l_len = 1;
    Ok(range)
}

/// The lock constants are `int`s that the structure holds as `short`s.
#[allow(clippy::cast_possible_truncation, reason = "constants 0 to 2")]
const fn short(constant: libc::c_int) -> libc::c_short {
    constant as libc::c_short
}
