//! A broadcast consumer gets every message for itself, under its own name and for good.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;
#[path = "broadcast/unnamed.rs"]
mod unnamed;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Group, limits};
use members::{Member, assert_whole, id_of, open};

fn consumer(m: &Member, name: &str) -> Group {
    m.store.group("t", "news").broadcast(name).open().unwrap()
}

/// Receives all there is, and acks it.
fn take(group: &Group) -> Vec<u64> {
    let got = group.receive_batch(64, Duration::ZERO).unwrap();
    let ids = got.iter().map(|d| id_of(d.body())).collect();
    assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    ids
}

#[test]
fn each_consumer_gets_every_message_once() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let shared = m.group("t", "news");
    let (one, two) = (consumer(&m, "one"), consumer(&other, "two"));
    (1..=4).for_each(|id| m.send("t", id, 40));
    assert_eq!(take(&one), [1, 2, 3, 4]);
    assert_eq!(take(&two), [1, 2, 3, 4]);
    assert_eq!(
        take(&shared),
        [1, 2, 3, 4],
        "the group of that name is another"
    );
    // Another handle of the same consumer shares with the first.
    m.send("t", 5, 40);
    let again = consumer(&other, "one");
    assert_eq!((take(&again), take(&one)), (vec![5], vec![]));
    assert_eq!((take(&two), take(&shared)), (vec![5], vec![5]));
    // One that comes later begins with what is kept, and what it does not take is kept for it.
    assert_eq!(one.name(), "news%one");
    assert_whole(&m.store, "at the end");
}

#[test]
fn a_consumer_goes_on_where_it_was() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let (one, two) = (consumer(&m, "one"), consumer(&m, "two"));
    (1..=3).for_each(|id| m.send("t", id, 40));
    assert_eq!(take(&one), [1, 2, 3]);
    let first = two.receive(Duration::ZERO).unwrap().unwrap();
    first.reject("no").unwrap();
    m.send("t", 4, 40);
    m.store.maintain().unwrap();
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        assert_eq!(take(&consumer(&m, "one")), [4]);
        assert_eq!(take(&consumer(&m, "two")), [2, 3, 4]);
        let letters = m.group("%DLQ%t%news%two", "reader");
        assert_eq!(take(&letters), [1]);
        assert!(m.store.existing_topic("%DLQ%t%news%one").is_err());
    }
}

#[test]
fn names_up_to_their_limit_pass_and_longer_ones_are_refused() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let (topic, group) = ("t".repeat(100), "g".repeat(limits::BROADCAST_NAME - 200));
    let with = |consumer: &str| {
        let options = m.store.group(&topic, &group).broadcast(consumer);
        options.max_attempts(1).open()
    };
    let longest = with(&"c".repeat(100)).unwrap();
    m.store.topic(&topic).unwrap().send(b"x").unwrap();
    longest
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap()
        .reject("no")
        .unwrap();
    assert_eq!(longest.stats().unwrap().dead, 1);
    let refused = with(&"c".repeat(101)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidName);
    let (given, most) = (limits::BROADCAST_NAME + 1, limits::BROADCAST_NAME);
    let text = refused.to_string();
    assert!(
        text.contains(&given.to_string()) && text.contains(&most.to_string()),
        "{text}"
    );
    for bad in ["", "a%b", "a b"] {
        assert_eq!(with(bad).unwrap_err().code(), Code::InvalidName, "{bad:?}");
    }
    // Nobody reaches a consumer's group by a name of his own.
    let direct = m.store.group("t", "news%one").open();
    assert_eq!(direct.unwrap_err().code(), Code::InvalidName);
}
