use super::{config, each_flip, hex, slow_crc};
use crate::format::Bad;
use crate::format::record::*;
use proptest::prelude::*;

const LSN: u64 = 0x12_3456_7890;
const SALT: u64 = 0x0102_0304_0506_0708;

fn sample() -> Vec<u8> {
    let mut draft = Draft::new(Kind::Msg, 0, 7, &[1, 1, 42], &[b"hel", b"lo"]);
    finish_header(draft.header_mut(), LSN, SALT, 3, 9, 1 << 40);
    draft.bytes
}

/// A header with these fields and a checksum that holds.
fn sealed(fields: &[u8; 36], lsn: u64, salt: u64) -> [u8; HEADER] {
    let mut covered = fields.to_vec();
    covered.extend_from_slice(&lsn.to_le_bytes());
    covered.extend_from_slice(&salt.to_le_bytes());
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&slow_crc(&covered).to_le_bytes());
    header[4..].copy_from_slice(fields);
    header
}

/// Fields of a record without extensions at `LSN`, for changing them one by one.
fn plain_fields(len: u32) -> [u8; 36] {
    let mut fields = [0; 36];
    fields[..4].copy_from_slice(&len.to_le_bytes());
    fields[4..8].copy_from_slice(&((LSN / 16) as u32).to_le_bytes());
    fields[32] = Kind::Msg as u8;
    fields
}

#[test]
fn a_record_has_exactly_these_bytes() {
    let payload = [&[1, 1, 42][..], &[0; 13], b"hello", &[0; 3]].concat();
    let pcrc = slow_crc(&payload).to_le_bytes();
    let mut fields = Vec::new();
    fields.extend(61u32.to_le_bytes()); // 40 + 16 + 5
    fields.extend(0x2345_6789u32.to_le_bytes()); // LSN / 16, cut to 32 bits
    fields.extend(3u32.to_le_bytes());
    fields.extend(pcrc);
    fields.extend(9u32.to_le_bytes());
    fields.extend((1u64 << 40).to_le_bytes());
    fields.extend(7u32.to_le_bytes());
    fields.extend([1, 0, 1, 0]);
    let header = sealed(&fields.try_into().unwrap(), LSN, SALT);
    assert_eq!(sample(), [&header[..], &payload].concat());
    assert_eq!(
        sample(),
        hex(GOLDEN_RECORD),
        "and these are its bytes, computed elsewhere"
    );
}

#[test]
fn a_short_ack_takes_48_bytes() {
    let body = crate::format::payload::Ack::encode_one(5, 0).unwrap();
    let draft = Draft::new(Kind::Ack, 0, 1, &[], &[&body]);
    assert_eq!(draft.bytes.len(), 48);
}

#[test]
fn a_short_record_is_laid_out_like_any_other() {
    for body in [[0; 8], [0xff; 8], *b"keepq\0\r\n"] {
        let long = Draft::new(Kind::Ack, 0, 7, &[], &[&body]);
        assert_eq!(short(Kind::Ack, 7, body).as_slice(), long.bytes);
    }
}

#[test]
fn every_changed_bit_of_a_record_is_noticed() {
    let bytes = sample();
    assert!(parse(&bytes, LSN, SALT).is_ok());
    each_flip(&bytes, |bit, changed| {
        assert_eq!(parse(changed, LSN, SALT), Err(Bad::Checksum), "bit {bit}");
    });
}

#[test]
fn a_record_counts_only_at_its_place() {
    let bytes = sample();
    for (lsn, salt) in [(LSN + 16, SALT), (LSN + (1 << 36), SALT), (LSN, SALT + 1)] {
        assert_eq!(parse(&bytes, lsn, salt), Err(Bad::Checksum));
    }
}

#[test]
fn a_cut_record_is_refused_at_every_length() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert_eq!(
            parse(&bytes[..len], LSN, SALT),
            Err(Bad::Length),
            "{len} bytes"
        );
    }
}

#[test]
fn what_lies_behind_a_record_does_not_matter() {
    let mut bytes = sample();
    bytes.extend_from_slice(&[0xff; 40]);
    assert_eq!(parse(&bytes, LSN, SALT).unwrap().body, b"hello");
}

#[test]
fn nothing_written_is_told_from_damage() {
    assert_eq!(parse_header(&[0; HEADER], LSN, SALT), Err(Bad::Zero));
    assert_eq!(parse_header(&[0; HEADER - 1], LSN, SALT), Err(Bad::Length));
    let mut almost = [0; HEADER];
    almost[39] = 1;
    assert_eq!(parse_header(&almost, LSN, SALT), Err(Bad::Checksum));
}

#[test]
fn lengths_are_bounded_even_under_a_good_checksum() {
    let parse = |len: u32, ext: u16| {
        let mut fields = plain_fields(len);
        fields[34..36].copy_from_slice(&ext.to_le_bytes());
        parse_header(&sealed(&fields, LSN, SALT), LSN, SALT).map(|h| h.len)
    };
    assert_eq!(parse(40, 0), Ok(40));
    assert_eq!(parse(39, 0), Err(Bad::Length));
    assert_eq!(parse(0, 0), Err(Bad::Length));
    assert_eq!(parse(1 << 20, 0), Ok(1 << 20));
    assert_eq!(parse((1 << 20) + 1, 0), Err(Bad::Length));
    assert_eq!(parse(u32::MAX, 0), Err(Bad::Length));
    assert_eq!(parse(56, 1), Ok(56));
    assert_eq!(parse(55, 1), Err(Bad::Length));
    assert_eq!(parse(1 << 20, u16::MAX), Err(Bad::Length));
}

#[test]
fn the_position_in_the_header_must_agree() {
    let mut fields = plain_fields(40);
    fields[4] ^= 1;
    assert_eq!(
        parse_header(&sealed(&fields, LSN, SALT), LSN, SALT),
        Err(Bad::Value)
    );
}

#[test]
fn only_marked_unknown_kinds_are_skipped() {
    for number in 0..=u8::MAX {
        let known = (1..=15).contains(&number);
        assert_eq!(
            Kind::from_u8(number).map(|k| k as u8),
            known.then_some(number)
        );
        let unmarked = known_kind(number, 0);
        let marked = known_kind(number, SKIPPABLE);
        if known {
            assert_eq!(
                (unmarked, marked),
                (Ok(Kind::from_u8(number)), Ok(Kind::from_u8(number)))
            );
        } else {
            assert_eq!(unmarked, Err(Bad::Kind));
            assert_eq!(
                marked,
                if number == 0 {
                    Err(Bad::Kind)
                } else {
                    Ok(None)
                }
            );
        }
    }
}

#[test]
fn an_unknown_kind_still_has_a_length() {
    let mut fields = plain_fields(77);
    fields[32] = 200;
    fields[33] = SKIPPABLE;
    let header = parse_header(&sealed(&fields, LSN, SALT), LSN, SALT).unwrap();
    assert_eq!((header.kind(), header.padded_len()), (Ok(None), 80));
}

#[test]
fn the_longest_record_can_be_written_and_read() {
    let body = vec![7; MAX_RECORD - HEADER - 16];
    let mut draft = Draft::new(Kind::Msg, 0, 1, b"x", &[&body]);
    assert_eq!(draft.bytes.len(), MAX_RECORD);
    finish_header(draft.header_mut(), 4096, SALT, 0, 0, 0);
    assert_eq!(parse(&draft.bytes, 4096, SALT).unwrap().body, body);
    let longer = [&body[..], b"1"].concat();
    let refused = std::panic::catch_unwind(|| Draft::new(Kind::Msg, 0, 1, b"x", &[&longer]));
    assert!(refused.is_err(), "one byte more is never written");
}

#[test]
fn a_changed_body_is_sealed_again() {
    let mut draft = Draft::new(Kind::Batch, 0, 0, b"ext", &[&[0; 24]]);
    draft.patch_body_u64(8, 0x1122_3344);
    finish_header(draft.header_mut(), LSN, SALT, 0, 0, 0);
    assert_eq!(parse(&draft.bytes, LSN, SALT), Err(Bad::Checksum));
    draft.reseal_payload();
    finish_header(draft.header_mut(), LSN, SALT, 0, 0, 0);
    let record = parse(&draft.bytes, LSN, SALT).unwrap();
    assert_eq!(record.body[8..16], 0x1122_3344u64.to_le_bytes());
}

#[test]
fn a_reused_buffer_keeps_nothing_of_the_last_record() {
    let mut buf = Vec::new();
    Draft::build_into(&mut buf, Kind::Msg, 1, 9, &[9; 100], &[&[9; 500]]);
    Draft::build_into(&mut buf, Kind::Ack, 0, 2, &[], &[b"abc"]);
    assert_eq!(buf, Draft::new(Kind::Ack, 0, 2, &[], &[b"abc"]).bytes);
}

#[test]
fn the_stream_can_be_set_late() {
    let mut draft = Draft::new(Kind::Msg, 0, 0, &[], &[b"x"]);
    set_stream(draft.header_mut(), 77);
    finish_header(draft.header_mut(), LSN, SALT, 0, 0, 0);
    assert_eq!(parse(&draft.bytes, LSN, SALT).unwrap().header.stream, 77);
}

#[test]
fn a_carried_record_is_checked_but_for_its_place() {
    let bytes = sample();
    assert_eq!(parse_carried(&bytes), parse(&bytes, LSN, SALT));
    let mut changed = bytes.clone();
    changed[HEADER] ^= 1;
    assert_eq!(parse_carried(&changed), Err(Bad::Checksum));
    assert_eq!(parse_carried(&bytes[..bytes.len() - 1]), Err(Bad::Length));
    assert_eq!(parse_carried(&[0xff; 64]), Err(Bad::Length));
}

#[test]
fn a_distance_too_long_for_the_header_proves_nothing() {
    let far = 16 * u64::from(u32::MAX);
    let header = |dur| {
        let mut fields = plain_fields(40);
        fields[16..20].copy_from_slice(&u32::to_le_bytes(dur));
        parse_header(&sealed(&fields, LSN, SALT), LSN, SALT).unwrap()
    };
    assert_eq!(durable_distance(far, 0), u32::MAX);
    assert_eq!(durable_distance(u64::MAX, 0), u32::MAX);
    assert_eq!(header(u32::MAX).proves_durable(far), 0);
    assert_eq!(header(2).proves_durable(LSN), LSN - 32);
    assert_eq!(
        durable_distance(100, 200),
        0,
        "durable may be ahead of what is being written"
    );
}

prop_compose! {
    fn bytes(max: usize)(bytes in prop::collection::vec(any::<u8>(), 0..max)) -> Vec<u8> { bytes }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_record_is_read_as_it_was_written(
        kind in prop::sample::select(&Kind::ALL[..]),
        flags in 0u8..2,
        stream in any::<u32>(),
        ext in bytes(100),
        (head, tail) in (bytes(300), bytes(300)),
        (lsn16, salt) in (0u64..1 << 59, any::<u64>()),
        (epoch, dur, seq) in any::<(u32, u32, u64)>(),
    ) {
        let lsn = 16 * lsn16;
        let mut draft = Draft::new(kind, flags, stream, &ext, &[&head, &tail]);
        finish_header(draft.header_mut(), lsn, salt, epoch, dur, seq);
        let record = parse(&draft.bytes, lsn, salt).unwrap();
        let header = record.header;
        prop_assert_eq!(header.kind(), Ok(Some(kind)));
        prop_assert_eq!((header.flags, header.stream), (flags, stream));
        prop_assert_eq!((header.epoch, header.dur, header.seq), (epoch, dur, seq));
        prop_assert_eq!(header.len as usize, record_len(ext.len(), head.len() + tail.len()));
        prop_assert_eq!(header.padded_len(), draft.bytes.len());
        prop_assert_eq!(draft.bytes.len() % ALIGN, 0);
        prop_assert_eq!(&record.ext[..ext.len()], &ext[..]);
        prop_assert!(record.ext[ext.len()..].iter().all(|&b| b == 0));
        prop_assert_eq!(record.body, [head, tail].concat());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in bytes(200), lsn in any::<u64>()) {
        prop_assert!(parse(&bytes, lsn, SALT).is_err());
        let _ = parse_carried(&bytes);
    }

    #[test]
    fn no_fields_under_a_good_checksum_make_the_reader_panic(
        fields in any::<[u8; 36]>(),
        (len, ext_len) in (0u32..400, 0u16..10),
        rest in bytes(300),
        small in any::<bool>(),
    ) {
        let mut fields = fields;
        fields[4..8].copy_from_slice(&((LSN / 16) as u32).to_le_bytes());
        if small {
            fields[..4].copy_from_slice(&len.to_le_bytes());
            fields[34..].copy_from_slice(&ext_len.to_le_bytes());
        }
        let mut record = sealed(&fields, LSN, SALT).to_vec();
        record.extend_from_slice(&rest);
        if let Ok(header) = parse_header(&record, LSN, SALT) {
            prop_assert!(header.len as usize <= MAX_RECORD);
            prop_assert!(header.body_start() <= header.len as usize);
            let _ = header.kind();
            let _ = check_payload(&header, &record);
        }
        let _ = parse(&record, LSN, SALT);
        let _ = parse_carried(&record);
    }

    #[test]
    fn a_record_never_claims_more_to_be_durable_than_was(
        lsn16 in 0u64..1 << 40, behind in 0u64..1 << 40,
    ) {
        let lsn = 16 * lsn16;
        let durable = lsn.saturating_sub(behind);
        let mut fields = plain_fields(40);
        fields[4..8].copy_from_slice(&((lsn16 & 0xffff_ffff) as u32).to_le_bytes());
        fields[16..20].copy_from_slice(&durable_distance(lsn, durable).to_le_bytes());
        let header = parse_header(&sealed(&fields, lsn, SALT), lsn, SALT).unwrap();
        let proven = header.proves_durable(lsn);
        prop_assert!(proven <= durable);
        prop_assert!(proven + 16 > durable || header.dur == u32::MAX);
    }
}

const GOLDEN_RECORD: &str = "\
    fc37aa4a 3d000000 89674523 03000000 e4522a3c 09000000 00000000 00010000 \
    07000000 01000100 01012a00 00000000 00000000 00000000 68656c6c 6f000000";
