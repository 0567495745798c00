//! Receipts: the name of one delivery, which another process can settle it by.

use std::fmt;
use std::str::FromStr;

use crate::delivery::settle::Held;
use crate::error::{Code, Error, Result};

/// Names one delivery of one message to one group. Text without spaces, at most 200 bytes.
///
/// It is valid while the lease lasts: settled, expired or overtaken by another delivery, it fits
/// nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub(crate) store: u64,
    pub(crate) incarnation: u64,
    pub(crate) held: Held,
}

const PREFIX: &str = "kq1";

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = &self.held;
        write!(
            f,
            "{PREFIX}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}",
            self.store, self.incarnation, h.group, h.slot, h.generation, h.seq
        )
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let shown: String = text.chars().take(64).collect();
            Error::new(
                Code::BadReceipt,
                format!("{shown:?} is not a receipt; pass one exactly as receive gave it"),
            )
        };
        if text.len() > 200 {
            return Err(bad());
        }
        let mut parts = text.split('-');
        if parts.next() != Some(PREFIX) {
            return Err(bad());
        }
        let mut number = || {
            let part = parts.next()?;
            // `from_str_radix` would take a sign.
            let plain = part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let short = |n: Option<u64>| n.and_then(|n| u32::try_from(n).ok()).ok_or_else(bad);
        let store = number().ok_or_else(bad)?;
        let incarnation = number().ok_or_else(bad)?;
        let group = short(number())?;
        let slot = short(number())?;
        let generation = short(number())?;
        let seq = number().ok_or_else(bad)?;
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self {
            store,
            incarnation,
            held: Held {
                group,
                slot,
                generation,
                seq,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_its_text() {
        let receipt = Receipt {
            store: u64::MAX,
            incarnation: 1,
            held: Held {
                group: 3,
                slot: 65_535,
                generation: u32::MAX,
                seq: u64::MAX,
            },
        };
        let text = receipt.to_string();
        assert!(text.len() <= 200 && !text.contains(' '));
        assert_eq!(text.parse::<Receipt>().unwrap(), receipt);
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        for text in [
            "",
            "kq1",
            "kq2-1-1-1-1-1-1",
            "kq1-1-1-1-1-1",
            "kq1-1-1-1-1-1-1-1",
            "kq1-1-1-1-1-1-+1",
            "kq1-1-1-1ffffffff-1-1-1",
            "kq1-1-1-1-1-1- 1",
            "kq1------",
        ] {
            let e = text.parse::<Receipt>().unwrap_err();
            assert_eq!(e.code(), Code::BadReceipt, "{text}");
        }
        assert!("k".repeat(300).parse::<Receipt>().is_err());
    }
}
