use super::batch::batch;
use super::config;
use crate::format::Bad;
use crate::format::payload::*;
use crate::format::record::{self, Draft, HEADER, Kind, MAX_RECORD};
use proptest::prelude::*;

fn group_config() -> GroupConfig {
    GroupConfig {
        lease_ms: 30_000,
        max_attempts: 16,
        backoff_first_ms: 1_000,
        backoff_factor_milli: 2_000,
        backoff_max_ms: 600_000,
        backoff_jitter_milli: 100,
        flags: GroupConfig::SYNC_ACK | GroupConfig::BROADCAST,
        max_outstanding: 77,
    }
}

fn release(reason: String) -> Release {
    Release {
        origin_lsn: 4096,
        source_stream: 1,
        group: 2,
        source_seq: 3,
        attempts: 16,
        reason_code: 4,
        dead_at_ms: 5,
        reason,
    }
}

fn configs() -> Vec<Config> {
    let name = "%DLQ%orders%billing".to_owned();
    vec![
        Config::TopicCreate {
            id: 1,
            name: name.clone(),
            flags: 2,
            first_seq: 3,
        },
        Config::GroupCreate {
            id: 1,
            topic: 2,
            name,
            options: group_config(),
            start_seq: 9,
        },
        Config::TopicDelete { id: 4 },
        Config::GroupDelete { id: 5 },
        Config::GroupConfigure {
            id: 6,
            options: group_config(),
        },
        Config::TopicPurge {
            id: 7,
            first_seq: 8,
        },
        Config::TopicConfigure {
            id: 9,
            options: TopicConfig {
                max_bytes: 1,
                max_messages: 2,
                retain_ms: 3,
                retain_bytes: 4,
                flags: TopicConfig::BLOCK,
            },
            kept: Kept {
                from: 5,
                count: 6,
                bytes: 7,
            },
        },
        Config::StoreConfigure {
            max_bytes: 8,
            flags: TopicConfig::BLOCK,
        },
        Config::ProducerDrop {
            name: "loader".into(),
        },
        Config::GroupTags {
            id: 9,
            version: 3,
            tags: vec!["new".into(), String::new()],
        },
    ]
}

fn loss() -> Loss {
    let gaps = vec![
        Gap {
            stream: 1,
            first: 2,
            count: 3,
        },
        Gap {
            stream: 4,
            first: 0,
            count: 1,
        },
    ];
    Loss {
        from: 4096,
        to: 8192,
        gaps,
        reason: "bad checksum".into(),
    }
}

#[test]
fn small_bodies_have_exactly_these_bytes() {
    let le = |words: &[u64]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let retry = Retry {
        seq: 1,
        lsn: 2,
        attempts: 3,
        crashes: 4,
        due_ms: 5,
    };
    assert_eq!(retry.encode(), le(&[1, 2, 4 << 32 | 3, 5]));
    assert_eq!(
        Seal {
            next_base: 1,
            next_number: 2
        }
        .encode(),
        le(&[1, 2])
    );
    assert_eq!(
        Seek {
            seq: 1,
            generation: 2
        }
        .encode(),
        le(&[1, 2])
    );
    assert_eq!(Cancel { lsn: 7 }.encode(), le(&[7]));
    assert_eq!(Watermark { durable: 7 }.encode(), le(&[7]));
    assert_eq!(
        Moved {
            original_lsn: 7,
            record: b"xy"
        }
        .encode(),
        [&le(&[7])[..], b"xy"].concat()
    );
    let expected = [
        &le(&[4096, 2 << 32 | 1, 3, 4 << 32 | 16, 5])[..],
        b"\x02\0no",
    ]
    .concat();
    assert_eq!(release("no".into()).encode(), expected);
    let opened = ProducerOpen {
        name: "p".into(),
        epoch: 3,
        opened_ms: 4,
    };
    assert_eq!(
        opened.encode(),
        b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01\0p"
    );
    let runs = vec![Run { first: 5, count: 2 }];
    assert_eq!(
        Ack { runs, reason: 1 }.encode(),
        b"\x01\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x02\0\0\0"
    );
    assert_eq!(Ack::encode_one(5, 1), Some(*b"\x01\x05\0\0\0\0\0\0"));
}

#[test]
fn settings_have_exactly_these_bytes() {
    let options = [
        &30_000u64.to_le_bytes()[..],
        &1_000u64.to_le_bytes(),
        &600_000u64.to_le_bytes(),
        &16u32.to_le_bytes(),
        &2_000u32.to_le_bytes(),
        &100u32.to_le_bytes(),
        &5u32.to_le_bytes(),
        &77u32.to_le_bytes(),
        &[0; 4],
    ]
    .concat();
    let name = b"\x13\0%DLQ%orders%billing";
    let expected = [
        [
            b"\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0",
            &name[..],
        ]
        .concat(),
        [
            b"\x02\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
            &options[..],
            name,
        ]
        .concat(),
        b"\x03\0\0\0\x04\0\0\0".to_vec(),
        b"\x04\0\0\0\x05\0\0\0".to_vec(),
        [b"\x05\0\0\0\x06\0\0\0", &options[..]].concat(),
        b"\x06\0\0\0\x07\0\0\0\x08\0\0\0\0\0\0\0".to_vec(),
        [
            &b"\x07\0\0\0\x09\0\0\0"[..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
        [
            &b"\x08\0\0\0\0\0\0\0"[..],
            &[8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
        b"\x09\0\0\0\0\0\0\0\x06\0loader".to_vec(),
        b"\x0a\0\0\0\x09\0\0\0\x03\0\0\0\x02\0\0\0\x03\0new\0\0".to_vec(),
    ];
    let encoded: Vec<_> = configs().iter().map(Config::encode).collect();
    assert_eq!(encoded, expected);
}

/// Asserts that a body reads back, and that neither a part of it nor more than it does.
fn exact<T: PartialEq + std::fmt::Debug>(
    value: &T,
    body: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, Bad>,
) {
    assert_eq!(decode(body).as_ref(), Ok(value));
    for len in 0..body.len() {
        assert!(decode(&body[..len]).is_err(), "{len} bytes of {value:?}");
    }
    assert!(
        decode(&[body, &[0]].concat()).is_err(),
        "one byte more than {value:?}"
    );
}

#[test]
fn bodies_are_read_whole_or_not_at_all() {
    let retry = Retry {
        seq: 1,
        lsn: 2,
        attempts: 3,
        crashes: 4,
        due_ms: 5,
    };
    exact(&retry, &retry.encode(), Retry::decode);
    let seal = Seal {
        next_base: 1 << 40,
        next_number: 2,
    };
    exact(&seal, &seal.encode(), Seal::decode);
    let seek = Seek {
        seq: 1,
        generation: 2,
    };
    exact(&seek, &seek.encode(), Seek::decode);
    exact(
        &Cancel { lsn: 9 },
        &Cancel { lsn: 9 }.encode(),
        Cancel::decode,
    );
    exact(
        &Watermark { durable: 9 },
        &Watermark { durable: 9 }.encode(),
        Watermark::decode,
    );
    exact(&loss(), &loss().encode(), Loss::decode);
    let release = release("because".into());
    exact(&release, &release.encode(), Release::decode);
    let opened = ProducerOpen {
        name: "loader".into(),
        epoch: 3,
        opened_ms: 4,
    };
    exact(&opened, &opened.encode(), ProducerOpen::decode);
    for config in configs() {
        exact(&config, &config.encode(), Config::decode);
    }
}

#[test]
fn a_group_has_no_more_tags_than_it_can_have() {
    let tags = |count: usize| Config::GroupTags {
        id: 1,
        version: 1,
        tags: (0..count).map(|i| i.to_string()).collect(),
    };
    let read = |count: usize| Config::decode(&tags(count).encode());
    assert_eq!(read(MAX_TAGS), Ok(tags(MAX_TAGS)));
    assert_eq!(read(MAX_TAGS + 1), Err(Bad::Length));
    let mut body = tags(1).encode();
    body[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Config::decode(&body), Err(Bad::Length));
    // Its length names 256 bytes.
    let long = [&body[..12], &[1, 0, 0, 0, 0, 1], &[b'x'; 256]].concat();
    assert_eq!(Config::decode(&long), Err(Bad::Length));
}

#[test]
fn acks_of_one_are_short_and_all_are_read_back() {
    let ack = |runs: &[(u64, u32)]| Ack {
        runs: runs
            .iter()
            .map(|&(first, count)| Run { first, count })
            .collect(),
        reason: reason::EXPIRED,
    };
    let cases = [
        (ack(&[(0, 1)]), 8),
        (ack(&[((1 << 56) - 1, 1)]), 8),
        (ack(&[(1 << 56, 1)]), 20),
        (ack(&[(7, 2)]), 20),
        (ack(&[(9, 1), (3, 4)]), 32),
    ];
    for (ack, len) in cases {
        let body = ack.encode();
        assert_eq!((body.len(), Ack::decode(&body)), (len, Ok(ack)));
    }
}

#[test]
fn impossible_acks_are_refused() {
    let body = |count: u32, runs: &[(u64, u32)]| {
        let mut body = vec![0, 0, 0, 0];
        body.extend(count.to_le_bytes());
        for (first, count) in runs {
            body.extend(first.to_le_bytes());
            body.extend(count.to_le_bytes());
        }
        body
    };
    assert!(Ack::decode(&body(1, &[(1, 2)])).is_ok());
    assert_eq!(Ack::decode(&body(2, &[(1, 2)])), Err(Bad::Length));
    assert_eq!(Ack::decode(&body(u32::MAX, &[(1, 2)])), Err(Bad::Length));
    assert_eq!(Ack::decode(&body(0, &[(1, 2)])), Err(Bad::Length));
    assert_eq!(Ack::decode(&body(1, &[(1, 0)])), Err(Bad::Value));
    assert_eq!(Ack::decode(&body(1, &[(u64::MAX, 1)])), Err(Bad::Value));
    assert_eq!(Ack::decode(&[]), Err(Bad::Length));
    assert_eq!(Ack::decode(&[0; 7]), Err(Bad::Length));
}

#[test]
fn the_most_runs_and_gaps_fit_one_record() {
    let ack = Ack {
        runs: vec![Run { first: 1, count: 2 }; Ack::MAX_RUNS],
        reason: 0,
    };
    let draft = Draft::new(Kind::Ack, 0, 1, &[], &[&ack.encode()]);
    assert!(draft.bytes.len() <= MAX_RECORD);
    let gaps = vec![
        Gap {
            stream: 1,
            first: 2,
            count: 3
        };
        Loss::MAX_GAPS
    ];
    let loss = Loss {
        gaps,
        reason: "r".repeat(MAX_REASON),
        ..loss()
    };
    let draft = Draft::new(Kind::Loss, 0, 0, &[], &[&loss.encode()]);
    assert!(draft.bytes.len() <= MAX_RECORD);
    assert_eq!(Loss::decode(&loss.encode()), Ok(loss));
}

#[test]
fn a_reason_is_cut_when_written_and_refused_when_too_long() {
    let long = "é".repeat(MAX_REASON);
    let body = release(long.clone()).encode();
    assert_eq!(Release::decode(&body).unwrap().reason, long[..MAX_REASON]);
    let mut body = release("x".repeat(MAX_REASON)).encode();
    let at = body.len() - MAX_REASON - 2;
    body[at..at + 2].copy_from_slice(&1025u16.to_le_bytes());
    body.push(b'x');
    assert_eq!(Release::decode(&body), Err(Bad::Length));
}

#[test]
fn names_that_keepq_never_writes_are_refused() {
    for name in [&b"a/b"[..], b"", b"\xff", b"a b", &[b'x'; 256]] {
        let mut body = vec![0; 16];
        body.extend((name.len() as u16).to_le_bytes());
        body.extend(name);
        assert!(ProducerOpen::decode(&body).is_err(), "{name:?}");
    }
}

#[test]
fn unknown_settings_are_refused() {
    for operation in [0u8, 30, 255] {
        let body = [&[operation, 0, 0, 0][..], &[0; 4]].concat();
        assert_eq!(Config::decode(&body), Err(Bad::Kind));
    }
    assert_eq!(Config::decode(&[3, 1, 0, 0, 4, 0, 0, 0]), Err(Bad::Value));
}

#[test]
fn unknown_flags_of_a_group_are_refused() {
    let with = |flags| Config::GroupConfigure {
        id: 6,
        options: GroupConfig {
            flags,
            ..group_config()
        },
    };
    for flags in 0..64 {
        let known = flags < 32 && flags & 20 != 16;
        let read = Config::decode(&with(flags).encode());
        assert_eq!(
            read,
            if known {
                Ok(with(flags))
            } else {
                Err(Bad::Value)
            }
        );
    }
    for bit in 5..32 {
        let read = Config::decode(&with(1 << bit).encode());
        assert_eq!(read, Err(Bad::Value), "bit {bit}");
    }
}

#[test]
fn a_loss_is_never_empty() {
    for (from, to, count) in [(5, 5, 1), (6, 5, 1), (1, 2, 0)] {
        let gaps = vec![Gap {
            stream: 1,
            first: 2,
            count,
        }];
        let loss = Loss {
            from,
            to,
            gaps,
            reason: String::new(),
        };
        assert_eq!(Loss::decode(&loss.encode()), Err(Bad::Value));
    }
}

#[test]
fn a_moved_record_is_read_in_its_new_place() {
    let mut inner = Draft::new(Kind::Msg, 0, 3, b"e", &[b"body"]);
    record::finish_header(inner.header_mut(), 4096, 11, 1, 0, 42);
    let moved = Moved {
        original_lsn: 4096,
        record: &inner.bytes,
    };
    let mut outer = Draft::new(Kind::Moved, 0, 3, &[], &[&moved.encode()]);
    record::finish_header(outer.header_mut(), 1 << 30, 12, 2, 0, 42);
    let outer = record::parse(&outer.bytes, 1 << 30, 12).unwrap();
    let moved = Moved::decode(outer.body).unwrap();
    assert_eq!(moved.original_lsn, 4096);
    assert_eq!(
        record::parse_carried(moved.record),
        record::parse(&inner.bytes, 4096, 11)
    );
    assert_eq!(Moved::decode(&[0; 7]), Err(Bad::Length));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_body_makes_a_reader_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_everything(&body);
    }

    #[test]
    fn no_change_makes_a_reader_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bodies: Vec<_> = configs().iter().map(Config::encode).collect();
        bodies.push(loss().encode());
        bodies.push(release("because".into()).encode());
        bodies.push(batch().build().bytes[HEADER..].to_vec());
        for mut body in bodies {
            let at = at.index(body.len());
            body[at] = byte;
            decode_everything(&body);
        }
    }

    #[test]
    fn any_retry_is_read_back(
        (seq, lsn, due_ms) in any::<(u64, u64, u64)>(),
        (attempts, crashes) in any::<(u32, u32)>(),
    ) {
        let retry = Retry { seq, lsn, attempts, crashes, due_ms };
        prop_assert_eq!(Retry::decode(&retry.encode()), Ok(retry));
    }

    #[test]
    fn any_ack_is_read_back(
        runs in prop::collection::vec((0u64..u64::MAX >> 1, 1..=u32::MAX), 1..40),
        reason: u8,
    ) {
        let runs = runs.into_iter().map(|(first, count)| Run { first, count }).collect();
        let ack = Ack { runs, reason };
        prop_assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
    }
}

fn decode_everything(body: &[u8]) {
    let _ = Ack::decode(body);
    let _ = Retry::decode(body);
    let _ = Release::decode(body);
    let _ = Seal::decode(body);
    let _ = Config::decode(body);
    let _ = ProducerOpen::decode(body);
    let _ = SnapPiece::decode(body);
    let _ = SnapHead::decode(body);
    let _ = Seek::decode(body);
    let _ = Loss::decode(body);
    let _ = Moved::decode(body).map(|m| record::parse_carried(m.record).is_ok());
    let _ = Cancel::decode(body);
    let _ = Watermark::decode(body);
    let parts = iter(body).count();
    assert!(
        parts <= body.len() / 24 + 1,
        "ends, whatever the lengths say"
    );
}
