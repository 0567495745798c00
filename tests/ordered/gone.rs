//! Purges and deletions of what is parked: it goes along with the message it waits for.

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Store};

use super::{GROUP, TOPIC, assert_apart, group, key_of, numbers, receive, send};
use crate::members::{Member, assert_whole, kill_at, open, open_with, options};

/// Parks everything that was sent; returns what is handed out.
fn park_all(m: &Member) -> Vec<keepq::Delivery> {
    let group = group(m);
    let mut held = Vec::new();
    for _ in 0..100 {
        held.extend(receive(&group, 64));
        if group.stats().unwrap().lag == 0 {
            return held;
        }
    }
    panic!("never done: {:?}", group.stats());
}

fn in_flight(store: &Store) -> u64 {
    store.stats().unwrap().outstanding
}

/// More than one step frees: 700 behind one key, and several keys with few.
fn crowd(m: &Member) -> Vec<keepq::Delivery> {
    drop(group(m));
    (1..=700).for_each(|id| send(m, id, Some("a")));
    (701..=760).for_each(|id| send(m, id, key_of(id)));
    let held = park_all(m);
    assert_apart(&held, "before");
    assert_eq!(in_flight(&m.store), 760);
    held
}

#[test]
fn a_purge_takes_all_that_is_parked_along() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().slots(2048));
    let mut held = crowd(&m);
    // One head waits, one is ready, the others are leased.
    let a = held.remove(0);
    a.nack(Some(Duration::from_secs(40))).unwrap();
    held.remove(0).nack(Some(Duration::ZERO)).unwrap();
    let topic = m.store.topic(TOPIC).unwrap();
    assert_eq!(topic.purge().unwrap(), 760);
    assert_whole(&m.store, "purged");
    assert_eq!(in_flight(&m.store), 0);
    for d in &held {
        assert_eq!(d.ack().unwrap_err().code(), Code::LeaseLost);
    }
    // The keys begin anew.
    (801..=806).for_each(|id| send(&m, id, key_of(id)));
    let group = group(&m);
    let new = receive(&group, 64);
    assert_apart(&new, "after");
    assert_eq!(numbers(&new), [801, 802, 803, 804]);
    new[0].ack().unwrap();
    assert_eq!(numbers(&receive(&group, 64)), [805]);
    drop((held, new));
    m.leaves();
}

#[test]
fn what_comes_behind_a_purged_message_waits_for_no_purged_one() {
    let world = SimWorld::new(SimOptions::default());
    let (m, dying) = (open(&world), open(&world));
    let group = group(&m);
    [1, 2, 5].into_iter().for_each(|id| send(&m, id, Some("a")));
    let held = receive(&group, 9);
    assert_eq!(numbers(&held), [1]);
    // Whoever purges dies before anything is freed: the log and the cursors say it is gone.
    let purged = (1..).find(|&k| {
        let world = world.fork();
        let dying = open(&world);
        kill_at(dying, k, &|m| {
            m.store.topic(TOPIC).unwrap().purge().unwrap();
        })
    });
    let points = purged.unwrap();
    for k in 1..points {
        let world = world.fork();
        let (living, dying) = (open(&world), open(&world));
        kill_at(dying, k, &|m| {
            m.store.topic(TOPIC).unwrap().purge().unwrap();
        });
        let when = format!("killed at point {k} of {points}");
        send(&living, 11, Some("a"));
        send(&living, 12, Some("b"));
        let topic_is_empty = living.store.topic(TOPIC).unwrap().len().unwrap() == 2;
        world.advance(60_000);
        let group = super::group(&living);
        let mut seen = Vec::new();
        for _ in 0..50 {
            let got = receive(&group, 9);
            assert_apart(&got, &when);
            seen.extend(numbers(&got));
            got.iter().for_each(|d| d.ack().unwrap());
            assert_whole(&living.store, &when);
        }
        seen.sort_unstable();
        let wanted: &[u64] = if topic_is_empty {
            &[11, 12]
        } else {
            &[1, 2, 5, 11, 12]
        };
        assert_eq!(seen, wanted, "{when}");
        assert_eq!(in_flight(&living.store), 0, "{when}");
        living.leaves();
    }
    dying.leaves();
    drop(held);
    m.leaves();
}

#[test]
fn a_deleted_group_gives_everything_back() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().slots(2048));
    let held = crowd(&m);
    let receipt = held[0].receipt();
    group(&m).delete().unwrap();
    assert_whole(&m.store, "deleted");
    assert_eq!(in_flight(&m.store), 0);
    assert!(m.store.ack(&receipt).is_err());
    drop(held);
    // Tags of deleted groups are given back: all these together would not fit.
    let long = |n: u32| (0..8).map(move |t| format!("{n:03}-{t:02}-{}", "x".repeat(240)));
    for n in 0..40 {
        let made = m.store.group(TOPIC, GROUP).tags(long(n)).open().unwrap();
        assert_eq!(made.config().unwrap().tags.len(), 8, "group {n}");
        made.delete().unwrap();
        assert_whole(&m.store, "deleted again");
    }
    let plain = m.store.group(TOPIC, GROUP).open().unwrap();
    assert_eq!(plain.config().unwrap().tags, Vec::<String>::new());
    (801..=805).for_each(|id| send(&m, id, None));
    assert_eq!(receive(&plain, 5).len(), 5);
    m.leaves();
}
