//! Ordered groups under load: threads of several members, and very many keys.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use keepq::sim::{Fate, Rng, SimOptions, SimWorld, run_member};
use keepq::{Code, Flush, Store};

use super::{drain, group};
use crate::members::{Member, assert_whole, body, id_of, open, open_with, options};

const KEYS: u64 = 5;
/// Messages that several members share.
const MESSAGES: u64 = 200;

fn key(id: u64) -> String {
    format!("key {}", id % KEYS)
}

/// What consumers have begun to settle, and what they have settled.
#[derive(Default)]
struct Seen {
    begun: Mutex<BTreeSet<u64>>,
    settled: Mutex<BTreeSet<u64>>,
}

impl Seen {
    /// Receives and settles until the member dies or has done its part. What it holds when it dies
    /// is no longer held: the death ends the lease.
    fn consume(&self, member: &Member, rng: &mut Rng) {
        let Ok(group) = member
            .store
            .group(super::TOPIC, "fast")
            .ordered(true)
            .max_attempts(1000)
            .lease(Duration::from_secs(100_000))
            .open()
        else {
            return;
        };
        for _ in 0..60 {
            let got = match group.receive_batch(1 + rng.index(3), Duration::ZERO) {
                Ok(got) => got,
                Err(e) if matches!(e.code(), Code::Busy | Code::Timeout) => continue,
                Err(e) => panic!("{e:?}"),
            };
            for delivery in got {
                let id = id_of(delivery.body());
                let begun = self.begun.lock().unwrap().clone();
                let earlier = (0..id).find(|i| i % KEYS == id % KEYS && !begun.contains(i));
                assert_eq!(earlier, None, "{id} overtakes one of its key");
                let settled = self.settled.lock().unwrap().contains(&id);
                assert!(!settled, "{id} comes again");
                if rng.below(4) == 0 {
                    drop(delivery);
                    continue;
                }
                // Noted before: from the ack on, the next may be with another thread.
                self.begun.lock().unwrap().insert(id);
                match delivery.ack() {
                    Ok(()) => drop(self.settled.lock().unwrap().insert(id)),
                    Err(e) => {
                        assert!(matches!(e.code(), Code::Busy | Code::Timeout), "{e:?}");
                        self.begun.lock().unwrap().remove(&id);
                    }
                }
            }
        }
    }
}

/// Members one after the other: all but the last die somewhere. Returns how many did.
fn live(world: &SimWorld, seen: &Seen, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut deaths = 0;
    for life in 0..4 {
        let member = open_with(world, options().flush(Flush::Async));
        let process = member.process.clone();
        let fate = if life == 3 {
            Fate::lives()
        } else {
            Fate::dies_at(50 + rng.below(500))
        };
        let end = run_member(fate, || {
            let member = member;
            seen.consume(&member, &mut rng);
            member
        });
        match end {
            Ok(member) => drop(member.store.close()),
            Err(_) => deaths += 1,
        }
        process.kill();
    }
    deaths
}

#[test]
fn members_that_die_and_those_that_live_keep_the_order() {
    let mut deaths = 0;
    for seed in 0..6 {
        let world = SimWorld::new(SimOptions {
            seed,
            threads: true,
            ..SimOptions::default()
        });
        let sender = open_with(&world, options().flush(Flush::Async));
        let topic = sender.store.topic(super::TOPIC).unwrap();
        for id in 0..MESSAGES {
            let (bytes, key) = (body(id, 40), key(id));
            topic.message(&bytes).order_key(&key).send().unwrap();
        }
        let seen = Seen::default();
        deaths += std::thread::scope(|scope| {
            let start = |thread| {
                let (world, seen) = (&world, &seen);
                scope.spawn(move || live(world, seen, seed * 10 + thread))
            };
            let threads = [start(0), start(1), start(2)];
            threads.map(|t| t.join().unwrap()).iter().sum::<u64>()
        });
        sender.store.look();
        assert_whole(&sender.store, "after the threads");
        let options = sender.store.group(super::TOPIC, "fast").ordered(true);
        let left = drain(&world, &options.open().unwrap(), "after the threads");
        let (begun, settled) = (seen.begun.lock().unwrap(), seen.settled.lock().unwrap());
        let lost: Vec<u64> = (0..MESSAGES)
            .filter(|id| !begun.contains(id) && !left.contains(id))
            .collect();
        let again: Vec<&u64> = left.iter().filter(|id| settled.contains(id)).collect();
        assert!(
            lost.is_empty() && again.is_empty(),
            "{seed}: {lost:?}, {again:?}"
        );
    }
    assert!(deaths > 20, "only {deaths} members died");
}

#[test]
fn a_hundred_thousand_keys_are_in_flight_at_once() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
    std::fs::create_dir_all(&place).unwrap();
    let path = place.join(format!("many-keys-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let store = Store::options()
        .flush(Flush::Async)
        .slots(1 << 19)
        .open(&path)
        .unwrap();
    let topic = store.topic("t").unwrap();
    let group = store.group("t", "g").ordered(true).open().unwrap();
    let keys = 100_000u32;
    for _ in 0..2 {
        for number in 0..keys {
            let (bytes, key) = (number.to_le_bytes(), format!("user-{number}"));
            topic.message(&bytes).order_key(&key).send().unwrap();
        }
    }
    let mut held = Vec::new();
    loop {
        let got = group.receive_batch(192, Duration::ZERO).unwrap();
        if got.is_empty() && group.stats().unwrap().lag == 0 {
            break;
        }
        held.extend(got);
    }
    let stats = group.stats().unwrap();
    assert_eq!((held.len(), stats.parked), (keys as usize, u64::from(keys)));
    let first: BTreeSet<u64> = held.iter().map(keepq::Delivery::seq).collect();
    assert!(first.into_iter().eq(0..u64::from(keys)));
    for part in held.chunks(1000) {
        assert!(group.ack_many(part).into_iter().all(|r| r.is_ok()));
    }
    let mut second = 0;
    loop {
        let got = group.receive_batch(192, Duration::ZERO).unwrap();
        if got.is_empty() {
            break;
        }
        second += got.len();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    }
    assert_eq!((second, group.stats().unwrap().parked), (keys as usize, 0));
    store.close().unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn a_death_in_between_lets_the_same_message_come_first() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let mine = group(&m);
    (1..=3).for_each(|id| super::send(&m, id, Some("a")));
    let mut other = open(&world);
    other.held.extend(super::receive(&group(&other), 5));
    assert_eq!(super::numbers(&other.held), [1]);
    assert!(super::receive(&mine, 5).is_empty());
    other.dies();
    m.store.look();
    assert_eq!(super::numbers(&super::receive(&mine, 5)), [1]);
    assert_eq!(drain(&world, &mine, "after a death"), [1, 2, 3]);
}
