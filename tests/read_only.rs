//! A store that is open for reading only: seen as it is, with nothing taken, written or made.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/history.rs"]
mod history;
#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Error, Flush, GroupStats, Outcome, Start, Store};
use members::{Member, body, id_of, open, open_with, options};

fn look(world: &SimWorld) -> keepq::Result<Store> {
    Store::open_simulated(&world.process(), options().read_only(true))
}

/// Everything that can be seen of a store without changing it, in words.
fn seen(store: &Store) -> Vec<String> {
    let mut seen = Vec::new();
    let stats = store.stats().unwrap();
    for topic in &stats.topics {
        // How many bytes a message keeps depends on files that a recovery in memory does not make.
        let mut counters = topic.clone();
        counters.pin = None;
        seen.push(format!("{counters:?}"));
        let messages = store.existing_topic(&topic.name).unwrap().browse();
        for message in messages {
            let message = message.unwrap();
            let content = message.content.unwrap();
            let found = store.find(content.id()).unwrap();
            assert!(found.is_some() || topic.name.contains('%'), "{content:?}");
            seen.push(format!("{} {:?}", message.seq, content));
        }
    }
    for stats in &stats.groups {
        let group = store.group(&stats.topic, &stats.name).create(false);
        let group = group.open().unwrap();
        // What is leased or waits is known to shared memory only.
        let left = stats.ready + stats.in_flight + stats.delayed - stats.lag;
        seen.push(format!(
            "{} {} {} {} {} {:?}",
            stats.topic,
            stats.name,
            left,
            stats.dead,
            stats.cursor,
            group.config().unwrap()
        ));
        for letter in group.dead_letters().browse() {
            let letter = letter.unwrap();
            seen.push(format!("{:?} {:?}", letter.seq, letter.content.unwrap()));
        }
    }
    seen
}

/// Counters without the age, which goes on while they are looked at.
fn timeless(stats: keepq::Result<GroupStats>) -> GroupStats {
    let mut stats = stats.unwrap();
    assert!(stats.oldest_age.take().is_some());
    stats
}

#[test]
fn while_others_write_their_changes_are_seen() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("orders", 1, 40);
    let group = m.group("orders", "billing");
    let looking = look(&world).unwrap();
    assert!(looking.recovery().joined);
    let topic = looking.topic("orders").unwrap();
    let mut browse = topic.browse();
    let next = |browse: &mut keepq::Browse| {
        let message = browse.next().map(|m| m.unwrap().content.unwrap());
        message.map(|content| id_of(content.body()))
    };
    assert_eq!(next(&mut browse), Some(1));
    assert_eq!(next(&mut browse), None);
    // What is only in the ring is seen as soon as it would be delivered.
    m.send_async("orders", 2, 40);
    assert_eq!(next(&mut browse), None);
    m.store.flush(None).unwrap();
    assert_eq!(next(&mut browse), Some(2));
    for number in 3..120 {
        m.send("orders", number, 400);
        assert_eq!(next(&mut browse), Some(number));
    }
    m.store.maintain().unwrap();
    let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
    let same = looking.group("orders", "billing").open().unwrap();
    assert_eq!(timeless(same.stats()), timeless(group.stats()));
    assert_eq!(same.stats().unwrap().in_flight, 1);
    delivery.reject("no").unwrap();
    assert_eq!(same.dead_letters().browse().count(), 1);
    group.dead_letters().purge().unwrap();
    assert_eq!(same.dead_letters().browse().count(), 0);
    let [mut here, mut there] = [&looking, &m.store].map(|store| store.stats().unwrap());
    for stats in [&mut here, &mut there] {
        let groups = std::mem::take(&mut stats.groups).into_iter();
        stats.groups = groups.map(|group| timeless(Ok(group))).collect();
    }
    assert_eq!(here, there);
    assert_eq!(seen(&looking), seen(&m.store));
    looking.close().unwrap();
    assert_eq!(looking.stats().unwrap_err().code(), Code::Closed);
    assert!(m.store.check_state().unwrap().is_empty());
    m.leaves();
}

/// Bytes of every file, shared memory too.
fn files(world: &SimWorld) -> Vec<(String, Vec<u8>)> {
    world.files()
}

fn assert_same_seen(world: &SimWorld, when: &str) {
    let before = files(world);
    let looking = look(world).unwrap();
    let found = seen(&looking);
    assert!(looking.verify().unwrap().is_ok(), "{when}");
    drop(looking);
    assert!(before == files(world), "{when}: looking changed the store");
    let m = open(world);
    let expected = seen(&m.store);
    // A recovery that writes begins a new epoch: sequences that come next are behind it. One in
    // memory does the same.
    assert_eq!(found, expected, "{when}");
    m.leaves();
}

#[test]
fn a_store_that_nobody_has_open_is_seen_as_the_next_one_to_open_it_finds_it() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    for number in 1..60 {
        m.send("orders", number, 150);
    }
    m.group("orders", "mail");
    m.receive("orders", "billing", 5);
    m.held.pop().unwrap().reject("no").unwrap();
    m.held.pop().unwrap().ack().unwrap();
    m.leaves();
    assert_same_seen(&world.fork(), "left");
    assert_same_seen(&world.power_cut_with(|_| 1), "left, then a power cut");
    let mut m = open_with(&world, options().flush(Flush::Async));
    m.receive("orders", "billing", 2);
    m.send_async("orders", 60, 40);
    m.send_async("fast", 61, 40);
    m.dies();
    assert_same_seen(&world.fork(), "killed");
    for seed in 0..30 {
        let cut = world.power_cut(seed);
        assert_same_seen(&cut, &format!("cut {seed}"));
    }
    let gone = world.fork();
    assert!(gone.remove("ctl"));
    assert_same_seen(&gone, "without shared memory");
    assert_same_seen(&history::history(), "a long history");
    assert_same_seen(
        &history::history().power_cut_with(|_| 1),
        "a long history, cold",
    );
}

#[test]
fn a_view_that_was_recovered_in_memory_stays_as_it_is() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("orders", 1, 40);
    m.leaves();
    let looking = look(&world).unwrap();
    let before = seen(&looking);
    let m = open(&world);
    m.send("orders", 2, 40);
    assert_eq!(seen(&looking), before);
    m.leaves();
    assert_eq!(seen(&looking), before);
}

#[test]
fn a_view_of_shared_memory_that_is_no_more_says_so() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("orders", 1, 40);
    let looking = look(&world).unwrap();
    assert_eq!(seen(&looking), seen(&m.store));
    // All are gone: what was there is still seen.
    m.leaves();
    assert_eq!(looking.topic("orders").unwrap().browse().count(), 1);
    // Others open it warm: it goes on. They recover it cold: it is over.
    let m = open(&world);
    m.send("orders", 2, 40);
    assert_eq!(looking.topic("orders").unwrap().browse().count(), 2);
    m.leaves();
    assert!(world.remove("ctl"));
    let m = open(&world);
    assert_eq!(looking.stats().unwrap_err().code(), Code::StoreGone);
    assert_eq!(seen(&look(&world).unwrap()), seen(&m.store));
}

fn read_only(refused: Error) {
    assert_eq!(refused.code(), Code::ReadOnly, "{refused}");
    assert!(!refused.is_retriable());
}

fn refuses_everything(world: &SimWorld, receipt: &keepq::Receipt) {
    let looking = look(world).unwrap();
    let topic = looking.topic("orders").unwrap();
    let group = looking.group("orders", "billing").open().unwrap();
    let refused = topic.send(b"x").unwrap_err();
    assert_eq!(refused.outcome(), Some(Outcome::NotStored));
    read_only(refused);
    read_only(topic.send(vec![0; 20_000]).unwrap_err());
    read_only(topic.message(b"x").send_async().unwrap_err());
    let many = topic.send_many(&[keepq::OutMessage::default()]);
    read_only(many.into_iter().next().unwrap().unwrap_err());
    read_only(group.receive(Duration::ZERO).unwrap_err());
    read_only(group.receive(Duration::from_secs(5)).unwrap_err());
    read_only(looking.ack(receipt).unwrap_err());
    read_only(looking.nack(receipt, None).unwrap_err());
    read_only(looking.reject(receipt, "no").unwrap_err());
    read_only(looking.extend(receipt, Duration::from_secs(1)).unwrap_err());
    read_only(looking.producer("loader").unwrap_err());
    read_only(group.configure().max_attempts(2).apply().unwrap_err());
    read_only(group.dead_letters().purge().unwrap_err());
    read_only(group.dead_letters().purge_one(0).unwrap_err());
    read_only(looking.flush(None).unwrap_err());
    // Nothing is made.
    assert_eq!(looking.topic("new").unwrap_err().code(), Code::NotFound);
    let new = looking.group("orders", "new").start(Start::Latest).open();
    assert_eq!(new.unwrap_err().code(), Code::NotFound);
    let new = looking.group("new", "new").open();
    assert_eq!(new.unwrap_err().code(), Code::NotFound);
    // Asking for other options is a mismatch here, too.
    let other = looking.group("orders", "billing").max_attempts(3).open();
    assert_eq!(other.unwrap_err().code(), Code::ConfigMismatch);
    looking.interrupt();
    looking.close().unwrap();
}

#[test]
fn whatever_would_change_something_is_refused() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    m.send("orders", 1, 40);
    m.send("orders", 2, 40);
    assert_eq!(m.receive("orders", "billing", 2), 2);
    m.held.pop().unwrap().reject("no").unwrap();
    let receipt = m.held[0].receipt();
    let before = m.store.describe_state().unwrap();
    refuses_everything(&world, &receipt);
    assert_eq!(m.store.describe_state().unwrap(), before);
    m.held.pop().unwrap().ack().unwrap();
    m.leaves();
    let before = files(&world);
    refuses_everything(&world, &receipt);
    assert!(before == files(&world));
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let world = SimWorld::new(SimOptions::default());
    assert_eq!(look(&world).unwrap_err().code(), Code::NotFound);
    assert!(files(&world).is_empty());
}

#[test]
fn those_who_look_stop_nobody() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("orders", 1, 40);
    let looking = look(&world).unwrap();
    // They are no members: the last one to leave is alone, and the next one opens it as it is.
    m.leaves();
    let m: Member = open(&world);
    assert!(m.store.recovery().warm);
    assert_eq!(m.store.stats().unwrap().members, 1);
    m.dies();
    let m = open(&world);
    assert!(m.store.recovery().warm, "{:?}", m.store.recovery());
    assert_eq!(id_of(&body(1, 40)), 1);
    assert_eq!(looking.topic("orders").unwrap().browse().count(), 1);
    m.leaves();
}
