//! What changes a store besides messages, on a disk that fails or is full: a change of options, a
//! purge and a deletion are made wholly or not at all, and a full disk does not stop them.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{Fault, FaultPlan, SimOptions, SimWorld};
use keepq::{Code, Flush, Result};
use members::{Member, assert_whole, body, id_of, open, open_with, options};

/// A change, and what is read of it before and after.
struct Change {
    name: &'static str,
    make: fn(&Member) -> Result<()>,
    read: fn(&Member) -> Vec<u64>,
    before: &'static [u64],
    after: &'static [u64],
}

/// 100 and the number of messages of topic t, 200 and its groups, 300 and its dead letters.
fn counts(m: &Member) -> Vec<u64> {
    let stats = m.store.stats().unwrap();
    let groups = || stats.groups.iter().filter(|g| g.topic == "t");
    let Ok(topic) = m.store.existing_topic("t") else {
        assert_eq!(groups().count(), 0);
        assert!(m.store.existing_topic("%DLQ%t%g").is_err());
        return Vec::new();
    };
    let messages = 100 + topic.browse().count() as u64;
    let dead = 300 + groups().map(|g| g.dead).sum::<u64>();
    vec![messages, 200 + groups().count() as u64, dead]
}

const CHANGES: [Change; 7] = [
    Change {
        name: "limits of a topic",
        make: |m| {
            let change = m.store.existing_topic("t")?.configure();
            change
                .max_messages(9_000)
                .max_bytes(1 << 30)
                .apply()
                .map(|_| ())
        },
        read: |m| {
            let config = m.store.topic("t").unwrap().config().unwrap();
            vec![
                config.max_messages.unwrap_or(0),
                config.max_bytes.unwrap_or(0),
            ]
        },
        before: &[0, 0],
        after: &[9_000, 1 << 30],
    },
    Change {
        name: "the store's limit",
        make: |m| m.store.configure().max_bytes(1 << 30).apply().map(|_| ()),
        read: |m| vec![m.store.config().unwrap().max_bytes.unwrap_or(0)],
        before: &[0],
        after: &[1 << 30],
    },
    Change {
        name: "purge of a topic",
        make: |m| m.store.existing_topic("t")?.purge().map(|_| ()),
        read: |m| {
            let mut counts = counts(m);
            counts[0] = counts[0].min(101);
            counts
        },
        before: &[101, 201, 303],
        after: &[100, 201, 303],
    },
    Change {
        name: "deletion of a topic",
        make: |m| m.store.existing_topic("t")?.delete(),
        read: |m| counts(m).into_iter().skip(1).collect(),
        before: &[201, 303],
        after: &[],
    },
    Change {
        name: "deletion of a group",
        make: |m| m.store.group("t", "g").create(false).open()?.delete(),
        read: |m| counts(m).into_iter().skip(1).collect(),
        before: &[201, 303],
        after: &[200, 300],
    },
    Change {
        name: "configure",
        make: |m| {
            let change = m.group("t", "g").configure().max_attempts(5);
            change.apply().map(|_| ())
        },
        read: |m| vec![u64::from(m.group("t", "g").config().unwrap().max_attempts)],
        before: &[16],
        after: &[5],
    },
    Change {
        name: "purge",
        make: |m| {
            let letters = m.group("t", "g").dead_letters();
            let found: Vec<_> = letters.browse().take(2).collect::<Result<_>>()?;
            let second = found.last().expect("there are three");
            letters.purge_one(second.seq).map(|_| ())
        },
        read: |m| {
            let letters = m.group("t", "g").dead_letters();
            let found = letters.browse().map(|letter| letter.unwrap());
            found.map(|l| id_of(l.content.unwrap().body())).collect()
        },
        before: &[1, 2, 3],
        after: &[1, 3],
    },
];

/// A group with three dead letters, all of it durable.
fn start(world: &SimWorld) -> Member {
    let m = open_with(world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    for id in 1..=3 {
        m.send_async("t", id, 100);
        let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
        delivery.reject("no good").unwrap();
    }
    m.store.flush(None).unwrap();
    m
}

#[test]
fn a_failed_call_leaves_a_change_made_or_not() {
    for change in &CHANGES {
        for errno in [libc::EIO, libc::ENOSPC] {
            let mut struck = 0;
            for nth_call in 1.. {
                let when = format!("{}, call {nth_call}, errno {errno}", change.name);
                let world = SimWorld::new(SimOptions::default());
                let m = start(&world);
                let (hits, calls) = (world.faults_hit(), world.disk_calls());
                world.plan_fault(FaultPlan {
                    nth_call,
                    error: Fault::Errno(errno),
                    sticky: false,
                });
                let made = (change.make)(&m);
                struck += world.faults_hit() - hits;
                let reached = world.disk_calls() - calls >= nth_call;
                world.clear_fault();
                let cut = open(&world.power_cut_with(|_| 1));
                let left = (change.read)(&cut);
                assert_whole(&cut.store, &when);
                match &made {
                    Ok(()) => assert_eq!(left, change.after, "{when}"),
                    Err(e) => {
                        assert!(left == change.before || left == change.after, "{when}: {e}");
                    }
                }
                let here = (change.read)(&m);
                assert!(here == change.before || here == change.after, "{when}");
                if !reached {
                    break;
                }
            }
            eprintln!("{}, errno {errno}: {struck} calls failed", change.name);
            assert!(struck >= 2, "a write and a sync at least");
        }
    }
}

#[test]
fn a_full_disk_takes_changes() {
    for change in &CHANGES {
        let world = SimWorld::new(SimOptions {
            capacity: Some(1 << 20),
            ..SimOptions::default()
        });
        let m = start(&world);
        let topic = m.store.topic("t").unwrap();
        let full = (4..4_000).find_map(|id| {
            m.store.look();
            topic.send(body(id, 3_000)).err()
        });
        assert_eq!(full.expect("it fills").code(), Code::Full);
        (change.make)(&m).unwrap();
        let cut = open(&world.power_cut_with(|_| 1));
        assert_eq!((change.read)(&cut), change.after, "{}", change.name);
    }
}
