//! CONFIG and PRODUCER: what exists in the store and how it is set.

use crate::format::message::MAX_SHORT;
use crate::format::name::{MAX_NAME, is_storable};
use crate::format::{Bad, Reader, Writer};

const TOPIC_CREATE: u8 = 1;
const GROUP_CREATE: u8 = 2;
const TOPIC_DELETE: u8 = 3;
const GROUP_DELETE: u8 = 4;
const GROUP_CONFIGURE: u8 = 5;
const TOPIC_PURGE: u8 = 6;
const TOPIC_CONFIGURE: u8 = 7;
const STORE_CONFIGURE: u8 = 8;
const PRODUCER_DROP: u8 = 9;
const GROUP_TAGS: u8 = 10;
const RECLAIM: u8 = 16;

/// The most tags that a group can have.
pub(crate) const MAX_TAGS: usize = 16;

/// The options of a group, as they are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct GroupConfig {
    /// How long a lease lasts, in ms.
    pub(crate) lease_ms: u64,
    /// Deliveries before a message becomes a dead letter.
    pub(crate) max_attempts: u32,
    /// Wait before the second delivery, in ms.
    pub(crate) backoff_first_ms: u64,
    /// Factor from one wait to the next, in thousandths.
    pub(crate) backoff_factor_milli: u32,
    /// The longest wait, in ms.
    pub(crate) backoff_max_ms: u64,
    /// Random part of a wait, in thousandths of it.
    pub(crate) backoff_jitter_milli: u32,
    /// [`GroupConfig::SYNC_ACK`], [`GroupConfig::ORDERED`], [`GroupConfig::BROADCAST`],
    /// [`GroupConfig::ROCKETMQ`], [`GroupConfig::UNNAMED`].
    pub(crate) flags: u32,
    /// The most messages in flight; 0 = the store's limit.
    pub(crate) max_outstanding: u32,
}

impl GroupConfig {
    /// Flag: an ack is on disk when it returns.
    pub(crate) const SYNC_ACK: u32 = 1;
    /// Flag: one message in flight per order key.
    pub(crate) const ORDERED: u32 = 2;
    /// Flag: each named consumer gets every message.
    pub(crate) const BROADCAST: u32 = 4;
    /// Flag: the waits are RocketMQ's; the numbers of the back-off are its first and last, the
    /// factor 1 and no jitter.
    pub(crate) const ROCKETMQ: u32 = 8;
    /// Flag, with [`GroupConfig::BROADCAST`]: the group ends with the member that has it open.
    pub(crate) const UNNAMED: u32 = 16;
    const FLAGS: u32 =
        Self::SYNC_ACK | Self::ORDERED | Self::BROADCAST | Self::ROCKETMQ | Self::UNNAMED;
    const SIZE: usize = 48;

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        let start = w.len();
        w.u64(self.lease_ms)
            .u64(self.backoff_first_ms)
            .u64(self.backoff_max_ms);
        w.u32(self.max_attempts)
            .u32(self.backoff_factor_milli)
            .u32(self.backoff_jitter_milli);
        w.u32(self.flags).u32(self.max_outstanding).zeros(4);
        debug_assert_eq!(w.len() - start, Self::SIZE);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<GroupConfig, Bad> {
        let mut r = Reader::new(r.bytes(Self::SIZE)?);
        let lease_ms = r.u64()?;
        let backoff_first_ms = r.u64()?;
        let backoff_max_ms = r.u64()?;
        let config = GroupConfig {
            lease_ms,
            backoff_first_ms,
            backoff_max_ms,
            max_attempts: r.u32()?,
            backoff_factor_milli: r.u32()?,
            backoff_jitter_milli: r.u32()?,
            flags: r.u32()?,
            max_outstanding: r.u32()?,
        };
        r.zeros(4)?;
        let alone = config.flags & (Self::BROADCAST | Self::UNNAMED) == Self::UNNAMED;
        if config.flags & !Self::FLAGS != 0 || alone {
            return Err(Bad::Value);
        }
        Ok(config)
    }
}

/// The options of a topic, as they are stored. 0 = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct TopicConfig {
    /// The most bytes of bodies that are kept.
    pub(crate) max_bytes: u64,
    /// The most messages that are kept.
    pub(crate) max_messages: u64,
    /// How long messages are kept after everybody has settled them, in ms since they were sent.
    pub(crate) retain_ms: u64,
    /// How many bytes of the last messages are kept though everybody has settled them.
    pub(crate) retain_bytes: u64,
    /// [`TopicConfig::BLOCK`].
    pub(crate) flags: u32,
}

impl TopicConfig {
    /// Flag: senders wait when there is no room.
    pub(crate) const BLOCK: u32 = 1;

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.max_bytes).u64(self.max_messages);
        w.u64(self.retain_ms).u64(self.retain_bytes);
        w.u32(self.flags).zeros(4);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        let options = Self {
            max_bytes: r.u64()?,
            max_messages: r.u64()?,
            retain_ms: r.u64()?,
            retain_bytes: r.u64()?,
            flags: r.u32()?,
        };
        r.zeros(4)?;
        Ok(options)
    }
}

/// What a topic keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Kept {
    /// The first sequence.
    pub(crate) from: u64,
    /// Messages from there on.
    pub(crate) count: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
}

impl Kept {
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.u64(self.from).u64(self.count).u64(self.bytes);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Bad> {
        Ok(Self {
            from: r.u64()?,
            count: r.u64()?,
            bytes: r.u64()?,
        })
    }
}

pub(super) fn write_name(w: &mut Writer<'_>, name: &str) {
    debug_assert!(
        is_storable(name),
        "names are checked before they are stored"
    );
    w.text(name, MAX_NAME);
}

pub(super) fn read_name(r: &mut Reader<'_>) -> Result<String, Bad> {
    let name = r.text(MAX_NAME)?;
    if is_storable(name) {
        Ok(name.to_owned())
    } else {
        Err(Bad::Value)
    }
}

/// CONFIG: a topic or group was created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Config {
    /// A topic was created.
    TopicCreate {
        /// Its id, never used before.
        id: u32,
        /// Its name.
        name: String,
        /// Options of the engine's.
        flags: u32,
        /// The sequence of its first message.
        first_seq: u64,
    },
    /// A group was created.
    GroupCreate {
        /// Its id, never used before.
        id: u32,
        /// The topic it consumes.
        topic: u32,
        /// Its name.
        name: String,
        /// How it delivers.
        options: GroupConfig,
        /// The first sequence it delivers.
        start_seq: u64,
    },
    /// A topic was deleted, with its groups.
    TopicDelete {
        /// Its id.
        id: u32,
    },
    /// A group was deleted.
    GroupDelete {
        /// Its id.
        id: u32,
    },
    /// A group's options were changed.
    GroupConfigure {
        /// Its id.
        id: u32,
        /// All of its options from now on.
        options: GroupConfig,
    },
    /// A topic's messages were dropped.
    TopicPurge {
        /// Its id.
        id: u32,
        /// The first sequence that is still there.
        first_seq: u64,
    },
    /// A topic's options were changed, or what it keeps was counted off.
    TopicConfigure {
        /// Its id.
        id: u32,
        /// All of its options from now on.
        options: TopicConfig,
        /// What it keeps.
        kept: Kept,
    },
    /// The store's options were changed.
    StoreConfigure {
        /// The most bytes of bodies that all topics keep; 0 = no limit.
        max_bytes: u64,
        /// [`TopicConfig::BLOCK`].
        flags: u32,
    },
    /// A named producer that was not used for long made room for another.
    ProducerDrop {
        /// Its name.
        name: String,
    },
    /// The tags of the messages that a group gets.
    GroupTags {
        /// Its id.
        id: u32,
        /// Raised by every change of its tags.
        version: u32,
        /// All of them; none = every message.
        tags: Vec<String>,
    },
    /// All segments before this one are needed no more and may be gone.
    Reclaim {
        /// Number of the first segment that is kept.
        first: u32,
    },
}

impl Config {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        match self {
            Self::TopicCreate {
                id,
                name,
                flags,
                first_seq,
            } => {
                w.u8(TOPIC_CREATE)
                    .zeros(3)
                    .u32(*id)
                    .u32(*flags)
                    .zeros(4)
                    .u64(*first_seq);
                write_name(&mut w, name);
            }
            Self::GroupCreate {
                id,
                topic,
                name,
                options,
                start_seq,
            } => {
                w.u8(GROUP_CREATE)
                    .zeros(3)
                    .u32(*id)
                    .u32(*topic)
                    .zeros(4)
                    .u64(*start_seq);
                options.write(&mut w);
                write_name(&mut w, name);
            }
            Self::TopicDelete { id } => {
                w.u8(TOPIC_DELETE).zeros(3).u32(*id);
            }
            Self::GroupDelete { id } => {
                w.u8(GROUP_DELETE).zeros(3).u32(*id);
            }
            Self::GroupConfigure { id, options } => {
                w.u8(GROUP_CONFIGURE).zeros(3).u32(*id);
                options.write(&mut w);
            }
            Self::TopicPurge { id, first_seq } => {
                w.u8(TOPIC_PURGE).zeros(3).u32(*id).u64(*first_seq);
            }
            other => other.encode_change(&mut w),
        }
        out
    }

    /// Those that tell of limits, tags, names and reclaim.
    fn encode_change(&self, w: &mut Writer<'_>) {
        match self {
            Self::TopicConfigure { id, options, kept } => {
                w.u8(TOPIC_CONFIGURE).zeros(3).u32(*id);
                options.write(w);
                kept.write(w);
            }
            Self::StoreConfigure { max_bytes, flags } => {
                w.u8(STORE_CONFIGURE).zeros(7);
                w.u64(*max_bytes).u32(*flags).zeros(4);
            }
            Self::ProducerDrop { name } => {
                w.u8(PRODUCER_DROP).zeros(3).u32(0);
                write_name(w, name);
            }
            Self::GroupTags { id, version, tags } => {
                w.u8(GROUP_TAGS).zeros(3).u32(*id).u32(*version);
                w.u32(u32::try_from(tags.len()).unwrap_or(u32::MAX));
                tags.iter().for_each(|tag| {
                    w.text(tag, MAX_SHORT);
                });
            }
            Self::Reclaim { first } => {
                w.u8(RECLAIM).zeros(3).u32(*first);
            }
            // All others are written by `encode`.
            _ => {}
        }
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Config, Bad> {
        let mut r = Reader::new(body);
        let operation = r.u8()?;
        r.zeros(3)?;
        let id = r.u32()?;
        let config = match operation {
            TOPIC_CREATE => {
                let flags = r.u32()?;
                r.zeros(4)?;
                let first_seq = r.u64()?;
                Self::TopicCreate {
                    id,
                    name: read_name(&mut r)?,
                    flags,
                    first_seq,
                }
            }
            GROUP_CREATE => {
                let topic = r.u32()?;
                r.zeros(4)?;
                let start_seq = r.u64()?;
                let options = GroupConfig::read(&mut r)?;
                Self::GroupCreate {
                    id,
                    topic,
                    name: read_name(&mut r)?,
                    options,
                    start_seq,
                }
            }
            TOPIC_DELETE => Self::TopicDelete { id },
            GROUP_DELETE => Self::GroupDelete { id },
            GROUP_CONFIGURE => Self::GroupConfigure {
                id,
                options: GroupConfig::read(&mut r)?,
            },
            TOPIC_PURGE => Self::TopicPurge {
                id,
                first_seq: r.u64()?,
            },
            TOPIC_CONFIGURE => Self::TopicConfigure {
                id,
                options: TopicConfig::read(&mut r)?,
                kept: Kept::read(&mut r)?,
            },
            STORE_CONFIGURE if id == 0 => {
                let (max_bytes, flags) = (r.u64()?, r.u32()?);
                r.zeros(4)?;
                Self::StoreConfigure { max_bytes, flags }
            }
            STORE_CONFIGURE => return Err(Bad::Value),
            PRODUCER_DROP if id == 0 => Self::ProducerDrop {
                name: read_name(&mut r)?,
            },
            GROUP_TAGS => Self::read_tags(id, &mut r)?,
            RECLAIM => Self::Reclaim { first: id },
            _ => return Err(Bad::Kind),
        };
        r.end()?;
        Ok(config)
    }

    fn read_tags(id: u32, r: &mut Reader<'_>) -> Result<Config, Bad> {
        let (version, count) = (r.u32()?, r.u32()?);
        if usize::try_from(count).map_or(true, |count| count > MAX_TAGS) {
            return Err(Bad::Length);
        }
        let tags = (0..count).map(|_| r.text(MAX_SHORT).map(str::to_owned));
        Ok(Self::GroupTags {
            id,
            version,
            tags: tags.collect::<Result<_, _>>()?,
        })
    }
}

/// PRODUCER: a named producer was opened, which fences its earlier handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProducerOpen {
    /// Its name.
    pub(crate) name: String,
    /// The epoch of the new handle.
    pub(crate) epoch: u32,
    /// When it was opened, in ms since 1970.
    pub(crate) opened_ms: u64,
}

impl ProducerOpen {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.u32(self.epoch).zeros(4).u64(self.opened_ms);
        write_name(&mut w, &self.name);
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<ProducerOpen, Bad> {
        let mut r = Reader::new(body);
        let epoch = r.u32()?;
        r.zeros(4)?;
        let opened_ms = r.u64()?;
        let name = read_name(&mut r)?;
        r.end()?;
        Ok(ProducerOpen {
            name,
            epoch,
            opened_ms,
        })
    }
}
