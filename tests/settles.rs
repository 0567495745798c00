//! Settlements of several groups in one call.
#![allow(clippy::unwrap_used)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use deaths::{Case, NOTHING, run};
use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Delivery};
use members::{Member, assert_whole, open};

fn mail(m: &mut Member) {
    assert_eq!(m.receive("orders", "mail", 4), 4);
}

#[test]
fn acks_of_several_groups_settle_each_group_or_not() {
    run(&Case {
        name: "ack of several groups",
        ready: |m| {
            mail(m);
            assert_eq!(m.receive("orders", "billing", 4), 4);
            assert_eq!(m.receive("fast", "g", 1), 1);
        },
        act: |m| {
            let held = std::mem::take(&mut m.held);
            assert!(m.store.ack_many(held).into_iter().all(|r| r.is_ok()));
        },
        // A record for each group; the drop of what was acked changes nothing.
        steps: 3,
        attempts_logged: false,
        loss: &[
            ("orders/mail", 1),
            ("orders/mail", 2),
            ("orders/mail", 3),
            ("orders/mail", 4),
            ("orders/billing", 3),
            ("orders/billing", 4),
            ("orders/billing", 5),
            ("orders/billing", 6),
            ("fast/g", 20),
        ],
        ..NOTHING
    });
}

/// Two groups of a topic, one of them with sync acks, each with the messages 1 to 4.
fn held(m: &Member) -> Vec<Delivery> {
    let sync = m
        .store
        .group("t", "sync")
        .ack_flush(keepq::Flush::Sync)
        .open()
        .unwrap();
    let other = m.group("t", "async");
    for id in 1..=4 {
        m.send("t", id, 50);
    }
    let mut held = sync.receive_batch(4, Duration::ZERO).unwrap();
    held.extend(other.receive_batch(4, Duration::ZERO).unwrap());
    assert_eq!(held.len(), 8);
    held
}

#[test]
fn acks_of_several_groups_have_their_own_results_and_one_flush() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let other = open(&world);
    let held = held(&m);
    held[2].ack().unwrap();
    held[5].ack().unwrap();
    other.send("u", 9, 50);
    let theirs = other
        .group("u", "g")
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap();
    let before = m.store.stats().unwrap().flushes;
    let results = m.store.ack_many(held.iter().chain([&theirs]));
    assert_eq!(m.store.stats().unwrap().flushes, before + 1, "one flush");
    let codes: Vec<Option<Code>> = results
        .into_iter()
        .map(|r| r.err().map(|e| e.code()))
        .collect();
    let lost = Some(Code::LeaseLost);
    let foreign = Some(Code::InvalidArgument);
    assert_eq!(
        codes,
        [None, None, lost, None, None, lost, None, None, foreign]
    );
    // What is of another open of the store is not settled.
    theirs.ack().unwrap();
    assert_whole(&m.store, "afterwards");
    m.dies();
    other.dies();
    // The acks are on disk: the one flush is that of the group with sync acks.
    let cut = world.power_cut_with(|_| 0);
    let m = open(&cut);
    for group in ["sync", "async"] {
        let left = m
            .group("t", group)
            .receive_batch(8, Duration::ZERO)
            .unwrap();
        assert!(group == "async" || left.is_empty(), "{group}: {left:?}");
    }
}

#[test]
fn acks_of_no_delivery_do_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let before = m.store.published();
    assert!(m.store.ack_many(Vec::<Delivery>::new()).is_empty());
    assert_eq!(m.store.published(), before);
}
