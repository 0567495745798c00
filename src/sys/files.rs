//! The files of a store as the engine calls them: whole writes, named errors, counted calls.
//!
//! These are thin structs over [`Disk`] and [`File`]. Every method is `#[track_caller]`: in tests
//! the simulator counts each place of the engine that touches the disk and can fail or kill it
//! there. Through `dyn` that place would be lost, so the engine calls nothing but these.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Disk, File, Open, Stat};
use crate::error::{Code, Error, Result};

/// Tells the simulator which primitive is called from where; nothing in a release build.
macro_rules! disk_call {
    ($kind:ident) => {
        #[cfg(feature = "sim")]
        crate::sim::disk_call(crate::sim::CallKind::$kind, std::panic::Location::caller());
    };
}

/// The directory of a store.
#[derive(Clone)]
pub(crate) struct Dir {
    disk: Arc<dyn Disk>,
}

impl Dir {
    /// The files of `disk`.
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// New files get this mode from now on, new directories the same with x where r is set.
    pub(crate) fn set_mode(&self, mode: u32) {
        self.disk.set_mode(mode);
    }

    /// The full path, for messages.
    pub(crate) fn display(&self, path: &str) -> PathBuf {
        self.disk.display(path)
    }

    fn failed(&self, what: &str, path: &str, error: &std::io::Error) -> Error {
        Error::io(what, self.disk.display(path), error)
    }

    /// Opens or creates a regular file. Not found is [`Code::Storage`] with `ENOENT`.
    #[track_caller]
    pub(crate) fn open(&self, path: &str, how: Open) -> Result<Handle> {
        let what = if how == Open::Create {
            disk_call!(Create);
            "create"
        } else {
            disk_call!(Open);
            "open"
        };
        match self.disk.open(path, how) {
            Ok(file) => Ok(Handle {
                inner: Arc::new(Opened {
                    file,
                    path: path.to_owned(),
                    dir: self.clone(),
                }),
            }),
            Err(e) => Err(self.failed(what, path, &e)),
        }
    }

    /// Renames, replacing the target.
    #[track_caller]
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        disk_call!(Rename);
        self.disk
            .rename(from, to)
            .map_err(|e| self.failed("rename", from, &e))
    }

    /// Removes a file that must exist.
    #[track_caller]
    pub(crate) fn unlink(&self, path: &str) -> Result<()> {
        disk_call!(Unlink);
        self.disk
            .unlink(path)
            .map_err(|e| self.failed("remove", path, &e))
    }

    /// Removes a file if it is there; says whether it was.
    #[track_caller]
    pub(crate) fn unlink_if_there(&self, path: &str) -> Result<bool> {
        match self.unlink(path) {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes a directory; an existing one is fine.
    #[track_caller]
    pub(crate) fn make_dir(&self, path: &str) -> Result<()> {
        disk_call!(MakeDir);
        self.disk
            .make_dir(path)
            .map_err(|e| self.failed("make the directory", path, &e))
    }

    /// Makes the names in a directory durable (`""` is the store's own).
    #[track_caller]
    pub(crate) fn sync_dir(&self, path: &str) -> Result<()> {
        disk_call!(SyncDir);
        if broken!(NoDirSync) {
            return Ok(());
        }
        self.disk
            .sync_dir(path)
            .map_err(|e| self.failed("sync the directory", path, &e))
    }

    /// The names in a directory, sorted.
    #[track_caller]
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>> {
        disk_call!(List);
        self.disk
            .list(path)
            .map_err(|e| self.failed("list", path, &e))
    }

    /// Identity and length of a path that must exist; symbolic links are not followed.
    #[track_caller]
    pub(crate) fn stat(&self, path: &str) -> Result<Stat> {
        disk_call!(Stat);
        self.disk
            .stat(path)
            .map_err(|e| self.failed("look up", path, &e))
    }

    /// As [`Dir::stat`], `None` if there is no such file.
    #[track_caller]
    pub(crate) fn try_stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.stat(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads a whole file of at most `max` bytes; a longer one is [`Code::Corrupt`].
    #[track_caller]
    pub(crate) fn read_small(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        let file = self.open(path, Open::Read)?;
        let len = file.stat()?.len;
        let too_long = || {
            let path = self.disk.display(path);
            let text = format!(
                "{} is longer than {max} bytes, so it is damaged",
                path.display()
            );
            Error::new(Code::Corrupt, text).at_path(path)
        };
        let len = usize::try_from(len)
            .ok()
            .filter(|&len| len <= max)
            .ok_or_else(too_long)?;
        let mut bytes = vec![0; len];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// Puts `bytes` at `path` so that a crash at any moment leaves the old file or the new one,
    /// and a return means the new one stays: temporary file, sync, rename, directory sync.
    #[track_caller]
    pub(crate) fn write_durably(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let tmp = format!("{path}.tmp");
        self.unlink_if_there(&tmp)?;
        let file = self.open(&tmp, Open::Create)?;
        file.write_all_at(bytes, 0)?;
        if !broken!(NoFileSyncBeforeRename) {
            file.sync()?;
        }
        self.rename(&tmp, path)?;
        self.sync_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir))
    }
}

/// One open file of a store. Clones share the open file description.
#[derive(Clone)]
pub(crate) struct Handle {
    inner: Arc<Opened>,
}

struct Opened {
    file: Arc<dyn File>,
    path: String,
    dir: Dir,
}

impl Handle {
    /// The full path, for messages.
    pub(crate) fn display(&self) -> PathBuf {
        self.inner.dir.display(&self.inner.path)
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Error {
        self.inner.dir.failed(what, &self.inner.path, error)
    }

    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    #[track_caller]
    pub(crate) fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while !bytes.is_empty() {
            disk_call!(Pwrite);
            let at = |e: Error| e.at_position(offset);
            match self.inner.file.pwrite(bytes, offset) {
                // A device that takes nothing and says nothing: treated as full, or this would
                // go round for ever.
                Ok(0) => {
                    let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
                    return Err(at(self.failed("write", &full)));
                }
                Ok(n) => {
                    let n = n.min(bytes.len());
                    bytes = &bytes[n..];
                    offset = offset.saturating_add(n as u64);
                }
                Err(e) => return Err(at(self.failed("write", &e))),
            }
        }
        Ok(())
    }

    /// Reads until `bytes` is full or the file ends; returns how many bytes were read.
    #[track_caller]
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            disk_call!(Pread);
            let at = offset.saturating_add(done as u64);
            match self.inner.file.pread(&mut bytes[done..], at) {
                Ok(0) => break,
                Ok(n) => done = bytes.len().min(done + n),
                Err(e) => return Err(self.failed("read", &e).at_position(at)),
            }
        }
        Ok(done)
    }

    /// Makes what was written durable.
    #[track_caller]
    pub(crate) fn sync(&self) -> Result<()> {
        disk_call!(Fdatasync);
        if broken!(NoFdatasync) || (broken!(EveryThirdFdatasync) && third_sync()) {
            return Ok(());
        }
        let mut synced = self.inner.file.fdatasync();
        if synced.is_err() && broken!(FsyncRetriedAfterEio) {
            synced = self.inner.file.fdatasync();
        }
        synced.map_err(|e| self.failed("sync", &e))
    }

    /// Reserves space for `[0, len)` and extends the file to `len`.
    #[track_caller]
    pub(crate) fn allocate(&self, len: u64) -> Result<()> {
        disk_call!(Allocate);
        self.inner
            .file
            .allocate(len)
            .map_err(|e| self.failed("reserve space for", &e))
    }

    /// Identity and length.
    #[track_caller]
    pub(crate) fn stat(&self) -> Result<Stat> {
        disk_call!(Stat);
        self.inner
            .file
            .stat()
            .map_err(|e| self.failed("look up", &e))
    }
}

/// Whether this is a third call of its thread, for the switch that drops those.
#[cfg(feature = "sim")]
fn third_sync() -> bool {
    use std::cell::Cell;
    thread_local!(static SYNCS: Cell<u64> = const { Cell::new(0) });
    SYNCS.set(SYNCS.get() + 1);
    SYNCS.get() % 3 == 0
}

/// The switch does not exist in release builds, and this is never called.
#[cfg(not(feature = "sim"))]
fn third_sync() -> bool {
    false
}
