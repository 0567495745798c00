//! Leases that are kept while their messages are worked on.
//!
//! A thread of the store, started by the first of them, extends all of them in time. It never takes
//! the GIL: a program that holds it for long keeps its leases.

use crate::error::OrRaise;
use crate::message::Message;
use engine::{Code, Receipt, Store};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A lease is extended when at most this part of it is over.
const PART: u32 = 3;
/// The thread's stack, in bytes: it runs no foreign code.
const STACK: usize = 256 << 10;

/// The leases that are kept in one open store.
#[derive(Default)]
pub(crate) struct Leases {
    state: Mutex<State>,
    /// Some lease is shorter than what the thread sleeps, or it is to end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    kept: Vec<Kept>,
    next: u64,
    /// How long the thread sleeps; `None`: for ever.
    pause: Option<Duration>,
    threaded: bool,
    thread: Option<JoinHandle<()>>,
    stop: bool,
}

struct Kept {
    number: u64,
    receipt: Receipt,
    lease: Duration,
}

impl Leases {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a lease until it is let go; gives its number.
    fn keep(
        self: &Arc<Self>,
        store: &Store,
        receipt: Receipt,
        lease: Duration,
    ) -> std::io::Result<u64> {
        let mut state = self.state();
        if !state.threaded && !state.stop {
            let (mine, store) = (Arc::clone(self), store.clone());
            let thread = std::thread::Builder::new()
                .name("keepq-leases".to_owned())
                .stack_size(STACK)
                .spawn(move || mine.run(store))?;
            state.threaded = true;
            // One that was there before has ended, or is about to without another step.
            state.thread = Some(thread);
        }
        let number = state.next;
        state.next += 1;
        state.kept.push(Kept {
            number,
            receipt,
            lease,
        });
        if state.pause.is_none_or(|pause| lease / PART < pause) {
            // So short a pause, once begun, lasts: only a shorter one can cut it.
            state.pause = Some(lease / PART);
            self.changed.notify_one();
        }
        Ok(number)
    }

    fn let_go(&self, number: u64) {
        self.state().kept.retain(|kept| kept.number != number);
    }

    /// Ends the thread and waits for it: it holds the store. Without the GIL, as it makes calls of
    /// the engine.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state();
            state.stop = true;
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn run(&self, store: Store) {
        let mut state = self.state();
        while !state.stop {
            let shortest = state.kept.iter().map(|kept| kept.lease).min();
            state.pause = shortest.map(|lease| lease / PART);
            let Some(pause) = state.pause else {
                // Nothing is kept: the thread must not keep the store open, so it ends.
                break;
            };
            let woken = self.changed.wait_timeout(state, pause);
            let (woken, timed) = woken.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timed.timed_out() {
                let due: Vec<_> = state.kept.iter().map(Kept::what).collect();
                drop(state);
                for (number, receipt, lease) in due {
                    let lost = store.extend(&receipt, lease).is_err_and(|e| {
                        // What is over stays over; anything else may pass until the next time.
                        matches!(e.code(), Code::LeaseLost | Code::Closed)
                    });
                    if lost {
                        self.let_go(number);
                    }
                }
                state = self.state();
            }
        }
        state.threaded = false;
        drop(state);
    }
}

impl Kept {
    fn what(&self) -> (u64, Receipt, Duration) {
        (self.number, self.receipt.clone(), self.lease)
    }
}

/// Keeps the lease of a message in a with statement, which settles the message, too, as `with msg:`
/// does. Made by Message.keep_alive.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct KeepAlive {
    // Dropped before the message, which keeps the store open: this never closes it.
    store: Mutex<Option<Store>>,
    leases: Arc<Leases>,
    lease: Duration,
    /// Of the lease while it is kept, and the process that keeps it.
    number: Mutex<Option<(u64, u32)>>,
    message: Py<Message>,
}

impl KeepAlive {
    /// Lets the lease go; in a forked child it is the parent's thread that keeps it.
    fn let_go(&self) {
        let number = self
            .number
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let ours = number.filter(|(_, pid)| *pid == std::process::id());
        if let Some((number, _)) = ours {
            self.leases.let_go(number);
        }
    }

    pub(crate) fn new(
        message: Py<Message>,
        leases: Arc<Leases>,
        store: Store,
        lease: Duration,
    ) -> Self {
        Self {
            message,
            leases,
            store: Mutex::new(Some(store)),
            lease,
            number: Mutex::new(None),
        }
    }
}

#[pymethods]
impl KeepAlive {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<Message>> {
        let store = self
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(store) = store else {
            return Err(PyRuntimeError::new_err(
                "a lease is kept in one with statement",
            ));
        };
        let delivery = self.message.get().delivery();
        // From now on it has its whole length.
        py.detach(|| delivery.extend(self.lease)).or_raise(py)?;
        let number = py.detach(|| self.leases.keep(&store, delivery.receipt(), self.lease))?;
        *self.number.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((number, std::process::id()));
        Ok(self.message.clone_ref(py))
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.let_go();
        self.message.get().leave(py, exc)
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        // A with statement that never came to its end, as in a generator that was dropped.
        self.let_go();
    }
}
