//! A seeded workload over a simulated machine: two processes used in turn, everything that a
//! store can do, small enough to look at every step and large enough to roll, snapshot and
//! reclaim. Whatever a call tells goes into the [`Ledger`] at once.
#![allow(dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Fate as MemberFate, Rng, SimProcess, SimWorld, run_member};
use keepq::{Code, Delivery, Flush, Group, OutMessage, Outcome, Producer, Store, Topic};

pub use self::full::Counts;
use super::examine::{open_group, options};
use super::oracle::{
    Fate, GROUPS, Ledger, TOPICS, Way, body, number_of, order_key_of, tag_of, wants,
};

mod full;
mod gone;

/// Most deliveries a process holds.
const HELD: usize = 12;

/// What one process has open.
struct Seat {
    store: Store,
    topics: Vec<Topic>,
    groups: Vec<Group>,
    producer: Option<Producer>,
    held: Vec<Held>,
}

struct Held {
    delivery: Delivery,
    group: usize,
    message: usize,
}

/// What a workload does more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taste {
    /// Everything.
    Mixed,
    /// Much is sent, received and acked: segments come and go.
    Flow,
    /// Large bodies, rejects and retries.
    Heavy,
    /// Everything, on a disk that is full now and then.
    Full,
}

/// A workload in progress.
pub struct Workload {
    pub world: SimWorld,
    pub ledger: Rc<RefCell<Ledger>>,
    seats: [Option<(SimProcess, Seat)>; 2],
    rng: Rng,
    taste: Taste,
    /// A hash of every result, to compare two runs of one seed.
    pub trace: u64,
    /// What calls were refused with.
    pub errors: Vec<Code>,
    /// How many acks the log had no room for when the last settlement began.
    unnoted: u64,
    pub counts: Counts,
}

impl Workload {
    pub fn new(world: SimWorld, ledger: Ledger, seed: u64, taste: Taste) -> Self {
        Self {
            world,
            ledger: Rc::new(RefCell::new(ledger)),
            seats: [None, None],
            rng: Rng::new(seed),
            taste,
            trace: 0,
            errors: Vec::new(),
            unnoted: 0,
            counts: Counts::default(),
        }
    }

    /// Makes the asynchronous topic through a store of its own, then opens the synchronous seat.
    pub fn prepare(&mut self) {
        let process = self.world.process();
        let made = Store::open_simulated(&process, options(Flush::Async)).and_then(|store| {
            store.topic(TOPICS[1])?;
            store.close()
        });
        if let Err(e) = made {
            self.note_error(&e);
        }
        process.kill();
        self.open(0);
        self.prepare_for_full();
    }

    /// Makes so many steps.
    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            let watermark = self.world.watermark();
            self.ledger.borrow_mut().reach(watermark);
        }
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(7);
    }

    fn note_error(&mut self, error: &keepq::Error) {
        self.note(u64::from(error.code().number()));
        self.errors.push(error.code());
        let defect = matches!(error.code(), Code::Internal | Code::Corrupt);
        if defect || self.is_worse_than_full(error) {
            let text = format!("an error that no fault explains: {error:?}");
            self.ledger.borrow_mut().problems.push(text);
        }
    }

    fn step(&mut self) {
        let at = self.rng.index(2);
        if self.seats[at].is_none() {
            self.give_room_at_times();
            return self.open(at);
        }
        let weights: [u64; 16] = match self.taste {
            Taste::Mixed => [14, 6, 3, 3, 22, 20, 6, 4, 2, 3, 6, 4, 2, 1, 0, 0],
            Taste::Flow => [16, 5, 0, 3, 26, 30, 0, 0, 1, 3, 10, 2, 1, 0, 0, 0],
            Taste::Heavy => [8, 3, 6, 4, 22, 14, 9, 8, 2, 3, 6, 6, 2, 1, 0, 0],
            Taste::Full => [14, 5, 3, 3, 26, 30, 6, 4, 2, 2, 5, 3, 2, 1, 5, 6],
        };
        let mut draw = self.rng.below(weights.iter().sum());
        let mut op = 0;
        while draw >= weights[op] {
            draw -= weights[op];
            op += 1;
        }
        self.note(op as u64 + 1000);
        match op {
            0 => self.send(at, None),
            1 => self.send_many(at),
            2 => {
                let len = 4_200 + self.rng.index(16_000);
                self.send(at, Some(len));
            }
            3 => self.send_numbered(at),
            4 => self.receive(at),
            5 => self.ack(at),
            6 => self.nack(at),
            7 => self.reject(at),
            8 => self.expire(at),
            9 => self.flush(at),
            10 => self.look(at),
            11 => self.dead_letter(at),
            13 => self.purge(at),
            14 => self.room(),
            15 => self.burn(at),
            _ => self.leave(at),
        }
    }

    fn seat(&mut self, at: usize) -> &mut Seat {
        &mut self.seats[at].as_mut().expect("it is open").1
    }

    fn published(&mut self, at: usize) -> u64 {
        self.seat(at).store.published()
    }

    /// Opens the store at a seat; seat 0 flushes synchronously, seat 1 does not.
    fn open(&mut self, at: usize) {
        let process = self.world.process();
        match open_seat(&process, at) {
            Ok(seat) => {
                self.note(seat.store.recovery().end);
                let report = seat.store.recovery();
                if report.damaged_bytes != 0 {
                    let text = format!("damage at an open: {report:?}");
                    self.ledger.borrow_mut().problems.push(text);
                }
                self.seats[at] = Some((process, seat));
            }
            Err(e) => {
                self.note_error(&e);
                process.kill();
            }
        }
    }

    /// Closes a seat, or kills its process.
    fn leave(&mut self, at: usize) {
        let Some((process, mut seat)) = self.seats[at].take() else {
            return;
        };
        if self.rng.below(2) == 0 {
            seat.held.clear();
            if let Err(e) = seat.store.close() {
                self.note_error(&e);
            }
        } else {
            // Dies at its first kill point; what it owned is dropped without doing anything.
            let end = run_member(MemberFate::dies_at(1), move || {
                let seat = seat;
                seat.store.look();
            });
            assert!(end.is_err(), "a look has kill points");
        }
        process.kill();
    }

    /// Ends every process as SIGKILL does.
    pub fn kill_all(&mut self) {
        for at in 0..self.seats.len() {
            if let Some((process, seat)) = self.seats[at].take() {
                let end = run_member(MemberFate::dies_at(1), move || {
                    let seat = seat;
                    seat.store.look();
                });
                assert!(end.is_err(), "a look has kill points");
                process.kill();
            }
        }
    }

    fn size(&mut self) -> usize {
        match self.rng.below(8) {
            0 => 16,
            1 => 3_000 + self.rng.index(900),
            2 | 3 => 900 + self.rng.index(600),
            _ => 40 + self.rng.index(400),
        }
    }

    fn mode(&mut self) -> Option<Flush> {
        [None, Some(Flush::Sync), Some(Flush::Async)][self.rng.index(3)]
    }

    /// Whether a send in this mode through this seat is durable when it returns.
    fn is_sync(at: usize, flush: Option<Flush>) -> bool {
        flush.map_or(at == 0, |f| f == Flush::Sync)
    }

    fn send(&mut self, at: usize, len: Option<usize>) {
        let topic = self.rng.index(TOPICS.len());
        let len = match len {
            Some(len) => len,
            None => self.size(),
        };
        let flush = self.mode();
        let number = self.ledger.borrow_mut().begin_send(topic, len, None);
        let bytes = body(number, len);
        let message = OutMessage {
            body: &bytes,
            flush,
            key: (number % 3 == 0).then_some("key"),
            tag: tag_of(number),
            order_key: order_key_of(number),
            ..OutMessage::default()
        };
        let result = self.seat(at).topics[topic].clone().send_message(&message);
        self.sent(at, number, Self::is_sync(at, flush), result);
    }

    fn sent(&mut self, at: usize, number: usize, sync: bool, result: keepq::Result<keepq::Sent>) {
        let end = self.published(at);
        match result {
            Ok(sent) => {
                let seq = sent.seq.unwrap_or(u64::MAX);
                self.note(seq ^ sent.id.lsn().rotate_left(32));
                let mut ledger = self.ledger.borrow_mut();
                if sync && !sent.durable {
                    let text = format!("a sync send of {number} returned without being durable");
                    ledger.problems.push(text);
                }
                ledger.sent(number, seq, sent.id.lsn(), sent.durable, end);
            }
            Err(e) => {
                self.note_error(&e);
                if e.outcome() == Some(Outcome::NotStored) {
                    self.ledger.borrow_mut().messages[number].fate = Fate::Refused;
                }
            }
        }
    }

    fn send_many(&mut self, at: usize) {
        let topic = self.rng.index(TOPICS.len());
        let flush = self.mode();
        let count = 2 + self.rng.index(3);
        let lens: Vec<usize> = (0..count).map(|_| self.size()).collect();
        let mut bodies = Vec::new();
        for len in lens {
            let number = self.ledger.borrow_mut().begin_send(topic, len, None);
            bodies.push((number, body(number, len)));
        }
        let messages: Vec<OutMessage<'_>> = bodies
            .iter()
            .map(|(number, body)| OutMessage {
                body,
                flush,
                tag: tag_of(*number),
                order_key: order_key_of(*number),
                ..OutMessage::default()
            })
            .collect();
        let results = self.seat(at).topics[topic].clone().send_many(&messages);
        for ((number, _), result) in bodies.iter().zip(results) {
            self.sent(at, *number, Self::is_sync(at, flush), result);
        }
    }

    fn send_numbered(&mut self, at: usize) {
        let topic = self.rng.index(TOPICS.len());
        if self.seat(at).producer.is_none() {
            match self.seat(at).store.producer("loader") {
                Ok(producer) => self.seat(at).producer = Some(producer),
                Err(e) => return self.note_error(&e),
            }
        }
        let len = self.size();
        let Some(next) = self.seat(at).producer.as_ref().map(Producer::next_seq) else {
            return;
        };
        let next = match next {
            Ok(next) => next,
            Err(e) => {
                // Fenced by the other seat: the name is opened again next time.
                self.seat(at).producer = None;
                self.note(u64::from(e.code().number()));
                return;
            }
        };
        let number = self.ledger.borrow_mut().begin_send(topic, len, Some(next));
        let bytes = body(number, len);
        let message = OutMessage {
            body: &bytes,
            tag: tag_of(number),
            order_key: order_key_of(number),
            ..OutMessage::default()
        };
        let seat = self.seat(at);
        let to = seat.topics[topic].clone();
        let result = match &seat.producer {
            Some(producer) => producer.send(&to, Some(next), &message),
            None => return,
        };
        self.sent(at, number, Self::is_sync(at, None), result);
    }

    fn receive(&mut self, at: usize) {
        let number = self.rng.index(GROUPS.len());
        let room = HELD.saturating_sub(self.seat(at).held.len());
        if room == 0 {
            return self.ack(at);
        }
        let want = 1 + self.rng.index(room.min(5));
        let group = self.seat(at).groups[number].clone();
        self.ledger.borrow_mut().receiving = Some(number);
        let result = group.receive_batch(want, Duration::ZERO);
        let got = match result {
            Ok(got) => got,
            Err(e) => {
                let mut ledger = self.ledger.borrow_mut();
                if !self.is_full(&e) {
                    // What was claimed and could not be read has lost an attempt.
                    let all = 0..ledger.messages.len();
                    ledger.mortal.extend(all.map(|message| (number, message)));
                }
                ledger.receiving = None;
                drop(ledger);
                return self.note_error(&e);
            }
        };
        let watermark = self.world.watermark();
        for delivery in got {
            self.note(delivery.seq() ^ u64::from(delivery.attempt()) << 40);
            let (seq, id) = (delivery.seq(), delivery.id().lsn());
            let (topic, _, _, most) = GROUPS[number];
            let mut ledger = self.ledger.borrow_mut();
            let known = number_of(delivery.body()).filter(|&n| n < ledger.messages.len());
            let Some(message) = known else {
                ledger
                    .problems
                    .push(format!("bytes that nobody sent, at {seq}"));
                continue;
            };
            ledger.seen(message, topic, seq, id);
            ledger.receiving = None;
            if let Some(other) = ledger.overtaken_by(number, message, seq) {
                let text = format!("message {message} overtakes {other} in group {number}");
                ledger.problems.push(text);
            }
            if !wants(number, message) {
                let text = format!("message {message} was to be skipped by group {number}");
                ledger.problems.push(text);
            }
            let early = TOPICS[topic] == "sure" && id >= watermark;
            if early && self.errors.is_empty() {
                let text = format!("message {message} of a sync topic came before it was durable");
                ledger.problems.push(text);
            }
            let settled = |s: &&super::oracle::Settle| s.group == number && s.message == message;
            if let Some(settle) = ledger.settles.iter().find(settled).filter(|s| s.returned) {
                let text = format!("message {message} came again after {settle:?}");
                ledger.problems.push(text);
            }
            if delivery.attempt() >= most {
                ledger.mortal.insert((number, message));
            }
            drop(ledger);
            self.seat(at).held.push(Held {
                delivery,
                group: number,
                message,
            });
        }
        self.ledger.borrow_mut().receiving = None;
    }

    fn take_held(&mut self, at: usize) -> Option<Held> {
        let count = self.seat(at).held.len();
        if count == 0 {
            self.receive_once(at);
            return None;
        }
        let index = self.rng.index(count);
        Some(self.seat(at).held.swap_remove(index))
    }

    fn receive_once(&mut self, at: usize) {
        if self.seat(at).held.is_empty() {
            self.receive(at);
        }
    }

    fn settled(&mut self, at: usize, settle: usize, sync: bool, result: keepq::Result<()>) {
        let end = self.published(at);
        match result {
            Ok(()) if self.is_unnoted(sync) => {
                self.ledger.borrow_mut().settled_without_room(settle);
            }
            Ok(()) => self.ledger.borrow_mut().settled(settle, sync, end),
            Err(e) if e.code() == Code::LeaseLost || self.is_full(&e) => {
                self.note(u64::from(e.code().number()));
                self.ledger.borrow_mut().not_settled(settle);
            }
            Err(e) => self.note_error(&e),
        }
    }

    fn ack(&mut self, at: usize) {
        if self.rng.below(4) == 0 {
            return self.ack_many(at);
        }
        let Some(held) = self.take_held(at) else {
            return;
        };
        let sync = GROUPS[held.group].2 || self.rng.below(4) == 0;
        let flush = if sync { Flush::Sync } else { Flush::Async };
        let settle = self.begin(held.group, held.message, Way::Ack);
        let result = held.delivery.ack_with(flush);
        let is_full = result.as_ref().is_err_and(|e| self.is_full(e));
        self.settled(at, settle, sync, result);
        if is_full {
            self.ack_without_room(at, &held, sync);
        }
    }

    fn begin(&mut self, group: usize, message: usize, way: Way) -> usize {
        self.unnoted = self.count_unnoted();
        self.ledger.borrow_mut().begin_settle(group, message, way)
    }

    fn ack_many(&mut self, at: usize) {
        let number = self.rng.index(GROUPS.len());
        let seat = self.seat(at);
        let (of_group, rest): (Vec<_>, Vec<_>) =
            seat.held.drain(..).partition(|h| h.group == number);
        seat.held = rest;
        let group = seat.groups[number].clone();
        let mut deliveries = Vec::new();
        let mut settles = Vec::new();
        for held in of_group {
            settles.push(self.begin(number, held.message, Way::Ack));
            deliveries.push(held.delivery);
        }
        let results = group.ack_many(deliveries);
        // From the last, so that removing one moves none that is still to come.
        for (settle, result) in settles.into_iter().zip(results).rev() {
            self.settled(at, settle, GROUPS[number].2, result);
        }
    }

    fn nack(&mut self, at: usize) {
        let Some(held) = self.take_held(at) else {
            return;
        };
        let delay = match self.rng.below(3) {
            0 => None,
            1 => Some(Duration::ZERO),
            _ => Some(Duration::from_millis(self.rng.below(5_000))),
        };
        if let Err(e) = held.delivery.nack(delay) {
            self.note(u64::from(e.code().number()));
            if e.code() != Code::LeaseLost {
                self.note_error(&e);
            }
        }
    }

    fn reject(&mut self, at: usize) {
        let Some(held) = self.take_held(at) else {
            return;
        };
        let settle = self.begin(held.group, held.message, Way::Bury);
        let result = held.delivery.reject("no good");
        self.settled(at, settle, GROUPS[held.group].2, result);
    }

    /// Lets leases and back-offs end.
    fn expire(&mut self, at: usize) {
        let ms = [100, 2_000, 40_000][self.rng.index(3)];
        self.world.advance(ms);
        self.seat(at).store.look();
    }

    fn flush(&mut self, at: usize) {
        let end = self.published(at);
        match self.seat(at).store.flush(Some(Duration::from_secs(3))) {
            Ok(true) => {
                let mut ledger = self.ledger.borrow_mut();
                ledger.reach(end);
                ledger.all_noted();
            }
            Ok(false) => self.note(1),
            Err(e) => {
                if self.is_full(&e) {
                    // Everything else is on disk.
                    self.ledger.borrow_mut().reach(end);
                }
                self.note_error(&e);
            }
        }
    }

    fn look(&mut self, at: usize) {
        if self.rng.below(3) != 0 {
            return self.seat(at).store.look();
        }
        if let Err(e) = self.seat(at).store.maintain() {
            self.note_error(&e);
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // What was left open has no part in what is looked at. Kill points do nothing in a panic.
        if std::thread::panicking() {
            std::mem::forget(std::mem::take(&mut self.seats));
        } else {
            self.kill_all();
        }
    }
}

fn open_seat(process: &SimProcess, at: usize) -> keepq::Result<Seat> {
    let flush = if at == 0 { Flush::Sync } else { Flush::Async };
    let store = Store::open_simulated(process, options(flush))?;
    let topics = TOPICS
        .iter()
        .map(|name| store.topic(name))
        .collect::<keepq::Result<Vec<_>>>()?;
    let groups = (0..GROUPS.len())
        .map(|number| open_group(&store, number))
        .collect::<keepq::Result<Vec<_>>>()?;
    Ok(Seat {
        store,
        topics,
        groups,
        producer: None,
        held: Vec::new(),
    })
}
