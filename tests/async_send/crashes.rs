//! Deaths and power cuts around asynchronous sends, on a simulated machine: what was confirmed is
//! there, what is there was sent, and the living go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use keepq::Flush;
use keepq::sim::{Fate, Killed, SimOptions, SimWorld, run_member};
use parking_lot::Mutex;

use crate::deaths::{Case, NOTHING, run};
use crate::list;
use crate::members::{Member, body, drain, open};

/// The numbers that a member was told are on disk, in the order it was told.
type Confirmed = Arc<Mutex<Vec<u64>>>;

const GROUP: (&str, &str) = ("orders", "billing");

fn machine() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let member = open(&world);
    member.group(GROUP.0, GROUP.1);
    member.leaves();
    world
}

/// Sends `numbers` asynchronously; each says when it is confirmed.
fn send_all(member: &Member, numbers: std::ops::Range<u64>, confirmed: &Confirmed) {
    let topic = member.store.topic(GROUP.0).unwrap();
    for number in numbers {
        // One of them goes in chunks.
        let len = if number % 4 == 3 { 9_000 } else { 200 };
        let pending = topic.send_async(body(number, len)).unwrap();
        let confirmed = Arc::clone(confirmed);
        pending.on_done(move |result| {
            if result.is_ok_and(|sent| sent.durable) {
                confirmed.lock().push(number);
            }
        });
    }
}

/// What a member does that dies somewhere in it: some are waited for, some flushed, some drained.
fn live(member: Member, confirmed: &Confirmed) -> Member {
    send_all(&member, 0..4, confirmed);
    let topic = member.store.topic(GROUP.0).unwrap();
    let pending = topic.send_async(body(4, 300)).unwrap();
    assert!(pending.wait(None).unwrap().unwrap().durable);
    confirmed.lock().push(4);
    send_all(&member, 5..8, confirmed);
    assert!(member.store.flush(None).unwrap());
    let (next, told) = (topic.clone(), Arc::clone(confirmed));
    let first = topic.send_async(body(8, 100)).unwrap();
    first.on_done(move |result| {
        if result.is_ok() {
            told.lock().push(8);
            send_again(&next, 9, &told);
        }
    });
    assert!(member.store.flush(None).unwrap());
    send_all(&member, 10..13, confirmed);
    member.store.close().unwrap();
    member
}

fn send_again(topic: &keepq::Topic, number: u64, confirmed: &Confirmed) {
    let pending = topic.send_async(body(number, 100)).unwrap();
    let confirmed = Arc::clone(confirmed);
    pending.on_done(move |result| {
        if result.is_ok() {
            confirmed.lock().push(number);
        }
    });
}

/// Opens a machine, takes everything out, and compares it with what was confirmed.
fn examine(world: &SimWorld, confirmed: &[u64], when: &str) {
    let member = open(world);
    let report = member.store.recovery().clone();
    assert_eq!(report.damaged_bytes, 0, "{when}: {report:?}");
    let drained = drain(world, &member.store);
    let got: Vec<u64> = drained
        .get(&(GROUP.0.to_owned(), GROUP.1.to_owned()))
        .map(|got| got.iter().map(|(number, _)| *number).collect())
        .unwrap_or_default();
    let set: BTreeSet<u64> = got.iter().copied().collect();
    assert_eq!(set.len(), got.len(), "{when}: {got:?} has a message twice");
    assert!(got.is_sorted(), "{when}: {got:?} is out of order");
    let lost: Vec<&u64> = confirmed
        .iter()
        .filter(|number| !set.contains(number))
        .collect();
    assert!(
        lost.is_empty(),
        "{when}: {lost:?} were confirmed, {got:?} are there"
    );
    assert!(set.iter().all(|number| *number < 13), "{when}: {got:?}");
    member.leaves();
}

#[test]
fn what_is_confirmed_survives_a_power_cut_anywhere() {
    let base = machine();
    let mut k = 0;
    loop {
        k += 1;
        let world = base.fork();
        let member = open(&world);
        let process = member.process.clone();
        let confirmed = list();
        let told = Arc::clone(&confirmed);
        let end = run_member(Fate::dies_at(k), move || live(member, &told));
        let confirmed = confirmed.lock().clone();
        let unique: BTreeSet<&u64> = confirmed.iter().collect();
        assert_eq!(
            unique.len(),
            confirmed.len(),
            "point {k}: {confirmed:?} told twice"
        );
        let cuts = [world.power_cut_with(|_| 1), world.power_cut(k)];
        process.kill();
        for (i, machine) in cuts.iter().chain([&world]).enumerate() {
            examine(machine, &confirmed, &format!("point {k}, end {i}"));
        }
        match end {
            Err(Killed) => {}
            Ok(member) => {
                assert_eq!(confirmed, (0..13).collect::<Vec<_>>(), "in order, and all");
                drop(member);
                break;
            }
        }
    }
    eprintln!("{k} kill points");
    assert!(k > 300, "only {k} kill points: the test would prove little");
}

#[test]
fn an_asynchronous_send_happens_wholly_or_not_at_all() {
    run(&Case {
        name: "send_async and wait",
        act: |m| {
            let topic = m.store.topic("orders").unwrap();
            let pending = topic.send_async(body(50, 100)).unwrap();
            assert!(pending.wait(None).unwrap().unwrap().durable);
        },
        gain: &[
            ("orders/billing", 50),
            ("orders/mail", 50),
            ("orders/strict", 50),
        ],
        ..NOTHING
    });
    run(&Case {
        name: "send_async from a callback",
        act: |m| {
            let topic = m.store.topic("fast").unwrap();
            let next = topic.clone();
            let pending = topic.send_async(body(50, 100)).unwrap();
            pending.on_done(move |result| {
                result.unwrap();
                drop(next.send_async(body(51, 100)).unwrap());
            });
            assert!(m.store.flush(None).unwrap());
            assert!(m.store.flush(None).unwrap());
        },
        steps: 2,
        gain: &[("fast/g", 50), ("fast/g", 51)],
        ..NOTHING
    });
    run(&Case {
        name: "one-way send",
        act: |m| {
            let topic = m.store.topic("orders").unwrap();
            topic
                .message(&body(50, 100))
                .flush(Flush::Sync)
                .send_oneway();
            assert!(m.store.flush(None).unwrap());
        },
        gain: &[
            ("orders/billing", 50),
            ("orders/mail", 50),
            ("orders/strict", 50),
        ],
        ..NOTHING
    });
}

#[test]
fn one_flush_completes_all_that_wait() {
    let world = machine();
    let member = open(&world);
    let confirmed = list();
    let topic = member.store.topic(GROUP.0).unwrap();
    let before = member.store.stats().unwrap().flushes;
    let last = {
        for number in 0..40 {
            let confirmed = Arc::clone(&confirmed);
            let pending = topic.send_async(body(number, 60)).unwrap();
            pending.on_done(move |_| confirmed.lock().push(number));
        }
        topic.send_async(body(40, 60)).unwrap()
    };
    assert!(confirmed.lock().is_empty(), "nobody flushes for them yet");
    assert!(!last.is_done() && last.poll().unwrap().is_none());
    assert!(last.wait(None).unwrap().unwrap().durable);
    assert_eq!(*confirmed.lock(), (0..40).collect::<Vec<u64>>());
    assert_eq!(member.store.stats().unwrap().flushes, before + 1);
    // Another member's flush does as well.
    let other = open(&world);
    let pending = topic.send_async(body(41, 60)).unwrap();
    other.send(GROUP.0, 42, 60);
    assert!(pending.poll().unwrap().unwrap().durable);
    other.leaves();
    member.leaves();
}
