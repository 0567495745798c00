//! Stores in which segments come and go.
#![allow(dead_code, reason = "each suite uses a part")]

use std::time::Duration;

use keepq::sim::SimWorld;

use crate::members::Member;

/// The segment files, in order.
pub(crate) fn segments(world: &SimWorld) -> Vec<String> {
    let files = world.files().into_iter().map(|(name, _)| name);
    let mut names: Vec<String> = files.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

/// The number of the oldest segment.
pub(crate) fn first_segment(world: &SimWorld) -> u64 {
    let name = segments(world).into_iter().next().unwrap();
    let number = name.rsplit('/').next().unwrap().split('.').next().unwrap();
    u64::from_str_radix(number, 16).unwrap()
}

/// Sends messages of another topic and acks them at once, so that segments fill with what is done.
pub(crate) fn flow(m: &Member, ids: std::ops::Range<u64>) {
    let group = m.group("others", "h");
    for id in ids {
        m.send_async("others", id, 2000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        m.store.look();
    }
}

/// Until there is nothing left to do.
pub(crate) fn settle_down(m: &Member) {
    for _ in 0..4 {
        m.store.flush(None).unwrap();
        m.store.rest().unwrap();
    }
}
