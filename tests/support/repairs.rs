//! Faults while a damaged store is repaired.

use keepq::sim::{Fault, FaultPlan, SimWorld};

use crate::history;

/// Damage that makes a repair take each of its ways.
fn damaged_histories() -> Vec<SimWorld> {
    let base = history::history();
    let segments: Vec<String> = base
        .files()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.ends_with(".seg"))
        .collect();
    let continued = segments
        .iter()
        .find(|n| n.ends_with(".1.seg"))
        .unwrap()
        .replace(".1.seg", ".0.seg");
    let damages: [&dyn Fn(&SimWorld); 5] = [
        &|w| {
            w.corrupt(&segments[0], 4096 + 200, 1);
            w.write_file("ctl.new", b"left");
            w.write_file("log/00000077.idx", b"left");
        },
        &|w| {
            w.corrupt(&segments[1], 30, 1);
            w.corrupt("SUPER", 40, 1);
        },
        &|w| {
            let [a, b] = [0, 1].map(|i| w.read_file(&segments[i]).unwrap());
            w.write_file(&segments[0], &b);
            w.write_file(&segments[1], &a);
        },
        &|w| {
            w.remove(&continued);
            w.remove("LOCK");
            w.remove("ctl");
        },
        &|w| {
            for at in 20..40 {
                w.corrupt(&continued, at, 0x5a);
            }
        },
    ];
    let mut damaged: Vec<SimWorld> = Vec::new();
    for damage in damages {
        let world = base.fork();
        damage(&world);
        damaged.push(world);
    }
    // Nothing but what attempts that died have left: beside the log, and in quarantine.
    let left = base.fork();
    left.write_file("ctl.new", b"left");
    damaged.push(left);
    let again = damaged[0].fork();
    repair(&again).expect("it can be repaired");
    again.write_file("quarantine/x.tmp", b"left");
    damaged.push(again);
    damaged
}

fn repair(world: &SimWorld) -> keepq::Result<keepq::RepairReport> {
    let process = world.process();
    let done = keepq::repair_simulated(&process, &keepq::RepairOptions::default());
    process.kill();
    done
}

/// Faults while a damaged store is repaired: the next repair brings it to the same end.
pub(crate) fn strike_at_repairs() {
    for (number, damaged) in damaged_histories().into_iter().enumerate() {
        let whole = damaged.fork();
        let before = whole.disk_calls();
        repair(&whole).unwrap_or_else(|e| panic!("damage {number}: {e}"));
        for nth_call in 1..=whole.disk_calls() - before {
            let world = damaged.fork();
            let when = format!("damage {number}, call {nth_call}");
            world.plan_fault(FaultPlan {
                nth_call,
                error: Fault::Errno(libc::EIO),
                sticky: false,
            });
            let first = repair(&world);
            world.clear_fault();
            let report = repair(&world).unwrap_or_else(|e| panic!("{when}: {e} after {first:?}"));
            assert!(report.is_ok(), "{when}: {:?}", report.after.findings);
        }
    }
}
