//! Asynchronous sends that are to be told of: results of the engine become those of futures.
//!
//! The engine's thread puts results into a queue and never takes the GIL. A Python thread of the
//! store (`keepq._sends.deliver`), started by the first asynchronous send, takes them out in
//! batches, completes futures and calls back.
//!
//! Of the two locks `waiting` is taken under the GIL only, so that a forked child can take it too;
//! `state` is held for moments by either side, and never touched in a child.

use crate::error;
use crate::future::SendFuture;
use crate::wait;
use engine::{Code, Error, Outcome, Pending, Sent};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

type Settled = (usize, engine::Result<Sent>);

/// What a sender waits with for a result.
pub(crate) struct Waiting {
    pub(crate) future: Py<SendFuture>,
    pub(crate) on_success: Option<Py<PyAny>>,
    pub(crate) on_exception: Option<Py<PyAny>>,
}

/// The asynchronous sends of one open store whose results Python has not yet.
pub(crate) struct Sends {
    waiting: Mutex<Slab>,
    state: Mutex<State>,
    /// There are results, or the thread is to end.
    wanted: Condvar,
    /// Results were delivered, or the thread has ended.
    delivered: Condvar,
    /// How many may be undelivered.
    max: u64,
    /// How many are, so that nearly every send comes by without the lock.
    undelivered: AtomicU64,
    /// Whether the thread was started.
    started: AtomicBool,
}

#[derive(Default)]
struct State {
    ready: Vec<Settled>,
    /// Sends that were begun so far.
    entered: u64,
    /// Of them, those whose results were delivered and whose callbacks have returned.
    finished: u64,
    /// Of a batch that is being delivered.
    delivering: u64,
    /// Whether the thread sleeps.
    sleeping: bool,
    stop: bool,
    thread: Thread,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Thread {
    #[default]
    None,
    Started,
    Lives(ThreadId),
    Ended,
}

impl State {
    fn outstanding(&self) -> u64 {
        self.entered - self.finished
    }
}

/// Places for what waits, by index.
#[derive(Default)]
struct Slab {
    places: Vec<Option<Waiting>>,
    free: Vec<usize>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sends {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            state: Mutex::default(),
            wanted: Condvar::new(),
            delivered: Condvar::new(),
            max: u64::from(max),
            undelivered: AtomicU64::new(0),
            started: AtomicBool::new(false),
        })
    }

    /// Enters a send that is to be delivered; gives its index. Given back: the thread has ended.
    pub(crate) fn enter(&self, waiting: Waiting) -> Result<usize, Waiting> {
        {
            let mut state = locked(&self.state);
            if state.thread == Thread::Ended {
                return Err(waiting);
            }
            state.entered += 1;
            self.note(&state);
        }
        let mut slab = locked(&self.waiting);
        Ok(match slab.free.pop() {
            Some(index) => {
                slab.places[index] = Some(waiting);
                index
            }
            None => {
                slab.places.push(Some(waiting));
                slab.places.len() - 1
            }
        })
    }

    /// Notes how many are undelivered. `state` is held.
    fn note(&self, state: &State) {
        self.undelivered
            .store(state.outstanding(), Ordering::Relaxed);
    }

    fn take(&self, index: usize) -> Option<Waiting> {
        let mut slab = locked(&self.waiting);
        let waiting = slab.places.get_mut(index)?.take()?;
        slab.free.push(index);
        Some(waiting)
    }

    /// Has the result delivered once there is one.
    pub(crate) fn watch(self: &Arc<Self>, index: usize, pending: &Pending) {
        let sends = Arc::clone(self);
        pending.on_done(move |result| sends.settled(index, result));
    }

    /// A result is there. On any thread, without the GIL.
    pub(crate) fn settled(&self, index: usize, result: engine::Result<Sent>) {
        let mut state = locked(&self.state);
        state.ready.push((index, result));
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.wanted.notify_one();
        }
    }

    /// Whether the thread was started, without a lock.
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Sees to it that there is a thread that delivers.
    pub(crate) fn start(self: &Arc<Self>, store: &Bound<'_, PyAny>) -> PyResult<()> {
        {
            let mut state = locked(&self.state);
            if state.thread != Thread::None {
                return Ok(());
            }
            state.thread = Thread::Started;
        }
        let py = store.py();
        let batches = Batches {
            sends: Arc::clone(self),
        };
        let started = python(py, "start").and_then(|start| start.call1((store, batches)));
        if started.is_err() {
            locked(&self.state).thread = Thread::None;
        }
        self.started.store(started.is_ok(), Ordering::Release);
        started.map(|_| ())
    }

    /// Whether there is no room for one more send, without a lock.
    pub(crate) fn is_full(&self) -> bool {
        self.undelivered.load(Ordering::Relaxed) >= self.max
    }

    /// Waits until there is room for one more send. The thread that delivers never waits: it is
    /// the one that makes room.
    pub(crate) fn room(&self, py: Python<'_>, refuse: bool, timeout: Duration) -> PyResult<()> {
        let full = |code| {
            let text = format!(
                "{} asynchronous sends wait for their results or callbacks, as many as this store \
                 may have; wait for some, or open the store with a higher max_in_flight",
                self.max
            );
            error::to_python(py, &Error::new(code, text).with_outcome(Outcome::NotStored))
        };
        if !self.is_full() || locked(&self.state).outstanding() < self.max || self.is_mine() {
            return Ok(());
        }
        if refuse {
            return Err(full(Code::Full));
        }
        let room = |s: &State| s.outstanding() < self.max;
        let step = |slice| Ok(py.detach(|| self.sleep(slice, room)).then_some(()));
        wait::in_slices(py, Some(timeout), step)?.ok_or_else(|| full(Code::Timeout))
    }

    /// Waits until the results of all sends begun before are delivered and their callbacks have
    /// returned, unless the caller is the thread that calls back. False: not within the time.
    pub(crate) fn drain(&self, py: Python<'_>, timeout: Option<Duration>) -> PyResult<bool> {
        let all = locked(&self.state).entered;
        let done = |s: &State| s.finished >= all || s.thread == Thread::Ended;
        if done(&locked(&self.state)) || self.is_mine() {
            return Ok(true);
        }
        let step = |slice| Ok(py.detach(|| self.sleep(slice, done)).then_some(()));
        Ok(wait::in_slices(py, timeout, step)?.is_some())
    }

    /// Has the thread end when it has delivered what there is. Needs no GIL.
    pub(crate) fn stop(&self) {
        locked(&self.state).stop = true;
        self.wanted.notify_all();
    }

    /// Sleeps until this holds, at most so long; whether it does.
    fn sleep(&self, time: Duration, until: impl Fn(&State) -> bool) -> bool {
        let state = locked(&self.state);
        let wait = self
            .delivered
            .wait_timeout_while(state, time, |s| !until(s));
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        until(&state)
    }

    /// Whether the calling thread is the one that delivers.
    fn is_mine(&self) -> bool {
        locked(&self.state).thread == Thread::Lives(std::thread::current().id())
    }

    /// The next results, without the GIL. False: there will be none any more.
    fn next(&self, into: &mut Vec<Settled>) -> bool {
        let mut state = locked(&self.state);
        state.thread = Thread::Lives(std::thread::current().id());
        state.finished += state.delivering;
        state.delivering = 0;
        self.note(&state);
        self.delivered.notify_all();
        loop {
            if !state.ready.is_empty() {
                std::mem::swap(&mut state.ready, into);
                state.delivering = into.len() as u64;
                return true;
            }
            if state.stop && state.outstanding() == 0 {
                state.thread = Thread::Ended;
                self.delivered.notify_all();
                return false;
            }
            state.sleeping = true;
            let woken = self.wanted.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.sleeping = false;
        }
    }

    /// In a forked child: all that the parent waits for, which only the parent will see.
    pub(crate) fn abandon(&self) -> Vec<Py<SendFuture>> {
        let places = std::mem::take(&mut locked(&self.waiting).places);
        places.into_iter().flatten().map(|w| w.future).collect()
    }
}

/// A function of `keepq._sends`, which is loaded by the first asynchronous send.
pub(crate) fn python<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let import = || PyResult::Ok(py.import("keepq._sends")?.into_any().unbind());
    MODULE.get_or_try_init(py, import)?.bind(py).getattr(name)
}

/// Why a future of the parent has no result in a forked child.
pub(crate) fn forked(py: Python<'_>) -> PyErr {
    let text = "the message was sent before this process was forked; its result is known to the \
                parent only";
    let error = Error::new(Code::ForkedHandle, text).with_outcome(Outcome::MaybeStored);
    error::to_python(py, &error)
}

/// The result of a send that is settled.
pub(crate) fn there(sent: Option<Sent>) -> engine::Result<Sent> {
    sent.ok_or_else(|| Error::new(Code::Internal, "a send ended without a result"))
}

/// Gives results to the thread that delivers: an iterator that waits for the next ones and gives
/// them as a list of (future, on_success, on_exception, result, exception).
#[pyclass(module = "keepq._keepq", frozen, name = "_Batches")]
pub(crate) struct Batches {
    sends: Arc<Sends>,
}

#[pymethods]
impl Batches {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let mut batch = Vec::new();
        if !py.detach(|| self.sends.next(&mut batch)) {
            return Ok(None);
        }
        let list = PyList::empty(py);
        for (index, result) in batch {
            if let Some(waiting) = self.sends.take(index) {
                list.append(waiting.settled(py, result)?)?;
            }
        }
        Ok(Some(list))
    }
}
