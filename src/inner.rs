//! An open store as its handles share it: the log, the keeper thread, and whether it may be used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::commitlog::Log;
use crate::delivery::{pins, putback, unnamed};
use crate::error::{Code, Error, Result};
use crate::in_flight::InFlight;
use crate::keeper::Keeper;
use crate::open;
use crate::options::{Flush, StoreOptions};
use crate::reports::RecoveryReport;
use crate::shm::control::{W_DURABLE, W_INCARNATION, W_PUBLISHED, W_WRITTEN};
use crate::shm::{member, wake};
use crate::sys::Env;

/// Pending bytes from which a send writes them to the file, so that the kernel can start on them.
const DRAIN: u64 = 64 << 10;
/// Unflushed bytes from which the keeper flushes before its interval is over.
const FLUSH_EARLY: u64 = 1 << 20;

/// What every handle of an open store shares.
pub(crate) struct Inner {
    pub(crate) log: Log,
    pub(crate) path: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) report: RecoveryReport,
    pub(crate) keeper: Arc<Keeper>,
    /// Asynchronous and one-way sends that wait for the disk.
    pub(crate) in_flight: Arc<InFlight>,
    /// This member's generation.
    pub(crate) generation: u32,
    /// Of the shared memory. Kept here, as a forked child has no such memory.
    incarnation: u64,
    /// Open for reading only while others have the store open: their shared memory.
    looking_at: Option<open::LookedAt>,
    closed: AtomicBool,
    /// The close has flushed, or could not.
    flushed: AtomicBool,
    /// Calls in progress hold it for reading; close for writing. A process must not give its
    /// member slot back while a thread of it is inside a lock.
    calls: RwLock<()>,
    /// Counts calls of `interrupt`.
    interrupts: AtomicU64,
    /// Pins in use by chunked sends of this process.
    pub(crate) pins: parking_lot::Mutex<u32>,
    pub(crate) pin_freed: parking_lot::Condvar,
    /// What is kept for whom, for statistics.
    pub(crate) pinned: pins::Cache,
    /// How many handles of each group there are. None: leaving it has failed, and is tried again.
    groups: parking_lot::Mutex<BTreeMap<u32, u32>>,
}

impl Inner {
    pub(crate) fn open(env: &Env, path: &Path, options: StoreOptions) -> Result<Arc<Self>> {
        let (log, report, looking_at) = if options.read_only {
            open::attach_to_look(env, &options)?
        } else {
            let (log, report) = open::attach(env, &options)?;
            (log, report, None)
        };
        let generation = if log.ctl.is_frozen() {
            0
        } else {
            member::generation(&log.ctl, log.ctl.me())
        };
        let inner = Arc::new_cyclic(|inner| Self {
            in_flight: InFlight::new(Arc::clone(&log.ctl.host), inner.clone()),
            incarnation: log.ctl.load(W_INCARNATION),
            log,
            path: path.to_path_buf(),
            options,
            report,
            keeper: Arc::new(Keeper::default()),
            generation,
            looking_at,
            closed: AtomicBool::new(false),
            flushed: AtomicBool::new(false),
            calls: RwLock::new(()),
            interrupts: AtomicU64::new(0),
            pins: parking_lot::Mutex::new(0),
            pin_freed: parking_lot::Condvar::new(),
            pinned: pins::Cache::default(),
            groups: parking_lot::Mutex::default(),
        });
        crate::trace::opened(&inner);
        Ok(inner)
    }

    /// Begins a call: refuses on a closed store and in a forked child.
    #[inline]
    pub(crate) fn enter(&self) -> Result<RwLockReadGuard<'_, ()>> {
        if self.log.ctl.host.forked() {
            return Err(self.forked());
        }
        let guard = self.calls.read_recursive();
        if self.closed.load(Ordering::Acquire) {
            return Err(self.closed_error());
        }
        if let Some(at) = &self.looking_at {
            self.check_looking(at)?;
        }
        Ok(guard)
    }

    /// Refuses what writes on a store that is open for reading only.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.log.ctl.is_frozen() {
            return Err(crate::shm::Ctl::read_only());
        }
        Ok(())
    }

    /// Whether what is looked at is still the store's shared memory.
    #[cold]
    fn check_looking(&self, at: &open::LookedAt) -> Result<()> {
        if at.is_current()? {
            return Ok(());
        }
        Err(Error::new(
            Code::StoreGone,
            format!(
                "the store {} was recovered by others since it was opened for reading; open it \
                 again",
                self.path.display()
            ),
        ))
    }

    #[cold]
    fn forked(&self) -> Error {
        Error::new(
            Code::ForkedHandle,
            format!(
                "the store {} was opened before this process was forked; open it again here",
                self.path.display()
            ),
        )
    }

    #[cold]
    fn closed_error(&self) -> Error {
        Error::new(
            Code::Closed,
            format!("the store {} was closed", self.path.display()),
        )
    }

    /// Refuses if the store is closed. Unlike [`Inner::enter`] it begins no call.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() {
            return Err(self.closed_error());
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Of a store that is closed or being closed: whether everything below this is durable, once
    /// the close has flushed.
    #[cold]
    pub(crate) fn closed_beyond(&self, end: u64) -> bool {
        loop {
            {
                let _closed = self.calls.read();
                if self.log.ctl.load(W_DURABLE) >= end || self.flushed.load(Ordering::Acquire) {
                    return self.log.ctl.load(W_DURABLE) >= end;
                }
            }
            // It still waits for other calls to end.
            self.log.ctl.host.pause(Duration::from_millis(1));
        }
    }

    /// The incarnation of shared memory: receipts of another one fit nothing.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn now(&self) -> u64 {
        self.log.ctl.host.boottime_ms()
    }

    /// BOOTTIME ms after so much time; `None` and overlong times never come.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> u64 {
        let ms = timeout.map_or(u64::MAX, |t| {
            u64::try_from(t.as_millis()).unwrap_or(u64::MAX)
        });
        self.now().saturating_add(ms)
    }

    /// How often waits were asked to stop so far.
    pub(crate) fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Acquire)
    }

    /// After an append: passes pending bytes on, and makes sure that somebody will flush them.
    #[inline]
    pub(crate) fn appended(self: &Arc<Self>) {
        let ctl = &self.log.ctl;
        let published = ctl.load(W_PUBLISHED);
        if published.saturating_sub(ctl.load(W_WRITTEN)) >= DRAIN {
            self.log.drain_if_free();
        }
        let hurry = published.saturating_sub(ctl.load(W_DURABLE)) >= FLUSH_EARLY;
        Keeper::unflushed(self, hurry);
    }

    /// Waits until `lsn` is durable if `flush` asks for it; returns whether it is known to be. The
    /// deadline is asked for only then.
    #[inline]
    pub(crate) fn settle_durability(
        self: &Arc<Self>,
        flush: Flush,
        lsn: u64,
        deadline: impl FnOnce() -> u64,
    ) -> Result<bool> {
        match flush {
            Flush::Async => {
                self.appended();
                Ok(false)
            }
            Flush::Sync => {
                if self.log.wait_durable(lsn, deadline())? {
                    Ok(true)
                } else {
                    Err(self.log.flush_timeout())
                }
            }
        }
    }

    /// Makes every wait of this process on this store return.
    pub(crate) fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::AcqRel);
        self.wake_waiters();
    }

    /// Notes one more handle of a group: with the first, this member is one of its consumers.
    pub(crate) fn enter_group(&self, group: u32) -> Result<()> {
        if self.log.ctl.is_frozen() {
            return Ok(());
        }
        let mut groups = self.groups.lock();
        unnamed::enter(&self.log, group)?;
        *groups.entry(group).or_insert(0) += 1;
        Ok(())
    }

    /// Notes one handle less. With the last one a group ends that is a consumer without a name.
    pub(crate) fn leave_group(&self, group: u32) -> Result<()> {
        let mut groups = self.groups.lock();
        match groups.get_mut(&group) {
            Some(handles) if *handles > 1 => *handles -= 1,
            Some(handles) => {
                *handles = 0;
                unnamed::leave(&self.log, group)?;
                groups.remove(&group);
            }
            None => {}
        }
        drop(groups);
        if unnamed::is_orphan(&self.log.ctl, group) {
            return unnamed::end_orphans(&self.log);
        }
        Ok(())
    }

    /// Leaves the groups that could not be left when their last handle was dropped. Whoever waits
    /// for that right now is not waited for.
    pub(crate) fn leave_rest(&self) -> Result<()> {
        let Some(mut groups) = self.groups.try_lock() else {
            return Ok(());
        };
        let none = |(&group, &handles): (&u32, &u32)| (handles == 0).then_some(group);
        let rest: Vec<u32> = groups.iter().filter_map(none).collect();
        for group in rest {
            unnamed::leave(&self.log, group)?;
            groups.remove(&group);
        }
        Ok(())
    }

    fn wake_waiters(&self) {
        for group in crate::delivery::registry::live_groups(&self.log.ctl) {
            wake::wake_whole_group(&self.log.ctl, group);
        }
    }

    /// Flushes, settles what is in flight, releases what this process holds and leaves. Later calls
    /// only wait for callbacks that still run.
    pub(crate) fn close(&self) -> Result<()> {
        if self.log.ctl.host.forked() {
            // The parent's membership is not ours to end.
            return Ok(());
        }
        if self.closed.swap(true, Ordering::AcqRel) {
            self.in_flight.stop();
            return Ok(());
        }
        if self.log.ctl.is_frozen() {
            // Nothing was taken.
            drop(self.calls.write());
            return Ok(());
        }
        self.wake_waiters();
        self.keeper.stop();
        let alone = self.calls.write();
        let log = &self.log;
        if let Err(e) = unnamed::end_own(log) {
            crate::trace::keeper_failed("ending broadcast consumers", &e);
        }
        let released = putback::release_member(log, (log.ctl.me(), self.generation), false);
        let flushed = match log.check_usable() {
            Ok(()) => {
                crate::keeper::before_leaving(log);
                log.flush_and_mark(log.ctl.patience())
            }
            Err(e) => Err(e),
        };
        let unsettled = match &flushed {
            Ok(()) => log.flush_timeout(),
            Err(e) => e.clone(),
        };
        self.in_flight.settle(self, Some((unsettled, u64::MAX)));
        let left = member::leave(&log.ctl);
        self.flushed.store(true, Ordering::Release);
        // What is open holds the space of segments that others remove.
        log.forget_files();
        // Callbacks may use the store: all they get is `Closed`, but they do get it. They may wait
        // for other sends, so their thread is waited for only now that every send is settled.
        drop(alone);
        self.in_flight.stop();
        self.in_flight.call_back_without_thread();
        released.and(flushed).and(left)
    }
}

/// An open store as its handles hold it: dropping the last of them closes the store, on the thread
/// that drops it. The threads of the engine hold an [`Inner`] for moments only, and never this.
pub(crate) struct Opened {
    inner: Arc<Inner>,
}

impl Opened {
    pub(crate) fn new(inner: Arc<Inner>) -> Arc<Self> {
        Arc::new(Self { inner })
    }
}

impl std::ops::Deref for Opened {
    type Target = Arc<Inner>;

    #[inline]
    fn deref(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if killed!() {
            return;
        }
        if let Err(e) = self.inner.close() {
            crate::trace::close_failed(&self.inner.path, &e);
        }
    }
}
