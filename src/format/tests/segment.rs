use super::{config, each_flip, hex, slow_crc};
use crate::format::Bad;
use crate::format::segment::*;
use proptest::prelude::*;

fn first() -> SegmentHeader {
    SegmentHeader {
        number: 10,
        file: 0,
        epoch: 2,
        base: 1 << 20,
        size: 2 << 20,
        salt: 0x1122_3344_5566_7788,
        uuid: *b"0123456789abcdef",
        prev_end: (1 << 20) - 32,
        snap_lsn: 4096,
        continues_at: 0,
        created_ms: 1_700_000_000_000,
        flags: JUMP,
        oldest: 1,
        algorithm: CRC32,
        version: VERSION,
    }
}

fn continuation() -> SegmentHeader {
    SegmentHeader {
        file: 3,
        continues_at: (1 << 20) + 8192 + 16,
        ..first()
    }
}

fn adopted(header: &SegmentHeader) -> [u8; HEADER_BLOCK] {
    let mut block = header.encode();
    block[ADOPTED_AT..ADOPTED_AT + ADOPTED_SIZE].copy_from_slice(&encode_adopted(header));
    block
}

/// The block with some bytes changed and its checksum made to hold again.
fn resealed(header: &SegmentHeader, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = header.encode().to_vec();
    block[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = slow_crc(&block[..508]);
    block[508..512].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn a_header_has_exactly_these_bytes() {
    let block = adopted(&continuation());
    assert_eq!(block[..104], hex(GOLDEN_HEADER));
    assert!(block[104..508].iter().all(|&b| b == 0));
    assert_eq!(block[508..512], hex("8f135097"));
    assert_eq!(block[2048..2096], hex(GOLDEN_ADOPTED));
    assert!(block[2096..2556].iter().all(|&b| b == 0));
    assert_eq!(block[2556..2560], hex("6c1a238d"));
    assert!(block[2560..].iter().all(|&b| b == 0));
}

#[test]
fn a_header_is_read_back() {
    for header in [first(), continuation()] {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
    assert_eq!(first().first_lsn(), (1 << 20) + 4096);
    assert_eq!(first().end(), 3 << 20);
}

#[test]
fn every_changed_bit_of_a_header_is_noticed() {
    each_flip(&first().encode(), |bit, changed| {
        assert!(SegmentHeader::decode(changed).is_err(), "bit {bit}");
    });
}

#[test]
fn every_changed_bit_of_an_adopted_header_is_noticed() {
    let header = continuation();
    each_flip(&adopted(&header), |bit, changed| {
        let in_adopted = (8 * ADOPTED_AT..8 * (ADOPTED_AT + ADOPTED_SIZE)).contains(&bit);
        let read = SegmentHeader::decode(changed);
        if in_adopted {
            assert_eq!(read, Ok(header), "bit {bit}");
            let block = changed.try_into().unwrap();
            assert_eq!(adoption(block, &header), Adoption::Unclear, "bit {bit}");
            assert!(!is_adopted(block, &header));
        } else {
            assert!(read.is_err(), "bit {bit}");
        }
    });
}

#[test]
fn a_continuation_counts_only_once_it_is_adopted() {
    let header = continuation();
    assert_eq!(adoption(&header.encode(), &header), Adoption::No);
    assert_eq!(adoption(&adopted(&header), &header), Adoption::Yes);
    assert!(is_adopted(&adopted(&header), &header) && !is_adopted(&header.encode(), &header));
    let others = [
        SegmentHeader { salt: 1, ..header },
        SegmentHeader { file: 4, ..header },
        SegmentHeader {
            number: 11,
            ..header
        },
        SegmentHeader { base: 0, ..header },
        SegmentHeader {
            continues_at: header.continues_at + 16,
            ..header
        },
    ];
    for other in others {
        assert!(!is_adopted(&adopted(&header), &other), "{other:?}");
    }
}

#[test]
fn a_first_file_is_never_adopted() {
    let mut block = first().encode();
    block[ADOPTED_AT] = 1;
    assert_eq!(SegmentHeader::decode(&block), Err(Bad::Value));
}

#[test]
fn unwritten_cut_and_foreign_blocks_are_told_apart() {
    let block = first().encode();
    assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(Bad::Zero));
    for len in [0, 8, 2048, 4095] {
        assert_eq!(SegmentHeader::decode(&block[..len]), Err(Bad::Length));
    }
    assert_eq!(SegmentHeader::decode(&[b'x'; 4096]), Err(Bad::Value));
    assert_eq!(
        SegmentHeader::decode(&resealed(&first(), 8, &[2])),
        Err(Bad::Version)
    );
    assert_eq!(
        SegmentHeader::decode(&resealed(&first(), 10, &[2])),
        Err(Bad::Version)
    );
}

#[test]
fn impossible_places_are_refused_even_under_a_good_checksum() {
    let base = 1u64 << 20;
    let bad: &[(usize, u64, Bad)] = &[
        (24, base + 16, Bad::Value),
        (24, u64::MAX - 4095, Bad::Value),
        (24, 0, Bad::Value), // the log would have ended behind its own start
        (32, 4096, Bad::Length),
        (32, 0, Bad::Length),
        (32, (2 << 20) + 16, Bad::Value),
        (32, MAX_SEGMENT + 4096, Bad::Length),
        (64, base + 1, Bad::Value),
        (80, 0, Bad::Value),
        (80, base, Bad::Value),
        (80, base + 4096 + 8, Bad::Value),
        (80, base + (2 << 20) + 16, Bad::Value),
        (80, u64::MAX, Bad::Value),
    ];
    for (at, value, reason) in bad {
        let block = resealed(&continuation(), *at, &value.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(*reason), "{at}: {value}");
    }
    for (at, value) in [
        (32, 8192 * 4),
        (32, MAX_SEGMENT),
        (64, base),
        (80, base + 4096),
    ] {
        let block = resealed(&continuation(), at, &u64::to_le_bytes(value));
        assert!(SegmentHeader::decode(&block).is_ok(), "{at}: {value}");
    }
    let block = resealed(&first(), 80, &(base + 4096).to_le_bytes());
    assert_eq!(
        SegmentHeader::decode(&block),
        Err(Bad::Value),
        "file 0 continues nothing"
    );
}

#[test]
fn file_names_say_segment_and_file() {
    assert_eq!(file_name(10, 0), "0000000a.0.seg");
    assert_eq!(prepared_name(u32::MAX, 12), "ffffffff.12.pre");
    assert_eq!(sidecar_name(0), "00000000.idx");
    let name = Name {
        number: 10,
        file: 7,
    };
    assert_eq!(parse_file_name("0000000a.7.seg"), Some(name));
    assert_eq!(parse_prepared_name("0000000a.7.pre"), Some(name));
    assert_eq!(parse_sidecar_name("0000000a.idx"), Some(10));
    let foreign = [
        "",
        ".",
        "..",
        "0000000a",
        "0000000a.seg",
        "a.7.seg",
        "0000000A.7.seg",
        "0000000a.07.seg",
        "0000000a.+7.seg",
        "+000000a.7.seg",
        "0000000a.7.seg.seg",
        "0000000a.7.seg ",
        "000000000a.7.seg",
        "0000000a.4294967296.seg",
        "0000000a.-1.seg",
        "0000000a..seg",
        "0000000a.7.pre.seg",
    ];
    for name in foreign {
        assert_eq!(parse_file_name(name), None, "{name}");
        assert_eq!(
            parse_prepared_name(&name.replace("seg", "pre")),
            None,
            "{name}"
        );
    }
    for name in [
        "0000000A.idx",
        "a.idx",
        ".idx",
        "0000000a.0.idx",
        "+000000a.idx",
        "0000000a",
    ] {
        assert_eq!(parse_sidecar_name(name), None, "{name}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_header_is_read_back(
        (number, epoch, flags) in (1u32.., any::<u32>(), any::<u32>()),
        (file, oldest) in (0u32..3, any::<prop::sample::Index>()),
        (base, size) in (0u64..1 << 40, 2u64..1 << 20),
        (salt, snap_lsn, created_ms) in any::<(u64, u64, u64)>(),
        uuid: [u8; 16],
        (at, gap) in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let (base, size) = (4096 * base, 4096 * size);
        let continues_at = match file {
            0 => 0,
            _ => base + 4096 + 16 * at.index(((size - 4096) / 16 + 1) as usize) as u64,
        };
        let oldest = oldest.index(number as usize) as u32 + 1;
        let prev_end = base - gap.index(base.min(1 << 20) as usize + 1) as u64;
        let header = SegmentHeader {
            number, file, epoch, base, size, salt, uuid, prev_end, snap_lsn, continues_at,
            created_ms, flags, oldest,
            algorithm: CRC32, version: VERSION,
        };
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        prop_assert!(is_adopted(&adopted(&header), &header));
        let name = Name { number, file: epoch };
        prop_assert_eq!(parse_file_name(&file_name(number, epoch)), Some(name));
        prop_assert_eq!(parse_sidecar_name(&sidecar_name(number)), Some(number));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        at in 8usize..1900,
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        name in ".{0,20}",
    ) {
        if let Ok(header) = SegmentHeader::decode(&resealed(&continuation(), at, &bytes)) {
            prop_assert!(header.first_lsn() < header.end());
        }
        let _ = SegmentHeader::decode(&bytes);
        let _ = (parse_file_name(&name), parse_sidecar_name(&name), parse_prepared_name(&name));
    }
}

const GOLDEN_HEADER: &str = "\
    6b656570 71736567 01000100 0a000000 03000000 02000000 00001000 00000000 \
    00002000 00000000 88776655 44332211 30313233 34353637 38396162 63646566 \
    e0ff0f00 00000000 00100000 00000000 10201000 00000000 0068e5cf 8b010000 \
    01000000 01000000";
const GOLDEN_ADOPTED: &str = "\
    6b656570 71616470 0a000000 03000000 00001000 00000000 10201000 00000000 \
    30313233 34353637 38396162 63646566";
