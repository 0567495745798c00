//! Members of a simulated machine that die, and what the living find afterwards.
#![allow(dead_code, reason = "each suite uses a part")]

use std::collections::BTreeMap;
use std::time::Duration;

use keepq::sim::{Fate, Killed, SimProcess, SimWorld, run_member};
use keepq::{Delivery, Flush, Group, Producer, Store, StoreOptions};

/// One process with the store open, and what it holds.
pub(crate) struct Member {
    pub(crate) process: SimProcess,
    pub(crate) store: Store,
    pub(crate) held: Vec<Delivery>,
    pub(crate) group: Option<Group>,
    pub(crate) producer: Option<Producer>,
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions::default().tiny()
}

pub(crate) fn open(world: &SimWorld) -> Member {
    open_with(world, options())
}

pub(crate) fn open_with(world: &SimWorld, options: StoreOptions) -> Member {
    let process = world.process();
    let store = Store::open_simulated(&process, options).expect("the store opens");
    Member {
        process,
        store,
        held: Vec::new(),
        group: None,
        producer: None,
    }
}

impl Member {
    /// Dies now, between two calls. Nothing it owned is put back.
    pub(crate) fn dies(self) {
        let process = self.process.clone();
        let closed = self.store.stats().is_err();
        let end = run_member(Fate::dies_at(1), move || {
            let store = self.store.clone();
            // Taking the lock has a kill point; there it ends.
            let _ = store.check_state();
            self
        });
        // A store that is closed has nothing left to die in.
        assert!(end.is_err() || closed, "a kill point was reached");
        process.kill();
    }

    /// Closes the store and ends.
    pub(crate) fn leaves(self) {
        drop(self.held);
        self.store.close().expect("the store closes");
    }

    pub(crate) fn group(&self, topic: &str, name: &str) -> Group {
        self.store
            .group(topic, name)
            .open()
            .expect("the group opens")
    }

    pub(crate) fn send(&self, topic: &str, id: u64, len: usize) {
        let topic = self.store.topic(topic).expect("the topic is made");
        topic.send(body(id, len)).expect("the message is sent");
    }

    pub(crate) fn send_async(&self, topic: &str, id: u64, len: usize) {
        let topic = self.store.topic(topic).expect("the topic is made");
        let body = body(id, len);
        let sent = topic.message(&body).flush(Flush::Async).send();
        sent.expect("the message is sent");
    }

    /// Receives up to `max` messages and keeps them.
    pub(crate) fn receive(&mut self, topic: &str, group: &str, max: usize) -> usize {
        let group = self.group(topic, group);
        let got = group.receive_batch(max, Duration::ZERO).expect("receive");
        self.group = Some(group);
        let n = got.len();
        self.held.extend(got);
        n
    }
}

/// Runs `act` as a member that dies at its `k`-th kill point. True: it survived, and was killed
/// afterwards.
pub(crate) fn kill_at(member: Member, k: u64, act: &dyn Fn(&mut Member)) -> bool {
    let process = member.process.clone();
    let end = run_member(Fate::dies_at(k), move || {
        let mut member = member;
        act(&mut member);
        member
    });
    let survived = match end {
        Ok(member) => {
            member.dies();
            true
        }
        Err(Killed) => false,
    };
    process.kill();
    survived
}

/// The body of a message: its number, then bytes that follow from it.
pub(crate) fn body(id: u64, len: usize) -> Vec<u8> {
    let mut out = format!("{id}:{len}:").into_bytes();
    let mut word = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        out.push(word.to_le_bytes()[3]);
    }
    out
}

/// The number of a message whose body is whole; panics on any other.
pub(crate) fn id_of(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    let mut parts = text.split(':');
    let mut number = || parts.next().and_then(|n| n.parse::<u64>().ok());
    let (Some(id), Some(len)) = (number(), number()) else {
        panic!("a body that nobody sent: {text:?}");
    };
    let len = usize::try_from(len).expect("a length");
    assert!(
        bytes == body(id, len),
        "the body of {id} is not what was sent"
    );
    id
}

/// What a store still owes to a group: number and attempt of each message, in order of delivery.
pub(crate) type Drained = BTreeMap<(String, String), Vec<(u64, u32)>>;

/// The numbers alone, in order of number.
pub(crate) fn ids(drained: &Drained) -> BTreeMap<(String, String), Vec<u64>> {
    let sorted = |v: &Vec<(u64, u32)>| {
        let mut ids: Vec<u64> = v.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    };
    drained
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| (k.clone(), sorted(v)))
        .collect()
}

/// Receives and acks everything of every group, dead letters last.
pub(crate) fn drain(world: &SimWorld, store: &Store) -> Drained {
    let mut drained = Drained::new();
    let stats = store.stats().expect("stats");
    for group in &stats.groups {
        store
            .flush(None)
            .expect("what was put back or buried is durable");
        let key = (group.topic.clone(), group.name.clone());
        drained.insert(key, drain_group(world, store, &group.topic, &group.name));
    }
    store.flush(None).expect("what was buried is durable");
    for topic in store.stats().expect("stats").topics {
        if topic.name.starts_with('%') {
            let got = drain_group(world, store, &topic.name, "undertaker");
            drained.insert((topic.name, "undertaker".to_owned()), got);
        }
    }
    drained
}

fn drain_group(world: &SimWorld, store: &Store, topic: &str, name: &str) -> Vec<(u64, u32)> {
    let group = store.group(topic, name).open().expect("the group opens");
    let mut all = Vec::new();
    for _ in 0..200 {
        let got = group.receive_batch(64, Duration::ZERO).expect("receive");
        if got.is_empty() {
            let stats = group.stats().expect("stats");
            if stats.delayed + stats.in_flight == 0 {
                return all;
            }
            world.advance(20_000);
            continue;
        }
        all.extend(got.iter().map(|d| (id_of(d.body()), d.attempt())));
        for acked in group.ack_many(got) {
            acked.expect("the ack holds");
        }
    }
    panic!(
        "group {name} of {topic} is never empty: {:?}",
        group.stats()
    );
}

/// Receives and acks everything; the numbers alone, of all groups together.
pub(crate) fn owed(world: &SimWorld, store: &Store) -> Vec<u64> {
    ids(&drain(world, store)).into_values().flatten().collect()
}

/// Fails with everything that shared memory says against itself.
pub(crate) fn assert_whole(store: &Store, when: &str) {
    let wrong = store.check_state().expect("the state can be looked at");
    assert!(wrong.is_empty(), "{when}: {wrong:#?}");
}
