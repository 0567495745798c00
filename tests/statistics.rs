//! What statistics tell of a group besides its counters: how long its oldest message has waited,
//! and how many members have it open.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Delivery, Group, Store};
use members::{Member, assert_whole, open, open_with, options};

/// The age of the group's oldest message in whole minutes, told alike by the group and the store.
fn minutes(store: &Store, group: &Group) -> Option<u64> {
    let minutes = |age: Duration| {
        // The simulated clock moves on with each call, by far less than a minute.
        assert!(age.as_secs() % 60 < 30, "{age:?}");
        age.as_secs() / 60
    };
    let told = group.stats().unwrap().oldest_age.map(minutes);
    let all = store.stats().unwrap().groups;
    let of_all = all.iter().find(|g| g.name == group.name()).unwrap();
    assert_eq!(of_all.oldest_age.map(minutes), told);
    told
}

fn minute(world: &SimWorld) {
    world.advance(60_000);
}

#[test]
fn the_oldest_is_the_first_that_is_not_settled() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.store.group("t", "g").lease(Duration::from_secs(3600));
    let group = group.open().unwrap();
    let age = || minutes(&m.store, &group);
    assert_eq!(age(), None, "an empty topic");
    for id in 1..=4 {
        m.send("t", id, 40);
        minute(&world);
    }
    // Sent 4, 3, 2 and 1 minutes ago.
    assert_eq!(age(), Some(4), "never looked at");
    let held: Vec<Delivery> = group.receive_batch(3, Duration::ZERO).unwrap();
    assert_eq!(age(), Some(4), "leased");
    held[1].ack().unwrap();
    assert_eq!(age(), Some(4), "one behind it is settled");
    held[0].nack(Some(Duration::from_secs(600))).unwrap();
    assert_eq!(age(), Some(4), "it waits for another attempt");
    minute(&world);
    assert_eq!(age(), Some(5));
    world.advance(600_000);
    m.store.look();
    assert_eq!(age(), Some(15), "ready again");
    let again = group.receive(Duration::ZERO).unwrap().unwrap();
    again.reject("no").unwrap();
    assert_eq!(
        age(),
        Some(13),
        "a dead letter is settled: the third is left"
    );
    held[2].ack().unwrap();
    assert_eq!(age(), Some(12), "the fourth was never looked at");
    let letters = m.group("%DLQ%t%g", "undertaker");
    assert_eq!(
        minutes(&m.store, &letters),
        Some(0),
        "since it was given up"
    );
    minute(&world);
    assert_eq!(minutes(&m.store, &letters), Some(1));
    m.store.topic("t").unwrap().purge().unwrap();
    assert_eq!(age(), None, "purged");
    m.send("t", 5, 40);
    minute(&world);
    assert_eq!(age(), Some(1));
}

#[test]
fn the_oldest_is_found_in_every_state_of_a_store() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.group("t", "g");
    m.send("t", 1, 40);
    minute(&world);
    // Enough to fill segments behind it.
    for id in 2..=60 {
        m.send("t", id, 900);
        m.store.maintain().unwrap();
    }
    let got = group.receive_batch(40, Duration::ZERO).unwrap();
    assert!(group.ack_many(&got[1..]).iter().all(Result::is_ok));
    m.store.flush(None).unwrap();
    let looking = open_with(&world, options().read_only(true));
    let seen = looking.store.group("t", "g").open().unwrap();
    assert_eq!(
        minutes(&looking.store, &seen),
        Some(1),
        "looked at beside others"
    );
    // Its segment goes, the message is moved forward.
    m.store.rest().unwrap();
    assert_eq!(minutes(&m.store, &group), Some(1), "moved");
    drop((got, group));
    m.leaves();
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    for (world, when) in [
        (world.power_cut_with(|_| 1), "cut"),
        (cold, "cold"),
        (world, "warm"),
    ] {
        let looking = open_with(&world, options().read_only(true));
        let seen = looking.store.group("t", "g").open().unwrap();
        assert_eq!(minutes(&looking.store, &seen), Some(1), "{when}, looked at");
        let m = open(&world);
        assert_eq!(minutes(&m.store, &m.group("t", "g")), Some(1), "{when}");
    }
}

#[test]
fn what_a_filter_skips_counts_until_it_was_looked_at() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.store.group("t", "g").tags(["x"]).open().unwrap();
    m.send("t", 1, 40);
    minute(&world);
    let tagged = m.store.topic("t").unwrap();
    tagged.message(b"x").tag("x").send().unwrap();
    minute(&world);
    assert_eq!(minutes(&m.store, &group), Some(2));
    let held = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(minutes(&m.store, &group), Some(1));
    held.ack().unwrap();
    assert_eq!(minutes(&m.store, &group), None);
}

#[test]
fn a_clock_that_was_set_back_gives_no_age_below_zero() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.group("t", "g");
    world.set_realtime(2_000_000_000_000);
    m.send("t", 1, 40);
    world.set_realtime(1_900_000_000_000);
    assert_eq!(minutes(&m.store, &group), Some(0));
}

#[test]
fn a_message_that_is_damaged_has_no_age_and_stops_no_statistics() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.group("t", "g");
    let sent = m.store.topic("t").unwrap().send(b"123456789").unwrap();
    m.send("u", 1, 40);
    minute(&world);
    m.group("u", "whole");
    m.leaves();
    // The first segment begins at position 0; behind the record's header.
    assert!(world.corrupt("log/00000001.0.seg", sent.id.lsn() + 60, 1));
    let looking = open_with(&world, options().read_only(true));
    let stats = looking.store.stats().unwrap().groups;
    let ages: Vec<_> = stats.iter().map(|g| g.oldest_age.is_some()).collect();
    assert_eq!(ages, [false, true], "{stats:?}");
}

/// Statistics of a group read as much with a long backlog as with a short one. All of it is in one
/// segment: what pins the disk is found by segments.
#[test]
fn the_oldest_is_found_whatever_the_backlog() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().sized(1 << 20, 128));
    let group = m.group("t", "g");
    let calls = || {
        let before = world.disk_calls();
        assert!(group.stats().unwrap().oldest_age.is_some());
        world.disk_calls() - before
    };
    m.send("t", 0, 900);
    let few = calls();
    (1..=900).for_each(|id| m.send("t", id, 900));
    let held = group.receive_batch(32, Duration::ZERO).unwrap();
    let many = calls();
    assert_eq!(m.store.stats().unwrap().segments, 1);
    assert!(many <= few + 2, "{many} calls, {few} with a single message");
    drop(held);
}

/// How many members have it open, told alike by the group and the store.
fn consumers(m: &Member, name: &str) -> u64 {
    let all = m.store.stats().unwrap().groups;
    all.iter().find(|g| g.name == name).unwrap().consumers
}

#[test]
fn each_member_that_has_a_group_open_counts_once() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let one = m.group("t", "g");
    let (clone, two) = (one.clone(), m.group("t", "g"));
    assert_eq!((consumers(&m, "g"), consumers(&other, "g")), (1, 1));
    assert_eq!(one.stats().unwrap().consumers, 1);
    let theirs = other.group("t", "g");
    m.group("t", "h");
    assert_eq!((consumers(&m, "g"), consumers(&m, "h")), (2, 0));
    drop((one, two));
    assert_eq!(consumers(&m, "g"), 2);
    m.send("t", 1, 40);
    let held = clone.receive(Duration::ZERO).unwrap().unwrap();
    drop(clone);
    assert_eq!(consumers(&m, "g"), 2, "what it received holds it");
    drop(held);
    assert_eq!(consumers(&m, "g"), 1);
    // Who only looks is none.
    let looking = open_with(&world, options().read_only(true));
    let seen = looking.store.group("t", "g").open().unwrap();
    assert_eq!(seen.stats().unwrap().consumers, 1);
    other.store.close().unwrap();
    assert_eq!(consumers(&m, "g"), 0, "closed with handles left");
    drop(theirs);
    assert_whole(&m.store, "at the end");
}

#[test]
fn who_died_counts_until_cleaned_up_after_and_who_comes_next_does_not() {
    let world = SimWorld::new(SimOptions::default());
    let living = open(&world);
    let mine = living.group("t", "g");
    let mut dying = open(&world);
    dying.group = Some(dying.group("t", "g"));
    dying.dies();
    assert_eq!(consumers(&living, "g"), 2);
    living.store.look();
    assert_eq!(consumers(&living, "g"), 1);
    // Into the slot of one that nobody has cleaned up after.
    let mut dying = open(&world);
    dying.group = Some(dying.group("t", "g"));
    dying.dies();
    let next = open(&world);
    assert_eq!(consumers(&next, "g"), 1);
    let theirs = next.group("t", "g");
    assert_eq!(consumers(&living, "g"), 2);
    assert_whole(&living.store, "two live");
    drop((mine, theirs));
    next.leaves();
    living.dies();
    for remove in [false, true] {
        let world = world.fork();
        assert!(!remove || world.remove("ctl"));
        let m = open(&world);
        assert_eq!(m.store.recovery().warm, !remove);
        assert_eq!(consumers(&m, "g"), 0);
    }
}

#[test]
fn a_group_made_in_the_place_of_another_begins_without_consumers() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let old = m.group("t", "g");
    let theirs = other.group("t", "g");
    old.delete().unwrap();
    let new = other.group("t", "g");
    assert_eq!(consumers(&m, "g"), 1);
    // Handles of the old one take nothing away, and count for nothing.
    drop(theirs);
    assert_eq!(consumers(&m, "g"), 1);
    assert_eq!(old.stats().unwrap_err().code(), Code::NotFound);
    let mine = m.group("t", "g");
    assert_eq!(consumers(&m, "g"), 2);
    drop(old);
    assert_eq!(consumers(&m, "g"), 2);
    drop(mine);
    assert_eq!(consumers(&m, "g"), 1);
    drop(new);
    assert_eq!(consumers(&m, "g"), 0);
    assert_whole(&m.store, "at the end");
}

/// Threads of one process open and drop handles of one group at once: as long as one is left, the
/// process counts.
#[test]
fn handles_that_come_and_go_at_once_count_right() {
    let world = SimWorld::new(SimOptions {
        threads: true,
        ..SimOptions::default()
    });
    let m = open_with(&world, options().send_timeout(Duration::MAX));
    let kept = m.group("t", "g");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let one = m.group("t", "g");
                    assert_eq!(one.stats().unwrap().consumers, 1);
                }
            });
        }
    });
    assert_eq!(consumers(&m, "g"), 1);
    drop(kept);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let one = m.group("t", "g");
                    assert_eq!(one.stats().unwrap().consumers, 1);
                }
            });
        }
    });
    assert_eq!(consumers(&m, "g"), 0);
    assert_whole(&m.store, "at the end");
}
