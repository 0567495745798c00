//! The commit log: the only truth of a store.
//!
//! - [`append`] puts records into the tail ring under lock E and rolls segments.
//! - [`flush`] drains the ring to the files and makes them durable, under lock F.
//! - [`reseal`] writes what a failed flush left in doubt to a new file.
//! - [`recent`] and [`catalog`] say which segment holds a log position.
//! - [`index`] says which log position holds a topic's sequence.
//! - [`links`] says where a record lies that was copied forward, and what refers to what.
//! - [`read`] returns a record, from the ring or a file, checked.
//! - [`prepare`] makes segments ahead of need; [`sidecar`] writes their indexes;
//!   [`reclaim`] removes those that nothing needs.
//! - [`scan`] reads the log from the disk; [`recover`] finds its end after everybody died.

pub(crate) mod append;
pub(crate) mod catalog;
pub(crate) mod flush;
pub(crate) mod index;
pub(crate) mod links;
mod missing;
pub(crate) mod prepare;
pub(crate) mod read;
pub(crate) mod recent;
pub(crate) mod reclaim;
pub(crate) mod recover;
pub(crate) mod reseal;
pub(crate) mod scan;
pub(crate) mod sidecar;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use crate::error::{Code, Error, Result};
use crate::shm::Ctl;
use crate::shm::control::{FLUSH_FAILED, W_FLUSH_ERRNO, W_FLUSH_STATE};
use crate::sys::Dir;

/// LSNs that a segment's header takes.
pub(crate) const HEADER_SPAN: u64 = 4096;

/// Where segments lie.
pub(crate) const LOG_DIR: &str = "log";

/// The commit log of an open store, as this process sees it.
pub(crate) struct Log {
    pub(crate) ctl: Ctl,
    pub(crate) dir: Dir,
    pub(crate) uuid: [u8; 16],
    /// Whether prepared segments are zero-written, so that flushes need not commit metadata.
    pub(crate) prewrite: bool,
    pub(crate) catalog: Mutex<catalog::Catalog>,
    /// Descriptors this process writes segments through, by number. Used under F only.
    pub(crate) writers: Mutex<flush::Writers>,
    /// Sidecars in use.
    pub(crate) sidecars: Mutex<sidecar::Cache>,
    /// Links of segments that have no sidecar yet.
    pub(crate) region_links: Mutex<links::RegionLinks>,
    /// What whoever maintains the store is about to copy forward.
    pub(crate) moving: Mutex<reclaim::Moving>,
    /// A thread of this process holds the maintenance byte.
    pub(crate) maintaining: AtomicBool,
    /// When the disk last had no room for a segment (BOOTTIME ms), 0 = never.
    pub(crate) found_full_at: AtomicU64,
}

impl Log {
    /// The log of a store whose `ctl` is mapped.
    pub(crate) fn new(ctl: Ctl, dir: Dir, uuid: [u8; 16], prewrite: bool) -> Self {
        Self {
            ctl,
            dir,
            uuid,
            prewrite,
            catalog: Mutex::new(catalog::Catalog::default()),
            writers: Mutex::new(flush::Writers {
                buffer: Vec::new(),
                resealed: 0,
                open: BTreeMap::new(),
            }),
            sidecars: Mutex::new(sidecar::Cache::default()),
            region_links: Mutex::new(links::RegionLinks::default()),
            moving: Mutex::new(reclaim::Moving::default()),
            maintaining: AtomicBool::new(false),
            found_full_at: AtomicU64::new(0),
        }
    }

    /// The path of a file in the log's directory, relative to the store.
    pub(crate) fn path(name: &str) -> String {
        format!("{LOG_DIR}/{name}")
    }

    /// The error of a store whose flush failed for good, if it is one.
    pub(crate) fn check_usable(&self) -> Result<()> {
        if self.ctl.load(W_FLUSH_STATE) == FLUSH_FAILED {
            return Err(self.failed());
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn failed(&self) -> Error {
        let errno = i32::try_from(self.ctl.load(W_FLUSH_ERRNO)).unwrap_or(0);
        if matches!(errno, libc::ESTALE | libc::ENOENT) {
            return self.gone().with_errno(errno);
        }
        let why = std::io::Error::from_raw_os_error(errno);
        Error::new(
            Code::Failed,
            format!(
                "writing the log of {} failed ({why}) and so did writing it to another file; \
                 sends and acks are refused so that nothing is lost. Repair the disk, close the \
                 store in every process and open it again",
                self.dir.display("").display()
            ),
        )
        .at_path(self.dir.display(""))
        .with_errno(errno)
    }

    /// Tells of the store when a file is missing because all of them are.
    #[cold]
    pub(crate) fn or_gone(&self, error: Error) -> Error {
        let missing = error.errno() == Some(libc::ENOENT) || error.code() == Code::Corrupt;
        if missing
            && matches!(
                self.dir.try_stat(crate::format::superblock::SUPER),
                Ok(None)
            )
        {
            return self.gone();
        }
        error
    }

    /// The error of a store whose files were taken away under it.
    #[cold]
    pub(crate) fn gone(&self) -> Error {
        Error::new(
            Code::StoreGone,
            format!(
                "a file of the log of {} was deleted or truncated while the store was open; \
                 nothing more can be stored there. Close the store in every process; put the \
                 files back, or begin a new store",
                self.dir.display("").display()
            ),
        )
        .at_path(self.dir.display(LOG_DIR))
    }
}
