//! Sending to a topic: check, lay the record out, append, wait for durability.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::attempts::Attempts;
use crate::commitlog::append::{Need, Purpose, wake_topic};
use crate::delivery::kept::{self, Over};
use crate::delivery::registry;
use crate::error::{Code, Error, Outcome, Result};
use crate::format::message::{ChunkExt, Chunks, Meta};
use crate::format::record::{self, Draft, HEADER, Kind};
use crate::inner::{Inner, Opened};
use crate::keeper::Keeper;
use crate::message::{Message, OutMessage, check_limits, over_limit};
use crate::options::{Flush, MessageId, SendStatus, Sent};
use crate::shm::Tx;
use crate::shm::control::{PINS, T_FIRST, T_FLAGS, T_NEXT, TOPIC_COUNTED, TOPIC_COUNTING};
use crate::topic_options::RoomWait;
use crate::within::{Times, Unconfirmed, Within};

/// A topic of an open store. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Topic {
    pub(crate) inner: Arc<Opened>,
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a named producer adds to a send: checks under the lock and what to do after the append.
pub(crate) trait Numbered {
    /// The producer's name and the sequence, for the record.
    fn stamp(&self) -> Option<(&str, u64)>;
    /// Under the lock, before the append: `Some` if nothing is to be appended.
    fn check(&self, tx: &Tx<'_>) -> Result<Option<Stored>>;
    /// Under the lock, after the append of the record at `lsn`.
    fn appended(&self, tx: &mut Tx<'_>, lsn: u64, message: MessageId, seq: u64);
    /// After an error: whether to append it once more, because it has another number now.
    fn again(&self) -> bool {
        false
    }
}

/// A send without a producer's name.
pub(crate) struct Plain;

impl Numbered for Plain {
    fn stamp(&self) -> Option<(&str, u64)> {
        None
    }

    fn check(&self, _tx: &Tx<'_>) -> Result<Option<Stored>> {
        Ok(None)
    }

    fn appended(&self, _tx: &mut Tx<'_>, _lsn: u64, _message: MessageId, _seq: u64) {}
}

/// A message that is in the log, perhaps not yet durable.
pub(crate) struct Stored {
    pub(crate) sent: Sent,
    /// Durable when the watermark has reached this.
    pub(crate) end: u64,
}

thread_local! {
    /// Buffers that are laid out anew for every send of this thread.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Topic {
    pub(crate) fn new(inner: Arc<Opened>, id: u32, name: &str) -> Self {
        Self {
            inner,
            id,
            name: name.into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a body as the store was opened to: with the default [`Flush::Sync`] it is on disk when
    /// this returns. After a retriable error it tries again, a few times and within its time-out
    /// (see [`StoreOptions::send_retries`](crate::StoreOptions::send_retries)); it never appends
    /// twice.
    ///
    /// # Errors
    /// [`Error::outcome`] says what became of the message: `NotStored` (refused: over a limit, no
    /// room, closed, failed) or `MaybeStored` (appended, durability not confirmed in time).
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("send");
    /// let store = keepq::Store::open(&dir)?;
    /// let sent = store.topic("orders")?.send(b"one")?;
    /// assert!(sent.durable && sent.seq == Some(0));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(&self, body: impl AsRef<[u8]>) -> Result<Sent> {
        self.send_message(&OutMessage {
            body: body.as_ref(),
            ..OutMessage::default()
        })
    }

    /// A message with more than a body: `topic.message(b"x").key("k").send()`.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("message");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// let order = orders.message(b"two books").key("user-42").tag("new");
    /// order.header("source", b"web").send()?;
    /// let kept = orders.browse().next().expect("it is there")?.content?;
    /// assert_eq!((kept.key(), kept.body()), (Some("user-42"), &b"two books"[..]));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn message<'a>(&'a self, body: &'a [u8]) -> Message<'a> {
        Message {
            topic: self,
            out: OutMessage {
                body,
                ..OutMessage::default()
            },
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As [`Topic::send`].
    pub fn send_message(&self, message: &OutMessage<'_>) -> Result<Sent> {
        self.send_numbered(message, &Plain)
    }

    pub(crate) fn send_numbered(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
    ) -> Result<Sent> {
        let inner: &Arc<Inner> = &self.inner;
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        let _call = inner.enter().map_err(refused)?;
        let times = Times::of(inner, Some(message), Duration::MAX);
        let deadline = times.deadline;
        let mut attempts = Attempts::new(inner, deadline);
        let stored = self.append_in_time(message, numbered, &mut attempts, times);
        let mut stored = stored.map_err(refused)?;
        let flush = message.flush.unwrap_or(inner.options.flush);
        // Once it is appended, trying again is waiting again for the same position.
        stored.sent.durable |=
            attempts.run(|| inner.settle_durability(flush, stored.end, || deadline))?;
        Ok(stored.sent)
    }

    /// Sends all, in order, with one flush at the end. Not atomic: each has its own result. One
    /// that finds no room in its time (`Timeout`) ends the call: what is behind it is not stored.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("send-many");
    /// use keepq::OutMessage;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let of = |body| OutMessage { body, ..OutMessage::default() };
    /// let results = store.topic("orders")?.send_many(&[of(b"one"), of(b"two")]);
    /// for sent in results {
    ///     assert!(sent?.durable);
    /// }
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "each message has its own result"]
    pub fn send_many(&self, messages: &[OutMessage<'_>]) -> Vec<Result<Sent>> {
        self.send_many_within(messages, Duration::MAX).done()
    }

    pub(crate) fn send_many_numbered<N: Numbered>(
        &self,
        messages: &[OutMessage<'_>],
        number: impl Fn(usize) -> N,
        patience: Duration,
    ) -> Within<Vec<Result<Sent>>> {
        let inner = &self.inner;
        let refused = |e: Error| e.or_outcome(Outcome::NotStored);
        let _call = match inner.enter().map_err(refused) {
            Ok(call) => call,
            Err(e) => return Within::Done(messages.iter().map(|_| Err(e.clone())).collect()),
        };
        let times = Times::of(inner, messages.first(), patience);
        // The attempts are those of the whole call: a full disk is waited for once.
        let mut attempts = Attempts::new(inner, times.deadline);
        let mut sync_end = 0;
        let mut results = Vec::with_capacity(messages.len());
        let mut late = None;
        for (i, message) in messages.iter().enumerate() {
            let number = number(i);
            let stored = match &late {
                // Whoever waits in vain holds up those behind it: what is sent is sent in order.
                Some(e) => Err(Error::clone(e)),
                None => self.append_in_time(message, &number, &mut attempts, times),
            };
            let stored = stored.map_err(refused);
            late = late.or_else(|| stored.as_ref().err().filter(|e| is_late(e)).cloned());
            let sync = message.flush.unwrap_or(inner.options.flush) == Flush::Sync;
            if let (Ok(stored), true) = (&stored, sync) {
                sync_end = sync_end.max(stored.end);
            }
            results.push(stored.map(|s| (s.sent, sync)));
        }
        let finish = move |durable: Result<()>| {
            let finish = |result: Result<(Sent, bool)>| {
                let (mut sent, sync) = result?;
                if sync {
                    durable.clone()?;
                    sent.durable = true;
                }
                Ok(sent)
            };
            results.into_iter().map(finish).collect()
        };
        if sync_end == 0 {
            inner.appended();
            return Within::Done(finish(Ok(())));
        }
        match times.confirm(&mut attempts, inner, sync_end) {
            Ok(false) => Unconfirmed::come_back(inner, (sync_end, times), finish),
            durable => Within::Done(finish(durable.map(drop))),
        }
    }

    /// Appends a message, whole or in chunks. An error means that it is not stored.
    pub(crate) fn append(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        deadline: u64,
    ) -> Result<Stored> {
        check_limits(message)?;
        self.check_name()?;
        Keeper::start(&self.inner);
        let mut room = RoomWait::of(message);
        let stored = loop {
            let appended = BUFFERS.with_borrow_mut(|(ext, record)| {
                let meta = self.meta(message, numbered, None);
                encode_meta(&meta, ext)?;
                let len = record::record_len(ext.len(), message.body.len());
                if record::padded(len) > self.inner.log.max_record(Kind::Msg) {
                    return self.append_chunked(message, numbered, deadline);
                }
                Draft::build_into(record, Kind::Msg, 0, self.id, ext, &[message.body]);
                let bytes = message.body.len() as u64;
                self.append_record(record, (None, bytes), numbered, deadline)
            });
            match appended {
                Ok(Ok(stored)) => break stored,
                // Nothing is changed, and no buffer is held while it waits.
                Ok(Err(over)) => {
                    self.await_room(&over, message.body.len() as u64, deadline, &mut room)?;
                }
                Err(_) if numbered.again() => {}
                Err(e) => return Err(e),
            }
        };
        if !stored.sent.duplicate {
            wake_topic(&self.inner.log, self.id);
        }
        Ok(stored)
    }

    /// Only keepq makes dead letters: what somebody sent there would be none.
    fn check_name(&self) -> Result<()> {
        if !crate::format::name::is_internal(&self.name) {
            return Ok(());
        }
        Err(Error::new(
            Code::InvalidName,
            format!(
                "{} is a stream of keepq's own; it can be read, not sent to",
                self.name
            ),
        ))
    }

    fn meta<'a>(
        &self,
        message: &OutMessage<'a>,
        numbered: &'a impl Numbered,
        chunks: Option<Chunks>,
    ) -> Meta<'a> {
        Meta {
            sent_at_ms: self.inner.log.ctl.host.realtime_ms(),
            key: message.key,
            tag: message.tag,
            order_key: message.order_key,
            headers: message.headers.clone(),
            producer: numbered.stamp(),
            chunks,
            ..Meta::default()
        }
    }

    /// Appends the message's own record. `first_lsn`: where its first chunk lies, if it has any;
    /// `bytes`: of its whole body.
    fn append_record(
        &self,
        record: &mut [u8],
        (first_lsn, bytes): (Option<u64>, u64),
        numbered: &impl Numbered,
        deadline: u64,
    ) -> Result<Result<Stored, Over>> {
        let log = &self.inner.log;
        let links = u64::from(first_lsn.is_some());
        let need = Need::new(record.len(), 1, Purpose::Send).with_links(links);
        let next_at = log.ctl.layout.topic(self.id, T_NEXT);
        let flags_at = log.ctl.layout.topic(self.id, T_FLAGS);
        log.transact(need, deadline, |tx| {
            self.check_live()?;
            if let Some(known) = numbered.check(tx)? {
                return Ok(Ok(known));
            }
            let counts = tx.get(flags_at) & (TOPIC_COUNTED | TOPIC_COUNTING) != 0;
            if counts && !broken!(LimitCheckedAfterwards) {
                if let Some(over) = kept::over(tx, self.id, bytes) {
                    return Ok(Err(over));
                }
            }
            let seq = tx.get(next_at);
            let lsn = log.append(tx, record, seq);
            log.index(tx, self.id, seq, lsn);
            if let Some(first) = first_lsn {
                log.note_link(tx, lsn, first);
            }
            tx.set(next_at, seq + 1);
            if counts {
                kept::add(tx, self.id, bytes);
            }
            let id = MessageId(first_lsn.unwrap_or(lsn));
            numbered.appended(tx, lsn, id, seq);
            if counts && broken!(LimitCheckedAfterwards) {
                if let Some(over) = kept::over(tx, self.id, 0) {
                    return Ok(Err(over));
                }
            }
            let sent = Sent {
                id,
                seq: Some(seq),
                status: SendStatus::SendOk,
                durable: false,
                duplicate: false,
            };
            Ok(Ok(Stored {
                sent,
                end: lsn + record.len() as u64,
            }))
        })
    }

    /// Sends a large body as chunks and a record that lists them. Invisible until that is there.
    fn append_chunked(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        deadline: u64,
    ) -> Result<Result<Stored, Over>> {
        let log = &self.inner.log;
        let bytes = message.body.len() as u64;
        let pin = Pin::take(&self.inner, deadline)?;
        let piece = (log.max_record(Kind::Chunk) - HEADER - 64) & !15;
        let total = message.body.len().div_ceil(piece);
        let count = u32::try_from(total).unwrap_or(u32::MAX);
        let mut lsns: Vec<u64> = Vec::with_capacity(total);
        let mut record = Vec::new();
        for (number, part) in message.body.chunks(piece).enumerate() {
            let first_lsn = lsns.first().copied().unwrap_or(0);
            let ext = ChunkExt {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                total: count,
                first_lsn,
            }
            .encode();
            Draft::build_into(&mut record, Kind::Chunk, 0, self.id, &ext, &[part]);
            let need = Need::new(record.len(), 0, Purpose::Send);
            let lsn = log.transact(need, deadline, |tx| {
                self.check_live()?;
                if let Some(known) = numbered.check(tx)? {
                    return Ok(Err(Ok(known)));
                }
                if let Some(over) = kept::over(tx, self.id, bytes).filter(|_| first_lsn == 0) {
                    return Ok(Err(Err(over)));
                }
                let lsn = log.append(tx, &mut record, 0);
                if first_lsn == 0 {
                    pin.set(lsn);
                }
                Ok(Ok(lsn))
            })?;
            match lsn {
                Ok(lsn) => lsns.push(lsn),
                Err(end) => return Ok(end),
            }
            self.inner.appended();
        }
        let first_lsn = lsns.first().copied().unwrap_or(0);
        let body_len = bytes;
        let chunks = Some(Chunks {
            first_lsn,
            count,
            body_len,
        });
        let mut ext = Vec::new();
        encode_meta(&self.meta(message, numbered, chunks), &mut ext)?;
        let list: Vec<u8> = lsns.iter().flat_map(|lsn| lsn.to_le_bytes()).collect();
        let len = record::padded(record::record_len(ext.len(), list.len()));
        if len > log.max_record(Kind::Msg) {
            return Err(over_ring(bytes, log.ctl.layout.geometry.ring));
        }
        Draft::build_into(&mut record, Kind::Msg, 0, self.id, &ext, &[&list]);
        loop {
            // The chunks stay: what fills the room meanwhile holds up their end only. For that it
            // is waited as long as for the disk: made again, they would fill the disk.
            match self.append_record(&mut record, (Some(first_lsn), bytes), numbered, deadline)? {
                Ok(stored) => return Ok(Ok(stored)),
                Err(over) => self.await_room(&over, bytes, deadline, &mut RoomWait::whole())?,
            }
        }
    }

    /// How many sequences from the first kept message to the next one to come.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn len(&self) -> Result<u64> {
        let _call = self.inner.enter()?;
        let ctl = &self.inner.log.ctl;
        let word = |w| ctl.load(ctl.layout.topic(self.id, w));
        let len = word(T_NEXT).saturating_sub(word(T_FIRST));
        registry::ask_topic(ctl, self.id)?;
        Ok(len)
    }

    /// Refuses to send to a topic that was deleted. Lock E is held.
    #[inline]
    fn check_live(&self) -> Result<()> {
        if self.inner.log.ctl.has_topic(self.id) {
            return Ok(());
        }
        Err(self.deleted())
    }

    /// The error of a topic that was deleted.
    #[cold]
    pub(crate) fn deleted(&self) -> Error {
        Error::new(
            Code::NotFound,
            format!(
                "the topic {} was deleted, here or in another process; ask the store for it again \
                 to make it anew",
                self.name
            ),
        )
    }

    /// Whether nothing is kept.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Keeps the first chunk of a send in progress from being reclaimed.
struct Pin<'a> {
    inner: &'a Inner,
    index: usize,
}

impl<'a> Pin<'a> {
    /// Takes one of this member's pins, waiting for another chunked send if all are in use.
    fn take(inner: &'a Inner, deadline: u64) -> Result<Self> {
        let mut used = inner.pins.lock();
        loop {
            if let Some(index) = (0..PINS).find(|i| *used & (1 << i) == 0) {
                *used |= 1 << index;
                return Ok(Self { inner, index });
            }
            let left = deadline.saturating_sub(inner.now());
            if left == 0 {
                return Err(Error::new(
                    Code::Timeout,
                    format!("{PINS} large messages are being sent by this process; send fewer"),
                ));
            }
            inner
                .pin_freed
                .wait_for(&mut used, Duration::from_millis(left.min(50)));
        }
    }

    fn set(&self, lsn: u64) {
        let ctl = &self.inner.log.ctl;
        ctl.publish(ctl.layout.pin(ctl.me(), self.index), lsn);
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if killed!() {
            return;
        }
        self.set(0);
        *self.inner.pins.lock() &= !(1 << self.index);
        self.inner.pin_freed.notify_one();
    }
}

/// Whether the time was over before there was room, or the log was free.
fn is_late(error: &Error) -> bool {
    matches!(error.code(), Code::Timeout | Code::Busy)
}

fn over_ring(bytes: u64, ring: u64) -> Error {
    over_limit(format!(
        "a body of {bytes} bytes with these headers is too large for this store's ring of {ring} \
         bytes"
    ))
}

fn encode_meta(meta: &Meta<'_>, ext: &mut Vec<u8>) -> Result<()> {
    ext.clear();
    meta.encode_into(ext).map_err(|bad| {
        over_limit(format!(
            "keys, tag and headers do not fit a record: {bad}; send less"
        ))
    })
}
