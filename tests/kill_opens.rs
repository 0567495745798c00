//! Death while the store is being opened, and death of those who clean up after the dead.
//!
//! Whoever opens a store, alone or beside others, may be killed anywhere in it; so may whoever
//! repairs what a killed member left. The next one starts over and finds everything.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use deaths::{Aftermath, NOTHING, aftermath, assert_owed, base};
use keepq::sim::{Fate, SimOptions, SimWorld, run_member};
use keepq::{Flush, Store};
use members::{Member, assert_whole, body, ids, open, options};

/// Opens the store as a process that dies at its `k`-th kill point. True: it survived, and was
/// killed afterwards.
fn killed_opening(world: &SimWorld, k: u64) -> bool {
    let process = world.process();
    let mortal = process.clone();
    let end = run_member(Fate::dies_at(k), move || {
        let store = Store::open_simulated(&mortal, options()).unwrap();
        Member {
            process: mortal,
            store,
            held: Vec::new(),
            group: None,
            producer: None,
        }
    });
    let survived = end.is_ok();
    if let Ok(member) = end {
        member.dies();
    }
    process.kill();
    survived
}

/// Kills an open of a fork of `base` at each of its points. `beside`: another member is there.
fn kill_each_open(name: &str, base: &SimWorld, beside: bool) -> Vec<Aftermath> {
    let mut found = Vec::new();
    let mut k = 0;
    loop {
        k += 1;
        let when = format!("{name}, killed at point {k}");
        let world = base.fork();
        let other = beside.then(|| open(&world));
        let survived = killed_opening(&world, k);
        let living = other.unwrap_or_else(|| open(&world));
        found.push(aftermath(&NOTHING, &world, living, &when));
        if survived {
            eprintln!("{name}: {k} kill points");
            return found;
        }
    }
}

#[test]
fn a_store_is_made_or_not() {
    let empty = SimWorld::new(SimOptions::default());
    for (k, found) in kill_each_open("create", &empty, false).iter().enumerate() {
        assert!(found.state.is_empty(), "point {k}: {:?}", found.state);
    }
}

#[test]
fn joining_disturbs_nobody() {
    for (k, found) in kill_each_open("join", &base(), true).iter().enumerate() {
        assert_owed(&NOTHING, &found.drained, true, &format!("join, point {k}"));
    }
}

#[test]
fn a_warm_open_can_be_tried_again() {
    // What everybody's death left: unflushed messages, leases, and a lock taken.
    let base = base();
    let mut member = open(&base);
    assert_eq!(member.receive("orders", "mail", 2), 2);
    let topic = member.store.topic("fast").unwrap();
    let text = body(50, 100);
    topic.message(&text).flush(Flush::Async).send().unwrap();
    member.dies();
    for (k, found) in kill_each_open("warm", &base, false).iter().enumerate() {
        let case = deaths::Case {
            gain: &[("fast/g", 50)],
            ..NOTHING
        };
        assert_owed(&case, &found.drained, true, &format!("warm, point {k}"));
    }
}

#[test]
fn a_cold_open_can_be_tried_again() {
    let base = base();
    assert!(base.remove("ctl"));
    let found = kill_each_open("cold", &base, false);
    for (k, found) in found.iter().enumerate() {
        assert_owed(&NOTHING, &found.drained, true, &format!("cold, point {k}"));
    }
    // Shared memory that is overwritten is rebuilt as if it were gone, and what is in the ring
    // only is saved from it.
    let base = deaths::base();
    let member = open(&base);
    let topic = member.store.topic("fast").unwrap();
    let text = body(50, 100);
    topic.message(&text).flush(Flush::Async).send().unwrap();
    member.dies();
    assert!(base.corrupt("ctl", 200_000, 1));
    let case = deaths::Case {
        gain: &[("fast/g", 50)],
        ..NOTHING
    };
    let found = kill_each_open("cold with a ring", &base, false);
    for (k, found) in found.iter().enumerate() {
        let when = format!("cold with a ring, point {k}");
        assert_owed(&case, &found.drained, true, &when);
    }
}

/// What a member is in the middle of when it dies.
fn work(m: &mut Member) {
    assert_eq!(m.receive("orders", "billing", 3), 3);
    m.held[0].ack().unwrap();
    m.held[1].nack(None).unwrap();
    m.send("orders", 50, 5000);
}

#[test]
fn who_cleans_up_may_die_as_well() {
    let base = base();
    let mut runs = 0;
    let mut k = 0;
    loop {
        // Every seventh point of the first death, every third of the second.
        k += 7;
        let mut survived = false;
        for j in (1 + k % 3..).step_by(3) {
            let when = format!("killed at point {k}, its rescuer at point {j}");
            let world = base.fork();
            let dying = open(&world);
            let (mut rescuer, living) = (open(&world), open(&world));
            survived = members::kill_at(dying, k, &work);
            let process = rescuer.process.clone();
            let end = run_member(Fate::dies_at(j), move || {
                rescuer.store.look();
                rescuer.receive("orders", "billing", 1);
                rescuer
            });
            let rescued = end.is_ok();
            if let Ok(rescuer) = end {
                rescuer.dies();
            }
            process.kill();
            living.store.look();
            assert_whole(&living.store, &when);
            let drained = members::drain(&world, &living.store);
            let owed = &ids(&drained)[&("orders".to_owned(), "billing".to_owned())];
            let all = [2, 3, 4, 5, 6, 7, 8];
            let missing: Vec<u64> = all.into_iter().filter(|id| !owed.contains(id)).collect();
            // The second receive of the batch was put back, the first is number 3: it was acked
            // unless the member died before.
            assert!(
                missing.is_empty() || missing == [3],
                "{when}: lost {missing:?}"
            );
            assert!(
                !survived || (missing == [3] && owed.contains(&50)),
                "{when}"
            );
            living.leaves();
            runs += 1;
            if rescued {
                break;
            }
        }
        if survived {
            break;
        }
    }
    eprintln!("{runs} pairs of deaths");
}

#[test]
fn the_leases_of_the_dead_come_back_within_a_look() {
    let world = base();
    let mut dying = open(&world);
    let living = open(&world);
    assert_eq!(dying.receive("orders", "mail", 4), 4);
    let group = living.group("orders", "mail");
    assert_eq!(group.stats().unwrap().in_flight, 4);
    dying.dies();
    living.store.look();
    let got = group.receive_batch(4, Duration::ZERO).unwrap();
    let tries: Vec<(u64, u32)> = got.iter().map(|d| (d.seq(), d.attempt())).collect();
    assert_eq!(tries, [(0, 2), (1, 2), (2, 2), (3, 2)]);
    let lines = living.store.describe_state().unwrap();
    let crashed = lines.iter().filter(|l| l.ends_with("attempts 2 crashes 1"));
    assert_eq!(crashed.count(), 4, "{lines:#?}");
}
