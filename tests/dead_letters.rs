//! Dead letters are kept until they are purged: looking at them claims nothing, a purge takes what
//! it was asked to and nothing else, and what it took stays away whatever dies.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Rng, SimOptions, SimWorld, set_point_hook};
use keepq::{Code, DeadLetter, DeadLetters, Flush};
use members::{Member, assert_whole, body, id_of, kill_at, open, open_with, options};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Sends messages with these numbers, and rejects them.
fn bury(member: &Member, numbers: impl IntoIterator<Item = u64>) {
    let topic = member.store.topic(TOPIC).unwrap();
    let group = member.group(TOPIC, GROUP);
    for number in numbers {
        topic.send(body(number, 40)).unwrap();
        let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
        assert_eq!(id_of(delivery.body()), number);
        delivery.reject(&format!("reason {number}")).unwrap();
    }
}

fn letters(member: &Member) -> DeadLetters {
    member.group(TOPIC, GROUP).dead_letters()
}

fn number(letter: &DeadLetter) -> u64 {
    id_of(letter.content.as_ref().unwrap().body())
}

/// The numbers of the dead letters that there are.
fn numbers(member: &Member) -> Vec<u64> {
    let found: Vec<u64> = letters(member)
        .browse()
        .map(|letter| number(&letter.unwrap()))
        .collect();
    assert_eq!(letters(member).len().unwrap(), found.len() as u64);
    found
}

/// Purges the one with this number.
fn purge_number(member: &Member, wanted: u64) -> bool {
    let all = letters(member);
    let found = all
        .browse()
        .map(|letter| letter.unwrap())
        .find(|letter| number(letter) == wanted);
    found.is_some_and(|letter| all.purge_one(letter.seq).unwrap())
}

/// The machine after a power cut that took everything that was not durable.
fn cut(world: &SimWorld) -> SimWorld {
    world.power_cut_with(|_| 1)
}

#[test]
fn browsing_shows_what_a_letter_was_and_claims_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic(TOPIC).unwrap();
    let group = m.store.group(TOPIC, GROUP).max_attempts(2).open().unwrap();
    let message = topic.message(b"rejected").key("k").tag("t");
    let first = message.header("from", b"\xff\x00").send().unwrap();
    let second = topic.send(b"given up").unwrap();
    let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
    delivery.reject("no such customer").unwrap();
    for _ in 0..2 {
        let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
        delivery.nack(Some(Duration::ZERO)).unwrap();
    }
    let before = m.store.describe_state().unwrap();
    let found: Vec<DeadLetter> = letters(&m).browse().map(Result::unwrap).collect();
    assert_eq!(m.store.describe_state().unwrap(), before);
    let [one, two] = found.try_into().unwrap();
    let (content, burial) = (one.content.unwrap(), one.burial.unwrap());
    assert_eq!((one.seq, content.id()), (0, first.id));
    assert_eq!(content.body(), b"rejected");
    assert_eq!((content.key(), content.tag()), (Some("k"), Some("t")));
    let headers: Vec<_> = content.headers().collect();
    assert_eq!(headers, [("from", b"\xff\x00".as_slice())]);
    assert_eq!((burial.topic.as_str(), burial.topic_seq), (TOPIC, 0));
    assert_eq!((burial.attempts, burial.rejected), (1, true));
    assert_eq!(burial.reason, "no such customer");
    assert!(burial.dead_at_ms >= content.sent_at_ms());
    let (content, burial) = (two.content.unwrap(), two.burial.unwrap());
    assert_eq!((two.seq, content.id()), (1, second.id));
    assert_eq!((burial.topic_seq, burial.attempts), (1, 2));
    assert!(!burial.rejected && burial.reason.contains("attempt"));
    let all = letters(&m);
    let from: Vec<u64> = all.browse().from(1).map(|l| l.unwrap().seq).collect();
    assert_eq!(from, [1]);
    let found = all.get(second.id).unwrap().unwrap();
    assert_eq!(found.seq, 1);
    let unsent = "00000000ffffffff".parse().unwrap();
    assert!(all.get(unsent).unwrap().is_none());
    // Where nothing was ever given up there is nothing, and nothing is made by looking.
    let none = m.group(TOPIC, "other").dead_letters();
    assert_eq!((none.browse().count(), none.purge().unwrap()), (0, 0));
    assert!(!none.purge_one(0).unwrap() && none.is_empty().unwrap());
    assert!(m.store.existing_topic("%DLQ%orders%other").is_err());
}

#[test]
fn a_browse_goes_on_with_what_comes_later() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let mut browse = letters(&m).browse();
    assert!(browse.next().is_none());
    bury(&m, 1..=2);
    assert_eq!(number(&browse.next().unwrap().unwrap()), 1);
    assert_eq!(number(&browse.next().unwrap().unwrap()), 2);
    assert!(browse.next().is_none());
    bury(&m, [3]);
    assert_eq!(number(&browse.next().unwrap().unwrap()), 3);
}

#[test]
fn a_purge_takes_what_there_was_and_leaves_what_comes_after() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    bury(&m, 1..=40);
    assert!(purge_number(&m, 17));
    assert_eq!(letters(&m).purge().unwrap(), 39);
    assert!(numbers(&m).is_empty());
    assert_eq!(letters(&m).purge().unwrap(), 0);
    bury(&m, 41..=43);
    assert_eq!(numbers(&m), [41, 42, 43]);
    assert_whole(&m.store, "purged");
    m.leaves();
    for world in [cut(&world), world] {
        let m = open(&world);
        assert_eq!(numbers(&m), [41, 42, 43]);
        assert_whole(&m.store, "opened");
        bury(&m, [44]);
        assert_eq!(numbers(&m), [41, 42, 43, 44]);
        m.leaves();
    }
}

#[test]
fn a_purge_that_returned_is_on_disk() {
    // Acks of this group are not durable by themselves, and the topic's sends are not either.
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    bury(&m, 1..=6);
    assert!(purge_number(&m, 4));
    let after = cut(&world);
    assert_eq!(numbers(&open(&after)), [1, 2, 3, 5, 6]);
    assert!(purge_number(&m, 1));
    let after = cut(&world);
    assert_eq!(numbers(&open(&after)), [2, 3, 5, 6]);
    assert_eq!(letters(&m).purge().unwrap(), 4);
    let after = cut(&world);
    assert_eq!(numbers(&open(&after)), [0; 0]);
}

/// Random burials and purges, snapshots, segments that come and go, and restarts of every kind:
/// there is always exactly what was not purged.
#[test]
fn whatever_is_purged_in_any_order_the_others_stay() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut world = SimWorld::new(SimOptions::default());
        let mut m = open(&world);
        let (mut expected, mut next) = (Vec::new(), 1);
        for step in 0..60 {
            let when = format!("seed {seed}, step {step}");
            match rng.below(12) {
                0..=3 => {
                    let more = 1 + rng.below(6);
                    bury(&m, next..next + more);
                    expected.extend(next..next + more);
                    next += more;
                }
                4..=7 if !expected.is_empty() => {
                    let at = usize::try_from(rng.below(expected.len() as u64)).unwrap();
                    assert!(purge_number(&m, expected.remove(at)), "{when}");
                }
                8 if rng.below(4) == 0 => {
                    let all = expected.len() as u64;
                    assert_eq!(letters(&m).purge().unwrap(), all, "{when}");
                    expected.clear();
                }
                9 => m.store.maintain().unwrap(),
                10 => {
                    m.leaves();
                    m = open(&world);
                }
                _ => {
                    m.store.flush(None).unwrap();
                    m.dies();
                    if rng.below(2) == 0 {
                        world = world.power_cut(rng.next_u64());
                    }
                    m = open(&world);
                }
            }
            assert_eq!(numbers(&m), expected, "{when}");
            assert_whole(&m.store, &when);
        }
    }
}

/// Of a purge that dies, only what it was asked to take may be gone.
fn kill_everywhere(act: fn(&mut Member), asked: &[u64]) {
    let base = SimWorld::new(SimOptions::default());
    let m = open(&base);
    bury(&m, 1..=9);
    assert!(purge_number(&m, 3) && purge_number(&m, 7));
    m.leaves();
    let before = [1, 2, 4, 5, 6, 8, 9];
    let mut k = 1;
    loop {
        let world = base.fork();
        let living = open(&world);
        let returned = kill_at(open(&world), k, &act);
        let when = format!("killed at {k}");
        let judge = |m: &Member| {
            assert_whole(&m.store, &when);
            let found = numbers(m);
            let kept = |n: &u64| found.contains(n) || asked.contains(n);
            assert!(before.iter().all(kept), "{when}: {found:?}");
            assert!(
                found.iter().all(|n| before.contains(n)),
                "{when}: {found:?}"
            );
            let taken = before.iter().filter(|n| !found.contains(n)).count();
            assert!(!returned || taken == asked.len(), "{when}: {found:?}");
            found
        };
        let found = judge(&living);
        // What the living see is what a later open finds, and what a power cut leaves once it is
        // on disk.
        living.store.flush(None).unwrap();
        assert_eq!(judge(&open(&cut(&world))), found, "{when}");
        living.leaves();
        assert_eq!(judge(&open(&world)), found, "{when}");
        if returned {
            assert!(k > 3, "there are points to be killed at");
            return;
        }
        k += 1;
    }
}

#[test]
fn a_purge_that_is_killed_takes_nothing_else_along() {
    let all = [1, 2, 4, 5, 6, 8, 9];
    kill_everywhere(|m| assert_eq!(letters(m).purge().unwrap(), 7), &all);
}

#[test]
fn a_purge_of_one_that_is_killed_takes_nothing_else_along() {
    kill_everywhere(|m| assert!(letters(m).purge_one(3).unwrap()), &[4]);
    kill_everywhere(|m| assert!(letters(m).purge_one(0).unwrap()), &[1]);
}

/// Sends until the log has one more segment.
fn roll(m: &Member) {
    let segments = |m: &Member| m.store.stats().unwrap().segments;
    let before = segments(m);
    while segments(m) == before {
        m.send("other", 100, 900);
    }
}

/// A purge of one at the k-th point of another process's maintenance, in which a snapshot is
/// written. None: there are fewer points. Some(purged): whether it was not busy.
fn purge_within_a_snapshot(base: &SimWorld, k: u64, (asked, seq): (u64, u64)) -> Option<bool> {
    let world = base.fork();
    let maintainer = open(&world);
    // No snapshot is written for the new segment yet.
    roll(&maintainer);
    let other = open_with(&world, options().send_timeout(Duration::from_millis(50)));
    let all = letters(&other);
    let done = Rc::new(Cell::new(None));
    let (points, result) = (Cell::new(0), Rc::clone(&done));
    set_point_hook(Some(Box::new(move || {
        points.set(points.get() + 1);
        if points.get() == k {
            result.set(Some(all.purge_one(seq).map_err(|e| e.code())));
        }
    })));
    let maintained = maintainer.store.maintain();
    set_point_hook(None);
    // Busy: in the middle of a change of the other's.
    let purged = done.take()?.map_or_else(
        |code| {
            assert_eq!(code, Code::Busy, "at point {k}");
            false
        },
        |purged| {
            assert!(purged, "at point {k}");
            true
        },
    );
    maintained.unwrap();
    // The header of the next segment names the snapshot: a recovery begins with it.
    roll(&maintainer);
    maintainer.store.flush(None).unwrap();
    let mut expected = vec![1, 3, 4, 6, 7, 8, 9];
    expected.retain(|n| *n != asked || !purged);
    for m in [open(&cut(&world)), maintainer, other] {
        assert_eq!(numbers(&m), expected, "{asked} purged at point {k}");
        assert_whole(&m.store, &format!("{asked} purged at point {k}"));
    }
    Some(purged)
}

#[test]
fn a_snapshot_that_is_being_written_misses_no_purge() {
    let base = SimWorld::new(SimOptions::default());
    let m = open(&base);
    bury(&m, 1..=9);
    assert!(purge_number(&m, 2) && purge_number(&m, 5));
    m.leaves();
    // The first, which takes the run behind it along; at both ends of a run; alone.
    for which in [(1, 0), (4, 3), (6, 5), (9, 8)] {
        let results = (1..).map_while(|k| purge_within_a_snapshot(&base, k, which));
        let results: Vec<bool> = results.collect();
        let purged = results.iter().filter(|purged| **purged).count();
        assert!(purged >= 10, "{purged} of {}", results.len());
    }
}

#[test]
fn a_letter_whose_message_is_damaged_is_shown_as_such() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    bury(&m, 1..=3);
    m.leaves();
    let (file, at) = find(&world, &body(2, 40));
    assert!(world.corrupt(&file, at, 0x10));
    world.drop_caches();
    let m = open(&world);
    let found: Vec<DeadLetter> = letters(&m).browse().map(Result::unwrap).collect();
    assert_eq!(found.len(), 3);
    assert_eq!((number(&found[0]), number(&found[2])), (1, 3));
    let lost = found[1].content.as_ref().unwrap_err();
    assert_eq!(lost.code(), Code::Corrupt, "{lost}");
    assert_eq!(found[1].burial.as_ref().unwrap().reason, "reason 2");
    // Its note is damaged too: it still counts, and it can be purged.
    let (file, at) = find(&world, b"reason 2");
    assert!(world.corrupt(&file, at, 0x10));
    let found: Vec<DeadLetter> = letters(&m).browse().map(Result::unwrap).collect();
    assert_eq!(found.len(), 3);
    let lost = found[1].burial.as_ref().unwrap_err();
    assert_eq!(lost.code(), Code::Corrupt, "{lost}");
    assert!(letters(&m).purge_one(found[1].seq).unwrap());
    assert_eq!(numbers(&m), [1, 3]);
}

/// The file of the log that holds these bytes, and where.
fn find(world: &SimWorld, bytes: &[u8]) -> (String, u64) {
    let found = world.files().into_iter().find_map(|(name, content)| {
        let at = content.windows(bytes.len()).position(|w| w == bytes)?;
        (name.ends_with(".seg")).then_some((name, at as u64))
    });
    found.unwrap()
}

#[test]
fn more_runs_than_can_be_remembered_are_refused_and_nothing_is_lost() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    bury(&m, 1..=300);
    let mut expected: Vec<u64> = (1..=300).collect();
    let mut refused = None;
    for seq in (1..300).step_by(2) {
        match letters(&m).purge_one(seq) {
            Ok(purged) => {
                assert!(purged);
                expected.retain(|n| *n != seq + 1);
            }
            Err(e) => {
                refused = Some(e);
                break;
            }
        }
    }
    assert_eq!(refused.unwrap().code(), Code::LimitExceeded);
    assert_eq!(numbers(&m), expected);
    // Room is left for messages; also when they take it all, a recovery finds room for both.
    for number in 500..564 {
        m.send(TOPIC, number, 40);
    }
    let held = m.group(TOPIC, GROUP).receive_batch(64, Duration::ZERO);
    let held = held.unwrap();
    assert!(held.len() >= 16, "{}", held.len());
    m.store.flush(None).unwrap();
    assert_eq!(numbers(&open(&cut(&world))), expected);
    assert!(
        m.group(TOPIC, GROUP)
            .ack_many(held)
            .into_iter()
            .all(|r| r.is_ok())
    );
    // A run that touches another takes no room; neither does the oldest.
    assert!(letters(&m).purge_one(2).unwrap() && letters(&m).purge_one(0).unwrap());
    expected.retain(|n| ![1, 3].contains(n));
    assert_eq!(numbers(&m), expected);
    assert_eq!(letters(&m).purge().unwrap(), expected.len() as u64);
    assert!(numbers(&m).is_empty());
    assert_whole(&m.store, "purged");
}

#[test]
fn purged_letters_give_their_space_back() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    bury(&m, 1..=200);
    let full = m.store.stats().unwrap().segments;
    letters(&m).purge().unwrap();
    // Reclaim needs snapshots above what it removes, all of it durable.
    for number in 1000..1200 {
        m.send(TOPIC, number, 40);
        let delivery = m.group(TOPIC, GROUP).receive(Duration::ZERO).unwrap();
        delivery.unwrap().ack().unwrap();
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    let left = m.store.stats().unwrap().segments;
    assert!(left <= 4 && left < full, "{left} of {full}");
}

#[test]
fn nobody_sends_into_a_stream_of_dead_letters() {
    let world = SimWorld::new(SimOptions::default());
    let member = open(&world);
    bury(&member, [1]);
    let stream = format!("%DLQ%{TOPIC}%{GROUP}");
    let topic = member.store.existing_topic(&stream).unwrap();
    let refused = topic.send(b"no dead letter").unwrap_err();
    assert_eq!(refused.code(), Code::InvalidName, "{refused}");
    assert!(topic.send_async(b"no dead letter").is_err());
    assert_eq!(numbers(&member), [1]);
    assert_eq!(topic.len().unwrap(), 1);
}
