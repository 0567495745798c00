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
use crate::delivery::registry::{self, GroupSettings, GroupWanted};
use crate::delivery::{bury, fetch, settle};
use crate::error::{Code, Error, Result};
use crate::handed::Delivery;
use crate::inner::{Inner, Opened};
use crate::keeper::Keeper;
use crate::options::{Backoff, Flush, GroupStats, Start, limits};
use crate::ready::Watch;
use crate::shm::control::{P_CURSOR, P_DEAD, P_LEASED, P_READY, P_WAITING, T_NEXT};
use crate::shm::wake;
use crate::store::Store;

/// Candidates looked up at a time.
const LOOK_UP: usize = 512;

/// Options of a group, stored when it is made. An explicit option that differs later is
/// `ConfigMismatch`.
#[must_use = "nothing is opened before `open`"]
#[derive(Clone)]
pub struct GroupOptions {
    store: Store,
    topic: String,
    name: String,
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
    pub fn open(self) -> Result<Group> {
        check_user_name("group", &self.name)?;
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
        if self.inner.log.ctl.host.forked() {
            // The watch's thread is the parent's: waiting for it here would never end.
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
    pub fn receive(&self, timeout: Duration) -> Result<Option<Delivery>> {
        Ok(self.receive_up_to(1, timeout, Lease::Process)?.pop())
    }

    /// Receives up to `max` messages (at most [`limits::RECEIVE_BATCH`]): waits for the first,
    /// never for more.
    ///
    /// # Errors
    /// As [`Group::receive`].
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
        loop {
            let got = {
                let _call = inner.enter()?;
                inner.check_writable()?;
                Keeper::start(inner);
                let got = self.shared.claim(max, lease)?;
                if !got.is_empty() {
                    self.shared.pass_on();
                }
                got
            };
            if !got.is_empty() {
                return Ok(got);
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
            self.shared.wait(Duration::from_millis(left), interrupts);
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
    /// When the store is closed.
    pub fn stats(&self) -> Result<GroupStats> {
        let _call = self.shared.inner.enter()?;
        group_stats(&self.shared.inner, self.shared.id)
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
    /// Claims what is there, without waiting, and reads it.
    fn claim(self: &Arc<Self>, max: usize, lease: Lease) -> Result<Vec<Delivery>> {
        let log = &self.inner.log;
        let mut reading = self.reading.lock();
        if let Some(failure) = reading.failure.take() {
            return Err(failure);
        }
        loop {
            self.look_up(&mut reading, max)?;
            let wanted = Wanted {
                group: self.id,
                max,
                detached: lease == Lease::Detached,
            };
            let mut claims = std::mem::take(&mut reading.claims);
            claims.clear();
            let from = reading.asked_from;
            let claimed = claim::claim(log, wanted, &reading.candidates, from, &mut claims)?;
            match claimed {
                Claimed::Exhausted(slot) => {
                    reading.claims = claims;
                    let seq = bury::seq_of(log, slot);
                    let deadline = self.inner.deadline(Some(self.inner.options.send_timeout));
                    bury::bury_ready(log, slot, self.id, seq, deadline)?;
                }
                Claimed::Messages(_) => {
                    let got = self.read_claims(&mut reading, &claims, lease);
                    reading.claims = claims;
                    return got;
                }
            }
        }
    }

    /// Looks up the messages from the cursor on, if those known are used up.
    fn look_up(&self, reading: &mut Reading, max: usize) -> Result<()> {
        let ctl = &self.inner.log.ctl;
        let cursor = ctl.load(ctl.layout.group(self.id, P_CURSOR));
        let known = reading.candidates.last().map_or(0, |(seq, _)| seq + 1);
        let enough = known > cursor && reading.asked_from <= cursor;
        if enough || cursor >= ctl.load(ctl.layout.topic(self.topic_id, T_NEXT)) {
            return Ok(());
        }
        reading.candidates = self
            .inner
            .log
            .candidates(self.topic_id, cursor, LOOK_UP.max(max))?;
        reading.asked_from = cursor;
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
pub(crate) fn group_stats(inner: &Inner, id: u32) -> Result<GroupStats> {
    let ctl = &inner.log.ctl;
    let tx = ctl.begin_to_read(ctl.patience())?;
    let topic = claim::topic_of_group(ctl, id)?;
    let word = |w| ctl.load(ctl.layout.group(id, w));
    let next = ctl.load(ctl.layout.topic(topic, T_NEXT));
    let lag = next.saturating_sub(word(P_CURSOR));
    let stats = GroupStats {
        topic: registry::topic_name(ctl, topic)?,
        name: registry::group_name(ctl, id)?,
        ready: word(P_READY) + lag,
        in_flight: word(P_LEASED),
        delayed: word(P_WAITING),
        lag,
        dead: word(P_DEAD),
        cursor: word(P_CURSOR),
    };
    drop(tx);
    Ok(stats)
}
