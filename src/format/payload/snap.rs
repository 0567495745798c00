//! SNAP: the state that replay would need, in bounded pieces.
//!
//! Every item has a type and a length of its own. Types from 128 on may be skipped by a reader
//! that does not know them.

use super::config::{GroupConfig, Kept, TopicConfig, read_name, write_name};
use crate::format::message::MAX_SHORT;
use crate::format::record::{HEADER, MAX_RECORD};
use crate::format::{Bad, Reader, Writer};

const PIECE_HEADER: usize = 24;
const ITEM_HEADER: usize = 4;

const TOPIC: u8 = 1;
const GROUP: u8 = 2;
const OUTSTANDING: u8 = 3;
const COUNTERS: u8 = 5;
const OLDEST: u8 = 16;
const USED: u8 = 18;
const LIMITS: u8 = 19;
const REMOVED: u8 = 20;
const PRODUCER: u8 = 21;
const TAG: u8 = 23;
/// From this type on, a reader that does not know an item skips it.
const SKIPPABLE_ITEM: u8 = 128;

/// One item of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapItem {
    /// A topic.
    Topic {
        /// Its id.
        id: u32,
        /// Its name.
        name: String,
        /// Options of the engine's.
        flags: u32,
        /// The first sequence that is still there.
        first_seq: u64,
        /// The sequence its next message will get.
        next_seq: u64,
    },
    /// A group. Its outstanding messages below `cursor` follow as items of their own.
    Group {
        /// Its id.
        id: u32,
        /// The topic it consumes.
        topic: u32,
        /// Its name.
        name: String,
        /// How it delivers.
        config: GroupConfig,
        /// The next sequence never looked at.
        cursor: u64,
        /// The first sequence it delivers.
        start_seq: u64,
        /// Raised by every seek.
        generation: u32,
        /// Messages lost through damage that its consumers are still to be told of: the first
        /// sequence, and how many.
        lost: (u64, u64),
    },
    /// A message below its group's cursor that is not settled.
    Outstanding {
        /// The group.
        group: u32,
        /// The message's sequence.
        seq: u64,
        /// The message's LSN.
        lsn: u64,
        /// Deliveries so far.
        attempts: u32,
        /// How many of them ended by the death of their process.
        crashes: u32,
        /// When the next one is due, in ms since 1970; 0 = at once.
        due_ms: u64,
    },
    /// A named producer.
    Producer {
        /// Its name.
        name: String,
        /// The epoch of its last handle.
        epoch: u32,
        /// The sequence it sends next.
        last_seq_plus_1: u64,
        /// LSN of its last message; 0 = none.
        last_lsn: u64,
        /// When it was last used, in ms since 1970.
        used_ms: u64,
        /// Whether some process has it open.
        open: bool,
        /// The results of its last sends, at most [`RESULTS`], ending with that of the last one.
        results: Vec<SendResult>,
    },
    /// Numbers that are never used twice.
    Counters {
        /// The id the next topic will get.
        next_topic_id: u32,
        /// The id the next group will get.
        next_group_id: u32,
    },
    /// Dead letters that were purged, above the first sequence of their stream.
    Removed {
        /// The group whose dead letters they were.
        group: u32,
        /// The first of their sequences in the group's dead-letter stream.
        first: u64,
        /// How many sequences.
        count: u64,
    },
    /// An id whose topic or group was deleted: the last one at its place in the table.
    Used {
        /// Whether it was a group's.
        group: bool,
        /// The id.
        id: u32,
    },
    /// One of the tags of a group.
    Tag {
        /// The group.
        group: u32,
        /// The version of its tags that this one belongs to.
        version: u32,
        /// The tag.
        tag: String,
    },
    /// The options of a topic, and what it keeps; or of the store.
    Limits {
        /// The topic; [`SnapItem::STORE`] = the store.
        topic: u32,
        /// Its options; the store has max_bytes and flags.
        options: TopicConfig,
        /// What it keeps; nothing is noted of the store.
        kept: Kept,
    },
    /// Which segments are kept.
    Oldest {
        /// Number of the first.
        number: u32,
    },
}

/// What a numbered send was answered with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SendResult {
    /// The message's id, plus 1 if it is the first of several chunks; 0 = it is not known.
    pub(crate) place: u64,
    /// The message's sequence in its topic.
    pub(crate) seq: u64,
}

/// Most results that are kept of a producer.
pub(crate) const RESULTS: usize = 64;

impl SnapItem {
    /// Stands for the store where a topic is named.
    pub(crate) const STORE: u32 = u32::MAX;

    /// Appends type, length and value.
    fn write(&self, w: &mut Writer<'_>) {
        let mut value = Vec::new();
        let kind = self.write_value(&mut Writer::new(&mut value));
        w.u8(kind)
            .u8(0)
            .u16(u16::try_from(value.len()).unwrap_or(u16::MAX))
            .bytes(&value);
    }

    /// Appends the value and returns its type.
    fn write_value(&self, v: &mut Writer<'_>) -> u8 {
        match self {
            Self::Topic {
                id,
                name,
                flags,
                first_seq,
                next_seq,
            } => {
                v.u32(*id).u32(*flags).u64(*first_seq).u64(*next_seq);
                write_name(v, name);
                TOPIC
            }
            Self::Group {
                id,
                topic,
                name,
                config,
                cursor,
                start_seq,
                generation,
                lost,
            } => {
                v.u32(*id)
                    .u32(*topic)
                    .u32(*generation)
                    .zeros(4)
                    .u64(*cursor)
                    .u64(*start_seq)
                    .u64(lost.0)
                    .u64(lost.1);
                config.write(v);
                write_name(v, name);
                GROUP
            }
            Self::Outstanding {
                group,
                seq,
                lsn,
                attempts,
                crashes,
                due_ms,
            } => {
                v.u32(*group).u32(*attempts).u32(*crashes).zeros(4);
                v.u64(*seq).u64(*lsn).u64(*due_ms);
                OUTSTANDING
            }
            Self::Producer {
                name,
                epoch,
                last_seq_plus_1,
                last_lsn,
                used_ms,
                open,
                results,
            } => {
                v.u32(*epoch).u32(u32::from(*open));
                v.u64(*last_seq_plus_1).u64(*last_lsn).u64(*used_ms);
                v.u32(u32::try_from(results.len()).unwrap_or(u32::MAX))
                    .zeros(4);
                for result in results {
                    v.u64(result.place).u64(result.seq);
                }
                write_name(v, name);
                PRODUCER
            }
            other => other.write_small(v),
        }
    }

    /// The small ones.
    fn write_small(&self, v: &mut Writer<'_>) -> u8 {
        match self {
            Self::Counters {
                next_topic_id,
                next_group_id,
            } => {
                v.u32(*next_topic_id).u32(*next_group_id);
                COUNTERS
            }
            Self::Removed {
                group,
                first,
                count,
            } => {
                v.u32(*group).zeros(4).u64(*first).u64(*count);
                REMOVED
            }
            Self::Used { group, id } => {
                v.u32(u32::from(*group)).u32(*id);
                USED
            }
            Self::Limits {
                topic,
                options,
                kept,
            } => {
                v.u32(*topic).zeros(4);
                options.write(v);
                kept.write(v);
                LIMITS
            }
            Self::Oldest { number } => {
                v.u32(*number);
                OLDEST
            }
            Self::Tag {
                group,
                version,
                tag,
            } => {
                v.u32(*group).u32(*version).text(tag, MAX_SHORT);
                TAG
            }
            // All others are written by `write_value`.
            _ => 0,
        }
    }

    /// The item of this type, `None` when it is unknown and may be skipped.
    fn decode(kind: u8, value: &[u8]) -> Result<Option<SnapItem>, Bad> {
        let mut r = Reader::new(value);
        let item = match kind {
            TOPIC => {
                let (id, flags, first_seq, next_seq) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
                Self::Topic {
                    id,
                    name: read_name(&mut r)?,
                    flags,
                    first_seq,
                    next_seq,
                }
            }
            GROUP => Self::read_group(&mut r)?,
            OUTSTANDING => {
                let (group, attempts, crashes) = (r.u32()?, r.u32()?, r.u32()?);
                r.zeros(4)?;
                let (seq, lsn, due_ms) = (r.u64()?, r.u64()?, r.u64()?);
                Self::Outstanding {
                    group,
                    seq,
                    lsn,
                    attempts,
                    crashes,
                    due_ms,
                }
            }
            PRODUCER => Self::read_producer(&mut r)?,
            COUNTERS => Self::Counters {
                next_topic_id: r.u32()?,
                next_group_id: r.u32()?,
            },
            OLDEST => Self::Oldest { number: r.u32()? },
            USED => Self::Used {
                group: match r.u32()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Bad::Value),
                },
                id: r.u32()?,
            },
            LIMITS => {
                let topic = r.u32()?;
                r.zeros(4)?;
                Self::Limits {
                    topic,
                    options: TopicConfig::read(&mut r)?,
                    kept: Kept::read(&mut r)?,
                }
            }
            REMOVED => Self::read_removed(&mut r)?,
            TAG => Self::Tag {
                group: r.u32()?,
                version: r.u32()?,
                tag: r.text(MAX_SHORT)?.to_owned(),
            },
            SKIPPABLE_ITEM.. => return Ok(None),
            _ => return Err(Bad::Kind),
        };
        r.end()?;
        Ok(Some(item))
    }

    fn read_removed(r: &mut Reader<'_>) -> Result<SnapItem, Bad> {
        let group = r.u32()?;
        r.zeros(4)?;
        let (first, count) = (r.u64()?, r.u64()?);
        if count == 0 || first.checked_add(count).is_none() {
            return Err(Bad::Value);
        }
        Ok(Self::Removed {
            group,
            first,
            count,
        })
    }

    fn read_producer(r: &mut Reader<'_>) -> Result<SnapItem, Bad> {
        let (epoch, flags) = (r.u32()?, r.u32()?);
        let (last_seq_plus_1, last_lsn, used_ms) = (r.u64()?, r.u64()?, r.u64()?);
        let count = r.u32()?;
        r.zeros(4)?;
        if flags > 1 || count as usize > RESULTS || u64::from(count) > last_seq_plus_1 {
            return Err(Bad::Value);
        }
        let mut results = Vec::new();
        for _ in 0..count {
            let (place, seq) = (r.u64()?, r.u64()?);
            results.push(SendResult { place, seq });
        }
        Ok(Self::Producer {
            name: read_name(r)?,
            epoch,
            last_seq_plus_1,
            last_lsn,
            used_ms,
            open: flags == 1,
            results,
        })
    }

    fn read_group(r: &mut Reader<'_>) -> Result<SnapItem, Bad> {
        let (id, topic, generation) = (r.u32()?, r.u32()?, r.u32()?);
        r.zeros(4)?;
        let (cursor, start_seq) = (r.u64()?, r.u64()?);
        let lost = (r.u64()?, r.u64()?);
        let config = GroupConfig::read(r)?;
        let name = read_name(r)?;
        Ok(Self::Group {
            id,
            topic,
            name,
            config,
            cursor,
            start_seq,
            generation,
            lost,
        })
    }
}

/// Collects items into pieces of bounded size.
#[derive(Debug)]
pub(crate) struct SnapWriter {
    items: Vec<u8>,
    count: u32,
    piece: u32,
    limit: usize,
}

impl SnapWriter {
    /// Pieces will have bodies of at most `limit` bytes; every item fits into 2 KiB.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.clamp(2 << 10, MAX_RECORD - HEADER);
        Self {
            items: Vec::new(),
            count: 0,
            piece: 0,
            limit,
        }
    }

    /// Adds an item; `false`, and nothing added, when the piece is full: [`SnapWriter::take`] it,
    /// then push again.
    #[must_use]
    pub(crate) fn push(&mut self, item: &SnapItem) -> bool {
        let before = self.items.len();
        item.write(&mut Writer::new(&mut self.items));
        if PIECE_HEADER + self.items.len() > self.limit {
            self.items.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }

    /// Whether nothing was pushed since the last piece was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of the piece that is being filled, from 0.
    pub(crate) fn piece(&self) -> u32 {
        self.piece
    }

    /// The body of the piece, which may be without items; the next one is begun. `first_lsn` is
    /// where the first piece was appended, 0 for that one itself.
    pub(crate) fn take(&mut self, first_lsn: u64, last: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(PIECE_HEADER + self.items.len());
        let mut w = Writer::new(&mut out);
        w.u64(first_lsn)
            .u32(self.piece)
            .u32(self.count)
            .u8(u8::from(last))
            .zeros(7);
        w.bytes(&self.items);
        self.items.clear();
        self.count = 0;
        self.piece += 1;
        out
    }
}

/// How a piece belongs to its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapHead {
    /// LSN of the first piece; 0 in the first itself.
    pub(crate) first_lsn: u64,
    /// The piece's number, from 0.
    pub(crate) piece: u32,
    /// Whether the snapshot is complete with it.
    pub(crate) last: bool,
    /// Number of items in the piece.
    pub(crate) count: u32,
}

impl SnapHead {
    /// Reads the head of a body.
    pub(crate) fn decode(body: &[u8]) -> Result<SnapHead, Bad> {
        Self::read(&mut Reader::new(body))
    }

    fn read(r: &mut Reader<'_>) -> Result<SnapHead, Bad> {
        let (first_lsn, piece, count) = (r.u64()?, r.u32()?, r.u32()?);
        let last = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Bad::Value),
        };
        r.zeros(7)?;
        if (piece == 0) != (first_lsn == 0) {
            return Err(Bad::Value);
        }
        Ok(SnapHead {
            first_lsn,
            piece,
            last,
            count,
        })
    }
}

/// A whole piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapPiece {
    /// How it belongs to its snapshot.
    pub(crate) head: SnapHead,
    /// Its items, without those that were unknown and could be skipped.
    pub(crate) items: Vec<SnapItem>,
}

impl SnapPiece {
    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<SnapPiece, Bad> {
        let mut r = Reader::new(body);
        let head = SnapHead::read(&mut r)?;
        let mut items = Vec::new();
        for _ in 0..head.count {
            let kind = r.u8()?;
            r.zeros(1)?;
            let len = usize::from(r.u16()?);
            items.extend(SnapItem::decode(kind, r.bytes(len)?)?);
        }
        r.end()?;
        Ok(SnapPiece { head, items })
    }
}

/// The items of a piece, from its body.
pub(crate) fn decode_items(body: &[u8]) -> Result<Vec<SnapItem>, Bad> {
    Ok(SnapPiece::decode(body)?.items)
}

const _: () = assert!(PIECE_HEADER + ITEM_HEADER + 48 + 48 + 2 + 255 < 2 << 10);
const _: () = assert!(PIECE_HEADER + ITEM_HEADER + 40 + 16 * RESULTS + 2 + 255 < 2 << 10);
