//! Reading messages without receiving them: nothing is claimed, nothing changes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commitlog::index::Candidates;
use crate::commitlog::read::ReadAhead;
use crate::delivery::fetch::{self, Fetched};
use crate::delivery::{live, registry};
use crate::error::{Code, Error, Result};
use crate::format::record::Kind;
use crate::inner::{Inner, Opened};
use crate::options::MessageId;
use crate::shm::control::{T_FIRST, T_FLAGS, T_NEXT, TOPIC_SYNC, W_DURABLE, W_PUBLISHED};
use crate::store::Store;
use crate::topic::Topic;

/// Places looked up at a time.
const LOOK_UP: usize = 256;

/// What a message is, apart from its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(pub(crate) Fetched);

impl Content {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// The message's identity.
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId(self.0.id)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key()
    }

    /// Its order key.
    #[must_use]
    pub fn order_key(&self) -> Option<&str> {
        self.0.order_key()
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// Its headers, in the order they were given.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.headers()
    }

    /// When it was sent, milliseconds since 1970 by the sender's clock.
    #[must_use]
    pub fn sent_at_ms(&self) -> u64 {
        self.0.sent_at_ms
    }

    /// The named producer that sent it, and its number there.
    #[must_use]
    pub fn producer(&self) -> Option<(&str, u64)> {
        self.0.producer()
    }
}

/// A message as [`Topic::browse`] and [`Store::find`](crate::Store::find) show it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Browsed {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its sequence there.
    pub seq: u64,
    /// What it is; `Corrupt` when damage has taken it.
    pub content: Result<Content>,
}

/// Messages of a topic in order of their sequence, read without claiming them. It ends at the last
/// one that could be delivered now; asked again later it goes on with what came since.
///
/// An item is an error only when something cannot be read that is not damaged (`Storage`,
/// `Closed`); the next one tries the same message again.
pub struct Browse {
    places: Places,
    topic: Arc<str>,
    ahead: ReadAhead,
    /// Only messages with this key.
    key: Option<String>,
}

impl std::fmt::Debug for Browse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browse")
            .field("topic", &self.topic)
            .field("next", &self.places.next)
            .finish_non_exhaustive()
    }
}

impl Topic {
    /// Reads the messages that are kept, from the earliest on, without claiming them.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("browse");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// orders.send(b"one")?;
    /// orders.send(b"two")?;
    /// for message in orders.browse().last(1)? {
    ///     assert_eq!(message?.content?.body(), b"two");
    /// }
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "nothing is read before the iterator is asked"]
    pub fn browse(&self) -> Browse {
        Browse {
            places: Places::new(&self.inner, self.id, Seen::Visible),
            topic: self.name.clone(),
            ahead: ReadAhead::default(),
            key: None,
        }
    }

    /// The sequences that are kept: the first one, and the one the next message gets.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn bounds(&self) -> Result<(u64, u64)> {
        let _call = self.inner.enter()?;
        let ctl = &self.inner.log.ctl;
        let word = |w| ctl.load(ctl.layout.topic(self.id, w));
        let bounds = (word(T_FIRST), word(T_NEXT));
        registry::ask_topic(ctl, self.id)?;
        Ok(bounds)
    }
}

impl Browse {
    /// Begins with this sequence, or the first one kept after it.
    #[must_use]
    pub fn from(mut self, seq: u64) -> Self {
        self.places.go_to(seq);
        self
    }

    /// Begins with the last `n` messages that are kept.
    ///
    /// # Errors
    /// When the store is closed; I/O errors.
    pub fn last(mut self, n: u64) -> Result<Self> {
        self.places.go_to_last(n)?;
        Ok(self)
    }

    /// Only messages with exactly this key, and damaged ones, whose key is not known.
    ///
    /// There is no index of keys: every message is looked at from where this begins, without its
    /// body, until there is one with the key. [`Browse::last`] counts all of them.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("browse-key");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// orders.message(b"one").key("user-1").send()?;
    /// orders.message(b"two").key("user-2").send()?;
    /// let found: Vec<_> = orders.browse().key("user-2").take(10).collect();
    /// assert_eq!((found.len(), found[0].as_ref().unwrap().seq), (1, 1));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Whether the message at this place is passed over, as it has another key.
    fn passes(&mut self, seq: u64, lsn: u64) -> bool {
        let Some(key) = &self.key else { return false };
        let (log, stream) = (&self.places.inner.log, self.places.stream);
        // What cannot be read is not passed over: what is wrong with it is told by reading it.
        fetch::has_key(log, stream, (seq, lsn), key, &mut self.ahead).is_ok_and(|has| !has)
    }

    /// The message with exactly this sequence.
    fn read_one(mut self, seq: u64) -> Result<Option<Browsed>> {
        Ok(self.read()?.filter(|found| found.seq == seq))
    }

    fn read(&mut self) -> Result<Option<Browsed>> {
        let inner = Arc::clone(&self.places.inner);
        loop {
            // Each by itself: a close does not wait for a long search.
            let _call = inner.enter()?;
            let Some((seq, lsn)) = self.places.peek()? else {
                return Ok(None);
            };
            if self.passes(seq, lsn) {
                self.places.pop();
                continue;
            }
            let stream = self.places.stream;
            let content = fetch::fetch(&inner.log, stream, seq, lsn, &mut self.ahead);
            match content {
                Err(e) if self.places.passed_by(seq, &e)? => {}
                Err(e) if e.code() != Code::Corrupt => return Err(e),
                content => {
                    self.places.pop();
                    return Ok(Some(Browsed {
                        topic: Arc::clone(&self.topic),
                        seq,
                        content: content.map(Content),
                    }));
                }
            }
        }
    }
}

impl Iterator for Browse {
    type Item = Result<Browsed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Up to where a stream is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What could be delivered: in a sync topic what is durable.
    Visible,
    /// All that is in the log.
    Published,
}

/// Walks along the places of a stream's messages.
pub(crate) struct Places {
    pub(crate) inner: Arc<Opened>,
    pub(crate) stream: u32,
    seen: Seen,
    next: u64,
    found: VecDeque<(u64, u64)>,
}

impl Places {
    pub(crate) fn new(inner: &Arc<Opened>, stream: u32, seen: Seen) -> Self {
        Self {
            inner: Arc::clone(inner),
            stream,
            seen,
            next: 0,
            found: VecDeque::new(),
        }
    }

    pub(crate) fn go_to(&mut self, seq: u64) {
        self.next = seq;
        self.found.clear();
    }

    /// The next place (sequence, LSN), which stays the next until it is popped.
    pub(crate) fn peek(&mut self) -> Result<Option<(u64, u64)>> {
        if self.found.is_empty() {
            self.found = look_up(&self.inner, self.stream, self.next, LOOK_UP)?.into();
        }
        let end = visible_end(&self.inner, self.stream, self.seen);
        Ok(self.found.front().copied().filter(|(_, lsn)| *lsn < end))
    }

    pub(crate) fn pop(&mut self) {
        if let Some((seq, _)) = self.found.pop_front() {
            self.next = seq + 1;
        }
    }

    /// Whether an unreadable message was reclaimed meanwhile; then the walk goes on behind it.
    ///
    /// # Errors
    /// When its topic was deleted.
    pub(crate) fn passed_by(&mut self, seq: u64, error: &Error) -> Result<bool> {
        let ctl = &self.inner.log.ctl;
        registry::ask_topic(ctl, self.stream)?;
        if !matches!(error.code(), Code::Corrupt | Code::StoreGone) {
            return Ok(false);
        }
        let first = ctl.load(ctl.layout.topic(self.stream, T_FIRST));
        if seq < first {
            self.go_to(first);
            return Ok(true);
        }
        // Settled by all, it may go while messages before it stay; damage does not end a place.
        let listed = look_up(&self.inner, self.stream, seq, 1);
        let gone = listed.is_ok_and(|found| found.first().is_none_or(|place| place.0 != seq));
        if gone {
            self.go_to(seq);
            return Ok(true);
        }
        // What all groups have settled may be half gone: what its record refers to goes first. Then
        // no file is to blame; one that is damaged is told of, whatever became of the message.
        let settled = error.path().is_none() && live::is_settled_by_all(ctl, self.stream, seq);
        if settled {
            self.go_to(seq + 1);
        }
        Ok(settled)
    }

    /// Goes to the last `n` of those that are visible: back in growing steps, as sequences have
    /// gaps.
    fn go_to_last(&mut self, n: u64) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let _call = inner.enter()?;
        let ctl = &inner.log.ctl;
        let word = |w| ctl.load(ctl.layout.topic(self.stream, w));
        let (first, next) = (word(T_FIRST), word(T_NEXT));
        let end = visible_end(&inner, self.stream, self.seen);
        let mut back = n.max(1);
        loop {
            let from = next.saturating_sub(back).max(first);
            let mut seqs: VecDeque<u64> = VecDeque::new();
            let mut at = from;
            loop {
                let some = look_up(&inner, self.stream, at, LOOK_UP)?;
                let Some(&(last, _)) = some.last() else { break };
                at = last + 1;
                for (seq, _) in some.into_iter().filter(|(_, lsn)| *lsn < end) {
                    seqs.push_back(seq);
                    if seqs.len() as u64 > n {
                        seqs.pop_front();
                    }
                }
            }
            if seqs.len() as u64 >= n || from <= first {
                self.go_to(seqs.front().copied().unwrap_or(next));
                return Ok(());
            }
            back = back.saturating_mul(8);
        }
    }
}

impl Store {
    /// The message with this id, read without claiming it; `None` if no topic keeps it.
    ///
    /// # Errors
    /// When the store is closed; I/O errors.
    pub fn find(&self, id: MessageId) -> Result<Option<Browsed>> {
        let inner = self.inner();
        let _call = inner.enter()?;
        let mut behind = Vec::new();
        for topic in registry::live_topics(&inner.log.ctl) {
            let name = registry::topic_name(&inner.log.ctl, topic)?;
            // What is there may be a place that points to the message: only topics hold messages.
            if crate::format::name::is_internal(&name) {
                continue;
            }
            match lower_bound(inner, topic, id.0)? {
                Some((seq, lsn)) if lsn == id.0 => {
                    let browse = self.existing_topic(&name)?.browse().from(seq);
                    let found = browse.read_one(seq)?;
                    // A large message lies behind its id: this may be another's end.
                    let other = |b: &Browsed| b.content.as_ref().is_ok_and(|c| c.id() != id);
                    return Ok(found.filter(|b| !other(b)));
                }
                Some((seq, _)) => behind.push((topic, name, seq)),
                None => {}
            }
        }
        // A large message has the id of its first chunk, which lies before it.
        let Some(of) = chunk_of(inner, id.0) else {
            return Ok(None);
        };
        for (topic, name, seq) in behind {
            if of != Some(topic) && of.is_some() {
                continue;
            }
            for message in self.existing_topic(&name)?.browse().from(seq) {
                let message = message?;
                if message.content.as_ref().is_ok_and(|c| c.id() == id) {
                    return Ok(Some(message));
                }
            }
        }
        Ok(None)
    }
}

/// The first message of a topic at or behind this position.
fn lower_bound(inner: &Inner, topic: u32, lsn: u64) -> Result<Option<(u64, u64)>> {
    let ctl = &inner.log.ctl;
    let word = |w| ctl.load(ctl.layout.topic(topic, w));
    let (mut low, mut high) = (word(T_FIRST), word(T_NEXT));
    let mut found = None;
    while low < high {
        let middle = low + (high - low) / 2;
        match look_up(inner, topic, middle, 1)?.first().copied() {
            Some((seq, at)) if at < lsn => low = seq + 1,
            place => {
                found = place.or(found);
                high = middle;
            }
        }
    }
    Ok(found)
}

/// Whether a large message may begin at this position: `None` = no, `Some(topic)` of which topic,
/// if that is known.
#[allow(clippy::option_option)]
fn chunk_of(inner: &Inner, lsn: u64) -> Option<Option<u32>> {
    let ctl = &inner.log.ctl;
    if lsn % 16 != 0 || lsn >= ctl.load(W_PUBLISHED) {
        return None;
    }
    if lsn >= ctl.load(W_DURABLE) {
        // In the ring only what is surely a record may be looked at; it is small.
        return Some(None);
    }
    let stored = inner.log.read(lsn, &mut ReadAhead::default()).ok()?;
    let chunk = stored.header.kind() == Ok(Some(Kind::Chunk));
    chunk.then_some(Some(stored.header.stream))
}

fn look_up(inner: &Inner, stream: u32, from: u64, max: usize) -> Result<Candidates> {
    inner.log.candidates(stream, from, max)
}

fn visible_end(inner: &Inner, stream: u32, seen: Seen) -> u64 {
    let ctl = &inner.log.ctl;
    let sync = ctl.load(ctl.layout.topic(stream, T_FLAGS)) & TOPIC_SYNC != 0;
    ctl.load(if sync && seen == Seen::Visible {
        W_DURABLE
    } else {
        W_PUBLISHED
    })
}
