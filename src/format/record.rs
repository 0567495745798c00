//! Records of the commit log: a 40-byte header, extensions, a body, zeros up to 16 bytes.
//!
//! Two checksums divide the work. `pcrc` covers everything behind the header and is computed
//! before the engine lock is taken; `hcrc` covers the header, which holds `pcrc`, together with
//! the record's position and the segment's salt, and is all that is left to do under the lock.
//! A record is therefore valid only at its own LSN in its own segment. `hcrc` is always checked
//! before any other field is believed, the length above all.

use super::header_crc::{crc8, crc52};
use super::{Bad, crc, is_zero, round_up};

/// Size of a record's header.
pub(crate) const HEADER: usize = 40;
/// Records start at multiples of this and are padded to it with zeros.
pub(crate) const ALIGN: usize = 16;
/// No record is longer, header and padding included. The engine's own limits are lower.
pub(crate) const MAX_RECORD: usize = 1 << 20;

/// Flag: a reader that does not know the type skips the record instead of refusing the log.
pub(crate) const SKIPPABLE: u8 = 1;

const HCRC: usize = 0;
const LEN: usize = HCRC + 4;
const LSN16: usize = LEN + 4;
const EPOCH: usize = LSN16 + 4;
const PCRC: usize = EPOCH + 4;
const DUR: usize = PCRC + 4;
const SEQ: usize = DUR + 4;
const STREAM: usize = SEQ + 8;
const KIND: usize = STREAM + 4;
const FLAGS: usize = KIND + 1;
const EXT_LEN: usize = FLAGS + 1;
const _: () = assert!(EXT_LEN + 2 == HEADER && SEQ == 24 && STREAM == 32 && KIND == 36);
const _: () = assert!(MAX_RECORD % ALIGN == 0 && MAX_RECORD / ALIGN <= u16::MAX as usize + 1);

/// The length of a record with its padding.
pub(crate) const fn padded(len: usize) -> usize {
    round_up(len, ALIGN)
}

/// What a record is. The numbers are part of the format and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A message, or the last part of one whose body is in chunks.
    Msg = 1,
    /// A part of a body; invisible without the message that lists it.
    Chunk = 2,
    /// Sequences that are settled for a group.
    Ack = 3,
    /// A failed delivery and when the next one is due.
    Retry = 4,
    /// A place in a stream for a message that is in the log already.
    Release = 5,
    /// Several records that count together or not at all.
    Batch = 6,
    /// The end of a segment.
    Seal = 7,
    /// Creation, change or deletion of a topic or group.
    Config = 8,
    /// A named producer was opened.
    Producer = 9,
    /// A piece of a snapshot.
    Snap = 10,
    /// A group was set to another position.
    Seek = 11,
    /// A live record copied forward, so that its old segment can go.
    Moved = 12,
    /// What was lost through damage, and so counts as settled.
    Loss = 13,
    /// A delayed or half message that is not wanted any more.
    Cancel = 14,
    /// Nothing but the proof that everything before was durable.
    Watermark = 15,
}

impl Kind {
    /// Every kind, in order of its number.
    pub(crate) const ALL: [Kind; 15] = [
        Kind::Msg,
        Kind::Chunk,
        Kind::Ack,
        Kind::Retry,
        Kind::Release,
        Kind::Batch,
        Kind::Seal,
        Kind::Config,
        Kind::Producer,
        Kind::Snap,
        Kind::Seek,
        Kind::Moved,
        Kind::Loss,
        Kind::Cancel,
        Kind::Watermark,
    ];

    /// The kind with this number, if this version knows it.
    pub(crate) fn from_u8(number: u8) -> Option<Kind> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// The kind with this number; `None` for one that is unknown but may be skipped.
pub(crate) fn known_kind(number: u8, flags: u8) -> Result<Option<Kind>, Bad> {
    match Kind::from_u8(number) {
        Some(kind) => Ok(Some(kind)),
        None if number != 0 && flags & SKIPPABLE != 0 => Ok(None),
        None => Err(Bad::Kind),
    }
}

/// A record's header, after its checksum held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Total length, without the padding.
    pub(crate) len: u32,
    /// The low 32 bits of LSN / 16.
    pub(crate) lsn16: u32,
    /// Raised by every unclean recovery; never falls from one record to the next.
    pub(crate) epoch: u32,
    /// Checksum of everything behind the header, padding included.
    pub(crate) pcrc: u32,
    /// How far the durable watermark was behind this record when it was appended, in 16 bytes.
    pub(crate) dur: u32,
    /// The sequence in the stream, for kinds that take one.
    pub(crate) seq: u64,
    /// The topic or group, by its id.
    pub(crate) stream: u32,
    /// The number of the kind, perhaps one this version does not know.
    pub(crate) kind: u8,
    /// [`SKIPPABLE`]; other bits are zero in this version.
    pub(crate) flags: u8,
    /// Length of the extension area, in 16 bytes.
    pub(crate) ext_len: u16,
}

impl Header {
    /// The kind; `None` for one that is unknown but may be skipped, else [`Bad::Kind`].
    pub(crate) fn kind(&self) -> Result<Option<Kind>, Bad> {
        known_kind(self.kind, self.flags)
    }

    /// Bytes the record takes in the log: its length with the padding.
    pub(crate) fn padded_len(&self) -> usize {
        padded(self.len as usize)
    }

    /// Where the body starts in the record.
    pub(crate) fn body_start(&self) -> usize {
        HEADER + ALIGN * usize::from(self.ext_len)
    }

    /// The durable watermark this record, standing at `lsn`, proves; 0 when it was too far back
    /// to say.
    pub(crate) fn proves_durable(&self, lsn: u64) -> u64 {
        if self.dur == u32::MAX {
            return 0;
        }
        lsn.saturating_sub(u64::from(self.dur) * ALIGN as u64)
    }
}

/// The `dur` field of a record at `lsn` appended while `durable` was the watermark. Rounds so as
/// to claim less, never more.
pub(crate) fn durable_distance(lsn: u64, durable: u64) -> u32 {
    u32::try_from(lsn.saturating_sub(durable).div_ceil(ALIGN as u64)).unwrap_or(u32::MAX)
}

/// A record, whole but for what is only known under the engine lock (see [`finish_header`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Header, extensions, body and padding.
    pub(crate) bytes: Vec<u8>,
}

impl Draft {
    /// Lays a record out and computes its payload checksum.
    ///
    /// # Panics
    /// When it would be longer than [`MAX_RECORD`]: no reader would accept it, so callers check
    /// their own, lower limits first (see [`record_len`]).
    pub(crate) fn new(
        kind: Kind,
        flags: u8,
        stream: u32,
        ext: &[u8],
        body_parts: &[&[u8]],
    ) -> Draft {
        let mut bytes = Vec::new();
        Self::build_into(&mut bytes, kind, flags, stream, ext, body_parts);
        Draft { bytes }
    }

    /// As [`Draft::new`], into a buffer whose old content is replaced and whose memory is reused.
    pub(crate) fn build_into(
        buf: &mut Vec<u8>,
        kind: Kind,
        flags: u8,
        stream: u32,
        ext: &[u8],
        body_parts: &[&[u8]],
    ) {
        buf.clear();
        let start = Self::begin(buf, |buf| buf.extend_from_slice(ext));
        Self::finish(buf, start, (kind, flags, stream), body_parts);
    }

    /// Begins a record at the end of `buf`, with what `ext` appends as its extensions, padded;
    /// returns where it starts. [`Draft::finish`] must follow, or a truncation.
    #[inline]
    pub(crate) fn begin(buf: &mut Vec<u8>, ext: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = buf.len();
        buf.extend_from_slice(&[0; HEADER]);
        ext(buf);
        let ext_len = buf.len() - start - HEADER;
        buf.resize(start + HEADER + padded(ext_len), 0);
        start
    }

    /// Adds the body to the record that begins at `start` and computes its payload checksum.
    ///
    /// # Panics
    /// As [`Draft::new`].
    #[inline]
    pub(crate) fn finish(
        buf: &mut Vec<u8>,
        start: usize,
        (kind, flags, stream): (Kind, u8, u32),
        body_parts: &[&[u8]],
    ) {
        // The record's own part begins with its header.
        let ext_len = buf.len().saturating_sub(start + HEADER);
        let len = record_len(ext_len, body_parts.iter().map(|part| part.len()).sum());
        assert!(
            len <= MAX_RECORD,
            "a record of {len} bytes is over the format's limit"
        );
        let end = start + padded(len);
        buf.reserve(end - buf.len());
        for part in body_parts {
            buf.extend_from_slice(part);
        }
        buf.resize(end, 0);
        // Both fit: the record is at most 2^20 bytes long.
        let units = u16::try_from(ext_len / ALIGN).unwrap_or(u16::MAX);
        let record = &mut buf[start..];
        put_u32(record, LEN, u32::try_from(len).unwrap_or(u32::MAX));
        put_u32(record, STREAM, stream);
        record[KIND] = kind as u8;
        record[FLAGS] = flags;
        record[EXT_LEN..EXT_LEN + 2].copy_from_slice(&units.to_le_bytes());
        seal_payload(record);
    }

    /// Computes the payload checksum again, after bytes behind the header were changed.
    pub(crate) fn reseal_payload(&mut self) {
        seal_payload(&mut self.bytes);
    }

    /// The header, for [`finish_header`] and [`set_stream`].
    pub(crate) fn header_mut(&mut self) -> &mut [u8; HEADER] {
        self.bytes
            .first_chunk_mut()
            .expect("a draft starts with a header")
    }

    /// Overwrites eight bytes of the body at `offset`; [`Draft::reseal_payload`] must follow.
    ///
    /// # Panics
    /// When the body does not reach that far.
    pub(crate) fn patch_body_u64(&mut self, offset: usize, value: u64) {
        let units = u16::from_le_bytes([self.bytes[EXT_LEN], self.bytes[EXT_LEN + 1]]);
        let at = HEADER + ALIGN * usize::from(units) + offset;
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// Length of a record whose body has eight bytes and that has no extensions.
pub(crate) const SHORT: usize = HEADER + 8;
const _: () = assert!(SHORT % ALIGN == 0);

/// Lays such a record out as [`Draft::new`] would, without memory of its own.
pub(crate) fn short(kind: Kind, stream: u32, body: [u8; 8]) -> [u8; SHORT] {
    const LENGTH: u32 = 48;
    const _: () = assert!(LENGTH as usize == SHORT);
    let mut record = [0; SHORT];
    record[HEADER..].copy_from_slice(&body);
    put_u32(&mut record, LEN, LENGTH);
    put_u32(&mut record, PCRC, crc8(u64::from_le_bytes(body)));
    put_u32(&mut record, STREAM, stream);
    record[KIND] = kind as u8;
    record
}

/// The unpadded length of a record with so many bytes of extensions and body.
pub(crate) const fn record_len(ext: usize, body: usize) -> usize {
    HEADER.saturating_add(padded(ext)).saturating_add(body)
}

fn seal_payload(record: &mut [u8]) {
    let pcrc = crc32fast::hash(&record[HEADER..]);
    put_u32(record, PCRC, pcrc);
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Fills in what is only known under the engine lock and computes the header's checksum.
pub(crate) fn finish_header(
    header: &mut [u8; HEADER],
    lsn: u64,
    salt: u64,
    epoch: u32,
    dur: u32,
    seq: u64,
) {
    // The words are put together from values, not read back from the header: loads wider than
    // the stores just before them would stall, which doubled the time of this function.
    let words = [
        u64::from(u32_at(header, LEN)) | u64::from(lsn16(lsn)) << 32,
        u64::from(epoch) | u64::from(u32_at(header, PCRC)) << 32,
        u64::from(dur) | seq << 32,
        seq >> 32 | u64::from(u32_at(header, STREAM)) << 32,
    ];
    let hcrc = header_crc(words, u32_at(header, KIND), lsn, salt);
    put_u32(header, HCRC, hcrc);
    for (place, word) in header[LEN..KIND].chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Sets the stream; [`finish_header`] must follow.
pub(crate) fn set_stream(header: &mut [u8; HEADER], stream: u32) {
    put_u32(header, STREAM, stream);
}

fn lsn16(lsn: u64) -> u32 {
    ((lsn / ALIGN as u64) & 0xffff_ffff) as u32
}

/// The checksum of a header's bytes 4..36 as words, its bytes 36..40, and its place.
fn header_crc(mut words: [u64; 4], kind: u32, mut lsn: u64, mut salt: u64) -> u32 {
    if broken!(SaltWithoutPosition) {
        (lsn, salt) = (0, 0);
    }
    if broken!(CrcWithoutLength) {
        words[0] &= !0xffff_ffff;
    }
    let [a, b, c, d] = words;
    let e = u64::from(kind) | lsn << 32;
    let f = lsn >> 32 | salt << 32;
    crc52([a, b, c, d, e, f], (salt >> 32) as u32)
}

fn header_words(header: &[u8; HEADER]) -> [u64; 4] {
    std::array::from_fn(|n| u64_at(header, LEN + 8 * n))
}

/// Reads the header of the record at `lsn` in a segment with this salt.
///
/// [`Bad::Zero`] means that nothing was written here. A kind this version does not know is not an
/// error here, so that its length is known: see [`Header::kind`].
pub(crate) fn parse_header(bytes: &[u8], lsn: u64, salt: u64) -> Result<Header, Bad> {
    let bytes: &[u8; HEADER] = bytes.first_chunk().ok_or(Bad::Length)?;
    if is_zero(bytes) {
        return Err(Bad::Zero);
    }
    let hcrc = header_crc(header_words(bytes), u32_at(bytes, KIND), lsn, salt);
    if u32_at(bytes, HCRC) != hcrc && !broken!(LengthTrustedBeforeCrc) {
        return Err(Bad::Checksum);
    }
    let header = fields(bytes);
    if header.lsn16 != lsn16(lsn) && !broken!(SaltWithoutPosition) {
        return Err(Bad::Value);
    }
    check_lengths(&header)?;
    Ok(header)
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn fields(bytes: &[u8; HEADER]) -> Header {
    Header {
        len: u32_at(bytes, LEN),
        lsn16: u32_at(bytes, LSN16),
        epoch: u32_at(bytes, EPOCH),
        pcrc: u32_at(bytes, PCRC),
        dur: u32_at(bytes, DUR),
        seq: u64_at(bytes, SEQ),
        stream: u32_at(bytes, STREAM),
        kind: bytes[KIND],
        flags: bytes[FLAGS],
        ext_len: u16::from_le_bytes([bytes[EXT_LEN], bytes[EXT_LEN + 1]]),
    }
}

fn check_lengths(header: &Header) -> Result<(), Bad> {
    let len = header.len as usize;
    if (header.body_start()..=MAX_RECORD).contains(&len) {
        Ok(())
    } else {
        Err(Bad::Length)
    }
}

/// Checks the payload checksum. `record` starts with the header and reaches at least to the end
/// of the padding.
pub(crate) fn check_payload(header: &Header, record: &[u8]) -> Result<(), Bad> {
    let payload = record.get(HEADER..header.padded_len()).ok_or(Bad::Length)?;
    if crc(&[payload]) == header.pcrc {
        Ok(())
    } else {
        Err(Bad::Checksum)
    }
}

/// A record whose checksums held, in the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// The header.
    pub(crate) header: Header,
    /// The extension area, zero-padded to 16 bytes.
    pub(crate) ext: &'a [u8],
    /// The body, without the padding.
    pub(crate) body: &'a [u8],
}

/// Reads a whole record. `record` reaches at least to the end of its padding.
pub(crate) fn parse(record: &[u8], lsn: u64, salt: u64) -> Result<Record<'_>, Bad> {
    let header = parse_header(record, lsn, salt)?;
    check_payload(&header, record)?;
    divide(header, record)
}

/// Reads a record carried in the body of another ([`Kind::Moved`]). Its header checksum belongs
/// to the place it came from; the carrier's checksum vouches for it here.
pub(crate) fn parse_carried(record: &[u8]) -> Result<Record<'_>, Bad> {
    let bytes: &[u8; HEADER] = record.first_chunk().ok_or(Bad::Length)?;
    let header = fields(bytes);
    check_lengths(&header)?;
    check_payload(&header, record)?;
    divide(header, record)
}

fn divide(header: Header, record: &[u8]) -> Result<Record<'_>, Bad> {
    let start = header.body_start();
    let ext = record.get(HEADER..start).ok_or(Bad::Length)?;
    let body = record.get(start..header.len as usize).ok_or(Bad::Length)?;
    Ok(Record { header, ext, body })
}
