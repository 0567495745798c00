//! Promise P7 with real processes: those that are killed, stopped, forked or in other PID
//! namespaces neither hold up the others nor take anything from them.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr
)]

#[path = "children/mod.rs"]
mod children;
#[path = "processes/consumers.rs"]
mod consumers;
#[path = "processes/forks.rs"]
mod forks;
#[path = "processes/namespaces.rs"]
mod namespaces;
#[path = "processes/stopped.rs"]
mod stopped;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use children::{Child, PATIENCE, Place, say};
use keepq::sim::set_point_hook;
use keepq::{Backoff, Flush, Group, Store, Topic};

fn open(path: &Path) -> (Store, Topic, Group) {
    let options = Store::options().ring_size(1 << 20).segment_size(16 << 20);
    let store = options.send_timeout(PATIENCE).open(path).unwrap();
    let topic = store.topic("t").unwrap();
    let backoff = Backoff {
        first: Duration::ZERO,
        ..Backoff::default()
    };
    let group = store.group("t", "g").max_attempts(1000).backoff(backoff);
    let group = group.lease(Duration::from_secs(600)).open().unwrap();
    (store, topic, group)
}

fn open_arg() -> (Store, Topic, Group) {
    open(Path::new(&children::arg("STORE")))
}

fn store_var(place: &Place) -> (&'static str, String) {
    ("STORE", place.store().display().to_string())
}

/// Sends this process a signal at this point of the engine, counted on this thread from now.
/// What is returned turns true when it was sent.
fn signal_at_point(point: u64, signal: children::Signal) -> Rc<Cell<bool>> {
    let mut left = point;
    let sent = Rc::new(Cell::new(false));
    let done = Rc::clone(&sent);
    set_point_hook(Some(Box::new(move || {
        left = left.saturating_sub(1);
        if left == 0 {
            left = u64::MAX;
            done.set(true);
            let me = rustix::process::getpid();
            assert!(me.as_raw_nonzero().get() > 1, "only ever this process");
            rustix::process::kill_process(me, signal).unwrap();
        }
    })));
    sent
}

/// Receives and acks everything; the bodies as text, each of which must come once.
fn drain(group: &Group) -> BTreeSet<String> {
    let mut bodies = BTreeSet::new();
    while let Some(got) = group.receive(Duration::from_millis(100)).unwrap() {
        let body = String::from_utf8(got.body().to_vec()).unwrap();
        got.ack().unwrap();
        assert!(bodies.insert(body.clone()), "{body} was stored twice");
    }
    bodies
}

/// A process that ends without closing anything.
fn vanish() {
    let (_store, topic, group) = open_arg();
    for number in 0..50 {
        let body = format!("unflushed {number}");
        topic
            .message(body.as_bytes())
            .flush(Flush::Async)
            .send()
            .unwrap();
    }
    let held = group.receive_batch(5, Duration::ZERO).unwrap();
    say(&format!("holding {}", held.len()));
    children::listen();
    // SAFETY: ends the process at once; that nothing is cleaned up is what is wanted.
    unsafe { libc::_exit(0) }
}

#[test]
fn what_a_vanished_process_held_comes_back_at_once_and_what_it_sent_is_flushed() {
    let test = "what_a_vanished_process_held_comes_back_at_once_and_what_it_sent_is_flushed";
    if children::role().is_some() {
        return vanish();
    }
    let place = Place::new("vanish");
    let (store, topic, group) = open(&place.store());
    for number in 0..5 {
        topic.send(format!("held {number}")).unwrap();
    }
    let mut slowest = Duration::ZERO;
    for round in 1..=10 {
        let mut child = Child::start(test, "vanish", &[store_var(&place)]);
        child.expect("holding 5");
        assert!(group.receive(Duration::ZERO).unwrap().is_none_or(|d| {
            let unflushed = d.body().starts_with(b"unflushed");
            d.ack().unwrap();
            unflushed
        }));
        child.tell("vanish");
        child.wait();
        let begun = Instant::now();
        let mut held = Vec::new();
        while held.len() < 5 {
            let got = group.receive(PATIENCE).unwrap().unwrap();
            if got.body().starts_with(b"held") {
                assert!(got.attempt() > round);
                held.push(got);
            } else {
                got.ack().unwrap();
            }
        }
        slowest = slowest.max(begun.elapsed());
        for delivery in held {
            delivery.nack(Some(Duration::ZERO)).unwrap();
        }
        // Nobody asks for a flush: whoever is left does it.
        let until = Instant::now() + PATIENCE;
        while store.stats().unwrap().durable < store.stats().unwrap().tail {
            assert!(Instant::now() < until, "nobody flushes for the dead");
            std::thread::yield_now();
        }
    }
    eprintln!("leases of the dead came back within {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn a_send_wakes_a_receiver_of_another_process() {
    let test = "a_send_wakes_a_receiver_of_another_process";
    let now = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
    };
    if children::role().is_some() {
        let (_store, _, group) = open_arg();
        say("ready");
        while let Some(got) = group.receive(PATIENCE).unwrap() {
            let sent = Duration::from_nanos(String::from_utf8_lossy(got.body()).parse().unwrap());
            got.ack().unwrap();
            say(&format!("{}", now().saturating_sub(sent).as_micros()));
        }
        return;
    }
    let place = Place::new("wake");
    let (_store, topic, _group) = open(&place.store());
    let child = Child::start(test, "receiver", &[store_var(&place)]);
    child.expect("ready");
    let mut hops: Vec<u64> = (0..60)
        .map(|_| {
            topic.send(now().as_nanos().to_string()).unwrap();
            child.hear().parse().unwrap()
        })
        .collect();
    hops.sort_unstable();
    eprintln!("woken after {} us (p50), {} us (p90)", hops[30], hops[54]);
    // Somebody who only looks every 50 ms needs 25 on average.
    assert!(hops[30] < 15_000, "{hops:?}");
}

#[test]
fn a_flush_leader_that_is_killed_strands_nobody() {
    let test = "a_flush_leader_that_is_killed_strands_nobody";
    if children::role().is_some() {
        let (_store, topic, _) = open_arg();
        say("ready");
        children::listen();
        signal_at_point(children::number("POINT"), children::Signal::KILL);
        for number in 0.. {
            topic.send(format!("doomed {number}")).unwrap();
        }
    }
    let place = Place::new("leader");
    let (_store, topic, _group) = open(&place.store());
    let mut killed = 0;
    let mut slowest = Duration::ZERO;
    for point in (1..=240).step_by(8) {
        let vars = [store_var(&place), ("POINT", point.to_string())];
        let mut child = Child::start(test, "doomed", &vars);
        child.expect("ready");
        std::thread::scope(|scope| {
            let sender = || {
                let mut slowest = Duration::ZERO;
                for number in 0..30 {
                    let begun = Instant::now();
                    topic.send(format!("living {number}")).unwrap();
                    slowest = slowest.max(begun.elapsed());
                }
                slowest
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(sender)).collect();
            child.tell("go on");
            let status = child.wait();
            killed += usize::from(!status.success());
            for thread in threads {
                slowest = slowest.max(thread.join().unwrap());
            }
        });
    }
    eprintln!("{killed} killed while they sent; the slowest send of the living took {slowest:?}");
    assert_eq!(killed, 30);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}
