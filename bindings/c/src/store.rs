//! Opening, flushing and closing a store; the version of the library.

use crate::callbacks::Results;
use crate::error::{KEEPQ_OK, KEEPQ_TIMEOUT, guard, keepq_rc};
use crate::handle::{Table, Used};
use crate::opts::{keepq_open_opts, wait};
use crate::topic_opts::keepq_store_opts;
use crate::topics_at_hand::TopicsAtHand;
use crate::{fork, sized, text};
use engine::{Code, Error, Outcome, Producer, Result, Store, Topic};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

pub(crate) struct StoreEntry {
    pub(crate) store: Store,
    /// The process that opened it, by [`fork::here`].
    process: usize,
    topics: RwLock<TopicsAtHand<Topic>>,
    /// Opened by this handle. The engine limits their number.
    producers: RwLock<HashMap<String, Arc<Producer>>>,
    pub(crate) results: Arc<Results>,
    /// Calls of keepq_interrupt.
    pub(crate) interrupts: Arc<AtomicU64>,
}

pub(crate) static STORES: Table<StoreEntry> = Table::new(1, "store", "keepq_close");

impl StoreEntry {
    fn new(store: Store) -> Self {
        Self {
            store,
            process: fork::here(),
            topics: RwLock::default(),
            producers: RwLock::default(),
            results: Arc::default(),
            interrupts: Arc::default(),
        }
    }

    /// Whether it was opened before this process was forked. Its locks must not be touched then:
    /// threads that only the parent has may hold them.
    pub(crate) fn is_foreign(&self) -> bool {
        self.process != fork::here()
    }

    /// Sends to a topic by name, which is made if it is new. The topic is kept, so that a send does
    /// not look it up again. Deleted since, it refuses what is sent to it, and is made anew.
    #[inline]
    pub(crate) fn send_to<T>(&self, name: &[u8], send: impl Fn(&Topic) -> Result<T>) -> Result<T> {
        if let Some(topic) = self.topic_at_hand(name) {
            let sent = send(&topic);
            let refused =
                |e: &Error| e.code() == Code::NotFound && e.outcome() == Some(Outcome::NotStored);
            if !sent.as_ref().is_err_and(refused) {
                return sent;
            }
        }
        send(&*self.look_topic_up(name)?)
    }

    /// A topic by name, which is made if it is new or was deleted since.
    pub(crate) fn topic(&self, name: &[u8]) -> Result<Arc<Topic>> {
        if let Some(topic) = self.topic_at_hand(name) {
            let deleted = |e: Error| e.code() == Code::NotFound;
            if !topic.len().is_err_and(deleted) {
                return Ok(topic);
            }
        }
        self.look_topic_up(name)
    }

    #[inline]
    fn topic_at_hand(&self, name: &[u8]) -> Option<Arc<Topic>> {
        self.topics.read().get(name).map(Arc::clone)
    }

    #[cold]
    fn look_topic_up(&self, name: &[u8]) -> Result<Arc<Topic>> {
        let topic = Arc::new(self.store.topic(text::utf8(name, "topic")?)?);
        self.topics.write().put(name, Arc::clone(&topic));
        Ok(topic)
    }

    /// A named producer; opened if this handle has not done so.
    pub(crate) fn producer(&self, name: &str) -> Result<Arc<Producer>> {
        if let Some(producer) = self.producers.read().get(name) {
            return Ok(Arc::clone(producer));
        }
        let mut producers = self.producers.write();
        // Two that open it at the same time would fence each other.
        if let Some(producer) = producers.get(name) {
            return Ok(Arc::clone(producer));
        }
        let producer = Arc::new(self.store.producer(name)?);
        producers.insert(name.to_owned(), Arc::clone(&producer));
        Ok(producer)
    }

    /// A named producer, opened again: what others opened is fenced.
    pub(crate) fn open_producer(&self, name: &str) -> Result<Arc<Producer>> {
        let mut producers = self.producers.write();
        let producer = Arc::new(self.store.producer(name)?);
        producers.insert(name.to_owned(), Arc::clone(&producer));
        Ok(producer)
    }
}

/// The store behind a handle.
#[inline(always)]
pub(crate) fn store(q: *const keepq) -> Result<Used<'static, StoreEntry>> {
    let entry = STORES.get(q.addr())?;
    if entry.is_foreign() {
        return Err(foreign(&entry));
    }
    Ok(entry)
}

#[cold]
fn foreign(entry: &StoreEntry) -> Error {
    let text = format!(
        "the store {} was opened before this process was forked; open it again here",
        entry.store.path().display()
    );
    Error::new(Code::ForkedHandle, text)
}

/// ======== Stores ========
///
/// Opens a store: the directory `path`, which any number of processes share. Makes it, but not its
/// parent, if need be. opts may be NULL. On success *out is a handle for keepq_close, else NULL. A
/// process may open a store more than once; each handle then takes part on its own.
///
/// What it may have to do: nothing if others have the store open; take over what the last process
/// left in memory (a warm open, 1 ms); or read the log (after a reboot or a crash: some 100 MB a
/// second).
///
/// Errors: KEEPQ_E_NOT_FOUND (create = 0, or no parent directory), KEEPQ_E_ALREADY_EXISTS,
/// KEEPQ_E_NOT_A_STORE, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_UNSUPPORTED_FILESYSTEM,
/// KEEPQ_E_CONFIG_MISMATCH, KEEPQ_E_CORRUPT, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_STORAGE; the
/// disk's.
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
        // SAFETY: the caller promises the struct and the strings it points to.
        let opts = unsafe { sized::read(opts)?.to_engine() }?;
        fork::install()?;
        let entry = StoreEntry::new(opts.open(path)?);
        *out = std::ptr::without_provenance_mut(STORES.insert(entry)?);
        Ok(KEEPQ_OK)
    })
}

/// Flushes what this process sent, gives back what it received and did not settle, runs the
/// callbacks that are left on this thread, and closes. Afterwards no callback runs any more and the
/// handle is invalid, even when an error is returned: then something sent asynchronously may not be
/// on disk (its callback says so). Calls that other threads are making on the store end with
/// KEEPQ_E_CLOSED. Groups and messages of the store can still be closed and freed, and what was
/// read from a message stays valid until then.
///
/// From within a callback it works too; callbacks that are left run then before it returns. In a
/// forked child it forgets the handle and changes nothing.
///
/// Errors: KEEPQ_E_BAD_HANDLE; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_close(q: *mut keepq) -> keepq_rc {
    guard(|| {
        let entry = STORES.remove(q.addr())?;
        if entry.is_foreign() {
            return Ok(KEEPQ_OK);
        }
        let closed = entry.store.close();
        entry.results.close();
        closed.map(|()| KEEPQ_OK)
    })
}

/// Waits until everything sent and settled before this call, by anybody, is on disk. timeout_ms:
/// -1 = for ever, 0 = as far as it is. Returns KEEPQ_TIMEOUT when the time was over first. The
/// asynchronous sends of this handle have their results then; keepq_dispatch calls back.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_READ_ONLY,
/// KEEPQ_E_FAILED; the disk's.
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

/// Changes the store's own options, for every process, durably; what is 0 stays as it is. The first
/// limit counts what all topics keep already, which takes time in proportion to that. opts may not
/// be NULL.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_configure(q: *mut keepq, opts: *const keepq_store_opts) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        if opts.is_null() {
            return Err(text::null("opts"));
        }
        // SAFETY: the caller promises the struct.
        let opts = unsafe { sized::read(opts) }?;
        opts.change(entry.store.configure())?.apply()?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with the options that the store has now; -1 = none. They may be passed on to
/// keepq_configure.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_config(q: *mut keepq, out: *mut keepq_store_opts) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let config = entry.store.config()?;
        // SAFETY: the caller promises the struct.
        unsafe { sized::write(out, &keepq_store_opts::of(&config)) }?;
        Ok(KEEPQ_OK)
    })
}

/// Makes every keepq_receive and keepq_receive_batch that waits now, in any thread of this process
/// on this store, return KEEPQ_E_INTERRUPTED. From a thread, not from a signal handler.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_interrupt(q: *mut keepq) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        entry.interrupts.fetch_add(1, Ordering::Release);
        entry.store.interrupt();
        Ok(KEEPQ_OK)
    })
}

/// The library's version: major << 16 | minor << 8 | patch.
#[unsafe(no_mangle)]
pub extern "C" fn keepq_version() -> u32 {
    (KEEPQ_VERSION_MAJOR << 16) | (KEEPQ_VERSION_MINOR << 8) | KEEPQ_VERSION_PATCH
}

/// Behind KEEPQ_CHECK_ABI(): whether a program compiled with the header of this version can use the
/// library: same major version, and the same minor version while the major one is 0.
///
/// Errors: KEEPQ_E_INCOMPATIBLE.
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
