//! The options of a group and what they mean to the engine.

use crate::opts::{KEEPQ_FLUSH_ASYNC, KEEPQ_FLUSH_DEFAULT, KEEPQ_FLUSH_SYNC};
use crate::opts::{duration, flag, flush, refuse, unknown};
use crate::sized::SizedStruct;
use engine::{Backoff, Code, Configure, Error, Flush, GroupConfig, GroupOptions, Result, Start};
use std::ffi::c_char;
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

/// How a group is opened. Start it with KEEPQ_GROUP_OPTS_INIT; zero means not set: then what the
/// group was made with applies, and for a new group the default that is named. Fields marked
/// "later" are not part of this version and give KEEPQ_E_NOT_SUPPORTED when set.
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
    /// Later: receive only messages with one of these tags.
    pub tags: *const *const c_char,
    /// Later: how many there are.
    pub n_tags: usize,
    /// Later: with broadcast, this consumer's name.
    pub consumer: *const c_char,
    /// Later: 1 = messages with the same order_key one at a time, in order.
    pub ordered: i32,
    /// Later: 1 = each consumer gets every message.
    pub broadcast: i32,
    /// Later: how many messages may be with receivers at a time.
    pub max_outstanding: u64,
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
    };
}

impl keepq_group_opts {
    fn refuse_unsupported(&self) -> Result<()> {
        let set = [
            ("tags", !self.tags.is_null()),
            ("n_tags", self.n_tags != 0),
            ("consumer", !self.consumer.is_null()),
            ("ordered", self.ordered != 0),
            ("broadcast", self.broadcast != 0),
            ("max_outstanding", self.max_outstanding != 0),
        ];
        refuse(Self::NAME, &set)
    }

    pub(crate) fn apply(&self, mut options: GroupOptions) -> Result<GroupOptions> {
        self.refuse_unsupported()?;
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
    pub(crate) fn change(&self, mut options: Configure) -> Result<Configure> {
        self.refuse_unsupported()?;
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

    fn backoff(&self) -> Result<Option<Backoff>> {
        let is_set = self.backoff_first_ms != 0
            || self.backoff_max_ms != 0
            || self.backoff_factor != 0.0
            || self.backoff_jitter != 0.0;
        if !is_set {
            return Ok(None);
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

    /// The stored options of a group.
    pub(crate) fn of(config: &GroupConfig) -> Self {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let backoff = &config.backoff;
        Self {
            lease_ms: ms(config.lease),
            max_attempts: config.max_attempts,
            ack_flush: match config.ack_flush {
                Flush::Sync => KEEPQ_FLUSH_SYNC,
                _ => KEEPQ_FLUSH_ASYNC,
            },
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
            ..Self::INIT
        }
    }
}

fn unsigned(field: &str, ms: i64) -> Result<u64> {
    u64::try_from(ms).map_err(|_| crate::opts::negative(field, ms))
}
