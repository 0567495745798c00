//! A group with tags gets the messages that have one of them, all of these and no other; what it
//! skips is settled once and for all, and does not count as delivered.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

#[path = "filter/ends.rs"]
mod ends;
#[path = "filter/stored.rs"]
mod stored;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Delivery, Flush, Group};
use members::{Member, assert_whole, body, id_of, open, open_with, options};

const TOPIC: &str = "t";
const GROUP: &str = "g";

fn group(m: &Member) -> Group {
    m.store
        .group(TOPIC, GROUP)
        .tags(["red", "blue"])
        .open()
        .unwrap()
}

fn send(m: &Member, id: u64, tag: Option<&str>, len: usize) {
    let topic = m.store.topic(TOPIC).unwrap();
    let bytes = body(id, len);
    let mut message = topic.message(&bytes);
    if let Some(tag) = tag {
        message = message.tag(tag);
    }
    message.send().unwrap();
}

/// Messages 1, 2, ... with these tags; "" = none.
fn send_all(m: &Member, tags: &[&str]) {
    for (id, tag) in (1..).zip(tags) {
        send(m, id, Some(*tag).filter(|tag| !tag.is_empty()), 60);
    }
}

fn receive(group: &Group, max: usize) -> Vec<Delivery> {
    group.receive_batch(max, Duration::ZERO).unwrap()
}

fn numbers(got: &[Delivery]) -> Vec<u64> {
    got.iter().map(|d| id_of(d.body())).collect()
}

#[test]
fn only_what_has_one_of_the_tags_is_delivered() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let (some, all) = (group(&m), m.group(TOPIC, "all"));
    let tags = [
        "red", "", "green", "blue", "Red", "re", "redder", "blue", "red", "",
    ];
    send_all(&m, &tags);
    let got = receive(&some, 2);
    assert_eq!(numbers(&got), [1, 4]);
    assert_eq!((got[0].tag(), got[1].tag()), (Some("red"), Some("blue")));
    // One that failed comes again, whatever its number of attempts.
    got[1].nack(Some(Duration::ZERO)).unwrap();
    let again = receive(&some, 10);
    assert_eq!(numbers(&again), [4, 8, 9]);
    assert_eq!((again[0].attempt(), again[1].attempt()), (2, 1));
    assert_eq!(numbers(&receive(&all, 20)).len(), tags.len());
    // What was skipped is settled: nothing is left when these are.
    assert!(receive(&some, 10).is_empty());
    assert!(some.ack_many(again).into_iter().all(|r| r.is_ok()));
    got[0].ack().unwrap();
    let stats = some.stats().unwrap();
    let left = (stats.ready, stats.in_flight, stats.lag, stats.dead);
    assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
    assert_whole(&m.store, "at the end");
}

#[test]
fn a_message_far_behind_is_found_at_once() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let group = group(&m);
    (1..=3000).for_each(|id| send(&m, id, Some("green"), 30));
    send(&m, 3001, Some("blue"), 30);
    assert_eq!(numbers(&receive(&group, 5)), [3001]);
    assert!(receive(&group, 5).len() == 1, "it was dropped");
    // A receive that waits passes over as many, and is not kept beyond its time.
    (1..=3000).for_each(|id| send(&m, id, Some("green"), 30));
    let before = world.boottime_ms();
    let got = receive(&group, 1).pop().unwrap();
    got.ack().unwrap();
    let none = group.receive(Duration::from_millis(200)).unwrap();
    assert!(none.is_none());
    let waited = world.boottime_ms() - before;
    assert!((200..1000).contains(&waited), "{waited} ms");
    assert_eq!(group.stats().unwrap().lag, 0);
}

#[test]
fn what_is_skipped_keeps_no_file() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let group = group(&m);
    let segments = |m: &Member| m.store.stats().unwrap().segments;
    let round = |m: &Member, read: bool| {
        for id in 1..=40 {
            send(m, id, Some("green"), 2000);
            if read {
                assert!(receive(&group, 5).is_empty());
            }
            m.store.look();
        }
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
        segments(m)
    };
    let kept = round(&m, true);
    assert!(kept <= 4, "{kept} segments");
    let more = round(&m, false);
    assert!(more > kept, "what nobody looked at is kept");
    assert!(receive(&group, 5).is_empty());
    m.store.flush(None).unwrap();
    m.store.maintain().unwrap();
    m.store.flush(None).unwrap();
    m.store.maintain().unwrap();
    assert!(segments(&m) < more);
}

#[test]
fn damage_among_what_is_skipped_is_told() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let some = group(&m);
    send_all(&m, &["green", "green", "green", "red", "green"]);
    m.leaves();
    let needle = body(2, 60);
    let found = world.files().into_iter().find_map(|(name, content)| {
        let at = content.windows(60).position(|w| w == needle.as_slice())?;
        name.ends_with(".seg").then_some((name, at as u64))
    });
    let (file, at) = found.unwrap();
    assert!(world.corrupt(&file, at, 0x20));
    world.drop_caches();
    drop(some);
    let m = open(&world);
    let group = group(&m);
    // Its tag is not known any more: whether it was wanted cannot be told, that it is lost can.
    let mut told = 0;
    let mut got = Vec::new();
    for _ in 0..4 {
        match group.receive_batch(5, Duration::ZERO) {
            Ok(some) => got.extend(some),
            Err(e) => {
                assert_eq!(e.code(), Code::Corrupt, "{e}");
                told += 1;
            }
        }
    }
    assert_eq!((told, numbers(&got)), (1, vec![4]));
    assert_eq!(group.stats().unwrap().lag, 0);
}

#[test]
fn dead_letters_are_filtered_by_the_tags_of_their_messages() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let all = m.group(TOPIC, "all");
    send_all(&m, &["red", "green", "", "red"]);
    for d in receive(&all, 10) {
        d.reject("no").unwrap();
    }
    m.store.flush(None).unwrap();
    let letters = m.store.group("%DLQ%t%all", "reader").tags(["red"]);
    let got = receive(&letters.open().unwrap(), 10);
    assert_eq!(numbers(&got), [1, 4]);
}
