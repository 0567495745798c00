//! What is live in a segment that is otherwise done with is copied forward, and the segment goes:
//! one message that nobody acks keeps only itself.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "moved/ends.rs"]
mod ends;
#[path = "moved/large.rs"]
mod large;
#[path = "support/members.rs"]
mod members;
#[path = "moved/pins.rs"]
mod pins;
#[path = "moved/races.rs"]
mod races;
#[path = "moved/scene.rs"]
mod scene;

use std::time::Duration;

use keepq::Flush;
use keepq::sim::{SimOptions, SimWorld};
use members::{assert_whole, body, drain, id_of, ids, open, open_with, options};
use scene::{first_segment, flow, segments, settle_down};

fn machine() -> SimWorld {
    SimWorld::new(SimOptions::default())
}

#[test]
fn one_unacked_message_keeps_only_itself() {
    let world = machine();
    let m = open_with(&world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    m.send_async("t", 1, 100);
    let stuck = group.receive(Duration::ZERO).unwrap().unwrap();
    let receipt = stuck.receipt();
    let (id, seq) = (stuck.id(), stuck.seq());
    flow(&m, 2..60);
    settle_down(&m);
    assert!(first_segment(&world) > 3, "{:?}", segments(&world));
    assert!(segments(&world).len() <= 4, "{:?}", segments(&world));
    assert_eq!(id_of(stuck.body()), 1);
    let found = m.store.find(id).unwrap().unwrap();
    assert_eq!((found.seq, found.content.as_ref().unwrap().id()), (seq, id));
    assert_eq!(id_of(found.content.unwrap().body()), 1);
    assert_whole(&m.store, "after the move");
    stuck.nack(Some(Duration::ZERO)).unwrap();
    let again = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!((again.id(), again.seq(), again.attempt()), (id, seq, 2));
    assert_eq!(id_of(again.body()), 1);
    assert!(m.store.ack(&receipt).is_err(), "its lease has ended");
    m.store.ack(&again.receipt()).unwrap();
    drop(again);
    flow(&m, 60..100);
    settle_down(&m);
    assert!(segments(&world).len() <= 3, "{:?}", segments(&world));
    m.leaves();
}

#[test]
fn a_running_lease_is_not_disturbed() {
    let world = machine();
    let m = open_with(&world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    m.send_async("t", 1, 100);
    let held = group.receive_detached(1, Duration::ZERO).unwrap();
    let receipt = held[0].receipt();
    flow(&m, 2..60);
    settle_down(&m);
    assert!(first_segment(&world) > 3, "{:?}", segments(&world));
    m.store.extend(&receipt, Duration::from_secs(60)).unwrap();
    m.store.ack(&receipt).unwrap();
    let left = drain(&world, &m.store);
    assert!(ids(&left).is_empty(), "{left:?}");
    m.leaves();
}

#[test]
fn what_was_moved_is_there_after_every_kind_of_open() {
    let world = machine();
    let m = open_with(&world, options().flush(Flush::Async));
    m.group("t", "g");
    m.send_async("t", 1, 100);
    flow(&m, 2..60);
    settle_down(&m);
    assert!(first_segment(&world) > 3);
    m.leaves();
    for with in ["warm", "cold", "without indexes"] {
        let twin = world.fork();
        if with != "warm" {
            assert!(twin.remove("ctl"));
        }
        if with == "without indexes" {
            for (name, _) in twin.files() {
                if name.ends_with(".idx") {
                    assert!(twin.remove(&name));
                }
            }
        }
        let m = open(&twin);
        assert_eq!(m.store.recovery().warm, with == "warm");
        let found = m.store.verify().unwrap().findings;
        assert!(found.iter().all(|f| !f.damage), "{with}: {found:?}");
        assert_whole(&m.store, with);
        let left = ids(&drain(&twin, &m.store));
        assert_eq!(left.into_values().collect::<Vec<_>>(), [[1]], "{with}");
        m.leaves();
    }
}

#[test]
fn a_large_message_is_moved_with_its_chunks() {
    let world = machine();
    let m = open_with(&world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    // Its chunks must be worth less than a tenth of what is freed with them.
    flow(&m, 2..10);
    m.send_async("t", 1, 9000);
    flow(&m, 10..160);
    settle_down(&m);
    assert!(first_segment(&world) > 8, "{:?}", segments(&world));
    let held = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(id_of(held.body()), 1);
    let found = m.store.find(held.id()).unwrap().unwrap();
    assert_eq!(found.content.unwrap().body(), body(1, 9000));
    held.reject("too large").unwrap();
    flow(&m, 160..400);
    settle_down(&m);
    assert!(segments(&world).len() <= 8, "{:?}", segments(&world));
    let letters: Vec<_> = group.dead_letters().browse().map(Result::unwrap).collect();
    assert_eq!(letters.len(), 1);
    let letter = letters.into_iter().next().unwrap();
    assert_eq!(letter.burial.unwrap().reason, "too large");
    assert_eq!(letter.content.unwrap().body(), body(1, 9000));
    assert_eq!(group.dead_letters().purge().unwrap(), 1);
    flow(&m, 400..440);
    settle_down(&m);
    assert!(segments(&world).len() <= 3, "{:?}", segments(&world));
    m.leaves();
}
