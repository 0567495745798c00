//! The options of a group and what they mean to the engine.

use crate::error::c_string;
use crate::opts::{KEEPQ_FLUSH_ASYNC, KEEPQ_FLUSH_DEFAULT, KEEPQ_FLUSH_SYNC};
use crate::opts::{duration, flag, flush, unknown};
use crate::sized::SizedStruct;
use crate::text;
use engine::{
    Backoff, BackoffKind, Code, Configure, Error, Flush, Group, GroupConfig, GroupOptions, Result,
    Start,
};
use std::ffi::{CString, c_char};
use std::mem::size_of;
use std::ptr;
use std::time::Duration;

/// A new group begins at the earliest kept message.
pub const KEEPQ_START_EARLIEST: i32 = 0;
/// A new group begins with messages sent after it was made.
pub const KEEPQ_START_LATEST: i32 = 1;
/// A new group begins at start_seq.
pub const KEEPQ_START_SEQUENCE: i32 = 2;
/// A new group begins with the first message sent at start_ms or later.
pub const KEEPQ_START_TIME: i32 = 3;

/// The waits after failures are RocketMQ's: 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, 2 h, the
/// last again and again, without a random part.
pub const KEEPQ_BACKOFF_ROCKETMQ: i32 = 1;

/// How a group is opened. Start it with KEEPQ_GROUP_OPTS_INIT; zero means not set: then what the
/// group was made with applies, and for a new group the default that is named.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_group_opts {
    /// sizeof(keepq_group_opts).
    pub size: usize,
    /// How long a message stays with its receiver; 30000. At most 30 days.
    pub lease_ms: i64,
    /// Deliveries before a message becomes a dead letter, 1 to 1000; 16.
    pub max_attempts: u32,
    /// KEEPQ_FLUSH_* for acks; async.
    pub ack_flush: i32,
    /// 1 = make topic and group where they are missing (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    pub create: i32,
    /// Where a new group begins: KEEPQ_START_*.
    pub start: i32,
    /// With KEEPQ_START_SEQUENCE: the sequence.
    pub start_seq: u64,
    /// With KEEPQ_START_TIME: the time, ms since 1970 UTC.
    pub start_ms: i64,
    /// How long a message waits after its first failure; 1000. -1 = not at all. When one of the
    /// four is set, those that are not have their defaults.
    pub backoff_first_ms: i64,
    /// The longest wait; 600000.
    pub backoff_max_ms: i64,
    /// How much longer each next wait is, 1 to 1000; 2.
    pub backoff_factor: f64,
    /// The random part of a wait, up to 1; 0.1. -1 = none.
    pub backoff_jitter: f64,
    /// Receive only messages with one of these tags; every message. At most 16 of at most 255
    /// bytes each. A message without one of them is skipped: for this group it is settled. NULL =
    /// not set; with n_tags 0 any other pointer says that every message is wanted.
    pub tags: *const *const c_char,
    /// How many there are.
    pub n_tags: usize,
    /// With broadcast, this consumer's name, as the name of a group; NULL = it has none.
    pub consumer: *const c_char,
    /// 1 = messages with the same order_key one at a time, in order. For good: it is decided when
    /// the group is made.
    pub ordered: i32,
    /// 1 = each consumer gets every message: it is a group of its own, which is named
    /// "group%consumer" and goes on where it was when it is opened again. One without a name is
    /// another one each time and ends, with its dead letters, when the group and all messages
    /// received by it are closed and freed, when the store is closed or the process dies.
    pub broadcast: i32,
    /// How many messages may be in flight at a time (leased, delayed or behind one with the same
    /// order_key), up to 1 Mi; half of the store's slots.
    pub max_outstanding: u64,
    /// KEEPQ_BACKOFF_ROCKETMQ, instead of the four backoff_ numbers; 0 = they say it.
    pub backoff: i32,
    /// Always 0.
    pub reserved: i32,
}

// SAFETY: repr(C), size first; numbers and raw pointers.
unsafe impl SizedStruct for keepq_group_opts {
    const NAME: &'static str = "keepq_group_opts";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        lease_ms: 0,
        max_attempts: 0,
        ack_flush: KEEPQ_FLUSH_DEFAULT,
        create: 1,
        start: KEEPQ_START_EARLIEST,
        start_seq: 0,
        start_ms: 0,
        backoff_first_ms: 0,
        backoff_max_ms: 0,
        backoff_factor: 0.0,
        backoff_jitter: 0.0,
        tags: ptr::null(),
        n_tags: 0,
        consumer: ptr::null(),
        ordered: 0,
        broadcast: 0,
        max_outstanding: 0,
        backoff: 0,
        reserved: 0,
    };
}

impl keepq_group_opts {
    /// The options of a group that is opened.
    ///
    /// # Safety
    /// `tags` points to `n_tags` strings, `consumer` to one, or each is NULL.
    pub(crate) unsafe fn apply(&self, mut options: GroupOptions) -> Result<GroupOptions> {
        // SAFETY: the caller's promise.
        let (tags, consumer) =
            unsafe { (self.tags()?, text::optional(self.consumer, "consumer")?) };
        if let Some(tags) = tags {
            options = options.tags(tags);
        }
        match (flag("broadcast", self.broadcast)?, consumer) {
            (false, None) => {}
            (true, Some(consumer)) => options = options.broadcast(consumer),
            (true, None) => options = options.broadcast_unnamed(),
            (false, Some(_)) => {
                let text = "consumer is the name of a broadcast consumer; set broadcast = 1, too";
                return Err(Error::new(Code::InvalidArgument, text));
            }
        }
        if flag("ordered", self.ordered)? {
            options = options.ordered(true);
        }
        if let Some(most) = self.max_outstanding() {
            options = options.max_outstanding(most);
        }
        if let Some(lease) = duration("lease_ms", self.lease_ms)? {
            options = options.lease(lease);
        }
        if self.max_attempts != 0 {
            options = options.max_attempts(self.max_attempts);
        }
        if let Some(flush) = flush("ack_flush", self.ack_flush)? {
            options = options.ack_flush(flush);
        }
        if let Some(backoff) = self.backoff()? {
            options = options.backoff(backoff);
        }
        let start = match self.start {
            KEEPQ_START_EARLIEST => Start::Earliest,
            KEEPQ_START_LATEST => Start::Latest,
            KEEPQ_START_SEQUENCE => Start::Sequence(self.start_seq),
            KEEPQ_START_TIME => Start::Time(unsigned("start_ms", self.start_ms)?),
            other => return Err(unknown("start", other)),
        };
        Ok(options.start(start).create(flag("create", self.create)?))
    }

    /// As a change of the options of a group that is there.
    ///
    /// # Safety
    /// As for [`Self::apply`].
    pub(crate) unsafe fn change(&self, group: &Group) -> Result<Configure> {
        let mut options = group.configure();
        // SAFETY: the caller's promise.
        if let Some(tags) = unsafe { self.tags() }? {
            options = options.tags(tags);
        }
        if let Some(most) = self.max_outstanding() {
            options = options.max_outstanding(most);
        }
        if self.broadcast != 0 || !self.consumer.is_null() {
            let text = "broadcast and consumer are only for opening a group; leave them 0";
            return Err(Error::new(Code::InvalidArgument, text));
        }
        // What keepq_group_config gave may be passed on.
        if flag("ordered", self.ordered)? && !group.config()?.ordered {
            let text = "ordered is only for a group that is made; leave it 0";
            return Err(Error::new(Code::InvalidArgument, text));
        }
        if self.start != KEEPQ_START_EARLIEST || self.start_seq != 0 || self.start_ms != 0 {
            let text = "start is only for a group that is made; leave it 0";
            return Err(Error::new(Code::InvalidArgument, text));
        }
        if let Some(lease) = duration("lease_ms", self.lease_ms)? {
            options = options.lease(lease);
        }
        if self.max_attempts != 0 {
            options = options.max_attempts(self.max_attempts);
        }
        if let Some(flush) = flush("ack_flush", self.ack_flush)? {
            options = options.ack_flush(flush);
        }
        if let Some(backoff) = self.backoff()? {
            options = options.backoff(backoff);
        }
        Ok(options)
    }

    /// The tags; None = not set.
    ///
    /// # Safety
    /// As for [`Self::apply`].
    unsafe fn tags(&self) -> Result<Option<Vec<String>>> {
        if self.tags.is_null() {
            return match self.n_tags {
                0 => Ok(None),
                _ => Err(text::null("keepq_group_opts.tags")),
            };
        }
        if self.n_tags > engine::limits::TAGS {
            let text = format!(
                "{} tags; a group can have {}",
                self.n_tags,
                engine::limits::TAGS
            );
            return Err(Error::new(Code::LimitExceeded, text));
        }
        let mut all = Vec::with_capacity(self.n_tags);
        for index in 0..self.n_tags {
            // SAFETY: not NULL and below `n_tags`: the caller's promise.
            let tag = unsafe { self.tags.add(index).read_unaligned() };
            // SAFETY: the caller's promise.
            all.push(unsafe { text::required(tag, "a tag") }?.to_owned());
        }
        Ok(Some(all))
    }

    /// The engine refuses what is out of range.
    fn max_outstanding(&self) -> Option<u32> {
        let most = u32::try_from(self.max_outstanding).unwrap_or(u32::MAX);
        (most != 0).then_some(most)
    }

    fn backoff(&self) -> Result<Option<Backoff>> {
        let is_set = self.backoff_first_ms != 0
            || self.backoff_max_ms != 0
            || self.backoff_factor != 0.0
            || self.backoff_jitter != 0.0;
        match (self.backoff, is_set) {
            _ if self.reserved != 0 => return Err(unknown("reserved", self.reserved)),
            (0, false) => return Ok(None),
            (0, true) => {}
            (KEEPQ_BACKOFF_ROCKETMQ, false) => return Ok(Some(Backoff::rocketmq())),
            (KEEPQ_BACKOFF_ROCKETMQ, true) => {
                let text = "backoff says how long the waits are; leave the four numbers 0";
                return Err(Error::new(Code::InvalidArgument, text));
            }
            (other, _) => return Err(unknown("backoff", other)),
        }
        let mut backoff = Backoff::default();
        if self.backoff_first_ms == -1 {
            backoff.first = Duration::ZERO;
        } else if let Some(first) = duration("backoff_first_ms", self.backoff_first_ms)? {
            backoff.first = first;
        }
        if let Some(max) = duration("backoff_max_ms", self.backoff_max_ms)? {
            backoff.max = max;
        }
        if self.backoff_factor != 0.0 {
            backoff.factor = self.backoff_factor;
        }
        if self.backoff_jitter == -1.0 {
            backoff.jitter = 0.0;
        } else if self.backoff_jitter != 0.0 {
            backoff.jitter = self.backoff_jitter;
        }
        Ok(Some(backoff))
    }

    /// The stored options of a group. Its tags are those of the list, which must outlive it.
    pub(crate) fn of(config: &GroupConfig, tags: &TagList) -> Self {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let shown = Self {
            lease_ms: ms(config.lease),
            max_attempts: config.max_attempts,
            ack_flush: match config.ack_flush {
                Flush::Sync => KEEPQ_FLUSH_SYNC,
                _ => KEEPQ_FLUSH_ASYNC,
            },
            tags: if tags.pointers.is_empty() {
                ptr::null()
            } else {
                tags.pointers.as_ptr().cast()
            },
            n_tags: tags.pointers.len(),
            ordered: i32::from(config.ordered),
            max_outstanding: config.max_outstanding.into(),
            ..Self::INIT
        };
        let backoff = &config.backoff;
        if backoff.kind == BackoffKind::Rocketmq {
            return Self {
                backoff: KEEPQ_BACKOFF_ROCKETMQ,
                ..shown
            };
        }
        Self {
            backoff_first_ms: if backoff.first.is_zero() {
                -1
            } else {
                ms(backoff.first)
            },
            backoff_max_ms: ms(backoff.max),
            backoff_factor: backoff.factor,
            backoff_jitter: if backoff.jitter == 0.0 {
                -1.0
            } else {
                backoff.jitter
            },
            ..shown
        }
    }
}

/// Tags as C has them, which never change or move.
pub(crate) struct TagList {
    tags: Vec<String>,
    _strings: Vec<CString>,
    pointers: Vec<SharedText>,
}

/// The address of a string that lives in the same list.
#[repr(transparent)]
struct SharedText(*const c_char);

// SAFETY: what it points to belongs to the list beside it and is never written.
unsafe impl Send for SharedText {}
// SAFETY: as above.
unsafe impl Sync for SharedText {}

impl TagList {
    pub(crate) fn new(tags: &[String]) -> Self {
        let strings: Vec<_> = tags.iter().map(|tag| c_string(tag.as_bytes())).collect();
        Self {
            tags: tags.to_vec(),
            pointers: strings.iter().map(|s| SharedText(s.as_ptr())).collect(),
            _strings: strings,
        }
    }

    pub(crate) fn is(&self, tags: &[String]) -> bool {
        self.tags == tags
    }
}

fn unsigned(field: &str, ms: i64) -> Result<u64> {
    u64::try_from(ms).map_err(|_| crate::opts::negative(field, ms))
}
