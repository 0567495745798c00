//! The public handle of an open store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::limits::TopicSettings;
use crate::delivery::oldest::Oldest;
use crate::delivery::pins;
use crate::delivery::topics::{self, TopicWanted};
use crate::delivery::{coalesced, kept, live, registry, settle};
use crate::error::{Code, Error, Result};
use crate::group::{group_stats, pin};
use crate::group_options::{GroupOptions, check_user_name};
use crate::handed::{
    Delivery, ack_held, check_reason, extend_held, nack_held, reject_held, store_hash,
};
use crate::inner::{Inner, Opened};
use crate::options::{Flush, StoreOptions, made_with};
use crate::producer::Producer;
use crate::receipt::Receipt;
use crate::reports::{RecoveryReport, StoreStats, TopicStats, VerifyReport};
use crate::shm::control::{
    G_OUTSTANDING, G_SETTLED, G_TAIL, P_REMOVED, T_FIRST, T_NEXT, TOPIC_SYNC, W_DURABLE, W_FLUSHES,
};
use crate::shm::id::place_of;
use crate::shm::member;
use crate::sys::{Env, RealDisk, RealHost, RuntimeDir, check_filesystem};
use crate::topic::Topic;
use crate::topic_options::TopicOptions;

/// An open store: a directory of messages shared by any number of processes.
///
/// Cheap to clone and usable from any thread; the last clone to be dropped closes it. After a
/// `fork`, the child's handles return `ForkedHandle`: open the store again there.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("store");
/// use std::time::Duration;
///
/// let store = keepq::Store::open(&dir)?;
/// store.topic("orders")?.send(b"hello")?;
/// let billing = store.group("orders", "billing").open()?;
/// while let Some(delivery) = billing.receive(Duration::ZERO)? {
///     assert_eq!(delivery.body(), b"hello");
///     delivery.ack()?;
/// }
/// # store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Opened>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    /// Opens the store in this directory, making it (but not its parents) if need be.
    ///
    /// # Errors
    /// `NotAStore`, `NotFound`, `AlreadyExists`, `Incompatible`, `UnsupportedFilesystem`,
    /// `InvalidArgument` for an option out of range, `Corrupt`, `Busy`, I/O errors.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        self.check_ranges()?;
        let there_before = path.symlink_metadata().is_ok();
        let made = if self.create && !self.read_only {
            RealDisk::create_dir(path, self.mode.unwrap_or(made_with::MODE))
        } else {
            RealDisk::open_dir(path, self.mode.unwrap_or(made_with::MODE))
        };
        let creates = self.create && !self.read_only;
        let disk = made.map_err(|e| no_directory(path, creates, &e))?;
        if !self.allow_unsafe_filesystem && !self.read_only {
            if let Err(e) = check_filesystem(&disk, self.flush == Flush::Sync) {
                if !there_before {
                    RealDisk::remove_empty_dir(path);
                }
                return Err(e);
            }
        }
        let (host, runtime) = match crate::open::place_of_maps(&disk, &self)? {
            None => (RealHost::new(&disk), None),
            Some((named, maps)) => {
                let host = RealHost::with_maps(&disk, &maps);
                let disk = Arc::new(maps);
                (host, Some(RuntimeDir { named, disk }))
            }
        };
        let env = Env {
            disk: Arc::new(disk),
            host: Arc::new(host.map_err(|e| Error::io("prepare", path, &e))?),
            runtime,
        };
        Store::open_in(&env, path, self)
    }

    fn check_ranges(&self) -> Result<()> {
        let bad = |what: &str, range: &str| {
            Err(Error::new(
                Code::InvalidArgument,
                format!("{what} must be {range}"),
            ))
        };
        let sizes = 16 << 20..=1 << 30;
        if (self.segment_size).is_some_and(|s| !sizes.contains(&s) || s % 4096 != 0) {
            return bad("segment_size", "a multiple of 4096 from 16 MiB to 1 GiB");
        }
        let sizes = 1 << 20..=256 << 20;
        if (self.ring_size).is_some_and(|s| !sizes.contains(&s) || !s.is_power_of_two()) {
            return bad("ring_size", "a power of two from 1 MiB to 256 MiB");
        }
        if (self.slots).is_some_and(|n| !(1024..=1 << 20).contains(&n)) {
            return bad("slots", "1,024 to 1,048,576");
        }
        let interval = Duration::from_millis(1)..=Duration::from_secs(60);
        if !interval.contains(&self.flush_interval) {
            return bad("flush_interval", "1 ms to 60 s");
        }
        if self.send_retries > 100 {
            return bad("send_retries", "0 to 100");
        }
        if !(1..=1 << 20).contains(&self.max_in_flight) {
            return bad("max_in_flight", "1 to 1,048,576");
        }
        if self.max_bytes == Some(0) {
            return bad("max_bytes", "at least 1");
        }
        if self.max_in_flight_bytes == 0 {
            return bad("max_in_flight_bytes", "at least 1");
        }
        if (self.mode).is_some_and(|m| m & !0o666 != 0 || m & 0o600 != 0o600) {
            return bad(
                "mode",
                "0o600 with read and write bits for group or others added",
            );
        }
        Ok(())
    }
}

fn no_directory(path: &Path, create: bool, error: &std::io::Error) -> Error {
    let there = path.symlink_metadata().is_ok();
    match error.kind() {
        std::io::ErrorKind::NotFound if !create => Error::new(
            Code::NotFound,
            format!(
                "there is no store {}: the directory does not exist",
                path.display()
            ),
        )
        .at_path(path),
        std::io::ErrorKind::NotFound => Error::new(
            Code::NotFound,
            format!(
                "cannot make {}: its parent directory does not exist",
                path.display()
            ),
        )
        .at_path(path),
        std::io::ErrorKind::NotADirectory if there => Error::new(
            Code::NotAStore,
            format!(
                "{} is not a directory, so it is not a store",
                path.display()
            ),
        )
        .at_path(path),
        _ => Error::io("open the directory", path, error),
    }
}

impl Store {
    /// Opens a store with the default options, making it if need be.
    ///
    /// # Errors
    /// As [`StoreOptions::open`].
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("open");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// assert!(orders.send(b"one")?.durable, "on disk");
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::options().open(path)
    }

    /// Options to open a store with.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("options");
    /// use keepq::{Flush, Store};
    /// use std::time::Duration;
    ///
    /// let store = Store::options()
    ///     .flush(Flush::Async)
    ///     .flush_interval(Duration::from_millis(5))
    ///     .open(&dir)?;
    /// store.topic("clicks")?.send(b"in shared memory now, on disk soon")?;
    /// assert!(store.flush(Some(Duration::from_secs(10)))?, "on disk");
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn options() -> StoreOptions {
        StoreOptions::default()
    }

    pub(crate) fn open_in(env: &Env, path: &Path, options: StoreOptions) -> Result<Self> {
        let store = Self {
            inner: Opened::new(Inner::open(env, path, options)?),
        };
        store.settle_options()?;
        Ok(store)
    }

    pub(crate) fn inner(&self) -> &Arc<Opened> {
        &self.inner
    }

    /// The directory, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// A topic, made if it is not there. One made by a store opened with [`Flush::Sync`] delivers
    /// only what is on disk; one made with [`Flush::Async`] delivers at once.
    ///
    /// # Errors
    /// `InvalidName`; `LimitExceeded` when the store has as many topics as it was made for.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.open_topic(name, TopicSettings::default())
    }

    /// A topic with options that are stored when it is made: `store.topic_with("orders")
    /// .max_messages(1000).open()`.
    pub fn topic_with(&self, name: &str) -> TopicOptions {
        TopicOptions::new(self.clone(), name)
    }

    pub(crate) fn open_topic(&self, name: &str, settings: TopicSettings) -> Result<Topic> {
        if crate::format::name::is_internal(name) || self.inner.options.read_only {
            return self.existing_topic(name);
        }
        check_user_name("topic", name)?;
        let inner = &self.inner;
        let _call = inner.enter()?;
        let flags = if inner.options.flush == Flush::Sync {
            TOPIC_SYNC
        } else {
            0
        };
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let wanted = TopicWanted {
            name,
            flags,
            settings,
            dead_of: None,
        };
        let id = topics::create(&inner.log, &wanted, deadline)?;
        Ok(Topic::new(Arc::clone(inner), id, name))
    }

    /// A topic that is there already; nothing is made. Also a dead-letter stream,
    /// `%DLQ%<topic>%<group>`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn existing_topic(&self, name: &str) -> Result<Topic> {
        if !crate::format::name::is_internal(name) {
            check_user_name("topic", name)?;
        }
        let inner = &self.inner;
        let _call = inner.enter()?;
        let tx = inner.log.ctl.begin_to_read(inner.log.ctl.patience())?;
        let found = registry::find_topic(&inner.log.ctl, name);
        drop(tx);
        match found {
            Some(id) => Ok(Topic::new(Arc::clone(inner), id, name)),
            None => Err(Error::new(
                Code::NotFound,
                format!("there is no topic {name} in {}", inner.path.display()),
            )),
        }
    }

    /// A consumer group of a topic: options, then `open()`.
    pub fn group(&self, topic: &str, name: &str) -> GroupOptions {
        GroupOptions::new(self.clone(), topic, name)
    }

    /// Opens a named producer and fences its older handles.
    ///
    /// # Errors
    /// `InvalidName`; `LimitExceeded` when the store has as many producers as it was made for and
    /// none of them may be dropped (see [`Producer`]).
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("producer");
    /// use keepq::OutMessage;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let lines = store.topic("lines")?;
    /// let loader = store.producer("loader")?;
    /// // After a crash it goes on where it was; what is sent again is not stored again.
    /// for number in loader.next_seq()?..3 {
    ///     let body = format!("line {number}");
    ///     let line = OutMessage { body: body.as_bytes(), ..OutMessage::default() };
    ///     loader.send(&lines, Some(number), &line)?;
    /// }
    /// let again = loader.send(&lines, Some(1), &OutMessage::default())?;
    /// assert!(again.duplicate && again.seq == Some(1));
    /// assert_eq!(lines.len()?, 3);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn producer(&self, name: &str) -> Result<Producer> {
        Producer::open(&self.inner, name)
    }

    /// Waits until everything sent and acked before this call, by anybody, is on disk.
    /// `Ok(false)`: not within `timeout` (`None` = for ever). Asynchronous sends of this handle
    /// have their results then; their callbacks may still run.
    ///
    /// # Errors
    /// `Failed` when the disk failed; `Full` when all is on disk but acks that it has no room for,
    /// which a power cut would undo.
    pub fn flush(&self, timeout: Option<Duration>) -> Result<bool> {
        let inner = &self.inner;
        let flushed = {
            let _call = inner.enter()?;
            inner.check_writable()?;
            let deadline = inner.deadline(timeout);
            let (left, end) = coalesced::note_to_flush(&inner.log)?;
            let flushed = inner.log.wait_durable(end, deadline);
            // What can still be tried again is not settled by this failure.
            let failed = flushed.as_ref().err().filter(|e| !e.is_retriable());
            inner
                .in_flight
                .settle(inner, failed.map(|e| (e.clone(), end)));
            match flushed {
                Ok(true) if left > 0 => self.flush_acks(deadline),
                flushed => flushed,
            }
        };
        inner.in_flight.call_back_without_thread();
        flushed
    }

    /// Flushes what a full disk had no room for, if it has by now.
    #[cold]
    fn flush_acks(&self, deadline: u64) -> Result<bool> {
        let log = &self.inner.log;
        // This makes what room there can be; that there is none shows below.
        if deadline > log.ctl.host.boottime_ms() {
            let _ = crate::keeper::maintain(log);
        }
        match coalesced::note_to_flush(log)? {
            (0, end) => log.wait_durable(end, deadline),
            (left, _) => Err(coalesced::no_room(log, left)),
        }
    }

    /// Counters of the store, its topics and groups.
    ///
    /// # Errors
    /// I/O errors while listing the log's files.
    pub fn stats(&self) -> Result<StoreStats> {
        let _call = self.inner.enter()?;
        let log = &self.inner.log;
        let ctl = &log.ctl;
        let mut stats = StoreStats {
            tail: ctl.global(G_TAIL),
            durable: ctl.load(W_DURABLE),
            outstanding: ctl.global(G_OUTSTANDING),
            flushes: ctl.load(W_FLUSHES),
            oneway_failed: self.inner.in_flight.lost(),
            ..StoreStats::default()
        };
        let (segments, bytes) = live::disk_use(log)?;
        stats.segments = segments;
        stats.disk_bytes = bytes;
        for slot in 0..ctl.layout.geometry.members {
            stats.members += u64::from(member::in_use(ctl, slot));
        }
        let pinned = pins::pinned(log, &self.inner.pinned)?;
        let oldest = Oldest::of(ctl, registry::live_groups(ctl));
        for group in registry::live_groups(ctl) {
            match group_stats(&self.inner, group, pinned.as_deref(), &oldest) {
                // Deleted meanwhile.
                Err(e) if e.code() == Code::NotFound => continue,
                found => stats.groups.push(found?),
            }
            let removed = ctl.load(ctl.layout.group(group, P_REMOVED));
            stats.outstanding = stats.outstanding.saturating_sub(removed);
        }
        stats.outstanding = stats.outstanding.saturating_sub(ctl.global(G_SETTLED));
        for id in registry::live_topics(ctl) {
            let word = |w| ctl.load(ctl.layout.topic(id, w));
            let name = registry::topic_name(ctl, id)?;
            let of_topic = stats.groups.iter().filter(|g| g.topic == name).count() as u64;
            // Dead letters are kept for their group, which says so.
            let own = pinned
                .as_ref()
                .filter(|_| !crate::format::name::is_internal(&name));
            let own = own.and_then(|pinned| pinned.of_topic(id));
            let own = own.map(|kept| pin(&name, None, kept));
            let theirs = stats.groups.iter().filter(|g| g.topic == name);
            let all = theirs.filter_map(|g| g.pin.clone()).chain(own);
            stats.topics.push(TopicStats {
                pin: all.max_by_key(|pin| pin.bytes),
                name,
                first_seq: word(T_FIRST),
                next_seq: word(T_NEXT),
                groups: of_topic,
                kept: kept::is_counted(ctl, id).then(|| {
                    let kept = kept::kept(ctl, id);
                    (kept.count, kept.bytes)
                }),
            });
        }
        let all = stats.topics.iter().filter_map(|t| t.pin.clone());
        stats.pin = all.max_by_key(|pin| pin.bytes);
        stats.topics.sort_by(|a, b| a.name.cmp(&b.name));
        stats
            .groups
            .sort_by(|a, b| (&a.topic, &a.name).cmp(&(&b.topic, &b.name)));
        Ok(stats)
    }

    /// Reads and checks every file of the store; see [`crate::verify()`].
    ///
    /// # Errors
    /// I/O errors.
    pub fn verify(&self) -> Result<VerifyReport> {
        let _call = self.inner.enter()?;
        crate::verify::verify_log(&self.inner.log.dir, &mut |_, _| {})
    }

    /// What opening this store found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    pub(crate) fn held(&self, receipt: &Receipt) -> Result<crate::delivery::settle::Held> {
        self.inner.check_writable()?;
        if receipt.store != store_hash(&self.inner) {
            return Err(Error::new(
                Code::BadReceipt,
                format!("the receipt {receipt} belongs to another store"),
            ));
        }
        if place_of(receipt.held.group) >= registry::groups(&self.inner.log.ctl) {
            return Err(Error::new(
                Code::BadReceipt,
                format!("the receipt {receipt} names a group that does not exist"),
            ));
        }
        if receipt.incarnation != self.inner.incarnation() {
            return Err(Error::new(
                Code::LeaseLost,
                "the receipt is from before the store was recovered; the message was or will be \
                 delivered again",
            ));
        }
        Ok(receipt.held)
    }

    /// Acks by receipt, also one from another process.
    ///
    /// # Errors
    /// `LeaseLost` when the lease has ended, `BadReceipt` for a receipt of another store.
    pub fn ack(&self, receipt: &Receipt) -> Result<()> {
        let _call = self.inner.enter()?;
        let held = self.held(receipt)?;
        let flush = settle::ack_flush(&self.inner.log.ctl, held.group);
        ack_held(&self.inner, &held, flush)
    }

    /// Acks many deliveries of any groups of this store, owned or borrowed: in one record for each
    /// group (for each 128 deliveries of it) and with one flush, if a group's acks are sync. Not
    /// atomic: each delivery has its own result, in the order given.
    ///
    /// Those are `LeaseLost` when the lease has ended, `InvalidArgument` for a delivery of another
    /// open of a store, and otherwise as of an ack.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("ack-many");
    /// use std::time::Duration;
    ///
    /// let store = keepq::Store::open(&dir)?;
    /// let mail = store.group("orders", "mail").open()?;
    /// let billing = store.group("orders", "billing").open()?;
    /// store.topic("orders")?.send(b"one")?;
    /// let mut held = mail.receive_batch(10, Duration::from_secs(1))?;
    /// held.extend(billing.receive_batch(10, Duration::from_secs(1))?);
    /// assert!(store.ack_many(&held).into_iter().all(|acked| acked.is_ok()));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "each delivery has its own result"]
    pub fn ack_many<D: std::borrow::Borrow<Delivery>>(
        &self,
        deliveries: impl IntoIterator<Item = D>,
    ) -> Vec<Result<()>> {
        self.ack_many_within(deliveries, Duration::MAX).done()
    }

    /// Puts a message back by receipt; `None` = the group's back-off.
    ///
    /// # Errors
    /// As [`Store::ack`].
    pub fn nack(&self, receipt: &Receipt, delay: Option<Duration>) -> Result<()> {
        let _call = self.inner.enter()?;
        nack_held(&self.inner, &self.held(receipt)?, delay)
    }

    /// Gives a message up by receipt: it becomes a dead letter.
    ///
    /// # Errors
    /// As [`Store::ack`]; `LimitExceeded` for a reason over 1024 bytes.
    pub fn reject(&self, receipt: &Receipt, reason: &str) -> Result<()> {
        check_reason(reason)?;
        let _call = self.inner.enter()?;
        reject_held(&self.inner, &self.held(receipt)?, reason)
    }

    /// Makes a lease end `lease` from now, by receipt.
    ///
    /// # Errors
    /// As [`Store::ack`].
    pub fn extend(&self, receipt: &Receipt, lease: Duration) -> Result<()> {
        let _call = self.inner.enter()?;
        extend_held(&self.inner, &self.held(receipt)?, lease)
    }

    /// Makes every receive of this process on this store that is waiting now return `Interrupted`.
    pub fn interrupt(&self) {
        if self.inner.enter().is_ok() {
            self.inner.interrupt();
        }
    }

    /// Flushes, puts back what this process holds unsettled, and closes. Every clone returns
    /// `Closed` from now on; closing again does nothing.
    ///
    /// Every asynchronous send has its result when this returns, and its callbacks have returned.
    /// From within a callback the store can be closed too; the callbacks after that one are called
    /// when it has returned.
    ///
    /// # Errors
    /// When what was sent asynchronously could not be flushed.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}
