//! Disks that fail, are full or too slow, on a simulated machine.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keepq::sim::{
    CallKind, Fault, FaultPlan, SimOptions, SimWorld, announced_site, calls_announced,
    set_point_hook,
};
use keepq::{Code, Error, Outcome, Pending, Result, SendStatus, Sent, WhenFull};
use parking_lot::Mutex;

use crate::list;
use crate::members::{Member, body, drain, ids, open, open_with, options};

/// Calls this right before the next disk call of a kind on this thread, once.
pub(crate) fn at_next(kind: CallKind, act: impl FnOnce() + 'static) -> Rc<Cell<bool>> {
    let reached = Rc::new(Cell::new(false));
    let (mut last, mut act, told) = (calls_announced(), Some(act), Rc::clone(&reached));
    set_point_hook(Some(Box::new(move || {
        let new = calls_announced() != last;
        last = calls_announced();
        if new && announced_site().is_some_and(|site| site.kind == kind) {
            if let Some(act) = act.take() {
                told.set(true);
                act();
            }
        }
    })));
    reached
}

/// Lets the next call of this kind fail, and all later calls too if `sticky`.
pub(crate) fn fail_next(world: &SimWorld, kind: CallKind, error: Fault, sticky: bool) {
    let machine = world.clone();
    at_next(kind, move || {
        machine.plan_fault(FaultPlan {
            nth_call: 1,
            error,
            sticky,
        });
    });
}

/// What callbacks were called with.
type Told = Arc<Mutex<Vec<(u64, Result<Sent>)>>>;

fn send(member: &Member, number: u64, told: &Told) -> Pending {
    let topic = member.store.topic("t").unwrap();
    let pending = topic.send_async(body(number, 100)).unwrap();
    let told = Arc::clone(told);
    pending.on_done(move |result| told.lock().push((number, result)));
    pending
}

fn start() -> (SimWorld, Member) {
    let world = SimWorld::new(SimOptions::default());
    let member = open(&world);
    member.group("t", "g");
    (world, member)
}

pub(crate) fn in_doubt(error: &Error, code: Code) {
    assert_eq!(error.code(), code, "{error}");
    assert_eq!(error.outcome(), Some(Outcome::MaybeStored), "{error}");
}

#[test]
fn a_failed_flush_ends_every_send_in_flight_with_the_error() {
    for way in ["wait", "flush", "close"] {
        let waits = way != "close";
        let (world, member) = start();
        let topic = member.store.topic("t").unwrap();
        let told: Told = list();
        topic.send_oneway(b"one way");
        let pending: Vec<_> = (0..5).map(|number| send(&member, number, &told)).collect();
        fail_next(&world, CallKind::Fdatasync, Fault::Errno(libc::EIO), true);
        match way {
            "wait" => in_doubt(&pending[4].wait(None).unwrap_err(), Code::Failed),
            "flush" => assert_eq!(member.store.flush(None).unwrap_err().code(), Code::Failed),
            _ => assert_eq!(member.store.close().unwrap_err().code(), Code::Failed),
        }
        set_point_hook(None);
        assert!(world.faults_hit() > 0);
        world.clear_fault();
        if waits {
            assert_eq!(member.store.stats().unwrap().oneway_failed, 1, "in doubt");
            let refused = topic.send_async(b"x").unwrap_err();
            assert_eq!(refused.code(), Code::Failed);
            assert_eq!(refused.outcome(), Some(Outcome::NotStored));
            topic.send_oneway(b"y");
            assert_eq!(member.store.stats().unwrap().oneway_failed, 2, "refused");
            assert_eq!(member.store.close().unwrap_err().code(), Code::Failed);
        }
        let told = told.lock();
        let numbers: Vec<u64> = told.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4], "each once, in order");
        for (_, result) in told.iter() {
            in_doubt(result.as_ref().unwrap_err(), Code::Failed);
        }
        for one in &pending {
            in_doubt(&one.poll().unwrap_err(), Code::Failed);
        }
        member.process.kill();
        let member = open(&world);
        let drained = drain_numbers(&world, &member);
        assert!(drained.iter().all(|number| *number < 5), "{drained:?}");
    }
}

/// The numbers that a group gets; bodies that are no numbered ones would panic.
fn drain_numbers(world: &SimWorld, member: &Member) -> Vec<u64> {
    let group = member.group("t", "g");
    let mut got = Vec::new();
    loop {
        let batch = group.receive_batch(64, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        for delivery in batch {
            let text = String::from_utf8_lossy(delivery.body()).into_owned();
            if let Some(number) = text.split(':').next().filter(|_| text.contains(':')) {
                got.push(number.parse().unwrap());
            }
            delivery.ack().unwrap();
        }
        world.advance(1);
    }
    got
}

#[test]
fn a_flush_that_is_repaired_confirms_what_it_saved() {
    let (world, member) = start();
    let told: Told = list();
    let pending: Vec<_> = (0..5).map(|number| send(&member, number, &told)).collect();
    fail_next(&world, CallKind::Fdatasync, Fault::Errno(libc::EIO), false);
    assert!(pending[0].wait(None).unwrap().unwrap().durable);
    set_point_hook(None);
    assert_eq!(world.faults_hit(), 1);
    assert!(
        told.lock()
            .iter()
            .all(|(_, result)| result.as_ref().is_ok_and(|s| s.durable))
    );
    assert_eq!(told.lock().len(), 5);
    let cut = world.power_cut_with(|_| 1);
    let after = open(&cut);
    let drained = ids(&drain(&cut, &after.store));
    assert_eq!(drained[&("t".to_owned(), "g".to_owned())], [0, 1, 2, 3, 4]);
    after.leaves();
    member.leaves();
}

#[test]
fn a_retriable_flush_is_tried_again_at_the_same_position() {
    // A process at its file-size limit: nothing is written, and the ring still holds it.
    for strikes in 1..=4 {
        let (world, member) = start();
        let told: Told = list();
        let pending = send(&member, 0, &told);
        let (machine, mut left, mut last) = (world.clone(), strikes, calls_announced());
        set_point_hook(Some(Box::new(move || {
            let new = calls_announced() != last;
            last = calls_announced();
            let writes = announced_site().is_some_and(|site| site.kind == CallKind::Pwrite);
            if new && writes && left > 0 {
                left -= 1;
                machine.plan_fault(FaultPlan {
                    nth_call: 1,
                    error: Fault::Errno(libc::EFBIG),
                    sticky: false,
                });
            }
        })));
        let result = pending.wait(None);
        set_point_hook(None);
        assert_eq!(world.faults_hit(), strikes.min(3), "three attempts");
        let count = told.lock().len();
        assert_eq!(count, 1);
        if strikes < 3 {
            assert!(result.unwrap().unwrap().durable);
        } else {
            in_doubt(&result.unwrap_err(), Code::Full);
            assert!(told.lock()[0].1.is_err());
            assert!(
                member.store.flush(None).unwrap(),
                "it was only not confirmed"
            );
        }
        assert_eq!(
            member.store.topic("t").unwrap().len().unwrap(),
            1,
            "appended once"
        );
        member.leaves();
    }
}

#[test]
fn a_plain_send_is_tried_again_within_its_time() {
    let limits = [
        (2, 3_000, true, 2),
        (1, 3_000, false, 1),
        (0, 3_000, false, 0),
        // No back-off would end in time.
        (2, 50, false, 0),
    ];
    for (retries, timeout_ms, succeeds, more) in limits {
        let world = SimWorld::new(SimOptions::default());
        let member = open_with(&world, options().send_retries(retries));
        let topic = member.store.topic("t").unwrap();
        let (machine, mut left, mut last) = (world.clone(), 2, calls_announced());
        set_point_hook(Some(Box::new(move || {
            let new = calls_announced() != last;
            last = calls_announced();
            let writes = announced_site().is_some_and(|site| site.kind == CallKind::Pwrite);
            if new && writes && left > 0 {
                left -= 1;
                machine.plan_fault(FaultPlan {
                    nth_call: 1,
                    error: Fault::Errno(libc::EFBIG),
                    sticky: false,
                });
            }
        })));
        let body = body(1, 100);
        let message = topic
            .message(&body)
            .timeout(Duration::from_millis(timeout_ms));
        let sent = message.send();
        set_point_hook(None);
        assert_eq!(sent.is_ok(), succeeds, "{retries} retries, {timeout_ms} ms");
        assert_eq!(world.faults_hit(), (1 + more).min(2));
        if let Err(error) = sent {
            in_doubt(&error, Code::Full);
        }
        assert_eq!(topic.len().unwrap(), 1, "appended once");
        member.leaves();
    }
}

#[test]
fn a_flush_that_takes_too_long_leaves_the_send_in_doubt() {
    let (world, member) = start();
    let other = open(&world);
    let told: Told = list();
    member.send_async("t", 7, 50);
    let result = Rc::new(Cell::new(None));
    let (seen, callback) = (Rc::clone(&result), Arc::clone(&told));
    let topic = other.store.topic("t").unwrap();
    let reached = at_next(CallKind::Fdatasync, move || {
        // The other member flushes, and stands still in the middle of it.
        let late = body(1, 100);
        let late = topic.message(&late).timeout(Duration::from_millis(300));
        let late = late.send_async().unwrap();
        late.on_done(move |result| callback.lock().push((1, result)));
        assert!(
            late.wait(Duration::from_millis(100)).unwrap().is_none(),
            "not yet"
        );
        assert!(!late.is_done());
        seen.set(Some(late.wait(None)));
    });
    assert!(member.store.flush(None).unwrap());
    set_point_hook(None);
    assert!(reached.get());
    let error = result.take().unwrap().unwrap_err();
    in_doubt(&error, Code::FlushTimeout);
    assert!(error.is_retriable());
    assert_eq!(error.status(), Some(SendStatus::FlushDiskTimeout));
    assert_eq!(told.lock().len(), 1);
    in_doubt(told.lock()[0].1.as_ref().unwrap_err(), Code::FlushTimeout);
    // Waiting with a flush is what helps: it was appended once.
    assert!(other.store.flush(None).unwrap());
    assert_eq!(drain_numbers(&world, &other), [7, 1]);
    other.leaves();
    member.leaves();
}

#[test]
fn a_full_disk_is_tried_again_and_then_refuses() {
    for frees in [None, Some(1), Some(2), Some(3)] {
        let world = SimWorld::new(SimOptions {
            capacity: Some(32 << 20),
            ..SimOptions::default()
        });
        let member = open(&world);
        let topic = member.store.topic("t").unwrap();
        world.write_file("filler", &vec![1; 32 << 20]);
        let full = loop {
            if let Err(e) = topic
                .message(&body(1, 1000))
                .when_full(WhenFull::Refuse)
                .send()
            {
                break e;
            }
        };
        assert_eq!(
            (full.code(), full.outcome()),
            (Code::Full, Some(Outcome::NotStored))
        );
        let kept = topic.len().unwrap();
        let begun = world.boottime_ms();
        let (machine, mut tries, mut last) = (world.clone(), 0, calls_announced());
        set_point_hook(Some(Box::new(move || {
            let new = calls_announced() != last;
            last = calls_announced();
            let makes = announced_site().is_some_and(|site| site.kind == CallKind::Create);
            if new && makes {
                tries += 1;
                if Some(tries) == frees {
                    machine.remove("filler");
                }
            }
        })));
        let sent = topic.send_async(body(2, 1000));
        set_point_hook(None);
        if frees.is_some() {
            assert!(
                sent.unwrap().wait(None).unwrap().unwrap().durable,
                "{frees:?}"
            );
            assert_eq!(topic.len().unwrap(), kept + 1);
        } else {
            let error = sent.unwrap_err();
            assert_eq!(
                (error.code(), error.outcome()),
                (Code::Full, Some(Outcome::NotStored))
            );
            assert_eq!(topic.len().unwrap(), kept);
            let took = world.boottime_ms() - begun;
            assert!((150..1000).contains(&took), "two back-offs, {took} ms");
        }
        member.leaves();
    }
}

#[test]
fn without_a_thread_a_full_list_is_flushed_by_whoever_needs_room() {
    let world = SimWorld::new(SimOptions::default());
    let member = open_with(&world, options().max_in_flight(2));
    let told: Told = list();
    for number in 0..20 {
        drop(send(&member, number, &told));
        assert!(told.lock().len() as u64 + 2 > number);
    }
    member.store.close().unwrap();
    let numbers: Vec<u64> = told.lock().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}
