//! What ties records together across the log: copies that were moved forward, and references.
//!
//! A record keeps the LSN it was first written at for ever, whatever became of that place: whoever
//! names it (a slot, a dead letter, a list of chunks, an index) names this *original* LSN. A MOVED
//! record says where a copy of it lies. Segments are given back when nothing that is live lies in
//! them without such a copy further on; which records are live follows from the messages, and from
//! the references of those that are.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Meta;
use super::payload::{self, Moved, Release};
use super::record::{self, Kind, Record};
use super::{Bad, Reader, Writer};

/// One record refers to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    /// Original LSN of the record that is needed.
    pub(crate) target: u64,
    /// Original LSN of the record that needs it.
    pub(crate) from: u64,
    /// The message it needs it for: stream and sequence.
    pub(crate) stream: u32,
    pub(crate) seq: u64,
}

/// The links of one segment's records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// Records that were moved here: original LSN to that of the MOVED record.
    pub(crate) copies: BTreeMap<u64, u64>,
    /// Messages that were moved here: stream and sequence to the original LSN of their record.
    pub(crate) messages: BTreeMap<(u32, u64), u64>,
    /// What records in it refer to, moved ones included.
    pub(crate) references: BTreeSet<Reference>,
}

const COPY: usize = 16;
const MESSAGE: usize = 24;
const REFERENCE: usize = 32;

/// What is told of a message or release: stream, sequence, kind, extensions and body.
type Visit<'v> = dyn FnMut(u32, u64, Kind, &[u8], &[u8]) -> Result<(), Bad> + 'v;

/// Calls `visit` with each message or release that a record holds, alone or in a batch.
fn each_message(record: &Record<'_>, visit: &mut Visit<'_>) -> Result<(), Bad> {
    let header = &record.header;
    match header.kind()? {
        Some(kind @ (Kind::Msg | Kind::Release)) => {
            visit(header.stream, header.seq, kind, record.ext, record.body)
        }
        Some(Kind::Batch) => {
            for sub in payload::iter(record.body) {
                let sub = sub?;
                if let Some(kind @ (Kind::Msg | Kind::Release)) = sub.kind()? {
                    visit(sub.stream, sub.seq, kind, sub.ext, sub.body)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

impl Links {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.references.is_empty()
    }

    /// Adds those of the record at `lsn`: all, or none if it does not make sense.
    pub(crate) fn add(&mut self, lsn: u64, record: &Record<'_>) -> Result<(), Bad> {
        if record.header.kind()? != Some(Kind::Moved) {
            return self.add_references(lsn, record);
        }
        let moved = Moved::decode(record.body)?;
        let carried = record::parse_carried(moved.record)?;
        if moved.original_lsn >= lsn {
            return Err(Bad::Value);
        }
        self.add_references(moved.original_lsn, &carried)?;
        self.copies.insert(moved.original_lsn, lsn);
        each_message(&carried, &mut |stream, seq, _, _, _| {
            self.messages.insert((stream, seq), moved.original_lsn);
            Ok(())
        })
    }

    fn add_references(&mut self, from: u64, record: &Record<'_>) -> Result<(), Bad> {
        let mut found = Vec::new();
        each_message(record, &mut |stream, seq, kind, ext, body| {
            let mut refer = |target| {
                // References go back; anything else is refused by whoever follows it.
                if target < from {
                    found.push(Reference {
                        target,
                        from,
                        stream,
                        seq,
                    });
                }
            };
            if kind == Kind::Release {
                refer(Release::decode(body)?.origin_lsn);
            } else if Meta::decode(ext)?.chunks.is_some() {
                for word in body.chunks_exact(8) {
                    refer(u64::from_le_bytes(word.try_into().unwrap_or_default()));
                }
            }
            Ok(())
        })?;
        self.references.extend(found);
        Ok(())
    }

    /// The first messages of a stream that were moved here, from this sequence on.
    pub(crate) fn messages_from(
        &self,
        stream: u32,
        seq: u64,
    ) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.messages
            .range((stream, seq)..=(stream, u64::MAX))
            .map(|(&(_, seq), &original)| (seq, original))
    }

    /// The lowest LSN that any of them names.
    pub(crate) fn lowest(&self) -> Option<u64> {
        let copied = self.copies.keys().next().copied();
        let target = self.references.first().map(|r| r.target);
        copied.into_iter().chain(target).min()
    }

    /// How many copies and references there are, as a sidecar's header says it.
    pub(super) fn counts(&self) -> [u32; 2] {
        [count(self.copies.len()), count(self.references.len())]
    }

    /// Appends all, in order.
    pub(super) fn write(&self, w: &mut Writer<'_>) {
        if !self.copies.is_empty() {
            w.u32(count(self.messages.len())).zeros(4);
        }
        for (&original, &lsn) in &self.copies {
            w.u64(original).u64(lsn);
        }
        for (&(stream, seq), &original) in &self.messages {
            w.u64(seq).u64(original).u32(stream).zeros(4);
        }
        for r in &self.references {
            w.u64(r.target)
                .u64(r.from)
                .u64(r.seq)
                .u32(r.stream)
                .zeros(4);
        }
    }

    /// Reads what [`Links::write`] wrote for a segment that holds the LSNs in `span`. Each list
    /// ascends.
    pub(super) fn read(
        r: &mut Reader<'_>,
        [copies, references]: [u32; 2],
        span: &std::ops::Range<u64>,
    ) -> Result<Links, Bad> {
        let mut links = Links::default();
        let messages = if copies > 0 { r.u32()? } else { 0 };
        r.zeros(if copies > 0 { 4 } else { 0 })?;
        let mut list = list(r, copies, COPY)?;
        while !list.is_empty() {
            let (original, lsn) = (list.u64()?, list.u64()?);
            let last = links.copies.last_key_value();
            let follows = last.is_none_or(|(&last, _)| last < original);
            if !follows || original >= lsn || lsn % 16 != 0 || !span.contains(&lsn) {
                return Err(Bad::Value);
            }
            links.copies.insert(original, lsn);
        }
        let mut list = self::list(r, messages, MESSAGE)?;
        while !list.is_empty() {
            let (seq, original, stream) = (list.u64()?, list.u64()?, list.u32()?);
            list.zeros(4)?;
            let last = links.messages.last_key_value();
            let follows = last.is_none_or(|(&last, _)| last < (stream, seq));
            if !follows || !links.copies.contains_key(&original) {
                return Err(Bad::Value);
            }
            links.messages.insert((stream, seq), original);
        }
        let mut list = self::list(r, references, REFERENCE)?;
        while !list.is_empty() {
            let (target, from, seq, stream) = (list.u64()?, list.u64()?, list.u64()?, list.u32()?);
            list.zeros(4)?;
            let reference = Reference {
                target,
                from,
                stream,
                seq,
            };
            let follows = links.references.last().is_none_or(|last| *last < reference);
            if !follows || target >= from || from >= span.end {
                return Err(Bad::Value);
            }
            links.references.insert(reference);
        }
        Ok(links)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn list<'a>(r: &mut Reader<'a>, count: u32, size: usize) -> Result<Reader<'a>, Bad> {
    let len = usize::try_from(count)
        .ok()
        .and_then(|n| n.checked_mul(size));
    Ok(Reader::new(r.bytes(len.ok_or(Bad::Length)?)?))
}
