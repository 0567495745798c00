//! Opening, flushing and closing a store; the version of the library.

use crate::error::{KEEPQ_OK, KEEPQ_TIMEOUT, guard, keepq_rc};
use crate::handle::Table;
use crate::opts::{keepq_open_opts, wait};
use crate::{sized, text};
use engine::{Code, Error, Result, Store, Topic};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::Arc;

/// Major version of this header.
pub const KEEPQ_VERSION_MAJOR: u32 = 0;
/// Minor version of this header.
pub const KEEPQ_VERSION_MINOR: u32 = 1;
/// Patch version of this header.
pub const KEEPQ_VERSION_PATCH: u32 = 0;

/// An open store. Any number of threads may use one handle at the same time.
pub struct keepq {
    _never_looked_at: [u8; 0],
}

/// How many topics a store handle keeps at hand for keepq_send.
const TOPICS_AT_HAND: usize = 256;

pub(crate) struct StoreEntry {
    pub(crate) store: Store,
    topics: RwLock<HashMap<String, Topic>>,
}

static STORES: Table<StoreEntry> = Table::new(1, "store", "keepq_close");

impl StoreEntry {
    /// A topic by name; made if it is new. Kept, so that a send does not look it up again.
    pub(crate) fn topic(&self, name: &str) -> Result<Topic> {
        if let Some(topic) = self.topics.read().get(name) {
            return Ok(topic.clone());
        }
        let topic = self.store.topic(name)?;
        let mut topics = self.topics.write();
        if topics.len() >= TOPICS_AT_HAND {
            topics.clear();
        }
        topics.insert(name.to_owned(), topic.clone());
        Ok(topic)
    }
}

/// The store behind a handle.
pub(crate) fn store(q: *const keepq) -> Result<Arc<StoreEntry>> {
    STORES.get(q.addr())
}

/// Opens a store: a directory that any number of processes share. Makes it if need be. opts may be
/// NULL. On success *out is a handle for keepq_close, else NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_open(
    path: *const c_char,
    opts: *const keepq_open_opts,
    out: *mut *mut keepq,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the handle.
        let out = unsafe { out.as_mut() }.ok_or_else(|| text::null("out"))?;
        *out = std::ptr::null_mut();
        // SAFETY: the caller promises a string.
        let path = unsafe { text::path(path) }?;
        // SAFETY: the caller promises the struct.
        let opts = unsafe { sized::read(opts) }?;
        let store = opts.to_engine()?.open(path)?;
        let entry = StoreEntry {
            store,
            topics: RwLock::default(),
        };
        *out = std::ptr::without_provenance_mut(STORES.insert(entry)?);
        Ok(KEEPQ_OK)
    })
}

/// Flushes what this process sent, and closes. The handle is invalid afterwards even when an error
/// is returned. Groups and messages of the store can still be closed and freed, nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_close(q: *mut keepq) -> keepq_rc {
    guard(|| {
        let entry = STORES.remove(q.addr())?;
        entry.store.close()?;
        Ok(KEEPQ_OK)
    })
}

/// Waits until everything sent before this call is on disk. timeout_ms: -1 = for ever. Returns
/// KEEPQ_TIMEOUT when the time was over first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_flush(q: *mut keepq, timeout_ms: i64) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        let timeout = wait(timeout_ms)?;
        let timeout = (timeout < std::time::Duration::MAX).then_some(timeout);
        Ok(if entry.store.flush(timeout)? {
            KEEPQ_OK
        } else {
            KEEPQ_TIMEOUT
        })
    })
}

/// The library's version: major << 16 | minor << 8 | patch.
#[unsafe(no_mangle)]
pub extern "C" fn keepq_version() -> u32 {
    (KEEPQ_VERSION_MAJOR << 16) | (KEEPQ_VERSION_MINOR << 8) | KEEPQ_VERSION_PATCH
}

/// Behind KEEPQ_CHECK_ABI(): whether a program compiled with the header of this version can use the
/// library: same major version, and the same minor version while the major one is 0.
#[unsafe(no_mangle)]
pub extern "C" fn keepq_check_abi(header_version: u32) -> keepq_rc {
    guard(|| {
        let library = keepq_version();
        let shown = |v: u32| format!("{}.{}.{}", v >> 16, (v >> 8) & 0xff, v & 0xff);
        let kept = if KEEPQ_VERSION_MAJOR == 0 { 8 } else { 16 };
        if header_version >> kept == library >> kept {
            return Ok(KEEPQ_OK);
        }
        let text = format!(
            "the program was compiled with keepq.h {} and runs with libkeepq {}; compile it again",
            shown(header_version),
            shown(library)
        );
        Err(Error::new(Code::Incompatible, text))
    })
}
