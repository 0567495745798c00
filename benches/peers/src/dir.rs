//! The directory of one measurement.

use std::path::{Path, PathBuf};

use crate::{Res, cannot};

/// A directory that is removed with what is in it.
pub(crate) struct Dir {
    path: PathBuf,
}

impl Dir {
    pub(crate) fn new(parent: &Path, name: &str) -> Res<Self> {
        let path = parent.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(cannot("remove an old directory"))?;
        }
        std::fs::create_dir_all(&path).map_err(cannot("make a directory"))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What cannot be removed lies below target/bench, for everybody to see.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Every file below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Brings everything written so far to the disk, so that the next entrant does not pay for it.
pub(crate) fn settle_disk(dir: &Path) -> Res<()> {
    let handle = std::fs::File::open(dir).map_err(cannot("open the directory"))?;
    rustix::fs::syncfs(&handle).map_err(cannot("sync the file system"))
}

/// Asks the kernel to forget the pages of these files, as a reboot does.
pub(crate) fn forget_pages(dir: &Path) -> Res<()> {
    settle_disk(dir)?;
    for path in files(dir) {
        let file = std::fs::File::open(&path).map_err(cannot("open a file"))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(cannot("drop the pages of a file"))?;
    }
    Ok(())
}
