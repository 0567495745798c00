//! Sends that come back to their caller before they are over, for one who must look at something
//! else meanwhile: a signal, a request to stop.
//!
//! Nothing is begun here that goes on by itself: what is appended has its place in the log, which
//! anybody's flush makes durable, and whoever waits for that waits a while at a time.

mod acks;

use std::sync::Arc;
use std::time::Duration;

use crate::attempts::Attempts;
use crate::commitlog::Log;
use crate::deadline::{Begun, Deadline};
use crate::error::{Code, Error, Outcome, Result};
use crate::format::record::{HEADER, Kind};
use crate::inner::{Inner, Opened};
use crate::message::OutMessage;
use crate::options::{Flush, Sent};
use crate::producer::Producer;
use crate::topic::{Numbered, Plain, Stored, Topic};

/// What a record takes at most beyond what the message says and its producer's name.
const SPARE: usize = HEADER + 512;

/// How far a call came in the time that it was given.
#[must_use = "what is not done may be on disk or not"]
pub enum Within<T> {
    /// It is over, with this result.
    Done(T),
    /// It is in the log; whether it is on disk is still to be confirmed.
    Unconfirmed(Unconfirmed<T>),
}

impl<T> Within<T> {
    /// The result, waited for as long as the call may take.
    pub(crate) fn done(self) -> T {
        let mut now = self;
        loop {
            now = match now {
                Self::Done(result) => return result,
                Self::Unconfirmed(unconfirmed) => unconfirmed.wait(Duration::MAX),
            };
        }
    }
}

/// What is in the log and not yet known to be on disk.
///
/// Dropping it changes nothing about the messages: they stay sent and are flushed like those of an
/// asynchronous store. Usable from any thread; in a forked child the result is `ForkedHandle`.
pub struct Unconfirmed<T> {
    inner: Arc<Opened>,
    /// Durable when the watermark has reached this.
    end: u64,
    /// When the call gives up (BOOTTIME ms).
    deadline: u64,
    /// Makes the result of whether it is on disk.
    finish: Box<dyn FnOnce(Result<()>) -> T + Send>,
}

impl<T> std::fmt::Debug for Unconfirmed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unconfirmed")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<T> Unconfirmed<T> {
    /// Comes back with what is appended up to `end`.
    pub(crate) fn come_back(
        inner: &Arc<Opened>,
        (end, times): (u64, Times<'_>),
        finish: impl FnOnce(Result<()>) -> T + Send + 'static,
    ) -> Within<T> {
        // It may never be waited for.
        inner.appended();
        Within::Unconfirmed(Self {
            inner: Arc::clone(inner),
            end,
            deadline: times.deadline.at(),
            finish: Box::new(finish),
        })
    }

    /// Waits for the disk, helping with the flush, at most `patience` and at most as long as the
    /// call may take. A flush that this thread leads is not left: while the disk does not answer,
    /// neither does this.
    pub fn wait(self, patience: Duration) -> Within<T> {
        match self.is_durable(patience) {
            Ok(false) => Within::Unconfirmed(self),
            done => Within::Done((self.finish)(done.map(drop))),
        }
    }

    fn is_durable(&self, patience: Duration) -> Result<bool> {
        let inner: &Inner = &self.inner;
        let _call = match inner.enter() {
            Ok(call) => call,
            // A close flushes.
            Err(e) if e.code() == Code::Closed && inner.closed_beyond(self.end) => return Ok(true),
            Err(e) => return Err(e.or_outcome(Outcome::MaybeStored)),
        };
        let now = inner.now();
        let begun = Begun::at(inner, now);
        let deadline = begun.after(Duration::from_millis(self.deadline.saturating_sub(now)));
        let times = Times {
            append: deadline,
            soon: deadline.or_before(begun.after(patience)),
            deadline,
        };
        times.confirm(&mut Attempts::new(inner, deadline), inner, self.end)
    }
}

/// When a call comes back.
#[derive(Clone, Copy)]
pub(crate) struct Times<'a> {
    /// If nothing is in the log by then.
    pub(crate) append: Deadline<'a>,
    /// If it is not known to be on disk by then.
    soon: Deadline<'a>,
    /// At the latest.
    pub(crate) deadline: Deadline<'a>,
}

impl<'a> Times<'a> {
    /// As the message says, which is the first of a call.
    #[inline]
    pub(crate) fn of(
        begun: &'a Begun<'a>,
        message: Option<&OutMessage<'_>>,
        patience: Duration,
    ) -> Self {
        let timeout = message.and_then(|m| m.timeout);
        let deadline = begun.after(timeout.unwrap_or(begun.inner().options.send_timeout));
        let append = message.and_then(|m| m.append_timeout);
        Self {
            append: append.map_or(deadline, |append| deadline.or_before(begun.after(append))),
            soon: deadline.or_before(begun.after(patience)),
            deadline,
        }
    }

    /// Until when the append of a message may wait. What has many records is not begun anew: those
    /// that are there already would stay and fill the disk.
    #[inline]
    fn of_append(self, log: &Log, message: &OutMessage<'_>) -> Deadline<'a> {
        if !self.append.is_before(self.deadline) || may_be_chunked(log, message) {
            self.deadline
        } else {
            self.append
        }
    }

    /// Waits until everything below `end` is durable; `Ok(false)`: not before the call comes back.
    pub(crate) fn confirm(
        self,
        attempts: &mut Attempts<'_>,
        inner: &Inner,
        end: u64,
    ) -> Result<bool> {
        let durable = attempts.run(|| inner.log.wait_durable(end, self.soon.at()))?;
        if !durable && inner.now() >= self.deadline.at() {
            return Err(inner.log.flush_timeout());
        }
        Ok(durable || broken!(ConfirmedBeforeFlush))
    }
}

/// Whether the message may take several records.
fn may_be_chunked(log: &Log, message: &OutMessage<'_>) -> bool {
    let text = |text: Option<&str>| text.map_or(0, str::len);
    let headers = message.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.len() + 16)
        .sum();
    let names = text(message.key) + text(message.tag) + text(message.order_key);
    message.body.len() + headers + names + SPARE > log.max_record(Kind::Msg)
}

impl Topic {
    /// Sends one message as [`Topic::send_message`] does, but comes back after about `patience`
    /// with what is still to be confirmed, so that the caller can look at something else and
    /// [wait](Unconfirmed::wait) again. The wait before the message is in the log is bounded by
    /// [`OutMessage::append_timeout`].
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("send-within");
    /// use keepq::{OutMessage, Within};
    /// use std::time::Duration;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// let order = OutMessage { body: b"two books", ..OutMessage::default() };
    /// let slice = Duration::from_millis(100);
    /// let mut sent = orders.send_within(&order, slice);
    /// let sent = loop {
    ///     sent = match sent {
    ///         Within::Done(result) => break result?,
    ///         // Look at something else, then wait on.
    ///         Within::Unconfirmed(unconfirmed) => unconfirmed.wait(slice),
    ///     };
    /// };
    /// assert!(sent.durable);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_within(
        &self,
        message: &OutMessage<'_>,
        patience: Duration,
    ) -> Within<Result<Sent>> {
        self.send_numbered_within(message, &Plain, patience)
            .unwrap_or_else(|e| Within::Done(Err(e)))
    }

    /// Sends many messages as [`Topic::send_many`] does, but comes back after about `patience`
    /// with what is still to be confirmed; see [`Topic::send_within`].
    pub fn send_many_within(
        &self,
        messages: &[OutMessage<'_>],
        patience: Duration,
    ) -> Within<Vec<Result<Sent>>> {
        self.send_many_numbered(messages, |_| Plain, patience)
    }

    fn send_numbered_within(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        patience: Duration,
    ) -> Result<Within<Result<Sent>>> {
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        let inner: &Arc<Inner> = &self.inner;
        let _call = inner.enter().map_err(refused)?;
        let begun = Begun::at_first_wait(inner);
        let times = Times::of(&begun, Some(message), patience);
        let mut attempts = Attempts::new(inner, times.deadline);
        let mut stored = Stored::NOTHING;
        self.append_in_time(message, numbered, (&mut attempts, times), &mut stored)
            .map_err(refused)?;
        let Stored { mut sent, end } = stored;
        if message.flush.unwrap_or(inner.options.flush) == Flush::Async {
            inner.appended();
        } else if times.confirm(&mut attempts, inner, end)? {
            sent.durable = true;
        } else {
            let finish = |durable: Result<()>| {
                sent.durable = true;
                durable.map(|()| sent)
            };
            return Ok(Unconfirmed::come_back(&self.inner, (end, times), finish));
        }
        Ok(Within::Done(Ok(sent)))
    }

    /// Appends a message, after retriable errors again, until its time to come back.
    pub(crate) fn append_in_time(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        (attempts, times): (&mut Attempts<'_>, Times<'_>),
        stored: &mut Stored,
    ) -> Result<()> {
        let until = times.of_append(&self.inner.log, message);
        attempts.run(|| match self.append(message, numbered, until, stored) {
            // Whoever holds the log may be stopped: not tried again before the caller came back.
            Err(e) if e.code() == Code::Busy && self.inner.now() >= until.at() => Ok(Err(e)),
            appended => appended.map(Ok),
        })?
    }
}

impl Producer {
    /// Sends one message with this number, `None` = the next one, as [`Producer::send`] does, but
    /// comes back after about `patience` with what is still to be confirmed; see
    /// [`Topic::send_within`].
    pub fn send_within(
        &self,
        topic: &Topic,
        seq: Option<u64>,
        message: &OutMessage<'_>,
        patience: Duration,
    ) -> Within<Result<Sent>> {
        let sent = self.with_number(topic, seq, |number| {
            topic.send_numbered_within(message, number, patience)
        });
        sent.unwrap_or_else(|e| Within::Done(Err(e)))
    }

    /// Sends many messages as [`Producer::send_many`] does, but comes back after about `patience`
    /// with what is still to be confirmed; see [`Topic::send_within`].
    pub fn send_many_within(
        &self,
        topic: &Topic,
        first: impl Into<Option<u64>>,
        messages: &[OutMessage<'_>],
        patience: Duration,
    ) -> Within<Vec<Result<Sent>>> {
        let given = first.into();
        match self.first(topic, given) {
            Ok(first) => {
                let number = |i| self.numbered(first.saturating_add(i as u64), given.is_none());
                topic.send_many_numbered(messages, number, patience)
            }
            Err(e) => Within::Done(messages.iter().map(|_| Err(e.clone())).collect()),
        }
    }
}
