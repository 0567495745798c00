//! Purges, deletions and limits, as the log tells of them.

use super::Model;
use crate::format::payload::{Kept, SnapItem, TopicConfig};
use crate::shm::id::place_of;

impl Model {
    /// Loads an item of a snapshot that tells of one of these.
    pub(super) fn load_change(&mut self, item: &SnapItem) {
        match item {
            SnapItem::Limits {
                topic,
                options,
                kept,
            } => self.set_limits(*topic, *options, *kept),
            SnapItem::Used { group, id } => self.use_id(*group, *id),
            _ => {}
        }
    }

    /// Counts a message as kept, unless it was seen before.
    pub(super) fn count(&mut self, stream: u32, seq: u64, bytes: u64) {
        if let Some(topic) = self.topics.get_mut(&stream).filter(|t| seq >= t.next) {
            if let Some((_, kept)) = &mut topic.limits {
                kept.count += 1;
                kept.bytes = kept.bytes.saturating_add(bytes);
            }
        }
    }

    pub(super) fn set_limits(&mut self, topic: u32, options: TopicConfig, kept: Kept) {
        if self.salvage.is_some() {
            self.limits_lost();
        } else if topic == SnapItem::STORE {
            self.store = (options.max_bytes, options.flags);
        } else if let Some(topic) = self.topics.get_mut(&topic) {
            topic.limits = Some((options, kept));
        }
    }

    /// Notes that an id was given to somebody, so that nobody else gets it.
    pub(in crate::delivery) fn use_id(&mut self, group: bool, id: u32) {
        let last = self.used.entry((group, place_of(id))).or_insert(id);
        *last = id.max(*last);
    }

    pub(in crate::delivery) fn delete_topic(&mut self, id: u32) {
        self.use_id(false, id);
        self.topics.remove(&id);
        self.gaps.retain(|gap| gap.stream != id);
        let groups = self.groups.iter().filter(|(_, g)| g.topic == id);
        for group in groups.map(|(&group, _)| group).collect::<Vec<_>>() {
            self.delete_group(group);
        }
    }

    pub(in crate::delivery) fn delete_group(&mut self, id: u32) {
        self.use_id(true, id);
        self.groups.remove(&id);
        self.removed.remove(&id);
    }

    /// The messages of a topic below this sequence are gone for every group.
    pub(super) fn purge(&mut self, id: u32, first: u64) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.first = topic.first.max(first);
            topic.next = topic.next.max(first);
            if let Some((_, kept)) = &mut topic.limits {
                *kept = Kept {
                    from: first,
                    ..Kept::default()
                };
            }
        }
        self.gaps.retain(|gap| gap.stream != id);
        for group in self.groups.values_mut().filter(|g| g.topic == id) {
            group.settle(0, first);
        }
    }
}
