use super::config;
use crate::format::links::*;
use crate::format::payload::{Moved, Release};
use crate::format::record::{Draft, Kind, finish_header, parse};
use crate::format::sidecar::{Sidecar, SidecarBuilder, SidecarHeader};
use proptest::prelude::*;

const BASE: u64 = 1 << 20;
const SALT: u64 = 7;

fn header() -> SidecarHeader {
    SidecarHeader {
        number: 3,
        uuid: [9; 16],
        base: BASE,
        end: BASE + (1 << 20),
        salt: SALT,
        min_ref: u64::MAX,
        min_time: u64::MAX,
        max_time: 0,
    }
}

/// A record as it stands at `lsn`.
fn placed(mut draft: Draft, lsn: u64, seq: u64) -> Vec<u8> {
    finish_header(draft.header_mut(), lsn, SALT, 1, 0, seq);
    draft.bytes
}

fn release(lsn: u64, seq: u64, origin_lsn: u64) -> Vec<u8> {
    let release = Release {
        origin_lsn,
        source_stream: 1,
        group: 2,
        source_seq: 5,
        attempts: 1,
        reason_code: 2,
        dead_at_ms: 0,
        reason: "no".to_owned(),
    };
    placed(
        Draft::new(Kind::Release, 0, 4, &[], &[&release.encode()]),
        lsn,
        seq,
    )
}

fn moved(lsn: u64, original_lsn: u64, record: &[u8], seq: u64) -> Vec<u8> {
    let body = Moved {
        original_lsn,
        record,
    };
    placed(
        Draft::new(Kind::Moved, 0, 4, &[], &[&body.encode()]),
        lsn,
        seq,
    )
}

fn links(records: &[(u64, Vec<u8>)]) -> Links {
    let mut links = Links::default();
    for (lsn, bytes) in records {
        links.add(*lsn, &parse(bytes, *lsn, SALT).unwrap()).unwrap();
    }
    links
}

#[test]
fn a_copy_has_the_names_and_the_references_of_what_it_carries() {
    let inner = release(64, 8, 16);
    let at = BASE + 4096;
    let found = links(&[(at, moved(at, 64, &inner, 8))]);
    assert_eq!(found.copies.into_iter().collect::<Vec<_>>(), [(64, at)]);
    assert_eq!(
        found.messages.into_iter().collect::<Vec<_>>(),
        [((4, 8), 64)]
    );
    let reference = Reference {
        target: 16,
        from: 64,
        stream: 4,
        seq: 8,
    };
    assert_eq!(
        found.references.into_iter().collect::<Vec<_>>(),
        [reference]
    );
}

#[test]
fn a_copy_of_something_that_comes_later_is_refused() {
    let at = BASE + 4096;
    let bytes = moved(at, at, &release(64, 8, 16), 8);
    let mut links = Links::default();
    assert!(links.add(at, &parse(&bytes, at, SALT).unwrap()).is_err());
    let cut = moved(at, 64, &release(64, 8, 16)[..48], 8);
    assert!(links.add(at, &parse(&cut, at, SALT).unwrap()).is_err());
    assert!(links.is_empty(), "nothing of it was taken");
}

#[test]
fn a_sidecar_keeps_the_links_to_the_byte() {
    let at = BASE + 4096;
    let mut builder = SidecarBuilder::new(header());
    builder.push(1, 100, at).unwrap();
    *builder.links_mut() = links(&[(at + 64, moved(at + 64, 64, &release(64, 8, 16), 8))]);
    let file = builder.finish();
    let le = |words: &[u64]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        file[88..96],
        [1, 0, 0, 0, 1, 0, 0, 0],
        "one copy, one reference"
    );
    // Behind the header, one entry of 24 bytes and one offset of 4.
    assert_eq!(file[124..132], le(&[1]), "one moved message");
    assert_eq!(file[132..148], le(&[64, at + 64]));
    assert_eq!(file[148..172], le(&[8, 64, 4]));
    assert_eq!(file[172..204], le(&[16, 64, 8, 4]));
    assert_eq!(file[56..64], le(&[16]), "the lowest LSN that is named");
    let parsed = Sidecar::parse(&file).unwrap();
    assert_eq!(parsed.links.copies.get(&64), Some(&(at + 64)));
    assert_eq!(
        parsed.links.messages_from(4, 0).collect::<Vec<_>>(),
        [(8, 64)]
    );
    assert_eq!(parsed.at_or_after(4, 0), None, "its place is not here");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn links_survive_a_sidecar(
        entries in prop::collection::btree_map(1u64..1000, (0u32..4, 0u64..50, 0u64..1000), 0..40),
    ) {
        let mut records = Vec::new();
        for (n, (&original, &(_, seq, target))) in entries.iter().enumerate() {
            let at = BASE + 4096 + 512 * n as u64;
            let inner = release(original * 16, seq, target * 16);
            records.push((at, moved(at, original * 16, &inner, seq)));
        }
        let found = links(&records);
        let mut builder = SidecarBuilder::new(header());
        *builder.links_mut() = found.clone();
        let parsed = Sidecar::parse(&builder.finish()).unwrap();
        prop_assert_eq!(parsed.links, found);
    }
}
