//! Who keeps how much of the log: of each group, and of each topic without groups, the message that
//! lies furthest back. As segments go from the oldest on, it keeps all of them from its own on.
//!
//! For statistics: read without the lock, so what changes meanwhile may be told of or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::slot::{Head, Owner, State};
use super::{claim, fetch, gone, places, registry, removed};
use crate::commitlog::Log;
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Result};
use crate::format::links::Reference;
use crate::format::segment::parse_file_name;
use crate::reports::PinKind;
use crate::shm::control::{
    G_OLDEST, G_SLOT_TOP, P_CURSOR, P_TOPIC, S_HEAD, S_LSN, S_OWNER, S_SEQ, T_FIRST, T_GROUP,
    T_NEXT,
};

/// Messages looked up at a time.
const LOOK_UP: usize = 512;

/// A message that keeps a part of the log.
#[derive(Debug, Clone, Copy)]
struct Keeper {
    kind: PinKind,
    stream: u32,
    seq: u64,
    /// Original LSN of its record.
    lsn: u64,
}

/// What a message keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) kind: PinKind,
    pub(crate) seq: u64,
    pub(crate) id: u64,
    pub(crate) bytes: u64,
}

/// What is read once for all groups.
struct Pins<'a> {
    log: &'a Log,
    /// Bytes on disk of each segment's files.
    sizes: BTreeMap<u64, u64>,
    /// First LSN that is still in its place.
    oldest: u64,
    /// From the record that refers to what it refers to.
    references: Vec<Reference>,
    /// Of each group, the outstanding message that lies furthest back.
    outstanding: BTreeMap<u32, Lowest>,
}

impl<'a> Pins<'a> {
    fn new(log: &'a Log) -> Result<Self> {
        let mut sizes = BTreeMap::new();
        for name in log.dir.list(crate::commitlog::LOG_DIR)? {
            let number = parse_file_name(&name).map(|n| u64::from(n.number));
            if let (Some(number), Some(stat)) = (number, log.dir.try_stat(&Log::path(&name))?) {
                *sizes.entry(number).or_insert(0) += stat.allocated;
            }
        }
        let sealed = log.sealed_from(log.ctl.global(G_OLDEST))?;
        let mut references = log.references(0)?;
        references.sort_by_key(|r| r.from);
        let mut pins = Self {
            log,
            sizes,
            oldest: sealed.first().map_or(0, |s| s.base),
            references,
            outstanding: BTreeMap::new(),
        };
        pins.read_slots()?;
        Ok(pins)
    }

    fn read_slots(&mut self) -> Result<()> {
        let ctl = &self.log.ctl;
        let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
        for slot in 0..top {
            let word = |w| ctl.load(ctl.layout.slot(slot, w));
            let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
            let place = Owner::unpack(word(S_OWNER)).group;
            let group = places::group_at(ctl, place);
            let free = matches!(state, None | Some(State::Free | State::Removed))
                || gone::is_void(ctl, place, word(S_SEQ));
            let Some(stream) = claim::topic_of_group(ctl, group).ok().filter(|_| !free) else {
                continue;
            };
            let keeper = Keeper {
                kind: PinKind::Outstanding,
                stream,
                seq: word(S_SEQ),
                lsn: word(S_LSN),
            };
            let mut lowest = self.outstanding.get(&group).copied().unwrap_or_default();
            self.note(keeper, &mut lowest)?;
            self.outstanding.insert(group, lowest);
        }
        Ok(())
    }

    /// As [`Pins::new`], if nothing stands against it.
    fn try_new(log: &'a Log) -> Result<Option<Self>> {
        lenient(Self::new(log).map(Some))
    }

    /// What a topic without groups keeps.
    fn of_topic(&self, topic: u32) -> Result<Option<Kept>> {
        lenient(self.kept_by_topic(topic))
    }

    /// What a group keeps: what it has not received or settled, and its dead letters.
    fn of_group(&self, group: u32) -> Result<Option<Kept>> {
        lenient(self.kept_by_group(group))
    }

    fn kept_by_topic(&self, topic: u32) -> Result<Option<Kept>> {
        let word = |w| self.log.ctl.load(self.log.ctl.layout.topic(topic, w));
        if !self.log.ctl.has_topic(topic) || word(T_GROUP) != 0 {
            return Ok(None);
        }
        let mut lowest = Lowest::default();
        self.unsettled_from(PinKind::Kept, topic, word(T_FIRST), &mut lowest)?;
        self.tell(lowest)
    }

    fn kept_by_group(&self, group: u32) -> Result<Option<Kept>> {
        let ctl = &self.log.ctl;
        let word = |w| ctl.load(ctl.layout.group(group, w));
        let topic = u32::try_from(word(P_TOPIC)).unwrap_or(u32::MAX);
        if !ctl.has_group(group) || !ctl.has_topic(topic) {
            return Ok(None);
        }
        let mut lowest = self.outstanding.get(&group).copied().unwrap_or_default();
        self.unsettled_from(PinKind::Unread, topic, word(P_CURSOR), &mut lowest)?;
        self.dead_letters(group, &mut lowest)?;
        self.tell(lowest)
    }

    /// The messages of a stream from a sequence on.
    fn unsettled_from(
        &self,
        kind: PinKind,
        stream: u32,
        seq: u64,
        lowest: &mut Lowest,
    ) -> Result<()> {
        let mut next = seq;
        let end = self.log.ctl.load(self.log.ctl.layout.topic(stream, T_NEXT));
        while next < end {
            let some = self.log.candidates(stream, next, LOOK_UP)?;
            for &(seq, lsn) in &some {
                let keeper = Keeper {
                    kind,
                    stream,
                    seq,
                    lsn,
                };
                self.note(keeper, lowest)?;
                if lsn >= self.oldest {
                    // All others lie behind it.
                    return Ok(());
                }
            }
            let Some(&(last, _)) = some.last() else { break };
            next = last + 1;
        }
        Ok(())
    }

    fn dead_letters(&self, group: u32, lowest: &mut Lowest) -> Result<()> {
        let ctl = &self.log.ctl;
        let Some(stream) = removed::stream_of(ctl, group) else {
            return Ok(());
        };
        let first = ctl.load(ctl.layout.topic(stream, T_FIRST));
        let runs = removed::removed(ctl, group)?;
        let gone = |seq| seq < first || runs.iter().any(|r| (r.0..r.1).contains(&seq));
        for r in self.references.iter().filter(|r| r.stream == stream) {
            if !gone(r.seq) {
                let keeper = Keeper {
                    kind: PinKind::DeadLetter,
                    stream,
                    seq: r.seq,
                    lsn: r.from,
                };
                self.note(keeper, lowest)?;
            }
        }
        Ok(())
    }

    /// Takes a message for the one that lies furthest back, if it does.
    fn note(&self, keeper: Keeper, lowest: &mut Lowest) -> Result<()> {
        let place = self.lowest_place(keeper.lsn, 0)?;
        if lowest.0.is_none_or(|(known, _)| place < known) {
            lowest.0 = Some((place, keeper));
        }
        Ok(())
    }

    /// Where the first of a record and of those it refers to lies now.
    fn lowest_place(&self, lsn: u64, depth: u32) -> Result<u64> {
        let mut place = if lsn >= self.oldest {
            lsn
        } else {
            self.log.copy_of(lsn, 0)?.unwrap_or(u64::MAX)
        };
        let from = self.references.partition_point(|r| r.from < lsn);
        let own = self.references[from..].iter().take_while(|r| r.from == lsn);
        for r in own.take(if depth < 4 { usize::MAX } else { 0 }) {
            place = place.min(self.lowest_place(r.target, depth + 1)?);
        }
        Ok(place)
    }

    fn tell(&self, lowest: Lowest) -> Result<Option<Kept>> {
        let Some((place, keeper)) = lowest.0.filter(|(place, _)| *place != u64::MAX) else {
            return Ok(None);
        };
        let number = match self.log.segment_at(place)? {
            Some(segment) => segment.number,
            None => self.log.ctl.global(crate::shm::control::G_ACTIVE),
        };
        let Keeper {
            kind,
            stream,
            seq,
            lsn,
        } = keeper;
        let read = fetch::fetch(self.log, stream, seq, lsn, &mut ReadAhead::default());
        Ok(Some(Kept {
            kind,
            seq,
            // Of a damaged message only the place is known.
            id: read.map_or(lsn, |message| message.id),
            bytes: self.sizes.range(number..).map(|(_, bytes)| bytes).sum(),
        }))
    }
}

/// What every group keeps, and every topic without groups, as it was found a moment ago.
pub(crate) struct Pinned {
    groups: BTreeMap<u32, Kept>,
    topics: BTreeMap<u32, Kept>,
    /// Until when it is told again, by the clock of [`crate::sys::Host::nanos`].
    until: u64,
}

/// Where it is kept.
pub(crate) type Cache = parking_lot::Mutex<Option<Arc<Pinned>>>;

impl Pinned {
    /// What a group keeps: what it has not received or settled, and its dead letters.
    pub(crate) fn of_group(&self, group: u32) -> Option<Kept> {
        self.groups.get(&group).copied()
    }

    /// What a topic without groups keeps.
    pub(crate) fn of_topic(&self, topic: u32) -> Option<Kept> {
        self.topics.get(&topic).copied()
    }

    fn read(log: &Log) -> Result<Option<Self>> {
        let started = log.ctl.host.nanos();
        let Some(pins) = Pins::try_new(log)? else {
            return Ok(None);
        };
        let mut groups = BTreeMap::new();
        for id in registry::live_groups(&log.ctl) {
            if let Some(kept) = pins.of_group(id)? {
                groups.insert(id, kept);
            }
        }
        let mut topics = BTreeMap::new();
        for id in registry::live_topics(&log.ctl) {
            if let Some(kept) = pins.of_topic(id)? {
                topics.insert(id, kept);
            }
        }
        let ended = log.ctl.host.nanos();
        // Whoever asks all the time spends a hundredth of it here.
        let until = ended + 100 * ended.saturating_sub(started);
        Ok(Some(Self {
            groups,
            topics,
            until,
        }))
    }
}

/// What is kept for whom; `None` where damage, or a change that is being rolled back, stands
/// against it: other statistics are told all the same. Finding it takes time in proportion to the
/// dead letters and large messages there are, so it is found anew only when a hundred times that
/// has passed.
pub(crate) fn pinned(log: &Log, cache: &Cache) -> Result<Option<Arc<Pinned>>> {
    let mut known = cache.lock();
    let now = log.ctl.host.nanos();
    if let Some(known) = known.as_ref().filter(|known| now < known.until) {
        return Ok(Some(Arc::clone(known)));
    }
    *known = Pinned::read(log)?.map(Arc::new);
    Ok(known.clone())
}

fn lenient<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(e)
            if matches!(
                e.code(),
                Code::Corrupt | Code::Busy | Code::Internal | Code::NotFound
            ) =>
        {
            Ok(None)
        }
        other => other,
    }
}

/// The keeper whose record lies furthest back, and where.
#[derive(Debug, Clone, Copy, Default)]
struct Lowest(Option<(u64, Keeper)>);
