//! Tests of the formats: what is written is read back, what is changed is noticed, and nothing
//! that is read can do harm.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod batch;
mod links;
mod message;
mod payload;
mod record;
mod runtime;
mod segment;
mod sidecar;
mod snap;
mod superblock;

use super::{Bad, Reader, Writer, clip, crc, round_up};
use proptest::prelude::*;

/// Settings for all property tests: no files are written next to the sources.
pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// CRC-32 one bit at a time, straight from its definition, to check the fast one against.
pub(super) fn slow_crc(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    for &byte in bytes {
        state ^= u32::from(byte);
        for _ in 0..8 {
            state = if state & 1 == 1 {
                state >> 1 ^ 0xedb8_8320
            } else {
                state >> 1
            };
        }
    }
    !state
}

/// The bytes with one bit changed, for every bit.
pub(super) fn each_flip(bytes: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut copy = bytes.to_vec();
    for bit in 0..8 * bytes.len() {
        copy[bit / 8] ^= 1 << (bit % 8);
        check(bit, &copy);
        copy[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Bytes from hex digits; spaces are ignored.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| d as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

#[test]
fn the_checksum_is_crc_32_of_the_parts_in_order() {
    assert_eq!(crc(&[b"1234", b"", b"56789"]), 0xcbf4_3926);
    assert_eq!(slow_crc(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc(&[]), 0);
}

#[test]
fn a_reader_never_goes_past_the_end() {
    let mut r = Reader::new(&[1, 2, 3]);
    assert_eq!(r.u32(), Err(Bad::Length));
    assert_eq!(r.u16(), Ok(0x0201));
    assert_eq!(r.bytes(usize::MAX), Err(Bad::Length));
    assert_eq!(r.end(), Err(Bad::Length));
    assert_eq!(r.u8(), Ok(3));
    assert_eq!(r.end(), Ok(()));
    assert_eq!(r.u8(), Err(Bad::Length));
    assert_eq!(r.zeros(1), Err(Bad::Length));
}

#[test]
fn texts_are_bounded_when_written_and_when_read() {
    let mut out = Vec::new();
    Writer::new(&mut out).text("aé", 2);
    assert_eq!(out, [1, 0, b'a'], "cut between characters");
    assert_eq!(Reader::new(&[3, 0, b'a', b'b', b'c']).text(3), Ok("abc"));
    assert_eq!(
        Reader::new(&[3, 0, b'a', b'b', b'c']).text(2),
        Err(Bad::Length)
    );
    assert_eq!(Reader::new(&[1, 0, 0xff]).text(2), Err(Bad::Value));
    assert_eq!(clip("héllo", 100), "héllo");
    assert_eq!(clip("é", 1), "");
}

#[test]
fn rounding_up_saturates_instead_of_wrapping() {
    assert_eq!(round_up(0, 16), 0);
    assert_eq!(round_up(1, 16), 16);
    assert_eq!(round_up(16, 16), 16);
    assert!(round_up(usize::MAX, 16) > usize::MAX - 16);
}

#[test]
fn every_reason_is_one_sentence() {
    let all = [
        Bad::Zero,
        Bad::Checksum,
        Bad::Length,
        Bad::Kind,
        Bad::Value,
        Bad::Version,
    ];
    let texts: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len());
    assert!(texts.iter().all(|t| t.len() > 10 && !t.ends_with('.')));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_fast_checksum_equals_the_slow_one(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(crc(&[&bytes]), slow_crc(&bytes));
    }

    #[test]
    fn the_checksum_of_a_header_is_the_same_one(words: [u64; 6], last: u32) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend(last.to_le_bytes());
        prop_assert_eq!(super::header_crc::crc52(words, last), slow_crc(&bytes));
    }
}
