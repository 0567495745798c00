//! One store against a simple model of it: what is delivered, in which order, with which attempt,
//! and what the counters say, under restarts with and without shared memory, deaths and the clock.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Backoff, Code, Delivery, OutMessage, Start, Store};
use members::{Member, assert_whole, body, id_of, open};
use proptest::prelude::*;

const TOPICS: [&str; 2] = ["one", "two"];
/// Topic and name of each group, and what it is like.
const GROUPS: [(usize, &str, Like); 6] = [
    (0, "a", Like::Plain),
    (0, "b", Like::Plain),
    (1, "c", Like::Plain),
    (0, "keys", Like::Ordered),
    (1, "tags", Like::Filtered),
    (0, "both", Like::Both),
];

/// Whether a group keeps the order of keys, and whether it wants only messages with some tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Like {
    Plain,
    Ordered,
    Filtered,
    Both,
}

impl Like {
    fn wants(self, id: u64) -> bool {
        let choosy = matches!(self, Self::Filtered | Self::Both);
        !choosy || tag(id).is_some_and(|tag| WANTED.contains(&tag))
    }

    /// What two messages have in common that must not overtake each other.
    fn lane(self, id: u64) -> Option<&'static str> {
        order_key(id).filter(|_| matches!(self, Self::Ordered | Self::Both))
    }
}

const WANTED: [&str; 2] = ["new", "old"];

fn tag(id: u64) -> Option<&'static str> {
    match id % 5 {
        0 | 4 => Some("new"),
        1 => None,
        2 => Some("old"),
        _ => Some("other"),
    }
}

fn order_key(id: u64) -> Option<&'static str> {
    match id % 4 {
        0 | 3 => Some("x"),
        1 => Some("y"),
        _ => None,
    }
}

const LEASE_MS: u64 = 20_000;
const BACKOFF_MS: u64 = 2_000;

/// One step. Indexes are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Send(usize, usize),
    Receive(usize, usize),
    Ack(usize),
    Nack(usize, Option<u64>),
    Extend(usize),
    Wait(u64),
    Look,
    Maintain,
    Purge(usize),
    DeleteTopic(usize),
    DeleteGroup(usize),
    Warm,
    Cold,
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..3000usize).prop_map(|(t, len)| Step::Send(t, len)),
        8 => (0..GROUPS.len(), 1..5usize).prop_map(|(g, n)| Step::Receive(g, n)),
        5 => (0..64usize).prop_map(Step::Ack),
        3 => (0..64usize, prop_oneof![Just(None), Just(Some(0)), Just(Some(5_000))])
            .prop_map(|(i, delay)| Step::Nack(i, delay)),
        1 => (0..64usize).prop_map(Step::Extend),
        2 => prop_oneof![Just(100), Just(3_000), Just(LEASE_MS + 1_000)].prop_map(Step::Wait),
        2 => Just(Step::Look),
        1 => Just(Step::Maintain),
        1 => (0..2usize).prop_map(Step::Purge),
        1 => (0..2usize).prop_map(Step::DeleteTopic),
        1 => (0..3usize).prop_map(Step::DeleteGroup),
        1 => Just(Step::Warm),
        1 => Just(Step::Cold),
        1 => Just(Step::Die),
    ]
}

/// What the model knows of a group.
#[derive(Debug, Default)]
struct Group {
    /// Never delivered, in order.
    new: VecDeque<u64>,
    /// Delivered and not acked: when it may come back at the earliest, and attempts so far.
    open: BTreeMap<u64, (u64, u32)>,
}

struct Machine {
    world: SimWorld,
    member: Option<Member>,
    groups: Vec<Group>,
    /// Deliveries in hand: group, number, delivery, and until when the lease surely lasts.
    held: Vec<(usize, u64, Delivery, u64)>,
    next: u64,
    /// Messages of each topic since it was purged or made.
    sent: [u64; 2],
}

impl Machine {
    fn new() -> Self {
        let world = SimWorld::new(SimOptions::default());
        let member = open(&world);
        let mut machine = Self {
            world,
            member: Some(member),
            groups: GROUPS.iter().map(|_| Group::default()).collect(),
            held: Vec::new(),
            next: 0,
            sent: [0; 2],
        };
        for topic in TOPICS {
            machine.store().topic(topic).unwrap();
        }
        for which in 0..GROUPS.len() {
            machine.group(which);
        }
        machine
    }

    fn store(&self) -> &Store {
        &self.member.as_ref().unwrap().store
    }

    fn group(&mut self, which: usize) -> keepq::Group {
        self.open_group(which, Start::Earliest)
    }

    fn open_group(&mut self, which: usize, start: Start) -> keepq::Group {
        let (topic, name, like) = GROUPS[which];
        let backoff = Backoff {
            first: Duration::from_millis(BACKOFF_MS),
            factor: 1.0,
            jitter: 0.0,
            ..Backoff::default()
        };
        let options = self.store().group(TOPICS[topic], name);
        let options = options
            .lease(Duration::from_millis(LEASE_MS))
            .max_attempts(1000)
            .start(start);
        let mut options = options.backoff(backoff);
        if matches!(like, Like::Ordered | Like::Both) {
            options = options.ordered(true);
        }
        if matches!(like, Like::Filtered | Like::Both) {
            options = options.tags(WANTED);
        }
        options.open().unwrap()
    }

    fn now(&self) -> u64 {
        self.world.boottime_ms()
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Send(topic, len) => self.send(topic, len),
            Step::Receive(which, max) => self.receive(which, max),
            Step::Ack(i) => self.settle(i, &Delivery::ack, None),
            Step::Nack(i, ms) => {
                let delay = ms.map(Duration::from_millis);
                let how = move |d: &Delivery| d.nack(delay);
                self.settle(i, &how, Some(ms.unwrap_or(BACKOFF_MS)));
            }
            Step::Extend(i) => self.extend(i),
            Step::Wait(ms) => self.world.advance(ms),
            Step::Look => self.store().look(),
            Step::Maintain => self.store().maintain().unwrap(),
            Step::Purge(topic) => self.purge(topic),
            Step::DeleteTopic(topic) => self.delete_topic(topic),
            Step::DeleteGroup(which) => self.delete_group(which),
            Step::Warm => self.restart(false),
            Step::Cold => self.restart(true),
            Step::Die => self.die(),
        }
    }

    fn send(&mut self, topic: usize, len: usize) {
        let id = self.next;
        self.next += 1;
        let bytes = body(id, len);
        let message = OutMessage {
            body: &bytes,
            tag: tag(id),
            order_key: order_key(id),
            ..OutMessage::default()
        };
        let to = self.store().topic(TOPICS[topic]).unwrap();
        to.send_message(&message).unwrap();
        self.sent[topic] += 1;
        for (group, like) in self.groups.iter_mut().zip(GROUPS) {
            if like.0 == topic && like.2.wants(id) {
                group.new.push_back(id);
            }
        }
    }

    fn receive(&mut self, which: usize, max: usize) {
        let group = self.group(which);
        let until = self.now() + LEASE_MS;
        for delivery in group.receive_batch(max, Duration::ZERO).unwrap() {
            let id = id_of(delivery.body());
            assert_eq!(
                (delivery.tag(), delivery.order_key()),
                (tag(id), order_key(id))
            );
            self.expect(which, id, delivery.attempt());
            self.held.push((which, id, delivery, until));
        }
    }

    /// Checks one delivery against the model, and enters it.
    fn expect(&mut self, which: usize, id: u64, attempt: u32) {
        let now = self.now();
        let lasting = self
            .held
            .iter()
            .any(|(g, i, _, until)| (*g, *i) == (which, id) && now < *until);
        assert!(
            !lasting,
            "{id} is delivered to group {which} while it is leased"
        );
        let like = GROUPS[which].2;
        assert!(like.wants(id), "{id} was to be skipped by group {which}");
        let group = &mut self.groups[which];
        if let Some(lane) = like.lane(id) {
            let before = group
                .open
                .keys()
                .find(|&&i| i < id && like.lane(i) == Some(lane));
            assert_eq!(
                before, None,
                "{id} overtakes one of its key in group {which}"
            );
        }
        if let Some((not_before, attempts)) = group.open.get_mut(&id) {
            assert!(now >= *not_before, "{id} comes before its time");
            assert_eq!(attempt, *attempts + 1, "the attempt of {id}");
            (*not_before, *attempts) = (0, attempt);
            return;
        }
        // Those that wait behind others of their key let the rest pass.
        let alike = |i: &u64| like.lane(*i) == like.lane(id);
        let first = group.new.iter().position(alike);
        let first = first.and_then(|at| group.new.remove(at));
        assert_eq!(first, Some(id), "group {which}: new messages come in order");
        assert_eq!(attempt, 1, "{id} is new");
        group.open.insert(id, (0, 1));
    }

    fn take(&mut self, i: usize) -> Option<(usize, u64, Delivery, u64)> {
        let n = self.held.len();
        (n > 0).then(|| self.held.swap_remove(i % n))
    }

    fn settle(
        &mut self,
        i: usize,
        how: &dyn Fn(&Delivery) -> keepq::Result<()>,
        back_after: Option<u64>,
    ) {
        let now = self.now();
        let Some((which, id, delivery, until)) = self.take(i) else {
            return;
        };
        match how(&delivery) {
            Ok(()) => match back_after {
                Some(ms) => self.is_back(which, id, now + ms),
                None => drop(self.groups[which].open.remove(&id)),
            },
            Err(e) => {
                assert_eq!(e.code(), Code::LeaseLost, "{e:?}");
                assert!(self.now() >= until, "the lease of {id} ended early");
            }
        }
    }

    fn is_back(&mut self, which: usize, id: u64, not_before: u64) {
        if let Some(message) = self.groups[which].open.get_mut(&id) {
            message.0 = not_before;
        }
    }

    fn extend(&mut self, i: usize) {
        let n = self.held.len();
        if n == 0 {
            return;
        }
        let now = self.now();
        let (_, id, delivery, until) = &mut self.held[i % n];
        match delivery.extend(Duration::from_millis(3 * LEASE_MS)) {
            Ok(()) => *until = now + 3 * LEASE_MS,
            Err(e) => {
                assert_eq!(e.code(), Code::LeaseLost, "{e:?}");
                assert!(now >= *until, "the lease of {id} ended early");
            }
        }
    }

    /// These groups are owed nothing any more; what is held for them is lost.
    fn forget(&mut self, groups: impl Fn(usize) -> bool) {
        let (gone, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(which, ..)| groups(*which));
        self.held = held;
        let gone: Vec<(usize, u64, Delivery, u64)> = gone;
        for (.., delivery, _) in gone {
            let code = delivery.ack().unwrap_err().code();
            assert!(matches!(code, Code::LeaseLost | Code::NotFound), "{code:?}");
        }
        for which in (0..GROUPS.len()).filter(|&which| groups(which)) {
            self.groups[which] = Group::default();
        }
    }

    fn purge(&mut self, topic: usize) {
        let groups = self.groups.iter().zip(GROUPS).filter(|(_, g)| g.0 == topic);
        let owed = groups.flat_map(|(group, _)| group.new.iter().chain(group.open.keys()));
        let owed: std::collections::BTreeSet<u64> = owed.copied().collect();
        let purged = self.store().topic(TOPICS[topic]).unwrap().purge().unwrap();
        // What a filter was still to skip is counted, too.
        let bounds = owed.len() as u64..=self.sent[topic];
        assert!(bounds.contains(&purged), "{purged} of {bounds:?}: {owed:?}");
        self.sent[topic] = 0;
        self.forget(|which| GROUPS[which].0 == topic);
    }

    fn delete_topic(&mut self, topic: usize) {
        self.store().topic(TOPICS[topic]).unwrap().delete().unwrap();
        self.sent[topic] = 0;
        self.forget(|which| GROUPS[which].0 == topic);
        for which in (0..GROUPS.len()).filter(|&which| GROUPS[which].0 == topic) {
            self.group(which);
        }
    }

    /// Made again, it begins with what comes: what is still kept depends on the files.
    fn delete_group(&mut self, which: usize) {
        self.group(which).delete().unwrap();
        self.forget(|other| other == which);
        self.open_group(which, Start::Latest);
    }

    fn restart(&mut self, cold: bool) {
        for (which, id, delivery, _) in std::mem::take(&mut self.held) {
            drop(delivery);
            self.is_back(which, id, 0);
        }
        self.member.take().unwrap().leaves();
        if cold {
            assert!(self.world.remove("ctl"));
        }
        let member = open(&self.world);
        assert_eq!(
            member.store.recovery().warm,
            !cold,
            "{:?}",
            member.store.recovery()
        );
        self.member = Some(member);
    }

    /// The process dies with what it holds; the next one finds it.
    fn die(&mut self) {
        let mut member = self.member.take().unwrap();
        for (which, id, delivery, _) in std::mem::take(&mut self.held) {
            member.held.push(delivery);
            self.is_back(which, id, 0);
        }
        member.dies();
        self.member = Some(open(&self.world));
    }

    fn check(&mut self) {
        assert_whole(self.store(), "after a step");
        let stats = self.store().stats().unwrap();
        for (group, (_, name, _)) in self.groups.iter().zip(GROUPS) {
            let found = stats.groups.iter().find(|g| g.name == name).unwrap();
            let outstanding =
                found.ready - found.lag + found.in_flight + found.delayed + found.parked;
            // A cold open may count new ones as looked at, and gaps as lag.
            let known = group.open.len() as u64;
            assert!(outstanding >= known, "{found:?}: {group:?}");
            assert!(
                outstanding + found.lag >= known + group.new.len() as u64,
                "{found:?}"
            );
        }
    }

    /// At the end everything that is owed comes, and nothing else.
    fn finish(mut self) {
        for which in 0..GROUPS.len() {
            let group = self.group(which);
            for _ in 0..200 {
                let got = group.receive_batch(64, Duration::ZERO).unwrap();
                for d in &got {
                    self.expect(which, id_of(d.body()), d.attempt());
                    self.groups[which].open.remove(&id_of(d.body()));
                }
                assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
                if self.groups[which].open.is_empty() && self.groups[which].new.is_empty() {
                    break;
                }
                self.world.advance(5_000);
            }
            let rest = &self.groups[which];
            assert!(
                rest.open.is_empty() && rest.new.is_empty(),
                "never delivered: {rest:?}"
            );
            assert!(group.receive(Duration::from_secs(100)).unwrap().is_none());
        }
    }
}

fn run(steps: &[Step]) {
    let mut machine = Machine::new();
    for step in steps {
        machine.run(step);
        machine.check();
    }
    machine.finish();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_does_what_its_model_does(steps in prop::collection::vec(step(), 1..50)) {
        run(&steps);
    }
}

#[test]
fn a_lease_that_ends_at_once_comes_back_soon() {
    let mut machine = Machine::new();
    machine.run(&Step::Send(0, 50));
    machine.run(&Step::Receive(0, 1));
    let (_, _, delivery, _) = machine.held.pop().unwrap();
    delivery.extend(Duration::ZERO).unwrap();
    machine.world.advance(100);
    machine.store().look();
    assert_eq!(delivery.ack().unwrap_err().code(), Code::LeaseLost);
    machine.world.advance(BACKOFF_MS + 100);
    machine.run(&Step::Receive(0, 1));
    assert_eq!(machine.held.len(), 1);
}
