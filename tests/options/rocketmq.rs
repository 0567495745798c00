//! The waits of RocketMQ's retry levels as a group's back-off.

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Backoff, BackoffKind, Code, Flush, Group};

use crate::members::{Member, open};
use crate::{backoff, made};

/// How long a message waits after failures, in ms: whether it stays away until shortly before, and
/// is there shortly afterwards.
fn waits(world: &SimWorld, group: &Group, waits: &[u64]) {
    for (level, wait) in waits.iter().enumerate() {
        let failed = group.receive(Duration::ZERO).unwrap().unwrap();
        assert_eq!(u64::from(failed.attempt()), level as u64 + 1);
        failed.nack(None).unwrap();
        world.advance(wait - 500);
        let early = group.receive(Duration::ZERO).unwrap();
        assert!(early.is_none(), "level {level}, {wait} ms: {early:?}");
        world.advance(600);
    }
}

#[test]
fn rocketmqs_waits_are_exact_and_the_last_comes_again_and_again() {
    // As RocketMQ documents its retry levels.
    let minutes = |m: u64| m * 60_000;
    let mut levels = vec![10_000, 30_000];
    levels.extend((1..=10).map(minutes));
    levels.extend([20, 30, 60, 120].map(minutes));
    let told: Vec<u64> = Backoff::ROCKETMQ
        .map(|w| u64::try_from(w.as_millis()).unwrap())
        .into();
    assert_eq!(told, levels);
    levels.extend([minutes(120); 3]);
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.store.group("orders", "billing").max_attempts(100);
    let group = group.backoff(Backoff::rocketmq()).open().unwrap();
    m.send("orders", 1, 40);
    waits(&world, &group, &levels);
    // A lease that ends by its time waits as long.
    let held = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(held.attempt(), 20);
    world.advance(30_100);
    m.store.look();
    assert_eq!(held.ack().unwrap_err().code(), Code::LeaseLost);
    world.advance(minutes(120) - 1_000);
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    world.advance(1_100);
    assert!(group.receive(Duration::ZERO).unwrap().is_some());
}

#[test]
fn rocketmqs_waits_are_stored_compared_and_changed() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = m.store.group("orders", "billing");
    let group = group.backoff(Backoff::rocketmq()).open().unwrap();
    assert_eq!(group.config().unwrap().backoff, Backoff::rocketmq());
    m.leaves();
    let differs = |m: &Member, asked: Backoff, texts: [&str; 2]| {
        let refused = m.store.group("orders", "billing").backoff(asked).open();
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::ConfigMismatch);
        let text = refused.to_string();
        assert!(texts.iter().all(|part| text.contains(part)), "{text}");
    };
    // The numbers beside the kind count for nothing.
    let same = Backoff {
        kind: BackoffKind::Rocketmq,
        ..backoff(3)
    };
    let numbers = Backoff {
        kind: BackoffKind::Exponential,
        ..Backoff::rocketmq()
    };
    // From the log, by a power cut; from shared memory; from a snapshot alone.
    let cut = world.power_cut_with(|_| 1);
    for (world, when) in [(cut, "cut"), (world.clone(), "warm"), (world, "snapshot")] {
        let m = open(&world);
        assert_eq!(m.store.recovery().warm, when != "cut");
        if when == "snapshot" {
            m.store.maintain().unwrap();
        }
        let config = m.group("orders", "billing").config().unwrap();
        assert_eq!(config.backoff, Backoff::rocketmq(), "{when}");
        let again = m.store.group("orders", "billing").backoff(same);
        again.open().unwrap();
        differs(&m, backoff(10), ["rocketmq", "first=10ms"]);
        differs(&m, numbers, ["rocketmq", "first=10000ms"]);
        m.leaves();
    }
}

#[test]
fn a_change_to_rocketmqs_waits_and_back_survives_every_end() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = made(&m);
    for asked in [Backoff::rocketmq(), backoff(20)] {
        let config = group.configure().backoff(asked).apply().unwrap();
        assert_eq!(config.backoff, asked);
        assert_eq!((config.max_attempts, config.ack_flush), (3, Flush::Sync));
        let cut = open(&world.power_cut_with(|_| 1));
        assert_eq!(cut.group("orders", "billing").config().unwrap(), config);
        let snapped = world.fork();
        let maintainer = open(&snapped);
        maintainer.store.maintain().unwrap();
        maintainer.leaves();
        let cut = open(&snapped.power_cut_with(|_| 1));
        assert_eq!(cut.group("orders", "billing").config().unwrap(), config);
    }
    m.send("orders", 1, 40);
    let failed = group.receive(Duration::ZERO).unwrap().unwrap();
    failed.nack(None).unwrap();
    world.advance(100);
    assert!(group.receive(Duration::ZERO).unwrap().is_some());
}
