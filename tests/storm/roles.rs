//! What the processes of the storm do until they are killed.

use std::path::Path;
use std::time::Duration;

use keepq::sim::{Rng, full_while_there_is, is_full, set_point_hook};
use keepq::{Backoff, Code, Delivery, Flush, Group, Outcome, Store};

use crate::children::{self, PATIENCE};
use crate::ledger::Ledger;

/// Of the first, only what is durable is delivered.
pub const TOPICS: [&str; 2] = ["surely", "quickly"];
pub const GROUPS: [&str; 2] = ["left", "right"];
/// What processes took detached comes back only when this has passed. Whoever gets no time for so
/// long would write down late what he has received, after those who got it next.
const LEASE: Duration = Duration::from_secs(15);
/// Most messages that one process sends.
const MOST: u64 = 300;

/// Words of the frozen first page of `ctl` (docs/FORMAT.md).
pub const W_READY: usize = 24;
pub const W_INCARNATION: usize = 64;
pub const W_RING_AT: usize = 72;

/// A topic and a group that nobody uses.
pub const ASIDE: (&str, &str) = ("aside", "settings");

/// Makes the store with its topics and groups. One whose disk becomes full is small.
pub fn create(path: &Path, full: bool) {
    for (topic, flush) in TOPICS.iter().zip([Flush::Sync, Flush::Async]) {
        let options = Store::options().flush(flush);
        let store = if full {
            options.sized(256 << 10, 256).open_sized(path).unwrap()
        } else {
            let options = options.ring_size(1 << 20).slots(4096);
            options.segment_size(16 << 20).open(path).unwrap()
        };
        if full {
            store.group(ASIDE.0, ASIDE.1).open().unwrap();
        }
        for name in GROUPS {
            group(&store, topic, name);
        }
    }
}

pub fn group(store: &Store, topic: &str, name: &str) -> Group {
    let backoff = Backoff {
        first: Duration::from_millis(10),
        max: Duration::from_millis(100),
        ..Backoff::default()
    };
    let group = store.group(topic, name).max_attempts(1000).backoff(backoff);
    group.lease(LEASE).open().unwrap()
}

/// A body that follows from its number.
fn body(number: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(number);
    let mut body = number.to_le_bytes().to_vec();
    while body.len() < len {
        body.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    body
}

/// Checks that a body is one that was made here, whole; returns its number.
pub fn check_body(got: &[u8]) -> u64 {
    let number = u64::from_le_bytes(got[..8].try_into().unwrap());
    assert!(
        got == body(number, got.len()),
        "the body of {number} is damaged"
    );
    assert_eq!(
        got.len(),
        len_of(number),
        "the body of {number} has another length"
    );
    number
}

/// Mostly small; a few so large that they go in chunks.
fn len_of(number: u64) -> usize {
    let mut rng = Rng::new(number ^ 0x5eed);
    let len = match rng.below(100) {
        0 => 300_000 + rng.index(300_000),
        1..=9 => rng.index(20_000),
        _ => rng.index(400),
    };
    len.next_multiple_of(8).max(8)
}

/// Runs a role; never returns.
pub fn run(role: &str) -> ! {
    die_at_point(children::number("POINTS"));
    let rng = Rng::new(children::number("SEED"));
    let ledger = Ledger::open(Path::new(&children::arg("LEDGER")));
    let mark = children::arg("FULL");
    let full = !mark.is_empty();
    if full {
        full_while_there_is(mark.into());
    }
    let store = open(Path::new(&children::arg("STORE")), full);
    note_recovery(Path::new(&children::arg("LEDGER")), &store);
    let worker = Worker {
        rng,
        ledger,
        store,
        full,
    };
    match role {
        "configure" => worker.configure(),
        "send_sync" => worker.send(&[Flush::Sync]),
        "send_async" => worker.send(&[Flush::Async]),
        "send_mixed" => worker.send(&[Flush::Sync, Flush::Async]),
        "numbered" => worker.send_numbered(),
        "consume" => worker.consume(1),
        "consume_batch" => worker.consume(40),
        "flush" => worker.flush(),
        other => panic!("there is no role {other}"),
    }
    // Whoever has done his part waits for the end he is here for.
    children::listen();
    std::process::exit(3)
}

/// Opens the store; where it must be rebuilt on a full disk, as soon as there is room.
fn open(path: &Path, full: bool) -> Store {
    loop {
        let mut options = Store::options().send_timeout(PATIENCE).create(false);
        if full {
            options = options.send_retries(0);
        }
        match options.open(path) {
            Err(e) if e.code() == Code::Full && is_full() => pause(),
            opened => return opened.unwrap(),
        }
    }
}

/// Nothing tells when the disk has room again.
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Writes down what opening the store found, to be read when something failed.
pub fn note_recovery(ledger: &Path, store: &Store) {
    let report = store.recovery();
    if !report.joined {
        let notes = ledger.with_file_name("recoveries");
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(notes)
            .unwrap();
        let line = format!("{} {report:?}\n", std::process::id());
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
    assert_eq!(report.damaged_bytes, 0, "{report:?}");
}

/// Kills this process when this thread has passed so many points of the engine.
fn die_at_point(points: u64) {
    if points == 0 {
        return;
    }
    let mut left = points;
    set_point_hook(Some(Box::new(move || {
        left -= 1;
        if left == 0 {
            let me = rustix::process::getpid();
            assert!(me.as_raw_nonzero().get() > 1);
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
        }
    })));
}

struct Worker {
    rng: Rng,
    ledger: Ledger,
    store: Store,
    /// The disk may be full.
    full: bool,
}

impl Worker {
    fn first_number(&self) -> u64 {
        children::number("NUMBER") << 32
    }

    fn send(mut self, flushes: &[Flush]) {
        let topics = TOPICS.map(|name| self.store.topic(name).unwrap());
        for number in self.first_number()..self.first_number() + MOST {
            let topic = &topics[self.rng.index(2)];
            let flush = flushes[self.rng.index(flushes.len())];
            let body = body(number, len_of(number));
            self.ledger.sending(topic.name(), number);
            let sent = topic.message(&body).flush(flush).send();
            let Some(sent) = self.unless_full(sent) else {
                self.ledger.refused(topic.name(), number);
                pause();
                continue;
            };
            assert_eq!(sent.durable, flush == Flush::Sync);
            self.ledger.confirmed(topic.name(), number, &sent);
        }
    }

    /// Sends everything again that its name has sent before, as a program that starts over does.
    fn send_numbered(self) {
        let name = format!("producer-{}", children::arg("PRODUCER"));
        let producer = loop {
            if let Some(producer) = self.unless_full(self.store.producer(&name)) {
                break producer;
            }
            pause();
        };
        let first = (1 << 62) + (children::number("PRODUCER") << 32);
        let next = producer.next_seq().unwrap();
        let topic = self.store.topic(TOPICS[1]).unwrap();
        for seq in next.saturating_sub(3)..next + MOST {
            let body = body(first + seq, len_of(first + seq));
            let message = keepq::OutMessage {
                body: &body,
                flush: (seq % 8 == 0).then_some(Flush::Sync).or(Some(Flush::Async)),
                ..keepq::OutMessage::default()
            };
            self.ledger.sending(topic.name(), first + seq);
            let sent = loop {
                let sent = producer.send(&topic, Some(seq), &message);
                if let Some(sent) = self.unless_full(sent) {
                    break sent;
                }
                pause();
            };
            assert_eq!(
                sent.duplicate,
                seq < next,
                "sequence {seq}, next was {next}"
            );
            // The result of a duplicate may not be known any more.
            if sent.seq.is_some() && sent.id.lsn() != 0 {
                self.ledger.confirmed(topic.name(), first + seq, &sent);
            }
        }
    }

    fn consume(mut self, most: usize) {
        loop {
            let name = GROUPS[self.rng.index(2)];
            let topic = TOPICS[self.rng.index(2)];
            let group = group(&self.store, topic, name);
            let detached = self.rng.below(20) == 0;
            for _ in 0..1 + self.rng.below(20) {
                let max = 1 + self.rng.index(most);
                let timeout = Duration::from_millis(20);
                let got = if detached {
                    group.receive_detached(max, timeout).unwrap()
                } else {
                    group.receive_batch(max, timeout).unwrap()
                };
                for delivery in &got {
                    self.ledger.delivered(name, delivery);
                }
                self.settle(&group, got);
            }
        }
    }

    fn settle(&mut self, group: &Group, got: Vec<Delivery>) {
        let name = group.name();
        match self.rng.below(8) {
            // Settled at once by their drop.
            0 => drop(got),
            1 => {
                for delivery in &got {
                    allow_lost(delivery.nack(Some(Duration::ZERO)));
                }
            }
            2 | 3 => {
                let keys: Vec<(u64, String)> = got
                    .iter()
                    .map(|d| (d.seq(), d.topic().to_owned()))
                    .collect();
                let results = group.ack_many(got);
                for (result, (seq, topic)) in results.into_iter().zip(keys) {
                    if allow_lost(result) {
                        self.ledger.acked_seq(&topic, name, seq);
                    }
                }
            }
            4 => {
                for delivery in &got {
                    if allow_lost(self.store.ack(&delivery.receipt())) {
                        self.ledger.acked(name, delivery);
                    }
                }
            }
            5 if self.full => self.settle_durably(name, &got),
            _ => {
                for delivery in &got {
                    if allow_lost(delivery.ack()) {
                        self.ledger.acked(name, delivery);
                    }
                }
            }
        }
    }

    fn flush(mut self) {
        loop {
            let number = self.rng.next_u64();
            self.ledger.flush('G', number);
            match self.unless_full(self.store.flush(Some(PATIENCE))) {
                Some(flushed) => {
                    assert!(flushed);
                    self.ledger.flush('F', number);
                }
                None => {
                    self.ledger.flush('U', number);
                    pause();
                }
            }
            let stats = self.store.stats().unwrap();
            assert!(stats.durable <= stats.tail, "{stats:?}");
        }
    }
}

impl Worker {
    /// What a call gave, or nothing if the disk has no room for it.
    fn unless_full<T>(&self, result: keepq::Result<T>) -> Option<T> {
        match result {
            Err(e) if self.full && e.code() == Code::Full => {
                assert!(
                    e.outcome().is_none_or(|o| o == Outcome::NotStored),
                    "in doubt: {e}"
                );
                None
            }
            result => Some(result.unwrap()),
        }
    }

    /// Acks that are durable when they return, where there is room for them.
    fn settle_durably(&self, name: &str, got: &[Delivery]) {
        for delivery in got {
            match delivery.ack_with(Flush::Sync) {
                Err(e) if e.code() == Code::Full => {
                    // It still stands, and does not want for room.
                    if allow_lost(delivery.ack()) {
                        self.ledger.acked(name, delivery);
                    }
                }
                result => {
                    if allow_lost(result) {
                        self.ledger.acked_durably(name, delivery);
                    }
                }
            }
        }
    }

    /// Changes options that nobody uses: each change is a record of 4 KiB from what is kept for
    /// settlements.
    fn configure(mut self) {
        let group = loop {
            let opened = self.store.group(ASIDE.0, ASIDE.1).create(false).open();
            if let Some(group) = self.unless_full(opened) {
                break group;
            }
            pause();
        };
        loop {
            let first = self.rng.below(1 << 20);
            let tags = (0..16).map(|i| format!("{:0>240}", first + i));
            let changed = group.configure().tags(tags).apply();
            if self.unless_full(changed).is_none() || !is_full() {
                pause();
            }
        }
    }
}

/// Whether it was done; a lease may end in a process that gets no time.
pub fn allow_lost(result: keepq::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(e) if e.code() == Code::LeaseLost => false,
        Err(e) => panic!("{e}"),
    }
}
