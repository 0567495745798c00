//! A process killed anywhere takes nothing along: every call is run once for each of its kill
//! points, dies there, and the living go on as if it had happened wholly or not at all.
//!
//! After each death a living member repairs what it left; then everybody closes, and the store is
//! opened again with its shared memory and without it. All of them must agree. A case's `steps`
//! says how many changes it makes that others can see one after the other: so many states and no
//! more may be found.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;
#[path = "kill_points/reclaim.rs"]
mod reclaim;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use deaths::{Case, NOTHING, run};
use keepq::sim::{Fate, SimOptions, SimWorld, run_member, set_point_hook};
use keepq::{Flush, OutMessage};
use members::{Member, assert_whole, body, kill_at, open, open_with, options, owed};

fn send(member: &Member, topic: &str, id: u64, flush: Flush) {
    let body = body(id, 100);
    let topic = member.store.topic(topic).unwrap();
    topic
        .message(&body)
        .key("k")
        .header("h", b"v")
        .flush(flush)
        .send()
        .unwrap();
}

const SENT: &[(&str, u64)] = &[
    ("orders/billing", 50),
    ("orders/mail", 50),
    ("orders/strict", 50),
];
const SENT_FAST: &[(&str, u64)] = &[("fast/g", 50)];

#[test]
fn a_send_happens_wholly_or_not_at_all() {
    run(&Case {
        name: "sync send",
        act: |m| send(m, "orders", 50, Flush::Sync),
        gain: SENT,
        ..NOTHING
    });
    run(&Case {
        name: "async send",
        act: |m| send(m, "fast", 50, Flush::Async),
        gain: SENT_FAST,
        ..NOTHING
    });
}

#[test]
fn a_chunked_send_is_invisible_without_its_end() {
    run(&Case {
        name: "chunked send",
        act: |m| m.send("orders", 50, 10_000),
        gain: SENT,
        ..NOTHING
    });
}

#[test]
fn of_many_small_sends_all_are_there_or_none() {
    run(&Case {
        name: "send_many",
        act: |m| send_three(m, 80),
        gain: &[("fast/g", 50), ("fast/g", 51), ("fast/g", 52)],
        ..NOTHING
    });
}

#[test]
fn of_many_sends_a_prefix_is_there() {
    run(&Case {
        name: "send_many of larger ones",
        act: |m| send_three(m, 2_500),
        steps: 3,
        gain: &[("fast/g", 50), ("fast/g", 51), ("fast/g", 52)],
        ..NOTHING
    });
}

fn send_three(m: &mut Member, len: usize) {
    let bodies = [50, 51, 52].map(|id| body(id, len));
    let out = |body| OutMessage {
        body,
        ..OutMessage::default()
    };
    let out: Vec<_> = bodies.iter().map(|b| out(b.as_slice())).collect();
    let topic = m.store.topic("fast").unwrap();
    assert!(topic.send_many(&out).into_iter().all(|r| r.is_ok()));
}

#[test]
fn a_numbered_send_counts_with_its_message() {
    run(&Case {
        name: "producer send",
        ready: |m| m.producer = Some(m.store.producer("loader").unwrap()),
        act: |m| {
            let topic = m.store.topic("fast").unwrap();
            let body = body(50, 80);
            let out = OutMessage {
                body: &body,
                ..OutMessage::default()
            };
            let producer = m.producer.as_ref().unwrap();
            assert_eq!(producer.send(&topic, Some(0), &out).unwrap().seq, Some(1));
        },
        gain: SENT_FAST,
        ..NOTHING
    });
}

#[test]
fn a_name_is_made_once_or_not_at_all() {
    run(&Case {
        name: "topic creation",
        act: |m| drop(m.store.topic("new").unwrap()),
        ..NOTHING
    });
    run(&Case {
        name: "topic and group creation",
        act: |m| {
            drop(
                m.store
                    .group("new", "readers")
                    .max_attempts(3)
                    .open()
                    .unwrap(),
            )
        },
        steps: 2,
        ..NOTHING
    });
    run(&Case {
        name: "producer creation",
        act: |m| drop(m.store.producer("loader").unwrap()),
        ..NOTHING
    });
    run(&Case {
        name: "producer fencing",
        ready: |m| drop(m.store.producer("loader").unwrap()),
        act: |m| drop(m.store.producer("loader").unwrap()),
        ..NOTHING
    });
}

#[test]
fn a_delivery_counts_before_it_is_handed_out() {
    run(&Case {
        name: "receive",
        act: |m| assert_eq!(m.receive("orders", "mail", 1), 1),
        ..NOTHING
    });
    run(&Case {
        name: "receive of what was put back, and of new ones",
        act: |m| assert_eq!(m.receive("orders", "billing", 4), 4),
        ..NOTHING
    });
    run(&Case {
        name: "detached receive",
        attempts_logged: false,
        act: |m| {
            let group = m.group("orders", "mail");
            m.held
                .extend(group.receive_detached(2, Duration::ZERO).unwrap());
            assert_eq!(m.held.len(), 2);
        },
        ..NOTHING
    });
}

fn mail(m: &mut Member) {
    assert_eq!(m.receive("orders", "mail", 4), 4);
}

#[test]
fn an_ack_settles_or_the_message_comes_back() {
    run(&Case {
        name: "ack",
        ready: mail,
        act: |m| m.held[0].ack().unwrap(),
        loss: &[("orders/mail", 1)],
        ..NOTHING
    });
    run(&Case {
        name: "sync ack",
        ready: mail,
        act: |m| m.held[1].ack_with(Flush::Sync).unwrap(),
        loss: &[("orders/mail", 2)],
        ..NOTHING
    });
    run(&Case {
        name: "ack of many",
        ready: mail,
        act: |m| {
            let group = m.group.clone().unwrap();
            let held = std::mem::take(&mut m.held);
            assert!(group.ack_many(held).into_iter().all(|r| r.is_ok()));
        },
        loss: &[
            ("orders/mail", 1),
            ("orders/mail", 2),
            ("orders/mail", 3),
            ("orders/mail", 4),
        ],
        ..NOTHING
    });
    run(&Case {
        name: "ack by receipt",
        ready: mail,
        act: |m| m.store.ack(&m.held[2].receipt()).unwrap(),
        loss: &[("orders/mail", 3)],
        ..NOTHING
    });
}

#[test]
fn a_nack_puts_back_once() {
    run(&Case {
        name: "nack with the back-off",
        ready: mail,
        act: |m| m.held[0].nack(None).unwrap(),
        ..NOTHING
    });
    run(&Case {
        name: "nack at once",
        ready: mail,
        act: |m| m.held[0].nack(Some(Duration::ZERO)).unwrap(),
        ..NOTHING
    });
    run(&Case {
        name: "extend",
        ready: mail,
        act: |m| m.held[0].extend(Duration::from_secs(100)).unwrap(),
        steps: 0,
        ..NOTHING
    });
    run(&Case {
        name: "detach",
        attempts_logged: false,
        ready: mail,
        act: |m| drop(m.held.remove(0).detach()),
        ..NOTHING
    });
}

const STRICT_BY_DEATH: &[(&str, u64)] = &[("%DLQ%orders%strict/undertaker", 1)];

#[test]
fn a_dead_letter_is_in_one_place() {
    run(&Case {
        name: "reject",
        ready: mail,
        act: |m| m.held[0].reject("no such customer").unwrap(),
        steps: 2,
        gain: &[("%DLQ%orders%mail/undertaker", 1)],
        loss: &[("orders/mail", 1)],
        ..NOTHING
    });
    run(&Case {
        name: "nack of the last attempt",
        ready: |m| assert_eq!(m.receive("orders", "strict", 1), 1),
        act: |m| m.held[0].nack(None).unwrap(),
        steps: 3,
        gain: STRICT_BY_DEATH,
        loss: &[("orders/strict", 1)],
        ..NOTHING
    });
    run(&Case {
        name: "receive of one without an attempt left",
        ready: |m| {
            assert_eq!(m.receive("orders", "strict", 1), 1);
            m.held.clear();
        },
        act: |m| assert_eq!(m.receive("orders", "strict", 1), 1),
        steps: 1,
        gain: &[
            ("%DLQ%orders%strict/undertaker", 1),
            ("%DLQ%orders%strict/undertaker", 2),
        ],
        loss: &[("orders/strict", 1), ("orders/strict", 2)],
        ..NOTHING
    });
}

#[test]
fn leases_end_once() {
    run(&Case {
        name: "expiry at a receive",
        ready: |m| {
            mail(m);
            m.process.world().advance(31_000);
        },
        act: |m| assert_eq!(m.receive("orders", "mail", 1), 1),
        ..NOTHING
    });
    run(&Case {
        name: "a look after a dead member",
        ready: |m| {
            let mut other = open(m.process.world());
            assert_eq!(other.receive("orders", "mail", 3), 3);
            other.dies();
        },
        act: |m| m.store.look(),
        steps: 0,
        ..NOTHING
    });
    run(&Case {
        name: "close",
        ready: mail,
        act: |m| {
            m.store.close().unwrap();
            m.held.clear();
        },
        ..NOTHING
    });
    run(&Case {
        name: "flush",
        ready: |m| (50..54).for_each(|id| m.send_async("fast", id, 300)),
        act: |m| assert!(m.store.flush(None).unwrap()),
        steps: 0,
        gain: &[
            ("fast/g", 50),
            ("fast/g", 51),
            ("fast/g", 52),
            ("fast/g", 53),
        ],
        ..NOTHING
    });
}

/// Fills segments so that there is something to prepare, index, snapshot and reclaim.
fn fill(m: &mut Member, ids: std::ops::Range<u64>) {
    let group = m.group("fast", "g");
    for id in ids {
        m.send_async("fast", id, 3000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        m.store.look();
    }
}

fn numbers(m: &Member, ending: &str) -> Vec<String> {
    let files = m.process.world().files().into_iter().map(|(name, _)| name);
    files.filter(|name| name.ends_with(ending)).collect()
}

#[test]
fn maintenance_changes_nothing_that_anybody_sees() {
    run(&Case {
        name: "preparing a segment",
        ready: |m| (60..63).for_each(|id| m.send_async("fast", id, 3000)),
        act: |m| {
            let before = numbers(m, ".seg");
            m.store.maintain().unwrap();
            assert!(numbers(m, ".seg").len() > before.len());
        },
        steps: 0,
        gain: &[("fast/g", 60), ("fast/g", 61), ("fast/g", 62)],
        ..NOTHING
    });
    run(&Case {
        name: "a roll",
        ready: |m| {
            (60..63).for_each(|id| m.send_async("fast", id, 3000));
            m.store.maintain().unwrap();
        },
        act: |m| m.send("fast", 63, 3000),
        gain: &[
            ("fast/g", 60),
            ("fast/g", 61),
            ("fast/g", 62),
            ("fast/g", 63),
        ],
        ..NOTHING
    });
    run(&Case {
        name: "sidecar and snapshot",
        ready: |m| {
            (60..63).for_each(|id| m.send_async("fast", id, 3000));
            m.store.maintain().unwrap();
            m.send("fast", 63, 3000);
        },
        act: |m| {
            m.store.maintain().unwrap();
            assert_eq!(numbers(m, ".idx").len(), 1);
        },
        steps: 0,
        gain: &[
            ("fast/g", 60),
            ("fast/g", 61),
            ("fast/g", 62),
            ("fast/g", 63),
        ],
        ..NOTHING
    });
}

/// Takes the old messages off every group, so that segments can go.
fn settle_all(m: &mut Member) {
    for (topic, name) in [
        ("orders", "billing"),
        ("orders", "mail"),
        ("orders", "strict"),
    ] {
        let group = m.group(topic, name);
        m.process.world().advance(200_000);
        let got = group.receive_batch(64, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    }
}

const SETTLED: &[(&str, u64)] = &[
    ("orders/billing", 2),
    ("orders/billing", 3),
    ("orders/billing", 4),
    ("orders/billing", 5),
    ("orders/billing", 6),
    ("orders/billing", 7),
    ("orders/billing", 8),
    ("orders/mail", 1),
    ("orders/mail", 2),
    ("orders/mail", 3),
    ("orders/mail", 4),
    ("orders/mail", 5),
    ("orders/mail", 6),
    ("orders/mail", 7),
    ("orders/mail", 8),
    ("orders/strict", 1),
    ("orders/strict", 2),
    ("orders/strict", 3),
    ("orders/strict", 4),
    ("orders/strict", 5),
    ("orders/strict", 6),
    ("orders/strict", 7),
    ("orders/strict", 8),
    ("fast/g", 20),
];

#[test]
fn segments_go_without_a_trace() {
    run(&Case {
        name: "reclaim",
        ready: |m| {
            settle_all(m);
            fill(m, 100..112);
            m.store.flush(None).unwrap();
        },
        act: |m| {
            let before = numbers(m, ".seg");
            m.store.maintain().unwrap();
            m.store.flush(None).unwrap();
            m.store.maintain().unwrap();
            let after = numbers(m, ".seg");
            assert!(
                before.iter().any(|name| !after.contains(name)),
                "{before:?} {after:?}"
            );
        },
        steps: 0,
        loss: SETTLED,
        ..NOTHING
    });
}

#[test]
fn nothing_that_is_half_done_is_flushed() {
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let async_ = || options().flush(Flush::Async);
        let (dying, living) = (open_with(&world, async_()), open_with(&world, async_()));
        living.group("t", "g");
        living.send_async("t", 1, 100);
        // Wherever one is, another flushes what is published.
        let flusher = living.store.clone();
        set_point_hook(Some(Box::new(move || {
            let flushed = run_member(Fate::lives(), || flusher.flush(None));
            flushed.unwrap().unwrap();
        })));
        let survived = kill_at(dying, k, &|m| m.send_async("t", 2, 100));
        set_point_hook(None);
        living.send_async("t", 3, 100);
        living.store.flush(None).unwrap();
        let cut = world.power_cut_with(|_| 1);
        let heir = open(&cut);
        let left = owed(&cut, &heir.store);
        assert!(
            left == [1, 3] || left == [1, 2, 3],
            "killed at {k}: {left:?}"
        );
        if survived {
            assert_eq!(left, [1, 2, 3]);
            break;
        }
    }
}

/// Who waits for a lock.
#[derive(Debug, Clone, Copy)]
enum Waiter {
    AnotherProcess,
    /// Through its own descriptor, its own byte of LOCK reads free.
    AnotherThread,
}

fn never_robbed_by(waiter: Waiter) {
    let mut refused = 0;
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let (slow, other) = (open(&world), open(&world));
        let group = slow.group("t", "g");
        slow.send("t", 1, 100);
        slow.send("t", 2, 100);
        let topic = match waiter {
            Waiter::AnotherProcess => other.store.topic("t").unwrap(),
            Waiter::AnotherThread => slow.store.topic("t").unwrap(),
        };
        // At its k-th point the slow one stands still, for as long as the other has patience.
        let count = Cell::new(0);
        let said = Rc::new(Cell::new(None));
        let answer = Rc::clone(&said);
        set_point_hook(Some(Box::new(move || {
            count.set(count.get() + 1);
            if count.get() == k {
                answer.set(Some(topic.send(body(3, 100)).is_ok()));
            }
        })));
        let got = group.receive(Duration::ZERO).unwrap().unwrap();
        got.ack().unwrap();
        set_point_hook(None);
        let Some(sent) = said.get() else { break };
        refused += u64::from(!sent);
        assert_whole(&other.store, &format!("after a stop at {k}"));
        let left = owed(&world, &other.store);
        let expected: &[u64] = if sent { &[2, 3] } else { &[2] };
        assert_eq!(left, expected, "{waiter:?}, stopped at point {k}");
        slow.leaves();
        other.leaves();
    }
    assert!(refused > 10, "only {refused} stops with a lock held");
}

#[test]
fn a_living_owner_is_never_robbed() {
    never_robbed_by(Waiter::AnotherProcess);
}

#[test]
fn a_thread_does_not_take_its_own_process_for_dead() {
    never_robbed_by(Waiter::AnotherThread);
}

#[test]
fn who_closes_while_the_lock_is_held_leaves_no_member_behind() {
    let mut failed = 0;
    for k in (1..).step_by(3) {
        let world = SimWorld::new(SimOptions::default());
        let (slow, mut other) = (open(&world), open(&world));
        let group = slow.group("t", "g");
        slow.send("t", 1, 100);
        assert_eq!(other.receive("t", "g", 1), 1);
        slow.send("t", 2, 100);
        let closed = Rc::new(Cell::new(None));
        let (answer, store, mut point) = (Rc::clone(&closed), other.store.clone(), 0);
        set_point_hook(Some(Box::new(move || {
            point += 1;
            if point == k {
                answer.set(Some(store.close().is_ok()));
            }
        })));
        let got = group.receive(Duration::ZERO).unwrap().unwrap();
        got.ack().unwrap();
        set_point_hook(None);
        let Some(closed) = closed.get() else { break };
        failed += u64::from(!closed);
        slow.store.look();
        let when = format!("closed at point {k}");
        assert_eq!(slow.store.stats().unwrap().members, 1, "{when}");
        assert_whole(&slow.store, &when);
        // What it held comes back.
        world.advance(5_000);
        let left = group.receive(Duration::ZERO).unwrap();
        assert!(left.is_some(), "{when}");
    }
    assert!(failed > 5, "only {failed} closes with the lock held");
}
