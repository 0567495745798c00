//! Whoever waits for something of a topic or group that is deleted is told.
#![allow(clippy::disallowed_methods)] // Real threads wait on a real disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use keepq::{Outcome, Pending};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// A store in a directory of its own, removed when the test is over.
struct Real {
    dir: PathBuf,
    store: Store,
}

impl Real {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("deletion-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let store = patient().open(&dir).unwrap();
        Self { dir, store }
    }
}

/// Longer than anything takes that works, on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// No disk is so slow that it ends a wait.
fn patient() -> keepq::StoreOptions {
    Store::options().send_timeout(PATIENCE)
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.store.close();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs `delete` while a receive waits, and tells what that came to and how soon.
fn while_waiting(real: &Real, delete: impl FnOnce()) -> (Code, Duration) {
    let other = patient().open(&real.dir).unwrap();
    let group = other.group("orders", "billing").open().unwrap();
    std::thread::scope(|scope| {
        let receive = || group.receive(PATIENCE).unwrap_err().code();
        let waiting = scope.spawn(move || {
            let code = receive();
            (code, Instant::now())
        });
        // It arms before it sleeps: nothing tells that from outside, so both orders may come.
        std::thread::yield_now();
        delete();
        let deleted = Instant::now();
        let (code, told) = waiting.join().unwrap();
        (code, told.saturating_duration_since(deleted))
    })
}

#[test]
fn a_receive_that_waits_is_told_soon() {
    for round in 0..10 {
        let real = Real::new("receive");
        let topic = real.store.topic("orders").unwrap();
        let group = real.store.group("orders", "billing").open().unwrap();
        let (code, late) = while_waiting(&real, || match round % 2 {
            0 => topic.delete().unwrap(),
            _ => group.delete().unwrap(),
        });
        assert_eq!(code, Code::NotFound);
        assert!(late < PATIENCE / 4, "{late:?}");
    }
}

#[test]
fn a_readiness_descriptor_tells() {
    let real = Real::new("ready");
    let group = real.store.group("orders", "billing").open().unwrap();
    let ready = group.readiness().unwrap();
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    let other = Store::open(&real.dir).unwrap();
    other.existing_topic("orders").unwrap().delete().unwrap();
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    let time = Timespec::try_from(PATIENCE).unwrap();
    let told = poll(&mut fds, Some(&time)).unwrap();
    assert_eq!(told, 1, "the descriptor becomes readable");
    let told = group.receive(Duration::ZERO).unwrap_err();
    assert_eq!(told.code(), Code::NotFound);
}

/// What may happen to whoever uses a topic that is deleted meanwhile.
fn fine(e: &keepq::Error) {
    let code = e.code();
    assert!(matches!(code, Code::NotFound | Code::LeaseLost), "{e}");
}

/// Sends to a topic of this name, whichever there is.
fn send_on(store: &Store, name: &str, stop: &AtomicBool) {
    let mut pending: Vec<Pending> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let topic = store.topic(name).unwrap();
        for _ in 0..20 {
            match topic.send_async(format!("{name} message")) {
                Ok(one) => pending.push(one),
                Err(e) => {
                    fine(&e);
                    assert_eq!(e.outcome(), Some(Outcome::NotStored));
                    break;
                }
            }
        }
        for one in pending.drain(..) {
            if let Err(e) = one.wait(None) {
                fine(&e);
            }
        }
    }
}

/// Receives and acks what a topic of this name has, whichever there is.
fn receive_on(store: &Store, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let group = match store.group(name, "g").open() {
            Ok(group) => group,
            Err(e) => {
                fine(&e);
                continue;
            }
        };
        loop {
            match group.receive_batch(16, Duration::from_millis(5)) {
                Ok(got) if got.is_empty() => break,
                Ok(got) => {
                    let wanted = format!("{name} message");
                    assert!(got.iter().all(|d| d.body() == wanted.as_bytes()));
                    let acked = group.ack_many(got).into_iter();
                    acked.filter_map(Result::err).for_each(|e| fine(&e));
                }
                Err(e) => {
                    fine(&e);
                    break;
                }
            }
        }
    }
}

/// Sends of one process, consumers of another, and a third that deletes and makes anew: everybody
/// gets results or `NotFound`, and whoever reads a message reads one of his topic.
#[test]
fn topics_come_and_go_under_busy_senders_and_consumers() {
    let real = Real::new("busy");
    let (sends, reads) = (
        patient().open(&real.dir).unwrap(),
        patient().open(&real.dir).unwrap(),
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let (stop, sends, reads) = (&stop, &sends, &reads);
        for name in ["a", "b"] {
            scope.spawn(move || send_on(sends, name, stop));
            scope.spawn(move || receive_on(reads, name, stop));
        }
        for round in 0..60 {
            let topic = real.store.topic(["a", "b"][round % 2]).unwrap();
            match round % 3 {
                0 => drop(topic.purge()),
                _ => topic.delete().unwrap(),
            }
        }
    });
    let report = real.store.verify().unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert_whole(&real.store, "after all");
}

/// Stops the others also when an assertion fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A purge of more messages than one transaction could free, held and new.
#[test]
fn a_purge_of_many_leaves_nothing() {
    const ALL: u64 = 20_000;
    let real = Real::new("many");
    let topic = real.store.topic("orders").unwrap();
    let group = real.store.group("orders", "billing").open().unwrap();
    for number in 0..ALL {
        let body = number.to_string();
        let message = topic.message(body.as_bytes()).flush(Flush::Async);
        message.send().unwrap();
    }
    real.store.flush(None).unwrap();
    let mut held = Vec::new();
    while held.len() < 12_000 {
        held.extend(group.receive_detached(1000, Duration::ZERO).unwrap());
    }
    // Some are put back at once, some later.
    for (i, delivery) in held.drain(..8_000).enumerate() {
        let later = [Duration::ZERO, Duration::from_secs(60)][i % 2];
        delivery.nack(Some(later)).unwrap();
    }
    assert_eq!(topic.purge().unwrap(), ALL);
    let stats = group.stats().unwrap();
    let left = [stats.ready, stats.in_flight, stats.delayed, stats.lag];
    assert_eq!(left, [0; 4]);
    assert_eq!(real.store.stats().unwrap().outstanding, 0);
    assert_eq!(held[0].ack().unwrap_err().code(), Code::LeaseLost);
    drop(held);
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    topic.send(b"new").unwrap();
    assert_eq!(
        group.receive(Duration::ZERO).unwrap().unwrap().body(),
        b"new"
    );
    assert_whole(&real.store, "purged");
}
