//! Where a record lies that was copied forward, and what refers to what.
//!
//! Everybody names a record by the LSN it was first written at. When nothing is there any more, a
//! MOVED record further on has a copy. The sidecars list the copies of their segments
//! ([`crate::format::links`]); of a segment that has none yet, shared memory lists the records to
//! look at, in a chain like those of its topics, and each process remembers what they said.
//!
//! A copy is found as long as its segment is there, and it was published before the segment it came
//! from went. So whoever finds neither looks again: see [`Log::read`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::append::region_of;
use super::catalog::Segment;
use super::index::{Candidates, Walk};
use super::read::ReadAhead;
use super::{HEADER_SPAN, Log};
use crate::error::{Code, Error, Result};
use crate::format::links::{Links, Reference};
use crate::format::payload::Moved;
use crate::format::record::{Draft, Kind};
use crate::shm::Tx;
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, R_BASE, REGIONS, W_PUBLISHED, X_LINKS, X_LINKS_CHAIN, X_NUMBER,
};

/// The links of one region, as far as this process has read them.
#[derive(Default)]
struct OfRegion {
    number: u64,
    /// Entries of the chain that were read.
    seen: u64,
    links: Links,
}

/// The links of the segments without a sidecar.
#[derive(Default)]
pub(crate) struct RegionLinks {
    regions: [OfRegion; REGIONS],
}

/// What is left of a record's bytes when it is carried by another.
const CARRIER: usize = crate::format::record::HEADER + 8;

/// The padded length of the MOVED record that carries so many bytes.
pub(crate) const fn moved_len(bytes: usize) -> usize {
    crate::format::record::padded(CARRIER + bytes)
}

impl Log {
    /// Appends a copy of the record whose original LSN is this, as the MOVED record in `draft`.
    /// [`Log::reserve`] made room for it and its link. Returns where the copy lies.
    pub(crate) fn append_moved(&self, tx: &mut Tx<'_>, draft: &mut MovedDraft) -> u64 {
        let lsn = self.append(tx, &mut draft.record.bytes, draft.seq);
        if !broken!(MovedNotIndexed) {
            self.note_link(tx, lsn, draft.lowest);
        }
        lsn
    }

    /// Calls `visit` with the links of the region that this segment has. `None`: it has none any
    /// more, or they were changing hands; look again.
    fn with_region<T>(&self, number: u64, visit: impl FnOnce(&Links) -> T) -> Result<Option<T>> {
        let ctl = &self.ctl;
        let region = region_of(number);
        let word = |w| ctl.load(ctl.layout.region(region, w));
        // First: what is entered but not committed lies at or above it.
        let published = ctl.load(W_PUBLISHED);
        let mut cache = self.region_links.lock();
        let known = &mut cache.regions[region];
        if known.number != number {
            *known = OfRegion {
                number,
                ..OfRegion::default()
            };
        }
        let (count, chain) = (word(X_LINKS), word(X_LINKS_CHAIN));
        let base = ctl.load(ctl.layout.recent(number, R_BASE));
        let mut found = Vec::new();
        if known.seen < count {
            let mut walk = Walk::new(ctl, region, chain);
            let mut left = count - known.seen;
            if walk.skip(ctl, known.seen).is_some() {
                while let Some(offset) = (left > 0).then(|| walk.next(ctl)).flatten() {
                    left -= 1;
                    if offset < HEADER_SPAN || base + offset >= published {
                        break;
                    }
                    found.push(base + offset);
                }
            }
        }
        if word(X_NUMBER) != number {
            return Ok(None);
        }
        let mut ahead = ReadAhead::default();
        for lsn in found {
            match self.read_here(lsn, &mut ahead) {
                // What it says is not known; whoever needs it is told when he reads it.
                Err(e) if e.code() == Code::Corrupt => {}
                Err(e) => return Err(e),
                Ok(stored) => {
                    let _ = known.links.add(lsn, &stored.record());
                }
            }
            known.seen += 1;
        }
        Ok(Some(visit(&known.links)))
    }

    /// Calls `visit` with number and links of every segment that has some, the newest first, until
    /// it says false: of all of them at one moment, as far as they are from `oldest` on and
    /// `wanted` by what is remembered of them. It begins again, told by `restart`, when one passes
    /// from shared memory to its sidecar meanwhile.
    fn each_links(
        &self,
        oldest: u64,
        wanted: &dyn Fn(&Brief) -> bool,
        restart: &mut dyn FnMut(),
        visit: &mut dyn FnMut(u64, &Links) -> bool,
    ) -> Result<()> {
        for _ in 0..1000 {
            restart();
            let before = (self.region_numbers(), self.ctl.global(G_OLDEST));
            let read = self.each_links_once(oldest, wanted, visit);
            let same = before == (self.region_numbers(), self.ctl.global(G_OLDEST));
            match read {
                Ok(true) if same => return Ok(()),
                // Of a segment that was being removed, anything may be missing.
                Err(e) if same => return Err(e),
                _ => {}
            }
        }
        Err(Error::new(
            Code::Busy,
            "the log's indexes change faster than they can be read; try again",
        ))
    }

    fn each_links_once(
        &self,
        oldest: u64,
        wanted: &dyn Fn(&Brief) -> bool,
        visit: &mut dyn FnMut(u64, &Links) -> bool,
    ) -> Result<bool> {
        let mut in_memory = self.region_numbers()[..REGIONS].to_vec();
        in_memory.retain(|&n| n != 0);
        in_memory.sort_unstable();
        for &number in in_memory.iter().rev().filter(|&&n| n >= oldest) {
            match self.with_region(number, |links| visit(number, links))? {
                None => return Ok(false),
                Some(false) => return Ok(true),
                Some(true) => {}
            }
        }
        let below = in_memory.first().copied().unwrap_or(u64::MAX);
        for segment in self.sealed_from(oldest)?.iter().rev() {
            if segment.number >= below || !wanted(&self.contents(segment)?.links) {
                continue;
            }
            if !visit(segment.number, &self.sidecar(segment)?.links) {
                break;
            }
        }
        Ok(true)
    }

    /// Where the newest copy of a record lies, in the segments from `oldest` on, if there is one.
    pub(crate) fn copy_of(&self, original: u64, oldest: u64) -> Result<Option<u64>> {
        let found = std::cell::Cell::new(None);
        let wanted = |brief: &Brief| brief.copies.contains(&original);
        self.each_links(oldest, &wanted, &mut || found.set(None), &mut |_, links| {
            found.set(links.copies.get(&original).copied());
            found.get().is_none()
        })?;
        Ok(found.get())
    }

    /// How many messages were copied forward within the log.
    pub(crate) fn moved_count(&self) -> Result<u64> {
        let count = std::cell::Cell::new(0);
        // Those of sealed segments are remembered: no sidecar is read for them.
        let remembered = |brief: &Brief| {
            count.set(count.get() + brief.count);
            false
        };
        self.each_links(0, &remembered, &mut || count.set(0), &mut |_, links| {
            count.set(count.get() + links.messages.len() as u64);
            true
        })?;
        Ok(count.get())
    }

    /// Up to `max` messages of a topic that were moved to segments from `oldest` on, with these
    /// sequences: (sequence, original LSN), ascending.
    pub(crate) fn moved_messages(
        &self,
        topic: u32,
        seqs: Range<u64>,
        max: usize,
        oldest: u64,
    ) -> Result<Candidates> {
        let found = std::cell::RefCell::new(BTreeMap::new());
        let wanted = |brief: &Brief| {
            brief
                .topics
                .get(&topic)
                .is_some_and(|(first, last)| *first < seqs.end && *last >= seqs.start)
        };
        self.each_links(
            oldest,
            &wanted,
            &mut || found.borrow_mut().clear(),
            &mut |_, links| {
                let here = links.messages_from(topic, seqs.start);
                let here = here.take_while(|(seq, _)| *seq < seqs.end).take(max);
                found.borrow_mut().extend(here);
                true
            },
        )?;
        Ok(found.into_inner().into_iter().take(max).collect())
    }

    /// What all records from the segment `oldest` on refer to, those that refer first: a record's
    /// own references come before those of what it refers to.
    pub(crate) fn references(&self, oldest: u64) -> Result<Vec<Reference>> {
        let found = std::cell::RefCell::new(Vec::new());
        // Those of sealed segments are remembered: no sidecar is read for them.
        let remembered = |brief: &Brief| {
            found.borrow_mut().extend_from_slice(&brief.references);
            false
        };
        self.each_links(
            oldest,
            &remembered,
            &mut || found.borrow_mut().clear(),
            &mut |_, links| {
                found.borrow_mut().extend(links.references.iter().copied());
                true
            },
        )?;
        let mut found = found.into_inner();
        found.sort_unstable_by_key(|r| std::cmp::Reverse(*r));
        found.sort_by_key(|r| std::cmp::Reverse(r.from));
        found.dedup();
        Ok(found)
    }

    /// The links of a sealed segment whose content is durable.
    pub(crate) fn links_of(&self, segment: &Arc<Segment>) -> Result<Links> {
        loop {
            if self.region_numbers()[..REGIONS].contains(&segment.number) {
                if let Some(links) = self.with_region(segment.number, Links::clone)? {
                    return Ok(links);
                }
            } else {
                return Ok(self.sidecar(segment)?.links.clone());
            }
        }
    }

    /// Whether a segment is still indexed in shared memory.
    pub(crate) fn is_in_region(&self, number: u64) -> bool {
        self.region_numbers()[..REGIONS].contains(&number) || number >= self.ctl.global(G_ACTIVE)
    }
}

/// What a sealed segment's links are about, kept for every segment.
pub(super) struct Brief {
    /// From the lowest to the highest original LSN of its copies.
    copies: Range<u64>,
    /// How many messages there are among them.
    count: u64,
    /// The topics of the messages moved into it, with the lowest and the highest sequence.
    topics: BTreeMap<u32, (u64, u64)>,
    /// What its records refer to.
    references: Box<[Reference]>,
}

impl Brief {
    pub(super) fn of(links: &Links) -> Self {
        let mut topics: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for &(topic, seq) in links.messages.keys() {
            // Ascending within the topic.
            topics.entry(topic).or_insert((seq, seq)).1 = seq;
        }
        let first = links.copies.keys().next().copied().unwrap_or(0);
        let last = links.copies.keys().next_back().map_or(0, |last| last + 1);
        Self {
            copies: first..last,
            count: links.messages.len() as u64,
            topics,
            references: links.references.iter().copied().collect(),
        }
    }
}

/// A MOVED record, laid out before any lock is taken.
pub(crate) struct MovedDraft {
    record: Draft,
    seq: u64,
    /// The lowest LSN that the record or its copy refers to.
    lowest: u64,
}

impl MovedDraft {
    /// The copy of a record, given all its bytes; `None` if it would be too long for a record.
    pub(crate) fn new(stored: &super::read::Stored) -> Option<Self> {
        let bytes = stored.bytes();
        if CARRIER + bytes.len() > crate::format::record::MAX_RECORD {
            return None;
        }
        let body = Moved {
            original_lsn: stored.lsn,
            record: bytes,
        };
        let header = &stored.header;
        let mut links = Links::default();
        // What does not make sense refers to nothing that could be followed.
        let _ = links.add(stored.lsn, &stored.record());
        Some(Self {
            record: Draft::new(Kind::Moved, 0, header.stream, &[], &[&body.encode()]),
            seq: header.seq,
            lowest: links.lowest().map_or(stored.lsn, |l| l.min(stored.lsn)),
        })
    }

    /// How many bytes of the log it takes.
    pub(crate) fn len(&self) -> usize {
        self.record.bytes.len()
    }
}
