//! In an ordered group one message of each order key is in flight at a time, in the order in which
//! they were sent, whatever becomes of it and whoever dies. A key that fails blocks only itself.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/members.rs"]
mod members;

#[path = "ordered/ends.rs"]
mod ends;
#[path = "ordered/gone.rs"]
mod gone;
#[path = "ordered/many.rs"]
mod many;

use std::collections::BTreeSet;
use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Backoff, Code, Delivery, Group};
use members::{Member, assert_whole, body, id_of, open};

const TOPIC: &str = "t";
const GROUP: &str = "g";

/// The ordered group of every test, as it is made.
fn group(m: &Member) -> Group {
    let backoff = Backoff {
        first: Duration::from_secs(5),
        factor: 1.0,
        jitter: 0.0,
        ..Backoff::default()
    };
    let group = m.store.group(TOPIC, GROUP).ordered(true);
    group.backoff(backoff).open().unwrap()
}

/// The order key of a message: three keys and none take turns.
fn key_of(id: u64) -> Option<&'static str> {
    match id % 4 {
        0 => Some("a"),
        1 => Some("b"),
        2 => Some("c"),
        _ => None,
    }
}

fn send(m: &Member, id: u64, key: Option<&str>) {
    let topic = m.store.topic(TOPIC).unwrap();
    let bytes = body(id, 60);
    let mut message = topic.message(&bytes);
    if let Some(key) = key {
        message = message.order_key(key);
    }
    message.send().unwrap();
}

fn receive(group: &Group, max: usize) -> Vec<Delivery> {
    group.receive_batch(max, Duration::ZERO).unwrap()
}

fn numbers(got: &[Delivery]) -> Vec<u64> {
    got.iter().map(|d| id_of(d.body())).collect()
}

/// No two have one key.
fn assert_apart(got: &[Delivery], when: &str) {
    let mut seen = BTreeSet::new();
    for key in got.iter().filter_map(Delivery::order_key) {
        assert!(seen.insert(key), "{when}: two of {key} are in flight");
    }
}

/// Takes everything out, and checks the order of each key on the way.
fn drain(world: &SimWorld, group: &Group, when: &str) -> Vec<u64> {
    let mut all: Vec<(Option<String>, u64)> = Vec::new();
    for _ in 0..400 {
        let got = receive(group, 64);
        if got.is_empty() {
            let stats = group.stats().unwrap();
            if stats.delayed + stats.in_flight + stats.parked == 0 {
                let mut ids: Vec<u64> = all.into_iter().map(|(_, id)| id).collect();
                ids.sort_unstable();
                return ids;
            }
            world.advance(20_000);
            continue;
        }
        assert_apart(&got, when);
        for delivery in got {
            let (key, id) = (
                delivery.order_key().map(str::to_owned),
                id_of(delivery.body()),
            );
            let later = |(k, i): &&(Option<String>, u64)| *k == key && *i > id;
            let overtaken = key.is_some().then(|| all.iter().find(later)).flatten();
            assert_eq!(overtaken, None, "{when}: {id} comes after a later one");
            all.push((key, id));
            delivery.ack().unwrap();
        }
    }
    panic!("{when}: never empty: {:?}", group.stats());
}

#[test]
fn one_of_a_key_is_in_flight_and_others_pass() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let (mine, theirs) = (group(&m), group(&other));
    let sent = [
        (1, "a"),
        (2, "a"),
        (3, ""),
        (4, "b"),
        (5, "a"),
        (6, ""),
        (7, "b"),
    ];
    for (id, key) in sent {
        send(&m, id, Some(key).filter(|key| !key.is_empty()));
    }
    let mut first = receive(&mine, 10);
    assert_eq!(numbers(&first), [1, 3, 4, 6]);
    assert_eq!(first[0].order_key(), Some("a"));
    assert_eq!(first[1].order_key(), None);
    assert!(receive(&theirs, 10).is_empty());
    let stats = mine.stats().unwrap();
    assert_eq!((stats.in_flight, stats.parked, stats.ready), (4, 3, 0));
    assert_whole(&m.store, "parked");
    // The next of a key comes to whoever asks, when the one before is settled.
    first.remove(0).ack().unwrap();
    let second = receive(&theirs, 10);
    assert_eq!(numbers(&second), [2]);
    assert!(receive(&mine, 10).is_empty());
    assert!(mine.ack_many(first).into_iter().all(|r| r.is_ok()));
    assert_eq!(numbers(&receive(&mine, 10)), [7], "that one is dropped");
    drop(second);
    let rest = receive(&mine, 10);
    let mut ids = numbers(&rest);
    ids.sort_unstable();
    assert_eq!(ids, [2, 7]);
    assert!(mine.ack_many(rest).into_iter().all(|r| r.is_ok()));
    assert_eq!(numbers(&receive(&mine, 10)), [5]);
    assert_whole(&m.store, "the last");
}

#[test]
fn one_that_failed_comes_again_before_those_behind_it() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = group(&m);
    group.configure().max_attempts(3).apply().unwrap();
    for (id, key) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        send(&m, id, Some(key));
    }
    // Put back at once, dropped, after a back-off, expired.
    receive(&group, 10)
        .remove(0)
        .nack(Some(Duration::ZERO))
        .unwrap();
    let got = receive(&group, 10);
    let mut ids = numbers(&got);
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
    let (one, three) = (&got[0], &got[1]);
    assert_eq!((id_of(one.body()), id_of(three.body())), (1, 3));
    one.nack(None).unwrap();
    three.ack().unwrap();
    assert_eq!(
        numbers(&receive(&group, 10)),
        [4],
        "only its key is blocked"
    );
    world.advance(5_100);
    m.store.look();
    let last = receive(&group, 1);
    let attempts = (numbers(&last), last[0].attempt());
    assert!(
        attempts == (vec![4], 2) || attempts == (vec![1], 3),
        "{attempts:?}"
    );
    drop(last);
    // The third attempt of 1 was its last: it is a dead letter, and 2 goes on.
    let mut seen = Vec::new();
    for _ in 0..4 {
        for d in receive(&group, 10) {
            seen.push(id_of(d.body()));
            d.ack().unwrap();
        }
    }
    assert!(seen.contains(&2), "{seen:?}");
    assert_eq!(group.stats().unwrap().parked, 0);
    assert_whole(&m.store, "at the end");
}

#[test]
fn whatever_settles_one_lets_the_next_go() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = group(&m);
    group.configure().max_attempts(3).apply().unwrap();
    (1..=6).for_each(|id| send(&m, id, Some("a")));
    let next = |expected: u64| {
        let got = receive(&group, 10);
        assert_eq!(numbers(&got), [expected]);
        got.into_iter().next().unwrap()
    };
    next(1).ack().unwrap();
    next(2).reject("no").unwrap();
    m.store.ack(&next(3).detach()).unwrap();
    // Its last attempt, by nacks and by leases that end.
    for _ in 0..2 {
        next(4).nack(Some(Duration::ZERO)).unwrap();
    }
    let last = next(4);
    world.advance(31_000);
    m.store.look();
    assert_eq!(last.ack().unwrap_err().code(), Code::LeaseLost);
    let fifth = next(5);
    assert_eq!(group.stats().unwrap().dead, 2);
    assert!(group.ack_many([fifth]).into_iter().all(|r| r.is_ok()));
    next(6).ack().unwrap();
    assert!(receive(&group, 1).is_empty());
    assert_whole(&m.store, "all settled");
}

#[test]
fn what_is_parked_counts_towards_the_cap_and_goes_on() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = group(&m);
    group.configure().max_outstanding(4).apply().unwrap();
    (1..=6).for_each(|id| send(&m, id, Some("hot")));
    send(&m, 7, Some("cold"));
    send(&m, 8, None);
    let first = receive(&group, 10);
    assert_eq!(numbers(&first), [1]);
    let stats = group.stats().unwrap();
    assert_eq!((stats.in_flight, stats.parked, stats.lag), (1, 3, 4));
    // Backpressure: the others wait until the hot key goes on, and it does.
    assert!(receive(&group, 10).is_empty());
    assert_whole(&m.store, "at the cap");
    drop(first);
    assert_eq!(
        drain(&world, &group, "at the cap"),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn who_waits_is_woken_when_the_next_may_go() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = group(&m);
    (1..=3).for_each(|id| send(&m, id, Some("a")));
    let mut held = receive(&group, 10);
    for _ in 0..2 {
        assert!(group.receive(Duration::from_millis(10)).unwrap().is_none());
        let before = world.wakes();
        held.pop().unwrap().ack().unwrap();
        assert!(world.wakes() > before, "nobody was woken");
        held = receive(&group, 10);
    }
    assert_eq!(numbers(&held), [3]);
}

#[test]
fn it_is_decided_for_good() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    assert!(group(&m).config().unwrap().ordered);
    assert!(!m.group(TOPIC, "plain").config().unwrap().ordered);
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        assert!(group(&m).config().unwrap().ordered);
        for (name, asked) in [(GROUP, false), ("plain", true)] {
            let other = m.store.group(TOPIC, name).ordered(asked).open();
            let refused = other.unwrap_err();
            assert_eq!(refused.code(), Code::ConfigMismatch);
            let text = refused.to_string();
            assert!(text.contains("true") && text.contains("false"), "{text}");
        }
    }
}
