//! The last segments, as shared memory lists them: all that may hold bytes not yet durable.
//!
//! The entry of a segment is replaced only when the one sixteen numbers later is made, which waits
//! until everything in the old one is durable. An entry read outside lock E is checked by reading
//! its number again: it is the first word that changes.

use super::Log;
use crate::shm::control::{G_ACTIVE, R_BASE, R_END, R_FILE, R_LIMIT, R_NUMBER, R_SALT, RECENT};

/// A recent segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recent {
    pub(crate) number: u64,
    pub(crate) base: u64,
    /// End of its records; `u64::MAX` while it is active.
    pub(crate) end: u64,
    /// First LSN behind its file.
    pub(crate) limit: u64,
    pub(crate) salt: u64,
    /// The file written to: 0 or the last adopted continuation.
    pub(crate) file: u32,
}

impl Log {
    /// The recent segment with this number.
    pub(crate) fn recent(&self, number: u64) -> Option<Recent> {
        if number == 0 {
            return None;
        }
        let ctl = &self.ctl;
        let word = |word| ctl.load(ctl.layout.recent(number, word));
        if word(R_NUMBER) != number {
            return None;
        }
        let end = word(R_END);
        let found = Recent {
            number,
            base: word(R_BASE),
            end: if end == 0 { u64::MAX } else { end },
            limit: word(R_LIMIT),
            salt: word(R_SALT),
            file: u32::try_from(word(R_FILE)).unwrap_or(u32::MAX),
        };
        (word(R_NUMBER) == number && found.base < found.limit).then_some(found)
    }

    /// The recent segment that holds `lsn`, header included.
    pub(crate) fn recent_at(&self, lsn: u64) -> Option<Recent> {
        let active = self.ctl.global(G_ACTIVE);
        // One past the active one: a roll may be committed between the two reads.
        (0..RECENT as u64)
            .filter_map(|back| self.recent((active + 1).checked_sub(back)?))
            .find(|s| s.base <= lsn && lsn < s.end.min(s.limit))
    }

    /// The recent segments that hold some of `[from, to)`, in order. Under F.
    pub(crate) fn recent_between(&self, from: u64, to: u64) -> Vec<Recent> {
        let active = self.ctl.global(G_ACTIVE);
        let mut found: Vec<Recent> = (0..RECENT as u64)
            .filter_map(|back| self.recent((active + 1).checked_sub(back)?))
            .filter(|s| s.base < to && from < s.end.min(s.limit))
            .collect();
        found.reverse();
        found
    }
}
