//! The simulated disk as one process sees it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::Content;
use super::sites::CallKind;
use super::state::{Body, Go, errno};
use super::world::SimWorld;
use crate::sys::{Disk, File, Open, Stat};

/// [`Disk`] over a [`SimWorld`].
pub(super) struct SimDisk {
    pub(super) world: SimWorld,
    pub(super) process: u64,
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")
}

impl Disk for SimDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.world.lock();
        let kind = if how == Open::Create {
            CallKind::Create
        } else {
            CallKind::Open
        };
        state.begin(self.process, kind)?;
        let ino = if how == Open::Create {
            let content = Arc::new(Content::new(state.options.unit));
            state.create(path, Body::File(content))?
        } else {
            state.find(path)?
        };
        let inode = state.inode_mut(ino)?;
        let failures = match &inode.body {
            Body::File(content) => content.failures,
            Body::Map(_) => 0,
            Body::Dir => return Err(not_regular()),
        };
        inode.open += 1;
        Ok(Arc::new(SimFile {
            world: self.world.clone(),
            process: self.process,
            ino,
            writable: how != Open::Read,
            failures_seen: AtomicU64::new(failures),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Rename)?;
        state.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Unlink)?;
        state.unlink(path)
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::MakeDir)?;
        if state.find(path).is_ok() {
            return state.dir(path).map(drop);
        }
        state.create(path, Body::Dir).map(drop)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::SyncDir)?;
        state.sync_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::List)?;
        let dir = state.dir(path)?;
        Ok(state
            .names
            .list(dir)
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    fn stat(&self, path: &str) -> io::Result<Stat> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Stat)?;
        let ino = state.find(path)?;
        state.stat(ino)
    }

    fn set_mode(&self, _mode: u32) {}

    fn display(&self, path: &str) -> PathBuf {
        PathBuf::from("/sim").join(path)
    }
}

/// One open file description.
struct SimFile {
    world: SimWorld,
    process: u64,
    ino: u64,
    writable: bool,
    /// Failed syncs of the file that this description was told of, or that came before it.
    failures_seen: AtomicU64,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(errno(libc::EBADF))
        }
    }
}

impl File for SimFile {
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.world.lock();
        let go = state.begin(self.process, CallKind::Pwrite)?;
        self.check_writable()?;
        let len = if go == Go::Short {
            bytes.len().div_ceil(2)
        } else {
            bytes.len()
        };
        let end = offset
            .checked_add(len as u64)
            .filter(|&end| i64::try_from(end).is_ok());
        if end.is_none() {
            return Err(errno(libc::EFBIG));
        }
        let free = state.free_units();
        if let Body::Map(map) = &state.inode(self.ino)?.body {
            let at = usize::try_from(offset).map_err(|_| errno(libc::EFBIG))?;
            return if map.arena.copy_in(at, &bytes[..len]) {
                Ok(len)
            } else {
                Err(errno(libc::ENOSPC))
            };
        }
        let content = state.content_mut(self.ino)?;
        let fits = content.fits(len, offset, free);
        if fits == 0 && len > 0 {
            return Err(errno(libc::ENOSPC));
        }
        content.write(&bytes[..fits], offset);
        Ok(fits)
    }

    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.world.lock();
        let go = state.begin(self.process, CallKind::Pread)?;
        let len = if go == Go::Short {
            bytes.len().div_ceil(2)
        } else {
            bytes.len()
        };
        match &state.inode(self.ino)?.body {
            Body::File(content) => Ok(content.read(&mut bytes[..len], offset)),
            Body::Map(map) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                let len = len.min(map.arena.len().saturating_sub(at));
                Ok(if map.arena.copy_out(at, &mut bytes[..len]) {
                    len
                } else {
                    0
                })
            }
            Body::Dir => Err(errno(libc::EISDIR)),
        }
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut state = self.world.lock();
        let go = state.begin(self.process, CallKind::Fdatasync);
        if state.alive.contains(&self.process) {
            state.note_sync();
        }
        if matches!(state.inode(self.ino)?.body, Body::Map(_)) {
            return go.map(drop);
        }
        let alive = state.alive.contains(&self.process);
        let told_once = state.options.told_once;
        let content = state.content_mut(self.ino)?;
        if let Err(error) = go {
            if alive {
                content.fail_sync();
                content.failures += u64::from(!told_once);
                self.failures_seen
                    .store(content.failures, Ordering::Relaxed);
            }
            return Err(error);
        }
        content.sync();
        // Everybody who had the file open when a sync failed is told once, and never again.
        if self.failures_seen.swap(content.failures, Ordering::Relaxed) < content.failures {
            return Err(errno(libc::EIO));
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Allocate)?;
        self.check_writable()?;
        if i64::try_from(len).is_err() {
            return Err(errno(libc::EFBIG));
        }
        let free = state.free_units();
        let content = state.content_mut(self.ino)?;
        if content.missing(len) > free {
            return Err(errno(libc::ENOSPC));
        }
        content.reserve(len);
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Stat)?;
        state.stat(self.ino)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.world.lock().close(self.ino);
    }
}
