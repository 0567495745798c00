use super::config;
use crate::format::Bad;
use crate::format::payload::*;
use crate::format::record::{self, HEADER, Kind, MAX_RECORD};
use proptest::prelude::*;

pub(super) fn batch() -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    assert_eq!(
        batch.push(Kind::Msg, 0, 5, 0, &[1, 2, 3], &[b"he", b"llo"]),
        Ok(0)
    );
    assert_eq!(batch.push(Kind::Ack, 1, 6, 7, &[], &[&[9; 8]]), Ok(1));
    assert_eq!(batch.push(Kind::Watermark, 0, 0, 0, &[], &[]), Ok(2));
    batch
}

#[test]
fn a_batch_has_exactly_these_bytes() {
    let mut batch = batch();
    batch.patch_seq(0, 0x1122);
    let expected: &[&[u8]] = &[
        &[
            45, 0, 0, 0, 1, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0,
        ],
        &[1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        b"hello\0\0\0",
        &[
            32, 0, 0, 0, 3, 1, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0,
        ],
        &[9; 8],
        &[
            24, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ];
    assert_eq!(batch.build().bytes[HEADER..HEADER + 104], expected.concat());
    assert_eq!(
        (batch.len(), batch.is_empty(), batch.body_len()),
        (3, false, 104)
    );
}

#[test]
fn a_batch_is_read_back_with_the_sequences_it_got_last() {
    let batch = batch();
    let mut draft = batch.build();
    batch.patch_draft_seq(&mut draft, 0, 41);
    batch.patch_draft_seq(&mut draft, 1, 42);
    draft.reseal_payload();
    record::finish_header(draft.header_mut(), 4096, 1, 0, 0, 0);
    let record = record::parse(&draft.bytes, 4096, 1).unwrap();
    let subs: Vec<_> = iter(record.body).map(Result::unwrap).collect();
    assert_eq!(subs.len(), 3);
    assert_eq!(subs[0].kind(), Ok(Some(Kind::Msg)));
    assert_eq!(
        (subs[0].stream, subs[0].seq, subs[0].body),
        (5, 41, &b"hello"[..])
    );
    assert_eq!(
        subs[0].ext,
        [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        (subs[1].flags, subs[1].seq, subs[1].body),
        (1, 42, &[9; 8][..])
    );
    for (index, sub) in subs.iter().enumerate() {
        assert_eq!(sub.offset, batch.offset(index));
        assert_eq!(draft.bytes[sub.offset + 4], sub.kind);
    }
}

#[test]
fn batches_do_not_nest() {
    let refused = [Kind::Batch, Kind::Seal, Kind::Snap, Kind::Chunk, Kind::Loss];
    for kind in Kind::ALL {
        let mut batch = BatchBuilder::new();
        let pushed = batch.push(kind, 0, 0, 0, &[], &[]);
        assert_eq!(pushed.is_err(), refused.contains(&kind), "{kind:?}");
        let mut body = vec![0; 24];
        body[0] = 24;
        body[4] = kind as u8;
        assert_eq!(
            iter(&body).all(|sub| sub.is_ok()),
            !refused.contains(&kind),
            "{kind:?}"
        );
    }
}

#[test]
fn a_batch_ends_at_its_limit() {
    let mut batch = BatchBuilder::new();
    let room = MAX_BATCH_BODY - 24;
    let body = vec![1; room + 1];
    assert_eq!(
        batch.push(Kind::Msg, 0, 0, 0, &[], &[&body]),
        Err(Bad::Length)
    );
    assert!(batch.is_empty());
    assert_eq!(batch.push(Kind::Msg, 0, 0, 0, &[], &[&body[1..]]), Ok(0));
    assert_eq!(batch.push(Kind::Msg, 0, 0, 0, &[], &[]), Err(Bad::Length));
    assert_eq!(batch.build().bytes.len(), MAX_RECORD);
}

#[test]
fn a_broken_batch_ends_at_the_first_error() {
    let good = batch().build().bytes[HEADER..HEADER + 104].to_vec();
    let broken = |at: usize, byte: u8| {
        let mut body = good.clone();
        body[at] = byte;
        iter(&body)
            .map(|sub| sub.map(|s| s.offset))
            .collect::<Vec<_>>()
    };
    assert_eq!(broken(0, 23), [Err(Bad::Length)]);
    assert_eq!(broken(3, 255), [Err(Bad::Length)]);
    assert_eq!(broken(6, 200), [Err(Bad::Length)]);
    assert_eq!(broken(4, 99), [Err(Bad::Kind)]);
    assert_eq!(broken(12, 1), [Err(Bad::Value)]);
    assert_eq!(broken(46, 1), [Err(Bad::Value)], "the padding is not zero");
    assert_eq!(broken(52, 0)[1], Err(Bad::Kind), "the second part");
    for len in 1..good.len() {
        let subs: Vec<_> = iter(&good[..len]).collect();
        let ends = [48, 80].contains(&len);
        assert_eq!(subs.iter().all(Result::is_ok), ends, "{len} bytes");
    }
}

prop_compose! {
    fn part()(
        kind in prop::sample::select(vec![Kind::Msg, Kind::Ack, Kind::Release, Kind::Config]),
        flags in 0u8..2,
        (stream, seq) in any::<(u32, u64)>(),
        ext in prop::collection::vec(any::<u8>(), 0..50),
        body in prop::collection::vec(any::<u8>(), 0..90),
    ) -> (Kind, u8, u32, u64, Vec<u8>, Vec<u8>) { (kind, flags, stream, seq, ext, body) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_batch_is_read_back(parts in prop::collection::vec(part(), 0..20)) {
        let mut batch = BatchBuilder::new();
        let mut cost = 0;
        for (kind, flags, stream, seq, ext, body) in &parts {
            batch.push(*kind, *flags, *stream, *seq, ext, &[body]).unwrap();
            cost += BatchBuilder::cost(ext.len(), body.len());
        }
        prop_assert_eq!(batch.body_len(), cost);
        let mut draft = batch.build();
        record::finish_header(draft.header_mut(), 4096, 1, 0, 0, 0);
        let record = record::parse(&draft.bytes, 4096, 1).unwrap();
        let subs: Vec<_> = iter(record.body).map(Result::unwrap).collect();
        prop_assert_eq!(subs.len(), parts.len());
        for (sub, (kind, flags, stream, seq, ext, body)) in subs.iter().zip(&parts) {
            prop_assert_eq!(sub.kind(), Ok(Some(*kind)));
            prop_assert_eq!((sub.flags, sub.stream, sub.seq), (*flags, *stream, *seq));
            prop_assert_eq!(&sub.ext[..ext.len()], &ext[..]);
            prop_assert_eq!(sub.body, &body[..]);
        }
    }
}
