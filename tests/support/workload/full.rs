//! A workload on a disk that is full now and then: others take its room and give it back.

use keepq::{Code, Flush, Outcome};

use super::super::oracle::Way;
use super::{Held, Taste, Workload};

/// A topic and a group that nobody uses, whose options are changed to use up the reserve.
const ASIDE: (&str, &str) = ("aside", "settings");
/// Bytes that others leave: nothing, an index, a segment, several, nearly a reserve, more.
const LEFT: [u64; 7] = [
    0,
    8 << 10,
    24 << 10,
    60 << 10,
    110 << 10,
    190 << 10,
    260 << 10,
];

/// What happened on a full disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Sends that were refused.
    pub refused: u64,
    /// Settlements that were refused.
    pub stuck: u64,
    /// Acks that the log had no room for.
    pub unnoted: u64,
    /// How often others gave room back.
    pub room: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.stuck += other.stuck;
        self.unnoted += other.unnoted;
        self.room += other.room;
    }
}

impl Workload {
    pub(super) fn prepare_for_full(&mut self) {
        if self.taste != Taste::Full {
            return;
        }
        self.ledger.borrow_mut().forgets_attempts = true;
        if self.seats[0].is_none() {
            return;
        }
        let made = self.seat(0).store.group(ASIDE.0, ASIDE.1).open();
        if let Err(e) = made {
            self.note_error(&e);
        }
        // Some never have a reserve to live on.
        if self.rng.below(2) == 0 {
            self.world.leave_room(Some(100 << 10));
        }
    }

    /// Whether an error says more than that the disk is full, and nothing else explains it.
    pub(super) fn is_worse_than_full(&mut self, error: &keepq::Error) -> bool {
        if self.taste != Taste::Full {
            return false;
        }
        let known = matches!(
            error.code(),
            Code::Full | Code::LeaseLost | Code::ProducerFenced
        );
        self.counts.refused += u64::from(error.outcome() == Some(Outcome::NotStored));
        !known || error.outcome().is_some_and(|o| o != Outcome::NotStored)
    }

    /// Whether a call was refused because the disk is full, so that nothing came of it. (A limit on
    /// the size of files has the same code, and may strike after the append.)
    pub(super) fn is_full(&self, error: &keepq::Error) -> bool {
        self.taste == Taste::Full && error.code() == Code::Full
    }

    fn problem(&self, text: String) {
        self.ledger.borrow_mut().problems.push(text);
    }

    pub(super) fn count_unnoted(&self) -> u64 {
        let seat = self.seats.iter().flatten().next();
        seat.map_or(0, |(_, seat)| seat.store.unnoted_acks())
    }

    /// Whether the settlement that just returned found no room in the log.
    pub(super) fn is_unnoted(&mut self, sync: bool) -> bool {
        let is = self.count_unnoted() > self.unnoted;
        self.counts.unnoted += u64::from(is);
        if is && sync {
            self.problem("an ack that is to be durable returned without room for it".to_owned());
        }
        is
    }

    /// A settlement that the disk had no room for was not made, and needs none when it is not to
    /// be durable.
    pub(super) fn ack_without_room(&mut self, at: usize, held: &Held, sync: bool) {
        self.counts.stuck += 1;
        if !sync {
            self.problem("an ack that need not be durable found no room".to_owned());
        }
        if self.rng.below(3) == 0 {
            // Put back by its drop.
            return;
        }
        let settle = self.begin(held.group, held.message, Way::Ack);
        let result = held.delivery.ack_with(Flush::Async);
        if let Some(e) = result.as_ref().err().filter(|e| e.code() == Code::Full) {
            self.problem(format!(
                "an ack that need not be durable found no room: {e}"
            ));
        }
        self.settled(at, settle, false, result);
    }

    /// Others take or give room.
    pub(super) fn room(&mut self) {
        if self.world.has_an_end() && self.rng.below(3) == 0 {
            return self.give_room();
        }
        let left = LEFT[self.rng.index(LEFT.len())];
        self.world.leave_room(Some(left));
    }

    /// Who cannot open the store for want of room gets some.
    pub(super) fn give_room_at_times(&mut self) {
        if self.taste == Taste::Full && self.world.has_an_end() && self.rng.below(2) == 0 {
            self.world.leave_room(None);
        }
    }

    /// All the room there can be: everybody goes on with what he has open.
    fn give_room(&mut self) {
        self.world.leave_room(None);
        self.counts.room += 1;
        for at in 0..self.seats.len() {
            if self.seats[at].is_none() {
                continue;
            }
            self.seat(at).store.look();
            let errors = self.errors.len();
            self.send(at, Some(300));
            if self.errors.len() > errors {
                let code = self.errors[errors];
                self.problem(format!("a send with all the room there is: {code:?}"));
            }
            self.flush(at);
            let left = self.count_unnoted();
            if self.errors.len() > errors || left > 0 {
                let codes = self.errors[errors..].to_vec();
                self.problem(format!(
                    "a flush with all the room there is: {codes:?}, {left} acks are left out"
                ));
            }
        }
    }

    /// Uses up what is kept for settlements, which changes of options may use too.
    pub(super) fn burn(&mut self, at: usize) {
        if !self.world.has_an_end() {
            return self.look(at);
        }
        let group = match self.seat(at).store.group(ASIDE.0, ASIDE.1).open() {
            Ok(group) => group,
            Err(e) => return self.note_error(&e),
        };
        for _ in 0..1 + self.rng.below(30) {
            let first = self.rng.below(1 << 20);
            let tags = (0..16).map(|i| format!("{:0>220}", first + i));
            if let Err(e) = group.configure().tags(tags).apply() {
                return self.note_error(&e);
            }
        }
    }
}
