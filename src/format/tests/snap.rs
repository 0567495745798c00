use super::config;
use crate::format::Bad;
use crate::format::payload::*;
use proptest::prelude::*;

fn limits() -> SnapItem {
    SnapItem::Limits {
        topic: 5,
        options: TopicConfig {
            max_bytes: 1,
            max_messages: 2,
            retain_ms: 3,
            retain_bytes: 4,
            flags: 1,
        },
        kept: Kept {
            from: 6,
            count: 7,
            bytes: 8,
        },
    }
}

fn items() -> Vec<SnapItem> {
    let config = GroupConfig {
        lease_ms: 1,
        max_attempts: 2,
        ..GroupConfig::default()
    };
    vec![
        SnapItem::Counters {
            next_topic_id: 1,
            next_group_id: 2,
        },
        SnapItem::Topic {
            id: 1,
            name: "t".into(),
            flags: 2,
            first_seq: 3,
            next_seq: 4,
        },
        SnapItem::Group {
            id: 1,
            topic: 2,
            name: "g".into(),
            config,
            cursor: 5,
            start_seq: 4,
            generation: 3,
            lost: (7, 8),
        },
        SnapItem::Oldest { number: 9 },
        SnapItem::Used {
            group: true,
            id: 0x1007,
        },
        limits(),
        SnapItem::Removed {
            group: 1,
            first: 2,
            count: 3,
        },
        SnapItem::Outstanding {
            group: 1,
            seq: 2,
            lsn: 3,
            attempts: 4,
            crashes: 5,
            due_ms: 6,
        },
        SnapItem::Producer {
            name: "p".into(),
            epoch: 1,
            last_seq_plus_1: 2,
            last_lsn: 3,
            used_ms: 4,
            open: true,
            results: vec![SendResult { place: 5, seq: 6 }],
        },
    ]
}

fn piece(items: &[SnapItem]) -> Vec<u8> {
    let mut writer = SnapWriter::new(1 << 16);
    assert!(items.iter().all(|item| writer.push(item)));
    writer.take(0, true)
}

#[test]
fn a_piece_has_exactly_these_bytes() {
    let config = [
        &[1, 0, 0, 0, 0, 0, 0, 0][..],
        &[0; 16],
        &[2, 0, 0, 0],
        &[0; 20],
    ]
    .concat();
    let expected: &[&[u8]] = &[
        &[
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        ],
        &[5, 0, 8, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        &[1, 0, 27, 0, 1, 0, 0, 0, 2, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, b't'],
        &[2, 0, 99, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
        &[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
        &config,
        &[1, 0, b'g'],
        &[16, 0, 4, 0, 9, 0, 0, 0],
        &[18, 0, 8, 0, 1, 0, 0, 0, 7, 16, 0, 0],
        &[19, 0, 72, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        &[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
        &[20, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 40, 0, 1, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        &[
            2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
        ],
        &[21, 0, 59, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        &[4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'p'],
    ];
    assert_eq!(piece(&items()), expected.concat());
}

#[test]
fn a_piece_is_read_whole_or_not_at_all() {
    let body = piece(&items());
    assert_eq!(decode_items(&body), Ok(items()));
    for len in 0..body.len() {
        assert!(SnapPiece::decode(&body[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(
        SnapPiece::decode(&[&body[..], &[0]].concat()),
        Err(Bad::Length)
    );
}

#[test]
fn only_marked_unknown_items_are_skipped() {
    let mut body = piece(&items());
    body[12] = 10;
    let unknown = |kind: u8| [&body[..], &[kind, 0, 3, 0, 1, 2, 3]].concat();
    assert_eq!(decode_items(&unknown(200)), Ok(items()));
    assert_eq!(decode_items(&unknown(99)), Err(Bad::Kind));
    assert_eq!(decode_items(&unknown(0)), Err(Bad::Kind));
}

#[test]
fn a_tag_has_exactly_these_bytes() {
    let tag = SnapItem::Tag {
        group: 3,
        version: 4,
        tag: "new".into(),
    };
    let body = piece(std::slice::from_ref(&tag));
    assert_eq!(body[24..], *b"\x17\0\x0d\0\x03\0\0\0\x04\0\0\0\x03\0new");
    assert_eq!(decode_items(&body), Ok(vec![tag]));
    let long = [
        &body[..24],
        b"\x17\0\x0a\x01\x03\0\0\0\x04\0\0\0\0\x01",
        &[b'x'; 256],
    ]
    .concat();
    assert_eq!(decode_items(&long), Err(Bad::Length));
}

#[test]
fn a_run_of_removed_letters_has_an_end() {
    let item = |first: u64, count: u64| {
        let value = [&[0; 8][..], &first.to_le_bytes(), &count.to_le_bytes()].concat();
        [&piece(&[])[..], &[20, 0, 24, 0], &value].concat()
    };
    let one = |mut body: Vec<u8>| {
        body[12] = 1;
        decode_items(&body)
    };
    assert!(one(item(u64::MAX - 1, 1)).is_ok());
    assert_eq!(one(item(u64::MAX, 1)), Err(Bad::Value));
    assert_eq!(one(item(1, 0)), Err(Bad::Value));
}

#[test]
fn a_count_that_lies_costs_nothing() {
    let mut body = piece(&[]);
    body[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(SnapPiece::decode(&body), Err(Bad::Length));
}

#[test]
fn pieces_say_how_they_belong_together() {
    let mut writer = SnapWriter::new(0);
    assert!(writer.is_empty());
    assert_eq!(writer.piece(), 0);
    let first = writer.take(0, false);
    assert_eq!(writer.piece(), 1);
    assert!(writer.push(&items()[0]));
    assert!(!writer.is_empty());
    let second = writer.take(8192, true);
    let head = |first_lsn, piece, last, count| SnapHead {
        first_lsn,
        piece,
        last,
        count,
    };
    assert_eq!(SnapHead::decode(&first), Ok(head(0, 0, false, 0)));
    assert_eq!(SnapHead::decode(&second), Ok(head(8192, 1, true, 1)));
    let orphan = writer.take(0, true);
    assert_eq!(
        SnapHead::decode(&orphan),
        Err(Bad::Value),
        "a later piece knows the first"
    );
    let mut odd = second.clone();
    odd[16] = 2;
    assert_eq!(SnapHead::decode(&odd), Err(Bad::Value));
}

#[test]
fn the_longest_names_fit_the_smallest_piece() {
    let name = "n".repeat(255);
    let mut writer = SnapWriter::new(0);
    let config = GroupConfig::default();
    let group = SnapItem::Group {
        id: 1,
        topic: 1,
        name,
        config,
        cursor: 0,
        start_seq: 0,
        generation: 0,
        lost: (0, 0),
    };
    assert!(writer.push(&group));
    assert_eq!(decode_items(&writer.take(0, true)), Ok(vec![group]));
    let producer = producer(100, vec![SendResult { place: 5, seq: 6 }; 64]);
    assert!(writer.push(&producer));
    assert_eq!(decode_items(&writer.take(4096, true)), Ok(vec![producer]));
}

fn producer(last_seq_plus_1: u64, results: Vec<SendResult>) -> SnapItem {
    SnapItem::Producer {
        name: "n".repeat(255),
        epoch: 1,
        last_seq_plus_1,
        last_lsn: 2,
        used_ms: 3,
        open: false,
        results,
    }
}

#[test]
fn a_producer_has_as_many_results_as_it_sent_and_64_at_most() {
    let results = |n| vec![SendResult { place: 5, seq: 6 }; n];
    let read = |last, n| decode_items(&piece(&[producer(last, results(n))]));
    assert!(read(100, 64).is_ok() && read(64, 64).is_ok());
    assert_eq!(read(100, 65), Err(Bad::Value));
    assert_eq!(read(63, 64), Err(Bad::Value));
}

prop_compose! {
    fn item()(
        kind in 0..8,
        name in "[a-z%.]{1,255}",
        (a, b, c) in any::<(u32, u32, u32)>(),
        (x, y, z) in any::<(u64, u64, u64)>(),
    ) -> SnapItem {
        let config = GroupConfig {
            lease_ms: y,
            max_attempts: c,
            backoff_first_ms: x,
            backoff_factor_milli: a,
            backoff_max_ms: z,
            backoff_jitter_milli: b,
            flags: (a ^ b) % 16,
            max_outstanding: b ^ c,
        };
        match kind {
            0 => SnapItem::Topic { id: a, name, flags: b, first_seq: x, next_seq: y },
            1 => SnapItem::Group {
                id: a, topic: b, name, config, cursor: x, start_seq: z, generation: c,
                lost: (z, x),
            },
            2 => SnapItem::Outstanding {
                group: a, seq: x, lsn: y, attempts: b, crashes: c, due_ms: z,
            },
            3 => SnapItem::Producer {
                name, epoch: a, last_seq_plus_1: x, last_lsn: y, used_ms: z, open: b & 1 == 1,
                results: (0..x.min(u64::from(c) % 65))
                    .map(|i| SendResult { place: y ^ i, seq: z ^ i })
                    .collect(),
            },
            4 => SnapItem::Oldest { number: c },
            6 => SnapItem::Used { group: a % 2 == 1, id: b },
            5 => SnapItem::Removed {
                group: a, first: x >> 1, count: (y >> 1).max(1),
            },
            _ => SnapItem::Counters { next_topic_id: a, next_group_id: b },
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn items_are_read_back_from_pieces_that_keep_their_limit(
        items in prop::collection::vec(item(), 0..60),
        limit in 0usize..3000,
    ) {
        let mut writer = SnapWriter::new(limit);
        let mut bodies = Vec::new();
        for item in &items {
            if !writer.push(item) {
                bodies.push(writer.take(4096 * u64::from(writer.piece() > 0), false));
                prop_assert!(writer.push(item), "an item fits an empty piece");
            }
        }
        bodies.push(writer.take(4096 * u64::from(writer.piece() > 0), true));
        let mut read = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            prop_assert!(body.len() <= limit.max(2048));
            let piece = SnapPiece::decode(body).unwrap();
            prop_assert_eq!(piece.head.piece as usize, number);
            prop_assert_eq!(piece.head.last, number + 1 == bodies.len());
            read.extend(piece.items);
        }
        prop_assert_eq!(read, items);
    }

    #[test]
    fn no_change_makes_the_reader_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut body = piece(&items());
        let at = at.index(body.len());
        body[at] = byte;
        let _ = SnapPiece::decode(&body);
    }
}
