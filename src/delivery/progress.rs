//! How far a group has come in the log: its cursor, and what below it is not settled.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::payload::{GroupConfig, Retry};

/// What is known of a message whose delivery failed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tries {
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) due_ms: u64,
}

/// A group in the log.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) topic: u32,
    pub(crate) name: String,
    pub(crate) config: GroupConfig,
    pub(crate) cursor: u64,
    pub(crate) start: u64,
    pub(crate) generation: u32,
    /// Ranges of sequences below the cursor that may be unsettled: start to end (exclusive).
    pub(crate) unsettled: BTreeMap<u64, u64>,
    pub(crate) tries: BTreeMap<u64, Tries>,
    pub(crate) lost: Option<(u64, u64)>,
    /// The tags it wants, and their version.
    pub(crate) tags: BTreeSet<String>,
    pub(crate) tags_version: u32,
}

impl Group {
    pub(crate) fn new(
        topic: u32,
        name: String,
        config: GroupConfig,
        cursor: u64,
        start: u64,
        generation: u32,
    ) -> Self {
        Self {
            topic,
            name,
            config,
            cursor,
            start,
            generation,
            unsettled: BTreeMap::new(),
            tries: BTreeMap::new(),
            lost: None,
            tags: BTreeSet::new(),
            tags_version: 0,
        }
    }

    /// Tags of this version: all of them, or some that join those of the same version.
    pub(crate) fn add_tags(&mut self, version: u32, tags: impl IntoIterator<Item = String>) {
        if version < self.tags_version {
            return;
        }
        if version > self.tags_version {
            self.tags.clear();
            self.tags_version = version;
        }
        self.tags.extend(tags);
    }

    /// Sequences below `to` have been looked at: what lies between may be outstanding.
    pub(crate) fn look_at(&mut self, to: u64) {
        if to > self.cursor {
            self.add(self.cursor, to);
            self.cursor = to;
        }
    }

    pub(crate) fn add(&mut self, from: u64, to: u64) {
        add_range(&mut self.unsettled, from, to);
    }

    pub(crate) fn settle(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count);
        self.look_at(end);
        while let Some((&start, &stop)) = self.unsettled.range(..end).next_back() {
            if stop <= first {
                break;
            }
            self.unsettled.remove(&start);
            if start < first {
                self.unsettled.insert(start, first);
            }
            if stop > end {
                self.unsettled.insert(end, stop);
            }
        }
        while let Some((&seq, _)) = self.tries.range(first..end).next() {
            self.tries.remove(&seq);
        }
    }

    /// Of these sequences, the first that is not settled, and how many are not.
    pub(crate) fn unsettled_in(&self, first: u64, count: u64) -> Option<(u64, u64)> {
        let end = first.saturating_add(count);
        let ahead = (self.cursor.max(first), end);
        let below = self
            .unsettled
            .iter()
            .map(|(&a, &b)| (a.max(first), b.min(end)));
        let parts = below.chain([ahead]).filter(|(a, b)| a < b);
        let (mut from, mut lost) = (u64::MAX, 0);
        for (a, b) in parts {
            from = from.min(a);
            lost += b - a;
        }
        (lost > 0).then_some((from, lost))
    }

    pub(crate) fn is_unsettled(&self, seq: u64) -> bool {
        self.unsettled
            .range(..=seq)
            .next_back()
            .is_some_and(|(_, &end)| seq < end)
    }

    pub(crate) fn retry(&mut self, retry: &Retry) {
        if retry.seq >= self.cursor {
            self.look_at(retry.seq + 1);
        } else if !self.is_unsettled(retry.seq) {
            // Settled before, or waiting for its piece of the snapshot, which knows better.
            return;
        }
        let tries = Tries {
            attempts: retry.attempts,
            crashes: retry.crashes,
            due_ms: retry.due_ms,
        };
        self.tries.insert(retry.seq, tries);
    }

    pub(crate) fn outstanding(&mut self, seq: u64, attempts: u32, crashes: u32, due_ms: u64) {
        self.look_at(seq + 1);
        self.add(seq, seq + 1);
        self.tries.insert(
            seq,
            Tries {
                attempts,
                crashes,
                due_ms,
            },
        );
    }
}

/// Adds [from, to) to a set of ranges (start to end), joining those that touch.
pub(crate) fn add_range(ranges: &mut BTreeMap<u64, u64>, from: u64, to: u64) {
    let (mut from, mut to) = (from, to);
    while let Some((&start, &end)) = ranges.range(..=to).next_back() {
        if end < from {
            break;
        }
        ranges.remove(&start);
        from = from.min(start);
        to = to.max(end);
    }
    if from < to {
        ranges.insert(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::new(0, "g".into(), GroupConfig::default(), 10, 0, 1)
    }

    fn unsettled(g: &Group) -> Vec<(u64, u64)> {
        g.unsettled.iter().map(|(a, b)| (*a, *b)).collect()
    }

    #[test]
    fn what_is_skipped_by_an_ack_is_outstanding() {
        let mut g = group();
        g.settle(12, 1);
        assert_eq!(g.cursor, 13);
        assert_eq!(unsettled(&g), [(10, 12)]);
        g.settle(10, 1);
        assert_eq!(unsettled(&g), [(11, 12)]);
        g.settle(10, 5);
        assert_eq!(unsettled(&g), []);
        assert_eq!(g.cursor, 15);
    }

    #[test]
    fn an_ack_of_what_is_settled_does_nothing() {
        let mut g = group();
        g.settle(3, 1);
        assert_eq!((g.cursor, unsettled(&g)), (10, vec![]));
    }

    #[test]
    fn ranges_join_and_split() {
        let mut g = group();
        g.cursor = 100;
        g.add(10, 20);
        g.add(30, 40);
        g.add(20, 30);
        assert_eq!(unsettled(&g), [(10, 40)]);
        g.settle(15, 10);
        assert_eq!(unsettled(&g), [(10, 15), (25, 40)]);
    }

    #[test]
    fn what_is_lost_counts_where_it_is_not_settled() {
        let mut g = group();
        g.cursor = 100;
        g.add(10, 20);
        assert_eq!(g.unsettled_in(0, 15), Some((10, 5)));
        assert_eq!(g.unsettled_in(15, 100), Some((15, 20)));
        assert_eq!(g.unsettled_in(20, 80), None);
        assert_eq!(g.unsettled_in(200, 5), Some((200, 5)));
    }

    #[test]
    fn a_retry_of_a_settled_message_is_forgotten() {
        let mut g = group();
        g.retry(&Retry {
            seq: 4,
            lsn: 1,
            attempts: 2,
            crashes: 0,
            due_ms: 0,
        });
        assert!(g.tries.is_empty());
        g.retry(&Retry {
            seq: 10,
            lsn: 1,
            attempts: 2,
            crashes: 0,
            due_ms: 0,
        });
        assert_eq!(unsettled(&g), [(10, 11)]);
        assert_eq!(g.tries[&10].attempts, 2);
        g.settle(10, 1);
        assert!(g.tries.is_empty());
    }
}
