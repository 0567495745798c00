//! Members that send, receive, purge and delete at the same time, some of them killed in the
//! middle: what a purge or deletion that returned took is never seen again, and nothing else is
//! missing.
//!
//! The threads run freely, so a seed decides what each does, not how they interleave.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use keepq::sim::{Fate, run_member};

use super::*;

const NAMES: [&str; 3] = ["one", "two", "three"];

/// When something began, and when it returned, if it did.
#[derive(Debug, Clone, Copy)]
struct Span {
    began: u64,
    returned: u64,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    name: usize,
    sent: Span,
}

/// What the threads saw, kept outside of the store, by a clock of its own.
#[derive(Default)]
struct Ledger {
    clock: AtomicU64,
    messages: Mutex<Vec<Message>>,
    /// Purges and deletions.
    gone: Mutex<Vec<(usize, Span)>>,
    acked: Mutex<BTreeSet<usize>>,
    ack_begun: Mutex<BTreeSet<usize>>,
}

/// What a call came to; nothing when it gave up waiting, or what it was about is gone.
fn calm<T>(result: keepq::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) => match e.code() {
            Code::Busy | Code::Timeout | Code::FlushTimeout => None,
            Code::NotFound | Code::LeaseLost => None,
            _ => panic!("{e:?}"),
        },
    }
}

impl Ledger {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn send(&self, member: &Member, rng: &mut Rng) {
        let name = rng.index(NAMES.len());
        let Some(topic) = calm(member.store.topic(NAMES[name])) else {
            return;
        };
        let sent = Span {
            began: self.now(),
            returned: u64::MAX,
        };
        let id = {
            let mut messages = self.messages.lock().unwrap();
            messages.push(Message { name, sent });
            messages.len() - 1
        };
        let len = 40 + rng.index(700);
        if calm(topic.send(body(id as u64, len))).is_some() {
            let now = self.now();
            self.messages.lock().unwrap()[id].sent.returned = now;
        }
    }

    /// Checks a message that a receive which began at `began` was given.
    fn seen(&self, name: usize, id: usize, began: u64) {
        let message = self.messages.lock().unwrap()[id];
        assert_eq!(message.name, name, "message {id} of another topic");
        let gone = self.gone.lock().unwrap();
        let by = gone.iter().find(|(of, span)| {
            *of == name && span.began > message.sent.returned && span.returned < began
        });
        assert!(
            by.is_none(),
            "message {id}, {message:?}, was taken by {by:?}"
        );
        assert!(
            !self.acked.lock().unwrap().contains(&id),
            "{id} comes again"
        );
    }

    fn receive(&self, member: &Member, rng: &mut Rng) {
        let name = rng.index(NAMES.len());
        let group = member.store.group(NAMES[name], "g").max_attempts(1000);
        let group = group.lease(Duration::from_secs(100_000)).open();
        let Some(group) = calm(group) else { return };
        let began = self.now();
        let got = calm(group.receive_batch(1 + rng.index(4), Duration::ZERO));
        for delivery in got.into_iter().flatten() {
            let id = usize::try_from(id_of(delivery.body())).unwrap();
            self.seen(name, id, began);
            if rng.below(5) == 0 {
                let _ = calm(delivery.nack(Some(Duration::ZERO)));
                continue;
            }
            self.ack_begun.lock().unwrap().insert(id);
            if calm(delivery.ack()).is_some() {
                self.acked.lock().unwrap().insert(id);
            }
        }
    }

    fn take_away(&self, member: &Member, rng: &mut Rng) {
        let name = rng.index(NAMES.len());
        let Some(topic) = calm(member.store.existing_topic(NAMES[name])) else {
            return;
        };
        let span = Span {
            began: self.now(),
            returned: u64::MAX,
        };
        let which = {
            let mut gone = self.gone.lock().unwrap();
            gone.push((name, span));
            gone.len() - 1
        };
        let done = match rng.below(2) {
            0 => calm(topic.purge()).is_some(),
            _ => calm(topic.delete()).is_some(),
        };
        if done {
            let now = self.now();
            self.gone.lock().unwrap()[which].1.returned = now;
        }
    }

    /// At the end each message that nobody may have taken or acked is there.
    fn check_end(&self, owed: &Owed, when: &str) {
        let now = self.now();
        let there: BTreeSet<usize> = owed
            .iter()
            .flat_map(|((topic, _), ids)| {
                let name = NAMES.iter().position(|n| n == topic).unwrap();
                ids.iter()
                    .map(move |&id| (name, usize::try_from(id).unwrap()))
            })
            .inspect(|&(name, id)| self.seen(name, id, now))
            .map(|(_, id)| id)
            .collect();
        let gone = self.gone.lock().unwrap();
        let ack_begun = self.ack_begun.lock().unwrap();
        for (id, message) in self.messages.lock().unwrap().iter().enumerate() {
            let sure = message.sent.returned != u64::MAX && !ack_begun.contains(&id);
            let spared = gone
                .iter()
                .all(|(of, span)| *of != message.name || span.returned < message.sent.began);
            assert!(
                !sure || !spared || there.contains(&id),
                "{when}: {id} is lost"
            );
        }
    }
}

/// One thread: lives several lives, each of which may end at any kill point.
fn live(world: &SimWorld, ledger: &Ledger, seed: u64, lives: u32) -> u32 {
    let mut rng = Rng::new(seed);
    let mut deaths = 0;
    for _ in 0..lives {
        let process = world.process();
        let opened = Store::open_simulated(&process, options().flush(Flush::Async));
        let Some(store) = calm(opened) else { continue };
        let member = Member {
            store,
            process: process.clone(),
            held: Vec::new(),
            group: None,
            producer: None,
        };
        let fate = Fate::dies_at(50 + rng.below(4000));
        let mut own = Rng::new(rng.next_u64());
        let end = run_member(fate, move || {
            for _ in 0..60 {
                match own.below(12) {
                    0..=4 => ledger.send(&member, &mut own),
                    5..=8 => ledger.receive(&member, &mut own),
                    9 => ledger.take_away(&member, &mut own),
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

fn storm(seed: u64) -> (u32, usize) {
    let world = SimWorld::new(SimOptions {
        seed,
        threads: true,
        ..SimOptions::default()
    });
    let keeper = open_with(&world, options().flush(Flush::Async));
    let ledger = Ledger::default();
    let deaths = std::thread::scope(|scope| {
        let started: Vec<_> = (0..3)
            .map(|thread| {
                let (world, ledger) = (&world, &ledger);
                scope.spawn(move || live(world, ledger, seed * 1000 + thread, 8))
            })
            .collect();
        let joined = started
            .into_iter()
            .map(|t| t.join().expect("no thread fails"));
        joined.sum()
    });
    let when = format!("seed {seed}");
    keeper.store.look();
    assert_whole(&keeper.store, &when);
    // What no group has asked for is there for one that comes now.
    for name in NAMES {
        if keeper.store.existing_topic(name).is_ok() {
            drop(keeper.store.group(name, "g").open().unwrap());
        }
    }
    keeper.leaves();
    if seed % 2 == 1 {
        assert!(world.remove("ctl"));
    }
    ledger.check_end(&owed_there(&world, &when), &when);
    let taken = ledger.gone.lock().unwrap().len();
    (deaths, taken)
}

#[test]
fn members_die_while_topics_come_and_go() {
    let (mut deaths, mut taken) = (0, 0);
    for seed in 0..8 {
        let (died, gone) = storm(seed);
        deaths += died;
        taken += gone;
    }
    eprintln!("{deaths} deaths, {taken} purges and deletions");
    assert!(deaths > 20 && taken > 40, "{deaths} deaths, {taken} taken");
}
