//! What a store tells of itself: what an open found, counters, findings and repairs.

use std::time::Duration;

use crate::options::MessageId;

/// What opening the store found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RecoveryReport {
    /// The store was made by this call.
    pub created: bool,
    /// Other processes had it open: nothing to recover.
    pub joined: bool,
    /// Shared memory of this boot was intact and taken over (else the log was scanned).
    pub warm: bool,
    /// Records replayed from the log.
    pub records: u64,
    /// Bytes of an unfinished tail that were cut: never confirmed durable.
    pub cut_bytes: u64,
    /// Bytes that had been durable and are damaged (see [`crate::Store::verify`]).
    pub damaged_bytes: u64,
    /// The end of what was recovered, as a log position.
    pub end: u64,
    /// One sentence per finding, for people.
    pub notes: Vec<String>,
}

/// Counters of a store. See [`crate::Store::stats`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StoreStats {
    /// Log position after the last record.
    pub tail: u64,
    /// Log position below which everything is on disk.
    pub durable: u64,
    /// Bytes of the log files.
    pub disk_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Processes that have the store open.
    pub members: u64,
    /// Messages outstanding in all groups.
    pub outstanding: u64,
    /// Flushes done by any process since shared memory was made.
    pub flushes: u64,
    /// One-way sends of this handle and its clones that failed.
    pub oneway_failed: u64,
    /// What keeps the oldest part of the log on disk; `None`: nothing does.
    pub pin: Option<Pin>,
    /// One entry a topic, by name.
    pub topics: Vec<TopicStats>,
    /// One entry a group, by topic and name.
    pub groups: Vec<GroupStats>,
}

/// Counters of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TopicStats {
    /// Its name.
    pub name: String,
    /// Sequence of the earliest kept message.
    pub first_seq: u64,
    /// Sequence the next message gets.
    pub next_seq: u64,
    /// How many groups it has.
    pub groups: u64,
    /// What of it keeps most of the log on disk: for one of its groups, or, without groups, for
    /// those to come. `None`: nothing does.
    pub pin: Option<Pin>,
    /// Messages that it keeps, and bytes of their bodies, as last counted: only in topics that have
    /// a limit or retain something, and where the store has a limit. What was settled since is in
    /// it: it is counted off when somebody wants the room.
    pub kept: Option<(u64, u64)>,
}

/// Counters of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GroupStats {
    /// Its topic.
    pub topic: String,
    /// Its name.
    pub name: String,
    /// Messages that can be received now, those not looked at yet included.
    pub ready: u64,
    /// Messages leased to a consumer.
    pub in_flight: u64,
    /// Messages waiting for their back-off to end.
    pub delayed: u64,
    /// Messages waiting behind another one with the same order key.
    pub parked: u64,
    /// Sequences from the cursor to the end of the topic: at most so many were never looked at.
    pub lag: u64,
    /// Dead letters.
    pub dead: u64,
    /// Sequence of the next message never looked at.
    pub cursor: u64,
    /// How long ago the oldest message was sent that the group has not settled: that with the
    /// lowest sequence, also one that a filter is still to skip; of dead letters that are consumed,
    /// how long ago it was given up. By the system's clocks here and where it was sent. `None`:
    /// there is none, or it cannot be read.
    pub oldest_age: Option<Duration>,
    /// How many members have the group open: opened stores, in all processes. One that died is
    /// counted until somebody has cleaned up after it (0.1 s), those that look only are not.
    pub consumers: u64,
    /// What of it keeps most of the log on disk; `None`: nothing does.
    pub pin: Option<Pin>,
}

/// A message that keeps a part of the log on disk. Segments are given back from the oldest on, so
/// a message keeps the one it lies in and all behind it. (Where little is live, it is copied
/// forward, and the segments go.)
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pin {
    /// Its topic.
    pub topic: String,
    /// The group that needs it; `None`: the topic has no groups, so all its messages are kept.
    pub group: Option<String>,
    /// Why it is needed.
    pub kind: PinKind,
    /// Its sequence in the topic; of a dead letter, among the group's dead letters.
    pub seq: u64,
    /// Its identity.
    pub id: MessageId,
    /// Bytes of the log's files that could go at most if it were not needed.
    pub bytes: u64,
}

/// Why a message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum PinKind {
    /// The group has not come to it yet.
    Unread,
    /// It was delivered, and is leased, waits for its back-off or for another delivery.
    Outstanding,
    /// It is a dead letter that was not purged.
    DeadLetter,
    /// Its topic has no groups.
    Kept,
}

impl std::fmt::Display for PinKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unread => "unread",
            Self::Outstanding => "outstanding",
            Self::DeadLetter => "dead",
            Self::Kept => "kept",
        })
    }
}

/// One defect found by [`crate::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Finding {
    /// File, relative to the store.
    pub file: String,
    /// Byte offset in the file.
    pub position: u64,
    /// How many bytes are concerned; 0 if not known.
    pub length: u64,
    /// What is wrong, one sentence.
    pub reason: String,
    /// Whether it is damage of what had been durable (else it is only worth knowing).
    pub damage: bool,
    /// Whether it was damage that a [`crate::repair()`] has dealt with: what it took is lost, its
    /// groups are told of it, and the log says so.
    pub known: bool,
}

/// Messages that damage took.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LostMessages {
    /// Their topic.
    pub topic: String,
    /// The first of their sequences.
    pub first_seq: u64,
    /// How many sequences.
    pub count: u64,
}

/// The result of [`crate::repair()`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RepairReport {
    /// What was found before.
    pub before: VerifyReport,
    /// What was done, or would be done, one sentence each, in order. Empty: nothing needed repair.
    pub actions: Vec<String>,
    /// Messages that are gone. Each group that had not settled them is told once, by a receive that
    /// ends with `Corrupt`.
    pub lost: Vec<LostMessages>,
    /// What else is not known any more: names of topics, where groups stood.
    pub lost_state: Vec<String>,
    /// Copies of damaged files as they were, and files that are no part of the log any more,
    /// relative to the store.
    pub quarantined: Vec<String>,
    /// What is found afterwards. What is lost for good is [`Finding::known`] and no damage.
    pub after: VerifyReport,
}

impl RepairReport {
    /// Whether the store is in order afterwards.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.after.is_ok()
    }
}

/// The result of [`crate::verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Records checked.
    pub records: u64,
    /// Messages among them.
    pub messages: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether nothing that had been durable is damaged.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        !self.findings.iter().any(|f| f.damage)
    }
}
