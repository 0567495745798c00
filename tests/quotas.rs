//! Limits refuse or hold up sends before anything changes, exactly at what is kept, whatever died
//! and however the store was opened; they drop nothing and hold up nothing else.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;
#[path = "quotas/retained.rs"]
mod retained;
#[path = "quotas/waiting.rs"]
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use keepq::sim::{Rng, SimOptions, SimWorld};
use keepq::{Code, Flush, Outcome, StoreOptions, Topic, WhenFull};
use members::{Member, assert_whole, body, id_of, kill_at, open_with};

/// Refused at once: no attempt is made again.
fn options() -> StoreOptions {
    members::options().send_retries(0)
}

fn open_quick(world: &SimWorld) -> Member {
    open_with(world, options())
}

/// The machine after a power cut that took everything that was not durable.
fn cut(world: &SimWorld) -> SimWorld {
    world.power_cut_with(|_| 1)
}

/// Sends until it is refused; how many were stored.
fn fill(topic: &Topic, first: u64, len: usize) -> u64 {
    let mut sent = 0;
    loop {
        match topic.send(body(first + sent, len)) {
            Ok(_) => sent += 1,
            Err(e) => {
                assert_eq!(
                    (e.code(), e.outcome()),
                    (Code::Full, Some(Outcome::NotStored))
                );
                assert!(e.is_retriable(), "{e}");
                return sent;
            }
        }
        assert!(sent < 10_000, "no limit");
    }
}

fn kept(m: &Member, topic: &str) -> Option<(u64, u64)> {
    let topics = m.store.stats().unwrap().topics;
    topics.iter().find(|t| t.name == topic).unwrap().kept
}

#[test]
fn a_topic_at_its_limit_refuses_and_settled_messages_make_room() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m.store.topic_with("t").max_messages(5).open().unwrap();
    let group = m.group("t", "g");
    assert_eq!(fill(&topic, 1, 40), 5);
    let refused = topic.send(b"x").unwrap_err().to_string();
    assert!(refused.contains("topic t keeps 5 messages"), "{refused}");
    assert!(refused.contains("max_messages is 5"), "{refused}");
    let before = m.store.published();
    assert_eq!(fill(&topic, 6, 40), 0);
    let many = topic.send_many(&[keepq::OutMessage::default()]);
    assert_eq!(many[0].as_ref().unwrap_err().code(), Code::Full);
    assert_eq!(topic.send_async(b"x").unwrap_err().code(), Code::Full);
    assert_eq!(m.store.published(), before, "a refused send leaves nothing");
    let got = group.receive_batch(4, Duration::ZERO).unwrap();
    // In order, and out of order: what lies behind one that is not settled counts.
    got[0].ack().unwrap();
    assert_eq!(fill(&topic, 6, 40), 1);
    got[2].ack().unwrap();
    assert_eq!(fill(&topic, 7, 40), 0);
    got[1].reject("a dead letter does not count").unwrap();
    assert_eq!(fill(&topic, 7, 40), 2);
    assert_eq!(group.dead_letters().len().unwrap(), 1);
    assert_eq!(kept(&m, "t"), Some((5, 200)));
    // All groups count.
    m.group("t", "other");
    got[3].ack().unwrap();
    assert_eq!(fill(&topic, 9, 40), 0);
    m.group("t", "other").delete().unwrap();
    assert_eq!(fill(&topic, 9, 40), 1);
    assert_eq!(topic.purge().unwrap(), 5);
    assert_eq!(fill(&topic, 10, 40), 5);
}

#[test]
fn bytes_are_those_of_bodies_however_they_are_stored() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m.store.topic_with("t").max_bytes(20_000).open().unwrap();
    let group = m.group("t", "g");
    // In chunks, each of which is a record.
    topic.send(body(1, 9_000)).unwrap();
    topic.send(body(2, 9_000)).unwrap();
    let chunked = topic.send(body(3, 9_000)).unwrap_err();
    assert_eq!(
        (chunked.code(), chunked.outcome()),
        (Code::Full, Some(Outcome::NotStored))
    );
    let message = topic
        .message(&[7; 1500])
        .key("not counted")
        .header("n", b"or");
    message.send().unwrap();
    assert_eq!(kept(&m, "t"), Some((3, 19_500)));
    topic.send([0; 500]).unwrap();
    assert_eq!(topic.send(b"1").unwrap_err().code(), Code::Full);
    // Nothing of it fits, ever.
    let never = topic.send(body(1, 20_001)).unwrap_err();
    assert_eq!(
        (never.code(), never.is_retriable()),
        (Code::LimitExceeded, false)
    );
    // An empty body counts as a message only.
    topic.send(b"").unwrap();
    group
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap()
        .ack()
        .unwrap();
    topic.send(body(4, 9_000)).unwrap();
    assert_eq!(kept(&m, "t"), Some((5, 20_000)));
}

#[test]
fn options_are_stored_compared_and_changed() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let made = || {
        m.store
            .topic_with("t")
            .max_messages(3)
            .when_full(WhenFull::Wait)
    };
    let topic = made().retain_age(Duration::from_secs(60)).open().unwrap();
    let config = topic.config().unwrap();
    assert_eq!((config.max_messages, config.max_bytes), (Some(3), None));
    assert_eq!(
        (config.when_full, config.retain_bytes),
        (WhenFull::Wait, None)
    );
    assert_eq!(config.retain_age, Some(Duration::from_secs(60)));
    assert_eq!(made().open().unwrap().config().unwrap(), config);
    let other = open_quick(&cut(&world));
    for m in [&m, &other] {
        assert_eq!(m.store.topic("t").unwrap().config().unwrap(), config);
        let asks = [
            (m.store.topic_with("t").max_messages(4), "3", "4"),
            (m.store.topic_with("t").max_messages(None), "3", "none"),
            (m.store.topic_with("t").max_bytes(9), "none", "9"),
            (
                m.store.topic_with("t").when_full(WhenFull::Refuse),
                "wait",
                "refuse",
            ),
            (
                m.store.topic_with("t").retain_age(Duration::from_secs(1)),
                "60000 ms",
                "1000 ms",
            ),
            (m.store.topic_with("t").retain_bytes(5), "none", "5"),
        ];
        for (ask, stored, asked) in asks {
            let refused = ask.open().unwrap_err();
            assert_eq!(refused.code(), Code::ConfigMismatch);
            let text = refused.to_string();
            assert!(text.contains("topic t") && text.contains(stored) && text.contains(asked));
        }
    }
    let change = topic.configure().max_messages(None).max_bytes(100);
    let config = change
        .when_full(WhenFull::Refuse)
        .retain_age(None)
        .apply()
        .unwrap();
    assert_eq!((config.max_messages, config.max_bytes), (None, Some(100)));
    assert_eq!(
        (config.when_full, config.retain_age),
        (WhenFull::Refuse, None)
    );
    let after = open_quick(&cut(&world));
    assert_eq!(after.store.topic("t").unwrap().config().unwrap(), config);
    for zero in [
        topic.configure().max_bytes(0),
        topic.configure().retain_bytes(0),
    ] {
        assert_eq!(zero.apply().unwrap_err().code(), Code::InvalidArgument);
    }
    let of_keepq = m.store.topic_with("%DLQ%t%g").max_messages(1).open();
    assert_eq!(of_keepq.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(fill(&topic, 1, 50), 2);
    // Without a limit again.
    topic.configure().max_bytes(None).apply().unwrap();
    (3..100).for_each(|id| m.send("t", id, 50));
}

#[test]
fn a_limit_that_comes_later_counts_what_is_there() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m.store.topic("t").unwrap();
    assert_eq!(kept(&m, "t"), None);
    (1..=30).for_each(|id| m.send("t", id, 100));
    let group = m.group("t", "g");
    for delivery in group.receive_batch(12, Duration::ZERO).unwrap() {
        delivery.ack().unwrap();
    }
    topic.configure().max_messages(25).apply().unwrap();
    assert_eq!(kept(&m, "t"), Some((18, 1800)));
    assert_eq!(fill(&topic, 31, 100), 7);
    m.store.flush(None).unwrap();
    for world in [cut(&world), world.fork()] {
        let m = open_quick(&world);
        assert_eq!(fill(&m.store.topic("t").unwrap(), 40, 100), 0);
    }
    // A limit below what is kept takes nothing away.
    topic.configure().max_messages(3).apply().unwrap();
    let mut held = Vec::new();
    while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
        held.push(delivery);
    }
    assert_eq!(held.len(), 25);
}

#[test]
fn the_stores_limit_counts_all_topics() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().max_bytes(1000));
    let [a, b] = ["a", "b"].map(|name| m.store.topic(name).unwrap());
    let group = m.group("a", "g");
    assert_eq!(fill(&a, 1, 300), 3);
    assert_eq!(fill(&b, 10, 60), 1);
    let refused = b.send([0; 60]).unwrap_err().to_string();
    assert!(
        refused.contains("the store") && refused.contains("keeps 960 bytes"),
        "{refused}"
    );
    let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
    delivery.reject("a dead letter does not count").unwrap();
    assert_eq!(fill(&b, 11, 60), 5);
    b.delete().unwrap();
    assert_eq!(fill(&m.store.topic("c").unwrap(), 20, 200), 2);
    let config = m.store.config().unwrap();
    assert_eq!(
        (config.max_bytes, config.when_full),
        (Some(1000), WhenFull::Refuse)
    );
    m.leaves();
    for world in [cut(&world), world] {
        let m = open_quick(&world);
        assert_eq!(m.store.config().unwrap(), config);
        assert_eq!(fill(&m.store.topic("d").unwrap(), 30, 10), 0);
        let other = keepq::Store::open_simulated(&world.process(), options().max_bytes(999));
        let refused = other.unwrap_err();
        assert_eq!(refused.code(), Code::ConfigMismatch);
        let text = refused.to_string();
        assert!(text.contains("1000") && text.contains("999"), "{text}");
        m.store.configure().max_bytes(1100).apply().unwrap();
        assert_eq!(fill(&m.store.topic("d").unwrap(), 30, 10), 10);
        m.store.configure().max_bytes(None).apply().unwrap();
        m.send("d", 99, 5_000);
        m.leaves();
    }
}

#[test]
fn a_stores_limit_that_comes_later_counts_what_is_there() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    m.send("a", 1, 400);
    m.send("b", 2, 300);
    m.group("b", "g")
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap()
        .ack()
        .unwrap();
    m.store.configure().max_bytes(500).apply().unwrap();
    assert_eq!(fill(&m.store.topic("b").unwrap(), 3, 50), 2);
    let after = open_quick(&cut(&world));
    assert_eq!(fill(&after.store.topic("b").unwrap(), 3, 50), 0);
    assert_eq!(after.store.config().unwrap().max_bytes, Some(500));
}

/// Of a send below, and one at the limit, that die anywhere, the counts are what is kept.
#[test]
fn counts_are_exact_after_a_death_anywhere() {
    type Act = fn(&mut Member);
    let acts: [(&str, Act); 4] = [
        ("a send", |m| m.send("t", 50, 40)),
        ("a send that counts off", |m| {
            let (group, topic) = (m.group("t", "g"), m.store.topic("t").unwrap());
            m.send("t", 50, 40);
            group
                .receive(Duration::ZERO)
                .unwrap()
                .unwrap()
                .ack()
                .unwrap();
            topic.send(body(51, 40)).unwrap();
        }),
        ("a first limit", |m| {
            let topic = m.store.topic("free").unwrap();
            topic.configure().max_messages(9).apply().unwrap();
        }),
        ("making", |m| {
            let topic = m.store.topic_with("new").max_messages(4).open().unwrap();
            topic.send(body(60, 40)).unwrap();
        }),
    ];
    for (name, act) in acts {
        let base = SimWorld::new(SimOptions::default());
        let m = open_quick(&base);
        m.store.topic_with("t").max_messages(4).open().unwrap();
        m.group("t", "g");
        (1..=3).for_each(|id| m.send("t", id, 40));
        (11..=16).for_each(|id| m.send("free", id, 40));
        m.leaves();
        for k in 1.. {
            let when = format!("{name}, killed at {k}");
            let world = base.fork();
            let (dying, living) = (open_quick(&world), open_quick(&world));
            let survived = kill_at(dying, k, &act);
            living.store.look();
            living.store.flush(None).unwrap();
            let cut = cut(&world);
            living.leaves();
            let cold = world.fork();
            assert!(cold.remove("ctl"));
            for world in [world, cold, cut] {
                assert_counted(&open_quick(&world), &when);
            }
            if survived {
                assert!(k > 10, "{name}: {k} points");
                break;
            }
        }
    }
}

/// Receives and acks all; how many there were.
fn drain(m: &Member, topic: &str, group: &str) -> u64 {
    let group = m.group(topic, group);
    let mut all = 0;
    while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
        delivery.ack().unwrap();
        all += 1;
    }
    all
}

/// Every limit lets in just as many messages as it has room for.
fn assert_counted(m: &Member, when: &str) {
    assert_whole(&m.store, when);
    let topics = m.store.stats().unwrap().topics;
    for name in topics
        .into_iter()
        .map(|t| t.name)
        .filter(|n| !n.starts_with('%'))
    {
        let topic = m.store.topic(&name).unwrap();
        let Some(most) = topic.config().unwrap().max_messages else {
            continue;
        };
        let sent = fill(&topic, 1000, 40);
        // Nothing is acked out of order here: what is kept is what the one group is owed.
        let groups = m.store.stats().unwrap().groups;
        let kept = match groups.iter().find(|g| g.topic == name) {
            Some(group) => drain(m, &name, &group.name),
            None => topic.browse().count() as u64,
        };
        assert_eq!(kept, most, "{when}: {name}, {sent} of them new");
    }
}

/// Random sends, settlements, purges, snapshots and deaths: a send is let in when there is room for
/// it, and only then.
#[test]
fn a_send_is_let_in_when_there_is_room_and_only_then() {
    for seed in 0..60 {
        let mut churn = Churn::new(seed);
        for step in 0..120 {
            churn.step(&format!("seed {seed}, step {step}"));
        }
        assert!(churn.refused > 3 && churn.sent > 20, "seed {seed}");
    }
}

const MOST: u64 = 12;
const MOST_BYTES: u64 = 6_000;
const STORE_BYTES: u64 = 9_000;

/// A message's number and length, and which groups have settled it.
type Kept = (u64, u64, BTreeSet<&'static str>);

struct Churn {
    rng: Rng,
    world: SimWorld,
    m: Option<Member>,
    /// Per topic what is kept: number and length of each message, and which groups have settled it.
    model: BTreeMap<&'static str, VecDeque<Kept>>,
    next: u64,
    sent: u64,
    refused: u64,
}

impl Churn {
    fn new(seed: u64) -> Self {
        let world = SimWorld::new(SimOptions::default());
        let m = open_with(&world, options().max_bytes(STORE_BYTES));
        for name in ["a", "b"] {
            let topic = m
                .store
                .topic_with(name)
                .max_messages(MOST)
                .max_bytes(MOST_BYTES);
            topic.open().unwrap();
            ["x", "y"]
                .iter()
                .for_each(|group| drop(m.group(name, group)));
        }
        Self {
            rng: Rng::new(seed),
            world,
            m: Some(m),
            model: BTreeMap::from([("a", VecDeque::new()), ("b", VecDeque::new())]),
            next: 1,
            sent: 0,
            refused: 0,
        }
    }

    fn bytes(&self, name: Option<&str>) -> u64 {
        let topics = self
            .model
            .iter()
            .filter(|(n, _)| name.is_none_or(|name| **n == name));
        topics
            .flat_map(|(_, all)| all)
            .map(|(_, len, _)| *len)
            .sum()
    }

    fn step(&mut self, when: &str) {
        let name = ["a", "b"][self.rng.index(2)];
        let reader = ["x", "y"][self.rng.index(2)];
        match self.rng.below(16) {
            0..=6 => self.send(name, when),
            7..=11 => self.settle(name, reader),
            12 if self.rng.below(4) == 0 => {
                let topic = self.m.as_ref().unwrap().store.topic(name).unwrap();
                topic.purge().unwrap();
                self.model.get_mut(name).unwrap().clear();
            }
            13 => self.m.as_ref().unwrap().store.maintain().unwrap(),
            14 => self.die(),
            _ => self.m.as_ref().unwrap().store.look(),
        }
        assert_whole(&self.m.as_ref().unwrap().store, when);
    }

    fn send(&mut self, name: &'static str, when: &str) {
        let len = match self.rng.below(6) {
            // In chunks.
            0 => 4_200 + self.rng.below(1_000),
            _ => 40 + self.rng.below(900),
        };
        let count = self.model[name].len() as u64;
        let fits = count < MOST
            && self.bytes(Some(name)) + len <= MOST_BYTES
            && self.bytes(None) + len <= STORE_BYTES;
        let topic = self.m.as_ref().unwrap().store.topic(name).unwrap();
        let sent = topic.send(body(self.next, usize::try_from(len).unwrap()));
        let shown = sent.as_ref().map_err(ToString::to_string);
        assert_eq!(sent.is_ok(), fits, "{when}: {shown:?} of {len} to {name}");
        if fits {
            let all = self.model.get_mut(name).unwrap();
            all.push_back((self.next, len, BTreeSet::new()));
            self.sent += 1;
        } else {
            self.refused += 1;
        }
        self.next += 1;
    }

    fn settle(&mut self, name: &'static str, reader: &'static str) {
        let m = self.m.as_mut().unwrap();
        m.receive(name, reader, 4);
        let all = self.model.get_mut(name).unwrap();
        for delivery in m.held.drain(..) {
            let id = id_of(delivery.body());
            if self.rng.below(4) == 0 {
                continue;
            }
            if self.rng.below(5) == 0 {
                delivery.reject("no good").unwrap();
            } else {
                delivery.ack().unwrap();
            }
            let of = all.iter_mut().find(|(known, ..)| *known == id);
            of.unwrap().2.insert(reader);
        }
        while all
            .front()
            .is_some_and(|(_, _, settled)| settled.len() == 2)
        {
            all.pop_front();
        }
    }

    fn die(&mut self) {
        let m = self.m.take().unwrap();
        m.store.flush(None).unwrap();
        match self.rng.below(4) {
            0 => m.leaves(),
            1 => {
                m.leaves();
                assert!(self.world.remove("ctl"));
            }
            2 => m.dies(),
            _ => {
                m.dies();
                self.world = self.world.power_cut(self.rng.next_u64());
            }
        }
        self.m = Some(open_quick(&self.world));
    }
}
