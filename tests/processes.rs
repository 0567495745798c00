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
use keepq::{Backoff, Flush, Group, Store, StoreOptions, Topic};

fn open(path: &Path) -> (Store, Topic, Group) {
    open_with(path, Store::options())
}

fn open_with(path: &Path, options: StoreOptions) -> (Store, Topic, Group) {
    let options = options.ring_size(1 << 20).segment_size(16 << 20);
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
    let mut took = Vec::new();
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
        took.push(begun.elapsed());
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
    mostly_at_once("the leases of the dead came back", took);
}

/// Long before anything but a death would have done it. A busy machine may be late once or twice.
fn mostly_at_once(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    eprintln!("{what} within {took:?}");
    let median = took[took.len() / 2];
    assert!(median < Duration::from_secs(2), "{what}: {took:?}");
}

/// The longest that anybody sleeps without looking.
const LOOK_US: u64 = 50_000;
/// Less than this after its begin, a receive may find the message before it sleeps.
const EARLY_US: u64 = 1_000;

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_micros()).unwrap()
}

/// Nothing waits for the disk, and no flush wakes anybody in place of the send.
fn never_flushed() -> StoreOptions {
    let options = Store::options().flush(Flush::Async);
    options.flush_interval(PATIENCE)
}

/// Receives, and says when each receive began, when its message was sent, and when it returned.
fn sleeper() {
    let path = children::arg("STORE");
    let (_store, _, group) = open_with(Path::new(&path), never_flushed());
    loop {
        say("waits");
        let began = now_us();
        let got = group.receive(PATIENCE).unwrap().unwrap();
        let ended = now_us();
        let sent = String::from_utf8(got.body().to_vec()).unwrap();
        got.ack().unwrap();
        say(&format!("{began} {sent} {ended}"));
    }
}

#[test]
fn a_send_wakes_a_receiver_of_another_process() {
    let test = "a_send_wakes_a_receiver_of_another_process";
    if children::role().is_some() {
        return sleeper();
    }
    let place = Place::new("wake");
    let (_store, topic, _group) = open_with(&place.store(), never_flushed());
    let child = Child::start(test, "sleeper", &[store_var(&place)]);
    // A receive that began before its message was sent, and that nobody woke, lasts as long as
    // the sleep between two looks at least. However busy the machine is, one that was shorter
    // was woken.
    let (mut woken, mut rounds) = (0, 0);
    while woken < 30 {
        child.expect("waits");
        // Nothing tells that it sleeps: rounds in which it does not yet count for nothing.
        std::thread::sleep(Duration::from_millis(3));
        topic.send(now_us().to_string()).unwrap();
        let said = child.hear();
        let times: Vec<u64> = said.split(' ').map(|time| time.parse().unwrap()).collect();
        let [began, sent, ended] = times[..] else {
            panic!("{said}");
        };
        woken += u64::from(sent > began + EARLY_US && ended < began + LOOK_US);
        rounds += 1;
        assert!(rounds < 1_000, "woken {woken} times in {rounds} rounds");
    }
    eprintln!("woken {woken} times in {rounds} rounds");
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
    // Who is stranded waits until its send gives up.
    assert!(slowest < PATIENCE / 2, "{slowest:?}");
}
