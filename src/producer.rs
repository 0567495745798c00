//! Named producers: gapless numbers that make sending again safe.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::producers::{self, Handle, Noted};
use crate::error::{Code, Error, Outcome, Result};
use crate::format::name;
use crate::inner::Opened;
use crate::message::OutMessage;
use crate::options::{MessageId, SendStatus, Sent};
use crate::pending::Pending;
use crate::shm::Tx;
use crate::shm::control::{D_NEXT, W_DURABLE};
use crate::topic::{Numbered, Stored, Topic};

/// A named, fenced, gapless producer.
///
/// Its sequences are numbered from 0 over all topics it sends to. A sequence at or below the last
/// one is answered as a success marked `duplicate` and appends nothing, so a program that was
/// killed can start over and send everything again. Opening the name again fences this handle.
///
/// A duplicate is answered with the id and the topic sequence of the message that was stored, for
/// the last [`limits::PRODUCER_RECALLED`] sends of the name, across deaths, restarts and power
/// cuts. Of an older one it is only known that it was stored: its id is 0 and its sequence `None`.
///
/// A store holds a limited number of names (4,096 as it is made by default). When it is full, a new
/// name takes the place of the one that was used least recently, if nobody has that open and its
/// last open, send or close is [`limits::PRODUCER_KEPT`] ago by the system's clock; else the new
/// name is refused. A name that was dropped so begins anew when it comes back: its
/// [`next_seq`](Self::next_seq) is 0, and its numbers of before are taken for new ones.
///
/// [`limits::PRODUCER_RECALLED`]: crate::limits::PRODUCER_RECALLED
/// [`limits::PRODUCER_KEPT`]: crate::limits::PRODUCER_KEPT
pub struct Producer {
    inner: Arc<Opened>,
    name: String,
    handle: Handle,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One numbered send.
pub(crate) struct Number<'a> {
    producer: &'a Producer,
    seq: Cell<u64>,
    /// It is the next one, whichever that is.
    any: bool,
    /// It was not the next one and is now: another thread was faster, or a message before it was
    /// not stored.
    changed: Cell<bool>,
    /// When it is sent, in ms since 1970: asked before the lock.
    sent_ms: u64,
}

impl Numbered for Number<'_> {
    fn stamp(&self) -> Option<(&str, u64)> {
        Some((&self.producer.name, self.seq.get()))
    }

    fn check(&self, tx: &Tx<'_>, stored: &mut Stored) -> Result<bool> {
        self.producer.check_epoch(tx)?;
        let id = self.producer.handle.id;
        let next = tx.get(tx.ctl.layout.producer(id, D_NEXT));
        let seq = self.seq.get();
        if seq == next {
            return Ok(false);
        }
        if self.any && !broken!(NumberGivenTwice) {
            // It is in the record already, which is laid out again.
            self.seq.set(next);
            self.changed.set(true);
            return Err(Error::new(
                Code::ProducerGap,
                format!("number {seq} is not the next one any more"),
            ));
        }
        if seq > next {
            return Err(Error::new(
                Code::ProducerGap,
                format!(
                    "producer {} sends sequence {seq} but {next} is next; send every number once",
                    self.producer.name
                ),
            ));
        }
        let known = producers::recall(tx, id, seq);
        stored.sent = Sent {
            id: MessageId(known.result.map_or(0, |(message, _)| message)),
            seq: known.result.map(|(_, seq)| seq),
            status: SendStatus::SendOk,
            durable: tx.ctl.load(W_DURABLE) >= known.end,
            duplicate: true,
        };
        stored.end = known.end;
        Ok(true)
    }

    fn check_part(&self, tx: &Tx<'_>, stored: &mut Stored) -> Result<bool> {
        if self.any {
            // Whichever is next when the chunks are there.
            return self.producer.check_epoch(tx).map(|()| false);
        }
        self.check(tx, stored)
    }

    fn appended(&self, tx: &mut Tx<'_>, lsn: u64, message: MessageId, seq: u64) {
        let send = Noted {
            number: self.seq.get(),
            lsn,
            message: message.0,
            seq,
            sent_ms: self.sent_ms,
        };
        producers::note(tx, self.producer.handle.id, &send);
    }

    fn again(&self) -> bool {
        self.changed.take()
    }
}

impl Producer {
    pub(crate) fn open(inner: &Arc<Opened>, name: &str) -> Result<Self> {
        let _call = inner.enter()?;
        name::check_user_name(name).map_err(|why| {
            Error::new(
                Code::InvalidName,
                format!("the producer name {name:?}: {why}"),
            )
        })?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let handle = producers::open(&inner.log, name, inner.generation, deadline)?;
        Ok(Self {
            inner: Arc::clone(inner),
            name: name.to_owned(),
            handle,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn check_epoch(&self, tx: &Tx<'_>) -> Result<()> {
        if self.handle.is_current(tx) {
            return Ok(());
        }
        Err(Error::new(
            Code::ProducerFenced,
            format!(
                "producer {} was opened again, here or in another process; only the newest handle \
                 may send",
                self.name
            ),
        ))
    }

    /// The sequence that the next new message gets: what was sent so far, kept across restarts.
    ///
    /// # Errors
    /// `ProducerFenced` when the name was opened again.
    pub fn next_seq(&self) -> Result<u64> {
        let _call = self.inner.enter()?;
        let ctl = &self.inner.log.ctl;
        let tx = ctl.begin(ctl.patience())?;
        self.check_epoch(&tx)?;
        Ok(tx.get(ctl.layout.producer(self.handle.id, D_NEXT)))
    }

    /// Sends one message with this number; `None` = the next one.
    ///
    /// # Errors
    /// As [`Topic::send`]; `ProducerGap` beyond the next number, `ProducerFenced` when the name was
    /// opened again. Nothing is stored then.
    pub fn send(&self, topic: &Topic, seq: Option<u64>, message: &OutMessage<'_>) -> Result<Sent> {
        self.with_number(topic, seq, |number| topic.send_numbered(message, number))
    }

    /// Sends one message with this number without waiting for the disk; `None` = the next one. As
    /// [`Topic::send_async`] otherwise.
    ///
    /// # Errors
    /// As [`Producer::send`], those of a message that was not stored.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("producer-async");
    /// use keepq::OutMessage;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// let loader = store.producer("loader")?;
    /// let line = OutMessage { body: b"line 0", ..OutMessage::default() };
    /// let first = loader.send_async(&orders, Some(0), &line)?;
    /// let again = loader.send_async(&orders, Some(0), &line)?;
    /// assert!(!first.wait(None)?.expect("it comes").duplicate);
    /// assert!(again.wait(None)?.expect("it comes").duplicate);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_async(
        &self,
        topic: &Topic,
        seq: Option<u64>,
        message: &OutMessage<'_>,
    ) -> Result<Pending> {
        self.with_number(topic, seq, |number| {
            topic.send_numbered_async(message, number)
        })
    }

    /// Sends one message with this number and forgets it; `None` = the next one. As
    /// [`Topic::send_oneway`] otherwise: a gap and a fenced handle are counted, too.
    pub fn send_oneway(&self, topic: &Topic, seq: Option<u64>, message: &OutMessage<'_>) {
        if self.try_send_oneway(topic, seq, message).is_err() {
            self.inner.in_flight.count_lost();
        }
    }

    /// As [`Producer::send_oneway`], but an error of a message that was not appended is told and
    /// not counted.
    ///
    /// # Errors
    /// As [`Producer::send_async`].
    pub fn try_send_oneway(
        &self,
        topic: &Topic,
        seq: Option<u64>,
        message: &OutMessage<'_>,
    ) -> Result<()> {
        self.with_number(topic, seq, |number| {
            topic.try_send_numbered_oneway(message, number)
        })
    }

    /// Sends with a number.
    pub(crate) fn with_number<T>(
        &self,
        topic: &Topic,
        seq: Option<u64>,
        send: impl FnOnce(&Number<'_>) -> Result<T>,
    ) -> Result<T> {
        send(&self.number(topic, seq)?)
    }

    /// The number of a send, of the next one if none is given.
    pub(crate) fn number(&self, topic: &Topic, seq: Option<u64>) -> Result<Number<'_>> {
        let first = self.first(topic, seq)?;
        Ok(self.numbered(first, seq.is_none()))
    }

    /// The number that sends to a topic begin with, if none is given by what is next now.
    pub(crate) fn first(&self, topic: &Topic, seq: Option<u64>) -> Result<u64> {
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        self.check_store(topic).map_err(refused)?;
        seq.map_or_else(|| self.next_seq(), Ok).map_err(refused)
    }

    /// `any`: it is the next one when it is appended.
    pub(crate) fn numbered(&self, seq: u64, any: bool) -> Number<'_> {
        Number {
            producer: self,
            seq: Cell::new(seq),
            any,
            changed: Cell::new(false),
            sent_ms: self.inner.log.ctl.host.realtime_ms(),
        }
    }

    /// Sends messages numbered from `first` on, with one flush at the end; `None` = each with the
    /// next number, so that threads can share the handle: what others send meanwhile may have
    /// numbers in between, and one that is not stored takes none.
    #[must_use = "each message has its own result"]
    pub fn send_many(
        &self,
        topic: &Topic,
        first: impl Into<Option<u64>>,
        messages: &[OutMessage<'_>],
    ) -> Vec<Result<Sent>> {
        self.send_many_within(topic, first, messages, Duration::MAX)
            .done()
    }

    fn check_store(&self, topic: &Topic) -> Result<()> {
        if Arc::ptr_eq(&self.inner, &topic.inner) {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidArgument,
            "the producer and the topic come from different opens of the store; use one",
        ))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if killed!() {
            return;
        }
        // A store that is closed has closed it. If it fails, the end of this process closes it.
        if let Ok(_call) = self.inner.enter() {
            let _ = producers::close(&self.inner.log, self.handle);
        }
    }
}
