//! Segment files: a 4 KiB header block, then records.
//!
//! The LSN space includes the headers: a segment with base B holds the LSNs [B, B + size), its
//! header lies at B, its first record at B + 4096, and a file offset is always LSN - B. All files
//! of one segment (0 is the first, higher numbers are continuations written after a failed flush
//! or a cut) share number, base, size and salt. A continuation counts only once the `adopted`
//! block in its header is on disk; that block has its own checksum, because it is written later.

use super::{Bad, Reader, Writer, block, crc, is_zero};

/// Size of the header block, and the alignment of bases and sizes.
pub(crate) const HEADER_BLOCK: usize = 4096;
/// No segment is larger: positions in it fit the u32 offsets of its sidecar.
pub(crate) const MAX_SEGMENT: u64 = 1 << 32;
/// The version of the segment and record format.
pub(crate) const VERSION: u16 = 1;
/// The only checksum algorithm so far.
pub(crate) const CRC32: u8 = 1;
/// Flag: the segment starts a new epoch after an unclean recovery, and its base lies beyond
/// everything that could have been written before.
pub(crate) const JUMP: u32 = 1;
/// Where the `adopted` block lies in the header block.
pub(crate) const ADOPTED_AT: usize = 2048;
/// Size of the `adopted` block: one sector of any disk.
pub(crate) const ADOPTED_SIZE: usize = 512;

const MAGIC: [u8; 8] = *b"keepqseg";
const ADOPTED_MAGIC: [u8; 8] = *b"keepqadp";
/// The header's fields and their checksum are one sector, which a power cut leaves whole or not at
/// all: a checksum that does not match is damage, never a write that was torn.
const SECTOR: usize = 512;
const CRC_AT: usize = SECTOR - 4;
const ADOPTED_CRC_AT: usize = ADOPTED_SIZE - 4;
const _: () = assert!(ADOPTED_AT % 512 == 0 && ADOPTED_AT + ADOPTED_SIZE <= HEADER_BLOCK);

/// What a segment file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The segment's number: higher than its predecessor's.
    pub(crate) number: u32,
    /// The file's number: 0, or that of a continuation.
    pub(crate) file: u32,
    /// Raised by every unclean recovery.
    pub(crate) epoch: u32,
    /// LSN of the header; a multiple of 4096.
    pub(crate) base: u64,
    /// Bytes of LSN space, header included; a multiple of 4096.
    pub(crate) size: u64,
    /// Random per segment, part of every header checksum in it.
    pub(crate) salt: u64,
    /// The store's identity.
    pub(crate) uuid: [u8; 16],
    /// Where the log ended before this segment.
    pub(crate) prev_end: u64,
    /// First LSN of the last complete snapshot known when the header was written; 0 = none.
    pub(crate) snap_lsn: u64,
    /// Continuations: the LSN from which this file is the authority. 0 for file 0.
    pub(crate) continues_at: u64,
    /// When the file was made, in ms since 1970.
    pub(crate) created_ms: u64,
    /// [`JUMP`]; other bits are zero in this version.
    pub(crate) flags: u32,
    /// The oldest segment that was kept when the header was written: it and all between were there.
    pub(crate) oldest: u32,
    /// [`CRC32`].
    pub(crate) algorithm: u8,
    /// [`VERSION`].
    pub(crate) version: u16,
}

/// State of a continuation's `adopted` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// Never written: the file does not count.
    No,
    /// Written and whole: the file is the authority from `continues_at` on.
    Yes,
    /// Neither: torn while it was being written, or damaged since.
    Unclear,
}

impl SegmentHeader {
    /// LSN of the first record.
    pub(crate) fn first_lsn(&self) -> u64 {
        self.base + HEADER_BLOCK as u64
    }

    /// First LSN behind the segment.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.size
    }

    /// The header block, not adopted.
    pub(crate) fn encode(&self) -> [u8; HEADER_BLOCK] {
        debug_assert_eq!(self.check(), Ok(()));
        let mut out = Vec::with_capacity(HEADER_BLOCK);
        let mut w = Writer::new(&mut out);
        w.bytes(&MAGIC).u16(self.version).u8(self.algorithm).u8(0);
        w.u32(self.number).u32(self.file).u32(self.epoch);
        w.u64(self.base)
            .u64(self.size)
            .u64(self.salt)
            .bytes(&self.uuid);
        w.u64(self.prev_end)
            .u64(self.snap_lsn)
            .u64(self.continues_at)
            .u64(self.created_ms);
        w.u32(self.flags).u32(self.oldest);
        let mut block = block::<HEADER_BLOCK>(&out);
        let sum = crc(&[&block[..CRC_AT]]);
        block[CRC_AT..SECTOR].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// Reads a header block; [`Bad::Zero`] when nothing was written. What the `adopted` block
    /// says is a question of its own: [`adoption`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, Bad> {
        let block: &[u8; HEADER_BLOCK] = bytes.first_chunk().ok_or(Bad::Length)?;
        if is_zero(block) {
            return Err(Bad::Zero);
        }
        let mut r = Reader::new(block);
        if r.array() != Ok(MAGIC) {
            return Err(Bad::Value);
        }
        if crc(&[&block[..CRC_AT]]).to_le_bytes() != block[CRC_AT..SECTOR] {
            return Err(Bad::Checksum);
        }
        let version = r.u16()?;
        let algorithm = r.u8()?;
        if version != VERSION || algorithm != CRC32 {
            return Err(Bad::Version);
        }
        r.zeros(1)?;
        let header = SegmentHeader {
            version,
            algorithm,
            number: r.u32()?,
            file: r.u32()?,
            epoch: r.u32()?,
            base: r.u64()?,
            size: r.u64()?,
            salt: r.u64()?,
            uuid: r.array()?,
            prev_end: r.u64()?,
            snap_lsn: r.u64()?,
            continues_at: r.u64()?,
            created_ms: r.u64()?,
            flags: r.u32()?,
            oldest: r.u32()?,
        };
        let unused = if header.file == 0 {
            ADOPTED_AT
        } else {
            ADOPTED_AT + ADOPTED_SIZE
        };
        if !is_zero(&block[SECTOR..ADOPTED_AT]) || !is_zero(&block[unused..]) {
            return Err(Bad::Value);
        }
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Bad> {
        let unit = HEADER_BLOCK as u64;
        if self.base % unit != 0 || self.size % unit != 0 {
            return Err(Bad::Value);
        }
        if self.size < 2 * unit || self.size > MAX_SEGMENT {
            return Err(Bad::Length);
        }
        let end = self.base.checked_add(self.size).ok_or(Bad::Value)?;
        let continues_well = match self.file {
            0 => self.continues_at == 0,
            _ => {
                (self.base + unit..=end).contains(&self.continues_at) && self.continues_at % 16 == 0
            }
        };
        if !continues_well || self.prev_end > self.base {
            return Err(Bad::Value);
        }
        if self.oldest == 0 || self.oldest > self.number {
            return Err(Bad::Value);
        }
        Ok(())
    }
}

/// The `adopted` block of a continuation, to be written at [`ADOPTED_AT`] of its header block.
pub(crate) fn encode_adopted(header: &SegmentHeader) -> [u8; ADOPTED_SIZE] {
    let mut out = Vec::with_capacity(ADOPTED_SIZE);
    let mut w = Writer::new(&mut out);
    w.bytes(&ADOPTED_MAGIC).u32(header.number).u32(header.file);
    w.u64(header.base)
        .u64(header.continues_at)
        .bytes(&header.uuid);
    let mut block = block::<ADOPTED_SIZE>(&out);
    let sum = crc(&[&block[..ADOPTED_CRC_AT], &header.salt.to_le_bytes()]);
    block[ADOPTED_CRC_AT..].copy_from_slice(&sum.to_le_bytes());
    block
}

/// What the `adopted` block inside a header block says.
pub(crate) fn adoption(block: &[u8; HEADER_BLOCK], header: &SegmentHeader) -> Adoption {
    let adopted = &block[ADOPTED_AT..ADOPTED_AT + ADOPTED_SIZE];
    if is_zero(adopted) {
        Adoption::No
    } else if *adopted == encode_adopted(header) {
        Adoption::Yes
    } else {
        Adoption::Unclear
    }
}

/// Whether the continuation counts.
pub(crate) fn is_adopted(block: &[u8; HEADER_BLOCK], header: &SegmentHeader) -> bool {
    adoption(block, header) == Adoption::Yes
}

/// A segment file's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    /// The segment's number.
    pub(crate) number: u32,
    /// The file's number.
    pub(crate) file: u32,
}

/// `NNNNNNNN.k.seg`: the segment's number in 8 hex digits, the file's in decimal.
pub(crate) fn file_name(number: u32, file: u32) -> String {
    format!("{number:08x}.{file}.seg")
}

/// `NNNNNNNN.k.pre`: a segment file that is being prepared.
pub(crate) fn prepared_name(number: u32, file: u32) -> String {
    format!("{number:08x}.{file}.pre")
}

/// `NNNNNNNN.idx`.
pub(crate) fn sidecar_name(number: u32) -> String {
    format!("{number:08x}.idx")
}

/// The opposite of [`file_name`]; accepts only what that makes.
pub(crate) fn parse_file_name(name: &str) -> Option<Name> {
    parse_numbers(name, ".seg").filter(|n| file_name(n.number, n.file) == name)
}

/// The opposite of [`prepared_name`]; accepts only what that makes.
pub(crate) fn parse_prepared_name(name: &str) -> Option<Name> {
    parse_numbers(name, ".pre").filter(|n| prepared_name(n.number, n.file) == name)
}

fn parse_numbers(name: &str, suffix: &str) -> Option<Name> {
    let (number, file) = name.strip_suffix(suffix)?.split_once('.')?;
    Some(Name {
        number: u32::from_str_radix(number, 16).ok()?,
        file: file.parse().ok()?,
    })
}

/// The opposite of [`sidecar_name`]; accepts only what that makes.
pub(crate) fn parse_sidecar_name(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name.strip_suffix(".idx")?, 16).ok()?;
    (sidecar_name(number) == name).then_some(number)
}
