//! A purge takes all messages of a topic, a deletion takes a topic or a group: wholly or not at
//! all, for good, and nothing else, whatever dies. What names the old one never meets the new.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "deletion/gone.rs"]
mod gone;
#[path = "support/members.rs"]
mod members;
#[path = "deletion/storm.rs"]
mod storm;
#[path = "deletion/waits.rs"]
mod waits;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Rng, SimOptions, SimWorld, set_point_hook};
use keepq::{Code, Flush, Store};
use members::{Member, assert_whole, body, drain, id_of, ids, kill_at, open, open_with, options};

/// What every group is owed, by topic and name, and whether the group is there.
type Owed = BTreeMap<(String, String), Vec<u64>>;

/// The machine after a power cut that took everything that was not durable.
fn cut(world: &SimWorld) -> SimWorld {
    world.power_cut_with(|_| 1)
}

/// Two topics with two groups each: one of "orders" with messages that are new, held, waiting,
/// acked and dead. Numbers from 1 on; those of "other" from 101 on.
fn start(world: &SimWorld) -> Member {
    let mut m = open_with(world, options().flush(Flush::Async));
    for id in 1..=9 {
        m.send("orders", id, 60);
        m.send("other", 100 + id, 60);
    }
    for (topic, group) in [("orders", "mail"), ("other", "mail"), ("other", "billing")] {
        m.group(topic, group);
    }
    assert_eq!(m.receive("orders", "billing", 6), 6);
    for (i, d) in m.held.drain(..).enumerate() {
        match i {
            0 => d.ack().unwrap(),
            1 => d.nack(Some(Duration::from_secs(100))).unwrap(),
            2 => d.nack(Some(Duration::ZERO)).unwrap(),
            3 => d.reject("no such customer").unwrap(),
            _ => drop(d.detach()),
        }
    }
    assert_eq!(m.receive("other", "billing", 1), 1);
    m.held.drain(..).for_each(|d| d.reject("no good").unwrap());
    m.store.flush(None).unwrap();
    m
}

/// What a fork of the machine owes, by a member that opens it there.
fn owed_there(world: &SimWorld, when: &str) -> Owed {
    let m = open(world);
    assert_whole(&m.store, when);
    let report = m.store.recovery().clone();
    assert_eq!(report.damaged_bytes, 0, "{when}: {report:?}");
    let owed = owed_here(world, &m.store);
    assert!(m.store.verify().unwrap().is_ok(), "{when}");
    m.leaves();
    owed
}

fn owed_here(world: &SimWorld, store: &Store) -> Owed {
    world.advance(200_000);
    let groups = store.stats().unwrap().groups;
    let mut owed: Owed = groups
        .into_iter()
        .map(|g| ((g.topic, g.name), Vec::new()))
        .collect();
    owed.extend(ids(&drain(world, store)));
    owed
}

/// Checks that the machine owes the same to everybody, opened by whom lives, warm, cold, and after
/// a power cut of what is on disk; returns it.
fn agreed(world: &SimWorld, living: Member, when: &str) -> Owed {
    living.store.look();
    assert_whole(&living.store, when);
    living.store.flush(None).unwrap();
    let cut = cut(world);
    living.leaves();
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    let warm = owed_there(world, when);
    assert_eq!(owed_there(&cold, when), warm, "{when}: cold");
    assert_eq!(owed_there(&cut, when), warm, "{when}: after a power cut");
    warm
}

fn purge(m: &mut Member) {
    assert_eq!(m.store.topic("orders").unwrap().purge().unwrap(), 9);
}

fn delete_topic(m: &mut Member) {
    m.store.existing_topic("orders").unwrap().delete().unwrap();
}

fn delete_group(m: &mut Member) {
    m.group("orders", "billing").delete().unwrap();
}

/// What is owed before and after each change.
fn expected(act: &str) -> (Owed, Owed) {
    let all = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<u64>>();
    let pair = |t: &str, g: &str| (t.to_owned(), g.to_owned());
    let before: Owed = [
        (pair("orders", "billing"), vec![2, 3, 5, 6, 7, 8, 9]),
        (pair("orders", "mail"), all(1..=9)),
        (pair("other", "billing"), all(102..=109)),
        (pair("other", "mail"), all(101..=109)),
        (pair("%DLQ%orders%billing", "undertaker"), vec![4]),
        (pair("%DLQ%other%billing", "undertaker"), vec![101]),
    ]
    .into();
    let mut after = before.clone();
    match act {
        "purge" => {
            after.insert(pair("orders", "billing"), vec![]);
            after.insert(pair("orders", "mail"), vec![]);
        }
        "delete topic" => after.retain(|(topic, _), _| !topic.contains("orders")),
        _ => {
            after.remove(&pair("orders", "billing"));
            after.remove(&pair("%DLQ%orders%billing", "undertaker"));
        }
    }
    (before, after)
}

const CHANGES: [Change; 3] = [
    ("purge", purge),
    ("delete topic", delete_topic),
    ("delete group", delete_group),
];

#[test]
fn a_change_that_is_killed_is_made_wholly_or_not_at_all() {
    for (name, act) in CHANGES {
        let base = SimWorld::new(SimOptions::default());
        start(&base).leaves();
        let (before, after) = expected(name);
        let (mut k, mut undone) = (1, 0);
        loop {
            let when = format!("{name}, killed at {k}");
            let world = base.fork();
            let (dying, living) = (open(&world), open(&world));
            let survived = kill_at(dying, k, &act);
            let found = agreed(&world, living, &when);
            assert!(
                found == after || found == before && !survived,
                "{when}: {found:?}"
            );
            undone += u64::from(found == before);
            if survived {
                break;
            }
            k += 1;
        }
        eprintln!("{name}: {k} kill points, {undone} before it counts");
        assert!(undone > 5 && k > undone + 5, "{name}: {undone} of {k}");
    }
}

#[test]
fn a_change_that_returned_is_on_disk() {
    for (name, act) in CHANGES {
        let world = SimWorld::new(SimOptions::default());
        let mut m = start(&world);
        act(&mut m);
        let found = owed_there(&cut(&world), name);
        assert_eq!(found, expected(name).1, "{name}");
    }
}

/// At each disk call of a change the power is cut, and nothing or anything is lost of what is not
/// on disk.
#[test]
fn a_power_cut_leaves_a_change_made_or_not() {
    for (name, act) in CHANGES {
        let world = SimWorld::new(SimOptions::default());
        let mut m = start(&world);
        let cuts = Rc::new(std::cell::RefCell::new(Vec::new()));
        let (seen, machine) = (Rc::clone(&cuts), world.clone());
        let (mut rng, mut last) = (Rng::new(7), world.disk_calls());
        set_point_hook(Some(Box::new(move || {
            if machine.disk_calls() != last {
                last = machine.disk_calls();
                let drawn = machine.power_cut(rng.next_u64());
                let all = [machine.power_cut_with(|_| 0), cut(&machine), drawn];
                seen.borrow_mut().extend(all);
            }
        })));
        act(&mut m);
        set_point_hook(None);
        let (before, after) = expected(name);
        let cuts = std::mem::take(&mut *cuts.borrow_mut());
        assert!(cuts.len() >= 6, "{name}: {} cuts", cuts.len());
        for (i, cut) in cuts.iter().enumerate() {
            let found = owed_there(cut, name);
            assert!(
                found == before || found == after,
                "{name}, cut {i}: {found:?}"
            );
        }
    }
}

/// Sends until the log has one more segment.
fn roll(m: &Member) {
    let segments = |m: &Member| m.store.stats().unwrap().segments;
    let before = segments(m);
    while segments(m) == before {
        m.send("rest", 900, 900);
    }
}

/// A change at the k-th point of another process's maintenance, in which a snapshot is written, and
/// then a new topic at the same place. `None`: there are fewer points.
fn change_within_a_snapshot(base: &SimWorld, k: u64, (name, act): Change) -> Option<bool> {
    let world = base.fork();
    let maintainer = open(&world);
    roll(&maintainer);
    let mut other = open_with(&world, options().send_timeout(Duration::from_millis(50)));
    let done = Rc::new(Cell::new(None));
    let (points, result) = (Cell::new(0), Rc::clone(&done));
    let process = other.process.clone();
    set_point_hook(Some(Box::new(move || {
        points.set(points.get() + 1);
        if points.get() == k {
            // In the middle of a change of the other's, it is busy.
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&mut other)));
            result.set(Some(made.is_ok()));
        }
    })));
    let maintained = maintainer.store.maintain();
    set_point_hook(None);
    process.kill();
    let made = done.take()?;
    maintained.unwrap();
    // The header of the next segment names the snapshot: a recovery begins with it.
    roll(&maintainer);
    let (before, after) = expected(name);
    let mut found = agreed(&world, maintainer, &format!("{name} at point {k}"));
    found.retain(|(topic, _), _| topic != "rest");
    let wanted = if made { after } else { before };
    assert_eq!(found, wanted, "{name} at point {k}");
    Some(made)
}

type Change = (&'static str, fn(&mut Member));

#[test]
fn a_snapshot_that_is_being_written_misses_no_change() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let base = SimWorld::new(SimOptions::default());
    start(&base).leaves();
    let mut counts = Vec::new();
    for change in CHANGES {
        let results = (1..).map_while(|k| change_within_a_snapshot(&base, k, change));
        let results: Vec<bool> = results.collect();
        counts.push((results.iter().filter(|made| **made).count(), results.len()));
    }
    std::panic::set_hook(quiet);
    assert!(counts.iter().all(|(made, _)| *made >= 10), "{counts:?}");
}
