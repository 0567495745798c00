//! A small store with every kind of record and file, and what it owes.
#![allow(dead_code, reason = "each suite uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepq::sim::{Fault, FaultPlan, SimOptions, SimWorld};
use keepq::{Flush, OutMessage};

use crate::members::{body, open, open_with, options};

/// Numbers of the messages that each group is owed.
pub(crate) type Owed = BTreeMap<String, BTreeSet<u64>>;

/// A store with every kind of record and file: several segments, sidecars, a snapshot, chunks, a
/// dead letter, retries, a producer, and a continuation.
pub(crate) fn history() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open_with(&world, options().flush(Flush::Async));
    for id in 1..=6 {
        m.send("orders", id, 80);
    }
    assert_eq!(m.receive("orders", "billing", 3), 3);
    m.held[0].ack().unwrap();
    m.held[1].reject("no such customer").unwrap();
    m.held[2].nack(Some(Duration::from_secs(1))).unwrap();
    m.held.clear();
    m.send("orders", 7, 9_000);
    let producer = m.store.producer("loader").unwrap();
    let topic = m.store.topic("fast").unwrap();
    for (id, text) in (10..40).map(|id| (id, body(id, 900))) {
        let out = OutMessage {
            body: &text,
            key: Some("user-42"),
            headers: vec![("h", b"v")],
            ..OutMessage::default()
        };
        producer.send(&topic, Some(id - 10), &out).unwrap();
        m.store.look();
    }
    m.group("fast", "g");
    m.store.flush(None).unwrap();
    m.store.maintain().unwrap();
    drop(producer);
    m.leaves();
    with_continuation(&world)
}

/// The same machine after a write error that made a continuation.
fn with_continuation(world: &SimWorld) -> SimWorld {
    for nth_call in 1..40 {
        let world = world.fork();
        let m = open(&world);
        world.plan_fault(FaultPlan {
            nth_call,
            error: Fault::Errno(libc::EIO),
            sticky: false,
        });
        let topic = m.store.topic("fast").unwrap();
        let sent = topic.send(body(50, 300));
        world.clear_fault();
        let continued = world
            .files()
            .iter()
            .any(|(name, _)| name.ends_with(".1.seg"));
        if sent.is_ok() && continued {
            m.send("fast", 51, 300);
            m.leaves();
            return world;
        }
        drop(m);
    }
    panic!("no fault leads to a continuation");
}

pub(crate) fn owed_at_first() -> Owed {
    let of = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let mut fast: BTreeSet<u64> = (10..40).collect();
    fast.extend([50, 51]);
    BTreeMap::from([
        ("orders/billing".to_owned(), of(&[3, 4, 5, 6, 7])),
        ("%DLQ%orders%billing/undertaker".to_owned(), of(&[2])),
        ("fast/g".to_owned(), fast),
    ])
}
