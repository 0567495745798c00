//! Named producers: gapless numbers that make sending again safe.

use std::sync::Arc;

use crate::commitlog::read::ReadAhead;
use crate::delivery::{fetch, registry};
use crate::error::{Code, Error, Outcome, Result};
use crate::format::name;
use crate::inner::Opened;
use crate::options::{MessageId, SendStatus, Sent};
use crate::pending::Pending;
use crate::shm::Tx;
use crate::shm::control::{D_EPOCH, D_LSN, D_NEXT, D_SEQ, D_TOPIC};
use crate::topic::{Numbered, OutMessage, Stored, Topic};

/// A named, fenced, gapless producer.
///
/// Its sequences are numbered from 0 over all topics it sends to. A sequence at or below the last
/// one is answered as a success marked `duplicate` and appends nothing, so a program that was
/// killed can start over and send everything again. Opening the name again fences this handle.
pub struct Producer {
    inner: Arc<Opened>,
    name: String,
    id: u32,
    epoch: u32,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One numbered send.
struct Number<'a> {
    producer: &'a Producer,
    seq: u64,
}

impl Number<'_> {
    fn at(&self, word: usize) -> usize {
        self.producer
            .inner
            .log
            .ctl
            .layout
            .producer(self.producer.id, word)
    }
}

impl Numbered for Number<'_> {
    fn stamp(&self) -> Option<(&str, u64)> {
        Some((&self.producer.name, self.seq))
    }

    fn check(&self, tx: &Tx<'_>) -> Result<Option<Stored>> {
        self.producer.check_epoch(tx)?;
        let next = tx.get(self.at(D_NEXT));
        if self.seq > next {
            return Err(Error::new(
                Code::ProducerGap,
                format!(
                    "producer {} sends sequence {} but {next} is next; send every number once",
                    self.producer.name, self.seq
                ),
            ));
        }
        if self.seq == next {
            return Ok(None);
        }
        // Only the last result is remembered; every earlier message is durable when the last is,
        // and the watermark moves between records.
        let last_lsn = tx.get(self.at(D_LSN));
        let last = self.seq + 1 == next;
        let known = last && tx.get(self.at(D_TOPIC)) != 0;
        let sent = Sent {
            id: MessageId(if last { last_lsn } else { 0 }),
            seq: known.then(|| tx.get(self.at(D_SEQ))),
            status: SendStatus::SendOk,
            durable: false,
            duplicate: true,
        };
        Ok(Some(Stored {
            sent,
            end: last_lsn + 1,
        }))
    }

    fn appended(&self, tx: &mut Tx<'_>, lsn: u64, topic: u32, seq: u64) {
        tx.set(self.at(D_NEXT), self.seq + 1);
        tx.set(self.at(D_LSN), lsn);
        tx.set(self.at(D_TOPIC), u64::from(topic) + 1);
        tx.set(self.at(D_SEQ), seq);
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
        let (id, epoch) = registry::open_producer(&inner.log, name, deadline)?;
        Ok(Self {
            inner: Arc::clone(inner),
            name: name.to_owned(),
            id,
            epoch,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn check_epoch(&self, tx: &Tx<'_>) -> Result<()> {
        let at = self.inner.log.ctl.layout.producer(self.id, D_EPOCH);
        if tx.get(at) == u64::from(self.epoch) {
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
        Ok(tx.get(ctl.layout.producer(self.id, D_NEXT)))
    }

    /// Sends one message with this number; `None` = the next one.
    ///
    /// # Errors
    /// As [`Topic::send`]; `ProducerGap` beyond the next number, `ProducerFenced` when the name was
    /// opened again. Nothing is stored then.
    pub fn send(&self, topic: &Topic, seq: Option<u64>, message: &OutMessage<'_>) -> Result<Sent> {
        let number = self.number(topic, seq)?;
        let sent = topic.send_numbered(message, &number)?;
        Ok(self.with_its_id(sent))
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
        let number = self.number(topic, seq)?;
        topic.send_numbered_async(message, &number, |sent| self.with_its_id(sent))
    }

    /// Sends one message with this number and forgets it; `None` = the next one. As
    /// [`Topic::send_oneway`] otherwise: a gap and a fenced handle are counted, too.
    pub fn send_oneway(&self, topic: &Topic, seq: Option<u64>, message: &OutMessage<'_>) {
        match self.number(topic, seq) {
            Ok(number) => topic.send_numbered_oneway(message, &number),
            Err(_) => self.inner.in_flight.count_lost(),
        }
    }

    /// The number of a send, of the next one if none is given.
    fn number(&self, topic: &Topic, seq: Option<u64>) -> Result<Number<'_>> {
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        self.check_store(topic).map_err(refused)?;
        let seq = match seq {
            Some(seq) => seq,
            None => self.next_seq().map_err(refused)?,
        };
        Ok(Number {
            producer: self,
            seq,
        })
    }

    /// A duplicate answers with the message's identity. That of a large one is its first chunk,
    /// which only its record in the log names; if that is gone already, it is not known any more.
    fn with_its_id(&self, mut sent: Sent) -> Sent {
        let log = &self.inner.log;
        let at = log.ctl.layout.producer(self.id, D_TOPIC);
        let topic = u32::try_from(log.ctl.load(at)).ok();
        if let (true, Some(seq), Some(topic)) = (sent.duplicate, sent.seq, topic) {
            let mut ahead = ReadAhead::default();
            let topic = topic.saturating_sub(1);
            let found = fetch::fetch(log, topic, seq, sent.id.0, &mut ahead);
            sent.id = MessageId(found.map_or(0, |message| message.id));
        }
        sent
    }

    /// Sends messages numbered from `first` on, with one flush at the end.
    #[must_use = "each message has its own result"]
    pub fn send_many(
        &self,
        topic: &Topic,
        first: u64,
        messages: &[OutMessage<'_>],
    ) -> Vec<Result<Sent>> {
        if let Err(e) = self.check_store(topic) {
            return messages.iter().map(|_| Err(e.clone())).collect();
        }
        topic.send_many_numbered(messages, |i| Number {
            producer: self,
            seq: first + i as u64,
        })
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
