//! Every documented limit, at the limit and one past it: at it everything works from send to
//! ack, past it the call is refused, says what was given and what is allowed, and changes nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "children/mod.rs"]
mod children;

use std::time::Duration;

use children::Place;
use keepq::{Backoff, Code, Error, Group, OutMessage, Outcome, Store, Topic, limits};

struct Open {
    store: Store,
    topic: Topic,
    group: Group,
    _place: Place,
}

fn open(name: &str) -> Open {
    let place = Place::new(name);
    let store = Store::open(place.store()).unwrap();
    Open {
        topic: store.topic("t").unwrap(),
        group: store.group("t", "g").open().unwrap(),
        store,
        _place: place,
    }
}

impl Open {
    /// Sends what is at its limit, receives it and compares.
    fn passes(&self, message: &OutMessage<'_>) {
        self.topic.send_message(message).unwrap();
        let got = self.group.receive(Duration::ZERO).unwrap().unwrap();
        assert!(got.body() == message.body);
        assert_eq!(got.key(), message.key);
        assert_eq!(got.tag(), message.tag);
        assert_eq!(got.order_key(), message.order_key);
        assert_eq!(got.headers().collect::<Vec<_>>(), message.headers);
        got.ack().unwrap();
    }

    /// What is past its limit is refused, and nothing was stored.
    fn refuses(&self, message: &OutMessage<'_>, numbers: &[usize]) {
        let before = self.store.stats().unwrap();
        let e = self.topic.send_message(message).unwrap_err();
        check(&e, Code::LimitExceeded, numbers);
        assert_eq!(e.outcome(), Some(Outcome::NotStored), "{e}");
        assert_eq!(self.store.stats().unwrap().topics, before.topics);
        assert!(self.group.receive(Duration::ZERO).unwrap().is_none());
    }
}

/// The error names these numbers: what was given, and what is allowed.
fn check(e: &Error, code: Code, numbers: &[usize]) {
    assert_eq!(e.code(), code, "{e}");
    for number in numbers {
        assert!(e.message().contains(&number.to_string()), "{number}: {e}");
    }
}

#[test]
fn bodies_up_to_their_limit_pass_and_longer_ones_are_refused() {
    let open = open("limit-body");
    let body: Vec<u8> = (0..=limits::BODY)
        .map(|i| (i % 251).to_le_bytes()[0])
        .collect();
    for len in [0, 1, limits::BODY - 1, limits::BODY] {
        let body = &body[..len];
        open.passes(&OutMessage {
            body,
            ..OutMessage::default()
        });
    }
    let past = OutMessage {
        body: &body,
        ..OutMessage::default()
    };
    open.refuses(&past, &[limits::BODY + 1, limits::BODY]);
}

#[test]
fn every_length_around_the_change_to_chunks_passes() {
    let open = open("limit-chunk");
    let body: Vec<u8> = (0..600_000u32).map(|i| (i % 249) as u8).collect();
    let edge = 256 << 10;
    let near = (edge - 160..edge + 32).step_by(7);
    let twice = (2 * edge - 300..2 * edge + 64).step_by(37);
    for len in near.chain(twice) {
        open.passes(&OutMessage {
            body: &body[..len],
            ..OutMessage::default()
        });
    }
}

#[test]
fn keys_and_tags_up_to_their_limit_pass_and_longer_ones_are_refused() {
    let open = open("limit-key");
    // Two bytes a character: the limit counts bytes.
    let text = "ü".repeat(limits::KEY / 2) + "xy";
    let at = &text[..limits::KEY];
    assert_eq!((at.len(), text.len()), (limits::KEY, limits::KEY + 1));
    let message = |key, tag| OutMessage {
        body: b"b",
        key,
        tag,
        ..OutMessage::default()
    };
    open.passes(&message(Some(at), Some(at)));
    open.passes(&message(Some(""), Some("")));
    open.refuses(&message(Some(&text), None), &[256, limits::KEY]);
    open.refuses(&message(None, Some(&text)), &[256, limits::KEY]);
    let order_key = |key| OutMessage {
        order_key: Some(key),
        ..OutMessage::default()
    };
    open.passes(&order_key(at));
    open.passes(&order_key(""));
    open.refuses(&order_key(&text), &[256, limits::KEY]);
}

#[test]
fn headers_up_to_their_limits_pass_and_more_are_refused() {
    let open = open("limit-headers");
    let value = vec![7; limits::HEADERS];
    let message = |headers| OutMessage {
        body: b"b",
        headers,
        ..OutMessage::default()
    };
    open.passes(&message(vec![("n", &value[1..])]));
    let bytes = [limits::HEADERS + 1, limits::HEADERS];
    open.refuses(&message(vec![("n", &value)]), &bytes);
    let many: Vec<String> = (0..=limits::HEADER_COUNT).map(|i| format!("{i}")).collect();
    let all: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &b"v"[..])).collect();
    open.passes(&message(all[1..].to_vec()));
    let count = [limits::HEADER_COUNT + 1, limits::HEADER_COUNT];
    open.refuses(&message(all), &count);
    let name = "n".repeat(256);
    open.passes(&message(vec![(&name[..255], b"")]));
    open.refuses(&message(vec![(&name, b"")]), &[256, 255]);
    open.refuses(&message(vec![("", b"v")]), &[0, 255]);
}

#[test]
fn everything_at_its_limit_at_once_passes() {
    let open = open("limit-all");
    let body = vec![3; limits::BODY];
    let text = "k".repeat(limits::KEY);
    let value = vec![9; limits::HEADERS - 1];
    open.passes(&OutMessage {
        body: &body,
        key: Some(&text),
        tag: Some(&text),
        headers: vec![("h", &value)],
        ..OutMessage::default()
    });
}

#[test]
fn names_up_to_their_limit_pass_and_others_are_refused() {
    let open = open("limit-names");
    let long = "n".repeat(limits::NAME + 1);
    let at = &long[1..];
    let topic = open.store.topic(at).unwrap();
    topic.send(b"x").unwrap();
    let group = open.store.group(at, at).open().unwrap();
    let got = group.receive(Duration::ZERO).unwrap().unwrap();
    // The name of the dead letters holds both names.
    got.reject("no").unwrap();
    let dead = open
        .store
        .existing_topic(&format!("%DLQ%{at}%{at}"))
        .unwrap();
    assert_eq!(dead.len().unwrap(), 1);
    let mut producer = open.store.producer(at).unwrap();
    producer.send(&topic, None, &OutMessage::default()).unwrap();
    producer = open.store.producer("Az09._-").unwrap();
    assert_eq!(producer.next_seq().unwrap(), 0);
    let topics = open.store.stats().unwrap().topics.len();
    for bad in [
        &long, "", ".", "..", "a/b", "a b", "ä", "a\0", "%DLQ%t%g", "a%",
    ] {
        if !bad.starts_with('%') {
            let e = open.store.topic(bad).unwrap_err();
            check(&e, Code::InvalidName, &[]);
        }
        let e = open.store.group("t", bad).open().unwrap_err();
        check(&e, Code::InvalidName, &[]);
        let e = open.store.producer(bad).unwrap_err();
        check(&e, Code::InvalidName, &[]);
    }
    let e = open.store.topic(&long).unwrap_err();
    check(&e, Code::InvalidName, &[limits::NAME + 1, limits::NAME]);
    let e = open.store.topic("%own").unwrap_err();
    assert!(
        matches!(e.code(), Code::NotFound | Code::InvalidName),
        "{e}"
    );
    assert_eq!(open.store.stats().unwrap().topics.len(), topics);
}

#[test]
fn batches_and_reasons_up_to_their_limits_pass_and_larger_ones_are_refused() {
    let open = open("limit-batch");
    let sends: Vec<OutMessage<'_>> = vec![OutMessage::default(); limits::RECEIVE_BATCH + 1];
    assert!(open.topic.send_many(&sends).into_iter().all(|r| r.is_ok()));
    let past = limits::RECEIVE_BATCH + 1;
    for bad in [0, past] {
        let e = open.group.receive_batch(bad, Duration::ZERO).unwrap_err();
        check(&e, Code::LimitExceeded, &[bad, limits::RECEIVE_BATCH]);
    }
    let mut left = limits::RECEIVE_BATCH + 1;
    while left > 1 {
        let most = limits::RECEIVE_BATCH.min(left - 1);
        let got = open.group.receive_batch(most, Duration::ZERO).unwrap();
        assert!(!got.is_empty() && got.len() <= most);
        left -= got.len();
        assert!(open.group.ack_many(got).into_iter().all(|r| r.is_ok()));
    }
    let last = open.group.receive(Duration::ZERO).unwrap().unwrap();
    let reason = "r".repeat(limits::REASON + 1);
    let e = last.reject(&reason).unwrap_err();
    check(
        &e,
        Code::LimitExceeded,
        &[limits::REASON + 1, limits::REASON],
    );
    // Refused, it is still ours to settle.
    last.reject(&reason[1..]).unwrap();
    assert_eq!(open.group.stats().unwrap().dead, 1);
}

#[test]
fn times_up_to_their_limit_pass_and_longer_ones_are_refused() {
    let open = open("limit-times");
    let (most, past) = (limits::LEASE, limits::LEASE + Duration::from_millis(1));
    let group = |name: &str| open.store.group("t", name);
    group("longest").lease(most).open().unwrap();
    for bad in [Duration::ZERO, Duration::from_nanos(1), past] {
        let e = group("bad").lease(bad).open().unwrap_err();
        check(&e, Code::InvalidArgument, &[30]);
    }
    for (attempts, good) in [(0, false), (1, true), (1000, true), (1001, false)] {
        let opened = group(&format!("a{attempts}")).max_attempts(attempts).open();
        assert_eq!(opened.is_ok(), good, "{opened:?}");
    }
    let backoff = |first, factor, max, jitter| Backoff {
        first,
        factor,
        max,
        jitter,
        ..Backoff::default()
    };
    let good = [
        backoff(most, 1.0, most, 0.0),
        backoff(most, 1000.0, most, 1.0),
    ];
    for (i, good) in good.into_iter().enumerate() {
        group(&format!("b{i}")).backoff(good).open().unwrap();
    }
    let second = Duration::from_secs(1);
    for bad in [
        backoff(past, 2.0, most, 0.1),
        backoff(second, 2.0, past, 0.1),
        backoff(second, 0.999, most, 0.1),
        backoff(second, 1000.1, most, 0.1),
        backoff(second, f64::NAN, most, 0.1),
        backoff(second, 2.0, most, -0.1),
        backoff(second, 2.0, most, 1.1),
        backoff(second, 2.0, most, f64::INFINITY),
    ] {
        let e = group("bad").backoff(bad).open().unwrap_err();
        check(&e, Code::InvalidArgument, &[]);
    }
    assert_eq!(
        group("bad").create(false).open().unwrap_err().code(),
        Code::NotFound
    );
    open.topic.send(b"x").unwrap();
    let got = open.group.receive(Duration::ZERO).unwrap().unwrap();
    got.extend(most).unwrap();
    for e in [
        got.extend(past).unwrap_err(),
        got.nack(Some(past)).unwrap_err(),
    ] {
        check(&e, Code::LimitExceeded, &[30]);
    }
}

#[test]
fn options_of_a_new_store_outside_their_range_are_refused_and_nothing_is_made() {
    let place = Place::new("limit-options");
    let options = Store::options;
    let ms = Duration::from_millis;
    let bad = [
        options().segment_size((16 << 20) - 4096),
        options().segment_size((1 << 30) + 4096),
        options().segment_size((16 << 20) + 1),
        options().ring_size(1 << 19),
        options().ring_size(1 << 29),
        options().ring_size((1 << 20) + 4096),
        options().slots(1023),
        options().slots((1 << 20) + 1),
        options().flush_interval(Duration::from_micros(999)),
        options().flush_interval(ms(60_001)),
        options().mode(0o400),
        options().mode(0o700),
        options().mode(0o1600),
    ];
    for bad in bad {
        let what = format!("{bad:?}");
        let e = bad.open(place.store()).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{what}: {e}");
        assert!(!place.store().exists(), "{what}");
    }
    let least = options()
        .segment_size(16 << 20)
        .ring_size(1 << 20)
        .slots(1024);
    let least = least.flush_interval(ms(1)).mode(0o600);
    least
        .open(place.file("least"))
        .unwrap()
        .topic("t")
        .unwrap()
        .send(b"x")
        .unwrap();
    let most = options()
        .segment_size(1 << 30)
        .slots(1 << 20)
        .flush_interval(ms(60_000));
    let most = most
        .ring_size(256 << 20)
        .mode(0o666)
        .open(place.file("most"))
        .unwrap();
    most.topic("t").unwrap().send(b"x").unwrap();
}

#[test]
fn tables_of_topics_groups_and_producers_take_what_they_were_made_for() {
    let place = Place::new("limit-tables");
    let store = Store::options().slots(1024).open(place.store()).unwrap();
    let fill = |what: &str, make: &dyn Fn(&str) -> Result<(), Error>| {
        let mut made = 0;
        let e = loop {
            match make(&format!("{what}{made}")) {
                Ok(()) => made += 1,
                Err(e) => break e,
            }
            assert!(made < 5000, "no end of {what}");
        };
        check(&e, Code::LimitExceeded, &[]);
        assert!(e.message().contains("the most it was made for"), "{e}");
        assert!(made >= 16, "only {made} of {what}");
        // What is there goes on being found.
        make(&format!("{what}0")).unwrap();
        assert_eq!(
            make(&format!("{what}-more")).unwrap_err().code(),
            Code::LimitExceeded
        );
    };
    store.topic("t").unwrap();
    fill("group", &|name| store.group("t", name).open().map(|_| ()));
    fill("producer", &|name| store.producer(name).map(|_| ()));
    fill("topic", &|name| store.topic(name).map(|_| ()));
    let topic = store.topic("t").unwrap();
    topic.send(b"x").unwrap();
    let got = store.group("t", "group0").open().unwrap();
    let got = got.receive(Duration::ZERO).unwrap().unwrap();
    got.ack().unwrap();
}
