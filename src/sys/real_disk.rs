//! [`Disk`] over a real directory: every operation at its descriptor, every `EINTR` retried.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::Resource;

use super::at::{At, to_stat};
use super::{Disk, File, Open, Stat};

/// More names than any store has; a directory with more is not read into memory.
const MAX_NAMES: usize = 1 << 20;

/// The files of a store on a real file system.
#[derive(Clone)]
pub(crate) struct RealDisk {
    pub(super) at: At,
}

impl RealDisk {
    /// Opens the store's directory. New files get `mode`, whatever the umask; new directories the
    /// same with x where r is set.
    pub(crate) fn open_dir(path: &Path, mode: u32) -> io::Result<Self> {
        Ok(Self {
            at: At::open(path, mode)?,
        })
    }

    /// Makes the store's directory (its parent must exist; an existing one keeps its mode), makes
    /// its name durable and opens it.
    pub(crate) fn create_dir(path: &Path, mode: u32) -> io::Result<Self> {
        let made = match retry_on_intr(|| rustix::fs::mkdir(path, Mode::RWXU)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e.into()),
        };
        let disk = Self::open_dir(path, mode)?;
        if made {
            let mode = disk.at.dir_mode();
            retry_on_intr(|| rustix::fs::fchmod(disk.at.dir(), mode))?;
            retry_on_intr(|| rustix::fs::fsync(disk.at.dir()))?;
        }
        let parent = disk.sync_parent();
        // Somebody else's directory may lie in one that we may not read.
        if made {
            parent.map(|()| disk)
        } else {
            Ok(disk)
        }
    }

    /// Device and inode of the directory.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = to_stat(&rustix::fs::fstat(self.at.dir())?);
        Ok((stat.dev, stat.ino))
    }

    /// Whether two directories belong to the same user.
    pub(crate) fn same_owner(&self, other: &Self) -> io::Result<bool> {
        let owner = |disk: &Self| rustix::fs::fstat(disk.at.dir()).map(|stat| stat.st_uid);
        Ok(owner(self)? == owner(other)?)
    }

    /// Takes a directory back that was just made and turned out to be of no use.
    pub(crate) fn remove_empty_dir(path: &Path) {
        // If somebody has put something into it meanwhile, it stays.
        let _ = retry_on_intr(|| rustix::fs::rmdir(path));
    }

    fn sync_parent(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent =
            retry_on_intr(|| rustix::fs::openat(self.at.dir(), "..", flags, Mode::empty()))?;
        sync_dir_at(parent.as_fd())
    }
}

/// The largest size a file may grow to in this process (`ulimit -f`), if there is a limit.
///
/// Writing past it raises SIGXFSZ, which kills a process that does not expect it, so every write
/// and reservation is compared with the limit first and refused with `EFBIG`. The limit is asked
/// for each time (0.1 us): it can be changed from outside at any moment.
pub(crate) fn file_size_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Fsize).current
}

/// Refuses to let a file grow to `end` where that would raise SIGXFSZ.
pub(super) fn check_size(end: Option<u64>) -> io::Result<()> {
    match end {
        Some(end) if i64::try_from(end).is_ok() && file_size_limit().is_none_or(|l| end <= l) => {
            Ok(())
        }
        _ => Err(Errno::FBIG.into()),
    }
}

fn sync_dir_at(dir: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::fsync(dir)) {
        // The file system knows no such thing as syncing a directory (some that are refused by
        // default and used with the override).
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile {
            fd: self.at.open_file(path, how)?,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from_name) = self.at.parent(from)?;
        let (to_dir, to_name) = self.at.parent(to)?;
        Ok(retry_on_intr(|| {
            rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name)
        })?)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.at.unlink(path)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.at.parent(path)?;
        match retry_on_intr(|| rustix::fs::mkdirat(&parent, name, Mode::RWXU)) {
            Ok(()) => {
                let dir = self.at.open_dir(path)?;
                let mode = self.at.dir_mode();
                Ok(retry_on_intr(|| rustix::fs::fchmod(&dir, mode))?)
            }
            Err(Errno::EXIST) => self.at.open_dir(path).map(drop),
            Err(e) => Err(e.into()),
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return sync_dir_at(self.at.dir());
        }
        sync_dir_at(self.at.open_dir(path)?.as_fd())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut dir = rustix::fs::Dir::new(self.at.open_dir(path)?)?;
        let mut names = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours; it is shown as well as can be.
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == MAX_NAMES {
                return Err(super::at::refused(
                    "has more names in it than a store ever has",
                ));
            }
            names.push(name.into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn stat(&self, path: &str) -> io::Result<Stat> {
        let (parent, name) = self.at.parent(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        Ok(to_stat(&retry_on_intr(|| {
            rustix::fs::statat(&parent, name, flags)
        })?))
    }

    fn set_mode(&self, mode: u32) {
        self.at.set_mode(mode);
    }

    fn display(&self, path: &str) -> PathBuf {
        self.at.display(path)
    }
}

/// What is asked of an open file, and no times among it. With multigrain timestamps (Linux 6.13 on)
/// asking for the time of the last change makes the next write note a finer one: a change of the
/// inode for each flush, which costs a journal commit (0.04 ms, a third of an fdatasync).
const WITHOUT_TIMES: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::NLINK)
    .union(StatxFlags::INO)
    .union(StatxFlags::SIZE)
    .union(StatxFlags::BLOCKS);

struct RealFile {
    fd: OwnedFd,
}

impl File for RealFile {
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        check_size(
            u64::try_from(bytes.len())
                .ok()
                .and_then(|len| offset.checked_add(len)),
        )?;
        #[cfg(feature = "sim")]
        crate::sim::check_room(&self.fd, offset + bytes.len() as u64)?;
        Ok(retry_on_intr(|| {
            rustix::io::pwrite(&self.fd, bytes, offset)
        })?)
    }

    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| {
            rustix::io::pread(&self.fd, &mut *bytes, offset)
        })?)
    }

    fn fdatasync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.fd))?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        check_size(Some(len))?;
        if len == 0 {
            return Ok(());
        }
        #[cfg(feature = "sim")]
        crate::sim::check_room(&self.fd, len)?;
        match retry_on_intr(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), 0, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let now = rustix::fs::fstat(&self.fd)?.st_size;
                if u64::try_from(now).is_ok_and(|now| now >= len) {
                    return Ok(());
                }
                Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?)
            }
            result => Ok(result?),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        match rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, WITHOUT_TIMES) {
            Ok(found) => Ok(Stat {
                dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
                ino: found.stx_ino,
                links: u64::from(found.stx_nlink),
                len: found.stx_size,
                allocated: found.stx_blocks.saturating_mul(512),
                is_dir: FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory,
            }),
            Err(Errno::NOSYS) => Ok(to_stat(&rustix::fs::fstat(&self.fd)?)),
            Err(e) => Err(e.into()),
        }
    }
}
