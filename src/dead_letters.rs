//! The dead letters of a group: messages given up after their last attempt or rejected.
//!
//! They are kept in a stream of their own, `%DLQ%<topic>%<group>`, until they are purged. Looking
//! at them claims nothing.

use std::sync::Arc;

use crate::browse::{Content, Places, Seen};
use crate::commitlog::read::ReadAhead;
use crate::delivery::fetch;
use crate::delivery::registry;
use crate::delivery::removed::{self, Range, Removal, STEP};
use crate::error::{Code, Error, Result};
use crate::format::payload::Release;
use crate::group::Group;
use crate::inner::{Inner, Opened};
use crate::options::MessageId;
use crate::shm::control::{P_DEAD, T_FIRST, T_NEXT};

/// The dead letters of a group. From [`Group::dead_letters`].
#[derive(Clone)]
pub struct DeadLetters {
    inner: Arc<Opened>,
    group: u32,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// A message that was given up for a group.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its sequence among the group's dead letters.
    pub seq: u64,
    /// What became of it; `Corrupt` when damage has taken the note of it.
    pub burial: Result<Burial>,
    /// The message; `Corrupt` when damage has taken it.
    pub content: Result<Content>,
}

/// How a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Burial {
    /// The topic it was sent to.
    pub topic: String,
    /// Its sequence there.
    pub topic_seq: u64,
    /// How often it had been delivered.
    pub attempts: u32,
    /// Why it was given up: the reason of the reject, or that no attempt was left.
    pub reason: String,
    /// Whether a consumer rejected it; else its attempts were used up.
    pub rejected: bool,
    /// When it was given up, milliseconds since 1970.
    pub dead_at_ms: u64,
}

impl Group {
    /// The dead letters of this group.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("dead-letters");
    /// # use std::time::Duration;
    /// let store = keepq::Store::open(&dir)?;
    /// store.topic("orders")?.send(b"no such customer")?;
    /// let billing = store.group("orders", "billing").open()?;
    /// if let Some(order) = billing.receive(Duration::ZERO)? {
    ///     order.reject("unknown customer")?;
    /// }
    /// for letter in billing.dead_letters().browse() {
    ///     let letter = letter?;
    ///     assert_eq!(letter.burial?.reason, "unknown customer");
    ///     assert_eq!(letter.content?.body(), b"no such customer");
    /// }
    /// assert_eq!(billing.dead_letters().purge()?, 1);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        let (inner, group) = self.place();
        DeadLetters {
            inner: Arc::clone(inner),
            group,
        }
    }
}

impl DeadLetters {
    /// How many there are.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn len(&self) -> Result<u64> {
        let _call = self.inner.enter()?;
        let ctl = &self.inner.log.ctl;
        let len = ctl.load(ctl.layout.group(self.group, P_DEAD));
        registry::ask_group(ctl, self.group)?;
        Ok(len)
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads them, the earliest first, without claiming them.
    #[must_use = "nothing is read before the iterator is asked"]
    pub fn browse(&self) -> BrowseDead {
        BrowseDead {
            letters: self.clone(),
            places: None,
            from: 0,
            removed: Vec::new(),
            ahead: ReadAhead::default(),
        }
    }

    /// The dead letter with this message id; `None` if there is none. Looks through all of them.
    ///
    /// # Errors
    /// When the store is closed; I/O errors.
    pub fn get(&self, id: MessageId) -> Result<Option<DeadLetter>> {
        for letter in self.browse() {
            let letter = letter?;
            if letter.content.as_ref().is_ok_and(|c| c.id() == id) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// Removes all that there are when this is called, and gives their number. On disk when it
    /// returns; what becomes a dead letter meanwhile stays. Groups that consume the stream itself
    /// keep what they have been given already.
    ///
    /// # Errors
    /// Of settling: `Full`, `Failed`, `FlushTimeout` (done, not yet known to be on disk), `Closed`.
    pub fn purge(&self) -> Result<u64> {
        let inner = &self.inner;
        let _call = inner.enter()?;
        let ctl = &inner.log.ctl;
        registry::ask_group(ctl, self.group)?;
        let Some(stream) = removed::stream_of(ctl, self.group) else {
            return Ok(0);
        };
        let until = ctl.load(ctl.layout.topic(stream, T_NEXT));
        let mut from = ctl.load(ctl.layout.topic(stream, T_FIRST));
        let (mut purged, mut end) = (0, 0);
        loop {
            let some = inner.log.candidates(stream, from, STEP)?;
            let seqs: Vec<u64> = some.iter().map(|p| p.0).filter(|&s| s < until).collect();
            let Some(&last) = seqs.last() else { break };
            let done = self.remove(stream, (from, last + 1), &seqs)?;
            purged += done.0;
            end = end.max(done.1);
            from = last + 1;
        }
        self.make_durable(end)?;
        Ok(purged)
    }

    /// Removes one, by its sequence among the dead letters ([`DeadLetter::seq`]). False: it is not
    /// there. On disk when it returns.
    ///
    /// # Errors
    /// As [`DeadLetters::purge`]; `LimitExceeded` when so many were purged from between others that
    /// stay that it cannot be remembered (they share the store's slots with what is outstanding).
    pub fn purge_one(&self, seq: u64) -> Result<bool> {
        let inner = &self.inner;
        let _call = inner.enter()?;
        let ctl = &inner.log.ctl;
        registry::ask_group(ctl, self.group)?;
        let Some(stream) = removed::stream_of(ctl, self.group) else {
            return Ok(false);
        };
        let here = inner.log.candidates(stream, seq, 2)?;
        if here.first().map(|p| p.0) != Some(seq) {
            return Ok(false);
        }
        // Where nothing is before and behind it belongs to it, so that runs can touch.
        let first = ctl.load(ctl.layout.topic(stream, T_FIRST));
        let leads = inner.log.candidates(stream, first, 1)?.first().map(|p| p.0) == Some(seq);
        let from = if leads { first.min(seq) } else { seq };
        let to = here.get(1).map_or(seq + 1, |p| p.0);
        let (purged, end) = self.remove(stream, (from, to), &[seq])?;
        self.make_durable(end)?;
        Ok(purged == 1)
    }

    fn remove(&self, stream: u32, range: Range, seqs: &[u64]) -> Result<(u64, u64)> {
        let removal = Removal {
            group: self.group,
            stream,
            range,
            seqs,
        };
        let inner = &self.inner;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        removed::remove(&inner.log, &removal, deadline)
    }

    fn make_durable(&self, end: u64) -> Result<()> {
        let inner = &self.inner;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        if broken!(PurgeNotFlushed) || inner.log.wait_durable(end, deadline)? {
            return Ok(());
        }
        Err(inner.log.flush_timeout())
    }
}

/// Dead letters in order of their sequence, read without claiming them. It ends at the last one;
/// asked again later it goes on with what came since.
///
/// An item is an error only when something cannot be read that is not damaged (`Storage`,
/// `Closed`); the next one tries the same letter again.
pub struct BrowseDead {
    letters: DeadLetters,
    /// None: there is no stream of dead letters yet.
    places: Option<Places>,
    from: u64,
    removed: Vec<Range>,
    ahead: ReadAhead,
}

impl std::fmt::Debug for BrowseDead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrowseDead").finish_non_exhaustive()
    }
}

impl BrowseDead {
    /// Begins with this sequence, or the first one after it.
    #[must_use]
    pub fn from(mut self, seq: u64) -> Self {
        self.from = seq;
        self.places = None;
        self
    }

    fn read(&mut self) -> Result<Option<DeadLetter>> {
        let inner = Arc::clone(&self.letters.inner);
        let _call = inner.enter()?;
        let group = self.letters.group;
        registry::ask_group(&inner.log.ctl, group)?;
        if self.places.is_none() {
            let Some(stream) = removed::stream_of(&inner.log.ctl, group) else {
                return Ok(None);
            };
            let mut places = Places::new(&inner, stream, Seen::Published);
            places.go_to(self.from);
            self.removed = removed::removed(&inner.log.ctl, group)?;
            self.places = Some(places);
        }
        let Some(places) = &mut self.places else {
            return Ok(None);
        };
        while let Some((seq, lsn)) = places.peek()? {
            if self.removed.iter().any(|r| (r.0..r.1).contains(&seq)) {
                places.pop();
                continue;
            }
            let release =
                fetch::fetch_release(&inner.log, places.stream, seq, lsn, &mut self.ahead);
            match letter(&inner, seq, lsn, release) {
                Err(e) if places.passed_by(seq, &e)? => {}
                Err(e) => return Err(e),
                Ok(letter) => {
                    let unread = letter
                        .burial
                        .as_ref()
                        .err()
                        .or(letter.content.as_ref().err());
                    if let Some(e) = unread {
                        // Purged while it was read, what it was may be gone.
                        self.removed = removed::removed(&inner.log.ctl, group)?;
                        let purged = self.removed.iter().any(|r| (r.0..r.1).contains(&seq));
                        if places.passed_by(seq, e)? || purged {
                            continue;
                        }
                    }
                    places.pop();
                    return Ok(Some(letter));
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for BrowseDead {
    type Item = Result<DeadLetter>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Puts together what can be read of a dead letter. What is damaged is shown as such.
fn letter(inner: &Inner, seq: u64, lsn: u64, release: Result<Release>) -> Result<DeadLetter> {
    let damaged = |e: &Error| e.code() == Code::Corrupt;
    let release = match release {
        Err(e) if damaged(&e) => {
            return Ok(DeadLetter {
                seq,
                burial: Err(e.clone()),
                content: Err(e),
            });
        }
        release => release?,
    };
    let burial = Burial {
        topic: registry::topic_name(&inner.log.ctl, release.source_stream)?,
        topic_seq: release.source_seq,
        attempts: release.attempts,
        reason: release.reason.clone(),
        rejected: release.reason_code == crate::delivery::bury::REASON_REJECTED,
        dead_at_ms: release.dead_at_ms,
    };
    let content = match fetch::released(&inner.log, lsn, release) {
        Err(e) if !damaged(&e) => return Err(e),
        content => content.map(Content),
    };
    Ok(DeadLetter {
        seq,
        burial: Ok(burial),
        content,
    })
}
