//! Sends that do not wait for the disk: asynchronous ones, whose result comes later, and one-way
//! ones, which have none. Both are appended before the call returns.

use std::sync::Arc;

use crate::attempts::Attempts;
use crate::error::{Outcome, Result};
use crate::in_flight::{Entry, Room};
use crate::options::{Flush, WhenFull};
use crate::pending::{One, Pending};
use crate::topic::{Message, OutMessage, Plain, Topic};

impl Topic {
    /// Sends a body without waiting for the disk: the message is in the log when this returns, and
    /// the [`Pending`] tells when it is as durable as the store was opened for. With
    /// [`Flush::Async`] that is at once.
    ///
    /// Waits for room while as many sends are in flight as the store was opened for (see
    /// [`StoreOptions::max_in_flight`](crate::StoreOptions::max_in_flight)); with
    /// [`WhenFull::Refuse`] it is refused instead.
    ///
    /// # Errors
    /// As [`Topic::send`], but only those of a message that was not stored: `Full`, `Timeout`,
    /// `LimitExceeded`, `Closed`, `Failed`, ... What happens to it afterwards, the `Pending` tells.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("send-async");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// let pending = orders.message(b"hi").key("user-42").send_async()?;
    /// // ... something else, while the disk works ...
    /// if let Some(sent) = pending.wait(std::time::Duration::from_secs(5))? {
    ///     println!("message {} is on disk", sent.id);
    /// }
    /// # assert!(pending.is_done());
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_async(&self, body: impl AsRef<[u8]>) -> Result<Pending> {
        self.send_message_async(&OutMessage {
            body: body.as_ref(),
            ..OutMessage::default()
        })
    }

    /// Sends one message without waiting for the disk.
    ///
    /// # Errors
    /// As [`Topic::send_async`].
    pub fn send_message_async(&self, message: &OutMessage<'_>) -> Result<Pending> {
        let refused = |e: crate::Error| e.or_outcome(Outcome::NotStored);
        let mut one = None;
        self.send_in_flight(message, |end, deadline| {
            Some(Arc::clone(one.insert(One::new(end, deadline))))
        })
        .map_err(refused)?;
        let one = one.ok_or_else(|| {
            crate::Error::new(crate::Code::Internal, "an asynchronous send has no result")
        })?;
        Ok(Pending::new(one, Arc::clone(&self.inner.in_flight)))
    }

    /// Sends a body and forgets it. It is appended before this returns and becomes as durable as
    /// the store was opened for; a close waits for that. A failure is told to nobody, but
    /// [counted](crate::StoreStats::oneway_failed).
    ///
    /// Like an asynchronous send it waits for room, at most the send's time-out.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("oneway");
    /// let store = keepq::Store::open(&dir)?;
    /// let clicks = store.topic("clicks")?;
    /// clicks.send_oneway(b"a click");
    /// store.flush(None)?;
    /// assert_eq!(clicks.len()?, 1);
    /// assert_eq!(store.stats()?.oneway_failed, 0);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_oneway(&self, body: impl AsRef<[u8]>) {
        self.send_message_oneway(&OutMessage {
            body: body.as_ref(),
            ..OutMessage::default()
        });
    }

    /// Sends one message and forgets it; see [`Topic::send_oneway`].
    pub fn send_message_oneway(&self, message: &OutMessage<'_>) {
        if self.send_in_flight(message, |_, _| None).is_err() {
            self.inner.in_flight.count_lost();
        }
    }

    /// Appends a message and enters it among those in flight, unless its result is known. `one`
    /// makes the place for its result, given when it is durable and when it gives up.
    fn send_in_flight(
        &self,
        message: &OutMessage<'_>,
        one: impl FnOnce(u64, u64) -> Option<Arc<One>>,
    ) -> Result<()> {
        let inner = &self.inner;
        // A forked child must not come to the locks of what is in flight.
        drop(inner.enter()?);
        let deadline = inner.deadline(message.timeout.or(Some(inner.options.send_timeout)));
        let when_full = message.when_full.unwrap_or(WhenFull::Wait);
        let len = message.body.len();
        let room = inner.in_flight.admit(inner, len, when_full, deadline)?;
        self.append_in_flight(message, deadline, room, one)
    }

    fn append_in_flight(
        &self,
        message: &OutMessage<'_>,
        deadline: u64,
        room: Room,
        one: impl FnOnce(u64, u64) -> Option<Arc<One>>,
    ) -> Result<()> {
        let inner = &self.inner;
        let in_flight = &inner.in_flight;
        let appended = inner.enter().and_then(|call| {
            let stored =
                Attempts::new(inner, deadline).run(|| self.append(message, &Plain, deadline))?;
            Ok((stored, call))
        });
        let (mut stored, _call) = match appended {
            Ok(appended) => appended,
            Err(e) => {
                in_flight.give_back(&room);
                return Err(e);
            }
        };
        let one = one(stored.end, deadline);
        let flush = message.flush.unwrap_or(inner.options.flush);
        stored.sent.durable = flush == Flush::Sync && broken!(PendingBeforeFlush);
        if flush == Flush::Async || stored.sent.durable {
            inner.appended();
            in_flight.give_back(&room);
            if let Some(one) = one {
                // Nobody has seen it yet, so there is nobody to be told.
                drop(one.settle(Ok(stored.sent)));
            }
            return Ok(());
        }
        in_flight.enter(Entry {
            end: stored.end,
            deadline,
            sent: stored.sent,
            room,
            one,
        });
        Ok(())
    }
}

impl Message<'_> {
    /// What the send does while there is no room for it among the messages in flight (default
    /// [`WhenFull::Wait`]). Only asynchronous and one-way sends are ever in flight.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.out.when_full = Some(when_full);
        self
    }

    /// Sends it without waiting for the disk.
    ///
    /// # Errors
    /// As [`Topic::send_async`].
    pub fn send_async(self) -> Result<Pending> {
        self.topic.send_message_async(&self.out)
    }

    /// Sends it and forgets it; see [`Topic::send_oneway`].
    pub fn send_oneway(self) {
        self.topic.send_message_oneway(&self.out);
    }
}
