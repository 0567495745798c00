//! The result of an asynchronous send that is still to come.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::{Code, Error, Outcome, Result};
use crate::in_flight::InFlight;
use crate::options::Sent;
use crate::shm::wake::LOOK;

/// What a program wants to be called with when a send is settled.
pub(crate) type Callback = Box<dyn FnOnce(Result<Sent>) + Send>;

/// An asynchronous send whose result is still to come.
///
/// The message is in the log already, in its order: what is waited for is the disk. Dropping a
/// `Pending` changes nothing about the message. It keeps no store open: when the last handle is
/// dropped or the store closed, every send in flight is settled first.
///
/// Usable from any thread. In a forked child a send of the parent that was not settled before the
/// fork ends with `ForkedHandle`, and callbacks given in the parent are called only there.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("pending");
/// let store = keepq::Store::open(&dir)?;
/// let orders = store.topic("orders")?;
/// let pending: Vec<_> = (0..100_u8)
///     .map(|i| orders.send_async([i]))
///     .collect::<keepq::Result<_>>()?;
/// for one in &pending {
///     let sent = one.wait(None)?.expect("without a time-out it comes");
///     assert!(sent.durable);
/// }
/// # store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
#[must_use = "the result tells whether the message is on disk"]
pub struct Pending {
    one: Arc<One>,
    in_flight: Arc<InFlight>,
}

/// One send in flight, shared by its [`Pending`] and the list of the store.
pub(crate) struct One {
    /// Durable when the watermark has reached this.
    pub(crate) end: u64,
    /// When the send gives up (BOOTTIME ms).
    pub(crate) deadline: u64,
    /// Set once. Read without a lock, so that a forked child can.
    result: OnceLock<Result<Sent>>,
    hooks: Mutex<Hooks>,
    done: Condvar,
}

/// Who is to be told.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) callbacks: Vec<Callback>,
    pub(crate) waker: Option<std::task::Waker>,
}

impl Hooks {
    pub(crate) fn is_empty(&self) -> bool {
        self.callbacks.is_empty() && self.waker.is_none()
    }
}

impl One {
    pub(crate) fn new(end: u64, deadline: u64) -> Arc<Self> {
        Arc::new(Self {
            end,
            deadline,
            result: OnceLock::new(),
            hooks: Mutex::default(),
            done: Condvar::new(),
        })
    }

    /// The result, once there is one.
    pub(crate) fn result(&self) -> Option<&Result<Sent>> {
        self.result.get()
    }

    /// Gives it its result; returns who is to be told. A result that is there already stays, and
    /// everybody was told of it.
    pub(crate) fn settle(&self, result: Result<Sent>) -> Hooks {
        if self.result.set(result).is_err() {
            return Hooks::default();
        }
        let hooks = std::mem::take(&mut *self.hooks.lock());
        self.done.notify_all();
        hooks
    }

    /// Changes who is to be told, unless there is a result. Whoever sees none here is told: the
    /// result is set before the hooks are taken, both by [`One::settle`].
    fn unless_settled(&self, change: impl FnOnce(&mut Hooks)) -> Option<&Result<Sent>> {
        let mut hooks = self.hooks.lock();
        let result = self.result.get();
        if result.is_none() {
            change(&mut hooks);
        }
        result
    }

    fn sleep(&self, timeout: Duration) {
        let mut hooks = self.hooks.lock();
        if self.result.get().is_none() {
            self.done.wait_for(&mut hooks, timeout);
        }
    }
}

impl Pending {
    pub(crate) fn new(one: Arc<One>, in_flight: Arc<InFlight>) -> Self {
        Self { one, in_flight }
    }

    /// The result, or why there will never be one here.
    fn known(&self) -> Option<Result<Sent>> {
        match self.one.result() {
            Some(result) => Some(result.clone()),
            None if self.in_flight.forked() => Some(Err(Error::new(
                Code::ForkedHandle,
                "the message was sent before this process was forked; its result is known to the \
                 parent only",
            )
            .with_outcome(Outcome::MaybeStored))),
            None => None,
        }
    }

    /// Waits for the result, helping with the flush; `Ok(None)` when it did not come in time
    /// (`None` = wait until it comes, which takes at most the send's own time-out). Asking again
    /// gives the same result again.
    ///
    /// # Errors
    /// Why the send was not confirmed, with the outcome `MaybeStored`: `FlushTimeout` when its time
    /// was over, `Failed` and other storage errors, `ForkedHandle`.
    pub fn wait(&self, timeout: impl Into<Option<Duration>>) -> Result<Option<Sent>> {
        if let Some(result) = self.known() {
            return result.map(Some);
        }
        let deadline = self.in_flight.deadline(timeout.into());
        loop {
            let left = self.in_flight.left(deadline);
            if left.is_zero() {
                return self.poll();
            }
            // Where nothing can be done, somebody else settles it: a close, or the thread.
            if !self.in_flight.help(&self.one, deadline) {
                self.one.sleep(left.min(LOOK));
            }
            if let Some(result) = self.known() {
                return result.map(Some);
            }
        }
    }

    /// The result if there is one; `Ok(None)` if not yet. Never waits for the disk.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn poll(&self) -> Result<Option<Sent>> {
        if self.known().is_none() {
            self.in_flight.look();
        }
        self.known().transpose()
    }

    /// Whether [`Pending::wait`] would return at once, with the result or an error.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.known().is_some()
    }

    /// Has `callback` called exactly once with the result, whether that is there already or not.
    /// Several callbacks are called in the order they were given in.
    ///
    /// Callbacks of one store run one after the other on a thread of the store, or on the thread
    /// that closes it. They hold no lock: they may send again, close the store or drop its last
    /// handle. One that sends again never waits for room among the messages in flight, which only
    /// its own return makes. A slow one holds up the others; a panic in one ends only that one. In
    /// a forked child the callback is called before this returns.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("on-done");
    /// let store = keepq::Store::open(&dir)?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// store.topic("orders")?.send_async(b"hello")?.on_done(move |result| {
    ///     tell.send(result.map(|sent| sent.durable)).ok();
    /// });
    /// assert!(told.recv().expect("it is called")?);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_done(&self, callback: impl FnOnce(Result<Sent>) + Send + 'static) {
        if self.in_flight.forked() {
            // The locks may be held for ever here, by threads that only the parent has.
            if let Some(result) = self.known() {
                callback(result);
            }
            return;
        }
        let mut callback: Option<Callback> = Some(Box::new(callback));
        let settled = self
            .one
            .unless_settled(|hooks| hooks.callbacks.extend(callback.take()));
        if settled.is_some() {
            let hooks = Hooks {
                callbacks: callback.into_iter().collect(),
                waker: None,
            };
            self.in_flight.call_late(Arc::clone(&self.one), hooks);
        }
    }
}

/// With the feature `async`: the result as a future, for any executor. Dropping it is harmless:
/// the message stays sent.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("await");
/// # use std::sync::Arc;
/// # struct Unpark(std::thread::Thread);
/// # impl std::task::Wake for Unpark {
/// #     fn wake(self: Arc<Self>) {
/// #         self.0.unpark();
/// #     }
/// # }
/// # fn block_on<T>(future: impl Future<Output = T>) -> T {
/// #     let waker = Arc::new(Unpark(std::thread::current())).into();
/// #     let mut context = std::task::Context::from_waker(&waker);
/// #     let mut future = std::pin::pin!(future);
/// #     loop {
/// #         match future.as_mut().poll(&mut context) {
/// #             std::task::Poll::Ready(value) => return value,
/// #             std::task::Poll::Pending => std::thread::park(),
/// #         }
/// #     }
/// # }
/// let store = keepq::Store::open(&dir)?;
/// let orders = store.topic("orders")?;
/// let sent = block_on(async { orders.send_async(b"hello")?.await })?;
/// assert!(sent.durable);
/// # store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "async")]
impl Future for Pending {
    type Output = Result<Sent>;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        if let Some(result) = self.known() {
            return std::task::Poll::Ready(result);
        }
        self.in_flight.look();
        let settled = self.one.unless_settled(|hooks| match &mut hooks.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        });
        match settled {
            Some(result) => std::task::Poll::Ready(result.clone()),
            None => std::task::Poll::Pending,
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("result", &self.one.result())
            .finish_non_exhaustive()
    }
}
