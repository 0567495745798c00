//! Sends that do not wait for the disk: asynchronous ones, whose result comes later, and one-way
//! ones, which have none. Both are appended before the call returns.

use std::sync::Arc;
use std::time::Duration;

use crate::attempts::Attempts;
use crate::deadline::Begun;
use crate::error::{Code, Error, Outcome, Result};
use crate::in_flight::{Entry, Room};
use crate::message::{Message, OutMessage};
use crate::options::{Flush, WhenFull};
use crate::pending::{One, Pending};
use crate::topic::{Numbered, Plain, Stored, Topic};
use crate::topic_options::RoomWait;
use crate::within::Times;

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
        self.send_numbered_async(message, &Plain)
    }

    /// Sends asynchronously.
    pub(crate) fn send_numbered_async(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
    ) -> Result<Pending> {
        let one = self.send_in_flight(message, numbered, |stored, deadline| {
            Some(One::new(stored.end, deadline))
        })?;
        let one = one.ok_or_else(|| {
            Error::new(
                Code::Internal,
                "an asynchronous send has no place for its result",
            )
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
        self.send_numbered_oneway(message, &Plain);
    }

    /// As [`Topic::send_message_oneway`], but an error of a message that was not appended is told
    /// and not counted.
    ///
    /// # Errors
    /// As [`Topic::send_async`].
    pub fn try_send_oneway(&self, message: &OutMessage<'_>) -> Result<()> {
        self.try_send_numbered_oneway(message, &Plain)
    }

    pub(crate) fn try_send_numbered_oneway(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
    ) -> Result<()> {
        self.send_in_flight(message, numbered, |_, _| None)
            .map(drop)
    }

    pub(crate) fn send_numbered_oneway(&self, message: &OutMessage<'_>, numbered: &impl Numbered) {
        if self.try_send_numbered_oneway(message, numbered).is_err() {
            self.inner.in_flight.count_lost();
        }
    }

    /// Appends a message and enters it among those in flight, unless its result is known. `place`
    /// makes the place for its result, given what was stored and when the send gives up.
    fn send_in_flight(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        place: impl FnOnce(&Stored, u64) -> Option<Arc<One>>,
    ) -> Result<Option<Arc<One>>> {
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        let inner = &self.inner;
        // A forked child must not come to the locks of what is in flight.
        drop(inner.enter().map_err(refused)?);
        let begun = Begun::at(inner, inner.now());
        let times = Times::of(&begun, Some(message), Duration::MAX);
        let deadline = times.deadline.at();
        let when_full = message.when_full.unwrap_or(WhenFull::Wait);
        let len = message.body.len();
        let until = RoomWait::of(message).until(inner, deadline);
        let admitted = inner.in_flight.admit(inner, len, when_full, until);
        let room = admitted.map_err(refused)?;
        let appended = inner.enter().and_then(|call| {
            let mut stored = Stored::NOTHING;
            let mut attempts = Attempts::new(inner, times.deadline);
            self.append_in_time(message, numbered, (&mut attempts, times), &mut stored)?;
            Ok((stored, call))
        });
        let (stored, _call) = match appended {
            Ok(appended) => appended,
            Err(e) => {
                inner.in_flight.give_back(&room);
                return Err(refused(e));
            }
        };
        let one = place(&stored, deadline);
        let flush = message.flush.unwrap_or(inner.options.flush);
        self.enter_in_flight(stored, flush, deadline, room, one.clone());
        Ok(one)
    }

    /// Enters a send that was appended among those in flight, or settles it. In a call of the
    /// store: a close settles it too.
    fn enter_in_flight(
        &self,
        stored: Stored,
        flush: Flush,
        deadline: u64,
        room: Room,
        one: Option<Arc<One>>,
    ) {
        let Stored { mut sent, end } = stored;
        sent.durable |= flush == Flush::Sync && broken!(PendingBeforeFlush);
        if flush == Flush::Async || sent.durable {
            self.inner.appended();
            self.inner.in_flight.give_back(&room);
            if let Some(one) = one {
                // Nobody has seen it yet, so there is nobody to be told.
                drop(one.settle(Ok(sent)));
            }
            return;
        }
        self.inner.in_flight.enter(Entry {
            topic: self.id,
            end,
            deadline,
            sent,
            room,
            one,
        });
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
