//! Writing down what recovery needs, in bounded pieces, while work goes on.
//!
//! The first pieces hold every topic, group and producer, each group with its cursor C0; the rest
//! the outstanding messages below those cursors. Recovery loads all pieces of the last complete
//! snapshot and replays the log from the *first* piece on: whatever happened between the pieces is
//! in the log behind the first, and every effect is absolute. (A fuzzy checkpoint; Bernstein,
//! Hadzilacos & Goodman, 1987, section 6.4.)

use std::collections::BTreeMap;

use super::slot::{Owner, State};
use super::{gone, kept, limits, places, producers, registry, tags};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::commitlog::prepare::Maintenance;
use crate::error::Result;
use crate::format::payload::{Kept, SnapItem, SnapWriter, TopicConfig};
use crate::format::record::{Draft, HEADER, Kind};
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, G_SLOT_TOP, G_SNAP, G_SNAP_BEFORE, G_SNAP_END, G_SNAP_FOR, P_CURSOR,
    P_GENERATION, P_LOST, P_LOST_COUNT, P_START, P_STATE, P_TAGS, P_TAGS_VERSION, P_TOPIC, S_DUE,
    S_HEAD, S_LSN, S_OWNER, S_SEQ, T_FIRST, T_FLAGS, T_NEXT, T_STATE,
};
use crate::shm::id::{id_in, is_live};
use crate::shm::lock::low_half;
use crate::shm::{Ctl, Tx};

/// Largest piece, and where a full disk has little room: each is reserved as a whole.
const PIECE: usize = 64 << 10;
const SHORT_PIECE: usize = 4 << 10;
/// Slots looked at in one transaction.
const SLOTS: u32 = 2048;

struct Snapshot<'a> {
    log: &'a Log,
    held: &'a Maintenance<'a>,
    writer: SnapWriter,
    /// Bytes of its largest piece.
    most: usize,
    /// LSN of the first piece, 0 before it is appended.
    first: u64,
    /// C0 of each group, by its id.
    cursors: BTreeMap<u32, u64>,
    deadline: u64,
}

/// Whether a snapshot is due: none was begun since the last roll.
pub(crate) fn is_due(log: &Log) -> bool {
    log.ctl.global(G_SNAP_FOR) != log.ctl.global(G_ACTIVE)
}

/// Writes a snapshot. The maintenance byte is held, so what room it needs it makes itself.
pub(crate) fn write(log: &Log, held: &Maintenance<'_>) -> Result<()> {
    let deadline = log.ctl.patience() + 50_000;
    // A roll during a snapshot starts no other.
    let mut tx = log.ctl.begin(deadline)?;
    let active = tx.global(G_ACTIVE);
    tx.set_global(G_SNAP_FOR, active);
    tx.commit();
    let most = if log.is_short() { SHORT_PIECE } else { PIECE };
    let most = most.min(log.max_record(Kind::Snap));
    let mut s = Snapshot {
        log,
        held,
        writer: SnapWriter::new(most - HEADER),
        most,
        first: 0,
        cursors: BTreeMap::new(),
        deadline,
    };
    s.tables()?;
    s.outstanding()?;
    s.finish()
}

impl Snapshot<'_> {
    /// Appends one piece whose items `fill` pushes under the lock; it returns false when there are
    /// more than fit.
    fn piece(
        &mut self,
        last: bool,
        fill: &mut dyn FnMut(&Tx<'_>, &mut SnapWriter) -> bool,
    ) -> Result<bool> {
        let most = (self.most + 64).next_multiple_of(16);
        let need = Need::new(most, 0, Purpose::Snap);
        let (log, first) = (self.log, self.first);
        let mut blank = SnapWriter::new(most - 64 - HEADER);
        std::mem::swap(&mut blank, &mut self.writer);
        let mut writer = blank;
        let (lsn, done) = log.transact_holding(Some(self.held), need, self.deadline, |tx| {
            let done = fill(tx, &mut writer);
            let body = writer.take(first, last);
            let mut draft = Draft::new(Kind::Snap, 0, 0, &[], &[&body]);
            let lsn = log.append(tx, &mut draft.bytes, 0);
            if last {
                complete(log, tx, first, lsn + draft.bytes.len() as u64);
            }
            Ok((lsn, done))
        })?;
        self.writer = writer;
        if self.first == 0 {
            self.first = lsn;
        }
        Ok(done)
    }

    /// Topics, groups with their cursors, producers.
    fn tables(&mut self) -> Result<()> {
        // The first piece is empty: everything in the others happened after it.
        self.piece(false, &mut |_, _| true)?;
        let mut next = (0, 0, 0);
        let mut cursors = BTreeMap::new();
        loop {
            let log = self.log;
            let done = self.piece(false, &mut |tx, writer| {
                push_tables(log, tx, writer, &mut next, &mut cursors)
            })?;
            if done {
                self.cursors = cursors;
                return self.tags();
            }
        }
    }

    /// The tags of all groups. A change between two pieces has a version of its own.
    fn tags(&mut self) -> Result<()> {
        let mut next = (0, 0);
        let any = |ctl: &Ctl| (0..registry::groups(ctl)).any(|g| has_tags(ctl, g));
        let mut done = !any(&self.log.ctl);
        while !done {
            done = self.piece(false, &mut |tx, writer| push_tags(tx, writer, &mut next))?;
        }
        Ok(())
    }

    fn outstanding(&mut self) -> Result<()> {
        let top = crate::shm::lock::low_half(self.log.ctl.global(G_SLOT_TOP))
            .min(self.log.ctl.layout.geometry.slots);
        let cursors = std::mem::take(&mut self.cursors);
        let mut next = 0;
        while next < top {
            let until = top.min(next + SLOTS);
            self.piece(false, &mut |tx, writer| {
                while next < until {
                    if let Some(item) = outstanding_item(tx, next, &cursors) {
                        if !writer.push(&item) {
                            return false;
                        }
                    }
                    next += 1;
                }
                true
            })?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.piece(true, &mut |_, _| true).map(|_| ())
    }
}

fn complete(log: &Log, tx: &mut Tx<'_>, first: u64, end: u64) {
    let _ = log;
    let before = tx.global(G_SNAP);
    tx.set_global(G_SNAP_BEFORE, before);
    tx.set_global(G_SNAP, first);
    tx.set_global(G_SNAP_END, end);
}

/// Pushes table entries from `next` on; false when the piece is full.
fn push_tables(
    log: &Log,
    tx: &Tx<'_>,
    writer: &mut SnapWriter,
    next: &mut (u32, u32, u32),
    cursors: &mut BTreeMap<u32, u64>,
) -> bool {
    let ctl = &log.ctl;
    if cursors.is_empty() && next.0 == 0 {
        let number = crate::shm::lock::low_half(tx.global(G_OLDEST));
        let (max_bytes, flags) = limits::store_options(ctl);
        let store = SnapItem::Limits {
            topic: SnapItem::STORE,
            options: TopicConfig {
                max_bytes,
                flags,
                ..TopicConfig::default()
            },
            kept: Kept::default(),
        };
        if !writer.push(&SnapItem::Oldest { number }) || !writer.push(&store) {
            return false;
        }
    }
    while next.0 < registry::topics(ctl) {
        // Both, if need be again in the next piece: what is told twice is the same.
        let items = [topic_item(tx, next.0), limits_item(tx, next.0)];
        if items.iter().flatten().any(|item| !writer.push(item)) {
            return false;
        }
        next.0 += 1;
    }
    while next.1 < registry::groups(ctl) {
        let item = group_item(tx, next.1);
        if item.as_ref().is_some_and(|item| !writer.push(item)) {
            return false;
        }
        if let Some(SnapItem::Group { id, cursor, .. }) = item {
            cursors.insert(id, cursor);
        }
        next.1 += 1;
    }
    while next.2 < producers::count(ctl) {
        let item = producers::snap_item(tx, next.2);
        if !writer.push(&item) {
            return false;
        }
        next.2 += 1;
    }
    true
}

/// The topic at a place of the table, or the id that was last used there.
fn topic_item(tx: &Tx<'_>, place: u32) -> Option<SnapItem> {
    let ctl = tx.ctl;
    let word = |w| tx.get(ctl.layout.topic(place, w));
    let id = id_in(word(T_STATE));
    if !is_live(word(T_STATE)) {
        return used(word(T_STATE), false);
    }
    Some(SnapItem::Topic {
        id,
        name: registry::topic_name(ctl, id).unwrap_or_default(),
        flags: crate::shm::lock::low_half(word(T_FLAGS)),
        first_seq: word(T_FIRST),
        next_seq: word(T_NEXT),
    })
}

/// The options of the topic at a place of the table and what it keeps, if that is counted.
fn limits_item(tx: &Tx<'_>, place: u32) -> Option<SnapItem> {
    let ctl = tx.ctl;
    let state = tx.get(ctl.layout.topic(place, T_STATE));
    let topic = id_in(state);
    let counted = kept::is_counted(ctl, topic) && !broken!(SnapshotForgetsLimits);
    (is_live(state) && counted).then(|| SnapItem::Limits {
        topic,
        options: kept::options(ctl, topic),
        kept: kept::kept(ctl, topic),
    })
}

/// The group at a place of the table, or the id that was last used there.
fn group_item(tx: &Tx<'_>, place: u32) -> Option<SnapItem> {
    let ctl = tx.ctl;
    let word = |w| tx.get(ctl.layout.group(place, w));
    let id = id_in(word(P_STATE));
    if !is_live(word(P_STATE)) && !broken!(SnapshotForgetsDeletion) {
        return used(word(P_STATE), true);
    }
    let low = crate::shm::lock::low_half;
    Some(SnapItem::Group {
        id,
        topic: low(word(P_TOPIC)),
        name: registry::group_name(ctl, id).unwrap_or_default(),
        config: registry::group_config(ctl, id),
        cursor: word(P_CURSOR),
        start_seq: word(P_START),
        generation: low(word(P_GENERATION)),
        lost: (word(P_LOST), word(P_LOST_COUNT)),
    })
}

fn used(word: u64, group: bool) -> Option<SnapItem> {
    let id = id_in(word);
    (word != 0).then_some(SnapItem::Used { group, id })
}

fn has_tags(ctl: &Ctl, group: u32) -> bool {
    ctl.load(ctl.layout.group(group, P_TAGS)) != 0
}

/// Pushes the tags of groups from `next` (group, tag) on; false when the piece is full.
fn push_tags(tx: &Tx<'_>, writer: &mut SnapWriter, next: &mut (u32, usize)) -> bool {
    let ctl = tx.ctl;
    while next.0 < registry::groups(ctl) {
        let group = places::group_at(ctl, next.0);
        let tags = if ctl.has_group(group) && has_tags(ctl, group) {
            tags::read(ctl, group).unwrap_or_default()
        } else {
            Vec::new()
        };
        let version = low_half(tx.get(ctl.layout.group(group, P_TAGS_VERSION)));
        for tag in tags.into_iter().skip(next.1) {
            let item = SnapItem::Tag {
                group,
                version,
                tag,
            };
            if !writer.push(&item) {
                return false;
            }
            next.1 += 1;
        }
        *next = (next.0 + 1, 0);
    }
    true
}

/// The item of a slot that holds a message below its group's C0, or removed dead letters.
fn outstanding_item(tx: &Tx<'_>, slot: u32, cursors: &BTreeMap<u32, u64>) -> Option<SnapItem> {
    let layout = &tx.ctl.layout;
    let word = |w| tx.get(layout.slot(slot, w));
    let head = super::slot::Head::unpack(word(S_HEAD))?;
    // An ack that the log does not know yet is written down by leaving its message out.
    if matches!(head.state, State::Free | State::Settled) {
        return None;
    }
    if head.state == State::Removed {
        let (place, (first, end)) = super::removed::run_in(tx.ctl, slot)?;
        let group = places::group_at(tx.ctl, place);
        let count = end.saturating_sub(first);
        if !tx.ctl.has_group(group) {
            return None;
        }
        return (count > 0).then_some(SnapItem::Removed {
            group,
            first,
            count,
        });
    }
    let group = places::group_at(tx.ctl, Owner::unpack(word(S_OWNER)).group);
    let seq = word(S_SEQ);
    if seq >= *cursors.get(&group)? || gone::is_void(tx.ctl, group, seq) {
        return None;
    }
    let due_ms = match head.state {
        State::Waiting => {
            let host = &tx.ctl.host;
            host.realtime_ms() + word(S_DUE).saturating_sub(host.boottime_ms())
        }
        _ => 0,
    };
    Some(SnapItem::Outstanding {
        group,
        seq,
        lsn: word(S_LSN),
        attempts: u32::from(head.attempts),
        crashes: u32::from(head.crashes),
        due_ms,
    })
}
