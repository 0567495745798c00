//! Opening a group, with its options.

use std::sync::Arc;
use std::time::Duration;

use crate::configure::check_ranges;
use crate::delivery::registry::{self, GroupSettings, GroupWanted};
use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::options::{Backoff, Flush, Start, limits};
use crate::store::Store;

/// Options of a group, stored when it is made. An explicit option that differs later is
/// `ConfigMismatch`.
#[must_use = "nothing is opened before `open`"]
#[derive(Clone)]
pub struct GroupOptions {
    store: Store,
    topic: String,
    name: String,
    consumer: Consumer,
    settings: GroupSettings,
    create: bool,
    create_topic: bool,
}

/// Whose the group is.
#[derive(Debug, Clone)]
enum Consumer {
    /// That of all who open it.
    All,
    /// One consumer's of its own.
    Named(String),
    /// One's that ends with its handle.
    Unnamed,
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
            consumer: Consumer::All,
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
        self.consumer = Consumer::Named(consumer.to_owned());
        self
    }

    /// Opens the group as a consumer of its own, as [`GroupOptions::broadcast`] does, but without a
    /// name: each `open` makes another one, which gets every message from where the group is asked
    /// to [`start`](Self::start), by default from the earliest that is kept.
    ///
    /// It ends when its handle is dropped (all clones of it, and all deliveries received by them),
    /// when the store is closed or when its process dies, within about 0.1 s as long as somebody
    /// else sends or receives, else with the next open. What it has not settled and its dead
    /// letters go with it, and so does what it held back on disk; its leases end, detached ones,
    /// too. Nothing brings it back.
    ///
    /// In statistics it is `group%%` and 16 hexadecimal digits. With [`create`](Self::create)`
    /// (false)` it is `NotFound`, on a store that is open for reading only `ReadOnly`.
    pub fn broadcast_unnamed(mut self) -> Self {
        self.consumer = Consumer::Unnamed;
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
        self.choose_name()?;
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
        inner.enter_group(id)?;
        Ok(Group::new(
            Arc::clone(inner),
            (topic.id, id),
            (self.topic, self.name),
        ))
    }
}

impl GroupOptions {
    /// The name of the group that stands for the consumer, if it is one's own.
    fn choose_name(&mut self) -> Result<()> {
        let inner = self.store.inner();
        let consumer = match &self.consumer {
            Consumer::All => return Ok(()),
            Consumer::Named(consumer) => {
                check_user_name("consumer", consumer)?;
                consumer.clone()
            }
            Consumer::Unnamed => {
                inner.check_writable()?;
                self.settings.unnamed = true;
                // No user's name has such a character.
                format!("%{:016x}", inner.log.ctl.host.random())
            }
        };
        self.name = broadcast_name(&self.topic, &self.name, &consumer)?;
        self.settings.broadcast = true;
        Ok(())
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
