//! What reclaim believes of changes that are half done, and of sends that are.

use super::*;

/// A group whose first message lies in the oldest segment, which nothing else keeps.
fn one_message_behind(world: &SimWorld) -> Member {
    let m = open_with(world, options().flush(Flush::Async));
    m.group("t", "g");
    m.send_async("t", 1, 100);
    let group = m.group("others", "h");
    for id in 2..16 {
        m.send_async("others", id, 3000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        m.store.look();
    }
    m.send_async("t", 16, 100);
    for _ in 0..3 {
        // Until there is nothing left to do but to reclaim.
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    m
}

#[test]
fn reclaim_believes_nothing_that_is_half_done() {
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let dying = one_message_behind(&world);
        let living = open_with(&world, options().flush(Flush::Async));
        let survived = kill_at(dying, k, &|m| {
            assert_eq!(m.receive("t", "g", 1), 1);
        });
        for _ in 0..2 {
            living.store.maintain().unwrap();
            living.store.flush(None).unwrap();
        }
        living.store.look();
        let left = owed(&world, &living.store);
        assert_eq!(left, [1, 16], "killed at point {k}");
        if survived {
            break;
        }
    }
}

/// The oldest segments hold only what this member has in hand: too much to be copied forward.
fn many_messages_behind(world: &SimWorld) -> Member {
    let mut m = open_with(world, options().flush(Flush::Async));
    m.group("t", "g");
    (1..=8).for_each(|id| m.send_async("t", id, 3000));
    assert_eq!(m.receive("t", "g", 8), 8);
    let group = m.group("others", "h");
    for id in 20..40 {
        m.send_async("others", id, 3000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    m
}

#[test]
fn reclaim_believes_in_no_ack_that_is_half_done() {
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let dying = many_messages_behind(&world);
        let living = open_with(&world, options().flush(Flush::Async));
        let survived = kill_at(dying, k, &|m| {
            let group = m.group("t", "g");
            let held = std::mem::take(&mut m.held);
            assert!(group.ack_many(held).into_iter().all(|r| r.is_ok()));
        });
        for _ in 0..2 {
            living.store.maintain().unwrap();
            living.store.flush(None).unwrap();
        }
        living.store.look();
        let left = owed(&world, &living.store);
        let all: Vec<u64> = (1..=8).collect();
        assert!(left == all || left.is_empty(), "killed at {k}: {left:?}");
        if survived {
            assert!(left.is_empty());
            break;
        }
    }
}

#[test]
fn reclaim_leaves_the_chunks_of_a_send_in_progress() {
    let world = SimWorld::new(SimOptions::default());
    let async_ = || options().flush(Flush::Async);
    let (m, living) = (open_with(&world, async_()), open_with(&world, async_()));
    m.group("t", "g");
    m.send_async("t", 1, 100);
    assert_eq!(owed(&world, &living.store), [1]);
    // Whenever one transaction of the send is over, somebody looks after the log.
    let keeper = living.store.clone();
    set_point_hook(Some(Box::new(move || {
        let _ = run_member(Fate::lives(), || {
            let _ = keeper.flush(Some(Duration::from_millis(1)));
            let _ = keeper.maintain();
        });
    })));
    m.send_async("t", 2, 100_000);
    set_point_hook(None);
    assert_eq!(owed(&world, &living.store), [2]);
    living.leaves();
    m.leaves();
}

/// So many messages, all consumed: a store at rest removes all segments but the active one.
fn all_consumed(world: &SimWorld, messages: u64) -> Member {
    let m = open_with(world, options().flush(Flush::Async));
    let group = m.group("t", "g");
    for id in 0..messages {
        m.send_async("t", id, 1000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    }
    m.store.maintain().unwrap();
    m.store.flush(None).unwrap();
    m
}

/// Whether the log rolled on while it was looked at: at the `k`-th point somebody else sends until
/// it does. `None`: there are not so many points.
fn roll_at_point(messages: u64, k: u64) -> Option<bool> {
    let world = SimWorld::new(SimOptions::default());
    let m = all_consumed(&world, messages);
    let sender = open_with(&world, options().flush(Flush::Async));
    let topic = sender.store.topic("t").unwrap();
    let (points, sent) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (passed, count) = (Rc::clone(&points), Rc::clone(&sent));
    let before = numbers(&m, ".seg");
    set_point_hook(Some(Box::new(move || {
        passed.set(passed.get() + 1);
        if passed.get() == k {
            let _ = run_member(Fate::lives(), || {
                // Until there is no room, for want of somebody who makes some, or enough.
                while count.get() < 20 && topic.send(body(200 + count.get(), 1000)).is_ok() {
                    count.set(count.get() + 1);
                }
            });
        }
    })));
    m.store.rest().unwrap();
    set_point_hook(None);
    let removed = numbers(&m, ".seg").first() != before.first();
    for _ in 0..2 {
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    let expected: Vec<u64> = (200..200 + sent.get()).collect();
    let left = owed(&world, &m.store);
    assert_eq!(
        left, expected,
        "{messages} messages, others sent at point {k}"
    );
    m.leaves();
    sender.leaves();
    (points.get() >= k).then_some(removed && sent.get() > 0)
}

#[test]
fn reclaim_takes_nothing_that_came_while_it_looked() {
    let mut rolled = 0;
    for messages in 40..56 {
        for k in 1.. {
            let Some(while_looking) = roll_at_point(messages, k) else {
                break;
            };
            rolled += u64::from(while_looking);
        }
    }
    assert!(rolled > 100, "only {rolled} rolls");
}
