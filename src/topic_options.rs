//! The stored options of topics and of the store: giving, reading and changing them, and what a
//! send does when a limit has no room for it.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::kept::{self, Over};
use crate::delivery::limits::{self, StoreSettings, TopicSettings};
use crate::delivery::registry;
use crate::error::{Code, Error, Result};
use crate::inner::Inner;
use crate::message::OutMessage;
use crate::options::{StoreConfig, TopicConfig, WhenFull};
use crate::shm::control::{T_FLAGS, TOPIC_COUNTED, TOPIC_COUNTING};
use crate::shm::wake;
use crate::store::Store;
use crate::topic::Topic;

/// The setters that making a topic and changing it have in common.
macro_rules! topic_setters {
    () => {
        /// The most bytes of bodies that the topic keeps (`None` = no limit; at least 1). What is
        /// kept: see [`TopicConfig`].
        pub fn max_bytes(mut self, most: impl Into<Option<u64>>) -> Self {
            self.asked.max_bytes = Some(most.into());
            self
        }

        /// The most messages that the topic keeps (`None` = no limit; at least 1).
        pub fn max_messages(mut self, most: impl Into<Option<u64>>) -> Self {
            self.asked.max_messages = Some(most.into());
            self
        }

        /// What a send does while a limit has no room for it.
        pub fn when_full(mut self, when_full: WhenFull) -> Self {
            self.asked.when_full = Some(when_full);
            self
        }

        /// How long after its sending a message is kept although every group has settled it, for
        /// groups that are made later (`None` = not at all; 1 ms at least).
        pub fn retain_age(mut self, age: impl Into<Option<Duration>>) -> Self {
            self.asked.retain_age = Some(age.into());
            self
        }

        /// How many bytes of the last messages are kept although every group has settled them
        /// (`None` = none; at least 1). With an age too, a message is kept as long as either asks
        /// for it.
        pub fn retain_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
            self.asked.retain_bytes = Some(bytes.into());
            self
        }
    };
}

/// What was asked for. `None` = nothing.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::option_option)] // not named, named as "none", named
struct Asked {
    max_bytes: Option<Option<u64>>,
    max_messages: Option<Option<u64>>,
    retain_age: Option<Option<Duration>>,
    retain_bytes: Option<Option<u64>>,
    when_full: Option<WhenFull>,
}

impl Asked {
    /// The stored form, if nothing is out of range.
    fn settings(&self, what: &str) -> Result<TopicSettings> {
        let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let retain_age = self.retain_age.map(|asked| asked.map(age));
        let numbers = [
            ("max_bytes", self.max_bytes),
            ("max_messages", self.max_messages),
            ("retain_age", retain_age),
            ("retain_bytes", self.retain_bytes),
        ];
        if let Some((which, _)) = numbers.iter().find(|(_, asked)| *asked == Some(Some(0))) {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("{which} of {what} must be at least 1, or none"),
            ));
        }
        let stored = |asked: Option<Option<u64>>| asked.map(|n| n.unwrap_or(0));
        Ok(TopicSettings {
            max_bytes: stored(self.max_bytes),
            max_messages: stored(self.max_messages),
            retain_ms: stored(retain_age),
            retain_bytes: stored(self.retain_bytes),
            when_full: self.when_full,
        })
    }
}

/// Options of a topic, stored when it is made. An explicit option that differs later is
/// `ConfigMismatch`. From [`Store::topic_with`].
#[must_use = "nothing is opened before `open`"]
#[derive(Debug, Clone)]
pub struct TopicOptions {
    store: Store,
    name: String,
    asked: Asked,
}

impl TopicOptions {
    pub(crate) fn new(store: Store, name: &str) -> Self {
        Self {
            store,
            name: name.to_owned(),
            asked: Asked::default(),
        }
    }

    topic_setters!();

    /// Opens the topic, making it if need be.
    ///
    /// # Errors
    /// As [`Store::topic`]; `ConfigMismatch` when the topic was made with another explicit option,
    /// `InvalidArgument` for one out of range or of one of keepq's own streams.
    pub fn open(self) -> Result<Topic> {
        let settings = self.asked.settings(&format!("topic {}", self.name))?;
        if settings != TopicSettings::default() {
            check_has_options(&self.name)?;
        }
        let topic = self.store.open_topic(&self.name, settings)?;
        let ctl = &topic.inner.log.ctl;
        if ctl.is_frozen() {
            settings.check(
                &kept::options(ctl, topic.id),
                &format!("topic {}", self.name),
            )?;
        }
        Ok(topic)
    }
}

/// A change of a topic's options. From [`Topic::configure`]; nothing changes before `apply`.
#[must_use = "nothing changes before `apply`"]
#[derive(Debug, Clone)]
pub struct ConfigureTopic {
    topic: Topic,
    asked: Asked,
}

impl Topic {
    /// The topic's options, as they are stored.
    ///
    /// # Errors
    /// `NotFound` when the topic was deleted; when the store is closed.
    pub fn config(&self) -> Result<TopicConfig> {
        let _call = self.inner.enter()?;
        let ctl = &self.inner.log.ctl;
        let tx = ctl.begin_to_read(ctl.patience())?;
        let stored = kept::options(ctl, self.id);
        drop(tx);
        registry::ask_topic(ctl, self.id)?;
        Ok(stored.public())
    }

    /// Changes options of the topic, for every process. A limit below what is kept takes nothing
    /// away: it refuses or holds up sends until there is room.
    ///
    /// The first limit or retention of a topic counts what it keeps already, which takes time in
    /// proportion to that.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("configure-topic");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic_with("orders").max_messages(2).open()?;
    /// orders.configure().max_messages(1000).max_bytes(64 << 20).apply()?;
    /// assert_eq!(orders.config()?.max_messages, Some(1000));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn configure(&self) -> ConfigureTopic {
        ConfigureTopic {
            topic: self.clone(),
            asked: Asked::default(),
        }
    }

    /// What a send does that a limit has no room for: it makes room by counting off what everybody
    /// has settled, and waits for it if that is wanted. Afterwards the send is tried again.
    #[cold]
    pub(crate) fn await_room(
        &self,
        over: &Over,
        bytes: u64,
        deadline: u64,
        room: &mut RoomWait,
    ) -> Result<()> {
        if !over.messages && bytes > over.limit {
            return Err(Error::new(
                Code::LimitExceeded,
                format!(
                    "a body of {bytes} bytes can never be sent to {}: its max_bytes is {}",
                    self.limited(over),
                    over.limit
                ),
            ));
        }
        let inner = &self.inner;
        let ctl = &inner.log.ctl;
        let event = kept::arm(ctl);
        let topic = (!over.store).then_some(self.id);
        if kept::make_room(&inner.log, topic)? {
            return Ok(());
        }
        // Room that was made before the wait was announced.
        if self.over_now(bytes, deadline)?.as_ref() != Some(over) {
            return Ok(());
        }
        inner.check_open()?;
        if !over.block {
            return Err(self.no_room(Code::Full, over));
        }
        let left = room.until(inner, deadline).saturating_sub(inner.now());
        if left == 0 {
            return Err(self.no_room(Code::Timeout, over));
        }
        wake::sleep_until_room(ctl, event, Duration::from_millis(left));
        Ok(())
    }

    /// The limit that has no room now for a message with so many bytes.
    pub(crate) fn over_now(&self, bytes: u64, deadline: u64) -> Result<Option<Over>> {
        let ctl = &self.inner.log.ctl;
        let flags = ctl.load(ctl.layout.topic(self.id, T_FLAGS));
        if flags & (TOPIC_COUNTED | TOPIC_COUNTING) == 0 {
            return Ok(None);
        }
        let tx = ctl.begin(deadline)?;
        Ok(kept::over(&tx, self.id, bytes))
    }

    fn limited(&self, over: &Over) -> String {
        if over.store {
            format!("the store {}", self.inner.path.display())
        } else {
            format!("topic {}", self.name)
        }
    }

    fn no_room(&self, code: Code, over: &Over) -> Error {
        let (what, unit) = if over.messages {
            ("max_messages", "messages")
        } else {
            ("max_bytes", "bytes")
        };
        Error::new(
            code,
            format!(
                "{} keeps {} {unit} and its {what} is {}; let the consumers catch up, purge it, or \
                 raise the limit with configure",
                self.limited(over),
                over.kept,
                over.limit
            ),
        )
    }
}

/// How long a send waits for room; the time begins when it is first in need of some.
pub(crate) struct RoomWait {
    timeout: Option<Duration>,
    until: Option<u64>,
}

impl RoomWait {
    /// As long as the send may take.
    pub(crate) const fn whole() -> Self {
        Self {
            timeout: None,
            until: None,
        }
    }

    pub(crate) fn of(message: &OutMessage<'_>) -> Self {
        Self {
            timeout: message.room_timeout,
            until: None,
        }
    }

    /// When the wait ends (BOOTTIME ms), of a send that ends by `deadline`.
    pub(crate) fn until(&mut self, inner: &Inner, deadline: u64) -> u64 {
        let Some(timeout) = self.timeout else {
            return deadline;
        };
        let until = *self
            .until
            .get_or_insert_with(|| inner.deadline(Some(timeout)));
        until.min(deadline)
    }
}

impl ConfigureTopic {
    topic_setters!();

    /// Makes the change, durably, and gives the options as they are then. What is not named stays.
    ///
    /// # Errors
    /// `NotFound` when the topic was deleted; `InvalidArgument` for an option out of range or one
    /// of keepq's own streams; `Full`, `Failed`, `FlushTimeout` (changed, not yet known to be on
    /// disk), `Closed`.
    pub fn apply(self) -> Result<TopicConfig> {
        let topic = &self.topic;
        check_has_options(topic.name())?;
        let settings = self.asked.settings(&format!("topic {}", topic.name()))?;
        let inner = &topic.inner;
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let done = limits::configure(&inner.log, topic.id, &settings, deadline);
        let (stored, end) = done.map_err(|e| topic.name_it(e))?;
        changed(inner, end, deadline)?;
        Ok(stored.public())
    }
}

/// Dead-letter streams have no options.
fn check_has_options(name: &str) -> Result<()> {
    if !crate::format::name::is_internal(name) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("{name} is one of keepq's own streams: it has no options"),
    ))
}

/// Waits for the disk, and wakes whom a higher limit lets go on.
fn changed(inner: &Arc<Inner>, end: u64, deadline: u64) -> Result<()> {
    wake::room_made(&inner.log.ctl);
    if broken!(ConfigureNotFlushed) || inner.log.wait_durable(end, deadline)? {
        return Ok(());
    }
    Err(inner.log.flush_timeout())
}

/// A change of the store's own options. From [`Store::configure`]; nothing changes before `apply`.
#[must_use = "nothing changes before `apply`"]
#[derive(Debug, Clone)]
pub struct ConfigureStore {
    store: Store,
    asked: Asked,
}

impl Store {
    /// The store's own options, as they are stored.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn config(&self) -> Result<StoreConfig> {
        let inner = self.inner();
        let _call = inner.enter()?;
        let ctl = &inner.log.ctl;
        let _tx = ctl.begin_to_read(ctl.patience())?;
        Ok(limits::store_config(limits::store_options(ctl)))
    }

    /// Changes the store's own options, for every process. The first limit counts what all topics
    /// keep already, which takes time in proportion to that.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("configure-store");
    /// let store = keepq::Store::open(&dir)?;
    /// store.configure().max_bytes(10 << 30).apply()?;
    /// assert_eq!(store.config()?.max_bytes, Some(10 << 30));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn configure(&self) -> ConfigureStore {
        ConfigureStore {
            store: self.clone(),
            asked: Asked::default(),
        }
    }
}

impl Store {
    /// Stores the options that a new store was opened with, or compares them.
    pub(crate) fn settle_options(&self) -> Result<()> {
        let inner = self.inner();
        let asked = StoreSettings {
            max_bytes: inner.options.max_bytes,
            when_full: inner.options.when_full,
        };
        let ctl = &inner.log.ctl;
        if asked == StoreSettings::default() {
            return Ok(());
        }
        let (stored, unused) = {
            let _tx = ctl.begin_to_read(ctl.patience())?;
            // Whoever made it may have died before he came to this.
            (limits::store_options(ctl), registry::topics(ctl) == 0)
        };
        if unused && stored == (0, 0) && !ctl.is_frozen() {
            let deadline = inner.deadline(Some(inner.options.send_timeout));
            let end = limits::configure_store(&inner.log, asked, deadline)?;
            return changed(inner, end, deadline);
        }
        asked.check(stored, &inner.path.display().to_string())
    }
}

impl ConfigureStore {
    /// The most bytes of bodies that all topics keep together (`None` = no limit; at least 1). Dead
    /// letters do not count.
    pub fn max_bytes(mut self, most: impl Into<Option<u64>>) -> Self {
        self.asked.max_bytes = Some(most.into());
        self
    }

    /// What a send does while the limit has no room for it.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.asked.when_full = Some(when_full);
        self
    }

    /// Makes the change, durably, and gives the options as they are then. What is not named stays.
    ///
    /// # Errors
    /// As [`ConfigureTopic::apply`].
    pub fn apply(self) -> Result<StoreConfig> {
        let settings = self.asked.settings("the store")?;
        let settings = StoreSettings {
            max_bytes: settings.max_bytes,
            when_full: settings.when_full,
        };
        let inner = self.store.inner();
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let end = limits::configure_store(&inner.log, settings, deadline)?;
        changed(inner, end, deadline)?;
        let ctl = &inner.log.ctl;
        let _tx = ctl.begin_to_read(ctl.patience())?;
        Ok(limits::store_config(limits::store_options(ctl)))
    }
}
