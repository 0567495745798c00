//! The numbers that `ctl` is laid out by: how large the ring is, and how many of everything there
//! can be.

use crate::error::{Code, Error, Result};
use crate::options::limits;

/// The numbers that `ctl` is laid out by. All follow from what SUPER holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) ring: u64,
    pub(crate) segment: u64,
    pub(crate) slots: u32,
    pub(crate) topics: u32,
    pub(crate) groups: u32,
    pub(crate) producers: u32,
    pub(crate) members: u32,
    pub(crate) blocks: u32,
    /// Slots that every group can use whatever the others hold: a quarter of all is kept for these
    /// shares.
    pub(crate) share: u32,
}

impl Geometry {
    /// Smallest ring and segment that work; stores for use have more (see `StoreOptions`).
    pub(crate) const MIN_BYTES: u64 = 16 << 10;
    /// Largest ring.
    pub(crate) const MAX_RING: u64 = 256 << 20;
    /// Largest segment.
    pub(crate) const MAX_SEGMENT: u64 = 1 << 30;
    /// Most slots.
    pub(crate) const MAX_SLOTS: u32 = 1 << 20;

    /// The geometry of a store with these three sizes, or why there can be none.
    pub(crate) fn new(ring: u64, segment: u64, slots: u32) -> Result<Self> {
        let bad = |what: &str, range: &str, got: u64| {
            Err(Error::new(
                Code::InvalidArgument,
                format!("{what} of {got} is not possible; choose {range}"),
            ))
        };
        if !ring.is_power_of_two() || !(Self::MIN_BYTES..=Self::MAX_RING).contains(&ring) {
            return bad("a ring size", "a power of two from 1 MiB to 256 MiB", ring);
        }
        if segment % 4096 != 0 || !(Self::MIN_BYTES..=Self::MAX_SEGMENT).contains(&segment) {
            return bad(
                "a segment size",
                "a multiple of 4096 from 16 MiB to 1 GiB",
                segment,
            );
        }
        if !(64..=Self::MAX_SLOTS).contains(&slots) {
            return bad("a number of slots", "1,024 to 1,048,576", u64::from(slots));
        }
        let topics = (slots / 32).clamp(16, 2048);
        let members = u32::try_from(limits::MEMBERS).unwrap_or(1024);
        let entries = u32::try_from(segment / 192).unwrap_or(u32::MAX);
        let groups = (slots / 64).clamp(16, 1024);
        Ok(Self {
            ring,
            segment,
            slots,
            topics,
            groups,
            producers: (slots / 16).clamp(16, 4096),
            members: (slots / 64).clamp(16, members),
            // Of these one for each topic that begins, and one for the links.
            blocks: entries / 62 + topics.min(256) + 3,
            share: (slots / 4 / groups).max(1),
        })
    }

    /// Blocks for the tags of all groups.
    pub(crate) const fn tag_blocks(&self) -> u32 {
        128 + 4 * self.groups
    }
}
