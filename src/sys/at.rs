//! One directory's descriptor and everything that is looked up beneath it.
//!
//! A name is never resolved from the root of the file system again: the store keeps the directory
//! it opened even if the path to it is renamed or replaced, and no name in it can lead out.
//! `openat2` does that in the kernel; where it is missing (before Linux 5.6) or filtered away (old
//! container runtimes answer EPERM), each component is opened with `O_NOFOLLOW` instead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{Open, Stat};

/// A directory held open, with the modes that new files and directories in it get.
#[derive(Clone)]
pub(super) struct At(Arc<Inner>);

struct Inner {
    dir: OwnedFd,
    path: PathBuf,
    /// Of the files that are made.
    mode: AtomicU32,
    /// Set once `openat2` proved to be missing, so that it is not tried each time.
    without_openat2: AtomicBool,
}

/// The directory a name lies in: the store itself, or one opened beneath it.
pub(super) enum Parent<'a> {
    Store(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Store(fd) => fd.as_fd(),
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl At {
    /// Opens a directory. Symbolic links in the path to it are the user's own and are followed.
    pub(super) fn open(path: &Path, mode: u32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Self(Arc::new(Inner {
            dir,
            path: path.to_path_buf(),
            mode: AtomicU32::new(mode & 0o777),
            without_openat2: AtomicBool::new(false),
        })))
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.0.dir.as_fd()
    }

    pub(super) fn display(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.0.path.clone()
        } else {
            self.0.path.join(path)
        }
    }

    pub(super) fn dir_mode(&self) -> Mode {
        dir_mode(self.mode())
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.0.mode.load(Ordering::Relaxed))
    }

    /// The mode of files that are made from now on.
    pub(super) fn set_mode(&self, mode: u32) {
        self.0.mode.store(mode & 0o777, Ordering::Relaxed);
    }

    /// Opens a regular file with one link; see [`super::Disk::open`].
    pub(super) fn open_file(&self, path: &str, how: Open) -> io::Result<OwnedFd> {
        // O_NONBLOCK so that a fifo put in a file's place cannot stop the process; it means
        // nothing for the regular file that is left after the check.
        let common = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let (flags, mode) = match how {
            Open::Read => (OFlags::RDONLY, Mode::empty()),
            Open::Write => (OFlags::RDWR, Mode::empty()),
            // Nobody else may open it before it has its own mode.
            Open::Create => (
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
                Mode::RWXU & !Mode::XUSR,
            ),
        };
        let fd = self
            .open_beneath(path, common | flags, mode)
            .map_err(|e| match e {
                Errno::LOOP => refused("is a symbolic link, which a store never contains"),
                Errno::ISDIR | Errno::NXIO => refused("is not a regular file"),
                e => e.into(),
            })?;
        if how == Open::Create {
            if let Err(e) = retry_on_intr(|| rustix::fs::fchmod(&fd, self.mode())) {
                let _ = self.unlink(path);
                return Err(e.into());
            }
        }
        check_regular(fd.as_fd())?;
        Ok(fd)
    }

    /// Opens a directory beneath (or `""`, the store's own) for reading and syncing.
    pub(super) fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(self.open_beneath(path, flags, Mode::empty())?)
    }

    /// The directory that holds the last name of `path`, and that name.
    pub(super) fn parent<'p>(&self, path: &'p str) -> Result<(Parent<'_>, &'p str), Errno> {
        check_path(path)?;
        match path.rsplit_once('/') {
            _ if path.is_empty() => Ok((Parent::Store(self.dir()), ".")),
            None => Ok((Parent::Store(self.dir()), path)),
            Some((dir, name)) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok((
                    Parent::Below(self.open_beneath(dir, flags, Mode::empty())?),
                    name,
                ))
            }
        }
    }

    pub(super) fn unlink(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(retry_on_intr(|| {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())
        })?)
    }

    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        check_path(path)?;
        let path = if path.is_empty() { "." } else { path };
        if self.0.without_openat2.load(Ordering::Relaxed) {
            return self.open_by_component(path, flags, mode);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match retry_on_intr(|| rustix::fs::openat2(self.dir(), path, flags, mode, resolve)) {
            Err(e @ (Errno::NOSYS | Errno::PERM)) => {
                let opened = self.open_by_component(path, flags, mode);
                // EPERM may also be the file's own answer (an immutable file): then the plain
                // open says so too, and openat2 stays in use.
                if e == Errno::NOSYS || opened.is_ok() {
                    self.0.without_openat2.store(true, Ordering::Relaxed);
                }
                opened
            }
            result => result,
        }
    }

    fn open_by_component(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut parent = Parent::Store(self.dir());
        let mut rest = path;
        while let Some((first, after)) = rest.split_once('/') {
            let via = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = retry_on_intr(|| rustix::fs::openat(&parent, first, via, Mode::empty()))?;
            parent = Parent::Below(next);
            rest = after;
        }
        retry_on_intr(|| rustix::fs::openat(&parent, rest, flags | OFlags::NOFOLLOW, mode))
    }

    /// Makes the next opens go without `openat2`, as on an old kernel.
    #[cfg(test)]
    pub(super) fn forget_openat2(&self) {
        self.0.without_openat2.store(true, Ordering::Relaxed);
    }
}

/// The mode of directories: that of files, with x wherever r is set; and where a group may write,
/// what is made in them gets their group.
pub(super) fn dir_mode(file_mode: Mode) -> Mode {
    let raw = file_mode.as_raw_mode();
    let group = if raw & 0o060 == 0o060 { 0o2000 } else { 0 };
    Mode::from_raw_mode(raw | ((raw & 0o444) >> 2) | group)
}

/// What `fstat` found, in the engine's words.
pub(super) fn to_stat(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        #[allow(clippy::useless_conversion, reason = "32 bits wide on some machines")]
        links: u64::from(stat.st_nlink),
        len: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512),
        is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
    }
}

/// Refuses whatever is not a regular file with exactly one name.
pub(super) fn check_regular(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("is not a regular file"));
    }
    match stat.st_nlink {
        1 => Ok(to_stat(&stat)),
        // Removed between its opening and this look: the same as not found.
        0 => Err(Errno::NOENT.into()),
        _ => Err(refused(
            "has a second hard link, so that others may change it",
        )),
    }
}

/// A file that a store must not use, with the reason.
pub(super) fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it {why}"))
}

fn check_path(path: &str) -> Result<(), Errno> {
    let whole = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if whole { Ok(()) } else { Err(Errno::INVAL) }
}
