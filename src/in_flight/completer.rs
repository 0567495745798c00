//! The thread of the sends in flight, and calling back.
//!
//! The thread flushes while anything waits and calls back who is due. It holds no store while it
//! sleeps. Without it (in the simulator, and after a close) whoever settles a send calls back.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{InFlight, Room, State};
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::pending::{Hooks, One};

/// Most calls between two looks at what waits for the disk.
const BATCH: usize = 1024;
/// The thread's stack, in bytes: callbacks are foreign code, which expects that of a usual thread.
const STACK: usize = 2 << 20;

/// Somebody to be told of a result.
pub(super) struct Call {
    one: Arc<One>,
    hooks: Hooks,
    room: Room,
}

impl Call {
    /// A call that gives back this room when it has returned.
    pub(super) fn new(one: Arc<One>, hooks: Hooks, room: Room) -> Self {
        Self { one, hooks, room }
    }
}

impl InFlight {
    /// Starts the thread at the first send. Without one, a callback could wait for ever.
    pub(super) fn start(self: &Arc<Self>, state: &mut State, inner: &Inner) -> Result<()> {
        if state.threaded || state.stop || !self.host.has_threads() {
            return Ok(());
        }
        let mine = Arc::clone(self);
        let spawned = crate::sys::spawn_quietly("keepq-sends", STACK, move || mine.complete_all());
        let thread = spawned.map_err(|e| Error::io("start a thread for", &inner.path, &e))?;
        state.thread = Some(thread);
        state.threaded = true;
        Ok(())
    }

    /// The thread: it holds no store while it sleeps, so that dropping the last handle closes.
    fn complete_all(&self) {
        let _end = ThreadEnd(self);
        while self.sleep() {
            // Callbacks that send on without end must not keep the others from the disk.
            self.call_back(BATCH);
            let there = self.inner.upgrade().is_some_and(|inner| {
                let call = inner.enter();
                if call.is_ok() {
                    self.round(&inner, u64::MAX);
                }
                call.is_ok()
            });
            if !there {
                self.sleep_until_stopped();
            }
        }
    }

    /// While the store is closed, which settles what is left: the end of the thread is near.
    fn sleep_until_stopped(&self) {
        let mut state = self.state.lock();
        while !state.stop {
            self.wanted.wait(&mut state);
        }
    }

    /// Sleeps until there is something to do. False: the thread ends, and others know.
    fn sleep(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if !state.due.is_empty() && state.runner.is_none() {
                return true;
            }
            if state.stop {
                state.threaded = false;
                return false;
            }
            if !state.waiting.is_empty() {
                return true;
            }
            self.wanted.wait(&mut state);
        }
    }

    /// Calls back for a result that was there before. That counts as in flight meanwhile, but does
    /// not wait for room: its message is sent.
    pub(crate) fn call_late(&self, one: Arc<One>, hooks: Hooks) {
        let room = Room {
            messages: 1,
            bytes: 0,
        };
        let mut state = self.state.lock();
        state.messages += room.messages;
        state.due.push_back(Call::new(one, hooks, room));
        drop(state);
        self.wanted.notify_one();
        self.call_back_without_thread();
    }

    /// Calls back where no thread does: in the simulator, and after a close.
    pub(crate) fn call_back_without_thread(&self) {
        let threaded = self.state.lock().threaded;
        if !threaded {
            self.call_back(usize::MAX);
        }
    }

    /// Calls back who is due, at most so many, unless a thread is at it. In no call of the store.
    pub(super) fn call_back(&self, most: usize) {
        let mut state = self.state.lock();
        if state.runner.is_some() {
            return;
        }
        state.runner = Some(std::thread::current().id());
        for _ in 0..most {
            let Some(call) = state.due.pop_front() else {
                break;
            };
            MutexGuard::unlocked(&mut state, || Self::call(call.hooks, &call.one));
            state.give_back(&call.room);
            self.freed.notify_all();
        }
        state.runner = None;
    }

    fn call(hooks: Hooks, one: &One) {
        let Some(result) = one.result() else { return };
        for callback in hooks.callbacks {
            Self::contain(|| callback(result.clone()));
        }
        if let Some(waker) = hooks.waker {
            Self::contain(|| waker.wake());
        }
    }

    /// Calls foreign code: its panic ends there.
    fn contain(call: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(call)) else {
            return;
        };
        if killed!() {
            // A simulated process dies here: no panic of a callback.
            resume_unwind(panic);
        }
        crate::trace::callback_panicked();
    }

    /// Ends the thread and waits for it and its callbacks, unless this is it. The store is closed:
    /// whoever waits for room is woken.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.stop = true;
            state.thread.take()
        };
        self.wanted.notify_all();
        self.freed.notify_all();
        if let Some(thread) = thread {
            // A callback may close the store or drop its last handle.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// However the thread ends, others must know that it will do nothing more.
struct ThreadEnd<'a>(&'a InFlight);

impl Drop for ThreadEnd<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.threaded = false;
        if state.runner == Some(std::thread::current().id()) {
            state.runner = None;
        }
        drop(state);
        self.0.freed.notify_all();
    }
}
