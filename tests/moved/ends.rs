//! A move that ends in its middle: by a death, a power cut, a failing or a full disk, or damage.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Fault, FaultPlan, SimOptions, SimWorld, calls_announced, set_point_hook};
use keepq::{Code, Flush};

use crate::deaths::{Case, NOTHING, run};
use crate::members::{Member, assert_whole, body, drain, ids, open, open_with, options};
use crate::scene::{
    DEAD, LARGE, LARGE_LEN, STUCK, first_segment, flow, look_through, old, segments, settle_down,
};

/// Ballast keeps the history where it is; without it, it can be copied forward.
fn make_movable(m: &mut Member) {
    let ballast = m.group("ballast", "b");
    let mut kept = Vec::new();
    for n in 0..8 {
        m.send("ballast", 1000 + n, 2000);
        kept.extend(ballast.receive(Duration::ZERO).unwrap());
        // The store delivers what is durable: each is sent so.
        let group = m.group("others", "h");
        for id in 100 + 6 * n..106 + 6 * n {
            m.send("others", id, 2000);
            group
                .receive(Duration::ZERO)
                .unwrap()
                .unwrap()
                .ack()
                .unwrap();
            m.store.look();
        }
    }
    assert_eq!(kept.len(), 8);
    for delivery in kept {
        delivery.ack().unwrap();
    }
    m.store.flush(None).unwrap();
}

#[test]
fn a_death_in_the_middle_of_a_move_changes_nothing() {
    run(&Case {
        name: "move",
        ready: make_movable,
        act: |m| {
            let before = first_segment(m.process.world());
            m.store.rest().unwrap();
            assert!(first_segment(m.process.world()) > before);
        },
        steps: 0,
        ..NOTHING
    });
}

/// What a store that is opened after a move owes: everything that is live, and only that.
fn judge(world: &SimWorld, when: &str) {
    let m = open(world);
    let found = m.store.verify().unwrap().findings;
    assert!(found.iter().all(|f| !f.damage), "{when}: {found:?}");
    assert_whole(&m.store, when);
    let found = look_through(&m.store).unwrap_or_else(|e| panic!("{when}: {e}"));
    assert_eq!(found, (vec![STUCK, LARGE], vec![DEAD]), "{when}");
    let left = ids(&drain(world, &m.store));
    let of = |topic: &str, group: &str| left.get(&(topic.to_owned(), group.to_owned())).cloned();
    assert_eq!(of("t", "g"), Some(vec![STUCK, LARGE]), "{when}");
    assert_eq!(of("%DLQ%t%g", "undertaker"), Some(vec![DEAD]), "{when}");
    assert_eq!(left.len(), 2, "{when}: {left:?}");
    m.leaves();
}

#[test]
fn a_power_cut_in_the_middle_of_a_move_loses_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let mut old = old(&world);
    let before = first_segment(&world);
    old.drop_ballast();
    let cuts = Rc::new(RefCell::new(Vec::new()));
    let (taken, at, seen) = (
        Rc::clone(&cuts),
        world.clone(),
        Cell::new(calls_announced()),
    );
    set_point_hook(Some(Box::new(move || {
        // Once before each disk call.
        let now = calls_announced();
        if seen.replace(now) != now {
            let seed = taken.borrow().len() as u64;
            let mut cuts = vec![at.power_cut_with(|_| 1)];
            if seed % 3 == 0 {
                cuts.push(at.power_cut(seed));
            }
            taken.borrow_mut().push(cuts);
        }
    })));
    settle_down(&old.member);
    set_point_hook(None);
    assert!(first_segment(&world) > before + 3);
    let cuts = cuts.take();
    assert!(cuts.len() > 30, "{} disk calls", cuts.len());
    for (call, cuts) in cuts.iter().enumerate() {
        for (kind, cut) in cuts.iter().enumerate() {
            judge(cut, &format!("cut {kind} at call {call}"));
        }
    }
}

#[test]
fn a_failed_call_in_the_middle_of_a_move_loses_nothing() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let mut struck = 0;
        for nth_call in 1.. {
            let world = SimWorld::new(SimOptions::default());
            let mut old = old(&world);
            old.drop_ballast();
            let (hits, calls) = (world.faults_hit(), world.disk_calls());
            world.plan_fault(FaultPlan {
                nth_call,
                error: Fault::Errno(errno),
                sticky: false,
            });
            // It may fail, and then is done later.
            let _ = old.member.store.rest();
            struck += world.faults_hit() - hits;
            let reached = world.disk_calls() - calls >= nth_call;
            world.clear_fault();
            if !reached {
                break;
            }
            if world.faults_hit() == hits {
                continue;
            }
            let when = format!("call {nth_call}, errno {errno}");
            judge(&world.power_cut_with(|_| 1), &when);
            settle_down(&old.member);
            let found = look_through(&old.member.store).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(found, (vec![STUCK, LARGE], vec![DEAD]), "{when}");
            assert!(
                segments(&world).len() <= 6,
                "{when}: {:?}",
                segments(&world)
            );
        }
        assert!(struck > 5, "{struck} calls failed");
    }
}

#[test]
fn a_full_disk_is_tidied_too() {
    let world = SimWorld::new(SimOptions {
        capacity: Some(1 << 20),
        ..SimOptions::default()
    });
    let m = open_with(&world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    m.send_async("t", 1, 100);
    let stuck = group.receive(Duration::ZERO).unwrap().unwrap();
    let consumer = m.group("others", "h");
    let topic = m.store.topic("others").unwrap();
    let mut sent = 0;
    let full = loop {
        let body = body(sent + 2, 2000);
        match topic.message(&body).flush(Flush::Async).send() {
            Ok(_) => sent += 1,
            Err(e) => break e,
        }
        m.store.look();
    };
    assert_eq!(full.code(), Code::Full);
    assert!(sent > 100, "{sent}");
    while let Some(got) = consumer.receive(Duration::ZERO).unwrap() {
        got.ack().unwrap();
        m.store.look();
    }
    for _ in 0..4 {
        // On a disk that is full it may say so once more.
        let _ = m.store.maintain();
        m.store.flush(None).unwrap();
    }
    flow(&m, 1000..1200);
    settle_down(&m);
    assert!(segments(&world).len() <= 5, "{:?}", segments(&world));
    assert_eq!(stuck.attempt(), 1);
    stuck.ack().unwrap();
    m.leaves();
}

/// Flips a bit of the body of the message with this number, in the first file that has it.
fn damage(world: &SimWorld, number: u64, len: usize) {
    let wanted = &body(number, len)[..40];
    for name in segments(world) {
        let bytes = world.read_file(&name).unwrap();
        if let Some(at) = bytes.windows(40).position(|w| w == wanted) {
            assert!(world.corrupt(&name, at as u64 + 30, 1));
            return;
        }
    }
    panic!("no segment has message {number}");
}

#[test]
fn what_is_damaged_before_it_could_be_moved_is_told_and_then_goes() {
    let world = SimWorld::new(SimOptions::default());
    let mut old = old(&world);
    let before = first_segment(&world);
    damage(&world, STUCK, 100);
    old.drop_ballast();
    settle_down(&old.member);
    let m = &old.member;
    assert_eq!(first_segment(&world), before, "it is still to be told");
    let end = m.store.published();
    (0..50).for_each(|_| m.store.look());
    assert_eq!(m.store.published(), end, "nothing is tried again and again");
    // The consumer that holds it puts it back: the next one is told, once.
    old.stuck.nack(Some(Duration::ZERO)).unwrap();
    let group = m.group("t", "g");
    let told = group.receive(Duration::ZERO).unwrap_err();
    assert_eq!(told.code(), Code::Corrupt, "{told}");
    let next = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(next.body(), body(LARGE, LARGE_LEN));
    flow(m, 5000..5020);
    settle_down(m);
    assert!(first_segment(&world) > before + 3, "{:?}", segments(&world));
    let letters = group.dead_letters();
    let letter = letters.browse().next().unwrap().unwrap();
    assert_eq!(letter.content.unwrap().body(), body(DEAD, 100));
}

#[test]
fn damage_to_a_copy_is_told() {
    for forgotten in ["", ".idx", "ctl"] {
        let world = SimWorld::new(SimOptions::default());
        let mut old = old(&world);
        old.make_free();
        // Into a segment that is sealed by now.
        flow(&old.member, 5000..5020);
        settle_down(&old.member);
        damage(&world, STUCK, 100);
        old.stuck.nack(Some(Duration::ZERO)).unwrap();
        old.member.leaves();
        for (name, _) in world.files() {
            let index = !forgotten.is_empty() && name.ends_with(".idx");
            if index || forgotten == "ctl" && name == "ctl" {
                assert!(world.remove(&name));
            }
        }
        let m = open(&world);
        let group = m.group("t", "g");
        let mut told = 0;
        let mut got = Vec::new();
        for _ in 0..4 {
            match group.receive(Duration::ZERO) {
                Ok(Some(delivery)) => got.push(crate::members::id_of(delivery.body())),
                Ok(None) => {}
                Err(e) => {
                    assert_eq!(e.code(), Code::Corrupt, "{e}");
                    told += 1;
                }
            }
        }
        assert_eq!(told, 1, "without {forgotten:?}");
        assert!(
            got.contains(&LARGE) && !got.contains(&STUCK),
            "without {forgotten:?}: {got:?}"
        );
        assert!(m.store.verify().unwrap().findings.iter().any(|f| f.damage));
        m.leaves();
    }
}
