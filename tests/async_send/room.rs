//! How much can be in flight, and what a sender does when that much is.

use std::sync::mpsc::channel;
use std::time::Duration;

use keepq::{Code, Flush, Outcome, Store, WhenFull};

use crate::{Gate, PATIENCE, Place, Told, in_time};

#[test]
fn no_more_are_in_flight_than_allowed() {
    let place = Place::new("room");
    let (store, topic) = place.open_with(|options| options.max_in_flight(3));
    let (gate, stand) = Gate::new();
    topic.send_async(b"gate").unwrap().on_done(stand);
    gate.wait_until_entered();
    let told = Told::new();
    // They are durable soon, but as long as nobody could be told they are in flight.
    for i in 0..2 {
        topic.send_async(b"x").unwrap().on_done(told.callback(i));
    }
    let refuse = || topic.message(b"no").when_full(WhenFull::Refuse);
    let error = refuse().send_async().unwrap_err();
    assert_eq!(error.code(), Code::Full);
    assert_eq!(error.outcome(), Some(Outcome::NotStored));
    assert!(error.to_string().contains("max_in_flight"), "{error}");
    let late = topic.message(b"no").timeout(Duration::from_millis(30));
    let error = late.clone().send_async().unwrap_err();
    assert_eq!(
        (error.code(), error.outcome()),
        (Code::Timeout, Some(Outcome::NotStored))
    );
    refuse().send_oneway();
    late.send_oneway();
    assert_eq!(store.stats().unwrap().oneway_failed, 2);
    // A send that waits for its own durability is never in flight.
    assert!(topic.send(b"sync").unwrap().durable);
    refuse().flush(Flush::Async).send_oneway();
    assert_eq!(
        store.stats().unwrap().oneway_failed,
        3,
        "it needs room as well"
    );
    let (begin, begun) = channel();
    let waiter = {
        let topic = topic.clone();
        std::thread::spawn(move || {
            begin.send(()).unwrap();
            let pending = topic.send_async(b"later").unwrap();
            pending.wait(None).unwrap().unwrap().seq.unwrap()
        })
    };
    begun.recv_timeout(PATIENCE).unwrap();
    gate.open();
    assert_eq!(in_time(move || waiter.join().unwrap()), 4);
    store.close().unwrap();
    assert_eq!(told.so_far().len(), 2);
    assert_eq!(place.open().1.len().unwrap(), 5);
}

#[test]
fn the_bytes_in_flight_are_bounded_but_one_body_always_goes() {
    let place = Place::new("bytes");
    let (store, topic) = place.open_with(|options| options.max_in_flight_bytes(1000));
    let (gate, stand) = Gate::new();
    let send = |len| {
        topic
            .message(&[7; 5000][..len])
            .when_full(WhenFull::Refuse)
            .send_async()
    };
    send(600).unwrap().on_done(stand);
    gate.wait_until_entered();
    assert_eq!(send(401).unwrap_err().code(), Code::Full);
    send(400).unwrap().on_done(|_| {});
    assert_eq!(send(1).unwrap_err().code(), Code::Full);
    send(0).unwrap().wait(None).unwrap().unwrap();
    gate.open();
    let big = topic.message(&[7; 5000]).send_async().unwrap();
    assert!(
        big.wait(None).unwrap().unwrap().durable,
        "alone, once there is nothing else"
    );
    store.close().unwrap();
}

#[test]
fn the_defaults_are_as_documented() {
    let place = Place::new("default-room");
    let (store, topic) = place.open();
    let (gate, stand) = Gate::new();
    topic.send_async(b"").unwrap().on_done(stand);
    gate.wait_until_entered();
    let send = |body: &[u8]| topic.message(body).when_full(WhenFull::Refuse).send_async();
    let body = vec![1; 16 << 20];
    for _ in 0..4 {
        send(&body).unwrap().on_done(|_| {});
    }
    assert_eq!(send(b"x").unwrap_err().code(), Code::Full, "64 MiB");
    for i in 5..1024 {
        send(b"")
            .unwrap_or_else(|e| panic!("{i}: {e}"))
            .on_done(|_| {});
    }
    assert_eq!(send(b"").unwrap_err().code(), Code::Full, "1024 messages");
    gate.open();
    store.close().unwrap();
}

#[test]
fn options_out_of_range_are_refused() {
    let place = Place::new("ranges");
    let cases = [
        (Store::options().max_in_flight(0), "max_in_flight"),
        (
            Store::options().max_in_flight((1 << 20) + 1),
            "max_in_flight",
        ),
        (
            Store::options().max_in_flight_bytes(0),
            "max_in_flight_bytes",
        ),
        (Store::options().send_retries(101), "send_retries"),
    ];
    for (options, name) in cases {
        let error = options.open(&place.0).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().starts_with(name), "{error}");
    }
    let widest = Store::options()
        .max_in_flight(1 << 20)
        .max_in_flight_bytes(u64::MAX);
    drop(widest.send_retries(100).open(&place.0).unwrap());
    let least = Store::options().max_in_flight(1).max_in_flight_bytes(1);
    drop(least.send_retries(0).open(&place.0).unwrap());
}
