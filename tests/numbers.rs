//! Numbers are never used twice (invariant 9): what a power cut took is gone, and its numbers with
//! it, because a sender or a consumer may have noted them.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use keepq::Flush;
use keepq::sim::{SimOptions, SimWorld};
use members::{open_with, options};

/// Where the epoch stands in the header of a segment (docs/FORMAT.md).
const EPOCH: std::ops::Range<usize> = 20..24;

/// The highest epoch of a segment.
fn epoch(world: &SimWorld) -> u32 {
    let segments = world.files().into_iter();
    let headers = segments.filter(|(name, _)| name.ends_with(".seg"));
    let epochs = headers.map(|(_, bytes)| u32::from_le_bytes(bytes[EPOCH].try_into().unwrap()));
    epochs.max().unwrap()
}

/// Sends messages that no flush covers; their sequences and ids.
fn send_unflushed(world: &SimWorld, count: usize) -> Vec<(u64, u64)> {
    let member = open_with(world, options().flush(Flush::Async));
    let topic = member.store.topic("t").unwrap();
    let sent = (0..count).map(|_| topic.send([7; 64]).unwrap());
    let sent = sent.map(|s| (s.seq.unwrap(), s.id.lsn())).collect();
    member.dies();
    sent
}

#[test]
fn sequences_and_ids_only_grow_over_power_cuts() {
    let mut world = SimWorld::new(SimOptions::default());
    let mut last = None;
    for life in 0..6 {
        // Nearly all that the ring holds, so that the next life could come to the same places.
        let sent = send_unflushed(&world, 100);
        assert!(sent.is_sorted(), "life {life}: {sent:?}");
        if let (Some((seq, id)), Some(first)) = (last, sent.first()) {
            assert!(first.0 > seq && first.1 > id, "life {life}: {first:?}");
        }
        last = sent.last().copied();
        world = world.power_cut_with(|_| 1);
    }
}

#[test]
fn every_unclean_recovery_begins_an_epoch() {
    let mut world = SimWorld::new(SimOptions::default());
    send_unflushed(&world, 1);
    for life in 0..4 {
        let before = epoch(&world);
        world = world.power_cut_with(|_| 1);
        send_unflushed(&world, 1);
        let after = epoch(&world);
        assert!(after > before, "life {life}: {before}, then {after}");
    }
}
