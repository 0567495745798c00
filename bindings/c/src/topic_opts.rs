//! The options of a topic and of the store itself, and what they mean to the engine.

use crate::opts::{
    KEEPQ_WHEN_FULL_DEFAULT, KEEPQ_WHEN_FULL_REFUSE, KEEPQ_WHEN_FULL_WAIT, negative, when_full,
};
use crate::sized::SizedStruct;
use engine::{
    Code, ConfigureStore, ConfigureTopic, Error, Result, StoreConfig, TopicConfig, TopicOptions,
    WhenFull,
};
use std::mem::size_of;
use std::time::Duration;

/// How much a topic keeps, and what is kept in it. Start it with KEEPQ_TOPIC_OPTS_INIT; 0 = not
/// set: in a new topic that is none, in one that is there it stays; -1 = none.
///
/// A topic keeps its messages from the first one on that some group has not settled, or that is
/// retained; a topic without groups keeps all. One that was settled out of order counts until all
/// before it are. Dead letters do not count. Nothing that is kept is ever dropped for a limit, and
/// no ack, nack or dead letter waits for one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_topic_opts {
    /// sizeof(keepq_topic_opts).
    pub size: usize,
    /// The most bytes of bodies that are kept. A body larger than that is KEEPQ_E_LIMIT_EXCEEDED.
    pub max_bytes: i64,
    /// The most messages that are kept.
    pub max_messages: i64,
    /// How long after its sending a message is kept although every group has settled it, for groups
    /// that are made later.
    pub retain_ms: i64,
    /// How many bytes of the last messages are kept although every group has settled them. With
    /// retain_ms too, a message is kept as long as either asks for it.
    pub retain_bytes: i64,
    /// What a send does while a limit has no room for it: KEEPQ_WHEN_FULL_REFUSE (that of a new
    /// topic) = KEEPQ_E_FULL, KEEPQ_WHEN_FULL_WAIT = it waits within its time, then
    /// KEEPQ_E_TIMEOUT. Either way the message is not stored.
    pub when_full: i32,
    /// Must be 0.
    pub reserved: i32,
}

// SAFETY: repr(C), size first; integers only.
unsafe impl SizedStruct for keepq_topic_opts {
    const NAME: &'static str = "keepq_topic_opts";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        max_bytes: 0,
        max_messages: 0,
        retain_ms: 0,
        retain_bytes: 0,
        when_full: KEEPQ_WHEN_FULL_DEFAULT,
        reserved: 0,
    };
}

/// What all topics of a store keep together. Start it with KEEPQ_STORE_OPTS_INIT; 0 = not set: it
/// stays; -1 = none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_store_opts {
    /// sizeof(keepq_store_opts).
    pub size: usize,
    /// The most bytes of bodies that all topics keep together; see keepq_topic_opts.
    pub max_bytes: i64,
    /// What a send does while that has no room for it, as for a topic.
    pub when_full: i32,
    /// Must be 0.
    pub reserved: i32,
}

// SAFETY: repr(C), size first; integers only.
unsafe impl SizedStruct for keepq_store_opts {
    const NAME: &'static str = "keepq_store_opts";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        max_bytes: 0,
        when_full: KEEPQ_WHEN_FULL_DEFAULT,
        reserved: 0,
    };
}

/// 0 = not set, -1 = none.
#[allow(clippy::option_option)] // As the engine asks: not set, none, so many.
fn limit(field: &str, value: i64) -> Result<Option<Option<u64>>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(most) => Ok(Some(Some(most))),
        Err(_) if value == -1 => Ok(Some(None)),
        Err(_) => Err(negative(field, value)),
    }
}

fn is_zero(name: &str, reserved: i32) -> Result<()> {
    if reserved == 0 {
        return Ok(());
    }
    let start = name.to_uppercase();
    let text = format!("{name}.reserved is not 0; start it with {start}_INIT");
    Err(Error::new(Code::InvalidArgument, text))
}

/// As the engine's options or change of options, which have the same setters.
macro_rules! set_all {
    ($from:expr, $to:expr) => {{
        let (from, mut to) = ($from, $to);
        is_zero(keepq_topic_opts::NAME, from.reserved)?;
        if let Some(most) = limit("max_bytes", from.max_bytes)? {
            to = to.max_bytes(most);
        }
        if let Some(most) = limit("max_messages", from.max_messages)? {
            to = to.max_messages(most);
        }
        if let Some(age) = limit("retain_ms", from.retain_ms)? {
            to = to.retain_age(age.map(Duration::from_millis));
        }
        if let Some(bytes) = limit("retain_bytes", from.retain_bytes)? {
            to = to.retain_bytes(bytes);
        }
        if let Some(when_full) = when_full("when_full", from.when_full)? {
            to = to.when_full(when_full);
        }
        Ok(to)
    }};
}

impl keepq_topic_opts {
    pub(crate) fn apply(&self, options: TopicOptions) -> Result<TopicOptions> {
        set_all!(self, options)
    }

    pub(crate) fn change(&self, options: ConfigureTopic) -> Result<ConfigureTopic> {
        set_all!(self, options)
    }

    pub(crate) fn of(config: &TopicConfig) -> Self {
        let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            max_bytes: shown(config.max_bytes),
            max_messages: shown(config.max_messages),
            retain_ms: shown(config.retain_age.map(age)),
            retain_bytes: shown(config.retain_bytes),
            when_full: shown_when_full(config.when_full),
            ..Self::INIT
        }
    }
}

impl keepq_store_opts {
    pub(crate) fn change(&self, mut options: ConfigureStore) -> Result<ConfigureStore> {
        is_zero(Self::NAME, self.reserved)?;
        if let Some(most) = limit("max_bytes", self.max_bytes)? {
            options = options.max_bytes(most);
        }
        if let Some(when_full) = when_full("when_full", self.when_full)? {
            options = options.when_full(when_full);
        }
        Ok(options)
    }

    pub(crate) fn of(config: &StoreConfig) -> Self {
        Self {
            max_bytes: shown(config.max_bytes),
            when_full: shown_when_full(config.when_full),
            ..Self::INIT
        }
    }
}

/// As it is given: -1 = none.
fn shown(most: Option<u64>) -> i64 {
    most.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX))
}

fn shown_when_full(when_full: WhenFull) -> i32 {
    match when_full {
        WhenFull::Wait => KEEPQ_WHEN_FULL_WAIT,
        _ => KEEPQ_WHEN_FULL_REFUSE,
    }
}
