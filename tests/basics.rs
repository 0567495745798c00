//! The straight way from send to ack, on a real disk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use keepq::{Code, Flush, OutMessage, Store};

/// A directory under target/, removed at the end.
struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_message_is_delivered_until_it_is_acked() {
    let place = Place::new("basics");
    let store = Store::open(&place.0).unwrap();
    let orders = store.topic("orders").unwrap();
    let sent = orders
        .message(b"one")
        .key("k")
        .tag("t")
        .header("h", b"v")
        .send()
        .unwrap();
    assert!(sent.durable && !sent.duplicate);
    assert_eq!(sent.seq, Some(0));
    let group = store.group("orders", "billing").open().unwrap();
    let first = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(first.body(), b"one");
    assert_eq!(
        (first.key(), first.tag(), first.attempt()),
        (Some("k"), Some("t"), 1)
    );
    assert_eq!(
        first.headers().collect::<Vec<_>>(),
        [("h", b"v".as_slice())]
    );
    assert_eq!(first.id(), sent.id);
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    drop(first);
    let second = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(second.attempt(), 2);
    second.ack().unwrap();
    assert_eq!(second.ack().unwrap_err().code(), Code::LeaseLost);
    assert!(group.receive(Duration::from_millis(60)).unwrap().is_none());
}

#[test]
fn everything_is_there_after_closing() {
    let place = Place::new("reopen");
    let store = Store::open(&place.0).unwrap();
    let topic = store.topic("t").unwrap();
    for i in 0..1000u32 {
        topic
            .message(&i.to_le_bytes())
            .flush(Flush::Async)
            .send()
            .unwrap();
    }
    let group = store.group("t", "g").open().unwrap();
    assert!(store.flush(None).unwrap());
    let got = group.receive_batch(100, Duration::ZERO).unwrap();
    assert_eq!(got.len(), 100);
    for (i, r) in group.ack_many(got).into_iter().enumerate() {
        r.unwrap_or_else(|e| panic!("{i}: {e}"));
    }
    store.close().unwrap();
    assert_eq!(topic.send(b"x").unwrap_err().code(), Code::Closed);
    for warm in [true, false] {
        if !warm {
            std::fs::remove_file(place.0.join("ctl")).unwrap();
        }
        let store = Store::open(&place.0).unwrap();
        assert_eq!(store.recovery().warm, warm, "{:?}", store.recovery());
        let group = store.group("t", "g").open().unwrap();
        let got = group.receive_batch(1000, Duration::ZERO).unwrap();
        assert_eq!(got.len(), 192);
        for (i, d) in got.iter().enumerate() {
            assert_eq!(d.body(), u32::try_from(i + 100).unwrap().to_le_bytes());
        }
        drop(got);
        assert!(store.verify().unwrap().is_ok());
        store.close().unwrap();
    }
}

#[test]
fn many_segments_roll_and_are_reclaimed() {
    let place = Place::new("roll");
    let store = Store::options().flush(Flush::Async).open(&place.0).unwrap();
    let topic = store.topic("t").unwrap();
    let group = store.group("t", "g").open().unwrap();
    let body = vec![7u8; 1000];
    for round in 0..60 {
        for _ in 0..1000 {
            topic.send(&body).unwrap();
        }
        let mut n = 0;
        while n < 1000 {
            let got = group.receive_batch(256, Duration::from_secs(5)).unwrap();
            assert!(!got.is_empty(), "round {round}, {n}");
            n += got.len();
            assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        }
    }
    // What is consumed goes in the background, also when nothing is sent any more.
    let begun = Instant::now();
    loop {
        let stats = store.stats().unwrap();
        if stats.segments <= 3 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{stats:?}");
        assert!(group.receive(Duration::from_millis(50)).unwrap().is_none());
    }
    assert!(store.verify().unwrap().is_ok(), "{:?}", store.verify());
}

#[test]
fn a_large_body_goes_in_chunks() {
    let place = Place::new("chunks");
    let store = Store::open(&place.0).unwrap();
    let topic = store.topic("t").unwrap();
    let body: Vec<u8> = (0..16u32 << 20)
        .map(|i| (i.wrapping_mul(2654435761) >> 13).to_le_bytes()[0])
        .collect();
    topic.send(&body).unwrap();
    let e = topic.send(vec![0; (16 << 20) + 1]).unwrap_err();
    assert_eq!(e.code(), Code::LimitExceeded);
    let group = store.group("t", "g").open().unwrap();
    let d = group.receive(Duration::ZERO).unwrap().unwrap();
    assert!(d.body() == body);
    d.ack().unwrap();
}

#[test]
fn cold_recoveries_follow_one_another() {
    let place = Place::new("cold");
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..6u64 {
        let store = Store::open(&place.0).unwrap();
        let report = store.recovery().clone();
        assert_eq!(report.damaged_bytes, 0, "{report:?}");
        assert_eq!(report.cut_bytes, 0, "{report:?}");
        let topic = store.topic("t").unwrap();
        for i in 0..50u64 {
            let body = (round * 1000 + i).to_le_bytes();
            let sent = topic.message(&body).flush(Flush::Async).send().unwrap();
            assert!(expected.insert(sent.seq.unwrap(), body.to_vec()).is_none());
        }
        assert!(store.flush(None).unwrap());
        let found = store.verify().unwrap();
        assert!(
            found.findings.is_empty(),
            "round {round}: {:?}",
            found.findings
        );
        let group = store.group("t", "g").open().unwrap();
        let got = group.receive_batch(20, Duration::from_secs(5)).unwrap();
        assert_eq!(got.len(), 20);
        for delivery in &got {
            assert_eq!(expected.remove(&delivery.seq()).unwrap(), delivery.body());
        }
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        store.close().unwrap();
        std::fs::remove_file(place.0.join("ctl")).unwrap();
    }
    let store = Store::open(&place.0).unwrap();
    let group = store.group("t", "g").open().unwrap();
    while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
        assert_eq!(expected.remove(&delivery.seq()).unwrap(), delivery.body());
        delivery.ack().unwrap();
    }
    assert!(
        expected.is_empty(),
        "{} messages are missing",
        expected.len()
    );
}

#[test]
fn threads_share_a_producer_and_every_message_is_stored() {
    const THREADS: u64 = 4;
    const EACH: u64 = 3_000;
    let place = Place::new("shared-producer");
    let store = Store::options().flush(Flush::Async).open(&place.0).unwrap();
    let (topic, producer) = (store.topic("t").unwrap(), store.producer("p").unwrap());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (topic, producer) = (&topic, &producer);
            scope.spawn(move || {
                for number in 0..EACH {
                    let body = format!("{thread}:{number}");
                    let message = OutMessage {
                        body: body.as_bytes(),
                        ..OutMessage::default()
                    };
                    let sent = producer.send(topic, None, &message).unwrap();
                    assert!(!sent.duplicate, "{body} was not stored");
                }
            });
        }
    });
    assert_eq!(topic.len().unwrap(), THREADS * EACH);
    assert_eq!(producer.next_seq().unwrap(), THREADS * EACH);
    store.close().unwrap();
}

#[test]
fn threads_send_many_by_one_producer_and_every_message_is_stored() {
    const THREADS: u64 = 4;
    const EACH: u64 = 300;
    let place = Place::new("shared-batches");
    let store = Store::options().flush(Flush::Async).open(&place.0).unwrap();
    let (topic, producer) = (store.topic("t").unwrap(), store.producer("p").unwrap());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let long = "k".repeat(256);
                for number in 0..EACH {
                    let message = |body| OutMessage {
                        body,
                        ..OutMessage::default()
                    };
                    let refused = OutMessage {
                        key: Some(&long),
                        ..message(b"never")
                    };
                    // What is refused takes no number: those behind it are sent all the same.
                    let batch = [message(b"a"), refused, message(b"b"), message(b"c")];
                    let sent = producer.send_many(&topic, None, &batch);
                    for (at, result) in sent.iter().enumerate() {
                        match result {
                            Ok(sent) => assert!(!sent.duplicate && at != 1, "{number}, {at}"),
                            Err(e) => assert_eq!((at, e.code()), (1, Code::LimitExceeded), "{e}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(topic.len().unwrap(), 3 * THREADS * EACH);
    assert_eq!(producer.next_seq().unwrap(), 3 * THREADS * EACH);
    let numbers = topic
        .browse()
        .map(|m| m.unwrap().content.unwrap().producer().unwrap().1);
    assert!(numbers.eq(0..3 * THREADS * EACH), "in order, without gaps");
    store.close().unwrap();
}
