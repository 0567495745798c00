//! Bodies of the records that are not messages.
//!
//! Each type encodes to the whole body and decodes from the whole body: bytes left over are an
//! error. Reserved bytes are written as zero and checked. Lists say their length, which must
//! match the bytes that are there before anything is allocated for it.

mod batch;
mod config;
mod snap;

pub(crate) use batch::{BatchBuilder, MAX_BATCH_BODY, Sub, iter};
pub(crate) use config::{Config, GroupConfig, Kept, MAX_TAGS, ProducerOpen, TopicConfig};
pub(crate) use snap::{
    RESULTS, SendResult, SnapHead, SnapItem, SnapPiece, SnapWriter, decode_items,
};

use super::{Bad, Reader, Writer};

/// The longest reason of a dead letter or a loss; longer ones are cut.
pub(crate) const MAX_REASON: usize = 1024;

/// Consecutive sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first sequence.
    pub(crate) first: u64,
    /// How many, at least 1.
    pub(crate) count: u32,
}

/// Why sequences are settled. Readers accept reasons they do not know: settled is settled.
pub(crate) mod reason {
    /// Acknowledged by a consumer.
    pub(crate) const ACKED: u8 = 0;
    /// Not wanted by the group's filter.
    pub(crate) const FILTERED: u8 = 1;
    /// Its time to live was over.
    pub(crate) const EXPIRED: u8 = 2;
    /// Lost through damage.
    pub(crate) const LOST: u8 = 3;
    /// Moved to the dead letters.
    pub(crate) const DEAD: u8 = 4;
    /// The group's consumers were told of a loss: its first sequence, and how many messages in all.
    /// There may be whole messages between, so it settles nothing.
    pub(crate) const TOLD: u8 = 5;
    /// Dead letters were purged: the sequences are those of the group's dead-letter stream. It
    /// settles nothing.
    pub(crate) const REMOVED: u8 = 6;
}

/// ACK: sequences settled for the group in the header's `stream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// At least one run, in any order.
    pub(crate) runs: Vec<Run>,
    /// One of [`reason`].
    pub(crate) reason: u8,
}

impl Ack {
    /// The body of an ACK of one sequence is this short where possible: one-by-one settling
    /// writes one 48-byte record per message.
    pub(crate) const SHORT: usize = 8;
    const RUN: usize = 12;

    /// The most runs one record can hold.
    pub(crate) const MAX_RUNS: usize =
        (super::record::MAX_RECORD - super::record::HEADER - 8) / Self::RUN;

    /// The short form, if the sequence fits it.
    pub(crate) fn encode_one(sequence: u64, reason: u8) -> Option<[u8; Self::SHORT]> {
        (sequence < 1 << 56).then(|| (sequence << 8 | u64::from(reason)).to_le_bytes())
    }

    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        if let [Run { first, count: 1 }] = self.runs[..] {
            if let Some(short) = Self::encode_one(first, self.reason) {
                return short.to_vec();
            }
        }
        let count = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(8 + Self::RUN * self.runs.len());
        let mut w = Writer::new(&mut out);
        w.u8(self.reason).zeros(3).u32(count);
        for run in &self.runs {
            w.u64(run.first).u32(run.count);
        }
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Ack, Bad> {
        let mut r = Reader::new(body);
        if body.len() == Self::SHORT {
            let word = r.u64()?;
            let reason = (word & 0xff) as u8;
            return Ok(Ack {
                runs: vec![Run {
                    first: word >> 8,
                    count: 1,
                }],
                reason,
            });
        }
        let reason = r.u8()?;
        r.zeros(3)?;
        let count = list_len(&mut r, Self::RUN)?;
        if count == 0 {
            return Err(Bad::Length);
        }
        let mut runs = Vec::with_capacity(count);
        while !r.is_empty() {
            let run = Run {
                first: r.u64()?,
                count: r.u32()?,
            };
            if run.count == 0 || run.first.checked_add(u64::from(run.count)).is_none() {
                return Err(Bad::Value);
            }
            runs.push(run);
        }
        Ok(Ack { runs, reason })
    }
}

/// Reads the length of a list that is the rest of the body, its elements of `size` bytes each.
fn list_len(r: &mut Reader<'_>, size: usize) -> Result<usize, Bad> {
    let count = usize::try_from(r.u32()?).map_err(|_| Bad::Length)?;
    if count.checked_mul(size) == Some(r.len()) {
        Ok(count)
    } else {
        Err(Bad::Length)
    }
}

/// RETRY: a delivery failed, for the group in the header's `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// The message's sequence.
    pub(crate) seq: u64,
    /// The message's LSN.
    pub(crate) lsn: u64,
    /// Deliveries so far.
    pub(crate) attempts: u32,
    /// How many of them ended by the death of their process.
    pub(crate) crashes: u32,
    /// When the next one is due, in ms since 1970.
    pub(crate) due_ms: u64,
}

impl Retry {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        let mut w = Writer::new(&mut out);
        w.u64(self.seq)
            .u64(self.lsn)
            .u32(self.attempts)
            .u32(self.crashes)
            .u64(self.due_ms);
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Retry, Bad> {
        let mut r = Reader::new(body);
        let retry = Retry {
            seq: r.u64()?,
            lsn: r.u64()?,
            attempts: r.u32()?,
            crashes: r.u32()?,
            due_ms: r.u64()?,
        };
        r.end()?;
        Ok(retry)
    }
}

/// RELEASE: a message that is in the log already gets a place in the stream of the header, at the
/// header's `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// LSN of the message's record.
    pub(crate) origin_lsn: u64,
    /// The stream it comes from.
    pub(crate) source_stream: u32,
    /// The group whose dead letter it is, or that gets it again; 0 = none.
    pub(crate) group: u32,
    /// Its sequence in the stream it comes from.
    pub(crate) source_seq: u64,
    /// Deliveries before.
    pub(crate) attempts: u32,
    /// Why, as a number of the engine's.
    pub(crate) reason_code: u8,
    /// When it was given up, in ms since 1970; 0 when it was not.
    pub(crate) dead_at_ms: u64,
    /// Why, in words; cut at [`MAX_REASON`] bytes.
    pub(crate) reason: String,
}

impl Release {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(42 + self.reason.len().min(MAX_REASON));
        let mut w = Writer::new(&mut out);
        w.u64(self.origin_lsn)
            .u32(self.source_stream)
            .u32(self.group)
            .u64(self.source_seq);
        w.u32(self.attempts)
            .u8(self.reason_code)
            .zeros(3)
            .u64(self.dead_at_ms);
        w.text(&self.reason, MAX_REASON);
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Release, Bad> {
        let mut r = Reader::new(body);
        let origin_lsn = r.u64()?;
        let source_stream = r.u32()?;
        let group = r.u32()?;
        let source_seq = r.u64()?;
        let attempts = r.u32()?;
        let reason_code = r.u8()?;
        r.zeros(3)?;
        let dead_at_ms = r.u64()?;
        let reason = r.text(MAX_REASON)?.to_owned();
        r.end()?;
        Ok(Release {
            origin_lsn,
            source_stream,
            group,
            source_seq,
            attempts,
            reason_code,
            dead_at_ms,
            reason,
        })
    }
}

/// SEAL: the segment ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Base LSN of the next segment.
    pub(crate) next_base: u64,
    /// Number of the next segment.
    pub(crate) next_number: u32,
}

impl Seal {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        Writer::new(&mut out)
            .u64(self.next_base)
            .u32(self.next_number)
            .zeros(4);
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Seal, Bad> {
        let mut r = Reader::new(body);
        let seal = Seal {
            next_base: r.u64()?,
            next_number: r.u32()?,
        };
        r.zeros(4)?;
        r.end()?;
        Ok(seal)
    }
}

/// SEEK: the group in the header's `stream` goes on at `seq`; its slots and earlier acks are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seek {
    /// The new cursor.
    pub(crate) seq: u64,
    /// The group's generation from here on.
    pub(crate) generation: u32,
}

impl Seek {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        Writer::new(&mut out)
            .u64(self.seq)
            .u32(self.generation)
            .zeros(4);
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Seek, Bad> {
        let mut r = Reader::new(body);
        let seek = Seek {
            seq: r.u64()?,
            generation: r.u32()?,
        };
        r.zeros(4)?;
        r.end()?;
        Ok(seek)
    }
}

/// Sequences of one stream that are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The topic.
    pub(crate) stream: u32,
    /// The first lost sequence.
    pub(crate) first: u64,
    /// How many, at least 1.
    pub(crate) count: u64,
}

/// LOSS: the LSNs [from, to) are damaged; the gaps settle what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// First damaged LSN.
    pub(crate) from: u64,
    /// First LSN behind the damage.
    pub(crate) to: u64,
    /// What it took with it.
    pub(crate) gaps: Vec<Gap>,
    /// What was found, in words; cut at [`MAX_REASON`] bytes.
    pub(crate) reason: String,
}

impl Loss {
    const GAP: usize = 24;
    /// The most gaps one record can hold.
    pub(crate) const MAX_GAPS: usize =
        (super::record::MAX_RECORD - super::record::HEADER - 24 - MAX_REASON) / Self::GAP;

    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.u64(self.from).u64(self.to).text(&self.reason, MAX_REASON);
        w.u32(u32::try_from(self.gaps.len()).unwrap_or(u32::MAX));
        for gap in &self.gaps {
            w.u32(gap.stream).zeros(4).u64(gap.first).u64(gap.count);
        }
        out
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Loss, Bad> {
        let mut r = Reader::new(body);
        let from = r.u64()?;
        let to = r.u64()?;
        let reason = r.text(MAX_REASON)?.to_owned();
        let count = list_len(&mut r, Self::GAP)?;
        if from >= to {
            return Err(Bad::Value);
        }
        let mut gaps = Vec::with_capacity(count);
        while !r.is_empty() {
            let stream = r.u32()?;
            r.zeros(4)?;
            let gap = Gap {
                stream,
                first: r.u64()?,
                count: r.u64()?,
            };
            if gap.count == 0 || gap.first.checked_add(gap.count).is_none() {
                return Err(Bad::Value);
            }
            gaps.push(gap);
        }
        Ok(Loss {
            from,
            to,
            gaps,
            reason,
        })
    }
}

/// MOVED: a record copied forward. It keeps its identity: its LSN, sequence and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved<'a> {
    /// Where the record was first.
    pub(crate) original_lsn: u64,
    /// Its bytes with the padding, for [`super::record::parse_carried`].
    pub(crate) record: &'a [u8],
}

impl<'a> Moved<'a> {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.record.len());
        Writer::new(&mut out)
            .u64(self.original_lsn)
            .bytes(self.record);
        out
    }

    /// Reads a body. The record in it is not looked at.
    pub(crate) fn decode(body: &'a [u8]) -> Result<Moved<'a>, Bad> {
        let mut r = Reader::new(body);
        Ok(Moved {
            original_lsn: r.u64()?,
            record: r.rest(),
        })
    }
}

/// CANCEL: the delayed or half message at `lsn` is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cancel {
    /// LSN of the message's record.
    pub(crate) lsn: u64,
}

impl Cancel {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.lsn.to_le_bytes().to_vec()
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Cancel, Bad> {
        let mut r = Reader::new(body);
        let cancel = Cancel { lsn: r.u64()? };
        r.end()?;
        Ok(cancel)
    }
}

/// WATERMARK: everything below `durable` was durable when this was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// The durable watermark.
    pub(crate) durable: u64,
}

impl Watermark {
    /// The body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.durable.to_le_bytes().to_vec()
    }

    /// Reads a body.
    pub(crate) fn decode(body: &[u8]) -> Result<Watermark, Bad> {
        let mut r = Reader::new(body);
        let watermark = Watermark { durable: r.u64()? };
        r.end()?;
        Ok(watermark)
    }
}
