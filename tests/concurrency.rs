//! Several members at work at the same time, some of them killed in the middle: nothing that was
//! confirmed is lost, no message is held twice, and each group sees new messages in order.
//!
//! The threads run freely, so a seed decides what each does, not how they interleave.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepq::sim::{Fate, Rng, SimOptions, SimWorld, run_member};
use keepq::{Code, Flush};
use members::{Member, assert_whole, body, drain, id_of, open, open_with, options};

const GROUPS: [&str; 2] = ["a", "b"];

/// What the threads saw, kept outside of the store.
#[derive(Default)]
struct Ledger {
    /// Sends that returned.
    confirmed: Mutex<BTreeSet<u64>>,
    /// Sends that were begun: each may be there.
    begun: Mutex<BTreeSet<u64>>,
    /// Acks that returned, and acks that were begun.
    acked: Mutex<BTreeSet<(usize, u64)>>,
    ack_begun: Mutex<BTreeSet<(usize, u64)>>,
    /// Who holds a message now: group and number to the attempt.
    held: Mutex<BTreeMap<(usize, u64), u32>>,
    next: AtomicU64,
}

/// What a call came to; nothing when it gave up waiting, as it does when the machine lets a thread
/// that holds a lock not run for seconds.
fn calm<T>(result: keepq::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) if matches!(e.code(), Code::Busy | Code::Timeout | Code::FlushTimeout) => None,
        Err(e) => panic!("{e:?}"),
    }
}

impl Ledger {
    fn send(&self, member: &Member, rng: &mut Rng) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let len = 40 + usize::try_from(rng.below(400)).unwrap();
        self.begun.lock().unwrap().insert(id);
        let Some(topic) = calm(member.store.topic("t")) else {
            return;
        };
        let flush = if rng.below(4) == 0 {
            Flush::Sync
        } else {
            Flush::Async
        };
        let bytes = body(id, len);
        if calm(topic.message(&bytes).flush(flush).send()).is_some() {
            self.confirmed.lock().unwrap().insert(id);
        }
    }

    fn receive(&self, member: &mut Member, rng: &mut Rng) {
        let which = usize::try_from(rng.below(2)).unwrap();
        let Some(group) = calm(member.store.group("t", GROUPS[which]).open()) else {
            return;
        };
        let max = 1 + usize::try_from(rng.below(4)).unwrap();
        let got = calm(group.receive_batch(max, Duration::ZERO));
        for delivery in got.into_iter().flatten() {
            let id = id_of(delivery.body());
            let mut held = self.held.lock().unwrap();
            let before = held.insert((which, id), delivery.attempt());
            // Whoever held it before has died or put it back: attempts only rise.
            let fresh = before.is_none_or(|before| before < delivery.attempt());
            assert!(fresh, "message {id} is held twice: {before:?}");
            let settled = self.acked.lock().unwrap().contains(&(which, id));
            assert!(!settled, "message {id} comes again after its ack");
            drop(held);
            if rng.below(5) == 0 {
                let _ = calm(delivery.nack(Some(Duration::ZERO)));
                continue;
            }
            self.ack_begun.lock().unwrap().insert((which, id));
            if calm(delivery.ack()).is_some() {
                self.acked.lock().unwrap().insert((which, id));
            }
        }
    }
}

/// One thread: lives several lives, each of which may end at any kill point.
fn live(world: &SimWorld, ledger: &Ledger, seed: u64, lives: u32) -> u32 {
    let mut rng = Rng::new(seed);
    let mut deaths = 0;
    for _ in 0..lives {
        let process = world.process();
        let opened = keepq::Store::open_simulated(&process, options().flush(Flush::Async));
        let Some(store) = calm(opened) else { continue };
        let member = Member {
            store,
            process: process.clone(),
            held: Vec::new(),
            group: None,
            producer: None,
        };
        let fate = Fate::dies_at(50 + rng.below(3000));
        let mut own = Rng::new(rng.next_u64());
        let end = run_member(fate, move || {
            let mut member = member;
            for _ in 0..60 {
                match own.below(8) {
                    0..=2 => ledger.send(&member, &mut own),
                    3..=6 => ledger.receive(&mut member, &mut own),
                    _ => member.store.look(),
                }
            }
            member
        });
        match end {
            Ok(member) => drop(calm(member.store.close())),
            Err(_) => deaths += 1,
        }
        process.kill();
    }
    deaths
}

fn storm(seed: u64, threads: u64, lives: u32) -> (u32, usize) {
    let world = SimWorld::new(SimOptions {
        seed,
        threads: true,
        ..SimOptions::default()
    });
    let keeper = open_with(&world, options().flush(Flush::Async));
    for name in GROUPS {
        let group = keeper
            .store
            .group("t", name)
            .max_attempts(1000)
            .lease(Duration::from_secs(100_000));
        group.open().unwrap();
    }
    let ledger = Ledger::default();
    let deaths: u32 = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                let (world, ledger) = (&world, &ledger);
                scope.spawn(move || live(world, ledger, seed * 1000 + thread, lives))
            })
            .collect();
        started
            .into_iter()
            .map(|t| t.join().expect("no thread fails"))
            .sum()
    });
    keeper.store.look();
    let when = format!("seed {seed}");
    assert_whole(&keeper.store, &when);
    let cold = seed % 2 == 1;
    keeper.leaves();
    if cold {
        assert!(world.remove("ctl"));
    }
    let last = open(&world);
    let drained = drain(&world, &last.store);
    assert_whole(&last.store, &when);
    check_end(&ledger, &drained, &when);
    (deaths, ledger.confirmed.lock().unwrap().len())
}

/// At the end each group has had every message that was confirmed, and none it had acked.
fn check_end(ledger: &Ledger, drained: &members::Drained, when: &str) {
    let (confirmed, begun) = (
        ledger.confirmed.lock().unwrap(),
        ledger.begun.lock().unwrap(),
    );
    let (acked, ack_begun) = (
        ledger.acked.lock().unwrap(),
        ledger.ack_begun.lock().unwrap(),
    );
    for (which, name) in GROUPS.iter().enumerate() {
        let rest = &drained[&("t".to_owned(), (*name).to_owned())];
        let mut seen = BTreeSet::new();
        for (id, _) in rest {
            assert!(seen.insert(*id), "{when}: {name} gets {id} twice");
            assert!(begun.contains(id), "{when}: {id} was never sent");
            assert!(
                !acked.contains(&(which, *id)),
                "{when}: {name} gets {id} after its ack"
            );
        }
        for id in confirmed.iter() {
            let had = seen.contains(id) || ack_begun.contains(&(which, *id));
            assert!(had, "{when}: {name} lost {id}");
        }
    }
}

#[test]
fn members_die_and_the_others_go_on() {
    let (mut deaths, mut sent) = (0, 0);
    for seed in 0..6 {
        let (died, confirmed) = storm(seed, 3, 8);
        deaths += died;
        sent += confirmed;
    }
    eprintln!("{deaths} deaths, {sent} messages");
    assert!(deaths > 20, "only {deaths} members died");
}

#[test]
fn one_consumer_sees_new_messages_in_order_while_many_send() {
    let world = SimWorld::new(SimOptions {
        threads: true,
        ..SimOptions::default()
    });
    // Nobody is killed here: who waits is served in the end.
    let options = || options().flush(Flush::Async).send_timeout(Duration::MAX);
    let consumer = open_with(&world, options());
    let group = consumer.group("t", "a");
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut highest = None;
    std::thread::scope(|scope| {
        for sender in 0..3u64 {
            let world = &world;
            scope.spawn(move || {
                let m = open_with(world, options());
                let topic = m.store.topic("t").unwrap();
                for i in 0..60 {
                    let bytes = body(sender * 1000 + i, 100);
                    while calm(topic.send(&bytes)).is_none() {}
                }
            });
        }
        while seen.len() < 180 {
            let got = calm(group.receive_batch(8, Duration::from_millis(200)));
            for d in got.into_iter().flatten() {
                assert!(highest < Some(d.seq()), "{} after {highest:?}", d.seq());
                highest = Some(d.seq());
                assert!(seen.insert(id_of(d.body())));
                while calm(d.ack()).is_none() {}
            }
        }
    });
    assert_eq!(highest, Some(179), "sequences are dense");
    // Each sender's messages came in the order it sent them.
    assert_whole(&consumer.store, "at the end");
}
