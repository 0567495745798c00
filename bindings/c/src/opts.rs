//! The option structs and what they mean to the engine.

use crate::sized::SizedStruct;
use crate::text;
use engine::{Code, Error, Flush, Result, StoreOptions, WhenFull};
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

/// A send for which there is no room: while too many asynchronous and one-way sends are in flight
/// it waits; for a limit of its topic or the store, it does what those were made with.
pub const KEEPQ_WHEN_FULL_DEFAULT: i32 = 0;
/// It waits for room, at most the send's time.
pub const KEEPQ_WHEN_FULL_WAIT: i32 = 1;
/// It returns KEEPQ_E_FULL at once. Nothing is stored.
pub const KEEPQ_WHEN_FULL_REFUSE: i32 = 2;

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
    /// 1 = to look only: statistics, browsing, dead letters, keepq_verify. No lock is taken,
    /// nothing is written or made: what is not there is KEEPQ_E_NOT_FOUND, and whatever would
    /// change something KEEPQ_E_READ_ONLY.
    pub read_only: i32,
    /// How often a send is tried again within its time after a retriable error; 0 = 2, -1 = never,
    /// at most 100.
    pub send_retries: i32,
    /// How many asynchronous and one-way sends of this handle may wait for the disk; 0 = 1024, at
    /// most 1 Mi.
    pub max_in_flight: u32,
    /// What a send to a new store does while max_bytes has no room for it: KEEPQ_WHEN_FULL_*; the
    /// default is to refuse.
    pub when_full: i32,
    /// How many bytes of bodies they may have; 0 = 64 MiB.
    pub max_in_flight_bytes: u64,
    /// Where a new store keeps its shared memory, if not in its own directory: an absolute path,
    /// best on tmpfs, the same in every process. NULL = in its own directory.
    pub runtime_dir: *const c_char,
    /// The most bytes of bodies that all topics of a new store keep together; 0 = no limit. See
    /// keepq_topic_opts, and keepq_configure to change it.
    pub max_bytes: u64,
}

// SAFETY: repr(C), size first; integers and raw pointers.
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
        read_only: 0,
        send_retries: 0,
        max_in_flight: 0,
        when_full: KEEPQ_WHEN_FULL_DEFAULT,
        max_in_flight_bytes: 0,
        runtime_dir: ptr::null(),
        max_bytes: 0,
    };
}

impl keepq_open_opts {
    /// # Safety
    /// `runtime_dir` is NULL or a string.
    pub(crate) unsafe fn to_engine(self) -> Result<StoreOptions> {
        let mut options = StoreOptions::default()
            .create(flag("create", self.create)?)
            .exist_ok(flag("exist_ok", self.exist_ok)?)
            .read_only(flag("read_only", self.read_only)?)
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
        match self.send_retries {
            0 => {}
            -1 => options = options.send_retries(0),
            n => {
                let n = u32::try_from(n).map_err(|_| unknown("send_retries", n))?;
                options = options.send_retries(n);
            }
        }
        if self.max_in_flight != 0 {
            options = options.max_in_flight(self.max_in_flight);
        }
        if self.max_in_flight_bytes != 0 {
            options = options.max_in_flight_bytes(self.max_in_flight_bytes);
        }
        if let Some(when_full) = when_full("when_full", self.when_full)? {
            options = options.when_full(when_full);
        }
        if self.max_bytes != 0 {
            options = options.max_bytes(self.max_bytes);
        }
        if !self.runtime_dir.is_null() {
            // SAFETY: the caller's promise.
            options = options.runtime_dir(unsafe { text::path(self.runtime_dir) }?.to_path_buf());
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
    /// KEEPQ_WHEN_FULL_*: what an asynchronous or one-way send does while too many are in flight.
    pub when_full: i32,
    /// 1 = producer_seq is the message's number, 0 = the next one is.
    pub has_producer_seq: i32,
    /// What to find the message by: at most 255 bytes of UTF-8.
    pub key: *const c_char,
    /// What kind of message it is: at most 255 bytes of UTF-8.
    pub tag: *const c_char,
    /// Messages with the same one are delivered one after the other, as they were sent, in groups
    /// that are ordered: at most 255 bytes of UTF-8.
    pub order_key: *const c_char,
    /// Later: a message with the same one is not stored again.
    pub dedup_id: *const c_char,
    /// The named producer that sends it; see keepq_producer_open.
    pub producer: *const c_char,
    /// n_headers headers; all names and values together have at most 48 KiB.
    pub headers: *const keepq_header,
    /// How many there are: at most 1024.
    pub n_headers: usize,
    /// Later: deliver after so much time.
    pub delay_ms: i64,
    /// Later: deliver at this time.
    pub at_ms: i64,
    /// Later: how long the message is worth delivering.
    pub ttl_ms: i64,
    /// The time the send may take; 0 = as the store was opened with, -1 = for ever.
    pub timeout_ms: i64,
    /// The message's number from its producer, from 0; with has_producer_seq.
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
            ("dedup_id", !self.dedup_id.is_null()),
            ("delay_ms", self.delay_ms != 0),
            ("at_ms", self.at_ms != 0),
            ("ttl_ms", self.ttl_ms != 0),
        ];
        refuse(Self::NAME, &set)
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

/// Refuses the first field that is set.
pub(crate) fn refuse(name: &str, fields: &[(&str, bool)]) -> Result<()> {
    match fields.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((field, _)) => Err(Error::new(
            Code::NotSupported,
            format!("{name}.{field} is not part of this version; leave it 0"),
        )),
    }
}

pub(crate) fn unknown(field: &str, value: i32) -> Error {
    Error::new(
        Code::InvalidArgument,
        format!("{field} = {value} is not a value of it"),
    )
}

pub(crate) fn flag(field: &str, value: i32) -> Result<bool> {
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

/// A `KEEPQ_WHEN_FULL_*` value; None = the default.
pub(crate) fn when_full(field: &str, value: i32) -> Result<Option<WhenFull>> {
    match value {
        KEEPQ_WHEN_FULL_DEFAULT => Ok(None),
        KEEPQ_WHEN_FULL_WAIT => Ok(Some(WhenFull::Wait)),
        KEEPQ_WHEN_FULL_REFUSE => Ok(Some(WhenFull::Refuse)),
        other => Err(unknown(field, other)),
    }
}

/// Milliseconds where 0 means "not set".
pub(crate) fn duration(field: &str, ms: i64) -> Result<Option<Duration>> {
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
