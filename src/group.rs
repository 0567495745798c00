//! Receiving in a group.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use crate::commitlog::index::Candidates;
use crate::commitlog::read::ReadAhead;
use crate::delivery::claim::{self, Claim, Claimed, Wanted};
use crate::delivery::oldest::Oldest;
use crate::delivery::pick::{self, Labels};
use crate::delivery::pins::{self, Kept, Pinned};
use crate::delivery::places::check_group;
use crate::delivery::{bury, fetch, registry, settle};
use crate::error::{Code, Error, Result};
use crate::handed::Delivery;
use crate::inner::{Inner, Opened};
use crate::keeper::Keeper;
use crate::options::{MessageId, limits};
use crate::ready::Watch;
use crate::reports::{GroupStats, Pin};
use crate::shm::control::{P_CURSOR, P_DEAD, P_LEASED, P_PARKED, P_READY, P_WAITING, T_NEXT};
use crate::shm::{consumers, wake};

/// Candidates looked up at a time.
const LOOK_UP: usize = 512;
/// How often a receive with a time-out of zero looks further when what it found is not for it.
const PASSES: u32 = 256;

/// A consumer group of a topic. Cheap to clone; usable from any thread. Every group gets every
/// message; the consumers of one group, in any number of processes, share them.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) inner: Arc<Opened>,
    pub(crate) topic_id: u32,
    pub(crate) id: u32,
    pub(crate) topic: String,
    pub(crate) name: String,
    /// Of the shared memory, which a forked child does not have.
    pub(crate) incarnation: u64,
    reading: Mutex<Reading>,
    /// Who tells event loops and futures of messages, once somebody asked for it.
    pub(crate) watch: Mutex<Option<Arc<Watch>>>,
    /// Whether there is a watch.
    pub(crate) watched: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // In a forked child the thread of the watch is not there to be waited for, nor the shared
        // memory to wake it by.
        if self.inner.log.ctl.host.forked() {
            return;
        }
        if let Some(watch) = self.watch.get_mut() {
            watch.stop();
        }
        // Whoever closed the store has left the group, too.
        if killed!() || self.inner.is_closed() {
            return;
        }
        if let Ok(_call) = self.inner.enter() {
            if let Err(e) = self.inner.leave_group(self.id) {
                crate::trace::keeper_failed("leaving a group", &e);
            }
        }
    }
}

/// What this handle has looked up and read ahead.
#[derive(Default)]
struct Reading {
    candidates: Candidates,
    asked_from: u64,
    ahead: ReadAhead,
    claims: Vec<Claim>,
    /// What the group does with the candidates, if it is choosy, and what was read to know it.
    labels: Labels,
    peeked: ReadAhead,
    /// Damage found while other messages were handed out; raised by the next receive.
    failure: Option<Error>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group")
            .field("topic", &self.shared.topic)
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// A handle of the group with this topic and id.
    pub(crate) fn new(
        inner: Arc<Opened>,
        (topic_id, id): (u32, u32),
        (topic, name): (String, String),
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                incarnation: inner.incarnation(),
                inner,
                topic_id,
                id,
                topic,
                name,
                reading: Mutex::new(Reading::default()),
                watch: Mutex::new(None),
                watched: AtomicBool::new(false),
            }),
        }
    }

    /// The open store, and the group's id.
    pub(crate) fn place(&self) -> (&Arc<Opened>, u32) {
        (&self.shared.inner, self.shared.id)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.shared.topic
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Receives a message, waiting at most `timeout` ([`Duration::ZERO`] tries once,
    /// [`Duration::MAX`] waits for ever). `None`: there was none in that time.
    ///
    /// # Errors
    /// `Closed`, `Interrupted` (see [`Store::interrupt`](crate::Store::interrupt)), `Corrupt` once
    /// when messages were lost through damage (receiving goes on afterwards), I/O errors.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("receive");
    /// use std::time::Duration;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// store.topic("orders")?.send(b"one")?;
    /// let billing = store.group("orders", "billing").open()?;
    /// while let Some(delivery) = billing.receive(Duration::from_millis(10))? {
    ///     assert_eq!((delivery.body(), delivery.attempt()), (&b"one"[..], 1));
    ///     delivery.ack()?;
    /// }
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn receive(&self, timeout: Duration) -> Result<Option<Delivery>> {
        self.receive_up_to(1, timeout, Lease::Process)
    }

    /// Receives up to `max` messages (at most [`limits::RECEIVE_BATCH`]): waits for the first,
    /// never for more.
    ///
    /// # Errors
    /// As [`Group::receive`].
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("receive-batch");
    /// use std::time::Duration;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// orders.send(b"one")?;
    /// orders.send(b"two")?;
    /// let billing = store.group("orders", "billing").open()?;
    /// let some = billing.receive_batch(100, Duration::from_secs(1))?;
    /// assert_eq!(some.len(), 2);
    /// assert!(billing.ack_many(some).into_iter().all(|acked| acked.is_ok()));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn receive_batch(&self, max: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        self.receive_up_to(max, timeout, Lease::Process)
    }

    /// As [`Group::receive_batch`], with leases that do not end with this process.
    ///
    /// # Errors
    /// As [`Group::receive`].
    pub fn receive_detached(&self, max: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        self.receive_up_to(max, timeout, Lease::Detached)
    }

    fn receive_up_to<G: Got>(&self, max: usize, timeout: Duration, lease: Lease) -> Result<G> {
        if max == 0 || max > limits::RECEIVE_BATCH {
            return Err(Error::new(
                Code::LimitExceeded,
                format!(
                    "a batch of {max} messages; ask for 1 to {}",
                    limits::RECEIVE_BATCH
                ),
            ));
        }
        let inner = &self.shared.inner;
        let interrupts = inner.interrupts();
        let mut deadline = None;
        let mut passes = 0;
        loop {
            let got = {
                let _call = inner.enter()?;
                inner.check_writable()?;
                Keeper::start(inner);
                let got = self.shared.claim::<G>(max, lease)?;
                if got.as_ref().is_some_and(|got| !got.is_nothing()) {
                    self.shared.pass_on();
                }
                got
            };
            let passed = got.is_none();
            let got = got.unwrap_or_default();
            if !got.is_nothing() {
                return Ok(got);
            }
            if passed {
                passes += 1;
            }
            if passed && timeout.is_zero() && passes < PASSES {
                continue;
            }
            self.shared.found_nothing();
            if timeout.is_zero() {
                return Ok(got);
            }
            // The clock is read only when there is something to wait for.
            let deadline = *deadline.get_or_insert_with(|| inner.deadline(Some(timeout)));
            let left = deadline.saturating_sub(inner.now());
            if left == 0 {
                return Ok(got);
            }
            if inner.interrupts() != interrupts {
                return Err(Error::new(
                    Code::Interrupted,
                    "the wait for a message was interrupted",
                ));
            }
            if !passed {
                self.shared.wait(Duration::from_millis(left), interrupts);
            }
        }
    }

    /// Acks many deliveries of this group, owned or borrowed, in few records. One result each.
    #[must_use = "each delivery has its own result"]
    pub fn ack_many<D: Borrow<Delivery>>(
        &self,
        deliveries: impl IntoIterator<Item = D>,
    ) -> Vec<Result<()>> {
        self.ack_many_within(deliveries, Duration::MAX).done()
    }

    /// Counters of the group.
    ///
    /// # Errors
    /// When the store is closed; I/O errors.
    pub fn stats(&self) -> Result<GroupStats> {
        let inner = &self.shared.inner;
        let _call = inner.enter()?;
        let pinned = pins::pinned(&inner.log, &inner.pinned)?;
        let oldest = Oldest::of(&inner.log.ctl, std::iter::once(self.shared.id));
        group_stats(inner, self.shared.id, pinned.as_deref(), &oldest)
    }
}

/// What was received: one message, or many. (One has no need of the heap.)
trait Got: Default {
    fn with_room(messages: usize) -> Self;
    fn push(&mut self, delivery: Delivery);
    fn is_nothing(&self) -> bool;
}

impl Got for Option<Delivery> {
    fn with_room(_messages: usize) -> Self {
        None
    }

    fn push(&mut self, delivery: Delivery) {
        debug_assert!(self.is_none(), "one was asked for");
        *self = Some(delivery);
    }

    fn is_nothing(&self) -> bool {
        self.is_none()
    }
}

impl Got for Vec<Delivery> {
    fn with_room(messages: usize) -> Self {
        Self::with_capacity(messages)
    }

    fn push(&mut self, delivery: Delivery) {
        Self::push(self, delivery);
    }

    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

/// How long a lease lives besides its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// It ends with this process.
    Process,
    /// It does not.
    Detached,
}

impl Shared {
    /// Claims what is there, without waiting, and reads it. `None`: messages were passed over, and
    /// there may be more behind them.
    fn claim<G: Got>(self: &Arc<Self>, max: usize, lease: Lease) -> Result<Option<G>> {
        let log = &self.inner.log;
        let choosy = pick::is_choosy(&log.ctl, self.id);
        let mut reading = self.reading.lock();
        if let Some(failure) = reading.failure.take() {
            return Err(failure);
        }
        loop {
            self.look_up(&mut reading, max, choosy)?;
            let wanted = Wanted {
                group: self.id,
                max,
                detached: lease == Lease::Detached,
            };
            let mut claims = std::mem::take(&mut reading.claims);
            claims.clear();
            let from = reading.asked_from;
            let labels = choosy.then_some(&reading.labels);
            let found = &reading.candidates;
            let claimed = claim::claim(log, wanted, found, from, labels, &mut claims)?;
            match claimed {
                Claimed::Exhausted(slot) => {
                    reading.claims = claims;
                    let seq = bury::seq_of(log, slot);
                    let deadline = self.inner.deadline(Some(self.inner.options.send_timeout));
                    bury::bury_or_postpone(log, slot, self.id, seq, deadline)?;
                }
                Claimed::Swept => reading.claims = claims,
                Claimed::Messages(_) => {
                    let got = self.read_claims(&mut reading, &claims, lease);
                    reading.claims = claims;
                    return got.map(Some);
                }
                Claimed::Passed => {
                    reading.claims = claims;
                    return Ok(None);
                }
                Claimed::NoRoom => {
                    reading.claims = claims;
                    let deadline = self.inner.deadline(Some(self.inner.options.send_timeout));
                    pick::await_room(log, deadline)?;
                }
            }
        }
    }

    /// Looks up the messages from the cursor on, if those known are used up.
    fn look_up(&self, reading: &mut Reading, max: usize, choosy: bool) -> Result<()> {
        let log = &self.inner.log;
        let ctl = &log.ctl;
        if choosy && reading.labels.renew(log, self.id)? {
            reading.candidates.clear();
        }
        let cursor = ctl.load(ctl.layout.group(self.id, P_CURSOR));
        let known = reading.candidates.last().map_or(0, |(seq, _)| seq + 1);
        let enough = known > cursor && reading.asked_from <= cursor;
        if enough || cursor >= ctl.load(ctl.layout.topic(self.topic_id, T_NEXT)) {
            return Ok(());
        }
        let most = if choosy { pick::LOOK_UP } else { LOOK_UP };
        reading.candidates = log.candidates(self.topic_id, cursor, most.max(max))?;
        reading.asked_from = cursor;
        if choosy {
            let Reading {
                candidates,
                labels,
                peeked,
                ..
            } = reading;
            labels.label_all(log, self.topic_id, candidates, peeked)?;
        }
        Ok(())
    }

    fn read_claims<G: Got>(
        self: &Arc<Self>,
        reading: &mut Reading,
        claims: &[Claim],
        lease: Lease,
    ) -> Result<G> {
        let log = &self.inner.log;
        let keep = lease == Lease::Detached;
        let mut got = G::with_room(claims.len());
        for claim in claims {
            match fetch::fetch(log, self.topic_id, claim.seq, claim.lsn, &mut reading.ahead) {
                Ok(fetched) => got.push(Delivery::new(Arc::clone(self), *claim, fetched, keep)),
                // Purged under our eyes, or overtaken: its file may be gone, and it is not ours.
                Err(_) if !settle::is_held(log, &self.held(claim))? => {}
                Err(e) => {
                    self.give_up(claim, &e);
                    reading.failure.get_or_insert(e);
                }
            }
        }
        match reading.failure.take() {
            Some(e) if got.is_nothing() => Err(e),
            kept => {
                reading.failure = kept;
                Ok(got)
            }
        }
    }

    /// A message that cannot be read: damaged, it counts as lost and settled; otherwise (an I/O
    /// error) it is put back.
    fn give_up(&self, claim: &Claim, error: &Error) {
        let log = &self.inner.log;
        let held = self.held(claim);
        let deadline = self.inner.deadline(Some(self.inner.options.send_timeout));
        let result = if error.code() == Code::Corrupt {
            settle::lose(log, &held, deadline).map(|_| ())
        } else {
            settle::nack(log, &held, settle::Return::Backoff, deadline)
        };
        if let Err(e) = result {
            crate::trace::keeper_failed("putting back a message that cannot be read", &e);
        }
    }

    pub(crate) fn held(&self, claim: &Claim) -> settle::Held {
        settle::Held {
            group: self.id,
            slot: claim.slot,
            generation: claim.generation,
            seq: claim.seq,
        }
    }

    /// One flush or batch wakes one consumer of the group; each that finds more wakes the next.
    fn pass_on(&self) {
        let log = &self.inner.log;
        if wake::group_is_armed(&log.ctl, self.id)
            && claim::may_deliver(log, self.id, self.topic_id)
        {
            wake::wake_group(&log.ctl, self.id);
        }
    }

    /// Sleeps until there may be something, at most 50 ms.
    fn wait(&self, timeout: Duration, interrupts: u64) {
        let ctl = &self.inner.log.ctl;
        let event = wake::arm_group(ctl, self.topic_id, self.id);
        let arrived = claim::may_deliver(&self.inner.log, self.id, self.topic_id);
        if arrived || self.inner.is_closed() || self.inner.interrupts() != interrupts {
            return;
        }
        wake::sleep_on_group(ctl, self.id, event, timeout);
    }
}

/// Counters of a group by its id.
pub(crate) fn group_stats(
    inner: &Inner,
    id: u32,
    pinned: Option<&Pinned>,
    oldest: &Oldest,
) -> Result<GroupStats> {
    let ctl = &inner.log.ctl;
    let tx = ctl.begin_to_read(ctl.patience())?;
    check_group(ctl, id)?;
    let topic = claim::topic_of_group(ctl, id)?;
    let word = |w| ctl.load(ctl.layout.group(id, w));
    let next = ctl.load(ctl.layout.topic(topic, T_NEXT));
    let lag = next.saturating_sub(word(P_CURSOR));
    let mut stats = GroupStats {
        topic: registry::topic_name(ctl, topic)?,
        name: registry::group_name(ctl, id)?,
        pin: None,
        ready: word(P_READY) + lag,
        in_flight: word(P_LEASED),
        delayed: word(P_WAITING),
        parked: word(P_PARKED),
        lag,
        dead: word(P_DEAD),
        cursor: word(P_CURSOR),
        oldest_age: None,
        consumers: consumers::count(ctl, id),
    };
    drop(tx);
    let age = |sent| ctl.host.realtime_ms().saturating_sub(sent);
    let sent = oldest.sent_ms(&inner.log, topic, id);
    stats.oldest_age = sent.map(|sent| Duration::from_millis(age(sent)));
    let kept = pinned.and_then(|pinned| pinned.of_group(id));
    stats.pin = kept.map(|kept| pin(&stats.topic, Some(&stats.name), kept));
    Ok(stats)
}

/// A pin as statistics tell it.
pub(crate) fn pin(topic: &str, group: Option<&str>, kept: Kept) -> Pin {
    Pin {
        topic: topic.to_owned(),
        group: group.map(str::to_owned),
        kind: kept.kind,
        seq: kept.seq,
        id: MessageId(kept.id),
        bytes: kept.bytes,
    }
}
