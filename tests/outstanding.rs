//! How much a group may have in flight: a cap of its own, at which only it waits, and a share that
//! no other group can take away.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Delivery, Group, limits};
use members::{Member, assert_whole, id_of, open};

fn capped(m: &Member, name: &str, cap: u32) -> Group {
    let group = m.store.group("t", name).max_outstanding(cap);
    group.open().unwrap()
}

fn receive(group: &Group, max: usize) -> Vec<Delivery> {
    group.receive_batch(max, Duration::ZERO).unwrap()
}

fn numbers(got: &[Delivery]) -> Vec<u64> {
    got.iter().map(|d| id_of(d.body())).collect()
}

#[test]
fn at_its_cap_a_group_gets_nothing_new_and_others_go_on() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let (small, other) = (capped(&m, "small", 3), m.group("t", "other"));
    (1..=8).for_each(|id| m.send("t", id, 40));
    let mut held = receive(&small, 10);
    assert_eq!(numbers(&held), [1, 2, 3]);
    assert!(receive(&small, 10).is_empty());
    assert_eq!(numbers(&receive(&other, 10)), [1, 2, 3, 4, 5, 6, 7, 8]);
    // What is put back counts on, and comes before anything new.
    held.remove(1).nack(Some(Duration::ZERO)).unwrap();
    assert_eq!(numbers(&receive(&small, 10)), [2]);
    let again = receive(&small, 10);
    assert_eq!(
        numbers(&again),
        [2],
        "the delivery that was dropped is back"
    );
    again[0].nack(Some(Duration::from_secs(100))).unwrap();
    assert!(receive(&small, 10).is_empty(), "what waits counts, too");
    // Each that is settled makes room for one.
    held.pop().unwrap().ack().unwrap();
    let next = receive(&small, 10);
    assert_eq!(numbers(&next), [4]);
    held.pop().unwrap().reject("no").unwrap();
    assert_eq!(numbers(&receive(&small, 10)), [5]);
    assert_whole(&m.store, "at the cap");
}

#[test]
fn a_cap_is_stored_compared_and_changed() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = capped(&m, "g", 3);
    assert_eq!(group.config().unwrap().max_outstanding, 3);
    let other = m.store.group("t", "g").max_outstanding(4).open();
    let refused = other.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigMismatch);
    let text = refused.to_string();
    assert!(
        text.contains("max_outstanding 3") && text.contains('4'),
        "{text}"
    );
    (1..=8).for_each(|id| m.send("t", id, 40));
    let held = receive(&group, 10);
    assert_eq!(held.len(), 3);
    let change = group.configure().max_outstanding(5);
    assert_eq!(change.apply().unwrap().max_outstanding, 5);
    assert_eq!(numbers(&receive(&group, 10)), [4, 5]);
    // A lower one takes nothing back.
    group.configure().max_outstanding(1).apply().unwrap();
    held[0].ack().unwrap();
    assert!(group.stats().unwrap().in_flight + group.stats().unwrap().ready > 1);
    m.store.maintain().unwrap();
    drop(held);
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        let group = m.group("t", "g");
        assert_eq!(group.config().unwrap().max_outstanding, 1);
        // What had been looked at comes all the same, one after the other at the latest.
        assert!(!receive(&group, 1).is_empty());
    }
    for bad in [0, limits::OUTSTANDING + 1] {
        let refused = m_bad(bad);
        assert_eq!(refused, Code::InvalidArgument, "{bad}");
    }
    assert_eq!(m_opens(1), 1);
    assert_eq!(m_opens(limits::OUTSTANDING), limits::OUTSTANDING);
}

fn m_bad(cap: u32) -> Code {
    let m = open(&SimWorld::new(SimOptions::default()));
    let made = m.store.group("t", "g").max_outstanding(cap).open();
    made.unwrap_err().code()
}

fn m_opens(cap: u32) -> u32 {
    let m = open(&SimWorld::new(SimOptions::default()));
    capped(&m, "g", cap).config().unwrap().max_outstanding
}

#[test]
fn every_group_finds_its_share_whatever_the_others_hold() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    for id in 1..=200 {
        m.send("t", id, 30);
    }
    // Two that take all they can get, one after the other, and then as many as there can be.
    let greedy = [("one", 1000), ("two", 1000)].map(|(name, cap)| capped(&m, name, cap));
    let mut held: Vec<Delivery> = Vec::new();
    for group in &greedy {
        loop {
            let got = receive(group, 100);
            if got.is_empty() {
                break;
            }
            held.extend(got);
        }
    }
    let slots = 128;
    assert_eq!(
        held.len(),
        slots - slots / 4 + 2,
        "all but the others' shares"
    );
    let mut made = greedy.len();
    loop {
        let opened = m.store.group("t", &format!("late{made}")).open();
        let Ok(late) = opened else {
            assert_eq!(opened.unwrap_err().code(), Code::LimitExceeded);
            break;
        };
        let got = receive(&late, 100);
        assert_eq!(numbers(&got), [1, 2], "group {made} finds its share");
        held.extend(got);
        made += 1;
    }
    assert_eq!(made, 16);
    assert_whole(&m.store, "full");
    // Nobody takes what is another's, and everybody goes on with what he gives back.
    held.drain(..50).for_each(|d| d.ack().unwrap());
    assert_eq!(receive(&greedy[1], 200).len(), 2 + 50 - slots / 4);
}

#[test]
fn who_waits_at_the_cap_is_woken_by_a_settlement() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = capped(&m, "g", 2);
    (1..=9).for_each(|id| m.send("t", id, 40));
    type End = fn(Delivery, &Group);
    let ends: [End; 3] = [
        |d, _| d.ack().unwrap(),
        |d, group| group.ack_many([d]).into_iter().for_each(|r| r.unwrap()),
        |d, _| d.reject("no").unwrap(),
    ];
    let mut held = receive(&group, 2);
    for end in ends {
        assert!(group.receive(Duration::from_millis(10)).unwrap().is_none());
        let before = world.wakes();
        end(held.pop().unwrap(), &group);
        assert!(world.wakes() > before, "nobody was woken");
        held.extend(receive(&group, 2));
        assert_eq!(held.len(), 2);
    }
    // Nobody waits: an ack makes no call.
    held.pop().unwrap().ack().unwrap();
    let before = world.wakes();
    held.pop().unwrap().ack().unwrap();
    assert_eq!(world.wakes(), before);
}
