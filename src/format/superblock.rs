//! The file SUPER: what the store is, which features it needs, and the geometry chosen for it.
//!
//! For every version, for ever: the magic at 0, the version at 8, the three feature words at 16,
//! and the checksum of bytes 0..4092 at 4092. So any library can tell a newer store from a
//! damaged one and name what it lacks.

use super::segment::MAX_SEGMENT;
use super::{Bad, Reader, Writer, block, crc};
use std::fmt;

/// Name of the file in the store's directory.
pub(crate) const SUPER: &str = "SUPER";
/// Its size in bytes.
pub(crate) const SUPER_SIZE: usize = 4096;
/// The version of the durable format that this library writes: major x 256 + minor. Below 256 are
/// the drafts before the first release, each of which is read by its own libraries only.
pub(crate) const FORMAT_VERSION: u32 = 3;
/// Features without which a store cannot be read; an unknown one refuses the store.
pub(crate) const KNOWN_INCOMPAT: u64 = 0;
/// Features without which a store cannot be written; an unknown one allows reading only.
pub(crate) const KNOWN_RO_COMPAT: u64 = 0;

const MAGIC: [u8; 8] = *b"keepq\0\r\n";
const CRC_AT: usize = SUPER_SIZE - 4;

/// The largest ring of a store.
pub(crate) const MAX_RING: u64 = 1 << 32;
/// The most delivery slots of a store.
pub(crate) const MAX_SLOTS: u32 = 1 << 24;

/// What SUPER says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Super {
    /// Features a reader must know.
    pub(crate) incompat: u64,
    /// Features a writer must know.
    pub(crate) ro_compat: u64,
    /// Features that may be ignored.
    pub(crate) compat: u64,
    /// The store's identity, random.
    pub(crate) uuid: [u8; 16],
    /// The size segments grow to, in bytes; a multiple of 4096.
    pub(crate) segment_size: u64,
    /// Size of the shared tail ring, in bytes; a multiple of 4096.
    pub(crate) ring_size: u64,
    /// Number of delivery slots.
    pub(crate) slots: u32,
    /// Permission bits of the store's files.
    pub(crate) mode: u32,
    /// When the store was made, in ms since 1970.
    pub(crate) created_ms: u64,
}

/// Why a store's SUPER cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuperError {
    /// It is not keepq's file at all.
    NotKeepq,
    /// The store was written by a newer format version.
    Newer {
        /// The version found.
        found: u32,
    },
    /// The store was written by an earlier draft.
    Draft {
        /// The version found.
        found: u32,
    },
    /// The store uses features this library does not know.
    UnknownFeatures {
        /// The unknown bits of the incompatible features.
        bits: u64,
    },
    /// It is keepq's, but damaged.
    Damaged(Bad),
}

impl fmt::Display for SuperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKeepq => f.write_str("the file SUPER is not one of keepq's"),
            Self::Newer { found } => write!(
                f,
                "the store has format version {found}, this library knows {FORMAT_VERSION}; \
                 use a newer library"
            ),
            Self::Draft { found } => write!(
                f,
                "the store has format version {found}, a draft from before the first release \
                 that this library (version {FORMAT_VERSION}) does not read; consume it with the \
                 library that made it and begin a new store"
            ),
            Self::UnknownFeatures { bits } => write!(
                f,
                "the store uses features {bits:#x} that this library does not know; \
                 use a newer library"
            ),
            Self::Damaged(bad) => write!(f, "the file SUPER is damaged: {bad}"),
        }
    }
}

impl std::error::Error for SuperError {}

impl From<Bad> for SuperError {
    fn from(bad: Bad) -> Self {
        Self::Damaged(bad)
    }
}

impl Super {
    /// The file's content.
    pub(crate) fn encode(&self) -> [u8; SUPER_SIZE] {
        debug_assert_eq!(self.check(), Ok(()));
        let mut out = Vec::with_capacity(SUPER_SIZE);
        let mut w = Writer::new(&mut out);
        w.bytes(&MAGIC).u32(FORMAT_VERSION).zeros(4);
        w.u64(self.incompat)
            .u64(self.ro_compat)
            .u64(self.compat)
            .bytes(&self.uuid);
        w.u64(self.segment_size)
            .u64(self.ring_size)
            .u32(self.slots)
            .u32(self.mode);
        w.u64(self.created_ms);
        let mut block = block::<SUPER_SIZE>(&out);
        let sum = crc(&[&block[..CRC_AT]]);
        block[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// Reads the file's content.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Super, SuperError> {
        let mut r = Reader::new(bytes);
        if r.array() != Ok(MAGIC) {
            return Err(SuperError::NotKeepq);
        }
        let block: &[u8; SUPER_SIZE] = bytes.try_into().map_err(|_| Bad::Length)?;
        if crc(&[&block[..CRC_AT]]).to_le_bytes() != block[CRC_AT..] {
            return Err(Bad::Checksum.into());
        }
        let found = r.u32()?;
        if found > FORMAT_VERSION {
            return Err(SuperError::Newer { found });
        }
        if found < FORMAT_VERSION {
            return Err(SuperError::Draft { found });
        }
        r.array::<4>()?;
        let incompat = r.u64()?;
        if incompat & !KNOWN_INCOMPAT != 0 {
            return Err(SuperError::UnknownFeatures {
                bits: incompat & !KNOWN_INCOMPAT,
            });
        }
        let super_block = Super {
            incompat,
            ro_compat: r.u64()?,
            compat: r.u64()?,
            uuid: r.array()?,
            segment_size: r.u64()?,
            ring_size: r.u64()?,
            slots: r.u32()?,
            mode: r.u32()?,
            created_ms: r.u64()?,
        };
        super_block.check()?;
        Ok(super_block)
    }

    /// Whether this library knows every feature a writer must know; otherwise it may only read.
    pub(crate) fn is_writable(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT == 0
    }

    /// Geometry is used to size memory and files, so it is bounded even when its checksum holds.
    fn check(&self) -> Result<(), Bad> {
        let sized = |size: u64, min: u64, max: u64| {
            if size % 4096 == 0 && (min..=max).contains(&size) {
                Ok(())
            } else {
                Err(Bad::Value)
            }
        };
        sized(self.segment_size, 8192, MAX_SEGMENT)?;
        sized(self.ring_size, 4096, MAX_RING)?;
        if self.slots == 0 || self.slots > MAX_SLOTS || self.mode & !0o7777 != 0 {
            return Err(Bad::Value);
        }
        Ok(())
    }
}
