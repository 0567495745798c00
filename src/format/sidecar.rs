//! The index sidecar of a sealed segment: where each sequence of each stream lies in it.
//!
//! It is derived from the segment and never needed for what is durable: one that is missing or
//! does not decode is built again. Consecutive sequences of a stream form an entry with one u32
//! offset each; a small gap becomes holes, a larger one a new entry, so that the file stays
//! proportional to the number of messages whatever the sequences are.

use super::links::Links;
use super::segment::{HEADER_BLOCK, MAX_SEGMENT};
use super::{Bad, Reader, Writer, crc};
use std::collections::BTreeMap;

/// The version of the sidecar's format. An unknown one is built again, not refused.
pub(crate) const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"keepqidx";
const BLOCK: usize = 4096;
const PAYLOAD: usize = BLOCK - 4;
const HEADER: usize = 96;
const ENTRY: usize = 24;
/// A gap up to this long is cheaper as holes than as an entry of its own.
const MAX_HOLES: u64 = (ENTRY / 4) as u64;

/// What a sidecar says about its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SidecarHeader {
    /// The segment's number.
    pub(crate) number: u32,
    /// The store's identity.
    pub(crate) uuid: [u8; 16],
    /// The segment's first LSN.
    pub(crate) base: u64,
    /// The LSN behind the last record.
    pub(crate) end: u64,
    /// The segment's salt.
    pub(crate) salt: u64,
    /// The lowest LSN that releases, chunk lists and moved records in it refer to; `u64::MAX` =
    /// none.
    pub(crate) min_ref: u64,
    /// The earliest time of sending in it, in ms since 1970; `u64::MAX` = none.
    pub(crate) min_time: u64,
    /// The latest time of sending in it; 0 = none.
    pub(crate) max_time: u64,
}

/// Where a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Find {
    /// The first message at or after the wanted sequence.
    At {
        /// Its sequence.
        seq: u64,
        /// LSN of its record.
        lsn: u64,
    },
    /// The wanted sequence is lower than the stream's first here: an earlier segment may have it.
    Before,
    /// The stream has nothing at or after the wanted sequence here, or is not here at all.
    After,
}

/// Consecutive sequences; offsets are (LSN - base) / 16, 0 = hole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    first: u64,
    offsets: Vec<u32>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }
}

/// Appends to the runs of one stream; `seq` is not below their end.
fn append(runs: &mut Vec<Run>, seq: u64, offset: u32) {
    match runs.last_mut() {
        Some(run) if seq - run.end() <= MAX_HOLES => {
            while run.end() < seq {
                run.offsets.push(0);
            }
            run.offsets.push(offset);
        }
        _ => runs.push(Run {
            first: seq,
            offsets: vec![offset],
        }),
    }
}

/// Collects a segment's messages in the order of the log.
#[derive(Debug)]
pub(crate) struct SidecarBuilder {
    header: SidecarHeader,
    streams: BTreeMap<u32, Stream>,
    /// Offsets from the first to the last that could not be read.
    hole: std::ops::Range<u32>,
    links: Links,
}

#[derive(Debug, Default)]
struct Stream {
    runs: Vec<Run>,
    /// Messages copied forward come after higher sequences.
    late: Vec<(u64, u32)>,
}

impl Stream {
    /// All runs in the order of their sequences; of two records of one sequence the later counts.
    fn sorted(self) -> Vec<Run> {
        if self.late.is_empty() {
            return self.runs;
        }
        let in_order = self.runs.iter().flat_map(|run| {
            (run.first..)
                .zip(run.offsets.iter().copied())
                .filter(|&(_, offset)| offset != 0)
        });
        let mut all: Vec<_> = in_order.chain(self.late.iter().copied()).collect();
        all.sort_by_key(|&(seq, offset)| (seq, std::cmp::Reverse(offset)));
        all.dedup_by_key(|&mut (seq, _)| seq);
        let mut runs = Vec::new();
        all.into_iter()
            .for_each(|(seq, offset)| append(&mut runs, seq, offset));
        runs
    }
}

impl SidecarBuilder {
    /// An empty one. `header.end` may be set later: [`SidecarBuilder::header_mut`].
    pub(crate) fn new(header: SidecarHeader) -> Self {
        Self {
            header,
            streams: BTreeMap::new(),
            hole: 0..0,
            links: Links::default(),
        }
    }

    /// What ties its records to others, to be completed while the segment is read.
    pub(crate) fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    /// The header, to be completed while the segment is read.
    pub(crate) fn header_mut(&mut self) -> &mut SidecarHeader {
        &mut self.header
    }

    /// Adds a message. [`Bad::Value`] when it cannot lie in this segment.
    pub(crate) fn push(&mut self, stream: u32, seq: u64, lsn: u64) -> Result<(), Bad> {
        let distance = lsn.checked_sub(self.header.base).ok_or(Bad::Value)?;
        if distance < HEADER_BLOCK as u64 || distance >= MAX_SEGMENT || distance % 16 != 0 {
            return Err(Bad::Value);
        }
        let offset = u32::try_from(distance / 16).map_err(|_| Bad::Value)?;
        if seq == u64::MAX {
            return Err(Bad::Value);
        }
        let stream = self.streams.entry(stream).or_default();
        match stream.runs.last() {
            Some(run) if seq < run.end() => stream.late.push((seq, offset)),
            Some(run) => {
                // Within a segment sequences have no gaps: what is missing was in the hole.
                let missing = run.end()..seq;
                let hole = self.hole.clone();
                for (missing, at) in missing.zip(hole) {
                    append(&mut stream.runs, missing, at);
                }
                append(&mut stream.runs, seq, offset);
            }
            None => append(&mut stream.runs, seq, offset),
        }
        Ok(())
    }

    /// While the index is made again from a segment: between these LSNs nothing can be read.
    /// Messages that are missing there get places in the hole, so that whoever reads them is told.
    pub(crate) fn note_hole(&mut self, from: u64, to: u64) {
        let offset = |lsn: u64| u32::try_from(lsn.saturating_sub(self.header.base) / 16);
        if let (Ok(from), Ok(to)) = (offset(from), offset(to)) {
            let first = if self.hole.is_empty() {
                from
            } else {
                self.hole.start
            };
            self.hole = first..to;
        }
    }

    /// The content of the file.
    pub(crate) fn finish(self) -> Vec<u8> {
        let SidecarBuilder {
            mut header,
            streams,
            links,
            ..
        } = self;
        header.min_ref = links
            .lowest()
            .map_or(header.min_ref, |l| header.min_ref.min(l));
        let entries: Vec<(u32, Run)> = streams
            .into_iter()
            .flat_map(|(id, stream)| stream.sorted().into_iter().map(move |run| (id, run)))
            .collect();
        let offsets: usize = entries.iter().map(|(_, run)| run.offsets.len()).sum();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(HEADER + ENTRY * entries.len() + 4 * offsets);
        let mut w = Writer::new(&mut out);
        w.bytes(&MAGIC)
            .u16(VERSION)
            .zeros(2)
            .u32(header.number)
            .bytes(&header.uuid);
        w.u64(header.base).u64(header.end).u64(header.salt);
        w.u64(header.min_ref)
            .u64(header.min_time)
            .u64(header.max_time);
        let [copies, references] = links.counts();
        w.u32(count(entries.len())).u32(count(offsets));
        w.u32(copies).u32(references);
        let mut first = 0;
        for (stream, run) in &entries {
            let len = count(run.offsets.len());
            w.u32(*stream).u32(len).u64(run.first).u32(first).zeros(4);
            first += len;
        }
        for offset in entries.iter().flat_map(|(_, run)| &run.offsets) {
            w.u32(*offset);
        }
        links.write(&mut w);
        blocks(&out, header.salt)
    }
}

/// Cuts the content into blocks, each with its checksum.
fn blocks(content: &[u8], salt: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len().div_ceil(PAYLOAD) * BLOCK);
    for (number, part) in (0u64..).zip(content.chunks(PAYLOAD)) {
        let start = out.len();
        out.extend_from_slice(part);
        out.resize(start + PAYLOAD, 0);
        let sum = block_crc(&out[start..], number, salt);
        out.extend_from_slice(&sum.to_le_bytes());
    }
    out
}

fn block_crc(payload: &[u8], number: u64, salt: u64) -> u32 {
    crc(&[payload, &number.to_le_bytes(), &salt.to_le_bytes()])
}

/// Consecutive sequences of a stream in a [`Sidecar`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    stream: u32,
    count: u32,
    first_seq: u64,
    first: u32,
}

impl Entry {
    fn end_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }
}

/// A sidecar that was read and checked whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// What it says about its segment. The caller compares it with the segment's own header.
    pub(crate) header: SidecarHeader,
    entries: Vec<Entry>,
    offsets: Vec<u32>,
    /// What ties the segment's records to others.
    pub(crate) links: Links,
}

impl Sidecar {
    /// Reads the content of the file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Sidecar, Bad> {
        let content = content(bytes)?;
        let mut r = Reader::new(&content);
        r.array::<8>()?;
        let version = r.u16()?;
        r.zeros(2)?;
        let header = SidecarHeader {
            number: r.u32()?,
            uuid: r.array()?,
            base: r.u64()?,
            end: r.u64()?,
            salt: r.u64()?,
            min_ref: r.u64()?,
            min_time: r.u64()?,
            max_time: r.u64()?,
        };
        if version != VERSION {
            return Err(Bad::Version);
        }
        let span = header.end.checked_sub(header.base).ok_or(Bad::Value)?;
        if span > MAX_SEGMENT {
            return Err(Bad::Value);
        }
        let entry_bytes = size(r.u32()?, ENTRY)?;
        let offset_bytes = size(r.u32()?, 4)?;
        let counts = [r.u32()?, r.u32()?];
        let entries = entries(r.bytes(entry_bytes)?, offset_bytes / 4)?;
        let offsets = offsets(r.bytes(offset_bytes)?, span)?;
        let records = header.base.saturating_add(HEADER_BLOCK as u64)..header.end;
        let links = Links::read(&mut r, counts, &records)?;
        if r.len() >= PAYLOAD {
            return Err(Bad::Length);
        }
        r.zeros(r.len())?;
        let sidecar = Sidecar {
            header,
            entries,
            offsets,
            links,
        };
        sidecar.check_ends()?;
        Ok(sidecar)
    }

    /// The first and last offset of an entry are never holes, so that a search in one that
    /// reaches far enough always ends at a message.
    fn check_ends(&self) -> Result<(), Bad> {
        let is_hole = |index: u32| self.offsets.get(index as usize).is_none_or(|&o| o == 0);
        let bad = |e: &Entry| is_hole(e.first) || is_hole(e.first + (e.count - 1));
        if self.entries.iter().any(bad) {
            Err(Bad::Value)
        } else {
            Ok(())
        }
    }

    /// The first message of the stream at or after `seq`, if this segment can tell: see [`Find`].
    pub(crate) fn find(&self, stream: u32, seq: u64) -> Find {
        if self.first_seq(stream).is_some_and(|first| seq < first) {
            return Find::Before;
        }
        match self.at_or_after(stream, seq) {
            Some((seq, lsn)) => Find::At { seq, lsn },
            None => Find::After,
        }
    }

    /// Sequence and LSN of the first message of the stream in this segment at or after `seq`.
    pub(crate) fn at_or_after(&self, stream: u32, seq: u64) -> Option<(u64, u64)> {
        let entries = self.entries_of(stream);
        let entry = &entries[entries.partition_point(|e| e.end_seq() <= seq)..].first()?;
        let from = seq.max(entry.first_seq);
        let skip = usize::try_from(from - entry.first_seq).ok()?;
        let start = entry.first as usize;
        let offsets = self
            .offsets
            .get(start..start + entry.count as usize)?
            .get(skip..)?;
        let (seq, offset) = (from..).zip(offsets).find(|&(_, &offset)| offset != 0)?;
        Some((seq, self.header.base + 16 * u64::from(*offset)))
    }

    /// The lowest sequence of the stream in this segment.
    pub(crate) fn first_seq(&self, stream: u32) -> Option<u64> {
        self.entries_of(stream).first().map(|e| e.first_seq)
    }

    /// One more than the highest sequence of the stream in this segment.
    pub(crate) fn end_seq(&self, stream: u32) -> Option<u64> {
        self.entries_of(stream).last().map(Entry::end_seq)
    }

    /// How many messages of the stream are in this segment.
    pub(crate) fn count(&self, stream: u32) -> u64 {
        let offsets = |e: &Entry| {
            let start = e.first as usize;
            self.offsets.get(start..start + e.count as usize)
        };
        let there = |offsets: &[u32]| offsets.iter().filter(|&&offset| offset != 0).count() as u64;
        let entries = self.entries_of(stream).iter();
        entries.filter_map(offsets).map(there).sum()
    }

    /// The streams that have messages in this segment, ascending.
    pub(crate) fn streams(&self) -> impl Iterator<Item = u32> {
        self.entries
            .chunk_by(|a, b| a.stream == b.stream)
            .filter_map(|c| Some(c.first()?.stream))
    }

    fn entries_of(&self, stream: u32) -> &[Entry] {
        let start = self.entries.partition_point(|e| e.stream < stream);
        let end = self.entries.partition_point(|e| e.stream <= stream);
        &self.entries[start..end]
    }
}

/// Checks every block and joins their payloads.
fn content(bytes: &[u8]) -> Result<Vec<u8>, Bad> {
    if bytes.is_empty() || bytes.len() % BLOCK != 0 {
        return Err(Bad::Length);
    }
    if bytes.get(..8) != Some(&MAGIC) {
        return Err(if super::is_zero(&bytes[..BLOCK]) {
            Bad::Zero
        } else {
            Bad::Value
        });
    }
    let mut salt = Reader::new(bytes);
    salt.bytes(48)?;
    let salt = salt.u64()?;
    let mut content = Vec::with_capacity(bytes.len() / BLOCK * PAYLOAD);
    for (number, block) in (0u64..).zip(bytes.chunks_exact(BLOCK)) {
        let (payload, sum) = block.split_at(PAYLOAD);
        if block_crc(payload, number, salt).to_le_bytes() != *sum {
            return Err(Bad::Checksum);
        }
        content.extend_from_slice(payload);
    }
    Ok(content)
}

fn size(count: u32, unit: usize) -> Result<usize, Bad> {
    usize::try_from(count)
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or(Bad::Length)
}

/// Entries ascend by stream and sequence, do not overlap, and share out the offsets exactly.
fn entries(bytes: &[u8], offsets: usize) -> Result<Vec<Entry>, Bad> {
    let mut r = Reader::new(bytes);
    let mut entries: Vec<Entry> = Vec::with_capacity(bytes.len() / ENTRY);
    let mut next = 0u32;
    while !r.is_empty() {
        let (stream, count, first_seq, first) = (r.u32()?, r.u32()?, r.u64()?, r.u32()?);
        r.zeros(4)?;
        let follows = entries.last().is_none_or(|last| {
            last.stream < stream || (last.stream == stream && last.end_seq() <= first_seq)
        });
        let fits = count > 0 && first == next && first_seq.checked_add(count.into()).is_some();
        if !follows || !fits {
            return Err(Bad::Value);
        }
        next = next.checked_add(count).ok_or(Bad::Value)?;
        entries.push(Entry {
            stream,
            count,
            first_seq,
            first,
        });
    }
    if next as usize == offsets {
        Ok(entries)
    } else {
        Err(Bad::Length)
    }
}

/// Offsets are holes or lie behind the header block and before the segment's end.
fn offsets(bytes: &[u8], span: u64) -> Result<Vec<u32>, Bad> {
    let min = u32::try_from(HEADER_BLOCK / 16).map_err(|_| Bad::Value)?;
    let mut r = Reader::new(bytes);
    let mut offsets = Vec::with_capacity(bytes.len() / 4);
    while !r.is_empty() {
        let offset = r.u32()?;
        if offset != 0 && (offset < min || 16 * u64::from(offset) >= span) {
            return Err(Bad::Value);
        }
        offsets.push(offset);
    }
    Ok(offsets)
}
