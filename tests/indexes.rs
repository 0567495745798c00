//! The index of a sealed segment has all its messages, whoever asks for it and when: one that is
//! made too early would skip them for ever, and nobody would notice.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use keepq::Flush;
use keepq::sim::{SimOptions, SimWorld, set_point_hook};
use members::{Member, assert_whole, body, drain, id_of, ids, open_with, options};

fn member(world: &SimWorld) -> Member {
    open_with(world, options().flush(Flush::Async))
}

/// Every process finds every message from the beginning on, and so does one that comes later.
fn assert_found(world: &SimWorld, members: Vec<Member>, sent: &[u64], when: &str) {
    for (number, m) in members.into_iter().enumerate() {
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
        let group = m.group("t", &format!("late{number}"));
        let mut found = Vec::new();
        loop {
            let got = group.receive_batch(64, Duration::ZERO).unwrap();
            if got.is_empty() {
                break;
            }
            found.extend(got.iter().map(|d| id_of(d.body())));
            assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        }
        assert_eq!(found, sent, "{when}: member {number}");
        assert_whole(&m.store, when);
        drop(group);
        m.leaves();
    }
    let heir = member(world);
    let left = ids(&drain(world, &heir.store));
    let key = ("t".to_owned(), "first".to_owned());
    assert_eq!(left[&key], sent, "{when}: the heir");
    heir.leaves();
}

#[test]
fn who_counts_while_a_segment_is_not_durable_does_not_hide_messages() {
    for every in 2..10 {
        let world = SimWorld::new(SimOptions::default());
        let (sender, counter) = (member(&world), member(&world));
        sender.group("t", "first");
        let mut sent = Vec::new();
        for id in 1..40 {
            if id % every == 0 {
                // Prepares the next segment: the roll need not flush what this one holds.
                sender.store.maintain().unwrap();
            }
            sender.send_async("t", id, 1500);
            sent.push(id);
            for m in [&sender, &counter] {
                m.store.stats().unwrap();
            }
        }
        let when = format!("maintained every {every}");
        assert_found(&world, vec![sender, counter], &sent, &when);
    }
}

/// Points at which something is sent: more at once would keep the maintainer from its work.
const AT_MOST: u64 = 40;

/// Maintains a store in which segments are full; from the `k`-th point on the way
/// on another process sends a message at each. Returns how many points there were.
fn crowded_from(k: u64, fill: u64) -> u64 {
    let world = SimWorld::new(SimOptions::default());
    let (keeper, other) = (member(&world), member(&world));
    let busy = keeper.group("busy", "g");
    keeper.group("t", "first");
    keeper.send_async("t", 1, 300);
    for id in 2..40 + fill {
        keeper.send_async("busy", id, 1500);
        busy.receive(Duration::ZERO)
            .unwrap()
            .unwrap()
            .ack()
            .unwrap();
        if id < 36 {
            keeper.store.look();
        }
    }
    let topic = other.store.topic("t").unwrap();
    let done = Rc::new(RefCell::new((0, vec![1])));
    let put = Rc::clone(&done);
    set_point_hook(Some(Box::new(move || {
        let (count, sent) = &mut *put.borrow_mut();
        *count += 1;
        let id = 100 + *count;
        if (k..k + AT_MOST).contains(count) {
            // Where the lock is held, or no segment is ready, nothing is sent.
            let text = body(id, 1500);
            let message = topic.message(&text).flush(Flush::Async);
            if message.timeout(Duration::ZERO).send().is_ok() {
                sent.push(id);
            }
        }
    })));
    let maintained = keeper.store.maintain();
    set_point_hook(None);
    maintained.unwrap();
    let (points, sent) = done.take();
    drop(busy);
    let when = format!("{fill} more, from point {k} of {points} on");
    assert_found(&world, vec![keeper, other], &sent, &when);
    points
}

#[test]
fn segments_that_fill_while_the_log_is_maintained_lose_nothing() {
    // The last segment is more or less full when it begins.
    for fill in 3..9 {
        let mut k = 1;
        while crowded_from(k, fill) >= k {
            k += 1;
        }
        assert!(k > 20, "only {k} points: nothing was done");
    }
}

/// A message of a topic whose index still has what it held two segments before; at the `k`-th point
/// of its send another process looks for it. Returns whether that point was reached.
fn looked_for_at(k: u64, others: u64) -> bool {
    let world = SimWorld::new(SimOptions::default());
    let (sender, other) = (member(&world), member(&world));
    let group = other.group("t", "g");
    for id in 1..6 {
        sender.send_async("t", id, 300);
    }
    // The last one stays behind, so that there is something to look up.
    let got = group.receive_batch(4, Duration::ZERO).unwrap();
    assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    // One that has looked nothing up yet.
    let group = other.group("t", "g");
    let topic = sender.store.topic("t").unwrap();
    for id in 100..100 + others {
        sender.send_async("others", id, 1500);
        sender.store.maintain().unwrap();
    }
    let reached = Rc::new(Cell::new(false));
    let (put, looks, mut count) = (Rc::clone(&reached), group.clone(), 0);
    set_point_hook(Some(Box::new(move || {
        count += 1;
        if count == k {
            put.set(true);
            // The lock is held: `Busy`, but what was looked up is kept.
            let _ = looks.receive(Duration::ZERO);
        }
    })));
    topic.send(body(6, 300)).unwrap();
    set_point_hook(None);
    let mut found = Vec::new();
    while let Some(got) = group.receive(Duration::ZERO).unwrap() {
        found.push(id_of(got.body()));
        got.ack().unwrap();
    }
    found.sort_unstable();
    assert_eq!(found, [5, 6], "{others} others, looked for at point {k}");
    drop(group);
    sender.leaves();
    other.leaves();
    reached.get()
}

#[test]
fn what_an_index_held_before_is_not_taken_for_new_messages() {
    // Until the segment after the next one is more or less full.
    for others in 8..28 {
        let mut k = 1;
        while looked_for_at(k, others) {
            k += 1;
        }
        assert!(k > 10, "a send has only {k} points");
    }
}
