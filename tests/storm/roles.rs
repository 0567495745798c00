//! What the processes of the storm do until they are killed.

use std::path::Path;
use std::time::Duration;

use keepq::sim::{Rng, set_point_hook};
use keepq::{Backoff, Code, Delivery, Flush, Group, Store};

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

/// Makes the store with its topics and groups.
pub fn create(path: &Path) {
    for (topic, flush) in TOPICS.iter().zip([Flush::Sync, Flush::Async]) {
        let options = Store::options().flush(flush).ring_size(1 << 20);
        let options = options.segment_size(16 << 20).slots(4096);
        let store = options.open(path).unwrap();
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
    let options = Store::options().send_timeout(PATIENCE).create(false);
    let store = options.open(children::arg("STORE")).unwrap();
    note_recovery(Path::new(&children::arg("LEDGER")), &store);
    let worker = Worker { rng, ledger, store };
    match role {
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
            let sent = topic.message(&body).flush(flush).send().unwrap();
            assert_eq!(sent.durable, flush == Flush::Sync);
            self.ledger.confirmed(topic.name(), number, &sent);
        }
    }

    /// Sends everything again that its name has sent before, as a program that starts over does.
    fn send_numbered(self) {
        let name = format!("producer-{}", children::arg("PRODUCER"));
        let producer = self.store.producer(&name).unwrap();
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
            let sent = producer.send(&topic, Some(seq), &message).unwrap();
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
            _ => {
                for delivery in &got {
                    if allow_lost(delivery.ack()) {
                        self.ledger.acked(name, delivery);
                    }
                }
            }
        }
    }

    fn flush(self) {
        loop {
            assert!(self.store.flush(Some(PATIENCE)).unwrap());
            let stats = self.store.stats().unwrap();
            assert!(stats.durable <= stats.tail, "{stats:?}");
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
