//! Settlements of several groups in one call.
#![allow(clippy::unwrap_used)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use deaths::{Case, NOTHING, run};
use keepq::sim::{SimOptions, SimWorld, set_point_hook};
use keepq::{Code, Delivery, Group};
use members::{Member, assert_whole, id_of, open, open_with, options};

fn mail(m: &mut Member) {
    assert_eq!(m.receive("orders", "mail", 4), 4);
}

#[test]
fn acks_of_several_groups_settle_each_group_or_not() {
    run(&Case {
        name: "ack of several groups",
        ready: |m| {
            mail(m);
            assert_eq!(m.receive("orders", "billing", 4), 4);
            assert_eq!(m.receive("fast", "g", 1), 1);
        },
        act: |m| {
            let held = std::mem::take(&mut m.held);
            assert!(m.store.ack_many(held).into_iter().all(|r| r.is_ok()));
        },
        // A record for each group; the drop of what was acked changes nothing.
        steps: 3,
        attempts_logged: false,
        loss: &[
            ("orders/mail", 1),
            ("orders/mail", 2),
            ("orders/mail", 3),
            ("orders/mail", 4),
            ("orders/billing", 3),
            ("orders/billing", 4),
            ("orders/billing", 5),
            ("orders/billing", 6),
            ("fast/g", 20),
        ],
        ..NOTHING
    });
}

/// Two groups of a topic, one of them with sync acks, each with the messages 1 to 4.
fn held(m: &Member) -> Vec<Delivery> {
    let sync = m
        .store
        .group("t", "sync")
        .ack_flush(keepq::Flush::Sync)
        .open()
        .unwrap();
    let other = m.group("t", "async");
    for id in 1..=4 {
        m.send("t", id, 50);
    }
    let mut held = sync.receive_batch(4, Duration::ZERO).unwrap();
    held.extend(other.receive_batch(4, Duration::ZERO).unwrap());
    assert_eq!(held.len(), 8);
    held
}

#[test]
fn acks_of_several_groups_have_their_own_results_and_one_flush() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let other = open(&world);
    let held = held(&m);
    held[2].ack().unwrap();
    held[5].ack().unwrap();
    other.send("u", 9, 50);
    let theirs = other
        .group("u", "g")
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap();
    let before = m.store.stats().unwrap().flushes;
    let results = m.store.ack_many(held.iter().chain([&theirs]));
    assert_eq!(m.store.stats().unwrap().flushes, before + 1, "one flush");
    let codes: Vec<Option<Code>> = results
        .into_iter()
        .map(|r| r.err().map(|e| e.code()))
        .collect();
    let lost = Some(Code::LeaseLost);
    let foreign = Some(Code::InvalidArgument);
    assert_eq!(
        codes,
        [None, None, lost, None, None, lost, None, None, foreign]
    );
    // What is of another open of the store is not settled.
    theirs.ack().unwrap();
    assert_whole(&m.store, "afterwards");
    m.dies();
    other.dies();
    // The acks are on disk: the one flush is that of the group with sync acks.
    let cut = world.power_cut_with(|_| 0);
    let m = open(&cut);
    for group in ["sync", "async"] {
        let left = m
            .group("t", group)
            .receive_batch(8, Duration::ZERO)
            .unwrap();
        assert!(group == "async" || left.is_empty(), "{group}: {left:?}");
    }
}

#[test]
fn acks_of_no_delivery_do_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let before = m.store.published();
    assert!(m.store.ack_many(Vec::<Delivery>::new()).is_empty());
    assert_eq!(m.store.published(), before);
}

type Ack = fn(&Member, &Group, &[Delivery]) -> Vec<keepq::Result<()>>;

/// Acks two messages at the k-th point of another process's send. Whether that was refused, because
/// the other was in the middle of its change; `None`: there are fewer points.
fn ack_in_a_send(k: u64, ack: Ack) -> Option<bool> {
    let when = format!("at point {k}");
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().send_timeout(Duration::from_millis(50)));
    let group = m.store.group("t", "g").lease(Duration::from_secs(3600));
    let group = group.open().unwrap();
    (1..=2).for_each(|id| m.send("t", id, 50));
    let held = Rc::new(group.receive_batch(2, Duration::ZERO).unwrap());
    assert_eq!(held.len(), 2);
    let sender = open(&world);
    let (results, points) = (Rc::new(Cell::new(None)), Cell::new(0));
    let (told, mine, theirs) = (Rc::clone(&results), group.clone(), Rc::clone(&held));
    let m = Rc::new(m);
    let member = Rc::clone(&m);
    set_point_hook(Some(Box::new(move || {
        points.set(points.get() + 1);
        if points.get() == k {
            told.set(Some(ack(&member, &mine, &theirs)));
        }
    })));
    sender.send_async("u", 9, 50);
    set_point_hook(None);
    let results = results.take()?;
    let refused = results.iter().all(Result::is_err);
    assert!(refused || results.iter().all(Result::is_ok), "{when}");
    if refused {
        let busy = |r: &keepq::Result<()>| r.as_ref().is_err_and(|e| e.code() == Code::Busy);
        assert!(results.iter().all(busy), "{when}: {results:?}");
        // The lease stands: one is acked now, the other is dropped.
        let mut held = Rc::into_inner(held).unwrap();
        held[0].ack().unwrap();
        drop(held.pop());
        let again = group.receive(Duration::ZERO).unwrap().expect(&when);
        assert_eq!((id_of(again.body()), again.attempt()), (2, 2), "{when}");
        again.ack().unwrap();
    } else {
        drop(held);
    }
    world.advance(10_000);
    let left = group.receive(Duration::ZERO).unwrap();
    assert!(left.is_none(), "{when}: {left:?}");
    assert_whole(&m.store, &when);
    Some(refused)
}

#[test]
fn acks_that_are_refused_leave_the_leases_to_the_drop_of_the_messages() {
    let acks: [Ack; 2] = [
        |m, _, held| m.store.ack_many(held),
        |_, group, held| group.ack_many(held),
    ];
    for ack in acks {
        let refused: Vec<bool> = (1..).map_while(|k| ack_in_a_send(k, ack)).collect();
        let count = refused.iter().filter(|refused| **refused).count();
        assert!(
            count > 5 && refused.len() > count,
            "{count} of {}",
            refused.len()
        );
    }
}
