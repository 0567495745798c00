//! Deaths and recoveries of ordered groups.

use std::time::Duration;

use keepq::Code;
use keepq::sim::{Rng, SimOptions, SimWorld};

use super::{assert_apart, drain, group, key_of, numbers, receive, send};
use crate::members::{Member, assert_whole, body, id_of, kill_at, open};

/// What a member does before it dies, what it dies in, and what that settles if it is done.
struct Case {
    name: &'static str,
    ready: fn(&mut Member),
    act: fn(&mut Member),
    settles: &'static [u64],
}

/// Twelve messages; of 1 to 6 some are settled, in flight and parked.
fn base() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = group(&m);
    (1..=6).for_each(|id| send(&m, id, key_of(id)));
    let held = receive(&group, 10);
    assert_eq!(numbers(&held), [1, 2, 3, 4]);
    held[1].ack().unwrap();
    held[2].nack(Some(Duration::from_secs(40))).unwrap();
    drop(held);
    (7..=12).for_each(|id| send(&m, id, key_of(id)));
    m.leaves();
    world
}

const OWED: [u64; 11] = [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn hold(m: &mut Member) {
    let group = group(m);
    m.held.extend(receive(&group, 3));
    m.held.sort_by_key(|d| id_of(d.body()));
    assert_eq!(numbers(&m.held), [1, 4, 6]);
    m.group = Some(group);
}

/// After a death: the living go on, then a warm and a cold open; each finds the order as it was.
fn judge(world: &SimWorld, living: Member, settled: &[u64], done: bool, when: &str) {
    living.store.look();
    assert_whole(&living.store, when);
    if group(&living).config().unwrap().max_attempts > 3 {
        assert_apart(&receive(&group(&living), 64), when);
    }
    living.leaves();
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    let cut = world.power_cut_with(|_| 1);
    for (world, open_as) in [(world, "warm"), (&cold, "cold"), (&cut, "after a cut")] {
        let when = format!("{when}, {open_as}");
        let m = open(world);
        assert_eq!(m.store.recovery().warm, open_as == "warm", "{when}");
        assert_whole(&m.store, &when);
        let found = drain(world, &group(&m), &when);
        assert_whole(&m.store, &when);
        let expected: Vec<u64> = OWED
            .into_iter()
            .filter(|id| !settled.contains(id))
            .collect();
        assert!(
            found == expected || !done && found == OWED,
            "{when}: {found:?}, done {done}"
        );
        m.leaves();
    }
}

fn run(case: &Case) {
    let base = base();
    for k in 1.. {
        let world = base.fork();
        let (mut dying, living) = (open(&world), open(&world));
        (case.ready)(&mut dying);
        let done = kill_at(dying, k, &case.act);
        let when = format!("{}, killed at point {k}", case.name);
        judge(&world, living, case.settles, done, &when);
        if done {
            break;
        }
    }
}

#[test]
fn a_claim_that_is_killed_keeps_the_order() {
    run(&Case {
        name: "a receive that parks",
        ready: |_| {},
        act: |m| {
            let group = group(m);
            m.held.extend(receive(&group, 10));
            assert!(m.held.len() >= 4, "{:?}", numbers(&m.held));
        },
        settles: &[],
    });
}

#[test]
fn a_settlement_that_is_killed_keeps_the_order() {
    run(&Case {
        name: "an ack that lets the next go",
        ready: hold,
        act: |m| m.held[0].ack().unwrap(),
        settles: &[1],
    });
    run(&Case {
        name: "an ack of many",
        ready: hold,
        act: |m| {
            let held = std::mem::take(&mut m.held);
            let group = m.group.clone().unwrap();
            assert!(group.ack_many(held).into_iter().all(|r| r.is_ok()));
        },
        settles: &[1, 4, 6],
    });
    run(&Case {
        name: "a reject",
        ready: hold,
        act: |m| m.held[0].reject("no").unwrap(),
        settles: &[1],
    });
    run(&Case {
        name: "a nack",
        ready: hold,
        act: |m| m.held[0].nack(None).unwrap(),
        settles: &[],
    });
}

#[test]
fn an_expiry_and_a_burial_that_are_killed_keep_the_order() {
    run(&Case {
        name: "leases that end at a look",
        ready: |m| {
            hold(m);
            m.process.world().advance(31_000);
        },
        act: |m| m.store.look(),
        settles: &[],
    });
    run(&Case {
        name: "a receive that buries",
        ready: |m| {
            group(m).configure().max_attempts(3).apply().unwrap();
            hold(m);
            m.held.clear();
            // The third delivery is the last, and ends with its lease.
            hold(m);
            m.process.world().advance(31_000);
            m.store.look();
            m.held.clear();
        },
        act: |m| {
            let group = group(m);
            (0..3).for_each(|_| m.held.extend(receive(&group, 10)));
            let buried = numbers(&m.held);
            assert!(!buried.contains(&1) && !buried.contains(&4), "{buried:?}");
        },
        settles: &[1, 4],
    });
}

#[test]
fn a_damaged_message_holds_nobody_back() {
    for cold in [false, true] {
        let world = SimWorld::new(SimOptions::default());
        let m = open(&world);
        drop(group(&m));
        (1..=4).for_each(|id| send(&m, id, Some("a")));
        if cold {
            // It is parked when it is read again, at the open.
            assert_eq!(numbers(&receive(&group(&m), 9)), [1]);
            let ahead = group(&m).stats().unwrap();
            assert_eq!(ahead.parked, 3);
        }
        m.leaves();
        let needle = body(2, 60);
        let find = |(name, content): (String, Vec<u8>)| {
            let at = content.windows(60).position(|w| w == needle.as_slice())?;
            name.ends_with(".seg").then_some((name, at as u64))
        };
        let (file, at) = world.files().into_iter().find_map(find).unwrap();
        assert!(world.corrupt(&file, at, 0x20));
        world.drop_caches();
        if cold {
            assert!(world.remove("ctl"));
        }
        let m = open(&world);
        let group = group(&m);
        let (mut told, mut got) = (0, Vec::new());
        for _ in 0..8 {
            match group.receive_batch(9, Duration::ZERO) {
                Ok(some) => {
                    got.extend(numbers(&some));
                    assert!(group.ack_many(some).into_iter().all(|r| r.is_ok()));
                }
                Err(e) => {
                    assert_eq!(e.code(), Code::Corrupt, "{e}");
                    told += 1;
                }
            }
            world.advance(6_000);
        }
        // A recovery tells of the gap, and a receive of the message where it was indexed.
        assert!(
            (1..=1 + u32::from(cold)).contains(&told),
            "cold {cold}: {told}"
        );
        assert_eq!(got, [1, 3, 4], "cold {cold}");
        assert_whole(&m.store, "after damage");
    }
}

#[test]
fn after_every_end_the_order_is_kept() {
    for seed in 0..12 {
        one_life(seed);
    }
}

/// Two members at work, with deaths, restarts, cold opens and power cuts. (Everything is sent and
/// settled durably, so that what is owed is known.)
fn one_life(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut world = SimWorld::new(SimOptions {
        seed,
        ..SimOptions::default()
    });
    let mut members = [open(&world), open(&world)];
    let change = group(&members[0]).configure();
    change.max_attempts(1000).apply().unwrap();
    let (mut next, mut owed) = (1, std::collections::BTreeSet::new());
    for step in 0..160 {
        let when = format!("seed {seed}, step {step}");
        let at = rng.index(2);
        match rng.below(14) {
            0..=3 => {
                send(&members[at], next, key_of(rng.below(4)));
                owed.insert(next);
                next += 1;
            }
            4..=7 => {
                let got = receive(&group(&members[at]), 1 + rng.index(3));
                members[at].held.extend(got);
                let held = || members.iter().flat_map(|m| m.held.iter());
                let keys: Vec<_> = held().filter_map(|d| d.order_key()).collect();
                let apart: std::collections::BTreeSet<_> = keys.iter().collect();
                assert_eq!(keys.len(), apart.len(), "{when}: {keys:?}");
            }
            8..=9 => {
                if let Some(d) = members[at].held.pop() {
                    d.ack_with(keepq::Flush::Sync).unwrap();
                    owed.remove(&id_of(d.body()));
                }
            }
            10 => drop(members[at].held.pop()),
            11 => members[at].store.maintain().unwrap(),
            12 => {
                let new = open(&world);
                std::mem::replace(&mut members[at], new).dies();
                members[1 - at].store.look();
            }
            _ => {
                let [a, b] = members;
                a.dies();
                b.dies();
                world = match rng.below(3) {
                    0 => world,
                    1 => world.power_cut(seed),
                    _ => {
                        assert!(world.remove("ctl"));
                        world
                    }
                };
                members = [open(&world), open(&world)];
            }
        }
        assert_whole(&members[0].store, &when);
    }
    for m in &mut members {
        m.held.clear();
    }
    let when = format!("seed {seed}, at the end");
    let left = drain(&world, &group(&members[0]), &when);
    assert_eq!(left, owed.into_iter().collect::<Vec<_>>(), "{when}");
}
