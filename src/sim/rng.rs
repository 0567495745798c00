//! A small deterministic generator (splitmix64): the same seed gives the same run everywhere.

/// A stream of numbers from a seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next_u64() % n }
    }

    /// An index below `n`; 0 if `n` is 0.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }
}

/// Spreads every bit of `x` over the result.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Adds a number to a running hash.
pub(super) fn fold(hash: u64, x: u64) -> u64 {
    mix(hash.rotate_left(5) ^ x.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Adds bytes to a running hash.
pub(super) fn fold_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = fold(hash, bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        hash = fold(
            hash,
            u64::from_le_bytes(chunk.try_into().unwrap_or_default()),
        );
    }
    chunks
        .remainder()
        .iter()
        .fold(hash, |hash, &byte| fold(hash, u64::from(byte)))
}
