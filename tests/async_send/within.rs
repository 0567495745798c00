//! Sends that come back before they are over: nothing is lost, stored twice or confirmed too early,
//! and no wait is longer than it was asked to be.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{CallKind, SimOptions, SimWorld, set_point_hook};
use keepq::{Code, Error, Flush, OutMessage, Outcome, Result, Sent, Topic, Unconfirmed, Within};

use crate::faults::{at_next, in_doubt};
use crate::members::{Member, body, drain, ids, open, open_with, options, owed};

const SLICE: Duration = Duration::from_millis(100);

/// Two processes on one machine.
fn two() -> (SimWorld, Member, Member) {
    let world = SimWorld::new(SimOptions::default());
    let (leader, other) = (open(&world), open(&world));
    leader.group("t", "g");
    (world, leader, other)
}

/// Calls this while `leader` stands still in the middle of a flush of one message, number 7.
fn while_the_disk_stands_still<T: 'static>(
    leader: &Member,
    act: impl FnOnce() -> T + 'static,
) -> T {
    let told = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&told);
    leader.send_async("t", 7, 50);
    at_next(CallKind::Fdatasync, move || {
        *tell.borrow_mut() = Some(act());
    });
    assert!(leader.store.flush(None).unwrap());
    set_point_hook(None);
    told.take().expect("a flush was met")
}

fn out(body: &[u8]) -> OutMessage<'_> {
    OutMessage {
        body,
        append_timeout: Some(SLICE),
        ..OutMessage::default()
    }
}

fn unconfirmed<T>(within: Within<T>) -> Unconfirmed<T> {
    match within {
        Within::Unconfirmed(unconfirmed) => unconfirmed,
        Within::Done(_) => panic!("it was over"),
    }
}

fn done<T>(within: Within<T>) -> T {
    match within {
        Within::Done(result) => result,
        Within::Unconfirmed(_) => panic!("it was not over"),
    }
}

#[test]
fn with_a_disk_that_works_a_send_is_over_at_once() {
    let (world, leader, other) = two();
    let topic = other.store.topic("t").unwrap();
    let producer = other.store.producer("p").unwrap();
    let body = body(1, 100);
    assert!(done(topic.send_within(&out(&body), SLICE)).unwrap().durable);
    let sent = done(producer.send_within(&topic, None, &out(&body), SLICE)).unwrap();
    assert!(sent.durable && !sent.duplicate);
    let again = done(producer.send_within(&topic, Some(0), &out(&body), SLICE)).unwrap();
    assert!(again.durable && again.duplicate && again.seq == sent.seq);
    let many = done(topic.send_many_within(&[out(&body), out(&body)], SLICE));
    assert!(many.into_iter().all(|sent| sent.unwrap().durable));
    let refused = OutMessage {
        key: Some(&"k".repeat(256)),
        ..out(&body)
    };
    let refused = done(topic.send_within(&refused, SLICE)).unwrap_err();
    assert_eq!(refused.code(), Code::LimitExceeded);
    assert_eq!(refused.outcome(), Some(Outcome::NotStored));
    assert_eq!(owed(&world, &leader.store), [1, 1, 1, 1]);
}

#[test]
fn a_send_comes_back_and_is_confirmed_when_it_is_on_disk_and_not_before() {
    let (world, leader, other) = two();
    let (machine, topic) = (world.clone(), other.store.topic("t").unwrap());
    let producer = other.store.producer("p").unwrap();
    let sent = while_the_disk_stands_still(&leader, move || {
        let begun = machine.boottime_ms();
        let (one, two) = (body(1, 100), body(2, 100));
        let first = unconfirmed(topic.send_within(&out(&one), SLICE));
        let second = unconfirmed(producer.send_within(&topic, None, &out(&two), SLICE));
        let first = unconfirmed(first.wait(SLICE));
        let took = machine.boottime_ms() - begun;
        assert!((300..600).contains(&took), "three slices took {took} ms");
        assert_eq!(topic.len().unwrap(), 3, "appended once");
        (first, second)
    });
    // The flush that stood still began before them: waiting leads the next one.
    let first = done(sent.0.wait(SLICE)).unwrap();
    assert!(first.durable && first.seq == Some(1));
    let cut = world.power_cut_with(|_| 1);
    let after = open(&cut);
    assert_eq!(owed(&cut, &after.store), [1, 2, 7], "confirmed is on disk");
    let second = done(sent.1.wait(Duration::ZERO)).unwrap();
    assert!(second.durable && second.seq == Some(2));
}

#[test]
fn a_send_that_is_not_confirmed_in_its_time_is_in_doubt() {
    let (world, leader, other) = two();
    let (machine, topic) = (world.clone(), other.store.topic("t").unwrap());
    let error = while_the_disk_stands_still(&leader, move || {
        let begun = machine.boottime_ms();
        let body = body(1, 100);
        let message = OutMessage {
            timeout: Some(Duration::from_millis(250)),
            ..out(&body)
        };
        let mut now = topic.send_within(&message, SLICE);
        let mut waits = 0;
        let error = loop {
            match now {
                Within::Done(result) => break result.unwrap_err(),
                Within::Unconfirmed(unconfirmed) => now = unconfirmed.wait(SLICE),
            }
            waits += 1;
        };
        assert_eq!(waits, 2, "a slice, a slice, and the half of one");
        let took = machine.boottime_ms() - begun;
        assert!((250..350).contains(&took), "{took} ms");
        error
    });
    in_doubt(&error, Code::FlushTimeout);
    assert_eq!(owed(&world, &other.store), [1, 7], "it was appended once");
}

#[test]
fn many_come_back_together_and_those_that_were_to_wait_are_confirmed() {
    let (world, leader, other) = two();
    let topic = other.store.topic("t").unwrap();
    let sent = while_the_disk_stands_still(&leader, move || {
        let bodies: Vec<_> = (0..3).map(|number| body(number, 100)).collect();
        let mut messages: Vec<_> = bodies.iter().map(|body| out(body)).collect();
        messages[1].flush = Some(Flush::Async);
        let long = "k".repeat(256);
        messages.push(OutMessage {
            key: Some(&long),
            ..out(&bodies[0])
        });
        unconfirmed(topic.send_many_within(&messages, SLICE))
    });
    let results = done(sent.wait(SLICE));
    let durable: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().ok().map(|s| s.durable))
        .collect();
    assert_eq!(durable, [Some(true), Some(false), Some(true), None]);
    let refused = results[3].as_ref().unwrap_err();
    assert_eq!(refused.outcome(), Some(Outcome::NotStored));
    assert_eq!(owed(&world, &leader.store), [0, 1, 2, 7]);
}

#[test]
fn what_nobody_waits_for_any_more_is_flushed_by_the_close() {
    for waits in [false, true] {
        let (world, leader, other) = two();
        let topic = other.store.topic("t").unwrap();
        let sent = while_the_disk_stands_still(&leader, move || {
            unconfirmed(topic.send_within(&out(&body(1, 100)), SLICE))
        });
        let sent = waits.then_some(sent);
        other.leaves();
        if let Some(sent) = sent {
            assert!(
                done(sent.wait(SLICE)).unwrap().durable,
                "the close has flushed it"
            );
        }
        let cut = world.power_cut_with(|_| 1);
        assert_eq!(owed(&cut, &open(&cut).store), [1, 7]);
        leader.leaves();
    }
}

#[test]
fn a_failed_flush_ends_the_wait_with_its_error() {
    let (world, leader, other) = two();
    let topic = other.store.topic("t").unwrap();
    let sent = while_the_disk_stands_still(&leader, move || {
        unconfirmed(topic.send_within(&out(&body(1, 100)), SLICE))
    });
    crate::faults::fail_next(
        &world,
        CallKind::Fdatasync,
        keepq::sim::Fault::Errno(libc::EIO),
        true,
    );
    let error = done(sent.wait(SLICE)).unwrap_err();
    set_point_hook(None);
    in_doubt(&error, Code::Failed);
}

type Send = fn(&Topic, &OutMessage<'_>) -> Result<Option<Sent>>;

/// Every way to send, with the room it has in the log when the time is over.
const WAYS: [(&str, Send); 4] = [
    ("sync", |topic, message| {
        topic.send_message(message).map(Some)
    }),
    ("within", |topic, message| {
        done(topic.send_within(message, SLICE)).map(Some)
    }),
    ("asynchronous", |topic, message| {
        topic.send_message_async(message).map(|_| None)
    }),
    ("one-way", |topic, message| {
        topic.try_send_oneway(message).map(|()| None)
    }),
];

/// Fills the ring, which nobody empties meanwhile.
fn fill_the_ring(topic: &Topic) {
    let body = body(1, 1000);
    let message = OutMessage {
        flush: Some(Flush::Async),
        append_timeout: Some(Duration::from_millis(1)),
        ..out(&body)
    };
    let late = (0..100_000).find_map(|_| topic.send_message(&message).err());
    refused(&late.expect("the ring is full"));
}

fn refused(error: &Error) {
    assert_eq!(error.code(), Code::Timeout, "{error}");
    assert_eq!(error.outcome(), Some(Outcome::NotStored), "{error}");
}

#[test]
fn the_wait_for_the_log_ends_with_the_time_for_the_append() {
    let world = SimWorld::new(SimOptions::default());
    let (leader, other) = (open(&world), open_with(&world, options()));
    let (machine, topic) = (world.clone(), other.store.topic("t").unwrap());
    while_the_disk_stands_still(&leader, move || {
        fill_the_ring(&topic);
        let kept = topic.len().unwrap();
        for (way, send) in WAYS {
            let begun = machine.boottime_ms();
            refused(&send(&topic, &out(&body(2, 1000))).expect_err(way));
            let took = machine.boottime_ms() - begun;
            assert!((100..200).contains(&took), "{way}: {took} ms");
            // Chunks that were there already would be left behind.
            let begun = machine.boottime_ms();
            let large = body(2, 300_000);
            let large = OutMessage {
                timeout: Some(Duration::from_millis(500)),
                ..out(&large)
            };
            refused(&send(&topic, &large).expect_err(way));
            let took = machine.boottime_ms() - begun;
            assert!(
                (500..600).contains(&took),
                "{way}, of several records: {took} ms"
            );
        }
        assert_eq!(topic.len().unwrap(), kept);
    });
}

#[test]
fn an_ack_comes_back_and_holds_and_is_confirmed_when_it_is_on_disk() {
    let (world, leader, other) = two();
    let topic = other.store.topic("t").unwrap();
    let bodies: Vec<_> = (0..4).map(|number| body(number, 100)).collect();
    let messages: Vec<_> = bodies.iter().map(|body| out(body)).collect();
    assert!(topic.send_many(&messages).iter().all(Result::is_ok));
    let options = other.store.group("t", "s").ack_flush(Flush::Sync);
    let group = options.open().unwrap();
    let mut got = group.receive_batch(4, Duration::ZERO).unwrap().into_iter();
    // It makes the stream of dead letters, which waits for a flush of its own.
    got.next().unwrap().reject("why").unwrap();
    let acks = while_the_disk_stands_still(&leader, move || {
        let [first, second, third] = [(); 3].map(|()| got.next().unwrap());
        // Without a wait for the disk it is over at once.
        done(second.ack_within(Some(Flush::Async), SLICE)).unwrap();
        let again = done(second.ack_within(None, SLICE)).unwrap_err();
        assert_eq!(again.code(), Code::LeaseLost);
        let first = unconfirmed(first.ack_within(None, SLICE));
        let third = unconfirmed(third.reject_within("why", SLICE));
        assert_eq!(group.stats().unwrap().in_flight, 0, "settled for everybody");
        (unconfirmed(first.wait(SLICE)), third)
    });
    done(acks.0.wait(SLICE)).unwrap();
    let cut = world.power_cut_with(|_| 1);
    let drained = ids(&drain(&cut, &open(&cut).store));
    let of = |topic: &str, group: &str| drained[&(topic.to_owned(), group.to_owned())].clone();
    assert_eq!(of("t", "s"), [7]);
    assert_eq!(of("%DLQ%t%s", "undertaker"), [0, 3]);
    done(acks.1.wait(Duration::ZERO)).unwrap();
}
