use super::{config, each_flip, hex, slow_crc};
use crate::format::Bad;
use crate::format::name::*;
use crate::format::superblock::*;
use proptest::prelude::*;

fn sample() -> Super {
    Super {
        incompat: 0,
        ro_compat: 0,
        compat: 0x10,
        uuid: *b"0123456789abcdef",
        segment_size: 64 << 20,
        ring_size: 8 << 20,
        slots: 65_536,
        mode: 0o600,
        created_ms: 1_700_000_000_000,
    }
}

/// The block with some bytes changed and its checksum made to hold again.
fn resealed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = sample().encode().to_vec();
    block[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = slow_crc(&block[..4092]);
    block[4092..].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn super_has_exactly_these_bytes() {
    let block = sample().encode();
    assert_eq!(block[..96], hex(GOLDEN_SUPER));
    assert!(block[96..4092].iter().all(|&b| b == 0));
    assert_eq!(block[4092..], hex("e3eb5390"));
    assert_eq!(Super::decode(&block), Ok(sample()));
}

#[test]
fn every_changed_bit_of_super_is_noticed() {
    each_flip(&sample().encode(), |bit, changed| {
        let expected = if bit < 64 {
            SuperError::NotKeepq
        } else {
            SuperError::Damaged(Bad::Checksum)
        };
        assert_eq!(Super::decode(changed), Err(expected), "bit {bit}");
    });
}

#[test]
fn other_files_and_other_lengths_are_told_apart() {
    let block = sample().encode();
    assert_eq!(Super::decode(b""), Err(SuperError::NotKeepq));
    assert_eq!(Super::decode(b"keepq"), Err(SuperError::NotKeepq));
    assert_eq!(Super::decode(&[0; 4096]), Err(SuperError::NotKeepq));
    assert_eq!(
        Super::decode(&block[..4095]),
        Err(SuperError::Damaged(Bad::Length))
    );
    let longer = [&block[..], &[0]].concat();
    assert_eq!(
        Super::decode(&longer),
        Err(SuperError::Damaged(Bad::Length))
    );
}

#[test]
fn newer_stores_are_refused_by_what_they_need() {
    let newer = FORMAT_VERSION + 1;
    let found = Super::decode(&resealed(8, &newer.to_le_bytes()));
    assert_eq!(found, Err(SuperError::Newer { found: newer }));
    let found = Super::decode(&resealed(16, &[0x04]));
    assert_eq!(found, Err(SuperError::UnknownFeatures { bits: 4 }));
    let read_only = Super::decode(&resealed(24, &[0x04])).unwrap();
    assert!(!read_only.is_writable());
    assert!(Super::decode(&resealed(32, &[0xff])).unwrap().is_writable());
}

#[test]
fn impossible_geometry_is_damage_even_under_a_good_checksum() {
    let bad: &[(usize, &[u8])] = &[
        (56, &4096u64.to_le_bytes()),
        (56, &(8192u64 + 1).to_le_bytes()),
        (56, &((1u64 << 32) + 4096).to_le_bytes()),
        (56, &u64::MAX.to_le_bytes()),
        (64, &0u64.to_le_bytes()),
        (64, &((1u64 << 32) + 4096).to_le_bytes()),
        (72, &0u32.to_le_bytes()),
        (72, &((1u32 << 24) + 1).to_le_bytes()),
        (76, &0o10000u32.to_le_bytes()),
    ];
    for (at, bytes) in bad {
        let found = Super::decode(&resealed(*at, bytes));
        assert_eq!(
            found,
            Err(SuperError::Damaged(Bad::Value)),
            "{at}: {bytes:?}"
        );
    }
    let good: &[(usize, &[u8])] = &[
        (56, &8192u64.to_le_bytes()),
        (56, &(1u64 << 32).to_le_bytes()),
        (64, &4096u64.to_le_bytes()),
        (64, &(1u64 << 32).to_le_bytes()),
        (72, &(1u32 << 24).to_le_bytes()),
    ];
    for (at, bytes) in good {
        assert!(
            Super::decode(&resealed(*at, bytes)).is_ok(),
            "{at}: {bytes:?}"
        );
    }
}

#[test]
fn the_errors_say_what_to_do() {
    let newer = SuperError::Newer { found: 9 }.to_string();
    assert!(newer.contains("version 9") && newer.contains("newer library"));
    let draft = SuperError::Draft { found: 0 }.to_string();
    assert!(draft.contains("version 0") && draft.contains("new store"));
    let unknown = SuperError::UnknownFeatures { bits: 6 }.to_string();
    assert!(unknown.contains("0x6") && unknown.contains("newer library"));
    assert!(
        SuperError::Damaged(Bad::Checksum)
            .to_string()
            .contains("checksum")
    );
    assert!(SuperError::NotKeepq.to_string().contains("SUPER"));
}

#[test]
fn users_names_keep_to_the_rule() {
    let most = "n".repeat(120);
    for name in ["a", "orders", "A-1_b.c", "...", &most] {
        assert_eq!(check_user_name(name), Ok(()), "{name}");
        assert!(is_storable(name) && !is_internal(name));
    }
    let more = "n".repeat(121);
    for name in [
        "", ".", "..", "a b", "a/b", "%DLQ%a%b", "é", "a\0", "a\n", &more,
    ] {
        assert!(check_user_name(name).is_err(), "{name:?}");
    }
    assert!(check_user_name("a/b").unwrap_err().contains("'/'"));
    assert!(check_user_name(&more).unwrap_err().contains("121"));
}

#[test]
fn internal_names_are_made_from_users_names() {
    assert_eq!(dlq_name("orders", "billing"), "%DLQ%orders%billing");
    assert_eq!(retry_name("orders", "billing"), "%RETRY%orders%billing");
    assert_eq!(half_name("orders"), "%HALF%orders");
    let most = "n".repeat(MAX_USER_NAME);
    for name in [
        dlq_name(&most, &most),
        retry_name(&most, &most),
        half_name(&most),
    ] {
        assert!(is_internal(&name) && is_storable(&name) && check_user_name(&name).is_err());
    }
    assert!(is_storable(&"n".repeat(MAX_NAME)) && !is_storable(&"n".repeat(MAX_NAME + 1)));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_super_is_read_back(
        (compat, ro_compat, created_ms) in any::<(u64, u64, u64)>(),
        uuid: [u8; 16],
        (segment, ring) in (2u64..1 << 20, 1u64..1 << 20),
        (slots, mode) in (1u32..1 << 24, 0u32..0o10000),
    ) {
        let (segment_size, ring_size) = (4096 * segment, 4096 * ring);
        let it = Super {
            incompat: 0, ro_compat, compat, uuid, segment_size, ring_size, slots, mode, created_ms,
        };
        prop_assert_eq!(Super::decode(&it.encode()), Ok(it));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        at in 8usize..4000,
        bytes in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let _ = Super::decode(&resealed(at, &bytes));
        let _ = Super::decode(&bytes);
    }
}

const GOLDEN_SUPER: &str = "\
    6b656570 71000d0a 03000000 00000000 00000000 00000000 00000000 00000000 \
    10000000 00000000 30313233 34353637 38396162 63646566 00000004 00000000 \
    00008000 00000000 00000100 80010000 0068e5cf 8b010000 00000000 00000000";
