//! Senders that wait for room are woken, give up in time, and hold up nothing else.
#![allow(clippy::disallowed_methods)] // Real threads wait on a real disk.

use std::path::PathBuf;
use std::time::Instant;

use keepq::Store;

use super::*;

/// A store in a directory of its own, removed when the test is over.
struct Real {
    dir: PathBuf,
    store: Store,
}

impl Real {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("quotas-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Store::options()
            .send_timeout(Duration::from_secs(30))
            .open(&dir)
            .unwrap();
        Self { dir, store }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.store.close();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_sender_that_waits_goes_on_when_there_is_room() {
    let real = Real::new("wait");
    let options = real
        .store
        .topic_with("t")
        .max_messages(10)
        .when_full(WhenFull::Wait);
    let topic = options.open().unwrap();
    let other = Store::open(&real.dir).unwrap();
    let group = other.group("t", "g").open().unwrap();
    let most = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let topic = topic.clone();
                scope.spawn(move || {
                    for number in 0..60 {
                        topic.send(format!("{sender} {number}")).unwrap();
                    }
                })
            })
            .collect();
        let (mut got, mut most) = (0, 0);
        while got < 180 {
            let stats = group.stats().unwrap();
            most = most.max(stats.ready + stats.in_flight + stats.delayed);
            let delivery = group.receive(Duration::from_secs(20)).unwrap().unwrap();
            delivery.ack().unwrap();
            got += 1;
        }
        senders.into_iter().for_each(|s| s.join().unwrap());
        most
    });
    assert!(most <= 10, "{most} at a time");
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
}

#[test]
fn a_wait_ends_with_its_time_a_purge_a_change_or_a_close() {
    let real = Real::new("ends");
    let options = real
        .store
        .topic_with("t")
        .max_messages(1)
        .when_full(WhenFull::Wait);
    let topic = options.open().unwrap();
    topic.send(b"first").unwrap();
    let began = Instant::now();
    let late = topic
        .message(b"x")
        .timeout(Duration::from_millis(120))
        .send()
        .unwrap_err();
    assert_eq!(
        (late.code(), late.outcome()),
        (Code::Timeout, Some(Outcome::NotStored))
    );
    assert!(began.elapsed() >= Duration::from_millis(120));
    let waits = |end: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| topic.send(b"second"));
            std::thread::yield_now();
            end();
            sender.join().unwrap()
        })
    };
    waits(&|| assert_eq!(topic.purge().unwrap(), 1)).unwrap();
    waits(&|| {
        topic.configure().max_messages(2).apply().unwrap();
    })
    .unwrap();
    assert_eq!(topic.len().unwrap(), 2);
    let other = Store::open(&real.dir).unwrap();
    let deleted = waits(&|| other.existing_topic("t").unwrap().delete().unwrap());
    assert_eq!(deleted.unwrap_err().code(), Code::NotFound);
    let options = real
        .store
        .topic_with("t")
        .max_messages(1)
        .when_full(WhenFull::Wait);
    let topic = options.open().unwrap();
    topic.send(b"first").unwrap();
    let closed = std::thread::scope(|scope| {
        let sender = scope.spawn(|| topic.send(b"second"));
        std::thread::yield_now();
        real.store.close().unwrap();
        sender.join().unwrap()
    });
    assert_eq!(closed.unwrap_err().code(), Code::Closed);
}
