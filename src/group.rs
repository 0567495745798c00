//! Receiving in a group, and its options.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use crate::commitlog::index::Candidates;
use crate::commitlog::read::ReadAhead;
use crate::configure::check_ranges;
use crate::delivery::claim::{self, Claim, Claimed, Wanted};
use crate::delivery::pick::{self, Labels};
use crate::delivery::pins::{Kept, Pins};
use crate::delivery::places::check_group;
use crate::delivery::registry::{self, GroupSettings, GroupWanted};
use crate::delivery::{bury, fetch, settle};
use crate::error::{Code, Error, Result};
use crate::handed::Delivery;
use crate::inner::{Inner, Opened};
use crate::keeper::Keeper;
use crate::options::{Backoff, Flush, GroupStats, MessageId, Pin, Start, limits};
use crate::ready::Watch;
use crate::shm::control::{P_CURSOR, P_DEAD, P_LEASED, P_PARKED, P_READY, P_WAITING, T_NEXT};
use crate::shm::wake;
use crate::store::Store;

/// Candidates looked up at a time.
const LOOK_UP: usize = 512;
/// How often a receive with a time-out of zero looks further when what it found is not for it.
const PASSES: u32 = 256;

/// Options of a group, stored when it is made. An explicit option that differs later is
/// `ConfigMismatch`.
#[must_use = "nothing is opened before `open`"]
#[derive(Clone)]
pub struct GroupOptions {
    store: Store,
    topic: String,
    name: String,
    consumer: Option<String>,
    settings: GroupSettings,
    create: bool,
    create_topic: bool,
}

impl std::fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupOptions")
            .field("topic", &self.topic)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl GroupOptions {
    pub(crate) fn new(store: Store, topic: &str, name: &str) -> Self {
        Self {
            store,
            topic: topic.to_owned(),
            name: name.to_owned(),
            consumer: None,
            settings: GroupSettings::default(),
            create: true,
            create_topic: true,
        }
    }

    /// How long a received message stays leased (default 30 s; 1 ms to 30 days).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease_ms = Some(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Deliveries until a message goes to the dead letters (default 16; 1 to 1000).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = Some(attempts);
        self
    }

    /// How long a message waits after a failed attempt.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = Some(backoff);
        self
    }

    /// Whether acks are on disk when they return (default [`Flush::Async`]: they survive the death
    /// of every process; after a power cut the message may be delivered again).
    pub fn ack_flush(mut self, flush: Flush) -> Self {
        self.settings.sync_ack = Some(flush == Flush::Sync);
        self
    }

    /// The most messages that the group has in flight at a time: leased, waiting for a retry or
    /// behind one with the same order key (default half of [`StoreOptions::slots`]; 1 to
    /// [`limits::OUTSTANDING`]). At this cap it gets no new messages until some are settled; other
    /// groups go on.
    ///
    /// The store has so many slots for all groups together. A quarter of them is kept for shares
    /// that every group can count on: 16 messages each in a store of the default size.
    ///
    /// [`StoreOptions::slots`]: crate::StoreOptions::slots
    pub fn max_outstanding(mut self, messages: u32) -> Self {
        self.settings.max_outstanding = Some(messages);
        self
    }

    /// The tags that the group wants: a message without one of them is skipped, and counts as
    /// settled for this group (default: none, which is every message). At most [`limits::TAGS`]
    /// tags of at most 255 bytes each; order and doubles do not matter.
    ///
    /// A receive with a time-out of zero that has passed over 16,384 messages or more may find
    /// nothing although there is something behind them; the next one goes on there.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        self.settings.tags = Some(registry::normal(tags));
        self
    }

    /// Whether at most one message of each order key is in flight at a time, in the order in which
    /// they were sent (default false). The next one comes when the one before is acked, rejected or
    /// dead-lettered; one that failed or whose lease ended is delivered again first. Messages
    /// without an order key are not held back. It is decided when the group is made, for good.
    ///
    /// Messages that wait for others of their key count towards
    /// [`max_outstanding`](Self::max_outstanding): when one key has that many, the group gets
    /// nothing new until it goes on.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.settings.ordered = Some(ordered);
        self
    }

    /// Opens the group as this consumer, which gets every message for itself (RocketMQ's
    /// broadcasting) instead of sharing them with the others.
    ///
    /// Such a consumer is a group of its own, named `group%consumer`, with a position, options and
    /// dead letters of its own: it goes on where it was whenever it is opened under that name, and
    /// what it has not settled is kept for it. Nothing connects it with the group `group` or with
    /// other consumers of it. Consumer names are as group names; topic, group and consumer together
    /// have at most [`limits::BROADCAST_NAME`] bytes.
    pub fn broadcast(mut self, consumer: &str) -> Self {
        self.consumer = Some(consumer.to_owned());
        self
    }

    /// Where a group that is new begins (default [`Start::Earliest`]).
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// With false, a missing topic or group is `NotFound` and nothing is made (default true).
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// With false, a missing topic is `NotFound`; a missing group is still made (default true).
    pub fn create_topic(mut self, create: bool) -> Self {
        self.create_topic = create;
        self
    }

    /// Opens the group, making it and its topic if need be.
    ///
    /// # Errors
    /// `InvalidName`, `InvalidArgument` for an option out of range, `NotFound`, `ConfigMismatch`.
    pub fn open(mut self) -> Result<Group> {
        check_user_name("group", &self.name)?;
        if let Some(consumer) = self.consumer.take() {
            check_user_name("consumer", &consumer)?;
            self.name = broadcast_name(&self.topic, &self.name, &consumer)?;
            self.settings.broadcast = true;
        }
        check_ranges(&self.settings, &self.name)?;
        let create = self.create && !self.store.inner().options.read_only;
        let topic = if create && self.create_topic {
            self.store.topic(&self.topic)?
        } else {
            self.store.existing_topic(&self.topic)?
        };
        let inner = self.store.inner();
        let _call = inner.enter()?;
        let wanted = GroupWanted {
            topic: topic.id,
            topic_name: topic.name(),
            name: &self.name,
            settings: &self.settings,
            create,
        };
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let id = registry::open_group(&inner.log, &wanted, deadline)?;
        Ok(Group {
            shared: Arc::new(Shared {
                inner: Arc::clone(inner),
                topic_id: topic.id,
                id,
                topic: self.topic,
                name: self.name,
                incarnation: inner.incarnation(),
                reading: Mutex::new(Reading::default()),
                watch: Mutex::new(None),
                watched: AtomicBool::new(false),
            }),
        })
    }
}

/// The name of the group that stands for one consumer.
fn broadcast_name(topic: &str, group: &str, consumer: &str) -> Result<String> {
    let (len, most) = (
        topic.len() + group.len() + consumer.len(),
        limits::BROADCAST_NAME,
    );
    if len > most {
        return Err(Error::new(
            Code::InvalidName,
            format!(
                "the names of topic, group and consumer have {len} bytes together; the limit is \
                 {most}"
            ),
        ));
    }
    Ok(crate::format::name::broadcast_name(group, consumer))
}

/// Checks a name that a user chose.
pub(crate) fn check_user_name(what: &str, name: &str) -> Result<()> {
    crate::format::name::check_user_name(name).map_err(|why| {
        let shown: String = name.chars().take(64).collect();
        Error::new(
            Code::InvalidName,
            format!("the {what} name {shown:?}: {why}"),
        )
    })
}

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
    /// `Closed`, `Interrupted` (see [`Store::interrupt`]), `Corrupt` once when messages were lost
    /// through damage (receiving goes on afterwards), I/O errors.
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
        Ok(self.receive_up_to(1, timeout, Lease::Process)?.pop())
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

    fn receive_up_to(&self, max: usize, timeout: Duration, lease: Lease) -> Result<Vec<Delivery>> {
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
                let got = self.shared.claim(max, lease)?;
                if got.as_ref().is_some_and(|got| !got.is_empty()) {
                    self.shared.pass_on();
                }
                got
            };
            let passed = got.is_none();
            let got = got.unwrap_or_default();
            if !got.is_empty() {
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
                return Ok(Vec::new());
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
        let deliveries: Vec<D> = deliveries.into_iter().collect();
        let borrowed: Vec<&Delivery> = deliveries.iter().map(Borrow::borrow).collect();
        crate::handed::ack_many(&self.shared, &borrowed)
    }

    /// Counters of the group.
    ///
    /// # Errors
    /// When the store is closed; I/O errors.
    pub fn stats(&self) -> Result<GroupStats> {
        let inner = &self.shared.inner;
        let _call = inner.enter()?;
        let pins = Pins::try_new(&inner.log)?;
        group_stats(inner, self.shared.id, pins.as_ref())
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
    fn claim(self: &Arc<Self>, max: usize, lease: Lease) -> Result<Option<Vec<Delivery>>> {
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
                    bury::bury_ready(log, slot, self.id, seq, deadline)?;
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

    fn read_claims(
        self: &Arc<Self>,
        reading: &mut Reading,
        claims: &[Claim],
        lease: Lease,
    ) -> Result<Vec<Delivery>> {
        let log = &self.inner.log;
        let keep = lease == Lease::Detached;
        let mut got = Vec::with_capacity(claims.len());
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
            Some(e) if got.is_empty() => Err(e),
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
pub(crate) fn group_stats(inner: &Inner, id: u32, pins: Option<&Pins<'_>>) -> Result<GroupStats> {
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
    };
    drop(tx);
    let kept = pins.map_or(Ok(None), |pins| pins.of_group(id))?;
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
