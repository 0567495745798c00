//! The bytes of a store and the values they stand for: pure translation, no I/O, no shared state.
//!
//! Everything is little-endian with fixed widths. Whatever a `decode` or `parse` here is given is
//! treated as hostile: it returns [`Bad`] and neither panics nor allocates more than a small
//! multiple of its input. Encoders are the opposite side of the same rule: they assert the limits
//! their own decoders enforce, so that nothing unreadable is ever written. `docs/FORMAT.md` is
//! the specification of all of it, byte by byte.

#![allow(
    dead_code,
    unused_imports,
    reason = "more is reserved in the format than is used yet"
)]

mod header_crc;
pub(crate) mod key_hash;
pub(crate) mod links;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod payload;
pub(crate) mod record;
pub(crate) mod runtime;
pub(crate) mod segment;
pub(crate) mod sidecar;
pub(crate) mod superblock;

#[cfg(test)]
mod tests;

use std::fmt;

/// Why bytes do not decode. Callers add the file and the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bad {
    /// All zero: nothing was ever written here.
    Zero,
    /// A checksum does not match its bytes.
    Checksum,
    /// A length is impossible, or the bytes end too early or too late.
    Length,
    /// A type this version does not know and must not skip, or that may not stand here.
    Kind,
    /// A field has a value that no writer produces.
    Value,
    /// Written by a version or with an algorithm that this library does not know.
    Version,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "nothing is written here",
            Self::Checksum => "the checksum does not match the bytes",
            Self::Length => "a length does not fit the bytes",
            Self::Kind => "a type is unknown or not allowed here",
            Self::Value => "a field has an impossible value",
            Self::Version => "written in a format version this library does not know",
        })
    }
}

impl std::error::Error for Bad {}

/// The checksum of all formats (CRC-32 as in zlib), over the parts in order.
pub(crate) fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// `len` rounded up to a multiple of `unit`, a power of two. Saturates, so that a hostile length
/// stays too large instead of becoming small.
pub(crate) const fn round_up(len: usize, unit: usize) -> usize {
    len.saturating_add(unit - 1) & !(unit - 1)
}

/// Takes values from the front of a byte slice, checking every step.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(Bad::Length)?;
        self.bytes = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Bad> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Bad> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Bad> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Bad> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Bad> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(Bad::Length)?;
        self.bytes = rest;
        Ok(head)
    }

    /// Reserved bytes, which every writer of this version leaves zero.
    pub(crate) fn zeros(&mut self, len: usize) -> Result<(), Bad> {
        if is_zero(self.bytes(len)?) {
            Ok(())
        } else {
            Err(Bad::Value)
        }
    }

    /// A text with a u16 length before it, at most `max` bytes long.
    pub(crate) fn text(&mut self, max: usize) -> Result<&'a str, Bad> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(Bad::Length);
        }
        std::str::from_utf8(self.bytes(len)?).map_err(|_| Bad::Value)
    }

    /// How many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Bad> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(Bad::Length)
        }
    }
}

/// Appends values to a byte vector.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(crate) fn zeros(&mut self, len: usize) -> &mut Self {
        self.out.resize(self.out.len() + len, 0);
        self
    }

    /// A text with a u16 length before it. Longer than `max` bytes, it is cut at a character:
    /// a reason that is too long must not make a dead letter impossible.
    pub(crate) fn text(&mut self, text: &str, max: usize) -> &mut Self {
        let text = clip(text, max.min(usize::from(u16::MAX)));
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX))
            .bytes(text.as_bytes())
    }

    /// How many bytes the vector holds, those before this writer included.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }
}

/// The longest start of `text` that has at most `max` bytes and ends between characters.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A fixed block of `N` bytes that starts with `content` and is zero after it.
fn block<const N: usize>(content: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    block[..content.len()].copy_from_slice(content);
    block
}
