//! Skips under kills, power cuts and on a disk without room.

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Flush};

use super::{group, numbers, receive, send, send_all};
use crate::members::{Member, assert_whole, kill_at, open, open_with, options};

const TAGS: [&str; 9] = ["green", "", "red", "green", "blue", "", "", "red", "green"];

fn base() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    group(&m);
    send_all(&m, &TAGS);
    m.leaves();
    world
}

/// What the group still gets, all of it acked.
fn drain(world: &SimWorld, m: &Member) -> Vec<u64> {
    let group = group(m);
    let mut all = Vec::new();
    for _ in 0..20 {
        let got = receive(&group, 3);
        all.extend(numbers(&got));
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        world.advance(31_000);
    }
    let stats = group.stats().unwrap();
    assert_eq!(stats.ready - stats.lag + stats.in_flight + stats.delayed, 0);
    assert!(receive(&group, 1).is_empty());
    all.sort_unstable();
    all
}

#[test]
fn a_receive_that_skips_is_whole_or_not_at_all() {
    let base = base();
    for k in 1.. {
        let world = base.fork();
        let (dying, living) = (open(&world), open(&world));
        let done = kill_at(dying, k, &|m| {
            let got = receive(&group(m), 2);
            assert_eq!(numbers(&got), [3, 5]);
            got[0].ack().unwrap();
            m.held.extend(got);
        });
        living.store.look();
        let when = format!("killed at {k}");
        assert_whole(&living.store, &when);
        living.leaves();
        let (cold, cut) = (world.fork(), world.power_cut_with(|_| 1));
        assert!(cold.remove("ctl"));
        for world in [world, cold, cut] {
            let m = open(&world);
            assert_whole(&m.store, &when);
            let found = drain(&world, &m);
            assert!(
                found == [5, 8] || !done && found == [3, 5, 8],
                "{when}: {found:?}"
            );
            m.leaves();
        }
        if done {
            break;
        }
    }
}

#[test]
fn what_was_skipped_stays_skipped_whatever_the_tags_are_later() {
    let world = base();
    let m = open(&world);
    let got = receive(&group(&m), 2);
    assert_eq!(numbers(&got), [3, 5]);
    got[1].ack().unwrap();
    let cursor = group(&m).stats().unwrap().cursor;
    assert_eq!(cursor, 5);
    let none: [&str; 0] = [];
    group(&m).configure().tags(none).apply().unwrap();
    drop(got);
    m.leaves();
    let (cold, cut) = (world.fork(), world.power_cut_with(|_| 1));
    assert!(cold.remove("ctl"));
    for world in [world, cold, cut] {
        let m = open(&world);
        let group = m.group(super::TOPIC, super::GROUP);
        assert_eq!(group.stats().unwrap().cursor, cursor);
        let mut found = numbers(&receive(&group, 20));
        found.sort_unstable();
        assert_eq!(found, [3, 6, 7, 8, 9]);
    }
}

#[test]
fn a_power_cut_anywhere_loses_nothing_wanted_and_brings_nothing_else() {
    for cut_at in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let m = open_with(&world, options().flush(Flush::Async));
        let group = group(&m);
        let mut acked = Vec::new();
        let mut cut = None;
        for id in 0..30 {
            let tag = match id % 4 {
                0 => Some("red"),
                1 => Some("green"),
                2 => None,
                _ => Some("blue"),
            };
            send(&m, id, tag, 700);
            if id % 3 == 0 {
                m.store.flush(None).unwrap();
            }
            for d in receive(&group, 2) {
                d.ack_with(Flush::Sync).unwrap();
                acked.extend(numbers(&[d]));
            }
            m.store.maintain().unwrap();
            if world.disk_calls() >= cut_at * 7 && cut.is_none() {
                cut = Some((world.power_cut(cut_at), acked.clone(), id));
            }
        }
        let Some((cut, acked, sent)) = cut else { break };
        let m = open(&cut);
        assert_whole(&m.store, "after a cut");
        let found = drain(&cut, &m);
        for id in &found {
            assert!(id % 4 == 0 || id % 4 == 3, "{id} was to be skipped");
            assert!(!acked.contains(id), "{id} was acked");
        }
        // What was flushed and not acked is there.
        let flushed = sent - sent % 3;
        let owed = (0..=flushed).filter(|id| id % 4 == 0 || id % 4 == 3);
        for id in owed.filter(|id| !acked.contains(id)) {
            assert!(found.contains(&id), "cut {cut_at}: {id} is lost: {found:?}");
        }
    }
}

#[test]
fn without_room_to_note_a_skip_nothing_is_skipped() {
    let world = SimWorld::new(SimOptions {
        capacity: Some(640 << 10),
        ..SimOptions::default()
    });
    let m = open_with(&world, options().flush(Flush::Async));
    let group = group(&m);
    let topic = m.store.topic(super::TOPIC).unwrap();
    let bytes = vec![7; 900];
    let mut sent = 0;
    // Until the disk is full, and the space that is kept for settlements with it.
    let hog = m.group(super::TOPIC, "hog");
    loop {
        let tag = if sent % 9 == 8 { "red" } else { "green" };
        match topic
            .message(&bytes)
            .tag(tag)
            .timeout(Duration::from_millis(1))
            .send()
        {
            Ok(_) => sent += 1,
            Err(e) => {
                assert!(matches!(e.code(), Code::Full | Code::Timeout), "{e}");
                break;
            }
        }
        m.store.look();
    }
    let mut wanted = 0;
    let mut refused = 0;
    loop {
        match group.receive_batch(4, Duration::ZERO) {
            Ok(got) if got.is_empty() => break,
            Ok(got) => {
                for d in got {
                    assert_eq!(d.tag(), Some("red"));
                    wanted += 1;
                    d.ack().unwrap();
                }
            }
            Err(e) => {
                assert!(matches!(e.code(), Code::Full | Code::Timeout), "{e}");
                refused += 1;
                assert!(refused < 100, "no way out: {e}");
            }
        }
        m.store.look();
        // The other group lets segments go.
        for d in receive(&hog, 64) {
            d.ack().unwrap();
        }
    }
    assert_eq!(wanted, sent / 9);
    assert_whole(&m.store, "at the end");
}
