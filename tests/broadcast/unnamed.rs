//! Consumers without a name: each gets every message, and ends with its handle, its store or its
//! process, whoever dies meanwhile; never before.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Fault, FaultPlan, Rng, SimOptions, SimWorld, set_point_hook};
use keepq::{Code, Flush, Group, Start, limits};

use crate::members::{Member, assert_whole, body, id_of, kill_at, open, open_with, options};
use crate::take;

fn unnamed(m: &Member) -> Group {
    let group = m.store.group("t", "news").broadcast_unnamed();
    group.open().unwrap()
}

/// The names of all groups and of all streams of dead letters.
fn names(m: &Member) -> Vec<String> {
    let stats = m.store.stats().unwrap();
    let letters = stats.topics.iter().filter(|t| t.name.starts_with('%'));
    let letters = letters.map(|t| t.name.clone());
    let groups = stats.groups.iter().map(|g| g.name.clone());
    letters.chain(groups).collect()
}

/// How many consumers without a name there are.
fn count(m: &Member) -> usize {
    let stats = m.store.stats().unwrap();
    let groups = stats.groups.iter();
    groups.filter(|g| g.name.starts_with("news%%")).count()
}

#[test]
fn each_gets_every_message_and_ends_with_its_handle() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let shared = m.group("t", "news");
    m.send("t", 1, 40);
    let (one, two) = (unnamed(&m), unnamed(&m));
    assert_ne!(one.name(), two.name());
    for group in [&one, &two] {
        let digits = group.name().strip_prefix("news%%").unwrap();
        assert!(digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    m.send("t", 2, 40);
    assert_eq!((take(&one), take(&two)), (vec![1, 2], vec![1, 2]));
    assert_eq!(take(&shared), [1, 2]);
    let latest = m.store.group("t", "news").broadcast_unnamed();
    let latest = latest.start(Start::Latest).open().unwrap();
    m.send("t", 3, 40);
    assert_eq!(take(&latest), [3]);
    assert_eq!(count(&m), 3);
    drop(latest);
    assert_eq!(count(&m), 2);
    // Clones and what they received hold it.
    let clone = one.clone();
    drop(one);
    let held = clone.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(id_of(held.body()), 3);
    let receipt = held.receipt();
    drop(clone);
    assert_eq!(count(&m), 2);
    held.reject("no").unwrap();
    assert_eq!(names(&m).len(), 4, "its dead letters, and three groups");
    drop(held);
    assert_eq!(names(&m), ["news", two.name()]);
    // What named it fits nothing any more, and the other goes on.
    let gone = m.store.ack(&receipt).unwrap_err();
    assert!(matches!(gone.code(), Code::LeaseLost | Code::NotFound));
    assert_eq!(take(&two), [3]);
    assert_whole(&m.store, "at the end");
}

#[test]
fn one_ends_with_the_store_it_was_opened_by() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let (one, two) = (unnamed(&m), unnamed(&other));
    m.send("t", 1, 40);
    let held = one.receive(Duration::ZERO).unwrap().unwrap();
    m.store.close().unwrap();
    assert_eq!(names(&other), [two.name()]);
    assert_eq!(held.ack().unwrap_err().code(), Code::Closed);
    drop((one, held));
    assert_eq!(take(&two), [1]);
    assert_whole(&other.store, "at the end");
    other.leaves();
    let m = open(&world);
    assert!(m.store.recovery().warm);
    assert_eq!(names(&m), [""; 0]);
}

#[test]
fn deleting_one_leaves_nothing_to_end() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let (one, two) = (unnamed(&m), unnamed(&m));
    one.delete().unwrap();
    // Somebody else has its place by now.
    let three = unnamed(&m);
    drop(one);
    assert_eq!(count(&m), 2);
    m.store.topic("t").unwrap().delete().unwrap();
    assert_eq!(
        two.receive(Duration::ZERO).unwrap_err().code(),
        Code::NotFound
    );
    drop((two, three));
    assert_whole(&m.store, "at the end");
}

#[test]
fn without_a_right_to_make_it_there_is_none() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("t", 1, 40);
    let open_one = |m: &Member| m.store.group("t", "news").broadcast_unnamed();
    let missing = open_one(&m).create(false).open().unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let looking = open_with(&world, options().read_only(true));
    let refused = open_one(&looking).open().unwrap_err();
    assert_eq!(refused.code(), Code::ReadOnly);
    // The name that is drawn counts towards the limit.
    let group = "g".repeat(limits::BROADCAST_NAME - 120 - 17);
    let topic = "t".repeat(120);
    let longest = m.store.group(&topic, &group).broadcast_unnamed();
    longest.open().unwrap();
    let longer = m.store.group(&topic, &format!("{group}g"));
    let refused = longer.broadcast_unnamed().open().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidName);
    assert_eq!(names(&m), [""; 0]);
}

#[test]
fn one_whose_process_died_ends_at_once_and_another_in_its_place_is_not_taken_for_it() {
    let world = SimWorld::new(SimOptions::default());
    let living = open(&world);
    let kept = unnamed(&living);
    for round in 0..3 {
        let mut dying = open(&world);
        dying.group = Some(unnamed(&dying));
        dying.held = dying
            .group
            .as_ref()
            .unwrap()
            .receive_batch(4, Duration::ZERO)
            .unwrap();
        dying.dies();
        assert_eq!(count(&living), 2, "round {round}");
        if round == 1 {
            // The next one moves into the slot of the dead, which is its own then.
            let next = open(&world);
            assert_eq!(count(&next), 1, "opening ends those of the dead");
            next.leaves();
        } else {
            living.store.look();
        }
        assert_eq!(names(&living), [kept.name()], "round {round}");
        living.send("t", round, 40);
        assert_whole(&living.store, "ended");
    }
    assert_eq!(take(&kept), [0, 1, 2]);
}

#[test]
fn what_a_dead_one_held_back_is_given_back() {
    let world = SimWorld::new(SimOptions::default());
    let living = open(&world);
    let group = living.group("t", "workers");
    let mut dying = open(&world);
    dying.group = Some(unnamed(&dying));
    let full = |m: &Member| m.store.stats().unwrap().segments;
    for id in 1..=100 {
        living.send("t", id, 900);
        assert_eq!(take(&group), [id]);
        living.store.look();
    }
    living.store.rest().unwrap();
    assert!(full(&living) >= 5, "it holds them back");
    dying.dies();
    living.store.look();
    for _ in 0..3 {
        living.store.rest().unwrap();
    }
    assert!(full(&living) <= 3, "{} segments", full(&living));
    assert_eq!(names(&living), ["workers"]);
}

#[test]
fn a_sender_that_waits_for_room_goes_on_when_the_one_that_was_slow_dies() {
    let world = SimWorld::new(SimOptions::default());
    let living = open(&world);
    let topic = living.store.topic_with("t").max_messages(2).open().unwrap();
    let group = living.group("t", "workers");
    let mut dying = open(&world);
    dying.group = Some(unnamed(&dying));
    for id in 1..=2 {
        topic.send(body(id, 40)).unwrap();
    }
    assert_eq!(take(&group), [1, 2]);
    assert_eq!(topic.send(b"3").unwrap_err().code(), Code::Full);
    dying.dies();
    living.store.look();
    topic.send(body(3, 40)).unwrap();
    assert_eq!(take(&group), [3]);
}

#[test]
fn those_of_the_dead_leave_room_for_others_in_a_full_table() {
    let world = SimWorld::new(SimOptions::default());
    let living = open(&world);
    living.send("t", 1, 40);
    let dying = open(&world);
    let mut all = Vec::new();
    let full = loop {
        match dying.store.group("t", "news").broadcast_unnamed().open() {
            Ok(group) => all.push(group),
            Err(e) => break e,
        }
    };
    assert_eq!(full.code(), Code::LimitExceeded);
    assert_eq!(all.len(), count(&living));
    // One that ends leaves its place.
    all.pop();
    all.push(unnamed(&dying));
    all.into_iter().for_each(std::mem::forget);
    dying.dies();
    living.store.look();
    assert_eq!(take(&living.group("t", "workers")), [1]);
    assert_eq!(names(&living), ["workers"]);
}

/// A group, a named consumer and one without a name, each with messages that are new, held, given
/// back and dead.
fn start(world: &SimWorld) -> Member {
    let mut m = open_with(world, options().flush(Flush::Async));
    for id in 1..=8 {
        m.send("t", id, 60);
    }
    let named = m.store.group("t", "news").broadcast("one").open().unwrap();
    let last = unnamed(&m);
    for group in [&m.group("t", "workers"), &named, &last] {
        let got = group.receive_batch(4, Duration::ZERO).unwrap();
        for (i, d) in got.into_iter().enumerate() {
            match i {
                0 => d.ack().unwrap(),
                1 => d.reject("no").unwrap(),
                2 => d.nack(None).unwrap(),
                _ => m.held.push(d),
            }
        }
    }
    m.store.flush(None).unwrap();
    m.group = Some(last);
    m
}

/// What is left once no member of before is: nothing of consumers without a name, all of others.
fn judge(world: &SimWorld, m: &Member, when: &str) {
    assert_whole(&m.store, when);
    let report = m.store.recovery().clone();
    assert_eq!(report.damaged_bytes, 0, "{when}: {report:?}");
    let letters = ["%DLQ%t%news%one", "%DLQ%t%workers"];
    let groups = ["news%one", "workers"];
    assert_eq!(names(m), [letters, groups].concat(), "{when}");
    world.advance(100_000);
    m.store.look();
    for name in ["news", "workers"] {
        let mut group = m.store.group("t", name).create(false);
        if name == "news" {
            group = group.broadcast("one");
        }
        let mut got = take(&group.open().unwrap());
        got.sort_unstable();
        assert_eq!(got, [3, 4, 5, 6, 7, 8], "{when}: {name}");
    }
    assert!(m.store.verify().unwrap().is_ok(), "{when}");
}

#[test]
fn none_survives_a_power_cut_anywhere_and_nothing_else_goes_with_it() {
    let world = SimWorld::new(SimOptions::default());
    let cuts = Rc::new(RefCell::new(Vec::new()));
    let mut m = start(&world);
    let (seen, machine) = (Rc::clone(&cuts), world.clone());
    let (mut rng, mut last) = (Rng::new(11), world.disk_calls());
    set_point_hook(Some(Box::new(move || {
        if machine.disk_calls() != last {
            last = machine.disk_calls();
            let drawn = machine.power_cut(rng.next_u64());
            let all = [
                machine.power_cut_with(|_| 0),
                machine.power_cut_with(|_| 1),
                drawn,
            ];
            seen.borrow_mut().extend(all);
        }
    })));
    // Snapshots with it, its end, snapshots without it, another one.
    m.store.maintain().unwrap();
    let another = unnamed(&m);
    m.store.flush(None).unwrap();
    m.held.clear();
    m.group = None;
    m.store.maintain().unwrap();
    m.store.flush(None).unwrap();
    drop(another);
    m.store.rest().unwrap();
    set_point_hook(None);
    let cuts = std::mem::take(&mut *cuts.borrow_mut());
    assert!(cuts.len() >= 20, "{} cuts", cuts.len());
    for (i, cut) in cuts.iter().enumerate() {
        let when = format!("cut {i}");
        // Once more, before anything that the first recovery wrote is durable by itself.
        let m = open(cut);
        let again = cut.power_cut_with(|_| 1);
        judge(cut, &m, &when);
        m.leaves();
        judge(&again, &open(&again), &format!("{when}, twice"));
    }
}

#[test]
fn none_survives_the_death_of_everybody_with_or_without_shared_memory() {
    let world = SimWorld::new(SimOptions::default());
    start(&world).dies();
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    let warm = open(&world);
    assert!(warm.store.recovery().warm);
    judge(&world, &warm, "warm");
    let m = open(&cold);
    assert!(!m.store.recovery().warm);
    judge(&cold, &m, "cold");
    // Who only looks sees none either, and leaves it at that.
    let world = SimWorld::new(SimOptions::default());
    start(&world).dies();
    assert!(world.remove("ctl"));
    let looking = open_with(&world, options().read_only(true));
    let letters = ["%DLQ%t%news%one", "%DLQ%t%workers", "news%one", "workers"];
    assert_eq!(names(&looking), letters);
}

/// Of what two consumers had taken to different ends, what both had taken is gone with them. What
/// the slower one is owed stays, unless it ends first: then it was released.
#[test]
fn a_topic_that_is_left_without_groups_keeps_what_none_had_taken() {
    let all: [(bool, [usize; 2], &[u64]); 3] = [
        (true, [5, 3], &[4, 5, 6]),
        (false, [5, 3], &[4, 5, 6]),
        (false, [3, 5], &[6]),
    ];
    for (cold, taken, left) in all {
        let world = SimWorld::new(SimOptions::default());
        let m = open(&world);
        (1..=6).for_each(|id| m.send("t", id, 40));
        for most in taken {
            let group = unnamed(&m);
            let got = group.receive_batch(most, Duration::ZERO).unwrap();
            assert!(group.ack_many(got).iter().all(Result::is_ok));
            std::mem::forget(group);
        }
        m.store.flush(None).unwrap();
        m.dies();
        if cold {
            assert!(world.remove("ctl"));
        }
        let m = open(&world);
        assert_eq!(
            take(&m.group("t", "workers")),
            left,
            "{taken:?}, cold: {cold}"
        );
    }
}

/// Checks that of all consumers without a name the living one's is left, with all it is owed, and
/// once that has ended, none; that the other groups are as they were; and that the log says so.
fn judge_living(world: &SimWorld, living: &Member, kept: Group, when: &str) {
    assert_whole(&living.store, when);
    assert_eq!(names(living), [kept.name(), "workers"], "{when}");
    assert_eq!(take(&kept), [1, 2], "{when}");
    drop(kept);
    assert_eq!(names(living), ["workers"], "{when}");
    living.store.flush(None).unwrap();
    let cut = open(&world.power_cut_with(|_| 1));
    assert_whole(&cut.store, when);
    assert_eq!(names(&cut), ["workers"], "{when}");
    assert_eq!(take(&cut.group("t", "workers")), [1, 2], "{when}");
}

fn two_messages() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.group("t", "workers");
    m.send("t", 1, 60);
    m.send("t", 2, 60);
    m.leaves();
    world
}

/// One lives all the while, with a consumer of its own; another one is killed at each point of its
/// own.
fn kills(name: &str, act: &dyn Fn(&mut Member)) {
    let base = two_messages();
    let mut k = 1;
    loop {
        let when = format!("{name}, killed at {k}");
        let world = base.fork();
        let living = open(&world);
        let kept = unnamed(&living);
        let survived = kill_at(open(&world), k, act);
        living.store.look();
        judge_living(&world, &living, kept, &when);
        if survived {
            assert!(k > 10, "{name}: there are points to be killed at");
            return;
        }
        k += 1;
    }
}

#[test]
fn one_that_is_killed_ends_wherever_it_was() {
    kills("a life", &|m| {
        let group = unnamed(m);
        let got = group.receive_batch(2, Duration::ZERO).unwrap();
        got[0].ack().unwrap();
        got[1].reject("no").unwrap();
        drop(got);
        drop(group);
    });
}

#[test]
fn a_close_that_is_killed_ends_them_all_the_same() {
    kills("a close", &|m| {
        let group = unnamed(m);
        m.held = group.receive_batch(1, Duration::ZERO).unwrap();
        m.group = Some(group);
        m.store.close().unwrap();
    });
}

#[test]
fn who_ends_one_of_the_dead_is_killed_and_the_next_does_it() {
    let base = two_messages();
    let (mut k, mut undone) = (1, 0);
    loop {
        let when = format!("killed at {k}");
        let world = base.fork();
        let (living, looks) = (open(&world), open(&world));
        let kept = unnamed(&living);
        let mut dying = open(&world);
        let group = unnamed(&dying);
        dying.held = group.receive_batch(2, Duration::ZERO).unwrap();
        dying.held.pop().unwrap().reject("no").unwrap();
        dying.group = Some(group);
        dying.dies();
        let survived = kill_at(looks, k, &|m| m.store.look());
        undone += u64::from(count(&living) == 2);
        assert!(!survived || count(&living) == 1, "{when}");
        living.store.look();
        judge_living(&world, &living, kept, &when);
        if survived {
            assert!(undone > 10 && k > undone + 10, "{undone} of {k}");
            return;
        }
        k += 1;
    }
}

/// Whoever ends one on a disk that fails: it is gone or left to the next, and nothing else is.
#[test]
fn a_failed_call_leaves_one_to_the_next_who_ends_it() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let mut struck = 0;
        for nth_call in 1.. {
            let when = format!("call {nth_call}, errno {errno}");
            let world = SimWorld::new(SimOptions::default());
            let m = start(&world);
            let (hits, calls) = (world.faults_hit(), world.disk_calls());
            world.plan_fault(FaultPlan {
                nth_call,
                error: Fault::Errno(errno),
                sticky: false,
            });
            // A drop has no result; what it fails to do shows below.
            let Member {
                group, held, store, ..
            } = m;
            drop((group, held));
            let closed = store.close();
            struck += world.faults_hit() - hits;
            let reached = world.disk_calls() - calls >= nth_call;
            world.clear_fault();
            assert!(reached || closed.is_ok(), "{when}: {closed:?}");
            let cut = world.power_cut_with(|_| 1);
            judge(&cut, &open(&cut), &when);
            judge(&world, &open(&world), &when);
            if !reached {
                break;
            }
        }
        assert!(struck >= 2, "a write and a sync at least");
    }
}

#[test]
fn a_full_disk_takes_the_end_of_one_and_gets_room_by_it() {
    let world = SimWorld::new(SimOptions {
        capacity: Some(1 << 20),
        ..SimOptions::default()
    });
    let m = open(&world);
    let group = m.group("t", "workers");
    let held_back = unnamed(&m);
    let full = (1..4_000).find_map(|id| {
        m.store.look();
        let sent = m.store.topic("t").unwrap().send(body(id, 3_000));
        assert!(sent.is_err() || take(&group) == [id]);
        sent.err()
    });
    assert_eq!(full.expect("it fills").code(), Code::Full);
    drop(held_back);
    assert_eq!(names(&m), ["workers"]);
    let cut = open(&world.power_cut_with(|_| 1));
    assert_eq!(names(&cut), ["workers"]);
    // What it held back makes room.
    let sent = (0..50).find(|_| {
        m.store.look();
        m.store.topic("t").unwrap().send(b"more").is_ok()
    });
    assert!(sent.is_some());
}

#[test]
fn one_that_could_not_be_left_ends_when_the_lock_is_free_again() {
    let mut stuck = 0;
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let (slow, other) = (open(&world), open(&world));
        let group = slow.group("t", "g");
        slow.send("t", 1, 100);
        // At its k-th point the slow one stands still, for as long as the other has patience.
        let mut handle = Some(unnamed(&other));
        let dropped = Rc::new(RefCell::new(false));
        let (noted, mut point) = (Rc::clone(&dropped), 0);
        set_point_hook(Some(Box::new(move || {
            point += 1;
            if point == k {
                drop(handle.take());
                *noted.borrow_mut() = true;
            }
        })));
        group
            .receive(Duration::ZERO)
            .unwrap()
            .unwrap()
            .ack()
            .unwrap();
        set_point_hook(None);
        if !*dropped.borrow() {
            break;
        }
        stuck += count(&slow);
        other.store.look();
        assert_eq!(count(&slow), 0, "stopped at point {k}");
        assert_whole(&slow.store, &format!("stopped at point {k}"));
    }
    assert!(stuck > 3, "only {stuck} stops with the lock held");
}
