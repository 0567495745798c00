//! Who waits is woken, and who sends to nobody that waits makes no system call for it.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::Flush;
use keepq::sim::{SimOptions, SimWorld};
use members::open_with;

fn calls(world: &SimWorld, act: impl FnOnce()) -> u64 {
    let before = world.wakes();
    act();
    world.wakes() - before
}

/// In the simulation nobody sleeps, so a waker finds no one and notes it. After that, sending costs
/// no call until somebody waits again.
fn woken_once_per_wait(flush: Flush) {
    let world = SimWorld::new(SimOptions::default());
    let sender = open_with(&world, members::options().flush(flush));
    let receiver = open_with(&world, members::options().flush(flush));
    let topic = sender.store.topic("t").unwrap();
    let group = receiver.group("t", "g");
    for round in 0..3 {
        while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
            delivery.ack().unwrap();
        }
        assert!(group.receive(Duration::from_millis(10)).unwrap().is_none());
        let first = calls(&world, || {
            topic.send(b"somebody waits").unwrap();
        });
        assert!(first > 0, "{flush:?}, round {round}: nobody was woken");
        let later = calls(&world, || {
            for _ in 0..5 {
                topic.send(b"nobody waits").unwrap();
            }
        });
        assert_eq!(later, 0, "{flush:?}, round {round}");
    }
}

#[test]
fn a_message_wakes_who_waits() {
    woken_once_per_wait(Flush::Async);
}

#[test]
fn a_message_that_must_be_durable_wakes_when_it_is() {
    woken_once_per_wait(Flush::Sync);
}
