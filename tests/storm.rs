//! Promises P1 to P4 and P7 under real SIGKILLs: whatever is killed, whenever, nothing confirmed
//! is lost, nothing acked comes again, and the others go on.
//!
//! Two to six processes send, consume and flush while they are killed: from outside at random
//! moments, and from inside at counted points of the engine, so that many die in the middle of a
//! change of shared memory. Each writes what it is about to do and what it was told into a ledger
//! outside of the store, one `O_APPEND` write a line. From time to time all are killed at once,
//! and shared memory is kept, damaged (so that it must be rebuilt from the log and the ring), or,
//! once everything was flushed, deleted. In the end the store is drained and the ledger checked.
//!
//! `KEEPQ_STORM_SEED` and `KEEPQ_STORM_KILLS` change the run.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub
)]

#[path = "children/mod.rs"]
mod children;
#[path = "storm/ledger.rs"]
mod ledger;
#[path = "storm/roles.rs"]
mod roles;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use children::{Child, Event, Place, Start, Watchdog};
use keepq::sim::Rng;
use keepq::{Flush, Store};
use roles::{GROUPS, TOPICS};

const TEST: &str = "nothing_confirmed_is_lost_in_a_storm_of_kills";
const TEST_FULL: &str = "nothing_is_lost_on_a_disk_that_is_full_now_and_then";
/// What the children do; on a disk that is full now and then some more flush and configure.
const ROLES_FULL: [&str; 12] = [
    "send_sync",
    "send_async",
    "send_mixed",
    "numbered",
    "consume",
    "consume",
    "consume_batch",
    "flush",
    "flush",
    "configure",
    "configure",
    "configure",
];
const ROLES: &[&str] = ROLES_FULL.split_at(8).0;

/// What becomes of shared memory while everybody is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Keep,
    Unfinish,
    Damage,
    FlushAndDelete,
}

struct Storm {
    /// The test whose children these are.
    test: &'static str,
    roles: &'static [&'static str],
    place: Place,
    /// A file that makes the disk full while it is there.
    full: Option<PathBuf>,
    rng: Rng,
    living: Vec<Option<Child>>,
    /// Which of all children each of the living is: events of earlier ones may come late.
    serials: Vec<usize>,
    started: usize,
    sender: Sender<(usize, Event)>,
    events: Receiver<(usize, Event)>,
    kills: u64,
    by_themselves: u64,
    wiped_out: u64,
    betweens: [u64; 4],
    /// The incarnation of the shared memory that was spoiled last: the store stays cold until a
    /// process has built another.
    spoiled: u64,
}

#[test]
fn nothing_confirmed_is_lost_in_a_storm_of_kills() {
    if let Some(role) = children::role() {
        roles::run(&role);
    }
    let (seed, kills) = (
        number("KEEPQ_STORM_SEED", 1),
        number("KEEPQ_STORM_KILLS", 500),
    );
    let mut storm = Storm::new(TEST, ROLES, seed, None);
    let counts = storm.rage(seed, kills);
    assert!(
        counts.confirmed > kills && counts.acked > kills,
        "too little happened"
    );
}

#[test]
fn nothing_is_lost_on_a_disk_that_is_full_now_and_then() {
    if let Some(role) = children::role() {
        roles::run(&role);
    }
    let (seed, kills) = (
        number("KEEPQ_STORM_SEED", 1),
        number("KEEPQ_STORM_KILLS", 500) / 5,
    );
    let mark = Place::new("storm-full");
    let mut storm = Storm::new(TEST_FULL, &ROLES_FULL, seed, Some(mark.file("full")));
    let counts = storm.rage(seed, kills);
    assert!(
        counts.confirmed > kills && counts.acked > kills,
        "too little happened"
    );
    assert!(
        counts.refused > 0 && counts.went_on > 0 && counts.left_out > 0,
        "the disk was never full, or never beyond the reserve"
    );
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

impl Storm {
    fn new(
        test: &'static str,
        roles: &'static [&'static str],
        seed: u64,
        full: Option<PathBuf>,
    ) -> Self {
        let (sender, events) = channel();
        Self {
            test,
            roles,
            place: Place::new(if full.is_some() {
                "storm-of-full"
            } else {
                "storm"
            }),
            full,
            rng: Rng::new(seed),
            living: Vec::new(),
            serials: Vec::new(),
            started: 0,
            sender,
            events,
            kills: 0,
            by_themselves: 0,
            wiped_out: 0,
            betweens: [0; 4],
            spoiled: 0,
        }
    }

    /// Kills so many, drains the store and checks the ledger.
    fn rage(&mut self, seed: u64, kills: u64) -> ledger::Counts {
        let _watchdog = Watchdog::new("the storm", Duration::from_secs(240 + kills));
        let begun = Instant::now();
        roles::create(&self.place.store(), self.full.is_some());
        // However slow the machine is, it goes on until enough has happened.
        while self.kills < kills || self.by_themselves <= kills / 20 || !self.is_lively(kills) {
            self.populate();
            let most = if self.full.is_some() { 20 } else { 50 };
            let all_at_once = self.kills + self.rng.below(most) + 1;
            while self.kills < all_at_once {
                self.take_or_give_room();
                self.step();
            }
            self.wipe_out();
        }
        eprintln!(
            "seed {seed}: {} kills, {} at a counted point, {} times everybody ({:?} of {:?}); {:?}",
            self.kills,
            self.by_themselves,
            self.wiped_out,
            self.betweens,
            ["kept", "unfinished", "damaged", "deleted"],
            begun.elapsed()
        );
        self.give_room();
        self.drain();
        let counts = ledger::check(&self.place.file("ledger"));
        eprintln!("{counts:?}; {:?}", begun.elapsed());
        counts
    }

    /// Others fill the disk, or give room back.
    fn take_or_give_room(&mut self) {
        let Some(mark) = &self.full else { return };
        match self.rng.below(6) {
            0 => self.give_room(),
            1..=3 => std::fs::write(mark, "").unwrap(),
            _ => {}
        }
    }

    fn give_room(&self) {
        if let Some(mark) = &self.full {
            let _ = std::fs::remove_file(mark);
        }
    }

    /// Starts two to six processes, one consumer and one sender among them at least.
    fn populate(&mut self) {
        let least = if self.full.is_some() { 5 } else { 2 };
        let many = least + self.rng.index(5);
        self.living = (0..many).map(|_| None).collect();
        self.serials = vec![0; many];
        for i in 0..many {
            let role = match i {
                0 => self.roles[self.rng.index(3)],
                1 => self.roles[4 + self.rng.index(3)],
                2 | 3 if self.full.is_some() => ["configure", "flush"][i - 2],
                _ => self.roles[self.rng.index(self.roles.len())],
            };
            self.spawn(i, role);
        }
    }

    fn spawn(&mut self, index: usize, role: &str) {
        // Half of them die by themselves, at a point of the engine that a number decides.
        let most = 1 << (4 + self.rng.below(14));
        let points = if self.rng.below(2) == 0 {
            1 + self.rng.below(most)
        } else {
            0
        };
        let full = self.full.as_deref().map(Path::display);
        let full = full.map_or_else(String::new, |full| full.to_string());
        let vars = [
            ("SEED", self.rng.next_u64().to_string()),
            ("POINTS", points.to_string()),
            ("NUMBER", (self.kills * 8 + index as u64).to_string()),
            ("PRODUCER", index.to_string()),
            ("STORE", self.place.store().display().to_string()),
            ("LEDGER", self.place.file("ledger").display().to_string()),
            ("FULL", full),
        ];
        let start = Start {
            test: self.test,
            role,
            vars: &vars,
            through: &[],
        };
        self.started += 1;
        self.serials[index] = self.started;
        self.living[index] = Some(Child::start_numbered(&start, self.started, &self.sender));
    }

    /// Which of the living this event is about.
    fn index_of(&self, serial: usize) -> Option<usize> {
        self.serials.iter().position(|&s| s == serial)
    }

    /// Whether more was confirmed and more acked than killed so far.
    fn is_lively(&self, kills: u64) -> bool {
        let lines = ["C ", "A ", "R ", "U "];
        let [confirmed, acked, refused, left_out] =
            ledger::count(&self.place.file("ledger"), lines);
        let full = self.full.is_none() || refused > kills && left_out > 0;
        confirmed > kills && acked > kills && full
    }

    /// Waits a random time for somebody to die by himself; if none does, kills one.
    fn step(&mut self) {
        // Where processes take long to come to anything, they get more time.
        let late = self.by_themselves * 20 <= self.kills;
        let most = if late { 2_000 } else { 150 };
        let pause = Duration::from_millis(10 + self.rng.below(most));
        match self.events.recv_timeout(pause) {
            Ok((serial, Event::End)) => {
                let index = self.index_of(serial);
                if let Some(index) = index.filter(|&index| self.reap(index)) {
                    self.by_themselves += 1;
                    let role = self.roles[self.rng.index(self.roles.len())];
                    self.spawn(index, role);
                }
            }
            Ok((_, Event::Line(line))) => panic!("a child failed: {line}"),
            Err(RecvTimeoutError::Timeout) => {
                let index = self.rng.index(self.living.len());
                self.kill(index);
                let role = self.roles[self.rng.index(self.roles.len())];
                self.spawn(index, role);
            }
            Err(RecvTimeoutError::Disconnected) => panic!("the channel is ours"),
        }
    }

    /// Takes note of a child whose output ended. False: it was reaped before.
    fn reap(&mut self, index: usize) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let Some(mut child) = self.living[index].take() else {
            return false;
        };
        let status = child.wait();
        assert_eq!(status.signal(), Some(9), "{} ended: {status}", child.role);
        self.kills += 1;
        true
    }

    /// Kills a child and waits for the end of its output.
    fn kill(&mut self, index: usize) {
        let Some(child) = &self.living[index] else {
            return;
        };
        child.signal(children::Signal::KILL);
        loop {
            let (who, event) = self.events.recv_timeout(children::PATIENCE).unwrap();
            match event {
                Event::Line(line) => panic!("a child failed: {line}"),
                Event::End if who == self.serials[index] => break,
                Event::End => {
                    let died = self.index_of(who);
                    if died.is_some_and(|died| self.reap(died)) {
                        self.by_themselves += 1;
                    }
                }
            }
        }
        self.reap(index);
        for other in 0..self.living.len() {
            if self.living[other].is_none() && other != index {
                let role = self.roles[self.rng.index(self.roles.len())];
                self.spawn(other, role);
            }
        }
    }

    /// Kills all at once and does something to what they leave.
    fn wipe_out(&mut self) {
        for child in self.living.iter().flatten() {
            child.signal(children::Signal::KILL);
        }
        for index in 0..self.living.len() {
            self.reap(index);
        }
        self.wiped_out += 1;
        let path = self.place.store();
        let ctl = path.join("ctl");
        // They may all have died before one of them had built shared memory anew.
        let whole = self.is_whole(&ctl);
        let between = match self.rng.below(5) {
            0 | 1 => Between::Keep,
            2 => Between::Unfinish,
            3 => Between::Damage,
            _ => Between::FlushAndDelete,
        };
        self.betweens[between as usize] += 1;
        if between == Between::FlushAndDelete || self.rng.below(2) == 0 {
            self.give_room();
        }
        let spoils = matches!(between, Between::Unfinish | Between::Damage);
        if whole && spoils && self.full.is_some() {
            ledger::Ledger::open(&self.place.file("ledger")).spoiled();
        }
        if whole && between != Between::Keep {
            self.spoiled = word(&ctl, roles::W_INCARNATION);
        }
        match between {
            Between::Keep => {}
            _ if !whole => {}
            Between::Unfinish => overwrite(&ctl, roles::W_READY, |_| 0),
            Between::Damage => self.damage(&ctl),
            Between::FlushAndDelete => {
                let store = Store::open(&path).unwrap();
                assert_eq!(store.recovery().warm, whole, "{:?}", store.recovery());
                assert!(store.flush(Some(children::PATIENCE)).unwrap());
                store.close().unwrap();
                std::fs::remove_file(&ctl).unwrap();
            }
        }
        if self.rng.below(2) == 0 {
            let store = Store::open(&path).unwrap();
            roles::note_recovery(&self.place.file("ledger"), &store);
            let report = store.recovery();
            assert_eq!(
                report.warm,
                between == Between::Keep && whole,
                "{between:?}: {report:?}"
            );
        }
    }

    /// Whether there is shared memory that a process has built to the end and nobody spoiled since.
    fn is_whole(&self, ctl: &Path) -> bool {
        ctl.exists()
            && word(ctl, roles::W_READY) == 1
            && word(ctl, roles::W_INCARNATION) != self.spoiled
    }

    /// Flips one bit in the table of outstanding messages, which lies before the ring.
    fn damage(&mut self, ctl: &Path) {
        let place = word(ctl, roles::W_RING_AT) - 8 * (1 + self.rng.below(4096));
        let bit = 1 << self.rng.below(64);
        overwrite(ctl, usize::try_from(place).unwrap(), |word| word ^ bit);
    }

    /// Consumes everything that is left, in this process, and sees that it stays consumed.
    fn drain(&self) {
        let path = self.place.store();
        let store = Store::options()
            .send_timeout(children::PATIENCE)
            .open(&path)
            .unwrap();
        let ledger = ledger::Ledger::open(&self.place.file("ledger"));
        for topic in TOPICS {
            for name in GROUPS {
                let group = roles::group(&store, topic, name);
                let mut until = Instant::now() + 2 * children::PATIENCE;
                loop {
                    let got = group
                        .receive_batch(256, Duration::from_millis(500))
                        .unwrap();
                    if !got.is_empty() {
                        until = Instant::now() + 2 * children::PATIENCE;
                    }
                    for delivery in &got {
                        ledger.delivered(name, delivery);
                        if roles::allow_lost(delivery.ack()) {
                            ledger.acked(name, delivery);
                        }
                    }
                    let stats = group.stats().unwrap();
                    // `ready` counts sequences, also those that a rebuild left out.
                    if got.is_empty() && stats.in_flight + stats.delayed == 0 {
                        assert_eq!(stats.dead, 0, "{stats:?}");
                        break;
                    }
                    assert!(Instant::now() < until, "does not drain: {stats:?}");
                }
            }
        }
        let report = store.verify().unwrap();
        assert!(report.is_ok(), "{report:?}");
        assert!(store.flush(Some(children::PATIENCE)).unwrap());
        store.close().unwrap();
        for delete in [false, true] {
            if delete {
                std::fs::remove_file(path.join("ctl")).unwrap();
            }
            let store = Store::options().flush(Flush::Sync).open(&path).unwrap();
            for (topic, name) in TOPICS.iter().flat_map(|t| GROUPS.map(|g| (t, g))) {
                let again = roles::group(&store, topic, name)
                    .receive(Duration::ZERO)
                    .unwrap();
                assert!(again.is_none(), "delivered again: {again:?}");
            }
        }
    }
}

/// A word of a file, 0 beyond its end.
fn word(path: &Path, at: usize) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut word = [0; 8];
    let _read = File::open(path)
        .unwrap()
        .read_at(&mut word, at as u64)
        .unwrap();
    u64::from_le_bytes(word)
}

fn overwrite(path: &Path, at: usize, change: impl FnOnce(u64) -> u64) {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(path).unwrap();
    let word = change(word(path, at));
    file.write_all_at(&word.to_le_bytes(), at as u64).unwrap();
}
