//! BATCH: several records under one checksum, so that they count together or not at all.

use crate::format::record::{ALIGN, Draft, HEADER, Kind, MAX_RECORD, known_kind, padded};
use crate::format::{Bad, Reader, Writer, round_up};

const SUB_HEADER: usize = 24;
const SUB_SEQ: usize = 16;
const SUB_ALIGN: usize = 8;

/// The longest body of a BATCH.
pub(crate) const MAX_BATCH_BODY: usize = MAX_RECORD - HEADER;

/// Collects the parts of a BATCH.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchBuilder {
    body: Vec<u8>,
    starts: Vec<usize>,
}

impl BatchBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a part and returns its index. [`Bad::Length`], and nothing added, when the batch
    /// would be too long; [`Bad::Kind`] for a kind that may not stand in a batch.
    pub(crate) fn push(
        &mut self,
        kind: Kind,
        flags: u8,
        stream: u32,
        seq: u64,
        ext: &[u8],
        body_parts: &[&[u8]],
    ) -> Result<usize, Bad> {
        if !may_nest(kind) {
            return Err(Bad::Kind);
        }
        let body = body_parts
            .iter()
            .map(|part| part.len())
            .fold(0, usize::saturating_add);
        let len = Self::cost(ext.len(), body);
        if len > MAX_BATCH_BODY - self.body.len() {
            return Err(Bad::Length);
        }
        let unpadded = u32::try_from(SUB_HEADER + padded(ext.len()) + body);
        let ext_len = u16::try_from(padded(ext.len()) / ALIGN);
        let start = self.body.len();
        let mut w = Writer::new(&mut self.body);
        w.u32(unpadded.map_err(|_| Bad::Length)?)
            .u8(kind as u8)
            .u8(flags);
        w.u16(ext_len.map_err(|_| Bad::Length)?)
            .u32(stream)
            .zeros(4)
            .u64(seq);
        w.bytes(ext).zeros(padded(ext.len()) - ext.len());
        for part in body_parts {
            w.bytes(part);
        }
        self.body.resize(start + len, 0);
        self.starts.push(start);
        Ok(self.starts.len() - 1)
    }

    /// Bytes that a part with so much extension and body takes in a batch.
    pub(crate) const fn cost(ext: usize, body: usize) -> usize {
        round_up(
            SUB_HEADER.saturating_add(padded(ext)).saturating_add(body),
            SUB_ALIGN,
        )
    }

    /// Number of parts.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of the body so far.
    pub(crate) fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Sets the sequence of a part, before the record is built.
    pub(crate) fn patch_seq(&mut self, index: usize, seq: u64) {
        let at = self.starts[index] + SUB_SEQ;
        self.body[at..at + 8].copy_from_slice(&seq.to_le_bytes());
    }

    /// Sets the sequence of a part in the record that [`BatchBuilder::build`] made, which the
    /// engine does under its lock; [`Draft::reseal_payload`] must follow the last one.
    pub(crate) fn patch_draft_seq(&self, draft: &mut Draft, index: usize, seq: u64) {
        draft.patch_body_u64(self.starts[index] + SUB_SEQ, seq);
    }

    /// Where the part will start, counted from the start of the record: [`Sub::offset`].
    pub(crate) fn offset(&self, index: usize) -> usize {
        HEADER + self.starts[index]
    }

    /// The record.
    pub(crate) fn build(&self) -> Draft {
        Draft::new(Kind::Batch, 0, 0, &[], &[&self.body])
    }
}

/// Batches do not nest, and what ends or describes the log itself stands alone.
fn may_nest(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Batch | Kind::Seal | Kind::Snap | Kind::Chunk | Kind::Loss
    )
}

/// One part of a BATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sub<'a> {
    /// Where its sub-header starts, from the start of the BATCH record; a multiple of 8. The
    /// record's LSN plus this identifies the part for ever.
    pub(crate) offset: usize,
    /// The number of the kind, perhaps one this version does not know.
    pub(crate) kind: u8,
    /// As in a record's header.
    pub(crate) flags: u8,
    /// The topic or group, by its id.
    pub(crate) stream: u32,
    /// The sequence in the stream, for kinds that take one.
    pub(crate) seq: u64,
    /// The extension area, zero-padded to 16 bytes.
    pub(crate) ext: &'a [u8],
    /// The body.
    pub(crate) body: &'a [u8],
}

impl Sub<'_> {
    /// The kind; `None` for one that is unknown but may be skipped, else [`Bad::Kind`].
    pub(crate) fn kind(&self) -> Result<Option<Kind>, Bad> {
        match known_kind(self.kind, self.flags)? {
            Some(kind) if !may_nest(kind) => Err(Bad::Kind),
            kind => Ok(kind),
        }
    }
}

/// The parts of a BATCH in order, from the body of its record. Ends after the first error.
///
/// A BATCH applies wholly or not at all, so a reader goes through all of it before it applies any.
pub(crate) fn iter(body: &[u8]) -> impl Iterator<Item = Result<Sub<'_>, Bad>> {
    let mut r = Reader::new(body);
    let mut offset = HEADER;
    std::iter::from_fn(move || {
        if r.is_empty() {
            return None;
        }
        let before = r.len();
        let sub = next(&mut r, offset);
        if sub.is_err() {
            r.rest();
        }
        offset += before - r.len();
        Some(sub)
    })
}

fn next<'a>(r: &mut Reader<'a>, offset: usize) -> Result<Sub<'a>, Bad> {
    let len = usize::try_from(r.u32()?).map_err(|_| Bad::Length)?;
    let kind = r.u8()?;
    let flags = r.u8()?;
    let ext_len = ALIGN * usize::from(r.u16()?);
    let stream = r.u32()?;
    r.zeros(4)?;
    let seq = r.u64()?;
    let ext = r.bytes(ext_len)?;
    let body_len = len.checked_sub(SUB_HEADER + ext_len).ok_or(Bad::Length)?;
    let body = r.bytes(body_len)?;
    r.zeros(round_up(len, SUB_ALIGN) - len)?;
    let sub = Sub {
        offset,
        kind,
        flags,
        stream,
        seq,
        ext,
        body,
    };
    sub.kind()?;
    Ok(sub)
}
