//! The hash of order keys: SipHash-2-4 (Aumasson & Bernstein, "SipHash: a fast short-input PRF",
//! 2012), keyed by the store's uuid. Keys come from users: with a hash that anybody can compute,
//! somebody could choose keys that all fall into one bucket. It is not on disk, but every process
//! that shares a `ctl` must compute the same, whichever compiler built it.

/// The hash of an order key; never 0, which stands for no key.
pub(crate) fn key_hash(uuid: &[u8; 16], key: &str) -> u64 {
    let mut halves = uuid.chunks_exact(8).map(word);
    let seed = (halves.next().unwrap_or(0), halves.next().unwrap_or(0));
    sip(seed, key.as_bytes()).max(1)
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn sip((k0, k1): (u64, u64), bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        take(&mut v, word(chunk));
    }
    take(
        &mut v,
        (bytes.len() as u64) << 56 | word(chunks.remainder()),
    );
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn take(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and two results of the vectors that the paper's authors published.
    #[test]
    fn it_is_the_published_function() {
        let bytes: Vec<u8> = (0..16).collect();
        let seed = (word(&bytes[..8]), word(&bytes[8..]));
        assert_eq!(sip(seed, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(sip(seed, &bytes[..15]), 0xa129_ca61_49be_45e5);
    }
}
