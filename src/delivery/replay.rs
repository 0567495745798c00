//! The delivery state as the log tells it, for recovery when shared memory is gone.
//!
//! Every effect is absolute, so that records both inside and behind a snapshot may be seen twice:
//! counters only rise, attempts are set, an ack of a sequence that is not outstanding does
//! nothing. What was leased at the end of the log was never noted; after recovery every sequence
//! below a group's cursor that nothing settled is ready again.

mod changes;
mod install;

use std::collections::BTreeMap;

use super::fetch;
use super::producers::{self, Noted};
use super::progress::{self, Group};
use crate::error::Result;
use crate::format::Bad;
use crate::format::message::Meta;
use crate::format::payload::{
    self, Ack, Config, Gap, Kept, Loss, Moved, ProducerOpen, Release, Retry, SnapItem, SnapPiece,
    TopicConfig,
};
use crate::format::record::{Kind, Record};

/// A topic in the log.
#[derive(Debug, Default, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(super) flags: u32,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Its options and what it keeps, if that is counted.
    pub(super) limits: Option<(TopicConfig, Kept)>,
}

/// The state that a replay of the log builds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Model {
    /// First LSN of the snapshot that replay starts from; 0 = from the beginning of the log.
    snap: u64,
    pub(crate) snap_complete: bool,
    /// The number of its next piece, as long as none is missing.
    next_piece: Option<u32>,
    pub(crate) topics: BTreeMap<u32, Topic>,
    pub(super) groups: BTreeMap<u32, Group>,
    producers: BTreeMap<String, producers::InLog>,
    /// By how much sequences jump at the start of each epoch.
    pub(super) jump: u64,
    pub(crate) records: u64,
    /// The oldest segment that the log says is kept; 0 = it says nothing.
    pub(crate) oldest: u64,
    /// The store's limit and flags.
    store: (u64, u32),
    /// Dead letters that were purged: per group, ranges of its dead-letter stream, first to end.
    /// Kept apart from the groups: a removal may be seen before its group is.
    removed: BTreeMap<u32, BTreeMap<u64, u64>>,
    /// The last ids that are known to be used at each place of the tables, of topics (false) and
    /// groups (true): of those that were deleted, and of those that only their records tell of.
    pub(super) used: BTreeMap<(bool, u32), u32>,
    /// Sequences that are missing between records and that no LOSS record names yet.
    pub(crate) gaps: Vec<Gap>,
    /// Of a salvage: what was not to be had.
    pub(crate) salvage: Option<super::salvage::Salvage>,
}

impl Model {
    /// An empty state, to be replayed from the snapshot at `snap` (0: from the beginning).
    pub(crate) fn new(snap: u64, jump: u64) -> Self {
        Self {
            snap,
            next_piece: Some(0),
            jump,
            ..Self::default()
        }
    }

    /// Goes over to what the log tells from a later snapshot on, which is whole by now. What was
    /// missing before it is still to be told.
    pub(crate) fn go_on_with(&mut self, later: Self) {
        let before = std::mem::replace(self, later);
        self.gaps = before.gaps;
        for (&stream, topic) in &self.topics {
            // Messages that damage took, and nothing behind them came before the snapshot.
            let known = before.topics.get(&stream);
            let first = known.map_or(u64::MAX, |known| known.next.max(topic.first));
            if first < topic.next {
                let count = topic.next - first;
                self.gaps.push(Gap {
                    stream,
                    first,
                    count,
                });
            }
        }
        self.records = before.records;
        self.oldest = self.oldest.max(before.oldest);
        for ((group, _), id) in before.used {
            self.use_id(group, id);
        }
    }

    /// The first LSN to replay.
    pub(crate) fn snap(&self) -> u64 {
        self.snap
    }

    /// A segment begins that starts a new epoch: no sequence of before is used again.
    pub(crate) fn jump(&mut self) {
        for topic in self.topics.values_mut() {
            topic.next += self.jump;
        }
    }

    /// The sequence after a topic's last message, once [`Model::jump`] has made room behind it.
    pub(crate) fn next_before_jump(&self, topic: &Topic) -> u64 {
        topic.next.saturating_sub(self.jump)
    }

    /// Applies a record that stands at `lsn`.
    pub(crate) fn apply(&mut self, lsn: u64, record: &Record<'_>) -> Result<(), Bad> {
        self.records += 1;
        let header = &record.header;
        let Some(kind) = header.kind()? else {
            return Ok(());
        };
        if kind == Kind::Batch {
            // Wholly or not at all: look at every part before applying any.
            let parts: Vec<_> = payload::iter(record.body).collect::<Result<_, Bad>>()?;
            for part in parts {
                if let Some(kind) = part.kind()? {
                    let at = (lsn, part.stream, part.seq);
                    self.apply_one(kind, at, part.ext, part.body)?;
                }
            }
            return Ok(());
        }
        self.apply_one(
            kind,
            (lsn, header.stream, header.seq),
            record.ext,
            record.body,
        )
    }

    fn apply_one(
        &mut self,
        kind: Kind,
        (lsn, stream, seq): (u64, u32, u64),
        ext: &[u8],
        body: &[u8],
    ) -> Result<(), Bad> {
        match kind {
            Kind::Msg => {
                let meta = Meta::decode(ext)?;
                self.count(stream, seq, fetch::body_len(&meta, body));
                self.numbered((lsn, seq), &meta);
                self.advance(stream, seq);
            }
            Kind::Release => {
                Release::decode(body)?;
                self.advance(stream, seq);
            }
            Kind::Ack => self.settle(stream, &Ack::decode(body)?),
            Kind::Retry => {
                let retry = Retry::decode(body)?;
                if let Some(group) = self.groups.get_mut(&stream) {
                    group.retry(&retry);
                }
            }
            Kind::Config => self.configure(Config::decode(body)?),
            Kind::Producer => {
                let open = ProducerOpen::decode(body)?;
                let producer = self.producers.entry(open.name.clone()).or_default();
                producer.opened(&open);
            }
            Kind::Snap => self.load(lsn, &SnapPiece::decode(body)?),
            Kind::Loss => self.lose(&Loss::decode(body)?),
            // The record counted where it was first; the indexes know where it is now.
            Kind::Moved => drop(Moved::decode(body)?),
            Kind::Chunk
            | Kind::Batch
            | Kind::Seal
            | Kind::Seek
            | Kind::Cancel
            | Kind::Watermark => {}
        }
        Ok(())
    }

    /// A message that a named producer may have numbered.
    fn numbered(&mut self, (lsn, seq): (u64, u64), meta: &Meta<'_>) {
        let Some((name, number)) = meta.producer else {
            return;
        };
        let send = Noted {
            number,
            lsn,
            message: meta.chunks.map_or(lsn, |chunks| chunks.first_lsn),
            seq,
            sent_ms: meta.sent_at_ms,
        };
        self.producers
            .entry(name.to_owned())
            .or_default()
            .sent(&send);
    }

    fn settle(&mut self, group: u32, ack: &Ack) {
        for run in &ack.runs {
            let (first, count) = (run.first, u64::from(run.count));
            match ack.reason {
                payload::reason::REMOVED => self.remove(group, first, count),
                payload::reason::TOLD => {
                    if let Some(group) = self.groups.get_mut(&group) {
                        group.lost = None;
                    }
                }
                _ => {
                    if let Some(group) = self.groups.get_mut(&group) {
                        group.settle(first, count);
                    }
                }
            }
        }
    }

    fn advance(&mut self, stream: u32, seq: u64) {
        if self.salvage.is_some() {
            self.meet(stream, seq);
        }
        if let Some(topic) = self.topics.get_mut(&stream) {
            if seq > topic.next {
                // Sequences are dense within an epoch: what is missing was damaged.
                self.gaps.push(Gap {
                    stream,
                    first: topic.next,
                    count: seq - topic.next,
                });
            }
            topic.next = topic.next.max(seq + 1);
        } else {
            // What made it may be damaged, or in a piece of the snapshot that is still to come.
            self.use_id(false, stream);
        }
    }

    fn configure(&mut self, config: Config) {
        match config {
            Config::TopicCreate {
                id,
                name,
                flags,
                first_seq,
            } => {
                self.topics.entry(id).or_insert_with(|| Topic {
                    name,
                    flags,
                    first: first_seq,
                    next: first_seq,
                    limits: None,
                });
            }
            Config::GroupCreate {
                id,
                topic,
                name,
                options,
                start_seq,
            } => {
                self.groups
                    .entry(id)
                    .or_insert_with(|| Group::new(topic, name, options, start_seq, start_seq, 1));
            }
            Config::GroupConfigure { id, options } => {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.config = options;
                }
            }
            Config::ProducerDrop { name } => {
                self.producers.remove(&name);
            }
            Config::GroupTags { id, version, tags } => {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.add_tags(version, tags);
                }
            }
            Config::Reclaim { first } => self.oldest = self.oldest.max(u64::from(first)),
            Config::TopicConfigure { id, options, kept } => self.set_limits(id, options, kept),
            Config::StoreConfigure { .. } if self.salvage.is_some() => self.limits_lost(),
            Config::StoreConfigure { max_bytes, flags } => self.store = (max_bytes, flags),
            Config::TopicDelete { id } => self.delete_topic(id),
            Config::GroupDelete { id } => self.delete_group(id),
            Config::TopicPurge { id, first_seq } => self.purge(id, first_seq),
        }
    }

    fn load(&mut self, lsn: u64, piece: &SnapPiece) {
        let first = if piece.head.piece == 0 {
            lsn
        } else {
            piece.head.first_lsn
        };
        if self.salvage.is_some() {
            return self.load_salvaged(piece);
        }
        if first != self.snap || self.snap == 0 {
            return;
        }
        // One that lacks a piece is not whole, and never will be.
        self.next_piece = self
            .next_piece
            .filter(|&next| next == piece.head.piece || broken!(MissingPieceIgnored))
            .map(|next| next.saturating_add(1));
        for item in &piece.items {
            self.load_item(item);
        }
        self.snap_complete |= piece.head.last && self.next_piece.is_some();
    }

    pub(super) fn load_item(&mut self, item: &SnapItem) {
        match item {
            SnapItem::Topic {
                id,
                name,
                flags,
                first_seq,
                next_seq,
            } => {
                let topic = self.topics.entry(*id).or_default();
                topic.name.clone_from(name);
                topic.flags = *flags;
                topic.first = *first_seq;
                topic.next = topic.next.max(*next_seq);
            }
            SnapItem::Group {
                id,
                topic,
                name,
                config,
                cursor,
                start_seq,
                generation,
                lost,
            } => {
                let group = self.groups.entry(*id).or_insert_with(|| {
                    let name = name.clone();
                    Group::new(*topic, name, *config, *cursor, *start_seq, *generation)
                });
                group.lost = (lost.1 > 0).then_some(*lost);
            }
            SnapItem::Outstanding {
                group,
                seq,
                attempts,
                crashes,
                due_ms,
                ..
            } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.outstanding(*seq, *attempts, *crashes, *due_ms);
                }
            }
            SnapItem::Producer { name, .. } => {
                self.producers.entry(name.clone()).or_default().load(item);
            }
            small => self.load_small(small),
        }
    }

    fn load_small(&mut self, item: &SnapItem) {
        match item {
            SnapItem::Removed {
                group,
                first,
                count,
            } => self.remove(*group, *first, *count),
            SnapItem::Limits { .. } | SnapItem::Used { .. } => self.load_change(item),
            SnapItem::Tag {
                group,
                version,
                tag,
            } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.add_tags(*version, [tag.clone()]);
                }
            }
            SnapItem::Oldest { number } => self.oldest = self.oldest.max(u64::from(*number)),
            _ => {}
        }
    }

    /// Dead letters of this group were purged.
    fn remove(&mut self, group: u32, first: u64, count: u64) {
        let ranges = self.removed.entry(group).or_default();
        progress::add_range(ranges, first, first.saturating_add(count));
    }

    /// Damage took these sequences: every group of the topic that has not passed them is told.
    fn lose(&mut self, loss: &Loss) {
        self.gaps.retain(|gap| !loss.gaps.contains(gap));
        for gap in &loss.gaps {
            for group in self.groups.values_mut().filter(|g| g.topic == gap.stream) {
                // They were seen once, and will not be missed again.
                let end = gap.first.saturating_add(gap.count);
                group.tries.retain(|seq, _| *seq < gap.first || *seq >= end);
            }
            if let Some(topic) = self.topics.get_mut(&gap.stream) {
                topic.next = topic.next.max(gap.first + gap.count);
            }
            for group in self.groups.values_mut().filter(|g| g.topic == gap.stream) {
                if let Some((from, lost)) = group.unsettled_in(gap.first, gap.count) {
                    let (first, count) = group.lost.unwrap_or((from, 0));
                    group.lost = Some((first.min(from), count + lost));
                }
            }
        }
    }
}
