//! Named producers: a number that was sent is never stored twice and is answered as it was the
//! first time, and a name makes room for another only when nobody can miss it.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;

#[path = "producers/model.rs"]
mod model;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use deaths::{Case, NOTHING, run};
use keepq::sim::{Rng, SimOptions, SimWorld, set_point_hook};
use keepq::{Code, Flush, OutMessage, Producer, Sent, limits};
use members::{Member, assert_whole, body, open, open_with, options};

const WEEK: u64 = limits::PRODUCER_KEPT.as_millis() as u64;
/// More than the clock of the simulator moves by itself in a test, in ms.
const SOON: u64 = 60_000;
/// Names that a store of the suites' size takes.
const MOST: usize = 16;

fn world() -> SimWorld {
    SimWorld::new(SimOptions::default())
}

fn out(body: &[u8]) -> OutMessage<'_> {
    OutMessage {
        body,
        ..OutMessage::default()
    }
}

/// Sends numbers of a producer, over two topics, every fifth in chunks.
fn send(member: &Member, producer: &Producer, numbers: std::ops::Range<u64>) -> Vec<Sent> {
    let topics = ["a", "b"].map(|name| member.store.topic(name).unwrap());
    let send = |number: u64| {
        let len = if number % 5 == 3 { 6_000 } else { 60 };
        let body = body(number, len);
        let topic = &topics[number as usize % 2];
        let sent = producer.send(topic, Some(number), &out(&body)).unwrap();
        assert!(!sent.duplicate && sent.durable, "{number}: {sent:?}");
        sent
    };
    numbers.map(send).collect()
}

/// Every number is answered as it was the first time, as far back as is promised.
fn assert_recalled(member: &Member, producer: &Producer, first: &[Sent], when: &str) {
    let topic = member.store.topic("a").unwrap();
    assert_eq!(
        producer.next_seq().unwrap(),
        first.len() as u64,
        "{when}: the next number"
    );
    let len = topic.len().unwrap();
    for (number, first) in (0..).zip(first) {
        for flush in [Flush::Async, Flush::Sync] {
            let again = OutMessage {
                flush: Some(flush),
                ..OutMessage::default()
            };
            let again = producer.send(&topic, Some(number), &again).unwrap();
            let when = format!("{when}: number {number}, {flush:?}");
            assert!(again.duplicate && again.durable, "{when}: {again:?}");
            if number + limits::PRODUCER_RECALLED >= producer.next_seq().unwrap() {
                assert_eq!((again.id, again.seq), (first.id, first.seq), "{when}");
            } else {
                assert_eq!((again.id.lsn(), again.seq), (0, None), "{when}");
            }
        }
    }
    assert_eq!(topic.len().unwrap(), len, "{when}: nothing was stored");
}

#[test]
fn the_last_64_sends_are_answered_as_the_first_time_through_every_end() {
    let world = world();
    let member = open(&world);
    let loader = member.store.producer("loader").unwrap();
    let mut first = send(&member, &loader, 0..64);
    assert_recalled(&member, &loader, &first, "at the limit");
    first.extend(send(&member, &loader, 64..71));
    assert_recalled(&member, &loader, &first, "past the limit");

    let other = open(&world);
    let theirs = other.store.producer("loader").unwrap();
    assert_recalled(&other, &theirs, &first, "another process");
    let fenced = loader.next_seq().unwrap_err();
    assert_eq!(fenced.code(), Code::ProducerFenced);
    drop(loader);
    drop(theirs);
    member.dies();
    other.dies();

    let cut = world.power_cut_with(|_| 1);
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    for (when, world, warm) in [
        ("warm", &world, true),
        ("cut", &cut, false),
        ("cold", &cold, false),
    ] {
        let member = open(world);
        assert_eq!(member.store.recovery().warm, warm, "{when}");
        let loader = member.store.producer("loader").unwrap();
        assert_recalled(&member, &loader, &first, when);
        let mut first = first.clone();
        first.extend(send(&member, &loader, 71..140));
        assert_recalled(&member, &loader, &first, &format!("{when}, then more"));
        assert_whole(&member.store, when);
        drop(loader);
        member.leaves();
    }
}

#[test]
fn results_outlive_their_messages() {
    let world = world();
    let mut member = open(&world);
    let loader = member.store.producer("loader").unwrap();
    for topic in ["a", "b"] {
        member.group(topic, "g");
    }
    let first = send(&member, &loader, 0..66);
    let segments = |world: &SimWorld| {
        let files = world.files().into_iter().map(|(name, _)| name);
        let mut names: Vec<String> = files.filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        names
    };
    let before = segments(&world);
    // Everything is consumed and much else goes through, until no segment of then is left.
    for round in 0..200 {
        for topic in ["a", "b"] {
            if round % 4 == 0 {
                member.send(topic, 1_000 + round, 2_000);
            }
            member.receive(topic, "g", 64);
            for held in member.held.drain(..) {
                held.ack().unwrap();
            }
        }
        member.store.flush(None).unwrap();
        member.store.maintain().unwrap();
    }
    let after = segments(&world);
    let left: Vec<_> = before.iter().filter(|name| after.contains(name)).collect();
    assert!(left.is_empty(), "{left:?} of {before:?}");
    assert_recalled(&member, &loader, &first, "warm");
    drop(loader);
    member.dies();
    for choice in [0, 1] {
        let world = world.power_cut_with(|n| choice.min(n - 1));
        let member = open(&world);
        let loader = member.store.producer("loader").unwrap();
        assert_recalled(&member, &loader, &first, "after a power cut");
    }
}

#[test]
fn a_duplicate_is_as_durable_as_asked() {
    let world = world();
    let member = open_with(&world, options().flush(Flush::Async));
    let topic = member.store.topic("a").unwrap();
    let loader = member.store.producer("loader").unwrap();
    let send = |number, flush| {
        let message = OutMessage {
            flush: Some(flush),
            ..OutMessage::default()
        };
        loader.send(&topic, Some(number), &message).unwrap()
    };
    assert!(send(0, Flush::Sync).durable);
    assert!(!send(1, Flush::Async).durable);
    // What was durable the first time is durable, whatever was sent since.
    assert!(send(0, Flush::Async).durable);
    assert!(!send(1, Flush::Async).durable);
    assert!(send(1, Flush::Sync).durable);
    let cut = world.power_cut_with(|_| 0);
    let member = open(&cut);
    assert_eq!(
        member.store.producer("loader").unwrap().next_seq().unwrap(),
        2
    );
}

fn fill(member: &Member) {
    let topic = member.store.topic("a").unwrap();
    for number in 0..MOST {
        let producer = member.store.producer(&format!("p{number}")).unwrap();
        producer.send(&topic, Some(0), &out(b"x")).unwrap();
    }
}

/// The names in the table.
fn names(member: &Member) -> Vec<String> {
    let lines = member.store.describe_state().unwrap().into_iter();
    let mut names: Vec<String> = lines
        .filter_map(|line| {
            Some(
                line.strip_prefix("producer ")?
                    .split(' ')
                    .next()?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    names
}

fn refused(member: &Member, name: &str) {
    let e = member.store.producer(name).unwrap_err();
    assert_eq!(e.code(), Code::LimitExceeded);
    assert!(e.message().contains("16 named producers"), "{e}");
    assert!(e.message().contains("7 days after its last use"), "{e}");
}

#[test]
fn the_name_used_least_recently_makes_room_after_a_week_and_not_before() {
    let world = world();
    let member = open(&world);
    fill(&member);
    refused(&member, "new");
    // Used again: the send of p0 and the open of p1 count.
    world.advance(2 * SOON);
    let topic = member.store.topic("a").unwrap();
    let p0 = member.store.producer("p0").unwrap();
    p0.send(&topic, Some(1), &out(b"x")).unwrap();
    drop(p0);
    drop(member.store.producer("p1").unwrap());
    world.advance(WEEK - 3 * SOON);
    refused(&member, "new");
    world.advance(SOON + SOON / 2);
    // 14 names have not been used for a week; the first of equals goes first.
    let new = member.store.producer("new").unwrap();
    assert_eq!(new.next_seq().unwrap(), 0);
    assert!(
        !names(&member).contains(&"p2".to_owned()),
        "{:?}",
        names(&member)
    );
    for number in 3..MOST {
        drop(member.store.producer(&format!("n{number}")).unwrap());
    }
    assert!(names(&member).contains(&"p0".to_owned()) && names(&member).contains(&"p1".to_owned()));
    refused(&member, "newer");
    // One that was dropped begins anew.
    world.advance(2 * SOON);
    let back = member.store.producer("p2").unwrap();
    assert_eq!(back.next_seq().unwrap(), 0);
    assert!(!back.send(&topic, Some(0), &out(b"x")).unwrap().duplicate);
    // A clock that was set back protects.
    world.set_realtime(1_000_000);
    refused(&member, "newer");
    assert_whole(&member.store, "in the end");
}

#[test]
fn a_name_that_is_open_in_a_living_process_makes_no_room() {
    let world = world();
    let member = open(&world);
    let other = open(&world);
    let held: Vec<Producer> = (0..MOST)
        .map(|n| {
            let by = if n < 3 { &other } else { &member };
            by.store.producer(&format!("p{n}")).unwrap()
        })
        .collect();
    world.advance(3 * WEEK);
    refused(&member, "new");
    // A handle that is fenced does not hold its name, and does not let go of it either.
    let newer = member.store.producer("p5").unwrap();
    let (theirs, ours): (Vec<_>, Vec<_>) = (0..).zip(held).partition(|(n, _)| *n < 3);
    drop(ours);
    world.advance(SOON);
    other.dies();
    std::mem::forget(theirs);
    member.store.look();
    world.advance(WEEK - 2 * SOON);
    refused(&member, "new");
    // Those of the dead process were in use until it died.
    world.advance(SOON + SOON / 2);
    for n in (3..MOST).filter(|n| *n != 5) {
        drop(member.store.producer(&format!("n{n}")).unwrap());
    }
    refused(&member, "new");
    let left = names(&member);
    assert_eq!(left[left.len() - 4..], ["p0", "p1", "p2", "p5"]);
    world.advance(SOON);
    for n in 0..3 {
        drop(member.store.producer(&format!("m{n}")).unwrap());
    }
    refused(&member, "new");
    assert!(names(&member).contains(&"p5".to_owned()));
    drop(newer);
}

#[test]
fn a_handle_of_a_dropped_name_fits_no_other_name() {
    let world = world();
    let member = open(&world);
    fill(&member);
    let fenced = member.store.producer("p0").unwrap();
    drop(member.store.producer("p0").unwrap());
    world.advance(WEEK);
    for n in 0..MOST {
        drop(member.store.producer(&format!("n{n}")).unwrap());
    }
    let topic = member.store.topic("a").unwrap();
    let e = fenced.send(&topic, Some(0), &out(b"x")).unwrap_err();
    assert_eq!(e.code(), Code::ProducerFenced);
    assert_eq!(fenced.next_seq().unwrap_err().code(), Code::ProducerFenced);
}

#[test]
fn a_name_makes_room_wholly_or_not_at_all() {
    run(&Case {
        name: "a new name in a full table",
        ready: |m| {
            let topic = m.store.topic("fast").unwrap();
            for n in 0..MOST {
                let producer = m.store.producer(&format!("p{n}")).unwrap();
                if n == 0 {
                    let body = body(50, 80);
                    producer.send(&topic, Some(0), &out(&body)).unwrap();
                }
            }
            m.process.world().advance(WEEK);
        },
        act: |m| drop(m.store.producer("new").unwrap()),
        gain: &[("fast/g", 50)],
        ..NOTHING
    });
}

/// A thread stands still anywhere within a send, and another one sends with the same handle.
#[test]
fn the_next_number_is_not_given_to_two_threads() {
    let mut both = 0;
    for k in 1.. {
        let world = world();
        let member = open_with(&world, options().flush(Flush::Async));
        let topic = member.store.topic("a").unwrap();
        let producer = Arc::new(member.store.producer("p").unwrap());
        let (other, theirs) = (topic.clone(), Arc::clone(&producer));
        let (count, answer) = (Cell::new(0), Rc::new(Cell::new(None)));
        let said = Rc::clone(&answer);
        set_point_hook(Some(Box::new(move || {
            count.set(count.get() + 1);
            if count.get() == k {
                let send = || theirs.send(&other, None, &out(b"theirs"));
                let sent = std::thread::scope(|scope| scope.spawn(send).join().unwrap());
                said.set(Some(sent));
            }
        })));
        let mine = producer.send(&topic, None, &out(b"mine")).unwrap();
        set_point_hook(None);
        let Some(theirs) = answer.take() else { break };
        assert!(!mine.duplicate, "at point {k} its number was another's");
        let stored = match theirs {
            Ok(sent) => {
                assert!(!sent.duplicate, "point {k}");
                both += 1;
                2
            }
            // It stands still with the lock.
            Err(e) => {
                assert_eq!(e.code(), Code::Busy, "point {k}: {e}");
                1
            }
        };
        assert_eq!(topic.len().unwrap(), stored, "point {k}");
        assert_eq!(producer.next_seq().unwrap(), stored, "point {k}");
    }
    assert!(both > 2, "only at {both} points could the other send");
}

/// Opens a new name in a full table and sends with it; every send that returned.
fn replace(world: &SimWorld, confirmed: &Cell<u64>) {
    let member = open(world);
    let topic = member.store.topic("a").unwrap();
    let new = member.store.producer("new").unwrap();
    for number in 0..3 {
        new.send(&topic, Some(number), &out(b"x")).unwrap();
        confirmed.set(number + 1);
    }
    member.store.maintain().unwrap();
    drop(new);
    member.leaves();
}

#[test]
fn a_power_cut_anywhere_leaves_the_old_name_or_the_new_one() {
    let world = world();
    let member = open(&world);
    fill(&member);
    member.leaves();
    world.advance(WEEK);
    let confirmed = std::rc::Rc::new(std::cell::Cell::new(0));
    let cuts = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (seen, so_far, machine) = (cuts.clone(), confirmed.clone(), world.clone());
    let mut last = 0;
    set_point_hook(Some(Box::new(move || {
        if machine.disk_calls() != last {
            last = machine.disk_calls();
            let mut some = vec![machine.power_cut_with(|_| 0), machine.power_cut_with(|_| 1)];
            some.push(machine.power_cut(last));
            seen.borrow_mut()
                .extend(some.into_iter().map(|w| (last, so_far.get(), w)));
        }
    })));
    replace(&world, &confirmed);
    set_point_hook(None);
    assert!(cuts.borrow().len() > 20, "{}", cuts.borrow().len());
    for (call, confirmed, world) in cuts.borrow_mut().drain(..) {
        let when = format!("cut at disk call {call}, {confirmed} confirmed");
        let member = open(&world);
        let names = names(&member);
        let (old, new) = (names.contains(&"p0".into()), names.contains(&"new".into()));
        // The log may end between the two records; then there is room.
        assert!(!(old && new), "{when}: {names:?}");
        assert_eq!(
            names.len(),
            MOST - usize::from(!old && !new),
            "{when}: {names:?}"
        );
        if confirmed > 0 {
            assert!(new, "{when}: {names:?}");
            let new = member.store.producer("new").unwrap();
            assert!(new.next_seq().unwrap() >= confirmed, "{when}");
        }
        for n in 1..MOST {
            let p = member.store.producer(&format!("p{n}")).unwrap();
            assert_eq!(p.next_seq().unwrap(), 1, "{when}: p{n}");
        }
        assert_whole(&member.store, &when);
    }
}

#[test]
fn a_dropped_name_stays_dropped_after_a_recovery() {
    let world = world();
    let member = open(&world);
    fill(&member);
    // The second name has sent twice, and then the others are used again: it is the oldest.
    let topic = member.store.topic("a").unwrap();
    let twice = member.store.producer("p1").unwrap();
    twice.send(&topic, Some(1), &out(b"y")).unwrap();
    drop(twice);
    for name in names(&member).iter().filter(|name| *name != "p1") {
        world.advance(1);
        drop(member.store.producer(name).unwrap());
    }
    world.advance(WEEK);
    drop(member.store.producer("new").unwrap());
    let there = names(&member);
    assert!(!there.contains(&"p1".to_owned()));
    member.store.flush(None).unwrap();
    member.dies();
    let (cold, cut) = (world.fork(), world.power_cut_with(|_| 0));
    assert!(cold.remove("ctl"));
    for (when, world) in [("warm", world), ("cold", cold), ("cut", cut)] {
        let member = open(&world);
        assert_eq!(member.store.recovery().warm, when == "warm");
        assert_eq!(names(&member), there, "{when}");
        // It comes back as a new one, in the place of another.
        world.advance(WEEK);
        let topic = member.store.topic("a").unwrap();
        let back = member.store.producer("p1").unwrap();
        assert_eq!(back.next_seq().unwrap(), 0, "{when}");
        assert!(!back.send(&topic, Some(0), &out(b"x")).unwrap().duplicate);
        drop(back);
        member.dies();
        assert!(world.remove("ctl"));
        let member = open(&world);
        let back = member.store.producer("p1").unwrap();
        assert_eq!(back.next_seq().unwrap(), 1, "{when}");
        assert_eq!(names(&member).len(), MOST, "{when}");
    }
}

#[test]
fn a_handle_that_nobody_closed_counts_as_used_until_the_recovery() {
    let world = world();
    let member = open(&world);
    fill(&member);
    member.leaves();
    // All are closed, and a snapshot says so: forced by a roll.
    let member = open(&world);
    let topic = member.store.topic("b").unwrap();
    for _ in 0..40 {
        topic.send([1; 2_000]).unwrap();
        member.store.maintain().unwrap();
    }
    let open_long = member.store.producer("p3").unwrap();
    member.store.flush(None).unwrap();
    world.advance(2 * WEEK);
    drop(open_long);
    member.dies();
    let world = world.power_cut_with(|_| 1);
    let member = open(&world);
    for n in 1..MOST {
        drop(member.store.producer(&format!("n{n}")).unwrap());
    }
    assert!(
        names(&member).contains(&"p3".to_owned()),
        "{:?}",
        names(&member)
    );
    refused(&member, "one-more");
}

#[test]
fn damage_to_the_record_of_a_dropped_name_does_not_close_the_store() {
    let world = world();
    let member = open(&world);
    fill(&member);
    world.advance(WEEK);
    let topic = member.store.topic("a").unwrap();
    let new = member.store.producer("new").unwrap();
    new.send(&topic, Some(0), &out(b"x")).unwrap();
    // Proves that what lies before it was on disk.
    new.send(&topic, Some(1), &out(b"x")).unwrap();
    drop(new);
    member.dies();
    // CONFIG (kind 8), operation 9, behind the record's header.
    let (file, bytes) = world
        .files()
        .into_iter()
        .find(|(name, _)| name == "log/00000001.0.seg")
        .unwrap();
    let found = (4096..bytes.len() - 48)
        .step_by(16)
        .filter(|&at| bytes[at + 36] == 8 && bytes[at + 40] == 9);
    let found: Vec<usize> = found.collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(world.corrupt(&file, found[0] as u64 + 50, 1));
    assert!(world.remove("ctl"));
    let member = open(&world);
    assert!(member.store.recovery().damaged_bytes > 0);
    let names = names(&member);
    assert_eq!(names.len(), MOST);
    assert!(names.contains(&"new".to_owned()), "{names:?}");
    let new = member.store.producer("new").unwrap();
    assert_eq!(new.next_seq().unwrap(), 2);
}

#[test]
fn a_full_disk_refuses_a_new_name_and_drops_none() {
    let world = SimWorld::new(SimOptions {
        capacity: Some(16 << 20),
        ..SimOptions::default()
    });
    let member = open(&world);
    fill(&member);
    world.advance(WEEK);
    let there = names(&member);
    world.write_file("filler", &vec![1; 16 << 20]);
    let topic = member.store.topic("a").unwrap();
    // Until not even a small record fits.
    for len in [2_000, 200, 20] {
        let refused = (0..400).find_map(|_| topic.send(vec![1; len]).err());
        assert_eq!(refused.unwrap().code(), Code::Full);
    }
    let e = member.store.producer("new").unwrap_err();
    assert_eq!(e.code(), Code::Full, "{e}");
    assert_eq!(names(&member), there);
    assert_whole(&member.store, "on a full disk");
    world.remove("filler");
    member.store.maintain().unwrap();
    drop(member.store.producer("new").unwrap());
    assert_eq!(names(&member).len(), MOST);
}

#[test]
fn a_random_history_of_names_keeps_every_promise() {
    let mut dropped = 0;
    for seed in 0..40 {
        dropped += model::play(seed, Rng::new(seed));
    }
    assert!(dropped > 100, "only {dropped} names were dropped");
}
