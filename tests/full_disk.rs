//! A disk that is full beyond the reserve: acks count all the same, nothing that a power cut brings
//! back is gone from the log, and room comes back.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{CallKind, Fate, SimOptions, SimWorld, announced_site, calls_announced};
use keepq::sim::{run_member, set_point_hook};
use keepq::{Code, Delivery, Flush, Group, Outcome};
use members::{Member, assert_whole, body, id_of, kill_at, open_with, options, owed};

/// Bytes of the disk, and of what fills it besides the store until there is a power cut.
const DISK: usize = 1536 << 10;
const OTHERS: usize = 512 << 10;
const FILLER: &str = "filler";
/// Length of small messages.
const SMALL: usize = 60;

fn world() -> SimWorld {
    let world = SimWorld::new(SimOptions {
        capacity: Some(DISK as u64),
        ..SimOptions::default()
    });
    store(&world).leaves();
    world.write_file(FILLER, &vec![1; OTHERS]);
    world
}

fn store(world: &SimWorld) -> Member {
    open_with(world, options().flush(Flush::Async))
}

/// Opens what a power cut left. That takes room for new shared memory, which others give.
fn store_after(cut: &SimWorld) -> Member {
    cut.remove(FILLER);
    store(cut)
}

fn send(m: &Member, topic: &str, id: u64, len: usize) -> keepq::Result<()> {
    let topic = m.store.topic(topic)?;
    topic.message(&body(id, len)).send().map(drop)
}

/// Sends until the disk is full; the first number that found no room.
fn fill(m: &Member, topic: &str, from: u64) -> u64 {
    for id in from.. {
        m.store.look();
        match send(m, topic, id, SMALL) {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(
                    (e.code(), e.outcome()),
                    (Code::Full, Some(Outcome::NotStored))
                );
                return id;
            }
        }
    }
    unreachable!("the disk has an end");
}

fn receive(group: &Group, max: usize) -> Vec<Delivery> {
    group.receive_batch(max, Duration::ZERO).unwrap()
}

/// Acks messages one by one until the log has no room for another ack; the numbers of those that
/// were acked. The last one is acked as those are that come after it.
fn use_up(group: &Group) -> Vec<u64> {
    let mut acked = Vec::new();
    loop {
        let got = receive(group, 1).pop().expect("there is more than that");
        acked.push(id_of(got.body()));
        if acked.len() % 50 == 0 {
            if let Err(e) = got.ack_with(Flush::Sync) {
                assert_eq!(e.code(), Code::Full, "{e}");
                // It still stands, and does not want for room.
                got.ack_with(Flush::Async).unwrap();
                return acked;
            }
        } else {
            got.ack().unwrap();
        }
    }
}

/// A store whose log has no room for an ack, its group, and the numbers of what was acked and of
/// what is still owed.
fn without_room(world: &SimWorld) -> (Member, Group, Vec<u64>, Vec<u64>) {
    let m = store(world);
    let group = m.group("t", "g");
    let end = fill(&m, "t", 1);
    let acked = use_up(&group);
    let left = (1..end).filter(|id| !acked.contains(id)).collect();
    (m, group, acked, left)
}

#[test]
fn acks_count_where_the_log_has_no_room_for_them() {
    let world = world();
    let (m, group, _, mut left) = without_room(&world);
    let more = receive(&group, 20);
    let (ids, ack) = (numbers(&more), |d: &Delivery| d.ack().unwrap());
    more.iter().for_each(ack);
    let again = more[0].ack().unwrap_err();
    assert_eq!(again.code(), Code::LeaseLost, "it was settled");
    left.retain(|id| !ids.contains(id));
    // Many at once, by receipt, and put back.
    let many = receive(&group, 20);
    left.retain(|id| !numbers(&many).contains(id));
    assert!(group.ack_many(many).into_iter().all(|r| r.is_ok()));
    let one = receive(&group, 1).pop().unwrap();
    left.retain(|id| *id != id_of(one.body()));
    m.store.ack(&one.detach()).unwrap();
    receive(&group, 1)[0].nack(Some(Duration::ZERO)).unwrap();
    receive(&group, 1)[0].nack(None).unwrap();
    drop(receive(&group, 3));
    // A flush writes the snapshots that note them.
    assert!(m.store.flush(None).unwrap());
    let cut = world.power_cut_with(|_| 1);
    let after = store_after(&cut);
    assert_eq!(
        take_all(&after, &after.group("t", "g")),
        left,
        "after a cut"
    );
    assert_whole(&m.store, "without room");
    // The death of every process changes nothing of it.
    m.dies();
    let m = store(&world);
    assert_whole(&m.store, "after the death of all");
    world.advance(5_000);
    let group = m.group("t", "g");
    assert_eq!(take_all(&m, &group), left);
}

/// Receives and acks everything while the keeper does its work; the numbers, ascending.
fn take_all(m: &Member, group: &Group) -> Vec<u64> {
    let (mut taken, mut idle) = (Vec::new(), 0);
    // Statistics may count numbers that a recovery jumped over, so they do not tell when it ends.
    while idle < 50 {
        let got = receive(group, 16);
        taken.extend(numbers(&got));
        got.iter().for_each(|d| d.ack().unwrap());
        m.store.look();
        idle = if got.is_empty() { idle + 1 } else { 0 };
    }
    taken.sort_unstable();
    taken
}

fn numbers(got: &[Delivery]) -> Vec<u64> {
    got.iter().map(|d| id_of(d.body())).collect()
}

/// What is owed after a power cut: everything of `left`, and nothing that was never sent.
fn cut(world: &SimWorld, (left, end): (&[u64], u64), when: &str) -> Vec<u64> {
    let m = store_after(world);
    assert_whole(&m.store, when);
    let report = m.store.verify().unwrap();
    assert!(report.is_ok(), "{when}: {report:?}");
    // Also tells of any message that cannot be read.
    let owed = owed(world, &m.store);
    let owed_set: BTreeSet<u64> = owed.iter().copied().collect();
    assert_eq!(owed.len(), owed_set.len(), "{when}: once each");
    let missing: Vec<&u64> = left.iter().filter(|id| !owed_set.contains(id)).collect();
    assert!(missing.is_empty(), "{when}: {missing:?} are lost");
    assert!(owed.iter().all(|id| *id < end), "{when}");
    owed
}

#[test]
fn a_power_cut_brings_back_what_can_be_delivered() {
    for seed in 0..6 {
        let world = world();
        let (m, group, acked, mut left) = without_room(&world);
        let end = acked.len() as u64 + left.len() as u64 + 1;
        for round in 0..12 {
            for one in receive(&group, 9) {
                left.retain(|id| *id != id_of(one.body()));
                one.ack().unwrap();
            }
            for (state, cut_world) in [
                ("worst", world.power_cut_with(|_| 1)),
                ("drawn", world.power_cut(seed * 100 + round)),
            ] {
                cut(
                    &cut_world,
                    (&left, end),
                    &format!("{seed}, {round}, {state}"),
                );
            }
            m.store.look();
        }
        m.leaves();
    }
}

#[test]
fn room_comes_back_when_everything_is_acked() {
    let world = world();
    let (m, group, acked, left) = without_room(&world);
    let mut end = acked.len() as u64 + left.len() as u64 + 1;
    for round in 0..4 {
        let taken = take_all(&m, &group);
        assert_eq!(taken.last(), Some(&(end - 1)), "round {round}");
        for _ in 0..4 {
            m.store.look();
        }
        assert_whole(&m.store, "everything is acked");
        // Each time as much as at first can be sent, or nearly.
        let before = end;
        end = fill(&m, "t", before);
        let first = acked.len() + left.len();
        let now = usize::try_from(end - before).unwrap();
        assert!(now * 10 > first * 9, "round {round}: {now} of {first}");
        m.store.flush(None).unwrap();
        // What was acked before is in the log, or in its snapshots.
        let owed = cut(&world.power_cut_with(|_| 1), (&[], end), "after the flush");
        assert!(owed.into_iter().eq(before..end), "round {round}");
        use_up(&group);
    }
    m.leaves();
}

/// A store without room for an ack whose oldest segments hold only what this member has in hand,
/// too much to be copied forward; both snapshots are above them.
fn pinned(world: &SimWorld) -> Member {
    let mut m = store(world);
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
    fill(&m, "others", 100);
    use_up(&group);
    // No snapshot is due any more.
    (0..3).for_each(|_| m.store.look());
    m
}

fn ack_held(m: &mut Member) {
    for held in std::mem::take(&mut m.held) {
        held.ack().unwrap();
    }
}

#[test]
fn what_a_power_cut_brings_back_is_still_in_the_log() {
    let world = world();
    let mut m = pinned(&world);
    let owed_then = |world: &SimWorld, when: &str| {
        let m = store_after(world);
        assert_whole(&m.store, when);
        owed(world, &m.store)
    };
    // Nothing can note acks while the oldest segment stays.
    receive(&m.group("others", "h"), 1)[0].ack().unwrap();
    let flushed = m.store.flush(None).unwrap_err();
    assert_eq!(flushed.code(), Code::Full, "{flushed}");
    ack_held(&mut m);
    for round in 0..6 {
        let when = format!("round {round}");
        for cut in [world.power_cut_with(|_| 1), world.power_cut(round)] {
            let owed = owed_then(&cut, &when);
            let mine: Vec<u64> = owed.into_iter().filter(|id| *id < 20).collect();
            // All of them again, or none any more: they were acked in one go.
            assert!(
                mine.is_empty() || mine == [1, 2, 3, 4, 5, 6, 7, 8],
                "{when}: {mine:?}"
            );
        }
        m.store.look();
    }
    let after = owed_then(&world.power_cut_with(|_| 1), "at the end");
    assert!(after.iter().all(|id| *id >= 20), "the acks are noted");
    m.leaves();
}

#[test]
fn a_death_in_an_ack_without_room_settles_or_does_not() {
    for k in 1.. {
        let world = world();
        let mut m = pinned(&world);
        m.held.truncate(2);
        let survived = kill_at(m, k, &ack_held);
        let m = store(&world);
        assert_whole(&m.store, &format!("killed at point {k}"));
        let mut mine = take_all(&m, &m.group("t", "g"));
        mine.retain(|id| *id < 3);
        let fits = mine == [1, 2] || mine == [2] || mine.is_empty();
        assert!(
            fits && (!survived || mine.is_empty()),
            "point {k}: {mine:?}"
        );
        if survived {
            return;
        }
    }
}

#[test]
fn a_death_while_acks_are_noted_loses_none() {
    for k in (1..).step_by(7) {
        let world = world();
        let mut m = pinned(&world);
        ack_held(&mut m);
        let process = m.process.clone();
        let end = run_member(Fate::dies_at(k), move || {
            (0..3).for_each(|_| m.store.look());
            m
        });
        process.kill();
        let cut = world.power_cut_with(|_| 1);
        let after = store_after(&cut);
        assert_whole(&after.store, &format!("cut, killed at point {k}"));
        let mine = owed(&cut, &after.store)
            .into_iter()
            .filter(|id| *id < 20)
            .count();
        assert!(mine == 0 || mine == 8, "cut, killed at point {k}: {mine}");
        let m = store(&world);
        assert_whole(&m.store, &format!("killed at point {k}"));
        assert_eq!(take_all(&m, &m.group("t", "g")), [], "point {k}");
        if end.is_ok() {
            return;
        }
    }
}

#[test]
fn more_is_acked_than_there_are_slots() {
    let world = world();
    let (m, group, acked, left) = without_room(&world);
    let first = left.len();
    assert!(first > 3 * 128, "{first} left for 128 slots");
    assert_eq!(
        take_all(&m, &group).len(),
        first,
        "after {} acks with records",
        acked.len()
    );
    m.leaves();
}

#[test]
fn keys_purges_and_deletions_go_on_without_room() {
    let world = world();
    let m = store(&world);
    let ordered = m.store.group("keys", "o").ordered(true).open().unwrap();
    let keys = m.store.topic("keys").unwrap();
    for id in 1..=4 {
        keys.message(&body(id, SMALL))
            .order_key("k")
            .send()
            .unwrap();
    }
    let (gone, purged) = (m.group("gone", "g"), m.group("purged", "g"));
    for id in 10..16 {
        m.send_async("gone", id, SMALL);
        m.send_async("purged", id, SMALL);
    }
    let group = m.group("t", "g");
    fill(&m, "t", 100);
    use_up(&group);
    for id in 1..=4 {
        let got = receive(&ordered, 4);
        assert_eq!(numbers(&got), [id], "the next of the key");
        got[0].ack().unwrap();
    }
    for group in [&gone, &purged] {
        receive(group, 3).iter().for_each(|d| d.ack().unwrap());
    }
    assert_whole(&m.store, "acked without room");
    // These need room, which comes once everything is consumed.
    take_all(&m, &group);
    (0..4).for_each(|_| m.store.look());
    assert_eq!(m.store.topic("purged").unwrap().purge().unwrap(), 3);
    m.store.topic("gone").unwrap().delete().unwrap();
    (0..4).for_each(|_| m.store.look());
    assert_whole(&m.store, "purged and deleted");
    m.store.flush(None).unwrap();
    drop((ordered, gone, purged, group));
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = store_after(&world);
        assert_whole(&m.store, "opened again");
        assert!(owed(&world, &m.store).is_empty());
    }
}

#[test]
fn a_message_without_an_attempt_left_holds_nobody_up() {
    let world = world();
    let m = store(&world);
    let few = m.store.group("t", "few").max_attempts(1).open().unwrap();
    let group = m.group("t", "g");
    fill(&m, "t", 1);
    use_up(&group);
    for id in 1..=3 {
        let got = receive(&few, 1);
        assert_eq!(numbers(&got), [id], "the next one");
        got[0].nack(Some(Duration::ZERO)).unwrap();
        // It cannot be buried, and is not given out again.
        assert_eq!(few.stats().unwrap().delayed, id);
    }
    assert_eq!(few.stats().unwrap().dead, 0);
    // Others give some room.
    world.remove(FILLER);
    m.store.look();
    world.advance(2_000);
    for id in 4..=6 {
        let got = receive(&few, 1);
        assert_eq!(numbers(&got), [id]);
        got[0].ack().unwrap();
    }
    assert_eq!(few.stats().unwrap().dead, 3);
    assert_whole(&m.store, "buried");
    m.leaves();
}

/// The files of a machine and what they take.
fn files(world: &SimWorld) -> Vec<(String, usize)> {
    let files = world.files().into_iter();
    files.map(|(name, bytes)| (name, bytes.len())).collect()
}

#[test]
fn an_open_without_room_is_refused_and_takes_nothing() {
    let world = world();
    let (m, _, _, left) = without_room(&world);
    let mut refused = 0;
    // Everything that was written is on the disk, but nothing proves that it was to be.
    for room in (0..600).step_by(4) {
        let cut = world.power_cut_with(|_| 0);
        cut.remove("ctl");
        cut.leave_room(Some(room << 10));
        let mut before: Option<Vec<_>> = None;
        let opens = (0..3).all(|_| {
            let process = cut.process();
            let opened = keepq::Store::open_simulated(&process, options());
            let Err(e) = opened else { return true };
            process.kill();
            assert_eq!(e.code(), Code::Full, "{room} KiB: {e}");
            assert!(e.message().contains("free"), "{room} KiB: {e}");
            refused += 1;
            // Who tries again and again must not fill the disk.
            let now = files(&cut);
            assert!(now.iter().all(|(name, _)| name != "ctl.new"), "{room} KiB");
            if let Some(before) = &before {
                assert_eq!(&now, before, "{room} KiB");
            }
            before = Some(now);
            false
        });
        cut.leave_room(None);
        let after = store(&cut);
        let owed = owed(&cut, &after.store);
        assert!(left.iter().all(|id| owed.contains(id)), "{room} KiB");
        if opens {
            assert!(refused > 60, "only {refused} were refused");
            m.leaves();
            return;
        }
    }
    panic!("600 KiB are not enough");
}

/// Looks at power cuts right before files are removed, and now and then besides. `most` is the
/// first number that was never sent.
fn look_at_cuts(world: &SimWorld, most: u64) -> Rc<RefCell<u64>> {
    let looked = Rc::new(RefCell::new(0));
    let (count, world, mut calls) = (Rc::clone(&looked), world.clone(), calls_announced());
    set_point_hook(Some(Box::new(move || {
        let kinds = [CallKind::Unlink, CallKind::SyncDir];
        let removes = announced_site().is_some_and(|site| kinds.contains(&site.kind));
        if calls_announced() == calls || !removes && calls_announced() % 64 != 0 {
            return;
        }
        calls = calls_announced();
        let sure = [world.power_cut_with(|_| 0), world.power_cut_with(|_| 1)];
        let drawn = (0..if removes { 3 } else { 0 }).map(|i| world.power_cut(calls * 8 + i));
        for cut in sure.into_iter().chain(drawn) {
            *count.borrow_mut() += 1;
            let m = store_after(&cut);
            let when = format!("disk call {calls}");
            let found = m.store.recovery();
            assert_eq!(found.damaged_bytes, 0, "{when}: {found:?}");
            assert_whole(&m.store, &when);
            assert!(m.store.verify().unwrap().is_ok(), "{when}");
            // What was acked may come back, once each.
            let owed = owed(&cut, &m.store);
            assert!(owed.windows(2).all(|two| two[0] < two[1]), "{when}");
            assert!(owed.iter().all(|id| *id < most), "{when}");
        }
    })));
    looked
}

#[test]
fn a_power_cut_while_room_is_made_loses_nothing() {
    let world = world();
    let (m, group, acked, left) = without_room(&world);
    let end = (acked.len() + left.len()) as u64 + 1;
    let looked = look_at_cuts(&world, end);
    assert_eq!(take_all(&m, &group).len(), left.len());
    for _ in 0..8 {
        m.store.look();
    }
    set_point_hook(None);
    let looked = *looked.borrow();
    assert!(looked > 60, "only {looked} cuts");
    m.leaves();
}

#[test]
fn a_power_cut_while_space_is_given_back_loses_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let m = store(&world);
    let group = m.group("t", "g");
    (1..=12).for_each(|id| m.send_async("t", id, 3000));
    assert!(
        group
            .ack_many(receive(&group, 12))
            .iter()
            .all(Result::is_ok)
    );
    m.store.flush(None).unwrap();
    // No header of a segment names the snapshots that are written now.
    let looked = look_at_cuts(&world, 13);
    m.store.rest().unwrap();
    set_point_hook(None);
    assert!(*looked.borrow() > 2, "{looked:?} cuts");
    assert!(
        world
            .files()
            .iter()
            .all(|(name, _)| name != "log/00000001.0.seg")
    );
    m.leaves();
}
