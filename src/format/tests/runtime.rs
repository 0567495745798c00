use super::slow_crc;
use crate::format::Bad;
use crate::format::runtime::*;

fn sample() -> Runtime {
    Runtime {
        dir: "/run/q".to_owned(),
        nonce: 0x0102_0304_0506_0708,
    }
}

#[test]
fn runtime_has_exactly_these_bytes() {
    let mut expected = b"keepqrun\x08\x07\x06\x05\x04\x03\x02\x01\x06\x00/run/q".to_vec();
    expected.resize(4092, 0);
    let sum = slow_crc(&expected);
    expected.extend_from_slice(&sum.to_le_bytes());
    assert_eq!(sample().encode(), expected);
    assert_eq!(Runtime::decode(&expected), Ok(sample()));
}

#[test]
fn a_changed_or_cut_runtime_is_refused() {
    let bytes = sample().encode();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(Runtime::decode(&changed), Err(Bad::Checksum), "byte {at}");
    }
    assert_eq!(Runtime::decode(&bytes[..4095]), Err(Bad::Length));
    assert_eq!(Runtime::decode(&[]), Err(Bad::Length));
    let sealed = |mut content: Vec<u8>| {
        content.truncate(4092);
        let sum = slow_crc(&content);
        content.extend_from_slice(&sum.to_le_bytes());
        Runtime::decode(&content)
    };
    let mut other = bytes.clone();
    other[0] = b'K';
    assert_eq!(sealed(other), Err(Bad::Value));
    let mut long = bytes.clone();
    long[16..18].copy_from_slice(&1025_u16.to_le_bytes());
    assert!(sealed(long).is_err());
    let mut rest = bytes;
    rest[4000] = 1;
    assert!(sealed(rest).is_err());
}
