//! The keeper: one thread per open store that does what nobody waits for.
//!
//! It flushes asynchronous sends within their interval, and every 50 ms looks after what others
//! left: bytes that a dead sender did not flush, leases of dead members, expired leases, segments
//! to prepare, sidecars and snapshots to write, segments to remove. It is started at the first
//! send or receive. Nothing depends on it for correctness: whoever waits does the same work.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::commitlog::Log;
use crate::commitlog::append::region_of;
use crate::delivery::tidy::{self, When};
use crate::delivery::{coalesced, gone, putback, snapshot, unnamed};
use crate::error::{Code, Result};
use crate::inner::Inner;
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, G_SETTLED, G_SNAP_END, W_DURABLE, W_PUBLISHED, X_NUMBER,
};
use crate::shm::{member, wake};

/// The thread's stack, in bytes: it runs nothing but the engine.
const STACK: usize = 256 << 10;

/// Something was appended.
const TOLD: u8 = 1;
/// So much was appended that it should not wait for the end of its interval.
const HURRIED: u8 = 2;

/// The thread's side of an open store.
#[derive(Default)]
pub(crate) struct Keeper {
    started: AtomicBool,
    /// What the thread was told since it last looked ([`TOLD`], [`HURRIED`]), so that senders do
    /// not take its lock for each message.
    told: AtomicU8,
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    work: bool,
    hurry: bool,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Makes sure that the thread runs. Cheap when it does.
    #[inline]
    pub(crate) fn start(inner: &Arc<Inner>) {
        if !inner.keeper.started.load(Ordering::Relaxed) {
            Self::start_thread(inner);
        }
    }

    #[cold]
    fn start_thread(inner: &Arc<Inner>) {
        if !inner.log.ctl.host.has_threads() {
            return;
        }
        let mut state = inner.keeper.state.lock();
        if state.stop || inner.keeper.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(inner);
        let keeper = Arc::clone(&inner.keeper);
        let interval = inner.options.flush_interval;
        let spawned =
            crate::sys::spawn_quietly("keepq-keeper", STACK, move || run(&keeper, &weak, interval));
        match spawned {
            Ok(thread) => state.thread = Some(thread),
            Err(e) => {
                // Without the thread, waiters and the next open do its work.
                let e = crate::Error::io("start a thread for", &inner.path, &e);
                crate::trace::keeper_failed("no keeper", &e);
            }
        }
    }

    /// Something was appended that nobody waits for.
    #[inline]
    pub(crate) fn unflushed(inner: &Arc<Inner>, hurry: bool) {
        Self::start(inner);
        let keeper = &inner.keeper;
        let what = if hurry { HURRIED } else { TOLD };
        if keeper.told.load(Ordering::Relaxed) < what {
            keeper.tell(what);
        }
    }

    #[cold]
    fn tell(&self, what: u8) {
        let hurry = what == HURRIED;
        self.told.fetch_max(what, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.work && (state.hurry || !hurry) {
            return;
        }
        state.work = true;
        state.hurry |= hurry;
        self.wanted.notify_one();
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.stop = true;
            self.wanted.notify_all();
            state.thread.take()
        };
        if let Some(thread) = thread {
            // The thread itself may drop the last handle.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    /// Sleeps until there is something to do, at most `longest`. False: stop.
    fn sleep(&self, longest: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stop && !state.work {
            self.wanted.wait_for(&mut state, longest);
        }
        !state.stop
    }

    /// Lets the interval pass, or less when much is pending. False: stop.
    fn gather(&self, interval: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stop && !state.hurry {
            self.wanted.wait_for(&mut state, interval);
        }
        state.work = false;
        state.hurry = false;
        !state.stop
    }
}

/// The thread holds the keeper, not the store, while it sleeps: dropping the last handle closes.
fn run(keeper: &Keeper, weak: &Weak<Inner>, interval: Duration) {
    let mut quiet = Quiet::default();
    while keeper.sleep(wake::LOOK) {
        let Some(pending) = weak.upgrade().map(|inner| inner.log.unflushed() > 0) else {
            return;
        };
        if !keeper.gather(if pending { interval } else { Duration::ZERO }) {
            return;
        }
        keeper.told.store(0, Ordering::Relaxed);
        let Some(inner) = weak.upgrade() else { return };
        let Ok(_call) = inner.enter() else { return };
        let ctl = &inner.log.ctl;
        if ctl.load(W_PUBLISHED) > ctl.load(W_DURABLE) {
            report(
                "flushing in the background",
                inner.log.flush_now(ctl.patience()),
            );
        }
        report("leaving groups", inner.leave_rest());
        look(&inner.log);
        if quiet.lasts(inner.log.tail()) {
            report("giving space back", give_back(&inner.log));
            let marked = inner.log.mark_durable(ctl.patience());
            report("writing a watermark", marked.map(|_| ()));
        }
    }
}

/// How long nothing was appended.
#[derive(Default)]
struct Quiet {
    tail: u64,
    rounds: u32,
}

impl Quiet {
    /// Rounds of 50 ms after which a watermark is written: once, after about half a second.
    const ROUNDS: u32 = 10;

    fn lasts(&mut self, tail: u64) -> bool {
        self.rounds = if tail == self.tail {
            self.rounds.saturating_add(1)
        } else {
            0
        };
        self.tail = tail;
        self.rounds == Self::ROUNDS
    }
}

fn report(what: &str, result: Result<()>) {
    if let Err(e) = result {
        crate::trace::keeper_failed(what, &e);
    }
}

/// Looks after everything once. The simulator calls it in place of the thread.
pub(crate) fn look(log: &Log) {
    let ctl = &log.ctl;
    let swept = member::sweep(ctl, &|slot, generation| {
        putback::release_member(log, (slot, generation), true)
    });
    report("cleaning up after dead members", swept.map(|_| ()));
    report("ending broadcast consumers", unnamed::end_orphans(log));
    report("freeing what is purged or deleted", gone::finish(log));
    report("ending leases", expire(log));
    report("noting acks", coalesced::note(log));
    if wants_maintenance(log) {
        report("maintaining the log", maintain(log));
    }
}

/// Ends what is due, so that it is not left to the next receive.
fn expire(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    if ctl.global(crate::shm::control::G_OUTSTANDING) == 0 {
        return Ok(());
    }
    let mut tx = ctl.begin(ctl.patience())?;
    let done = putback::expire_due(log, &mut tx, ctl.host.boottime_ms())?;
    tx.commit();
    if done > 0 {
        for group in crate::delivery::registry::live_groups(ctl) {
            putback::wake_if_ready(log, group);
        }
    }
    Ok(())
}

fn wants_maintenance(log: &Log) -> bool {
    let ctl = &log.ctl;
    let active = ctl.global(G_ACTIVE);
    log.wants_preparation()
        || ctl.load(ctl.layout.region(1 - region_of(active), X_NUMBER)) != 0
        || snapshot::is_due(log) && active > 1
        || ctl.global(G_OLDEST) < active && ctl.global(G_SNAP_END) != 0
}

/// Prepares, indexes, snapshots and reclaims, if nobody else is at it.
pub(crate) fn maintain(log: &Log) -> Result<()> {
    let Some(held) = log.try_maintain()? else {
        return Ok(());
    };
    let ctl = &log.ctl;
    // On a full disk nothing can be prepared, and all the more the rest is wanted: it makes room.
    let prepared = if log.wants_preparation() {
        log.prepare_next(&held, log.least_size(0))
    } else {
        Ok(())
    };
    log.write_pending_sidecar(ctl.global(G_ACTIVE))?;
    if snapshot::is_due(log) && ctl.global(G_ACTIVE) > 1 {
        snapshot::write(log, &held)?;
    }
    let full = prepared.as_ref().is_err_and(|e| e.code() == Code::Full);
    let (when, freed) = if full || log.is_short() {
        (When::AtRest, tidy::free_space(log, &held))
    } else {
        (When::InUse, Ok(()))
    };
    // Also where that found no room: what can go makes some.
    tidy::reclaim(log, &held, when).and(freed).and(prepared)
}

/// In a store that has come to rest no roll brings the snapshots that let consumed segments go.
pub(crate) fn give_back(log: &Log) -> Result<()> {
    let Some(held) = log.try_maintain()? else {
        return Ok(());
    };
    tidy::free_space(log, &held)?;
    tidy::reclaim(log, &held, When::AtRest)
}

/// Writes the snapshot that is due: a store that is opened for a moment only, again and again,
/// would never get one. What names its topics would then stand in its first segment alone.
///
/// And the index of the last sealed segment, if it is still to be written: damage that comes before
/// the next open would leave nothing to tell what the segment held.
pub(crate) fn before_leaving(log: &Log) {
    let active = log.ctl.global(G_ACTIVE);
    if active <= 1 {
        return;
    }
    if log.ctl.global(G_SETTLED) != 0 {
        let noted = maintain(log).and_then(|()| coalesced::note(log));
        report("noting acks", noted);
    }
    let written = log.try_maintain().and_then(|held| match held {
        Some(held) => {
            if snapshot::is_due(log) {
                snapshot::write(log, &held)?;
            }
            log.flush_now(log.ctl.patience())?;
            log.write_pending_sidecar(active).map(|_| ())
        }
        None => Ok(()),
    });
    report("leaving the log in order", written);
}
