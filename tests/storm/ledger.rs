//! The ledger outside of the store: what processes were about to do and what they were told.
//!
//! ```text
//! S topic number                              about to send message `number`
//! C topic number seq id                       the send was confirmed
//! D topic group seq id number attempt ctl     delivered; `ctl` names the life of shared memory
//! A topic group seq                           the ack returned
//! ```
//! On a disk that is full now and then besides:
//! ```text
//! R topic number                              the send was refused, not stored
//! Y topic group seq                           the ack that was to be durable returned
//! G number, F number, U number                about to flush; it returned; it left acks out
//! X                                           shared memory is spoiled, with what it alone knows
//! ```
//! All lines have one length that divides a page: a kill may cut a write off where the kernel goes
//! from one page of a file to the next, and nowhere else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use keepq::{Delivery, Sent};

use crate::roles;

/// Bytes of a line.
const LINE: usize = 128;

pub struct Ledger(File);

impl Ledger {
    pub fn open(path: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        Self(file)
    }

    fn line(&self, line: &str) {
        let whole = format!("{line:<width$}\n", width = LINE - 1);
        assert_eq!(whole.len(), LINE, "{line:?} is too long");
        let written = (&self.0).write(whole.as_bytes()).unwrap();
        assert_eq!(written, whole.len(), "one write a line");
    }

    pub fn sending(&self, topic: &str, number: u64) {
        self.line(&format!("S {topic} {number}"));
    }

    pub fn confirmed(&self, topic: &str, number: u64, sent: &Sent) {
        let seq = sent.seq.unwrap();
        self.line(&format!("C {topic} {number} {seq} {}", sent.id));
    }

    /// Also checks that the body is what was sent.
    pub fn delivered(&self, group: &str, delivery: &Delivery) {
        let number = roles::check_body(delivery.body());
        let receipt = delivery.receipt().to_string();
        let life = receipt.split('-').nth(2).unwrap().to_owned();
        self.line(&format!(
            "D {} {group} {} {} {number} {} {life}",
            delivery.topic(),
            delivery.seq(),
            delivery.id(),
            delivery.attempt(),
        ));
    }

    pub fn acked(&self, group: &str, delivery: &Delivery) {
        self.acked_seq(delivery.topic(), group, delivery.seq());
    }

    pub fn acked_seq(&self, topic: &str, group: &str, seq: u64) {
        self.line(&format!("A {topic} {group} {seq}"));
    }

    pub fn acked_durably(&self, group: &str, delivery: &Delivery) {
        let (topic, seq) = (delivery.topic(), delivery.seq());
        self.line(&format!("Y {topic} {group} {seq}"));
    }

    pub fn refused(&self, topic: &str, number: u64) {
        self.line(&format!("R {topic} {number}"));
    }

    /// What a flush did, by a number of its own: `G`, `F` or `U`.
    pub fn flush(&self, what: char, number: u64) {
        self.line(&format!("{what} {number}"));
    }

    pub fn spoiled(&self) {
        self.line("X");
    }
}

/// How much happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub sends: u64,
    pub confirmed: u64,
    pub deliveries: u64,
    pub acked: u64,
    pub redeliveries: u64,
    /// Sends that were refused, and those of a process that were confirmed after one of its own.
    pub refused: u64,
    pub went_on: u64,
    /// Flushes that left acks out, and acks that went with shared memory.
    pub left_out: u64,
    pub undone: u64,
}

#[derive(Default)]
struct Checked<'a> {
    counts: Counts,
    sent: HashMap<u64, &'a str>,
    confirmed: Vec<(&'a str, u64)>,
    /// What a sequence of a topic holds: message number and id.
    at: HashMap<(&'a str, u64), (u64, &'a str)>,
    /// Where a message number lies.
    seq_of: HashMap<u64, u64>,
    delivered: HashSet<(&'a str, u64)>,
    acked: HashSet<(&'a str, &'a str, u64)>,
    /// Acks in order, which of them a flush has made durable, and where each flush began.
    acks: Vec<(&'a str, &'a str, u64)>,
    flushed: usize,
    flushes: HashMap<u64, usize>,
    refused: HashSet<u64>,
    refused_ones: HashSet<u64>,
    attempts: BTreeMap<(&'a str, &'a str, u64), (&'a str, u64)>,
}

/// How many lines of a ledger begin with each of these.
pub fn count<const N: usize>(path: &Path, beginnings: [&str; N]) -> [u64; N] {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    beginnings.map(|beginning| text.lines().filter(|l| l.starts_with(beginning)).count() as u64)
}

/// Reads the ledger from beginning to end and fails on the first broken promise.
pub fn check(path: &Path) -> Counts {
    let text = std::fs::read_to_string(path).unwrap();
    let mut checked = Checked::default();
    for (at, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.trim_end().split(' ').collect();
        let whole = checked.take(&fields);
        assert!(
            whole.is_some(),
            "line {}: {line:?} is no line of a ledger",
            at + 1
        );
    }
    for (topic, number) in &checked.confirmed {
        for group in roles::GROUPS {
            assert!(
                checked.delivered.contains(&(group, *number)),
                "message {number} of {topic} was confirmed and never delivered to {group}"
            );
        }
    }
    checked.counts
}

impl<'a> Checked<'a> {
    fn take(&mut self, fields: &[&'a str]) -> Option<()> {
        match *fields {
            ["S", topic, number] => {
                self.counts.sends += 1;
                self.sent.insert(number.parse().ok()?, topic);
            }
            ["C", topic, number, seq, id] => {
                let number = number.parse().ok()?;
                self.counts.confirmed += 1;
                self.counts.went_on += u64::from(self.refused_ones.contains(&(number >> 32)));
                self.confirmed.push((topic, number));
                self.place(topic, seq.parse().ok()?, number, id);
            }
            ["D", topic, group, seq, id, number, attempt, life] => {
                let (seq, number) = (seq.parse().ok()?, number.parse().ok()?);
                self.place(topic, seq, number, id);
                self.delivery((topic, group, seq), number, (life, attempt.parse().ok()?));
            }
            ["A" | "Y", topic, group, seq] => {
                let key = (topic, group, seq.parse().ok()?);
                self.counts.acked += 1;
                assert!(
                    self.attempts.contains_key(&key),
                    "acked, never delivered: {key:?}"
                );
                assert!(self.acked.insert(key), "acked twice: {key:?}");
                if fields[0] == "A" {
                    self.acks.push(key);
                }
            }
            _ => return self.take_of_full_disk(fields),
        }
        Some(())
    }

    fn take_of_full_disk(&mut self, fields: &[&'a str]) -> Option<()> {
        match *fields {
            ["R", _, number] => {
                let number = number.parse().ok()?;
                self.counts.refused += 1;
                self.refused.insert(number);
                self.refused_ones.insert(number >> 32);
            }
            ["G", flush] => {
                self.flushes.insert(flush.parse().ok()?, self.acks.len());
            }
            ["F", flush] => {
                let begun = self.flushes.get(&flush.parse().ok()?)?;
                self.flushed = self.flushed.max(*begun);
            }
            ["U", _] => self.counts.left_out += 1,
            ["X"] => {
                // Acks that no flush has passed may be undone.
                for key in self.acks.drain(self.flushed..) {
                    self.acked.remove(&key);
                    self.counts.undone += 1;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// A message lies at one sequence, and a sequence holds one message.
    fn place(&mut self, topic: &'a str, seq: u64, number: u64, id: &'a str) {
        let held = *self.at.entry((topic, seq)).or_insert((number, id));
        assert_eq!(held, (number, id), "{topic} {seq} holds two messages");
        let lies = *self.seq_of.entry(number).or_insert(seq);
        assert_eq!(lies, seq, "message {number} of {topic} is stored twice");
    }

    fn delivery(
        &mut self,
        key: (&'a str, &'a str, u64),
        number: u64,
        (life, attempt): (&'a str, u64),
    ) {
        self.counts.deliveries += 1;
        assert!(
            !self.refused.contains(&number),
            "message {number} was refused and is delivered"
        );
        assert_eq!(
            self.sent.get(&number),
            Some(&key.0),
            "{key:?} was never sent there"
        );
        assert!(
            !self.acked.contains(&key),
            "{key:?} was acked and delivered again"
        );
        self.delivered.insert((key.1, number));
        if let Some((before, last)) = self.attempts.insert(key, (life, attempt)) {
            self.counts.redeliveries += 1;
            // Attempts that no RETRY record noted are forgotten with shared memory.
            assert!(
                before != life || last < attempt,
                "{key:?}: attempt {attempt} after attempt {last}"
            );
        }
    }
}
