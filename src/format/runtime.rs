//! RUNTIME: where the shared memory of a store lies, if not in its own directory, and which one it
//! is.

use super::{Bad, Reader, Writer};

/// Length of RUNTIME.
pub(crate) const RUNTIME_SIZE: usize = 4096;
/// Longest path in it, bytes.
pub(crate) const MAX_PATH: usize = 1024;
const MAGIC: [u8; 8] = *b"keepqrun";

/// The content of RUNTIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// The directory that was named when the store was made.
    pub(crate) dir: String,
    /// The incarnation of the only shared memory that counts; 0 = none was made yet.
    pub(crate) nonce: u64,
}

impl Runtime {
    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RUNTIME_SIZE);
        let mut w = Writer::new(&mut out);
        w.bytes(&MAGIC).u64(self.nonce).text(&self.dir, MAX_PATH);
        out.resize(RUNTIME_SIZE - 4, 0);
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let Some((content, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(Bad::Length);
        };
        if bytes.len() != RUNTIME_SIZE {
            return Err(Bad::Length);
        }
        if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
            return Err(Bad::Checksum);
        }
        let mut r = Reader::new(content);
        if r.bytes(8)? != MAGIC {
            return Err(Bad::Value);
        }
        let nonce = r.u64()?;
        let dir = r.text(MAX_PATH)?.to_owned();
        let rest = r.len();
        r.zeros(rest)?;
        Ok(Self { dir, nonce })
    }
}
