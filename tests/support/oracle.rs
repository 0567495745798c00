//! What must hold after a recovery, told from what calls had returned before it.
//!
//! The [`Ledger`] is kept outside the store while a workload runs: every message with what became
//! of its send, every settlement, and everything that was known to be durable. [`examine`] opens
//! a machine as somebody would after a crash, takes everything out of the store and returns what
//! there was; [`Ledger::judge`] says what contradicts the promises.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

mod again;

pub use super::shape::{
    CHOOSY, GROUPS, ORDERED, TOPICS, WANTED, in_one_lane, order_key_of, tag_of, wants,
};

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has not returned, or nobody knows.
    Trying,
    /// It is not in the log and never will be.
    Refused,
    /// It returned.
    Stored,
    /// A crash took it.
    Lost,
}

/// A message that was sent; its number is its place in the ledger.
#[derive(Clone, Debug)]
pub struct Message {
    pub topic: usize,
    pub len: usize,
    /// Its number at the named producer.
    pub producer: Option<u64>,
    pub fate: Fate,
    /// Sequence and id.
    pub place: Option<(u64, u64)>,
    /// It is durable when the watermark has reached this.
    pub end: u64,
    pub durable: bool,
    order: usize,
}

/// How a message left a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Acked, or acked among the dead letters.
    Ack,
    /// Rejected.
    Bury,
}

/// A settlement that was asked for.
#[derive(Clone, Debug)]
pub struct Settle {
    pub group: usize,
    pub message: usize,
    pub way: Way,
    pub end: u64,
    pub returned: bool,
    pub durable: bool,
    /// The log had no room for it: it is in shared memory until a flush says otherwise.
    pub unnoted: bool,
    order: usize,
}

/// Everything that calls have told.
#[derive(Clone, Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    pub settles: Vec<Settle>,
    /// Messages that had their last attempt in a group: it may bury them.
    pub mortal: BTreeSet<(usize, usize)>,
    /// A group of which a receive has not returned: any message may just have its last attempt.
    pub receiving: Option<usize>,
    /// On a full disk attempts are not noted: what an examination gave up may have some left.
    pub forgets_attempts: bool,
    /// Who was ever seen under a sequence and under an id.
    places: BTreeMap<(usize, u64), usize>,
    ids: BTreeMap<u64, usize>,
    next_order: usize,
    /// What contradicts the promises already while it runs.
    pub problems: Vec<String>,
}

/// One message as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub seq: u64,
    pub id: u64,
    pub len: usize,
}

/// What was in the store.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub live: [BTreeMap<usize, Found>; GROUPS.len()],
    pub dead: [BTreeMap<usize, Found>; GROUPS.len()],
    /// (topic, sequence, id) of messages sent after the recovery.
    pub fresh: Vec<(usize, u64, u64)>,
    /// What the named producer would send next.
    pub producer_next: u64,
    /// Sequence and id that its last sends are answered with when they are made again, by number.
    pub recalled: BTreeMap<u64, (Option<u64>, u64)>,
    pub problems: Vec<String>,
}

/// The bytes of the message with this number: no two are equal, and no part is like another.
pub fn body(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.max(16));
    bytes.extend_from_slice(&(number as u64).to_le_bytes());
    bytes.extend_from_slice(&(len as u64).to_le_bytes());
    let mut x = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    while bytes.len() < len {
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(29) ^ bytes.len() as u64;
        bytes.extend_from_slice(&x.to_le_bytes()[..(len - bytes.len()).min(8)]);
    }
    bytes
}

/// The number of the message whose body this is, if it is one.
pub fn number_of(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 8)?;
        usize::try_from(u64::from_le_bytes(word.try_into().ok()?)).ok()
    };
    let (number, len) = (word(0)?, word(8)?);
    (len == bytes.len() && body(number, len) == bytes).then_some(number)
}

impl Ledger {
    /// A send begins; returns the message's number.
    pub fn begin_send(&mut self, topic: usize, len: usize, producer: Option<u64>) -> usize {
        self.messages.push(Message {
            topic,
            len,
            producer,
            fate: Fate::Trying,
            place: None,
            end: u64::MAX,
            durable: false,
            order: 0,
        });
        self.messages.len() - 1
    }

    fn order(&mut self) -> usize {
        self.next_order += 1;
        self.next_order
    }

    /// A send returned its place. `end`: where the log ended then.
    pub fn sent(&mut self, number: usize, seq: u64, id: u64, durable: bool, end: u64) {
        let order = self.order();
        let message = &mut self.messages[number];
        message.fate = Fate::Stored;
        message.end = message.end.min(end);
        message.durable |= durable;
        message.order = order;
        self.seen(number, message_topic(&self.messages, number), seq, id);
    }

    /// A message was seen under this sequence and id: nobody else ever may be.
    pub fn seen(&mut self, number: usize, topic: usize, seq: u64, id: u64) {
        let by_seq = *self.places.entry((topic, seq)).or_insert(number);
        let by_id = *self.ids.entry(id).or_insert(number);
        if by_seq != number {
            self.problems.push(format!(
                "sequence {seq} of {} was message {by_seq} and is message {number}",
                TOPICS[topic]
            ));
        }
        if by_id != number {
            self.problems.push(format!(
                "id {id:x} was message {by_id} and is message {number}"
            ));
        }
        match self.messages[number].place {
            None => self.messages[number].place = Some((seq, id)),
            Some(place) if place == (seq, id) => {}
            Some(place) => self.problems.push(format!(
                "message {number} was at {place:x?} and is at {:x?}",
                (seq, id)
            )),
        }
    }

    /// A message that an earlier one with the same order key should have held back: that one is
    /// stored and nobody has asked to settle it.
    pub fn overtaken_by(&self, group: usize, number: usize, seq: u64) -> Option<usize> {
        (0..self.messages.len()).find(|&other| {
            let message = &self.messages[other];
            message.topic == GROUPS[group].0
                && message.fate == Fate::Stored
                && message.place.is_some_and(|(at, _)| at < seq)
                && in_one_lane(group, other, number)
                && !self.is_mortal(group, other)
                && self.settles_of(group, other).next().is_none()
        })
    }

    /// A settlement begins; returns its number.
    pub fn begin_settle(&mut self, group: usize, message: usize, way: Way) -> usize {
        self.settles.push(Settle {
            group,
            message,
            way,
            end: u64::MAX,
            returned: false,
            durable: false,
            unnoted: false,
            order: 0,
        });
        self.settles.len() - 1
    }

    /// A settlement returned.
    pub fn settled(&mut self, number: usize, durable: bool, end: u64) {
        let order = self.order();
        let settle = &mut self.settles[number];
        settle.returned = true;
        settle.durable |= durable;
        settle.end = end;
        settle.order = order;
    }

    /// An ack returned that the log had no room for.
    pub fn settled_without_room(&mut self, number: usize) {
        self.settled(number, false, u64::MAX);
        self.settles[number].unnoted = true;
    }

    /// A flush returned: no ack is left out of the log.
    pub fn all_noted(&mut self) {
        for settle in self.settles.iter_mut().filter(|s| s.unnoted) {
            settle.durable = true;
        }
    }

    /// A purge of a topic begins: it settles what each group of it is still owed. What is a dead
    /// letter already stays one.
    pub fn begin_purge(&mut self, topic: usize) -> Vec<usize> {
        let groups = (0..GROUPS.len()).filter(|&g| GROUPS[g].0 == topic);
        let mut owed = Vec::new();
        for group in groups {
            for (number, message) in self.messages.iter().enumerate() {
                let there = !matches!(message.fate, Fate::Refused | Fate::Lost);
                let of_topic = message.topic == topic && there;
                // What an examination found dead may have been given up only by it.
                let buried = |s: &Settle| s.way == Way::Bury && s.returned && s.end != 0;
                if of_topic && !self.settles_of(group, number).any(buried) {
                    owed.push((group, number));
                }
            }
        }
        let begin = |(group, number)| self.begin_settle(group, number, Way::Ack);
        owed.into_iter().map(begin).collect()
    }

    /// A purge returned: it is durable. Of a message that may be a dead letter that is not known.
    pub fn purged(&mut self, settles: &[usize], end: u64) {
        for &settle in settles {
            let Settle { group, message, .. } = self.settles[settle];
            let bury = |s: &Settle| s.way == Way::Bury;
            let perhaps = self.settles_of(group, message).any(bury);
            let durable = !perhaps && !self.is_mortal(group, message);
            // What is not sure does not become so with the watermark.
            self.settled(settle, durable, if durable { end } else { u64::MAX });
        }
    }

    /// A settlement was refused without any effect.
    pub fn not_settled(&mut self, number: usize) {
        self.settles.remove(number);
    }

    /// The watermark has reached `durable`: so have all that end below.
    pub fn reach(&mut self, durable: u64) {
        for message in &mut self.messages {
            message.durable |= message.fate == Fate::Stored && message.end <= durable;
        }
        for settle in &mut self.settles {
            settle.durable |= settle.returned && settle.end <= durable;
        }
    }

    /// Everything that returned counts as safe: the death of processes loses nothing.
    pub fn all_safe(mut self) -> Self {
        self.reach(u64::MAX - 1);
        self.all_noted();
        self
    }

    /// What contradicts the promises in what a recovery left.
    pub fn judge(&self, outcome: &Outcome) -> Vec<String> {
        let mut wrong = self.problems.clone();
        wrong.extend(outcome.problems.iter().cloned());
        for (group, (topic, _, _, _)) in GROUPS.iter().enumerate() {
            for (&number, at) in &outcome.live[group] {
                if !wants(group, number) {
                    wrong.push(format!(
                        "message {number} was to be skipped by group {group}"
                    ));
                }
                self.judge_found(number, *topic, Some(at.seq), at, &mut wrong);
            }
            for (&number, at) in &outcome.dead[group] {
                // Among the dead letters it has another sequence, and its old identity.
                self.judge_found(number, *topic, None, at, &mut wrong);
            }
            for number in 0..self.messages.len() {
                if self.messages[number].topic == *topic && wants(group, number) {
                    self.judge_place(group, number, outcome, &mut wrong);
                }
            }
        }
        self.judge_suffix(outcome, &mut wrong);
        self.judge_fresh(outcome, &mut wrong);
        self.judge_recalled(outcome, &mut wrong);
        wrong
    }

    /// What is delivered was sent, as it was sent.
    fn judge_found(
        &self,
        number: usize,
        topic: usize,
        seq: Option<u64>,
        at: &Found,
        wrong: &mut Vec<String>,
    ) {
        let Some(message) = self.messages.get(number) else {
            wrong.push(format!("message {number} was never sent"));
            return;
        };
        if message.topic != topic || message.len != at.len {
            wrong.push(format!("message {number} is {at:?}, sent as {message:?}"));
        }
        if matches!(message.fate, Fate::Refused | Fate::Lost) {
            wrong.push(format!(
                "message {number} was {:?} and is delivered",
                message.fate
            ));
        }
        let moved = |(was, id)| id != at.id || seq.is_some_and(|seq| seq != was);
        if message.place.is_some_and(moved) {
            wrong.push(format!(
                "message {number} was at {:x?} and is at {at:x?}",
                message.place
            ));
        }
        let taken = seq.and_then(|seq| self.places.get(&(topic, seq)).copied());
        let id_taken = self.ids.get(&at.id).copied();
        if [taken, id_taken]
            .into_iter()
            .flatten()
            .any(|by| by != number)
        {
            wrong.push(format!(
                "message {number} has the place of another: {at:x?}"
            ));
        }
    }

    /// Where a message may be in a group: still to come, among the dead letters, or gone.
    fn judge_place(&self, group: usize, number: usize, outcome: &Outcome, wrong: &mut Vec<String>) {
        let message = &self.messages[number];
        if matches!(message.fate, Fate::Refused | Fate::Lost) {
            return;
        }
        let (mut live, mut dead, mut gone) = (true, false, !message.durable);
        for settle in self.settles_of(group, number) {
            if settle.durable {
                (live, dead, gone) = (false, false, false);
            }
            match settle.way {
                Way::Ack => gone = true,
                Way::Bury => dead = true,
            }
        }
        dead |= live && self.is_mortal(group, number);
        let is_live = outcome.live[group].contains_key(&number);
        let is_dead = outcome.dead[group].contains_key(&number);
        let fine = match (is_live, is_dead) {
            (true, true) => false,
            (true, false) => live,
            (false, true) => dead,
            (false, false) => gone,
        };
        if !fine {
            let settles: Vec<_> = self.settles_of(group, number).collect();
            wrong.push(format!(
                "message {number} in group {}/{}: live {is_live}, dead {is_dead}; {message:?}, \
                 {settles:?}",
                TOPICS[message.topic], GROUPS[group].1
            ));
        }
    }

    fn is_mortal(&self, group: usize, number: usize) -> bool {
        self.mortal.contains(&(group, number)) || self.receiving == Some(group)
    }

    fn settles_of(&self, group: usize, message: usize) -> impl Iterator<Item = &Settle> {
        self.settles
            .iter()
            .filter(move |s| s.group == group && s.message == message)
    }

    /// What a crash takes is a suffix of the log.
    fn judge_suffix(&self, outcome: &Outcome, wrong: &mut Vec<String>) {
        let mut lost = (usize::MAX, String::new());
        let mut kept = (0, String::new());
        let mut note = |is_kept: bool, order: usize, what: String| {
            if is_kept && order > kept.0 {
                kept = (order, what);
            } else if !is_kept && order < lost.0 {
                lost = (order, what);
            }
        };
        for (number, message) in self.messages.iter().enumerate() {
            if message.fate != Fate::Stored {
                continue;
            }
            if self.is_there(number, outcome) {
                note(true, message.order, format!("message {number}"));
            } else if self.is_missing(number, outcome) {
                note(false, message.order, format!("message {number}"));
            }
        }
        for settle in self.settles.iter().filter(|s| s.returned) {
            let text = || format!("{settle:?}");
            if outcome.live[settle.group].contains_key(&settle.message) {
                if !settle.unnoted {
                    note(false, settle.order, text());
                }
            } else if self.is_there(settle.message, outcome) {
                let only = self.settles_of(settle.group, settle.message).count() == 1;
                if only && !self.is_mortal(settle.group, settle.message) {
                    note(true, settle.order, text());
                }
            }
        }
        if lost.0 < kept.0 {
            wrong.push(format!(
                "a hole: {} is lost, {} later is not",
                lost.1, kept.1
            ));
        }
    }

    fn groups_of(&self, number: usize) -> impl Iterator<Item = usize> {
        let topic = self.messages[number].topic;
        (0..GROUPS.len()).filter(move |&g| GROUPS[g].0 == topic && wants(g, number))
    }

    fn is_there(&self, number: usize, outcome: &Outcome) -> bool {
        self.groups_of(number)
            .any(|g| outcome.live[g].contains_key(&number) || outcome.dead[g].contains_key(&number))
    }

    /// Whether some group neither has it nor ever asked to settle it.
    fn is_missing(&self, number: usize, outcome: &Outcome) -> bool {
        self.groups_of(number).any(|g| {
            !outcome.live[g].contains_key(&number)
                && !outcome.dead[g].contains_key(&number)
                && self.settles_of(g, number).next().is_none()
        })
    }

    /// New messages take no place that was ever taken, and the producer's numbers go on.
    fn judge_fresh(&self, outcome: &Outcome, wrong: &mut Vec<String>) {
        for &(topic, seq, id) in &outcome.fresh {
            let known = self.places.get(&(topic, seq));
            if let Some(old) = known {
                wrong.push(format!("a new message has sequence {seq} of message {old}"));
            }
            if let Some(old) = self.ids.get(&id) {
                wrong.push(format!("a new message has id {id:x} of message {old}"));
            }
        }
        let numbers = |f: &dyn Fn(&Message) -> bool| {
            let of = self.messages.iter().filter(|m| f(m));
            of.filter_map(|m| m.producer)
                .map(|n| n + 1)
                .max()
                .unwrap_or(0)
        };
        let least = numbers(&|m| m.durable);
        let most = numbers(&|m| m.fate != Fate::Refused);
        if !(least..=most).contains(&outcome.producer_next) && outcome.problems.is_empty() {
            wrong.push(format!(
                "the producer's next number is {}, not {least} to {most}",
                outcome.producer_next
            ));
        }
    }

    /// Numbers that were sent are answered with what they were answered with first.
    fn judge_recalled(&self, outcome: &Outcome, wrong: &mut Vec<String>) {
        let sent = self.messages.iter().filter(|m| {
            // What a crash took may have been sent again under its number.
            !matches!(m.fate, Fate::Lost | Fate::Refused)
        });
        let numbered = sent.filter_map(|m| Some((m.producer?, m.place?)));
        for (number, (seq, id)) in numbered {
            match outcome.recalled.get(&number) {
                Some(&again) if again != (Some(seq), id) => wrong.push(format!(
                    "number {number} was sequence {seq}, id {id:x}, and is answered with {again:x?}"
                )),
                _ => {}
            }
        }
        for (number, (seq, id)) in &outcome.recalled {
            if seq.is_none() || *id == 0 {
                wrong.push(format!("nothing is known of the send of number {number}"));
            }
        }
    }

    /// Goes on after a recovery: what was found is safe now, what was not is lost for ever.
    pub fn resolve(&mut self, outcome: &Outcome) {
        let mut settles = Vec::new();
        for number in 0..self.messages.len() {
            if matches!(self.messages[number].fate, Fate::Refused | Fate::Lost) {
                continue;
            }
            let there = self.is_there(number, outcome);
            if !there && (self.is_missing(number, outcome) || !self.messages[number].durable) {
                // Settled or not, nothing is left of it that could be told from a loss.
                self.messages[number].fate = Fate::Lost;
                continue;
            }
            self.messages[number].fate = Fate::Stored;
            self.messages[number].durable = true;
            for group in self.groups_of(number).collect::<Vec<_>>() {
                let dead = outcome.dead[group].get(&number);
                let way = match (outcome.live[group].get(&number), dead) {
                    (Some(at), _) => {
                        self.seen(number, self.messages[number].topic, at.seq, at.id);
                        continue;
                    }
                    (None, Some(_)) => Way::Bury,
                    (None, None) => Way::Ack,
                };
                // What only processes died before is still in shared memory alone.
                let unnoted = |s: &Settle| s.unnoted && !s.durable;
                let unnoted = self.settles_of(group, number).any(unnoted);
                let rejected = self.settles_of(group, number).any(|s| s.way == Way::Bury);
                let given_up = self.forgets_attempts && way == Way::Bury && !rejected;
                let sure = !unnoted && !given_up;
                settles.push(Settle {
                    group,
                    message: number,
                    way,
                    end: if sure { 0 } else { u64::MAX },
                    returned: !given_up,
                    durable: sure,
                    unnoted,
                    order: 0,
                });
            }
        }
        self.settles = settles;
        for message in &mut self.messages {
            message.order = 0;
        }
        if let Some(group) = self.receiving.take() {
            self.mortal
                .extend((0..self.messages.len()).map(|number| (group, number)));
        }
    }
}

fn message_topic(messages: &[Message], number: usize) -> usize {
    messages[number].topic
}
