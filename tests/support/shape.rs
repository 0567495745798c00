//! The topics and groups of every workload, and which message is for whom.
#![allow(dead_code, unreachable_pub)]

/// The topics of every workload: one made by a store that flushes synchronously, one not.
pub const TOPICS: [&str; 2] = ["sure", "fast"];
/// The groups: topic, name, whether acks are durable when they return, most attempts.
pub const GROUPS: [(usize, &str, bool, u32); 4] = [
    (0, "plain", false, 2),
    (0, "strict", true, 16),
    (1, "plain", false, 3),
    (1, "strict", true, 16),
];
/// The groups that keep the order of keys.
pub const ORDERED: [usize; 2] = [1, CHOOSY];
/// The group that wants only messages with one of [`WANTED`].
pub const CHOOSY: usize = 3;
/// The tags that [`CHOOSY`] wants.
pub const WANTED: [&str; 2] = ["new", "old"];

/// The tag of the message with this number.
pub fn tag_of(number: usize) -> Option<&'static str> {
    [Some("new"), None, Some("old"), Some("new"), Some("old")][number % 5]
}

/// Its order key.
pub fn order_key_of(number: usize) -> Option<&'static str> {
    [Some("x"), Some("y"), None, Some("x"), None, None][number % 6]
}

/// Whether a group gets the message with this number at all.
pub fn wants(group: usize, number: usize) -> bool {
    group != CHOOSY || tag_of(number).is_some_and(|tag| WANTED.contains(&tag))
}

/// Whether of these two messages one must be settled before the other is delivered.
pub fn in_one_lane(group: usize, a: usize, b: usize) -> bool {
    let key = order_key_of(a);
    ORDERED.contains(&group) && key.is_some() && key == order_key_of(b) && wants(group, a)
}
