//! A sync that failed has left clean pages behind that are not on the disk, and the kernel tells of
//! it only once: what it covered counts only after it was written again, to another file or by a
//! successor of the leader (hazards "fsync EIO" and "leader dies around fdatasync").
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use keepq::sim::{Fault, FaultPlan, SimOptions, SimWorld};
use keepq::{Flush, Outcome};
use members::{Member, kill_at, open, open_with, options, owed};

fn fail_call(world: &SimWorld, nth_call: u64) {
    world.plan_fault(FaultPlan {
        nth_call,
        error: Fault::Errno(libc::EIO),
        sticky: false,
    });
}

/// What the group is owed after a power cut that takes all that was not synced.
fn after_a_cut(world: &SimWorld) -> Vec<u64> {
    let cut = world.power_cut_with(|_| 1);
    let member = open(&cut);
    let owed = owed(&cut, &member.store);
    member.leaves();
    owed
}

#[test]
fn what_a_failed_call_covered_counts_when_it_was_written_again() {
    let mut mended = 0;
    for nth in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let member = open(&world);
        member.group("t", "g");
        member.send("t", 1, 100);
        fail_call(&world, nth);
        let topic = member.store.topic("t").unwrap();
        let sent = topic.send(members::body(2, 100));
        let hit = world.faults_hit() > 0;
        world.clear_fault();
        let left = after_a_cut(&world);
        match sent {
            Ok(_) => assert_eq!(left, [1, 2], "call {nth}"),
            Err(e) if e.outcome() == Some(Outcome::MaybeStored) => {
                assert!(left.starts_with(&[1]), "call {nth}: {left:?}");
            }
            Err(e) => assert_eq!(left, [1], "call {nth}: {e}"),
        }
        member.dies();
        if !hit {
            break;
        }
        mended += u64::from(left == [1, 2]);
    }
    eprintln!("{mended} failed calls were made good");
    assert!(mended >= 2, "a write and a sync at least");
}

/// Two members that have both written to the log, the first of which is to flush message 3.
fn before_the_flush(told_once: bool) -> (SimWorld, Member, Member) {
    let world = SimWorld::new(SimOptions {
        told_once,
        ..SimOptions::default()
    });
    let leader = open_with(&world, options().flush(Flush::Async));
    let successor = open_with(&world, options().flush(Flush::Async));
    leader.group("t", "g");
    for (id, member) in [(1, &leader), (2, &successor)] {
        member.send_async("t", id, 100);
        member.store.flush(None).unwrap();
    }
    leader.send_async("t", 3, 100);
    (world, leader, successor)
}

#[test]
fn a_successor_does_not_trust_what_a_dead_leader_wrote() {
    for told_once in [false, true] {
        let (world, leader, _successor) = before_the_flush(told_once);
        let before = world.disk_calls();
        leader.store.flush(None).unwrap();
        let calls = world.disk_calls() - before;
        assert!(calls >= 2, "a write and a sync at least");
        for nth in 1..=calls {
            for k in 1.. {
                let (world, leader, successor) = before_the_flush(told_once);
                fail_call(&world, nth);
                let survived = kill_at(leader, k, &|m| {
                    m.store.flush(None).unwrap();
                });
                world.clear_fault();
                successor.store.flush(None).unwrap();
                let left = after_a_cut(&world);
                assert_eq!(left, [1, 2, 3], "call {nth} failed, killed at point {k}");
                successor.dies();
                if survived {
                    break;
                }
            }
        }
    }
}
