use super::config;
use crate::format::Bad;
use crate::format::message::*;
use proptest::prelude::*;

fn encode(meta: &Meta<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    meta.encode_into(&mut out).unwrap();
    out
}

fn full() -> Meta<'static> {
    Meta {
        sent_at_ms: 0x0102_0304_0506_0708,
        key: Some("user-42"),
        tag: Some("new"),
        order_key: Some("é"),
        headers: vec![("source", b"web"), ("empty", b""), ("source", &[0xff, 0])],
        producer: Some(("loader", 9)),
        chunks: Some(Chunks {
            first_lsn: 4096,
            count: 3,
            body_len: 1 << 33,
        }),
        deliver_at_ms: Some(5),
        priority: Some(9),
        ttl_ms: Some(6),
        dedup: Some(1 << 100),
        trace: Some(b"\x00trace"),
        origin: Some(8192),
    }
}

#[test]
fn extensions_have_exactly_these_bytes() {
    let expected: &[&[u8]] = &[
        b"\x01\x08\x08\x07\x06\x05\x04\x03\x02\x01",
        b"\x02\x07user-42",
        b"\x03\x02\xc3\xa9",
        b"\x04\x03new",
        b"\x05\x0e\x09\0\0\0\0\0\0\0loader",
        b"\x06\x08\x05\0\0\0\0\0\0\0",
        b"\x08\x08\x06\0\0\0\0\0\0\0",
        b"\x0c\x08\0\x20\0\0\0\0\0\0",
        b"\x07\x01\x09",
        b"\x09\x10\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0",
        b"\x0a\x06\x00trace",
        b"\x0b\x14\0\x10\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0",
        b"\x80\x0b\0\x06\0sourceweb",
        b"\x80\x07\0\x05\0empty",
        b"\x80\x0a\0\x06\0source\xff\0",
    ];
    assert_eq!(encode(&full()), expected.concat());
}

#[test]
fn all_extensions_together_are_read_back() {
    let mut ext = encode(&full());
    assert_eq!(Meta::decode(&ext), Ok(full()));
    ext.resize(ext.len().next_multiple_of(16), 0);
    assert_eq!(
        Meta::decode(&ext),
        Ok(full()),
        "with the padding of a record"
    );
    assert_eq!(sent_at(&ext), Some(full().sent_at_ms));
}

#[test]
fn a_message_without_extensions_is_fine() {
    assert_eq!(Meta::decode(&[]), Ok(Meta::default()));
    assert_eq!(Meta::decode(&[0; 16]), Ok(Meta::default()));
    assert_eq!(sent_at(&[]), None);
    assert_eq!(sent_at(&[0; 16]), None);
}

#[test]
fn a_message_with_nothing_but_its_time_is_written_and_read_the_short_way() {
    let sent_at_ms = full().sent_at_ms;
    let meta = Meta {
        sent_at_ms,
        ..Meta::default()
    };
    let mut ext = Vec::new();
    encode_sent_at(sent_at_ms, &mut ext);
    assert_eq!(ext, encode(&meta));
    ext.resize(16, 0);
    assert_eq!(only_sent_at(&ext), Some(sent_at_ms));
    for at in 0..16 {
        let mut other = ext.clone();
        other[at] ^= 1;
        let expected = (2..10)
            .contains(&at)
            .then(|| sent_at_ms ^ 1 << (8 * (at - 2)));
        assert_eq!(only_sent_at(&other), expected, "byte {at}");
    }
    let mut longer = encode(&full());
    longer.resize(longer.len().next_multiple_of(16), 0);
    assert_eq!(only_sent_at(&longer), None);
    assert_eq!(only_sent_at(&ext[..15]), None);
}

#[test]
fn unknown_tags_are_skipped() {
    let known = encode(&full());
    let ext = [b"\x7f\x03abc", &known[..], b"\xff\x02\x00xy", b"\x0d\x00"].concat();
    assert_eq!(Meta::decode(&ext), Ok(full()));
}

#[test]
fn only_headers_may_come_twice() {
    let mut at = 0;
    let ext = encode(&full());
    let mut singletons = 0;
    while ext[at] < 128 {
        let end = at + 2 + usize::from(ext[at + 1]);
        let twice = [&ext[..], &ext[at..end]].concat();
        assert_eq!(Meta::decode(&twice), Err(Bad::Value), "tag {}", ext[at]);
        singletons += 1;
        at = end;
    }
    assert_eq!(singletons, 12);
    let headers = &ext[at..];
    assert_eq!(
        Meta::decode(&[headers, headers].concat())
            .unwrap()
            .headers
            .len(),
        6
    );
}

#[test]
fn cut_extensions_are_refused_or_end_between_two() {
    let ext = encode(&full());
    let mut ends = vec![0];
    while ends[ends.len() - 1] < ext.len() {
        let at = ends[ends.len() - 1];
        let len = usize::from(ext[at + 1]) + if ext[at] < 128 { 2 } else { 3 };
        ends.push(at + len);
    }
    for len in 0..ext.len() {
        let whole = ends.contains(&len);
        assert_eq!(Meta::decode(&ext[..len]).is_ok(), whole, "{len} bytes");
    }
}

#[test]
fn values_of_the_wrong_size_or_content_are_refused() {
    let bad: &[(&[u8], Bad)] = &[
        (b"\x01\x07\0\0\0\0\0\0\0", Bad::Length),
        (b"\x01\x09\0\0\0\0\0\0\0\0\0", Bad::Length),
        (b"\x02\x01\xff", Bad::Value),
        (b"\x03\x01\xff", Bad::Value),
        (b"\x04\x01\xff", Bad::Value),
        (b"\x05\x07\0\0\0\0\0\0\0", Bad::Length),
        (b"\x05\x09\0\0\0\0\0\0\0\0\xff", Bad::Value),
        (b"\x07\x02\0\0", Bad::Length),
        (b"\x09\x08\0\0\0\0\0\0\0\0", Bad::Length),
        (
            b"\x0b\x13\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0",
            Bad::Length,
        ),
        (
            b"\x0b\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            Bad::Value,
        ),
        (b"\x80\x01\0\0", Bad::Length),
        (b"\x80\x03\0\x02\0x", Bad::Length),
        (b"\x80\x03\0\x01\0\xff", Bad::Value),
        (b"\0\0\x01", Bad::Value),
    ];
    for (ext, reason) in bad {
        assert_eq!(Meta::decode(ext), Err(*reason), "{ext:x?}");
    }
}

#[test]
fn short_values_end_at_255_bytes() {
    let (most, more) = ("k".repeat(MAX_SHORT), "k".repeat(MAX_SHORT + 1));
    let producer = "p".repeat(MAX_SHORT - 8 + 1);
    let fits = Meta {
        key: Some(&most),
        tag: Some(&most),
        order_key: Some(&most),
        trace: Some(most.as_bytes()),
        producer: Some((&producer[1..], 1)),
        ..Meta::default()
    };
    assert_eq!(Meta::decode(&encode(&fits)), Ok(fits.clone()));
    let too_long = [
        Meta {
            key: Some(&more),
            ..Meta::default()
        },
        Meta {
            tag: Some(&more),
            ..Meta::default()
        },
        Meta {
            order_key: Some(&more),
            ..Meta::default()
        },
        Meta {
            trace: Some(more.as_bytes()),
            ..Meta::default()
        },
        Meta {
            producer: Some((&producer, 1)),
            ..Meta::default()
        },
    ];
    for meta in too_long {
        let mut out = vec![1, 2, 3];
        assert_eq!(meta.encode_into(&mut out), Err(Bad::Length));
        assert_eq!(out, [1, 2, 3], "nothing is appended");
    }
}

#[test]
fn extensions_end_at_64_kib() {
    let fixed = encode(&Meta {
        headers: vec![("h", b"")],
        ..Meta::default()
    })
    .len();
    let value = vec![7; MAX_EXT - fixed + 1];
    let most = Meta {
        headers: vec![("h", &value[1..])],
        ..Meta::default()
    };
    assert_eq!(encode(&most).len(), MAX_EXT);
    assert_eq!(Meta::decode(&encode(&most)), Ok(most.clone()));
    let more = Meta {
        headers: vec![("h", &value)],
        ..Meta::default()
    };
    assert_eq!(more.encode_into(&mut Vec::new()), Err(Bad::Length));
    assert_eq!(Meta::decode(&vec![0; MAX_EXT + 16]), Err(Bad::Length));
    let wide = vec![0; 1 << 16];
    let wider = Meta {
        headers: vec![("", &wide)],
        ..Meta::default()
    };
    assert_eq!(wider.encode_into(&mut Vec::new()), Err(Bad::Length));
}

#[test]
fn a_chunk_says_which_of_how_many() {
    let chunk = ChunkExt {
        number: 1,
        total: 2,
        first_lsn: 0x1000,
    };
    assert_eq!(chunk.encode(), *b"\x01\0\0\0\x02\0\0\0\0\x10\0\0\0\0\0\0");
    assert_eq!(ChunkExt::decode(&chunk.encode()), Ok(chunk));
    let first = ChunkExt {
        number: 0,
        total: 1,
        first_lsn: 0,
    };
    assert_eq!(ChunkExt::decode(&first.encode()), Ok(first));
    let bad = [(2, 2, 16), (0, 0, 0), (0, 2, 16), (1, 2, 0)];
    for (number, total, first_lsn) in bad {
        let chunk = ChunkExt {
            number,
            total,
            first_lsn,
        };
        assert_eq!(
            ChunkExt::decode(&chunk.encode()),
            Err(Bad::Value),
            "{chunk:?}"
        );
    }
    assert_eq!(ChunkExt::decode(&[0; 15]), Err(Bad::Length));
    assert_eq!(ChunkExt::decode(&[0; 17]), Err(Bad::Length));
}

prop_compose! {
    fn owned()(
        texts in prop::collection::vec(prop::option::of(".{0,60}"), 3),
        numbers in prop::collection::vec(prop::option::of(any::<u64>()), 4),
        headers in prop::collection::vec(
            (".{0,20}", prop::collection::vec(any::<u8>(), 0..99)), 0..5,
        ),
        producer in prop::option::of(("[a-z]{1,40}", any::<u64>())),
        chunks in prop::option::of((any::<u64>(), 1..=u32::MAX, any::<u64>())),
        sent_at_ms in any::<u64>(),
        priority in prop::option::of(any::<u8>()),
        dedup in prop::option::of(any::<u128>()),
    ) -> Owned { Owned { texts, numbers, headers, producer, chunks, sent_at_ms, priority, dedup } }
}

#[derive(Debug)]
struct Owned {
    texts: Vec<Option<String>>,
    numbers: Vec<Option<u64>>,
    headers: Vec<(String, Vec<u8>)>,
    producer: Option<(String, u64)>,
    chunks: Option<(u64, u32, u64)>,
    sent_at_ms: u64,
    priority: Option<u8>,
    dedup: Option<u128>,
}

impl Owned {
    fn meta(&self) -> Meta<'_> {
        Meta {
            sent_at_ms: self.sent_at_ms,
            key: self.texts[0].as_deref(),
            tag: self.texts[1].as_deref(),
            order_key: self.texts[2].as_deref(),
            headers: self.headers.iter().map(|(n, v)| (&n[..], &v[..])).collect(),
            producer: self.producer.as_ref().map(|(name, seq)| (&name[..], *seq)),
            chunks: self.chunks.map(|(first_lsn, count, body_len)| Chunks {
                first_lsn,
                count,
                body_len,
            }),
            deliver_at_ms: self.numbers[0],
            ttl_ms: self.numbers[1],
            origin: self.numbers[2],
            priority: self.priority,
            dedup: self.dedup,
            trace: self.headers.first().map(|(_, v)| &v[..]),
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_a_message_carries_is_read_back(owned in owned()) {
        let meta = owned.meta();
        let ext = encode(&meta);
        prop_assert_eq!(sent_at(&ext), Some(meta.sent_at_ms));
        prop_assert_eq!(Meta::decode(&ext), Ok(meta));
    }

    #[test]
    fn no_extensions_make_the_reader_panic(ext in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Meta::decode(&ext);
        let _ = sent_at(&ext);
        let _ = only_sent_at(&ext);
        let _ = ChunkExt::decode(&ext);
    }

    #[test]
    fn no_change_makes_the_reader_panic(
        owned in owned(), at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let mut ext = encode(&owned.meta());
        let at = at.index(ext.len());
        ext[at] = byte;
        let _ = Meta::decode(&ext);
    }
}
