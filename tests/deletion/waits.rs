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
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("deletion-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Store::open(&dir).unwrap();
        Self { dir, store }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.store.close();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs `delete` while a receive waits, and tells what that came to and how soon.
fn while_waiting(real: &Real, delete: impl FnOnce()) -> (Code, Duration) {
    let other = Store::open(&real.dir).unwrap();
    let group = other.group("orders", "billing").open().unwrap();
    std::thread::scope(|scope| {
        let receive = || group.receive(Duration::from_secs(30)).unwrap_err().code();
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
        assert!(late < Duration::from_secs(5), "{late:?}");
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
    let time = Timespec::try_from(Duration::from_secs(20)).unwrap();
    let told = poll(&mut fds, Some(&time)).unwrap();
    assert_eq!(told, 1, "the descriptor becomes readable");
    let told = group.receive(Duration::ZERO).unwrap_err();
    assert_eq!(told.code(), Code::NotFound);
}

/// Sends of one process, consumers of another, and a third that deletes and makes anew: everybody
/// gets results or `NotFound`, and whoever reads a message reads one of the topic that he asked for.
#[test]
fn topics_come_and_go_under_busy_senders_and_consumers() {
    let real = Real::new("busy");
    let (sends, reads) = (
        Store::open(&real.dir).unwrap(),
        Store::open(&real.dir).unwrap(),
    );
    let stop = AtomicBool::new(false);
    let fine = |code: Code| matches!(code, Code::NotFound | Code::LeaseLost);
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let mut workers = Vec::new();
        for name in ["a", "b"] {
            let (stop, sends, reads) = (&stop, &sends, &reads);
            workers.push(scope.spawn(move || {
                let mut pending: Vec<Pending> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let topic = sends.topic(name).unwrap();
                    for _ in 0..20 {
                        match topic.send_async(format!("{name} message")) {
                            Ok(one) => pending.push(one),
                            Err(e) => {
                                assert!(fine(e.code()), "{e}");
                                assert_eq!(e.outcome(), Some(Outcome::NotStored));
                                break;
                            }
                        }
                    }
                    for one in pending.drain(..) {
                        if let Err(e) = one.wait(None) {
                            assert!(fine(e.code()), "{e}");
                        }
                    }
                }
            }));
            workers.push(scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let opened = reads.group(name, "g").open();
                    let group = match opened {
                        Ok(group) => group,
                        Err(e) => {
                            assert!(fine(e.code()), "{e}");
                            continue;
                        }
                    };
                    loop {
                        match group.receive_batch(16, Duration::from_millis(5)) {
                            Ok(got) if got.is_empty() => break,
                            Ok(got) => {
                                for d in &got {
                                    assert_eq!(d.body(), format!("{name} message").as_bytes());
                                }
                                for e in group.ack_many(got).into_iter().filter_map(Result::err) {
                                    assert!(fine(e.code()), "{e}");
                                }
                            }
                            Err(e) => {
                                assert!(fine(e.code()), "{e}");
                                break;
                            }
                        }
                    }
                }
            }));
        }
        for round in 0..60 {
            let topic = real.store.topic(["a", "b"][round % 2]).unwrap();
            match round % 3 {
                0 => drop(topic.purge()),
                _ => topic.delete().unwrap(),
            }
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap();
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
