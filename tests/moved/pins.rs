//! Statistics name what keeps the disk.

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Flush, Pin, PinKind};

use crate::members::{Member, open_with, options};
use crate::scene::{flow, segments, settle_down};

fn pins(m: &Member) -> Vec<Pin> {
    let stats = m.store.stats().unwrap();
    let largest = stats
        .topics
        .iter()
        .filter_map(|t| t.pin.as_ref())
        .map(|p| p.bytes)
        .max();
    assert_eq!(stats.pin.as_ref().map(|p| p.bytes), largest);
    let groups = stats.groups.iter().filter_map(|g| g.pin.clone());
    let topics = stats.topics.iter().filter_map(|t| t.pin.clone());
    groups.chain(topics.filter(|p| p.group.is_none())).collect()
}

#[test]
fn statistics_name_what_keeps_the_disk() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    flow(&m, 10..12);
    assert_eq!(pins(&m), []);
    // Each of them is worth more than a tenth of what lies behind it, so nothing is copied.
    for id in 1..=4 {
        m.send_async("t", id, 3500);
    }
    let sizes = |from: usize| -> u64 {
        let names = segments(&world);
        let files = names[from..]
            .iter()
            .map(|n| world.read_file(n).unwrap().len() as u64);
        files.sum()
    };
    let pinned = |m: &Member| {
        let pins = pins(m);
        assert_eq!(pins.len(), 1, "{pins:?}");
        assert_eq!(pins[0].bytes, m.store.stats().unwrap().pin.unwrap().bytes);
        pins.into_iter().next().unwrap()
    };
    let unread = pinned(&m);
    assert_eq!(
        (unread.kind, unread.seq, unread.bytes),
        (PinKind::Unread, 0, sizes(0))
    );
    assert_eq!(
        (unread.topic.as_str(), unread.group.as_deref()),
        ("t", Some("g"))
    );
    let held = group.receive_batch(4, Duration::ZERO).unwrap();
    let out = pinned(&m);
    assert_eq!(
        (out.kind, out.seq, out.id),
        (PinKind::Outstanding, 0, held[0].id())
    );
    held[0].reject("no").unwrap();
    for delivery in &held[1..] {
        delivery.ack().unwrap();
    }
    let dead = pinned(&m);
    assert_eq!(
        (dead.kind, dead.seq, dead.id),
        (PinKind::DeadLetter, 0, held[0].id())
    );
    assert_eq!(group.stats().unwrap().pin.unwrap(), dead);
    group.dead_letters().purge().unwrap();
    assert_eq!(pins(&m), []);
    m.send_async("lonely", 9, 100);
    let kept = pinned(&m);
    assert_eq!(
        (kept.kind, kept.topic.as_str(), kept.group),
        (PinKind::Kept, "lonely", None)
    );
    // Copied forward it keeps less.
    flow(&m, 20..60);
    settle_down(&m);
    let moved = pinned(&m);
    assert_eq!((moved.seq, moved.id), (kept.seq, kept.id));
    assert!(moved.bytes <= sizes(0), "{moved:?}");
    m.leaves();
}
