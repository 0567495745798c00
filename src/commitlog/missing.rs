//! Segment files that are missing: taken away below the place where a recovery begins to read.
//!
//! The log itself says which segments are kept: every segment header names the oldest one, a
//! RECLAIM in the log announces, durably, what is about to be removed, and a snapshot repeats it.
//! So whatever is not there from that number on was taken away by somebody else, and is damage.

use std::collections::BTreeMap;

use super::Log;
use super::recover::{Damage, Recovery};
use super::scan::Source;
use crate::error::Result;
use crate::format::segment::{JUMP, parse_file_name};
use crate::sys::Dir;

/// Segments that should be there and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The last segment before them that is there; 0 = none.
    pub(crate) before: u64,
    /// What to report.
    pub(crate) damage: Damage,
}

impl Recovery {
    /// The oldest segment that must be there, given what the log's records say.
    pub(crate) fn oldest(&self, last: u64, told: u64) -> u64 {
        self.sources
            .range(..=last)
            .map(|(_, s)| u64::from(s.header.oldest))
            .fold(told, u64::max)
    }

    /// Leaves out the segments below this one; returns them.
    pub(crate) fn leave_out_below(&mut self, oldest: u64) -> BTreeMap<u64, Source> {
        let kept = self.sources.split_off(&oldest);
        std::mem::replace(&mut self.sources, kept)
    }

    /// What is missing from the segment `oldest` on, up to the segment `end`, which is there.
    pub(crate) fn holes(&mut self, oldest: u64, end: u64) -> Result<Vec<Hole>> {
        if end < oldest {
            // It is to be removed itself: nothing below it has to be there.
            return Ok(Vec::new());
        }
        let there: Vec<u64> = self.sources.range(oldest..=end).map(|(n, _)| *n).collect();
        let mut holes = Vec::new();
        let (mut before, mut expected) = (0, oldest);
        for number in there {
            if number > expected && !self.jumps_over(before, number)? {
                let from = self.sources.get(&before).map_or(0, Source::limit);
                let to = self.sources.get(&number).map_or(from, Source::first);
                let damage = Damage {
                    from: from.min(to),
                    to,
                    number: expected,
                    reason: match number - expected {
                        1 => "its file is missing".to_owned(),
                        n => format!("its file and those of the next {} are missing", n - 1),
                    },
                };
                holes.push(Hole { before, damage });
            }
            (before, expected) = (number, number + 1);
        }
        Ok(holes)
    }

    /// Whether `number` begins an epoch exactly where `before` ended: numbers that were prepared
    /// and never used are left out there.
    fn jumps_over(&mut self, before: u64, number: u64) -> Result<bool> {
        let Some(header) = self.sources.get(&number).map(|s| s.header) else {
            return Ok(false);
        };
        let Some(source) = self.sources.get_mut(&before) else {
            return Ok(false);
        };
        if header.flags & JUMP == 0 {
            return Ok(false);
        }
        let mut at = source.first();
        while at < header.prev_end {
            let Some(next) = source.find_record(at)? else {
                return Ok(false);
            };
            let len = source.record(next)?.map_or(0, |r| r.header.padded_len());
            at = next + (len as u64).max(16);
        }
        Ok(at == header.prev_end)
    }
}

impl Log {
    /// Whether segments are missing that shared memory says are kept.
    pub(crate) fn has_holes(&self, oldest: u64, active: u64) -> Result<bool> {
        let names = numbers_in(&self.dir)?;
        if (oldest..=active).all(|n| names.binary_search(&n).is_ok()) {
            return Ok(false);
        }
        // The newest one's header may still be in the ring.
        let mut there = Recovery::open(&self.dir, &self.uuid, None)?;
        let Some(end) = there.sources.keys().copied().filter(|&n| n <= active).max() else {
            return Ok(true);
        };
        let missing_last = (end + 1..=active).any(|n| names.binary_search(&n).is_err());
        Ok(missing_last || !there.holes(oldest, end)?.is_empty())
    }

    /// The sequence after the last of this stream in the sealed segments up to this number.
    pub(crate) fn end_in_sealed(&self, stream: u32, number: u64) -> Result<Option<u64>> {
        let mut segments = self.sealed_from(0)?;
        segments.retain(|s| s.number <= number);
        for segment in segments.iter().rev() {
            let streams = self.streams(segment)?;
            if let Ok(at) = streams.binary_search_by_key(&stream, |s| s.stream) {
                return Ok(Some(streams[at].end));
            }
        }
        Ok(None)
    }
}

/// The numbers of the segments that have files, ascending.
fn numbers_in(dir: &Dir) -> Result<Vec<u64>> {
    let names = dir.list(super::LOG_DIR)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| parse_file_name(name))
        .map(|n| u64::from(n.number))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}
