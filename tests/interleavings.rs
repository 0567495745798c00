//! Between any two instructions of one call another process makes a whole one, and both keep what
//! they promise.
//!
//! Kills show that what is half done is undone; this shows that what is looked at without a lock is
//! not believed for longer than it holds. Each pair of calls is made once for each kill point of
//! the outer one; a call that meets a lock of the other gives up and has done nothing.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Fate, SimOptions, SimWorld, run_member, set_point_hook};
use keepq::{Code, Delivery, Error, Flush, Group, OutMessage};
use members::{Member, assert_whole, body, drain, id_of, ids, open_with, options};

/// What was promised: numbers of messages.
#[derive(Default)]
struct Ledger {
    sent: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    /// Groups that were made, and what each of them is owed at least.
    made: Vec<(String, BTreeSet<u64>)>,
    next: u64,
}

impl Ledger {
    fn sent(&mut self, id: u64) {
        self.sent.insert(id);
        for (_, owed) in &mut self.made {
            owed.insert(id);
        }
    }

    /// What the group is owed.
    fn owed(&self) -> BTreeSet<u64> {
        let settled = |id: &u64| self.acked.contains(id) || self.rejected.contains(id);
        self.sent
            .iter()
            .copied()
            .filter(|id| !settled(id))
            .collect()
    }
}

/// A process that works in the group.
struct Worker {
    member: Member,
    group: Group,
    held: RefCell<Vec<Delivery>>,
    ledger: Rc<RefCell<Ledger>>,
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Sends until the log has rolled on.
    Roll,
    SendMany,
    Receive,
    Ack,
    NackAndReject,
    /// Receives and acks all that is there.
    Drain,
    MakeGroup,
    Browse,
    Flush,
    Look,
    Maintain,
    /// What is done in a store that has come to rest.
    Rest,
}

const CALLS: [Call; 12] = [
    Call::Roll,
    Call::SendMany,
    Call::Receive,
    Call::Ack,
    Call::NackAndReject,
    Call::Drain,
    Call::MakeGroup,
    Call::Browse,
    Call::Flush,
    Call::Look,
    Call::Maintain,
    Call::Rest,
];

/// Longer than the simulated time that all waits of a round take together.
const LEASE: Duration = Duration::from_secs(86_400);
const LEN: usize = 1000;

impl Worker {
    fn new(world: &SimWorld, ledger: &Rc<RefCell<Ledger>>) -> Self {
        let member = open_with(world, options().flush(Flush::Async));
        let group = member.store.group("t", "g").lease(LEASE);
        Self {
            group: group.open().unwrap(),
            member,
            held: RefCell::default(),
            ledger: Rc::clone(ledger),
        }
    }

    fn make(&self, call: Call) -> Result<(), Error> {
        let store = &self.member.store;
        match call {
            Call::Roll => (0..14).try_for_each(|_| self.send()),
            Call::SendMany => self.send_many(),
            Call::Receive => self.receive(3).map(drop),
            Call::Ack => self.ack(),
            Call::NackAndReject => self.nack_and_reject(),
            Call::Drain => {
                while self.receive(16)? > 0 {
                    self.ack()?;
                }
                Ok(())
            }
            Call::MakeGroup => self.make_group(),
            Call::Browse => self.browse(),
            // Not for ever: the other one may be writing.
            Call::Flush => store.flush(Some(Duration::from_secs(3))).map(drop),
            Call::Look => {
                store.look();
                Ok(())
            }
            Call::Maintain => store.maintain(),
            Call::Rest => store.rest(),
        }
    }

    fn next_id(&self) -> u64 {
        let mut ledger = self.ledger.borrow_mut();
        ledger.next += 1;
        ledger.next
    }

    fn send(&self) -> Result<(), Error> {
        let id = self.next_id();
        self.member.store.topic("t")?.send(body(id, LEN))?;
        self.ledger.borrow_mut().sent(id);
        Ok(())
    }

    fn send_many(&self) -> Result<(), Error> {
        let numbers: Vec<u64> = (0..8).map(|_| self.next_id()).collect();
        let bodies: Vec<Vec<u8>> = numbers.iter().map(|&id| body(id, LEN / 2)).collect();
        let out = |body| OutMessage {
            body,
            ..OutMessage::default()
        };
        let out: Vec<OutMessage<'_>> = bodies.iter().map(|body| out(body.as_slice())).collect();
        let results = self.member.store.topic("t")?.send_many(&out);
        for (id, result) in numbers.into_iter().zip(results) {
            result?;
            self.ledger.borrow_mut().sent(id);
        }
        Ok(())
    }

    fn receive(&self, max: usize) -> Result<usize, Error> {
        let got = self.group.receive_batch(max, Duration::ZERO)?;
        let count = got.len();
        self.held.borrow_mut().extend(got);
        Ok(count)
    }

    /// What is not settled stays in hand: dropped while a lock is stuck, it would be leased on.
    fn ack(&self) -> Result<(), Error> {
        let mut held = self.held.borrow_mut();
        let results = self.group.ack_many(held.iter());
        let mut failure = Ok(());
        let mut results = results.into_iter();
        held.retain(|delivery| match results.next().unwrap() {
            Ok(()) => {
                let id = id_of(delivery.body());
                self.ledger.borrow_mut().acked.insert(id);
                false
            }
            Err(e) => {
                failure = Err(e);
                true
            }
        });
        failure
    }

    fn nack_and_reject(&self) -> Result<(), Error> {
        let mut held = self.held.borrow_mut();
        if let Some(delivery) = held.last() {
            delivery.nack(None)?;
            held.pop();
        }
        if let Some(delivery) = held.last() {
            match delivery.reject("for a test") {
                // Done, and not known to be on disk yet.
                Err(e) if e.code() == Code::FlushTimeout => {}
                rejected => rejected?,
            }
            let id = id_of(delivery.body());
            self.ledger.borrow_mut().rejected.insert(id);
            held.pop();
        }
        Ok(())
    }

    fn make_group(&self) -> Result<(), Error> {
        let name = format!("g{}", self.next_id());
        // It is owed what nobody has settled when it is made, and all that comes afterwards.
        let before = self.ledger.borrow().owed();
        self.member.store.group("t", &name).lease(LEASE).open()?;
        let mut ledger = self.ledger.borrow_mut();
        let owed = ledger.owed().intersection(&before).copied().collect();
        ledger.made.push((name, owed));
        Ok(())
    }

    fn browse(&self) -> Result<(), Error> {
        let owed = self.ledger.borrow().owed();
        let mut seen = BTreeSet::new();
        for message in self.member.store.topic("t")?.browse() {
            seen.insert(id_of(message?.content?.body()));
        }
        let still_owed = self.ledger.borrow().owed();
        let missing: Vec<&u64> = owed
            .intersection(&still_owed)
            .filter(|id| !seen.contains(id))
            .collect();
        assert!(missing.is_empty(), "{missing:?} were not to be seen");
        Ok(())
    }

    fn leaves(self) {
        drop(self.held.take());
        drop(self.group);
        self.member.leaves();
    }
}

/// Two processes, each with messages in hand, and segments that can go.
fn stage(world: &SimWorld, messages: u64) -> (Worker, Worker) {
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let workers = (Worker::new(world, &ledger), Worker::new(world, &ledger));
    let (one, other) = &workers;
    for _ in 0..messages {
        one.send().unwrap();
    }
    for _ in 0..6 {
        one.receive(3).unwrap();
        one.ack().unwrap();
        other.receive(1).unwrap();
        other.ack().unwrap();
    }
    one.member.store.flush(None).unwrap();
    one.member.store.maintain().unwrap();
    one.receive(3).unwrap();
    other.receive(3).unwrap();
    workers
}

/// Whether nothing but a wait that was too long kept a call from its end.
fn only_waited(made: &Result<(), Error>) -> bool {
    let waited = |e: &Error| matches!(e.code(), Code::Busy | Code::Timeout | Code::FlushTimeout);
    made.as_ref().err().is_none_or(waited)
}

/// Makes the inner call at the k-th point of the outer one: whether it came to its end. `None`: the
/// outer one has not so many points.
fn at_point(messages: u64, (outer, inner): (Call, Call), k: u64) -> Option<bool> {
    let when = format!("{inner:?} at point {k} of {outer:?}, {messages} messages");
    let world = SimWorld::new(SimOptions::default());
    let (one, other) = stage(&world, messages);
    let other = Rc::new(other);
    let (points, caller) = (Rc::new(Cell::new(0)), Rc::clone(&other));
    let (passed, ended) = (Rc::clone(&points), Rc::new(Cell::new(false)));
    let whole = Rc::clone(&ended);
    let context = when.clone();
    set_point_hook(Some(Box::new(move || {
        passed.set(passed.get() + 1);
        if passed.get() == k {
            let made = run_member(Fate::lives(), || caller.make(inner)).unwrap();
            assert!(only_waited(&made), "{context}: {made:?}");
            whole.set(made.is_ok());
        }
    })));
    let made = one.make(outer);
    set_point_hook(None);
    // What the inner call waited for in vain has used up the outer one's time.
    assert!(only_waited(&made), "{when}: {made:?}");
    assert_whole(&one.member.store, &when);
    check(&world, one, Rc::into_inner(other).unwrap(), &when);
    (points.get() >= k).then_some(ended.get())
}

/// Compares what is left with what was promised.
fn check(world: &SimWorld, one: Worker, other: Worker, when: &str) {
    let ledger = Rc::clone(&one.ledger);
    one.leaves();
    let Worker { member, .. } = {
        drop(other.held.take());
        other
    };
    for _ in 0..2 {
        member.store.flush(None).unwrap();
        member.store.maintain().unwrap();
    }
    let left = ids(&drain(world, &member.store));
    let of = |topic: &str, group: &str| -> Vec<u64> {
        let key = (topic.to_owned(), group.to_owned());
        left.get(&key).cloned().unwrap_or_default()
    };
    let ledger = ledger.borrow();
    let owed: Vec<u64> = ledger.owed().into_iter().collect();
    assert_eq!(of("t", "g"), owed, "{when}");
    let dead: BTreeSet<u64> = left
        .iter()
        .filter(|((topic, _), _)| topic.starts_with('%'))
        .flat_map(|(_, ids)| ids.iter().copied())
        .collect();
    assert_eq!(dead, ledger.rejected, "{when}");
    for (name, owed) in &ledger.made {
        let got: BTreeSet<u64> = of("t", name).into_iter().collect();
        let missing: Vec<&u64> = owed.difference(&got).collect();
        assert!(missing.is_empty(), "{when}: {name} never got {missing:?}");
    }
}

/// Every call at the points of this one, or at each `step`-th, with another first one each time.
fn run(outer: Call, step: usize) {
    let (mut rounds, mut ended) = (0u32, 0u32);
    for (n, inner) in CALLS.into_iter().enumerate() {
        for (m, messages) in [36, 41].into_iter().enumerate() {
            let first = 1 + (n + m * CALLS.len() / 2) % step;
            for k in (first as u64..).step_by(step) {
                let Some(whole) = at_point(messages, (outer, inner), k) else {
                    break;
                };
                rounds += 1;
                ended += u32::from(whole);
            }
        }
    }
    eprintln!("{outer:?}: {rounds} rounds, in {ended} of which the inner call came to its end");
    assert!(rounds > 100 && ended > rounds / 8, "{ended} of {rounds}");
}

macro_rules! outer {
    ($($name:ident: $call:ident, $step:literal;)*) => { $(
        #[test]
        fn $name() {
            run(Call::$call, $step);
        }
    )* };
}

outer! {
    while_one_sends_and_the_log_rolls_on: Roll, 1;
    while_one_sends_many: SendMany, 2;
    while_one_receives: Receive, 3;
    while_one_acks: Ack, 2;
    while_one_puts_back_and_gives_up: NackAndReject, 1;
    while_one_consumes_all: Drain, 13;
    while_one_makes_a_group: MakeGroup, 1;
    while_one_looks_at_messages: Browse, 1;
    while_one_flushes: Flush, 1;
    while_one_cleans_up: Look, 7;
    while_one_maintains_the_log: Maintain, 1;
    while_one_gives_space_back: Rest, 3;
}
