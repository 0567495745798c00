//! Sending to a topic: check, lay the record out, append, wait for durability.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::attempts::Attempts;
use crate::commitlog::append::{Need, Purpose, wake_topic};
use crate::deadline::{Begun, Deadline};
use crate::delivery::kept::{self, Over};
use crate::delivery::registry;
use crate::error::{Code, Error, Outcome, Result};
use crate::format::message::{Chunks, Meta, encode_sent_at};
use crate::format::record::{self, Draft, Kind};
use crate::inner::{Inner, Opened};
use crate::keeper::Keeper;
use crate::message::{Message, OutMessage, check_limits, over_limit};
use crate::options::{Flush, MessageId, SendStatus, Sent};
use crate::shm::Tx;
use crate::shm::control::{T_FIRST, T_FLAGS, T_NEXT, TOPIC_COUNTED, TOPIC_COUNTING};
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
    /// There is nothing to be checked or noted: several can be appended in one transaction.
    const PLAIN: bool = false;

    /// The producer's name and the sequence, for the record.
    fn stamp(&self) -> Option<(&str, u64)>;
    /// Under the lock, before the append: whether nothing is to be appended, as `stored` is.
    fn check(&self, tx: &Tx<'_>, stored: &mut Stored) -> Result<bool>;
    /// As [`Numbered::check`], before the append of a chunk, which has no number.
    fn check_part(&self, tx: &Tx<'_>, stored: &mut Stored) -> Result<bool> {
        self.check(tx, stored)
    }
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
    const PLAIN: bool = true;

    fn stamp(&self) -> Option<(&str, u64)> {
        None
    }

    fn check(&self, _tx: &Tx<'_>, _stored: &mut Stored) -> Result<bool> {
        Ok(false)
    }

    fn appended(&self, _tx: &mut Tx<'_>, _lsn: u64, _message: MessageId, _seq: u64) {}
}

/// A message that is in the log, perhaps not yet durable. It is filled in where it is wanted:
/// handed up from call to call, its copies were a tenth of a send.
pub(crate) struct Stored {
    pub(crate) sent: Sent,
    /// Durable when the watermark has reached this.
    pub(crate) end: u64,
}

impl Stored {
    /// Where one is to be filled in.
    pub(crate) const NOTHING: Self = Self {
        sent: Sent {
            id: MessageId(0),
            seq: None,
            status: SendStatus::SendOk,
            durable: false,
            duplicate: false,
        },
        end: 0,
    };
}

/// Most messages that one transaction appends.
const RUN: usize = 64;

thread_local! {
    /// Where records are laid out, for every send of this thread anew.
    static RECORDS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lays records out in a buffer that is kept for the next send of this thread.
#[inline]
fn with_records<T>(lay_out: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut records = RECORDS.take();
    records.clear();
    let done = lay_out(&mut records);
    RECORDS.set(records);
    done
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
        let begun = Begun::at_first_wait(inner);
        let times = Times::of(&begun, Some(message), Duration::MAX);
        let deadline = times.deadline;
        let mut attempts = Attempts::new(inner, deadline);
        let mut stored = Stored::NOTHING;
        self.append_in_time(message, numbered, (&mut attempts, times), &mut stored)
            .map_err(refused)?;
        let flush = message.flush.unwrap_or(inner.options.flush);
        // Once it is appended, trying again is waiting again for the same position.
        let durable =
            attempts.run(|| inner.settle_durability(flush, stored.end, || deadline.at()))?;
        Ok(Sent {
            durable: durable || stored.sent.durable,
            ..stored.sent
        })
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
        let begun = Begun::at_first_wait(inner);
        let times = Times::of(&begun, messages.first(), patience);
        // The attempts are those of the whole call: a full disk is waited for once.
        let mut attempts = Attempts::new(inner, times.deadline);
        let is_sync = |m: &OutMessage<'_>| m.flush.unwrap_or(inner.options.flush) == Flush::Sync;
        let mut sync_end = 0;
        let mut results = Vec::with_capacity(messages.len());
        let mut late = None;
        while let [message, ..] = &messages[results.len()..] {
            let done = results.len();
            if N::PLAIN && late.is_none() {
                self.append_run(&messages[done..], times.append, |message, stored| {
                    let sync = is_sync(message);
                    sync_end = sync_end.max(if sync { stored.end } else { 0 });
                    results.push(Ok((stored.sent.clone(), sync)));
                });
                if results.len() > done {
                    continue;
                }
            }
            let number = number(done);
            let mut stored = Stored::NOTHING;
            let appended = match &late {
                // Whoever waits in vain holds up those behind it: what is sent is sent in order.
                Some(e) => Err(Error::clone(e)),
                None => self.append_in_time(message, &number, (&mut attempts, times), &mut stored),
            };
            let appended = appended.map_err(refused);
            late = late.or_else(|| appended.as_ref().err().filter(|e| is_late(e)).cloned());
            let sync = is_sync(message);
            sync_end = sync_end.max(if sync { stored.end } else { 0 });
            results.push(appended.map(|()| (stored.sent, sync)));
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
        deadline: Deadline<'_>,
        stored: &mut Stored,
    ) -> Result<()> {
        check_limits(message)?;
        self.check_name()?;
        Keeper::start(&self.inner);
        let bytes = message.body.len() as u64;
        let mut room = RoomWait::of(message);
        let mut append = || {
            with_records(|record| {
                let sent_at_ms = self.inner.log.ctl.host.realtime_ms();
                if !self.lay_out(record, message, numbered, sent_at_ms)? {
                    return self.append_chunked(message, numbered, deadline, stored);
                }
                self.append_record(record, (None, bytes), numbered, deadline, stored)
            })
        };
        loop {
            match append() {
                Ok(None) => break,
                // Nothing is changed, and no buffer is held while it waits.
                Ok(Some(over)) => self.await_room(&over, bytes, deadline.at(), &mut room)?,
                Err(_) if numbered.again() => {}
                Err(e) => return Err(e),
            }
        }
        if !stored.sent.duplicate {
            wake_topic(&self.inner.log, self.id);
        }
        Ok(())
    }

    /// Appends in one transaction what it can of these: from the first on, as long as they are
    /// small and need nothing but a place. Tells of each that is stored; none may be, for whatever
    /// reason: the first one sent alone has its error.
    fn append_run(
        &self,
        messages: &[OutMessage<'_>],
        deadline: Deadline<'_>,
        mut tell: impl FnMut(&OutMessage<'_>, &Stored),
    ) {
        let log = &self.inner.log;
        let flags_at = log.ctl.layout.topic(self.id, T_FLAGS);
        let is_counted = |flags: u64| flags & (TOPIC_COUNTED | TOPIC_COUNTING) != 0;
        if is_counted(log.ctl.load(flags_at)) || self.check_name().is_err() {
            return;
        }
        Keeper::start(&self.inner);
        with_records(|records| {
            let mut ends = [0; RUN];
            let count = self.lay_out_run(records, messages, &mut ends);
            let ends = &ends[..count];
            let need = Need::new(records.len(), count, Purpose::Send);
            let appended = log.transact_soon(
                need,
                || deadline.at(),
                |tx| {
                    self.check_live()?;
                    if count == 0 || is_counted(tx.get(flags_at)) {
                        return Ok(None);
                    }
                    Ok(Some(log.append_messages(tx, self.id, records, ends)))
                },
            );
            let Ok(Some((first_lsn, first_seq))) = appended else {
                return;
            };
            let mut stored = Stored::NOTHING;
            stored.end = first_lsn;
            for ((seq, message), &end) in (first_seq..).zip(messages).zip(ends) {
                stored.sent.id = MessageId(stored.end);
                stored.sent.seq = Some(seq);
                stored.end = first_lsn + end as u64;
                tell(message, &stored);
            }
            wake_topic(log, self.id);
        });
    }

    /// Lays out the records of a run one behind the other, and notes where each ends; returns how
    /// many there are.
    fn lay_out_run(
        &self,
        records: &mut Vec<u8>,
        messages: &[OutMessage<'_>],
        ends: &mut [usize; RUN],
    ) -> usize {
        let most = self.inner.log.max_record(Kind::Msg);
        let sent_at_ms = self.inner.log.ctl.host.realtime_ms();
        for (count, (message, end)) in messages.iter().zip(&mut *ends).enumerate() {
            let start = records.len();
            let fits = check_limits(message).is_ok()
                && matches!(self.lay_out(records, message, &Plain, sent_at_ms), Ok(true))
                && records.len() <= most;
            if !fits {
                records.truncate(start);
                return count;
            }
            *end = records.len();
        }
        messages.len().min(RUN)
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

    /// Lays the message's record out behind what is in `records`. False: it does not fit one.
    #[inline]
    fn lay_out(
        &self,
        records: &mut Vec<u8>,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        sent_at_ms: u64,
    ) -> Result<bool> {
        let mut encoded = Ok(());
        let start = Draft::begin(records, |ext| {
            encoded = encode_meta(message, numbered, sent_at_ms, None, ext);
        });
        encoded?;
        let len = (records.len() - start).saturating_add(message.body.len());
        if record::padded(len) > self.inner.log.max_record(Kind::Msg) {
            return Ok(false);
        }
        Draft::finish(records, start, (Kind::Msg, 0, self.id), &[message.body]);
        Ok(true)
    }

    /// Appends the message's own record and fills in what became of it, or tells which limit has no
    /// room for it. `first_lsn`: where its first chunk lies, if it has any; `bytes`: of its whole
    /// body.
    pub(crate) fn append_record(
        &self,
        record: &mut [u8],
        (first_lsn, bytes): (Option<u64>, u64),
        numbered: &impl Numbered,
        deadline: Deadline<'_>,
        stored: &mut Stored,
    ) -> Result<Option<Box<Over>>> {
        let log = &self.inner.log;
        let links = u64::from(first_lsn.is_some());
        let need = Need::new(record.len(), 1, Purpose::Send).with_links(links);
        let flags_at = log.ctl.layout.topic(self.id, T_FLAGS);
        let body = |tx: &mut Tx<'_>| {
            self.check_live()?;
            if numbered.check(tx, stored)? {
                return Ok(None);
            }
            let counts = tx.get(flags_at) & (TOPIC_COUNTED | TOPIC_COUNTING) != 0;
            if counts && !broken!(LimitCheckedAfterwards) {
                if let Some(over) = kept::over(tx, self.id, bytes) {
                    return Ok(Some(Box::new(over)));
                }
            }
            let (lsn, seq) = log.append_messages(tx, self.id, record, &[record.len()]);
            if let Some(first) = first_lsn {
                log.note_link(tx, lsn, first);
            }
            if counts {
                kept::add(tx, self.id, bytes);
            }
            let id = MessageId(first_lsn.unwrap_or(lsn));
            numbered.appended(tx, lsn, id, seq);
            if counts && broken!(LimitCheckedAfterwards) {
                if let Some(over) = kept::over(tx, self.id, 0) {
                    return Ok(Some(Box::new(over)));
                }
            }
            stored.sent.id = id;
            stored.sent.seq = Some(seq);
            stored.end = lsn + record.len() as u64;
            Ok(None)
        };
        log.transact_soon(need, || deadline.at(), body)
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
    pub(crate) fn check_live(&self) -> Result<()> {
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

/// Whether the time was over before there was room, or the log was free.
fn is_late(error: &Error) -> bool {
    matches!(error.code(), Code::Timeout | Code::Busy)
}

/// Appends to `ext` what there is about a message besides its body.
#[inline]
pub(crate) fn encode_meta(
    message: &OutMessage<'_>,
    numbered: &impl Numbered,
    sent_at_ms: u64,
    chunks: Option<Chunks>,
    ext: &mut Vec<u8>,
) -> Result<()> {
    let producer = numbered.stamp();
    if message.is_bare() && producer.is_none() && chunks.is_none() {
        encode_sent_at(sent_at_ms, ext);
        return Ok(());
    }
    let meta = Meta {
        sent_at_ms,
        key: message.key,
        tag: message.tag,
        order_key: message.order_key,
        headers: message.headers.clone(),
        producer,
        chunks,
        ..Meta::default()
    };
    meta.encode_into(ext).map_err(|bad| {
        over_limit(format!(
            "keys, tag and headers do not fit a record: {bad}; send less"
        ))
    })
}
