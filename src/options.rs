//! Options and results of the public calls, with their defaults and limits in sight.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Code, Error, Result};

/// The documented limits; each is tested at the limit and one past it.
pub mod limits {
    /// Largest body of a message, bytes.
    pub const BODY: usize = 16 << 20;
    /// Of so many of its last sends a named producer knows the results.
    pub const PRODUCER_RECALLED: u64 = 64;
    /// A producer's name that is not open and was not used for so long may be dropped for another
    /// when the store has as many as it was made for.
    pub const PRODUCER_KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);
    /// Longest topic, group or producer name, bytes. Characters: `A-Z a-z 0-9 . _ -`.
    pub const NAME: usize = 120;
    /// Longest key, order key, tag or deduplication id, bytes of UTF-8.
    pub const KEY: usize = 255;
    /// Topic, group and consumer name of a broadcast consumer together, bytes: they are the name of
    /// its streams.
    pub const BROADCAST_NAME: usize = 246;
    /// All header names and values of one message together, bytes.
    pub const HEADERS: usize = 48 << 10;
    /// Most headers on one message.
    pub const HEADER_COUNT: usize = 1024;
    /// Most messages asked for by one batch receive.
    pub const RECEIVE_BATCH: usize = 1024;
    /// Longest reason of a reject, bytes of UTF-8.
    pub const REASON: usize = 1024;
    /// Longest lease, back-off or extension: 30 days.
    pub const LEASE: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);
    /// Most tags of a group's filter.
    pub const TAGS: usize = 16;
    /// Most messages that a group can be set to have in flight.
    pub const OUTSTANDING: u32 = 1 << 20;
    /// Most processes (and library copies) that have one store open at a time.
    pub const MEMBERS: usize = 1024;
}

/// When a send is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Flush {
    /// On disk when `send` returns: survives power loss. One fdatasync is shared by all senders of
    /// all processes.
    #[default]
    Sync,
    /// In shared memory when `send` returns: survives the death of every process; on disk within
    /// the flush interval.
    Async,
}

/// What a send does while there is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum WhenFull {
    /// Waits for room, at most as long as the send may take; then `Timeout`.
    #[default]
    Wait,
    /// Returns the error `Full` at once. Nothing is stored.
    Refuse,
}

/// How a store is opened. Made by [`Store::options`](crate::Store::options).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub(crate) create: bool,
    pub(crate) exist_ok: bool,
    pub(crate) read_only: bool,
    pub(crate) flush: Flush,
    pub(crate) flush_interval: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) send_retries: u32,
    pub(crate) max_in_flight: u32,
    pub(crate) max_in_flight_bytes: u64,
    pub(crate) mode: Option<u32>,
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) segment_size: Option<u64>,
    pub(crate) ring_size: Option<u64>,
    pub(crate) slots: Option<u32>,
    pub(crate) allow_unsafe_filesystem: bool,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) when_full: Option<WhenFull>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: true,
            exist_ok: true,
            read_only: false,
            flush: Flush::Sync,
            flush_interval: Duration::from_millis(10),
            send_timeout: Duration::from_secs(3),
            send_retries: 2,
            max_in_flight: 1024,
            max_in_flight_bytes: 64 << 20,
            mode: None,
            runtime_dir: None,
            segment_size: None,
            ring_size: None,
            slots: None,
            allow_unsafe_filesystem: false,
            max_bytes: None,
            when_full: None,
        }
    }
}

macro_rules! setter {
    ($(#[$doc:meta])* $name:ident: $type:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    };
}

/// An option that the store keeps from when it was made.
macro_rules! stored {
    ($(#[$doc:meta])* $name:ident: $type:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name);
            self
        }
    };
}

impl StoreOptions {
    setter! {
        /// Whether a store is made where there is none (default true).
        create: bool
    }
    setter! {
        /// With false, an existing store is an error (default true).
        exist_ok: bool
    }
    setter! {
        /// Opens the store to look only (default false): counters, topics, groups, browsing, dead
        /// letters, `verify`. No lock is taken, nothing is written, nothing is made; whatever would
        /// change something is `ReadOnly`. It works while others write and on a read-only mount.
        ///
        /// While other processes have the store open, it is seen as it changes; when nobody had it
        /// open, as it was when it was opened. `StoreGone`: the others recovered it meanwhile; open
        /// it again.
        read_only: bool
    }
    setter! {
        /// When sends of this handle are confirmed, unless the topic or the send says otherwise
        /// (default [`Flush::Sync`]).
        flush: Flush
    }
    setter! {
        /// How long an asynchronous send may stay unflushed (default 10 ms; 1 ms to 60 s).
        flush_interval: Duration
    }
    setter! {
        /// The time a send may take over all its attempts (default 3 s).
        send_timeout: Duration
    }
    setter! {
        /// How often a send is tried again within its time after a retriable error (default 2;
        /// 0 to 100). It waits 50 ms before the first of these attempts and twice as long before
        /// each next one. What was appended is never appended again: from then on an attempt only
        /// waits for the disk.
        send_retries: u32
    }
    setter! {
        /// How many asynchronous and one-way sends of this handle can be in flight (default 1024;
        /// 1 to 1 Mi). One is in flight from its call until its result is known and its callbacks
        /// have returned.
        max_in_flight: u32
    }
    setter! {
        /// Bytes of the bodies of all messages in flight (default 64 MiB; at least 1). A larger
        /// body is sent alone.
        max_in_flight_bytes: u64
    }
    stored! {
        /// Permission bits of the store's files (default 0o600), whoever makes them and whatever
        /// the umask; directories get execute where read is set. 0o660 shares a store within a
        /// group: directories then pass their group on (set-group-id), so give the store's
        /// directory that group before anybody else opens it. Kept from when the store was made;
        /// another one later is `ConfigMismatch`.
        mode: u32
    }
    stored! {
        /// Keeps the shared memory of a new store in this directory, not in the store's own: an
        /// absolute path of at most 1,024 bytes, best on tmpfs (`/run/user/1000`, `/dev/shm`). For
        /// file systems where a mapped file can fault: a full btrfs, a network block device. Every
        /// process that opens the store needs the same directory. Kept from when the store was
        /// made; another one later is `ConfigMismatch`.
        ///
        /// What is flushed asynchronously survives the death of every process only while that
        /// directory does.
        runtime_dir: PathBuf
    }
    stored! {
        /// Size of a full-grown log segment of a new store, bytes (default 64 MiB; 16 MiB to
        /// 1 GiB). Kept from when the store was made; another one later is `ConfigMismatch`.
        segment_size: u64
    }
    stored! {
        /// Size of the shared tail ring of a new store, bytes: a power of two (default 8 MiB;
        /// 1 MiB to 256 MiB). The most that can be unflushed. Kept from when the store was made;
        /// another one later is `ConfigMismatch`.
        ring_size: u64
    }
    stored! {
        /// How many messages can be outstanding (leased, waiting for a retry) in a new store at a
        /// time, all groups together (default 65,536; 1,024 to 1 Mi). Kept from when the store was
        /// made; another one later is `ConfigMismatch`.
        slots: u32
    }
    stored! {
        /// The most bytes of bodies that all topics of a new store keep together (default: no
        /// limit); see [`TopicConfig`]. Kept from when the store was made; another one later is
        /// `ConfigMismatch`. [`Store::configure`](crate::Store::configure) changes it.
        max_bytes: u64
    }
    stored! {
        /// What a send does while [`StoreOptions::max_bytes`] has no room for it (default
        /// [`WhenFull::Refuse`]). Kept and changed like that.
        when_full: WhenFull
    }
    setter! {
        /// Opens on a network, FUSE or memory file system all the same: without the guarantees
        /// that such a file system cannot give.
        allow_unsafe_filesystem: bool
    }
}

/// What a store is made with where the options say nothing.
pub(crate) mod made_with {
    pub(crate) const MODE: u32 = 0o600;
    pub(crate) const SEGMENT_SIZE: u64 = 64 << 20;
    pub(crate) const RING_SIZE: u64 = 8 << 20;
    pub(crate) const SLOTS: u32 = 1 << 16;
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "SCREAMING_SNAKE_CASE"))]
pub enum SendStatus {
    /// Stored as durably as asked.
    SendOk,
    /// Appended, but not confirmed on disk in time: the status of a `FlushTimeout`.
    FlushDiskTimeout,
}

impl SendStatus {
    /// The name all languages use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SendOk => "SEND_OK",
            Self::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
        }
    }
}

/// The identity of a message: its first log position. It stays the same through retry and
/// dead-lettering. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct MessageId(pub(crate) u64);

impl MessageId {
    /// The log position.
    #[must_use]
    pub const fn lsn(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(feature = "serde")]
impl From<MessageId> for String {
    fn from(id: MessageId) -> Self {
        id.to_string()
    }
}

#[cfg(feature = "serde")]
impl TryFrom<String> for MessageId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl std::str::FromStr for MessageId {
    type Err = Error;

    /// Reads 16 hexadecimal digits, as it is shown.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::new(
                Code::InvalidArgument,
                format!("{shown:?} is not a message id: it has 16 hexadecimal digits"),
            )
        })
    }
}

/// The result of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Sent {
    /// The message's identity; zero for a duplicate whose result is no longer known.
    pub id: MessageId,
    /// Its sequence in the topic, from 0. None for a duplicate whose result is no longer known.
    pub seq: Option<u64>,
    /// How it ended.
    pub status: SendStatus,
    /// Whether the message was on disk when the call returned.
    pub durable: bool,
    /// Whether a named producer had already sent this sequence: nothing was appended.
    pub duplicate: bool,
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Start {
    /// The earliest message that is kept.
    #[default]
    Earliest,
    /// Messages sent after the group was made.
    Latest,
    /// The message with this sequence.
    Sequence(u64),
    /// The first message in order that was sent at this time or later (milliseconds since 1970, by
    /// its sender's clock). The messages before it are read to find it.
    Time(u64),
}

/// How long a message waits after a failed attempt: `first * factor^(n-1)`, at most `max`, changed
/// by a random part of at most `jitter`; or as RocketMQ has it, [`Backoff::rocketmq`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Backoff {
    /// The wait after the first failure (default 1 s).
    pub first: Duration,
    /// How much longer each next wait is (default 2).
    pub factor: f64,
    /// The longest wait (default 600 s).
    pub max: Duration,
    /// The random part, 0 to 1 (default 0.1).
    pub jitter: f64,
    /// What the waits follow (default [`BackoffKind::Exponential`], which the four are for).
    #[cfg_attr(feature = "serde", serde(default))]
    pub kind: BackoffKind,
}

/// What the waits of a [`Backoff`] follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum BackoffKind {
    /// The numbers of the [`Backoff`].
    #[default]
    Exponential,
    /// [`Backoff::ROCKETMQ`]; the numbers beside it count for nothing.
    Rocketmq,
}

impl Backoff {
    /// RocketMQ's waits: after the first failure the first, and so on; the last again and again.
    pub const ROCKETMQ: [Duration; 16] = {
        let seconds = [
            10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
        ];
        let mut waits = [Duration::ZERO; 16];
        let mut level = 0;
        while level < waits.len() {
            waits[level] = Duration::from_secs(seconds[level]);
            level += 1;
        }
        waits
    };

    /// The waits of [`Backoff::ROCKETMQ`]: 10 s, 30 s, 1 to 10 minutes, 20 and 30 minutes, 1 and
    /// 2 hours. They are exact, as in RocketMQ: without a random part, and never shorter.
    #[must_use]
    pub const fn rocketmq() -> Self {
        Self {
            first: Self::ROCKETMQ[0],
            factor: 1.0,
            max: Self::ROCKETMQ[15],
            jitter: 0.0,
            kind: BackoffKind::Rocketmq,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(600),
            jitter: 0.1,
            kind: BackoffKind::Exponential,
        }
    }
}

/// The options of a group, as they are stored. From [`Group::config`](crate::Group::config).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupConfig {
    /// How long a received message stays leased.
    pub lease: Duration,
    /// Deliveries until a message goes to the dead letters.
    pub max_attempts: u32,
    /// How long a message waits after a failed attempt.
    pub backoff: Backoff,
    /// Whether acks are on disk when they return.
    pub ack_flush: Flush,
    /// The most messages in flight.
    pub max_outstanding: u32,
    /// The tags of the messages it gets, sorted; empty = every message.
    pub tags: Vec<String>,
    /// Whether one message of each order key is in flight at a time.
    pub ordered: bool,
}

/// The options of a topic, as they are stored. From [`Topic::config`](crate::Topic::config).
///
/// Limits are about what the topic *keeps*: all messages from the first on that some group has not
/// settled yet, or that is still retained, and, in a topic without groups, all there are. A message
/// that was settled out of order counts until all before it are. Dead letters do not count. Nothing
/// that is kept is ever dropped for a limit, and no ack, nack or dead letter waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TopicConfig {
    /// The most bytes of bodies that are kept; a body that is larger than that is `LimitExceeded`.
    pub max_bytes: Option<u64>,
    /// The most messages that are kept.
    pub max_messages: Option<u64>,
    /// What a send does while a limit has no room for it (default [`WhenFull::Refuse`]: `Full`, not
    /// stored, after the attempts that the store makes; with [`WhenFull::Wait`] it waits within its
    /// time-out, and then it is `Timeout`).
    pub when_full: WhenFull,
    /// How long after their sending messages are kept although every group has settled them.
    pub retain_age: Option<Duration>,
    /// How many bytes of the last messages are kept although every group has settled them.
    pub retain_bytes: Option<u64>,
}

/// The store's own options, as they are stored. From [`Store::config`](crate::Store::config).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StoreConfig {
    /// The most bytes of bodies that all topics keep together; see [`TopicConfig`].
    pub max_bytes: Option<u64>,
    /// What a send does while that has no room for it.
    pub when_full: WhenFull,
}

/// How a store is repaired.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    /// Only finds out what a repair would do: nothing on the disk is changed.
    pub dry_run: bool,
}
