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
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("quotas-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Store::options()
            .send_timeout(Duration::from_secs(120))
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
            let delivery = group.receive(Duration::from_secs(120)).unwrap().unwrap();
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
    // Deadlines are whole milliseconds.
    assert!(began.elapsed() >= Duration::from_millis(119));
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

/// A topic with room for one message, which is there.
fn full(world: &SimWorld) -> (Member, Topic) {
    let m = open_with(world, members::options());
    let options = m.store.topic_with("t").max_messages(1);
    let topic = options.when_full(WhenFull::Wait).open().unwrap();
    topic.send(b"first").unwrap();
    (m, topic)
}

#[test]
fn a_send_waits_for_room_as_long_as_it_may_and_for_the_disk_longer() {
    for wait in [0, 150] {
        let world = SimWorld::new(SimOptions::default());
        let (m, topic) = full(&world);
        let wait = Duration::from_millis(wait);
        let message = || topic.message(b"x").room_timeout(wait);
        let producer = m.store.producer("p").unwrap();
        let out = keepq::OutMessage {
            body: b"x",
            room_timeout: Some(wait),
            ..keepq::OutMessage::default()
        };
        let sends: [(&str, &dyn Fn() -> keepq::Result<()>); 5] = [
            ("send", &|| message().send().map(drop)),
            ("async", &|| message().send_async().map(drop)),
            ("one-way", &|| topic.try_send_oneway(&out)),
            ("numbered", &|| producer.send(&topic, None, &out).map(drop)),
            ("numbered one-way", &|| {
                producer.try_send_oneway(&topic, None, &out)
            }),
        ];
        for (name, send) in sends {
            let began = world.boottime_ms();
            let late = send().unwrap_err();
            let told = (late.code(), late.outcome());
            assert_eq!(told, (Code::Timeout, Some(Outcome::NotStored)), "{name}");
            let took = Duration::from_millis(world.boottime_ms() - began);
            // Far below the 3 s that the send may take in all, and no second attempt.
            let most = wait + Duration::from_millis(100);
            assert!((wait..most).contains(&took), "{name}: {took:?}");
        }
        assert_eq!(topic.len().unwrap(), 1);
        assert_eq!(m.store.stats().unwrap().oneway_failed, 0, "it was told");
        m.group("t", "g")
            .receive(Duration::ZERO)
            .unwrap()
            .unwrap()
            .ack()
            .unwrap();
        for (name, send) in sends {
            send().unwrap_or_else(|e| panic!("{name}: {e}"));
            topic.purge().unwrap();
        }
    }
}

#[test]
fn what_waits_in_vain_holds_up_what_is_sent_behind_it() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, members::options());
    let options = m.store.topic_with("t").max_bytes(100);
    let topic = options.when_full(WhenFull::Wait).open().unwrap();
    let bodies = [vec![0; 60], vec![1; 60], vec![2; 30]];
    let message = |body| keepq::OutMessage {
        body,
        room_timeout: Some(Duration::ZERO),
        ..keepq::OutMessage::default()
    };
    let messages: Vec<_> = bodies.iter().map(|body| message(body)).collect();
    let results = topic.send_many(&messages);
    assert!(results[0].as_ref().unwrap().durable);
    for late in &results[1..] {
        let late = late.as_ref().unwrap_err();
        let told = (late.code(), late.outcome());
        assert_eq!(told, (Code::Timeout, Some(Outcome::NotStored)));
    }
    assert_eq!(topic.len().unwrap(), 1);
    topic.send(vec![2; 30]).unwrap();
}
