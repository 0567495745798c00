//! Telling event loops and executors that a group may have a message.
//!
//! A thread of the group's handle, started when somebody asks for it, sleeps where a blocked
//! receive would. When there may be a message it makes a descriptor readable and wakes the futures
//! that wait; then it rests until a receive has found nothing again. It claims nothing, so whoever
//! waits by a descriptor or a future and gives up loses no message.
//!
//! Lock order: `state` is held for moments, and no call of the store is begun under it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::delivery::claim;
use crate::error::{Error, Result};
use crate::group::{Group, Shared};
use crate::inner::Inner;
use crate::keeper::Keeper;
use crate::shm::wake;
use crate::sys::Event;

/// The thread's stack, in bytes: it runs no foreign code but wakers.
const STACK: usize = 256 << 10;

/// A descriptor for event loops (`poll`, epoll): readable when [`Group::receive`] may find a
/// message. See [`Group::readiness`].
#[derive(Clone)]
pub struct Readiness {
    watch: Arc<Watch>,
    /// The watch ends with the last of these.
    _group: Group,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.event.as_fd()
    }
}

/// The watch over a group for one handle of it and its clones.
pub(crate) struct Watch {
    event: Event,
    state: Mutex<State>,
    /// Somebody wants to be told, or the thread is to end.
    wanted: Condvar,
    place: Place,
}

/// What the thread watches.
#[derive(Clone)]
struct Place {
    inner: Weak<Inner>,
    topic: u32,
    group: u32,
}

#[derive(Default)]
struct State {
    /// A receive has found nothing since the descriptor was last made readable.
    asked: bool,
    stop: bool,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "async")]
    wakers: Vec<std::task::Waker>,
}

impl Group {
    /// A descriptor that is readable when this handle (or a clone of it) may receive a message, for
    /// event loops that wait for many things. It is the same for every call.
    ///
    /// When it is readable, receive with a time-out of zero until there is nothing: the receive
    /// that finds nothing makes it unreadable. It may be readable although another consumer was
    /// faster; it is readable when the store was closed, too. It stays valid as long as the value
    /// lives. Do not read from it. After a fork, the child opens the store again.
    ///
    /// # Errors
    /// `Closed`; `Storage` when there is no descriptor or thread to be had.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("readiness");
    /// use std::os::fd::AsFd;
    /// use std::time::Duration;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let group = store.group("orders", "billing").open()?;
    /// let ready = group.readiness()?;
    /// store.topic("orders")?.send(b"hello")?;
    /// // Here an event loop would wait until this descriptor is readable.
    /// let descriptor = ready.as_fd();
    /// # let _ = descriptor;
    /// while let Some(delivery) = group.receive(Duration::ZERO)? {
    ///     delivery.ack()?;
    /// }
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn readiness(&self) -> Result<Readiness> {
        let watch = self.shared().watch()?;
        Ok(Readiness {
            watch,
            _group: self.clone(),
        })
    }
}

impl Shared {
    /// The watch, started at the first call.
    pub(crate) fn watch(&self) -> Result<Arc<Watch>> {
        let inner = &self.inner;
        let _call = inner.enter()?;
        Keeper::start(inner);
        let mut watch = self.watch.lock();
        if let Some(watch) = &*watch {
            return Ok(Arc::clone(watch));
        }
        let failed = |e| Error::io("watch for messages of", &inner.path, &e);
        let made = Arc::new(Watch {
            event: Event::new().map_err(failed)?,
            state: Mutex::default(),
            wanted: Condvar::new(),
            place: Place {
                inner: Arc::downgrade(inner),
                topic: self.topic_id,
                group: self.id,
            },
        });
        if inner.log.ctl.host.has_threads() {
            let mine = Arc::clone(&made);
            let thread = crate::sys::spawn_quietly("keepq-ready", STACK, move || mine.run());
            made.state.lock().thread = Some(thread.map_err(failed)?);
        }
        *watch = Some(Arc::clone(&made));
        drop(watch);
        self.watched.store(true, Ordering::Release);
        made.ask();
        Ok(made)
    }

    /// A receive found nothing: whoever waits by the watch is to be told of the next message.
    #[inline]
    pub(crate) fn found_nothing(&self) {
        if self.watched.load(Ordering::Acquire) {
            let watch = self.watch.lock().clone();
            if let Some(watch) = watch {
                watch.ask();
            }
        }
    }
}

impl Watch {
    /// Makes the descriptor unreadable until there may be a message.
    fn ask(&self) {
        let mut state = self.state.lock();
        self.event.clear();
        state.asked = true;
        if state.thread.is_none() {
            // Nobody watches (in the simulator, and after the end): always worth a try.
            self.tell(state);
            return;
        }
        drop(state);
        self.wanted.notify_one();
    }

    /// The next time that there may be a message, this waker is to be woken.
    #[cfg(feature = "async")]
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        let mut state = self.state.lock();
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }

    /// Makes the descriptor readable and wakes who waits.
    fn tell(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        state.asked = false;
        self.event.signal();
        #[cfg(feature = "async")]
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        #[cfg(feature = "async")]
        for waker in wakers {
            waker.wake();
        }
    }

    fn run(&self) {
        let _end = End(self);
        while self.rest() {
            // It holds no handle: dropping the last one closes the store.
            let Some(inner) = self.place.inner.upgrade() else {
                return;
            };
            let ctl = &inner.log.ctl;
            let (topic, group) = (self.place.topic, self.place.group);
            let event = wake::arm_group(ctl, topic, group);
            let Ok(call) = inner.enter() else { return };
            let there = claim::may_deliver(&inner.log, group, topic);
            drop(call);
            if there {
                self.tell(self.state.lock());
                // A blocked receive beside it would have taken this wake-up.
                wake::wake_group(ctl, group);
                continue;
            }
            if !self.state.lock().stop && !inner.is_closed() {
                wake::sleep_on_group(ctl, group, event, wake::LOOK);
            }
        }
    }

    /// Sleeps until somebody wants to be told. False: the thread ends.
    fn rest(&self) -> bool {
        let mut state = self.state.lock();
        while !state.stop && !state.asked {
            self.wanted.wait(&mut state);
        }
        !state.stop
    }

    /// The store is closed: whoever waits finds out.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.stop = true;
            state.thread.take()
        };
        self.wanted.notify_one();
        let Some(thread) = thread else { return };
        if let Some(inner) = self.place.inner.upgrade() {
            wake::wake_whole_group(&inner.log.ctl, self.place.group);
        }
        // A waker may drop the last handle.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

/// However the thread ends, whoever waits is told.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        // Nobody watches any more.
        drop(state.thread.take());
        self.0.tell(state);
    }
}
