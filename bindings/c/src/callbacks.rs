//! Sends that do not wait for the disk, and calling back.
//!
//! The engine tells of a result on a thread of its own. What it tells is put in a line here
//! ([`Results`]), and the program's callbacks run where it takes from that line: in keepq_dispatch
//! and keepq_close. They run one at a time, in the order of the results, and without any lock.

use crate::error::{
    ErrorInfo, KEEPQ_OK, KEEPQ_TIMEOUT, guard, guard_value, keepq_err_cb, keepq_rc,
};
use crate::opts::{keepq_send_opts, wait};
use crate::send::{self, keepq_send_cb, keepq_sent};
use crate::store::{keepq, store};
use crate::text;
use engine::{Code, Error, Outcome, Result, Sent};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// Most results that may wait for keepq_dispatch before further asynchronous sends are refused.
pub const KEEPQ_MAX_UNDISPATCHED: usize = 65536;

/// The program's pointer: whatever it is, it is only handed back.
struct User(*mut c_void);

// SAFETY: the header says that callbacks run on the thread that dispatches; a program that passes
// a pointer must be able to use it there.
unsafe impl Send for User {}

/// A callback that is due.
struct Due {
    ok: keepq_send_cb,
    err: keepq_err_cb,
    user: User,
    result: Result<Sent>,
}

impl Due {
    fn call(self) {
        let user = self.user.0;
        match (&self.result, self.ok, self.err) {
            (Ok(_), Some(ok), _) => {
                let sent = keepq_sent::of(&self.result);
                // SAFETY: the program passed a function of this type.
                unsafe { ok(user, &raw const sent) }
            }
            (Err(e), _, Some(err)) => {
                let info = ErrorInfo::new(e.clone());
                let fields = info.fields();
                // SAFETY: the program passed a function of this type.
                unsafe { err(user, &raw const fields) }
            }
            _ => {}
        }
    }
}

/// The results of a store's asynchronous sends that wait to be told.
#[derive(Default)]
pub(crate) struct Results {
    /// How many there are in `state.due`.
    waiting: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    /// Held for reading by sends in progress: a close lets them enter what they have to.
    sends: RwLock<()>,
}

#[derive(Default)]
struct State {
    due: VecDeque<Due>,
    /// The thread that calls back now.
    runner: Option<ThreadId>,
    closed: bool,
    /// Readable while anything is due. Made when it is asked for.
    event: Option<OwnedFd>,
}

impl State {
    fn signal(&self) {
        if let Some(event) = &self.event {
            // It fails only when the counter is at its end, and then it is readable.
            while write(event, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
        }
    }

    fn clear(&self) {
        if let Some(event) = &self.event {
            // It fails only when it is not readable.
            while read(event, &mut [0; 8]) == Err(Errno::INTR) {}
        }
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the store was closed by another thread")
}

impl Results {
    /// The engine tells of a result.
    fn enter(&self, due: Due) {
        let mut state = self.state.lock();
        state.due.push_back(due);
        self.waiting.store(state.due.len(), Ordering::Relaxed);
        if state.due.len() == 1 {
            state.signal();
            self.changed.notify_all();
        }
    }

    fn check_room(&self) -> Result<()> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting < KEEPQ_MAX_UNDISPATCHED {
            return Ok(());
        }
        let text = format!("{waiting} results wait for keepq_dispatch; call it between the sends");
        Err(Error::new(Code::Full, text).with_outcome(Outcome::NotStored))
    }

    /// Takes the first and calls back. The lock is not held meanwhile.
    fn call_first(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let Some(due) = state.due.pop_front() else {
            return false;
        };
        self.waiting.store(state.due.len(), Ordering::Relaxed);
        MutexGuard::unlocked(state, || due.call());
        true
    }

    /// Calls back for what is due, waiting for something to be so. False: nothing was.
    fn dispatch(&self, timeout: Duration) -> Result<bool> {
        let me = thread::current().id();
        let mut state = self.state.lock();
        if state.runner == Some(me) {
            let text = "keepq_dispatch was called from within a callback; return from it instead";
            return Err(Error::new(Code::InvalidArgument, text));
        }
        let nothing = |s: &mut State| !s.closed && (s.due.is_empty() || s.runner.is_some());
        if timeout == Duration::MAX {
            self.changed.wait_while(&mut state, nothing);
        } else {
            self.changed.wait_while_for(&mut state, nothing, timeout);
        }
        if state.closed {
            return Err(closed());
        }
        if nothing(&mut state) {
            return Ok(false);
        }
        state.runner = Some(me);
        // Callbacks that send again must not keep this from returning.
        for _ in 0..state.due.len() {
            if state.closed || !self.call_first(&mut state) {
                break;
            }
        }
        state.runner = None;
        if state.due.is_empty() {
            state.clear();
        }
        self.changed.notify_all();
        Ok(true)
    }

    /// The engine has settled every send: calls back for what is left. Afterwards nothing runs.
    pub(crate) fn close(&self) {
        let me = thread::current().id();
        let mut state = self.state.lock();
        state.closed = true;
        self.changed.notify_all();
        MutexGuard::unlocked(&mut state, || drop(self.sends.write()));
        let within = state.runner == Some(me);
        if !within {
            self.changed.wait_while(&mut state, |s| s.runner.is_some());
            state.runner = Some(me);
        }
        while self.call_first(&mut state) {}
        if !within {
            state.runner = None;
        }
    }

    /// The descriptor that is readable while anything is due.
    fn descriptor(&self) -> Result<c_int> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        if state.event.is_none() {
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            let event = made.map_err(|e| {
                let text = format!("cannot make a descriptor: {e}; raise the limit of open files");
                Error::new(Code::Storage, text).with_errno(e.raw_os_error())
            })?;
            state.event = Some(event);
            if !state.due.is_empty() {
                state.signal();
            }
        }
        Ok(state.event.as_ref().map_or(-1, OwnedFd::as_raw_fd))
    }
}

/// Sends one message without waiting for the disk; makes the topic if it is new. When it returns 0
/// the message is in the log, in its order, and exactly one of ok and err is called later, once,
/// with user: ok when it is as durable as asked, err when that could not be confirmed (outcome
/// KEEPQ_OUTCOME_MAYBE_STORED: do not simply send it again). When it returns an error nothing is
/// stored and nothing is called. ok and err may be NULL; so may opts.
///
/// Callbacks run only inside keepq_dispatch and keepq_close, on the thread that makes that call,
/// one at a time, in the order of the results. They may use the store, send again and close it.
/// They must not throw, longjmp or end their thread. What they are given lasts until they return.
///
/// While max_in_flight messages (or max_in_flight_bytes) wait for the disk it waits for room, at
/// most the send's time (KEEPQ_E_TIMEOUT), or returns KEEPQ_E_FULL at once with
/// KEEPQ_WHEN_FULL_REFUSE. It never waits for callbacks; KEEPQ_E_FULL, too, when
/// KEEPQ_MAX_UNDISPATCHED results wait for keepq_dispatch.
///
/// Errors: as keepq_send, of a message that was not stored: KEEPQ_E_BAD_HANDLE,
/// KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_INVALID_NAME, KEEPQ_E_LIMIT_EXCEEDED,
/// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FULL (also of a limit of
/// the topic or the store), KEEPQ_E_PRODUCER_GAP, KEEPQ_E_PRODUCER_FENCED; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_send_async(
    q: *mut keepq,
    topic: *const c_char,
    body: *const c_void,
    len: usize,
    opts: *const keepq_send_opts,
    ok: keepq_send_cb,
    err: keepq_err_cb,
    user: *mut c_void,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises what each helper asks for.
        let (name, body) = unsafe {
            let name = text::unchecked(topic, "topic")?;
            (name, text::bytes(body, len, "body")?)
        };
        let _sending = entry.results.sends.read();
        let user = User(user);
        let called = ok.is_some() || err.is_some();
        if called {
            entry.results.check_room()?;
        }
        // SAFETY: the caller promises the options, and the strings and headers they point to.
        let out = unsafe { send::Outgoing::read(body, opts) };
        let sent = out.and_then(|out| out.send_async(&entry, name));
        let pending = sent.map_err(|e| e.or_outcome(Outcome::NotStored))?;
        if called {
            let results = Arc::clone(&entry.results);
            pending.on_done(move |result| {
                // Whole, so that the pointer goes along in its wrapper.
                let user = user;
                results.enter(Due {
                    ok,
                    err,
                    user,
                    result,
                });
            });
        }
        Ok(KEEPQ_OK)
    })
}

/// Sends one message and forgets it. It is in the log when this returns 0 and becomes as durable as
/// asked; keepq_close waits for that. A failure is told to nobody but counted
/// (keepq_store_stats.oneway_failed); only what is wrong with the call itself is an error. Waits
/// for room as keepq_send_async does. opts may be NULL.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_SUPPORTED; those of making a topic.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_send_oneway(
    q: *mut keepq,
    topic: *const c_char,
    body: *const c_void,
    len: usize,
    opts: *const keepq_send_opts,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises what each helper asks for.
        let (name, out) = unsafe {
            let name = text::unchecked(topic, "topic")?;
            let body = text::bytes(body, len, "body")?;
            (name, send::Outgoing::read(body, opts)?)
        };
        let topic = entry.topic(name)?;
        match out.producer(&entry)? {
            None => topic.send_message_oneway(&out.message),
            Some(producer) => producer.send_oneway(&topic, out.seq, &out.message),
        }
        Ok(KEEPQ_OK)
    })
}

/// A descriptor for poll, select and epoll: readable while callbacks wait for keepq_dispatch. The
/// same at every call, valid until keepq_close. Wait for it, never read from it and do not close
/// it. When it cannot be had: a negative number, the error's.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_STORAGE (no descriptor left).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_fd(q: *mut keepq) -> c_int {
    guard_value(|| store(q)?.results.descriptor(), |rc| rc)
}

/// Runs the callbacks of asynchronous sends that have their results, on this thread. Waits up to
/// timeout_ms (-1 = for ever, 0 = not at all) for the first; does not wait for more. Returns
/// KEEPQ_TIMEOUT when there was none. While one thread runs callbacks, another that dispatches
/// waits for its turn.
///
/// To run every callback of what was sent: keepq_flush, then keepq_dispatch until all were called;
/// or keepq_close.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED (while it waited), KEEPQ_E_FORKED_HANDLE,
/// KEEPQ_E_INVALID_ARGUMENT (also from within a callback).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_dispatch(q: *mut keepq, timeout_ms: i64) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        let called = entry.results.dispatch(wait(timeout_ms)?)?;
        Ok(if called { KEEPQ_OK } else { KEEPQ_TIMEOUT })
    })
}
