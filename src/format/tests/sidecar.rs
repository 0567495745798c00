use super::{config, each_flip, hex, slow_crc};
use crate::format::Bad;
use crate::format::sidecar::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BASE: u64 = 1 << 20;

fn header() -> SidecarHeader {
    SidecarHeader {
        number: 10,
        uuid: *b"0123456789abcdef",
        base: BASE,
        end: BASE + (1 << 20),
        salt: 0x1122_3344_5566_7788,
        min_ref: u64::MAX,
        min_time: 5,
        max_time: 6,
    }
}

/// LSN of the n-th record of a made-up segment.
fn lsn(n: u64) -> u64 {
    BASE + 4096 + 16 * n
}

fn build(messages: &[(u32, u64)]) -> Vec<u8> {
    let mut builder = SidecarBuilder::new(header());
    for (n, &(stream, seq)) in (0..).zip(messages) {
        builder.push(stream, seq, lsn(n)).unwrap();
    }
    builder.finish()
}

fn sample() -> Vec<u8> {
    build(&[(1, 100), (1, 101), (2, 7), (1, 103), (1, 200)])
}

/// The blocks of a file's content, with checksums that hold.
fn blocks(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, part) in (0u64..).zip(content.chunks(4092)) {
        let mut covered = part.to_vec();
        covered.resize(4092, 0);
        out.extend_from_slice(&covered);
        covered.extend_from_slice(&number.to_le_bytes());
        covered.extend_from_slice(&content[48..56]);
        out.extend_from_slice(&slow_crc(&covered).to_le_bytes());
    }
    out
}

#[test]
fn a_sidecar_has_exactly_these_bytes() {
    let file = sample();
    assert_eq!(file.len(), 4096);
    assert_eq!(file[..96], hex(GOLDEN_HEADER));
    let le = |words: &[u32]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let entries = [
        [1, 4, 100, 0, 0, 0],
        [1, 1, 200, 0, 4, 0],
        [2, 1, 7, 0, 5, 0],
    ]
    .concat();
    assert_eq!(file[96..168], le(&entries));
    assert_eq!(file[168..192], le(&[256, 257, 0, 259, 260, 258]));
    assert!(file[192..4092].iter().all(|&b| b == 0));
    assert_eq!(file[4092..], hex("0f2cc292"));
    assert_eq!(file, blocks(&file[..4092]));
}

#[test]
fn messages_are_found_by_stream_and_sequence() {
    let sidecar = Sidecar::parse(&sample()).unwrap();
    let at = |seq, n| Find::At { seq, lsn: lsn(n) };
    let expected = [
        (0, Find::Before),
        (99, Find::Before),
        (100, at(100, 0)),
        (101, at(101, 1)),
        (102, at(103, 3)),
        (103, at(103, 3)),
        (104, at(200, 4)),
        (200, at(200, 4)),
        (201, Find::After),
        (u64::MAX, Find::After),
    ];
    for (seq, found) in expected {
        assert_eq!(sidecar.find(1, seq), found, "sequence {seq}");
    }
    assert_eq!(sidecar.at_or_after(1, 0), Some((100, lsn(0))));
    assert_eq!(sidecar.find(2, 7), at(7, 2));
    assert_eq!(sidecar.find(3, 0), Find::After);
    assert_eq!(
        (sidecar.first_seq(1), sidecar.end_seq(1)),
        (Some(100), Some(201))
    );
    assert_eq!((sidecar.first_seq(3), sidecar.end_seq(3)), (None, None));
    assert_eq!(sidecar.streams().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(sidecar.header, header());
}

#[test]
fn a_segment_without_messages_has_an_empty_sidecar() {
    let sidecar = Sidecar::parse(&build(&[])).unwrap();
    assert_eq!(sidecar.find(0, 0), Find::After);
    assert_eq!(sidecar.streams().count(), 0);
}

#[test]
fn every_changed_bit_of_a_sidecar_is_noticed() {
    each_flip(&sample(), |bit, changed| {
        assert!(Sidecar::parse(changed).is_err(), "bit {bit}");
    });
}

#[test]
fn blocks_may_not_change_places() {
    let messages: Vec<_> = (0..3000).map(|seq| (1, seq)).collect();
    let file = build(&messages);
    assert_eq!(file.len(), 3 * 4096);
    assert_eq!(
        Sidecar::parse(&file).unwrap().at_or_after(1, 2999),
        Some((2999, lsn(2999)))
    );
    let swapped = [&file[..4096], &file[8192..], &file[4096..8192]].concat();
    assert_eq!(Sidecar::parse(&swapped), Err(Bad::Checksum));
    assert_eq!(Sidecar::parse(&file[..8192]), Err(Bad::Length));
    assert_eq!(Sidecar::parse(&file[..8191]), Err(Bad::Length));
    assert_eq!(Sidecar::parse(&[]), Err(Bad::Length));
    assert_eq!(Sidecar::parse(&[0; 4096]), Err(Bad::Zero));
    let mut content: Vec<u8> = file
        .chunks(4096)
        .flat_map(|block| block[..4092].to_vec())
        .collect();
    content.resize(4 * 4092, 0);
    assert_eq!(
        Sidecar::parse(&blocks(&content)),
        Err(Bad::Length),
        "a block too many"
    );
}

#[test]
fn messages_outside_the_segment_are_refused() {
    let mut builder = SidecarBuilder::new(header());
    for lsn in [
        0,
        BASE - 16,
        BASE,
        BASE + 4080,
        BASE + 4096 + 8,
        BASE + (1 << 32),
    ] {
        assert_eq!(builder.push(1, 1, lsn), Err(Bad::Value), "{lsn}");
    }
    assert_eq!(builder.push(1, u64::MAX, lsn(0)), Err(Bad::Value));
    assert_eq!(builder.push(1, u64::MAX - 1, lsn(0)), Ok(()));
    let sidecar = Sidecar::parse(&builder.finish()).unwrap();
    assert_eq!(sidecar.end_seq(1), Some(u64::MAX));
}

#[test]
fn a_message_moved_into_the_segment_is_found_too() {
    let file = build(&[(1, 1000), (1, 1001), (1, 3), (1, 1002), (1, 2), (1, 3)]);
    let sidecar = Sidecar::parse(&file).unwrap();
    assert_eq!(sidecar.at_or_after(1, 0), Some((2, lsn(4))));
    assert_eq!(
        sidecar.at_or_after(1, 3),
        Some((3, lsn(5))),
        "the later copy counts"
    );
    assert_eq!(sidecar.at_or_after(1, 4), Some((1000, lsn(0))));
    assert_eq!(sidecar.at_or_after(1, 1002), Some((1002, lsn(3))));
}

#[test]
fn far_sequences_cost_no_holes() {
    let messages: Vec<_> = (0..50).map(|n| (1, n << 40)).collect();
    assert_eq!(build(&messages).len(), 4096);
}

#[test]
fn impossible_entries_are_refused_even_under_a_good_checksum() {
    let content = sample()[..4092].to_vec();
    let with = |at: usize, value: u32| {
        let mut content = content.clone();
        content[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Sidecar::parse(&blocks(&content))
    };
    assert!(with(96, 1).is_ok());
    assert_eq!(with(8, 0), Err(Bad::Version));
    assert_eq!(with(80, 2), Err(Bad::Length), "an entry too few");
    assert_eq!(with(80, u32::MAX), Err(Bad::Length));
    assert_eq!(with(84, 5), Err(Bad::Length), "an offset too few");
    assert_eq!(with(84, u32::MAX), Err(Bad::Length));
    assert_eq!(with(96, 3), Err(Bad::Value), "streams out of order");
    assert_eq!(with(100, 0), Err(Bad::Value), "an entry of nothing");
    assert_eq!(with(100, u32::MAX), Err(Bad::Value));
    assert_eq!(with(120 + 8, 103), Err(Bad::Value), "entries overlap");
    assert_eq!(with(112, 1), Err(Bad::Value), "offsets shared");
    assert_eq!(with(168, 0), Err(Bad::Value), "an entry starts with a hole");
    assert_eq!(with(180, 0), Err(Bad::Value), "an entry ends with a hole");
    assert_eq!(with(168, 255), Err(Bad::Value), "inside the header block");
    assert_eq!(with(168, 1 << 16), Err(Bad::Value), "behind the end");
    assert_eq!(
        with(4000, 1),
        Err(Bad::Value),
        "not zero behind the offsets"
    );
    assert_eq!(with(44, u32::MAX), Err(Bad::Value), "a segment too long");
    assert_eq!(with(40, 0).map(|s| s.header.end), Err(Bad::Value));
}

type Model = BTreeMap<(u32, u64), u64>;

fn check_against(model: &Model, sidecar: &Sidecar, stream: u32, seq: u64) {
    let found = model.range((stream, seq)..=(stream, u64::MAX)).next();
    let found = found.map(|(&(_, seq), &lsn)| (seq, lsn));
    assert_eq!(sidecar.at_or_after(stream, seq), found);
    let mut all = model
        .range((stream, 0)..=(stream, u64::MAX))
        .map(|((_, seq), _)| *seq);
    let first = all.next();
    assert_eq!(sidecar.first_seq(stream), first);
    assert_eq!(
        sidecar.end_seq(stream),
        all.next_back().or(first).map(|seq| seq + 1)
    );
    let expected = match found {
        _ if first.is_some_and(|first| seq < first) => Find::Before,
        Some((seq, lsn)) => Find::At { seq, lsn },
        None => Find::After,
    };
    assert_eq!(sidecar.find(stream, seq), expected);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_sidecar_finds_what_a_plain_map_finds(
        messages in prop::collection::vec((0u32..4, 0u64..60), 0..80),
        jumps in prop::collection::vec((0u32..4, any::<u64>()), 0..4),
        ascending in any::<bool>(),
    ) {
        let mut messages = messages;
        if ascending {
            messages.sort_unstable();
            messages.dedup();
        }
        messages.extend(jumps.into_iter().filter(|&(_, seq)| seq < u64::MAX));
        let model: Model = (0..).zip(&messages).map(|(n, &key)| (key, lsn(n))).collect();
        let file = build(&messages);
        prop_assert!(file.len() <= (96 + 28 * messages.len()).div_ceil(4092) * 4096);
        let sidecar = Sidecar::parse(&file).unwrap();
        let streams: std::collections::BTreeSet<_> = messages.iter().map(|m| m.0).collect();
        prop_assert!(sidecar.streams().eq(streams));
        for stream in 0..5 {
            (0..70).for_each(|seq| check_against(&model, &sidecar, stream, seq));
            for &(_, seq) in &messages {
                check_against(&model, &sidecar, stream, seq);
            }
        }
    }

    #[test]
    fn no_content_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        probe in any::<u64>(),
    ) {
        let mut content = sample()[..4092].to_vec();
        let at = 8 + at.index(200);
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        if let Ok(sidecar) = Sidecar::parse(&blocks(&content)) {
            for stream in sidecar.streams().collect::<Vec<_>>() {
                let first = sidecar.first_seq(stream).unwrap();
                prop_assert!(sidecar.at_or_after(stream, first).is_some());
                let _ = sidecar.find(stream, probe);
            }
        }
        let _ = Sidecar::parse(&bytes);
    }
}

const GOLDEN_HEADER: &str = "\
    6b656570 71696478 01000000 0a000000 30313233 34353637 38396162 63646566 \
    00001000 00000000 00002000 00000000 88776655 44332211 ffffffff ffffffff \
    05000000 00000000 06000000 00000000 03000000 06000000 00000000 00000000";
