//! What a message carries besides its body: the extension area of MSG and CHUNK records.
//!
//! A MSG's extensions are a list of (tag, length, value). Tag 0 ends it. Tags below 128 have a
//! length of one byte, the others one of two, so that an unknown tag can be skipped. The time of
//! sending always comes first, so that [`sent_at`] need not read the rest.

use super::{Bad, Reader, Writer, is_zero};

/// The longest extension area of a message.
pub(crate) const MAX_EXT: usize = 64 << 10;
/// The longest key, order key, tag and trace.
pub(crate) const MAX_SHORT: usize = 255;

const END: u8 = 0;
const SENT_AT: u8 = 1;
const KEY: u8 = 2;
const ORDER_KEY: u8 = 3;
const TAG: u8 = 4;
const PRODUCER: u8 = 5;
const DELIVER_AT: u8 = 6;
const PRIORITY: u8 = 7;
const TTL: u8 = 8;
const DEDUP: u8 = 9;
const TRACE: u8 = 10;
const CHUNKS: u8 = 11;
const ORIGIN: u8 = 12;
const HEADER: u8 = 128;
/// From this tag on, lengths have two bytes.
const WIDE: u8 = 128;
const CHUNKS_SIZE: u8 = 20;

/// Where the body of a message in chunks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// LSN of the first CHUNK record.
    pub(crate) first_lsn: u64,
    /// Number of chunks.
    pub(crate) count: u32,
    /// Length of the whole body.
    pub(crate) body_len: u64,
}

/// Everything about a message but its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta<'a> {
    /// When it was sent, in ms since 1970.
    pub(crate) sent_at_ms: u64,
    /// Key to look it up by.
    pub(crate) key: Option<&'a str>,
    /// Tag to filter by.
    pub(crate) tag: Option<&'a str>,
    /// Messages with equal order keys are delivered one after the other.
    pub(crate) order_key: Option<&'a str>,
    /// Headers in the order given; names may repeat.
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
    /// Name of the producer and the message's sequence there.
    pub(crate) producer: Option<(&'a str, u64)>,
    /// Where the body is, unless it follows.
    pub(crate) chunks: Option<Chunks>,
    /// Not to be delivered before, in ms since 1970.
    pub(crate) deliver_at_ms: Option<u64>,
    /// Priority 0 to 9.
    pub(crate) priority: Option<u8>,
    /// Time to live, in ms.
    pub(crate) ttl_ms: Option<u64>,
    /// Hash of the deduplication id.
    pub(crate) dedup: Option<u128>,
    /// Trace context, opaque.
    pub(crate) trace: Option<&'a [u8]>,
    /// LSN of the message this one's content was taken from.
    pub(crate) origin: Option<u64>,
}

impl<'a> Meta<'a> {
    /// Appends the extensions. [`Bad::Length`], and nothing appended, when a part is over its
    /// limit or the whole is over [`MAX_EXT`].
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), Bad> {
        let start = out.len();
        let result = self.append_to(out);
        if result.is_err() || out.len() - start > MAX_EXT {
            out.truncate(start);
            return Err(Bad::Length);
        }
        Ok(())
    }

    fn append_to(&self, out: &mut Vec<u8>) -> Result<(), Bad> {
        short(out, SENT_AT, &[&self.sent_at_ms.to_le_bytes()])?;
        let texts = [
            (KEY, self.key),
            (ORDER_KEY, self.order_key),
            (TAG, self.tag),
        ];
        for (tag, text) in texts {
            if let Some(text) = text {
                short(out, tag, &[text.as_bytes()])?;
            }
        }
        if let Some((name, sequence)) = self.producer {
            short(out, PRODUCER, &[&sequence.to_le_bytes(), name.as_bytes()])?;
        }
        let numbers = [
            (DELIVER_AT, self.deliver_at_ms),
            (TTL, self.ttl_ms),
            (ORIGIN, self.origin),
        ];
        for (tag, number) in numbers {
            if let Some(number) = number {
                short(out, tag, &[&number.to_le_bytes()])?;
            }
        }
        if let Some(priority) = self.priority {
            short(out, PRIORITY, &[&[priority]])?;
        }
        if let Some(hash) = self.dedup {
            short(out, DEDUP, &[&hash.to_le_bytes()])?;
        }
        if let Some(trace) = self.trace {
            short(out, TRACE, &[trace])?;
        }
        if let Some(chunks) = &self.chunks {
            let mut w = Writer::new(out);
            w.u8(CHUNKS).u8(CHUNKS_SIZE);
            w.u64(chunks.first_lsn)
                .u32(chunks.count)
                .u64(chunks.body_len);
        }
        self.headers
            .iter()
            .try_for_each(|(name, value)| header(out, name, value))
    }

    /// Reads an extension area. Unknown tags are skipped.
    pub(crate) fn decode(ext: &'a [u8]) -> Result<Meta<'a>, Bad> {
        if ext.len() > MAX_EXT + 15 {
            return Err(Bad::Length);
        }
        let mut meta = Meta::default();
        let mut r = Reader::new(ext);
        let mut seen = 0u16;
        while !r.is_empty() {
            let tag = r.u8()?;
            if tag == END {
                return if is_zero(r.rest()) {
                    Ok(meta)
                } else {
                    Err(Bad::Value)
                };
            }
            let len = if tag < WIDE {
                usize::from(r.u8()?)
            } else {
                usize::from(r.u16()?)
            };
            let value = r.bytes(len)?;
            if tag <= ORIGIN {
                let bit = 1u16 << tag;
                if seen & bit != 0 {
                    return Err(Bad::Value);
                }
                seen |= bit;
            }
            meta.take(tag, value)?;
        }
        Ok(meta)
    }

    fn take(&mut self, tag: u8, value: &'a [u8]) -> Result<(), Bad> {
        match tag {
            SENT_AT => self.sent_at_ms = number(value)?,
            KEY => self.key = Some(text(value)?),
            ORDER_KEY => self.order_key = Some(text(value)?),
            TAG => self.tag = Some(text(value)?),
            PRODUCER => {
                let mut r = Reader::new(value);
                let sequence = r.u64()?;
                self.producer = Some((text(r.rest())?, sequence));
            }
            DELIVER_AT => self.deliver_at_ms = Some(number(value)?),
            PRIORITY => self.priority = Some(u8::from_le_bytes(exact(value)?)),
            TTL => self.ttl_ms = Some(number(value)?),
            DEDUP => self.dedup = Some(u128::from_le_bytes(exact(value)?)),
            TRACE => self.trace = Some(value),
            CHUNKS => self.chunks = Some(chunks(value)?),
            ORIGIN => self.origin = Some(number(value)?),
            HEADER => {
                let mut r = Reader::new(value);
                let name = r.text(usize::from(u16::MAX))?;
                self.headers.push((name, r.rest()));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Appends the extensions of a message that has nothing but a body and the time at which it was
/// sent, in ms since 1970: the same bytes as [`Meta::encode_into`].
#[inline]
pub(crate) fn encode_sent_at(sent_at_ms: u64, out: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h] = sent_at_ms.to_le_bytes();
    out.extend_from_slice(&[SENT_AT, 8, a, b, c, d, e, f, g, h]);
}

/// The time of sending, in ms since 1970, of a message that has nothing else.
#[inline]
pub(crate) fn only_sent_at(ext: &[u8]) -> Option<u64> {
    let (sent_at, rest) = ext.split_first_chunk::<10>()?;
    let only = rest.len() == 6 && is_zero(rest);
    only.then(|| self::sent_at(sent_at)).flatten()
}

/// The time of sending alone, in ms since 1970; `None` when it is not where writers put it.
pub(crate) fn sent_at(ext: &[u8]) -> Option<u64> {
    match ext.first_chunk::<10>()? {
        [SENT_AT, 8, value @ ..] => Some(u64::from_le_bytes(*value)),
        _ => None,
    }
}

fn short(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) -> Result<(), Bad> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let len = u8::try_from(len).map_err(|_| Bad::Length)?;
    out.extend_from_slice(&[tag, len]);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), Bad> {
    let len = name.len().saturating_add(value.len()).saturating_add(2);
    let len = u16::try_from(len).map_err(|_| Bad::Length)?;
    let mut w = Writer::new(out);
    w.u8(HEADER).u16(len).text(name, name.len()).bytes(value);
    Ok(())
}

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Bad> {
    value.try_into().map_err(|_| Bad::Length)
}

fn number(value: &[u8]) -> Result<u64, Bad> {
    Ok(u64::from_le_bytes(exact(value)?))
}

fn text(value: &[u8]) -> Result<&str, Bad> {
    std::str::from_utf8(value).map_err(|_| Bad::Value)
}

fn chunks(value: &[u8]) -> Result<Chunks, Bad> {
    let mut r = Reader::new(value);
    let chunks = Chunks {
        first_lsn: r.u64()?,
        count: r.u32()?,
        body_len: r.u64()?,
    };
    r.end()?;
    if chunks.count == 0 {
        Err(Bad::Value)
    } else {
        Ok(chunks)
    }
}

/// The extension area of a CHUNK record: exactly 16 bytes, no tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkExt {
    /// The chunk's number, from 0.
    pub(crate) number: u32,
    /// How many chunks the body has.
    pub(crate) total: u32,
    /// LSN of the first chunk; 0 in the first itself, which does not know it yet.
    pub(crate) first_lsn: u64,
}

impl ChunkExt {
    /// Size of the encoded form.
    pub(crate) const SIZE: usize = 16;

    /// The extension area.
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&self.number.to_le_bytes());
        out[4..8].copy_from_slice(&self.total.to_le_bytes());
        out[8..].copy_from_slice(&self.first_lsn.to_le_bytes());
        out
    }

    /// Reads an extension area.
    pub(crate) fn decode(ext: &[u8]) -> Result<ChunkExt, Bad> {
        let mut r = Reader::new(ext);
        let chunk = ChunkExt {
            number: r.u32()?,
            total: r.u32()?,
            first_lsn: r.u64()?,
        };
        r.end()?;
        let is_first = chunk.number == 0;
        if chunk.number >= chunk.total || is_first != (chunk.first_lsn == 0) {
            return Err(Bad::Value);
        }
        Ok(chunk)
    }
}
