//! The option structs and what they mean to the engine.

use crate::sized::SizedStruct;
use crate::text;
use engine::{Code, Error, Flush, GroupOptions, Result, Start, StoreOptions};
use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::ptr;
use std::time::Duration;

/// As the group, the topic or the store says.
pub const KEEPQ_FLUSH_DEFAULT: i32 = 0;
/// On disk when the call returns.
pub const KEEPQ_FLUSH_SYNC: i32 = 1;
/// In shared memory when the call returns: survives the death of every process.
pub const KEEPQ_FLUSH_ASYNC: i32 = 2;

/// A new group begins at the earliest kept message.
pub const KEEPQ_START_EARLIEST: i32 = 0;
/// A new group begins with messages sent after it was made.
pub const KEEPQ_START_LATEST: i32 = 1;
/// A new group begins at start_seq.
pub const KEEPQ_START_SEQUENCE: i32 = 2;

/// How a store is opened. Start it with KEEPQ_OPEN_OPTS_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_open_opts {
    /// sizeof(keepq_open_opts).
    pub size: usize,
    /// KEEPQ_FLUSH_*; the default is sync.
    pub flush: i32,
    /// 1 = make a store where there is none (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    pub create: i32,
    /// 1 = an existing store is fine (INIT), 0 = it is KEEPQ_E_ALREADY_EXISTS.
    pub exist_ok: i32,
    /// Permission bits of the files of a new store; 0 = 0600.
    pub mode: u32,
    /// The time a send may take; 0 = 3000, -1 = for ever.
    pub send_timeout_ms: i64,
    /// How long an asynchronous send may stay unflushed; 0 = 10.
    pub flush_interval_ms: i64,
    /// Size of a full-grown log segment of a new store, bytes; 0 = 64 MiB.
    pub segment_size: u64,
    /// Size of the shared tail ring of a new store, bytes, a power of two; 0 = 8 MiB.
    pub ring_size: u64,
    /// How many messages can be outstanding in a new store; 0 = 65536.
    pub slots: u32,
    /// 1 = open on a network, FUSE or memory file system all the same, without its guarantees.
    pub allow_unsafe_filesystem: i32,
}

// SAFETY: repr(C), size first; integers only.
unsafe impl SizedStruct for keepq_open_opts {
    const NAME: &'static str = "keepq_open_opts";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        flush: KEEPQ_FLUSH_DEFAULT,
        create: 1,
        exist_ok: 1,
        mode: 0,
        send_timeout_ms: 0,
        flush_interval_ms: 0,
        segment_size: 0,
        ring_size: 0,
        slots: 0,
        allow_unsafe_filesystem: 0,
    };
}

impl keepq_open_opts {
    pub(crate) fn to_engine(self) -> Result<StoreOptions> {
        let mut options = StoreOptions::default()
            .create(flag("create", self.create)?)
            .exist_ok(flag("exist_ok", self.exist_ok)?)
            .allow_unsafe_filesystem(flag(
                "allow_unsafe_filesystem",
                self.allow_unsafe_filesystem,
            )?);
        if let Some(flush) = flush("flush", self.flush)? {
            options = options.flush(flush);
        }
        if self.mode != 0 {
            options = options.mode(self.mode);
        }
        if let Some(timeout) = timeout("send_timeout_ms", self.send_timeout_ms)? {
            options = options.send_timeout(timeout);
        }
        if let Some(interval) = duration("flush_interval_ms", self.flush_interval_ms)? {
            options = options.flush_interval(interval);
        }
        if self.segment_size != 0 {
            options = options.segment_size(self.segment_size);
        }
        if self.ring_size != 0 {
            options = options.ring_size(self.ring_size);
        }
        if self.slots != 0 {
            options = options.slots(self.slots);
        }
        Ok(options)
    }
}

/// A named value that goes with a message.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_header {
    /// Its name, UTF-8.
    pub name: *const c_char,
    /// Its value: any bytes.
    pub value: *const c_void,
    /// Length of the value.
    pub len: usize,
}

/// How a message is sent. Start it with KEEPQ_SEND_OPTS_INIT; zero means not set. Fields marked
/// "later" are not part of this version and give KEEPQ_E_NOT_SUPPORTED when set.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_send_opts {
    /// sizeof(keepq_send_opts).
    pub size: usize,
    /// KEEPQ_FLUSH_*; the default is the store's.
    pub flush: i32,
    /// Later: 0 to 9.
    pub priority: i32,
    /// Later: what to do when the topic is full.
    pub when_full: i32,
    /// Later: 1 = producer_seq is set.
    pub has_producer_seq: i32,
    /// What to find the message by: at most 255 bytes of UTF-8.
    pub key: *const c_char,
    /// What kind of message it is: at most 255 bytes of UTF-8.
    pub tag: *const c_char,
    /// Later: messages with the same one are delivered in order.
    pub order_key: *const c_char,
    /// Later: a message with the same one is not stored again.
    pub dedup_id: *const c_char,
    /// Later: the name of a producer.
    pub producer: *const c_char,
    /// n_headers headers.
    pub headers: *const keepq_header,
    /// How many there are.
    pub n_headers: usize,
    /// Later: deliver after so much time.
    pub delay_ms: i64,
    /// Later: deliver at this time.
    pub at_ms: i64,
    /// Later: how long the message is worth delivering.
    pub ttl_ms: i64,
    /// The time the send may take; 0 = as the store was opened with, -1 = for ever.
    pub timeout_ms: i64,
    /// Later: the message's number from its producer.
    pub producer_seq: u64,
}

// SAFETY: repr(C), size first; integers and raw pointers.
unsafe impl SizedStruct for keepq_send_opts {
    const NAME: &'static str = "keepq_send_opts";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        flush: KEEPQ_FLUSH_DEFAULT,
        priority: 0,
        when_full: 0,
        has_producer_seq: 0,
        key: ptr::null(),
        tag: ptr::null(),
        order_key: ptr::null(),
        dedup_id: ptr::null(),
        producer: ptr::null(),
        headers: ptr::null(),
        n_headers: 0,
        delay_ms: 0,
        at_ms: 0,
        ttl_ms: 0,
        timeout_ms: 0,
        producer_seq: 0,
    };
}

impl keepq_send_opts {
    /// Refuses what this version would otherwise silently not do.
    pub(crate) fn refuse_unsupported(&self) -> Result<()> {
        let set = [
            ("priority", self.priority != 0),
            ("when_full", self.when_full != 0),
            ("has_producer_seq", self.has_producer_seq != 0),
            ("order_key", !self.order_key.is_null()),
            ("dedup_id", !self.dedup_id.is_null()),
            ("producer", !self.producer.is_null()),
            ("delay_ms", self.delay_ms != 0),
            ("at_ms", self.at_ms != 0),
            ("ttl_ms", self.ttl_ms != 0),
            ("producer_seq", self.producer_seq != 0),
        ];
        match set.iter().find(|(_, set)| *set) {
            None => Ok(()),
            Some((field, _)) => Err(Error::new(
                Code::NotSupported,
                format!("keepq_send_opts.{field} is not part of this version; leave it 0"),
            )),
        }
    }

    /// The headers, borrowed from the caller.
    ///
    /// # Safety
    /// `headers` points to `n_headers` headers whose strings and values live as long as `'a`.
    pub(crate) unsafe fn headers<'a>(&self) -> Result<Vec<(&'a str, &'a [u8])>> {
        if self.n_headers > engine::limits::HEADER_COUNT {
            let text = format!(
                "{} headers; a message can have {}",
                self.n_headers,
                engine::limits::HEADER_COUNT
            );
            return Err(Error::new(Code::LimitExceeded, text));
        }
        if self.headers.is_null() && self.n_headers > 0 {
            return Err(text::null("keepq_send_opts.headers"));
        }
        let mut all = Vec::with_capacity(self.n_headers);
        for index in 0..self.n_headers {
            // SAFETY: not NULL and below `n_headers`: the caller's promise.
            let header = unsafe { self.headers.add(index).read_unaligned() };
            // SAFETY: the caller's promise.
            let name = unsafe { text::required(header.name, "the name of a header") }?;
            // SAFETY: the caller's promise.
            let value = unsafe { text::bytes(header.value, header.len, "the value of a header") }?;
            all.push((name, value));
        }
        Ok(all)
    }
}

/// How a group is opened. Start it with KEEPQ_GROUP_OPTS_INIT; zero means not set.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_group_opts {
    /// sizeof(keepq_group_opts).
    pub size: usize,
    /// How long a message stays with its receiver; 0 = 30000.
    pub lease_ms: i64,
    /// Deliveries before a message becomes a dead letter; 0 = 16.
    pub max_attempts: u32,
    /// KEEPQ_FLUSH_* for acks; the default is async.
    pub ack_flush: i32,
    /// 1 = make topic and group where they are missing (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    pub create: i32,
    /// Where a new group begins: KEEPQ_START_*.
    pub start: i32,
    /// With KEEPQ_START_SEQUENCE: the sequence.
    pub start_seq: u64,
}

// SAFETY: repr(C), size first; integers only.
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
    };
}

impl keepq_group_opts {
    pub(crate) fn apply(self, mut options: GroupOptions) -> Result<GroupOptions> {
        if let Some(lease) = duration("lease_ms", self.lease_ms)? {
            options = options.lease(lease);
        }
        if self.max_attempts != 0 {
            options = options.max_attempts(self.max_attempts);
        }
        if let Some(flush) = flush("ack_flush", self.ack_flush)? {
            options = options.ack_flush(flush);
        }
        match self.start {
            KEEPQ_START_EARLIEST => {}
            KEEPQ_START_LATEST => options = options.start(Start::Latest),
            KEEPQ_START_SEQUENCE => options = options.start(Start::Sequence(self.start_seq)),
            other => return Err(unknown("start", other)),
        }
        Ok(options.create(flag("create", self.create)?))
    }
}

fn unknown(field: &str, value: i32) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("{field} = {value} is not a value of it"),
    )
}

fn flag(field: &str, value: i32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(unknown(field, other)),
    }
}

/// A `KEEPQ_FLUSH_*` value; None = the default.
pub(crate) fn flush(field: &str, value: i32) -> Result<Option<Flush>> {
    match value {
        KEEPQ_FLUSH_DEFAULT => Ok(None),
        KEEPQ_FLUSH_SYNC => Ok(Some(Flush::Sync)),
        KEEPQ_FLUSH_ASYNC => Ok(Some(Flush::Async)),
        other => Err(unknown(field, other)),
    }
}

/// Milliseconds where 0 means "not set".
fn duration(field: &str, ms: i64) -> Result<Option<Duration>> {
    match u64::try_from(ms) {
        Ok(0) => Ok(None),
        Ok(ms) => Ok(Some(Duration::from_millis(ms))),
        Err(_) => Err(negative(field, ms)),
    }
}

/// Milliseconds where 0 means "not set" and -1 "for ever".
pub(crate) fn timeout(field: &str, ms: i64) -> Result<Option<Duration>> {
    if ms == -1 {
        Ok(Some(Duration::MAX))
    } else {
        duration(field, ms)
    }
}

/// Milliseconds of a wait: 0 = try once, -1 = for ever.
pub(crate) fn wait(ms: i64) -> Result<Duration> {
    match u64::try_from(ms) {
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) if ms == -1 => Ok(Duration::MAX),
        Err(_) => Err(negative("timeout_ms", ms)),
    }
}

pub(crate) fn negative(field: &str, ms: i64) -> Error {
    Error::new(Code::InvalidArgument, format!("{field} = {ms} is negative"))
}
