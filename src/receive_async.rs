//! Receiving in asynchronous programs, on any executor (feature `async`).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::error::Result;
use crate::group::Group;
use crate::handed::Delivery;

/// The next message of a group as a future. See [`Group::receive_async`].
#[must_use = "a future does nothing unless it is awaited"]
#[derive(Debug)]
pub struct Receive<'a> {
    group: &'a Group,
}

/// The messages of a group as a stream without end. See [`Group::deliveries`].
#[must_use = "a stream does nothing unless it is polled"]
#[derive(Debug)]
pub struct Deliveries {
    group: Group,
}

impl Group {
    /// Waits for the next message, on any executor.
    ///
    /// A message is claimed in the moment in which the future is ready: dropping it before (a
    /// time-out, a `select`) loses nothing and holds nothing back. Any number of them may wait at
    /// once.
    ///
    /// # Errors
    /// As [`Group::receive`]; `Closed` when the store is closed meanwhile.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("receive-async");
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
    /// let group = store.group("orders", "billing").open()?;
    /// store.topic("orders")?.send(b"hello")?;
    /// let delivery = block_on(group.receive_async())?;
    /// assert_eq!(delivery.body(), b"hello");
    /// delivery.ack()?;
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn receive_async(&self) -> Receive<'_> {
        Receive { group: self }
    }

    /// The messages of the group, one after the other, as a [`Stream`]. It never ends; after an
    /// error it goes on, except after `Closed` and `ForkedHandle`, which come again and again.
    pub fn deliveries(&self) -> Deliveries {
        Deliveries {
            group: self.clone(),
        }
    }
}

/// Claims a message, or sees to it that the task is woken when there may be one.
fn poll_receive(group: &Group, context: &Context<'_>) -> Poll<Result<Delivery>> {
    let watch = match group.shared().watch() {
        Ok(watch) => watch,
        Err(e) => return Poll::Ready(Err(e)),
    };
    // Before the look: a receive that finds nothing makes the watch begin.
    watch.register(context.waker());
    match group.receive(Duration::ZERO) {
        Ok(Some(delivery)) => Poll::Ready(Ok(delivery)),
        Ok(None) => Poll::Pending,
        Err(e) => Poll::Ready(Err(e)),
    }
}

impl Future for Receive<'_> {
    type Output = Result<Delivery>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_receive(self.group, context)
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        poll_receive(&self.group, context).map(Some)
    }
}
