//! The delivery state from a log whose beginning is reclaimed and whose snapshots are all damaged.
//!
//! Nothing tells any more what of the messages before the log's first record was settled. What is
//! known is taken: names from the pieces of any snapshot, whole or not, and from the records; what
//! was acked from the acks that are left. A group starts again at the earliest kept message, so
//! that it gets some messages a second time and misses none. A topic whose name is not to be had
//! gets one.

use std::collections::BTreeSet;

use super::progress::Group;
use super::replay::{Model, Topic};
use crate::format::payload::{SnapItem, SnapPiece};
use crate::shm::control::TOPIC_SYNC;
use crate::shm::id::place_of;

/// What a salvage came to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Salvage {
    /// Topics whose names are lost.
    unnamed: BTreeSet<u32>,
    /// Some topic or the store may have had limits.
    limits: bool,
    /// What is lost, one sentence each.
    pub(crate) lost: Vec<String>,
}

impl Model {
    /// A state that takes whatever it meets.
    pub(crate) fn salvaging(jump: u64) -> Self {
        let mut model = Self::new(0, jump);
        model.salvage = Some(Salvage::default());
        model
    }

    /// A message stands in the log: its topic exists, and begins with it if nothing else is known.
    pub(super) fn meet(&mut self, stream: u32, seq: u64) {
        if self.topics.contains_key(&stream) {
            return;
        }
        self.topics.insert(
            stream,
            Topic {
                // Delivered once durable: that promises no less, whatever the topic was.
                flags: u32::try_from(TOPIC_SYNC).unwrap_or(1),
                first: seq,
                next: seq,
                ..Topic::default()
            },
        );
        if let Some(salvage) = &mut self.salvage {
            salvage.unnamed.insert(stream);
        }
    }

    /// Takes what a piece of any snapshot tells of names and settings.
    pub(super) fn load_salvaged(&mut self, piece: &SnapPiece) {
        for item in &piece.items {
            match item {
                SnapItem::Topic { id, next_seq, .. } => {
                    if let Some(salvage) = &mut self.salvage {
                        salvage.unnamed.remove(id);
                    }
                    let known = self.topics.get(id).map(|topic| topic.first);
                    self.load_item(item);
                    if let Some(topic) = self.topics.get_mut(id) {
                        // What was met in the log is there, whatever was reclaimed before.
                        topic.first = known.unwrap_or(topic.first).min(*next_seq);
                    }
                }
                SnapItem::Group {
                    id,
                    topic,
                    name,
                    config,
                    generation,
                    ..
                } => {
                    // What it had settled is in pieces that may be lost: from the beginning.
                    let new = || Group::new(*topic, name.clone(), *config, 0, 0, *generation);
                    self.groups.entry(*id).or_insert_with(new);
                }
                // What a topic keeps cannot be counted any more, so it has no limit: see the end.
                SnapItem::Limits { .. } => self.limits_lost(),
                SnapItem::Outstanding { .. } | SnapItem::Counters { .. } => {}
                SnapItem::Producer { .. }
                | SnapItem::Removed { .. }
                | SnapItem::Tag { .. }
                | SnapItem::Used { .. }
                | SnapItem::Oldest { .. } => self.load_item(item),
            }
        }
    }

    /// There were limits, which cannot be kept up.
    pub(super) fn limits_lost(&mut self) {
        if let Some(salvage) = &mut self.salvage {
            salvage.limits = true;
        }
    }

    /// Of two ids at one place of a table the older one was deleted, and so was one whose place
    /// is known to have been used up to it.
    fn drop_replaced(&mut self) {
        for (group, id) in self.known_ids() {
            self.use_id(group, id);
        }
        let gone = |known: &Self, group: bool, id: u32| {
            let last = known.used.get(&(group, place_of(id)));
            last.is_some_and(|&last| id < last)
        };
        for (group, id) in self.known_ids() {
            match group {
                _ if !gone(self, group, id) => {}
                false => self.delete_topic(id),
                true => self.delete_group(id),
            }
        }
    }

    /// The ids of all topics (false) and groups (true).
    fn known_ids(&self) -> Vec<(bool, u32)> {
        let topics = self.topics.keys().map(|&id| (false, id));
        let groups = self.groups.keys().map(|&id| (true, id));
        topics.chain(groups).collect()
    }

    /// Names what has no name, and says what is lost.
    pub(crate) fn end_salvage(&mut self) {
        let Some(mut salvage) = self.salvage.take() else {
            return;
        };
        self.drop_replaced();
        salvage.unnamed.retain(|id| self.topics.contains_key(id));
        for &id in &salvage.unnamed {
            let taken = |name: &str| self.topics.values().any(|topic| topic.name == name);
            let mut name = format!("recovered-{id}");
            while taken(&name) {
                name.push('_');
            }
            salvage.lost.push(format!(
                "the name of topic {id} is lost; its messages are in {name}"
            ));
            if let Some(topic) = self.topics.get_mut(&id) {
                topic.name = name;
            }
        }
        // A group of a topic that nothing is left of, neither a name nor a message.
        self.groups.retain(|_, group| {
            let there = self.topics.contains_key(&group.topic);
            if !there {
                salvage.lost.push(format!(
                    "group {} is lost: of its topic neither the name nor a message is left",
                    group.name
                ));
            }
            there
        });
        for group in self.groups.values_mut() {
            let Some(topic) = self.topics.get(&group.topic) else {
                continue;
            };
            // What is reclaimed was settled.
            group.settle(0, topic.first);
            group.start = group.start.max(topic.first);
            salvage.lost.push(format!(
                "where group {} of topic {} stood is lost; it starts again at the earliest kept \
                 message without an ack in the log",
                group.name, topic.name
            ));
        }
        for topic in self.topics.values() {
            let groups = self.groups.values();
            let of = groups.filter(|g| {
                self.topics
                    .get(&g.topic)
                    .is_some_and(|t| t.name == topic.name)
            });
            if of.count() == 0 && !crate::format::name::is_internal(&topic.name) {
                salvage.lost.push(format!(
                    "no group of topic {} is known; one that is opened starts at the earliest kept \
                     message",
                    topic.name
                ));
            }
        }
        if salvage.limits {
            salvage.lost.push(
                "limits and retention of topics and of the store may be lost; set them again with \
                 configure"
                    .to_owned(),
            );
        }
        salvage
            .lost
            .push("producers may be missing: a name that is begins anew at 0".to_owned());
        self.salvage = Some(salvage);
    }
}
