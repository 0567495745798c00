//! Messages can be read without receiving them: by topic, or one by its id. Nothing is claimed.
#![allow(clippy::unwrap_used)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Browsed, Code, Flush, MessageId, Topic};
use members::{body, id_of, open, open_with, options};

fn numbers(messages: impl Iterator<Item = keepq::Result<Browsed>>) -> Vec<u64> {
    messages
        .map(|m| id_of(m.unwrap().content.unwrap().body()))
        .collect()
}

/// Sends these numbers, every fifth of them too large for one record.
fn send(topic: &Topic, numbers: std::ops::Range<u64>) -> Vec<MessageId> {
    numbers
        .map(|n| {
            let len = if n % 5 == 0 { 9000 } else { 50 };
            topic.send(body(n, len)).unwrap().id
        })
        .collect()
}

#[test]
fn a_topic_is_read_in_order_and_nothing_is_claimed() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let group = m.group("orders", "billing");
    assert!(topic.browse().next().is_none());
    send(&topic, 1..41);
    let before = m.store.describe_state().unwrap();
    let all: Vec<u64> = (1..41).collect();
    assert_eq!(numbers(topic.browse()), all);
    assert_eq!(numbers(topic.browse().from(7)), all[7..]);
    assert_eq!(numbers(topic.browse().from(99)), [0; 0]);
    assert_eq!(numbers(topic.browse().last(3).unwrap()), [38, 39, 40]);
    assert_eq!(numbers(topic.browse().last(0).unwrap()), [0; 0]);
    assert_eq!(numbers(topic.browse().last(1000).unwrap()), all);
    assert_eq!(topic.bounds().unwrap(), (0, 40));
    assert_eq!(m.store.describe_state().unwrap(), before);
    let mut browse = topic.browse().from(39);
    assert_eq!(browse.next().unwrap().unwrap().seq, 39);
    assert!(browse.next().is_none());
    send(&topic, 41..42);
    assert_eq!(numbers(browse), [41]);
    assert_eq!(group.receive_batch(50, Duration::ZERO).unwrap().len(), 41);
}

#[test]
fn what_is_not_delivered_yet_is_not_shown_either() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let first = topic.message(&body(1, 50)).flush(Flush::Async).send();
    let first = first.unwrap();
    assert_eq!(numbers(topic.browse()), [0; 0]);
    assert!(m.store.find(first.id).unwrap().is_none());
    m.store.flush(None).unwrap();
    assert_eq!(numbers(topic.browse()), [1]);
    assert!(m.store.find(first.id).unwrap().is_some());
    // In a topic of an asynchronous store everything is shown at once.
    let m = open_with(&world, options().flush(Flush::Async));
    let fast = m.store.topic("fast").unwrap();
    let ids = send(&fast, 1..6);
    assert_eq!(numbers(fast.browse()), [1, 2, 3, 4, 5]);
    for (id, n) in ids.into_iter().zip(1..) {
        let found = m.store.find(id).unwrap().unwrap();
        assert_eq!(id_of(found.content.unwrap().body()), n);
    }
}

#[test]
fn every_message_is_found_by_its_id() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let names = ["a", "b", "c"];
    let topics = names.map(|name| m.store.topic(name).unwrap());
    let mut sent = Vec::new();
    for round in 0..20 {
        for (topic, at) in topics.iter().zip(0..) {
            let n = 1 + round * 3 + at;
            sent.extend(send(topic, n..n + 1).into_iter().map(|id| (id, n)));
        }
    }
    let group = m.store.group("a", "g").open().unwrap();
    let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
    delivery.reject("no").unwrap();
    let end = m.store.published();
    for m in [m, open(&world.power_cut_with(|_| 1))] {
        for (id, n) in &sent {
            let found = m.store.find(*id).unwrap().unwrap();
            let content = found.content.unwrap();
            assert_eq!((content.id(), id_of(content.body())), (*id, *n));
            assert_eq!(found.seq, (*n - 1) / 3);
            assert_eq!(
                found.topic.as_ref(),
                names[usize::try_from((*n - 1) % 3).unwrap()]
            );
            assert_eq!(id.to_string().parse::<MessageId>().unwrap(), *id);
        }
        // Every other position is none.
        let ids: Vec<MessageId> = sent.iter().map(|(id, _)| *id).collect();
        for lsn in (0..end + 64).step_by(8) {
            let id: MessageId = format!("{lsn:016x}").parse().unwrap();
            assert_eq!(m.store.find(id).unwrap().is_some(), ids.contains(&id));
        }
        assert!(m.store.check_state().unwrap().is_empty());
    }
}

#[test]
fn a_damaged_message_is_shown_as_such_and_the_others_are_read() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let ids = send(&topic, 1..5);
    m.leaves();
    let found = world.files().into_iter().find_map(|(name, content)| {
        let wanted = body(2, 50);
        let at = content.windows(wanted.len()).position(|w| w == wanted)?;
        name.ends_with(".seg").then_some((name, at as u64))
    });
    let (file, at) = found.unwrap();
    assert!(world.corrupt(&file, at + 20, 1));
    world.drop_caches();
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let found: Vec<Browsed> = topic.browse().map(Result::unwrap).collect();
    let whole: Vec<bool> = found.iter().map(|b| b.content.is_ok()).collect();
    assert_eq!(whole, [true, false, true, true]);
    let one = m.store.find(ids[1]).unwrap().unwrap();
    assert_eq!(one.content.unwrap_err().code(), Code::Corrupt);
}

#[test]
fn a_browse_steps_over_what_is_reclaimed_meanwhile() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let group = m.group("orders", "g");
    send(&topic, 1..30);
    let mut browse = topic.browse();
    assert_eq!(browse.next().unwrap().unwrap().seq, 0);
    while topic.bounds().unwrap().0 == 0 {
        let next = topic.bounds().unwrap().1 + 1;
        send(&topic, next..next + 3);
        for delivery in group.receive_batch(50, Duration::ZERO).unwrap() {
            delivery.ack().unwrap();
        }
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    // What was looked up before may still be read; nothing in between is an error.
    let seqs: Vec<u64> = browse.map(|b| b.unwrap()).map(|b| b.seq).collect();
    let (first, next) = topic.bounds().unwrap();
    assert!(first > 0 && seqs.is_sorted());
    assert!((first..next).all(|seq| seqs.contains(&seq)), "{seqs:?}");
}

#[test]
fn an_id_has_sixteen_digits() {
    for text in [
        "",
        "1",
        "000000000000000",
        "+000000000000001",
        "000000000000000g",
    ] {
        let refused = text.parse::<MessageId>().unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text:?}");
    }
    let id: MessageId = "00000000000010C0".parse().unwrap();
    assert_eq!(id.to_string(), "00000000000010c0");
}

#[test]
fn messages_are_found_by_their_key_and_damaged_ones_are_told_of() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let found = |key: &str, from: u64| numbers(topic.browse().key(key).from(from));
    assert_eq!(found("a", 0), [0; 0]);
    // Some are too large for one record, most are passed over.
    for n in 1..=60 {
        let len = if n % 7 == 0 { 9000 } else { 300 };
        let body = body(n, len);
        let message = topic.message(&body);
        match n % 3 {
            0 => message.key("a").send().unwrap(),
            1 => message.key("ab").tag("a").order_key("a").send().unwrap(),
            _ => message.send().unwrap(),
        };
        m.store.maintain().unwrap();
    }
    let of = |rest: u64| (1..=60).filter(move |n| n % 3 == rest);
    assert_eq!(found("a", 0), of(0).collect::<Vec<_>>());
    assert_eq!(found("ab", 0), of(1).collect::<Vec<_>>());
    assert_eq!(
        found("a", 30),
        of(0).filter(|n| *n > 30).collect::<Vec<_>>()
    );
    assert_eq!((found("", 0), found("b", 0)), (vec![], vec![]));
    let last = topic.browse().last(6).unwrap();
    assert_eq!(numbers(last.key("a")), [57, 60]);
    // Dead letters have the key of what was given up.
    let group = m.group("orders", "billing");
    for delivery in group.receive_batch(7, Duration::ZERO).unwrap() {
        delivery.reject("no").unwrap();
    }
    m.store.flush(None).unwrap();
    let letters = m.store.existing_topic("%DLQ%orders%billing").unwrap();
    assert_eq!(numbers(letters.browse().key("a")), [3, 6]);
    // It goes on with what comes later.
    let mut later = topic.browse().key("a").from(60);
    assert!(later.next().is_none());
    topic.message(&body(61, 50)).send().unwrap();
    topic.message(&body(62, 50)).key("a").send().unwrap();
    assert_eq!(numbers(later), [62]);
    // A damaged one may have had it.
    let damaged = topic.browse().from(58).next().unwrap().unwrap();
    let place = damaged.content.unwrap().id().lsn();
    m.leaves();
    let (name, base) = segment_of(&world, place);
    assert!(world.corrupt(&name, place - base + 60, 1));
    let m = open_with(&world, options().read_only(true));
    let topic = m.store.topic("orders").unwrap();
    let last: Vec<Option<u64>> = topic
        .browse()
        .key("a")
        .from(56)
        .map(|m| m.unwrap().content.ok().map(|c| id_of(c.body())))
        .collect();
    assert_eq!(last, [Some(57), None, Some(60), Some(62)]);
}

/// The segment file that holds a position, and where it begins in the log.
fn segment_of(world: &SimWorld, lsn: u64) -> (String, u64) {
    let files = world.files().into_iter();
    let segments = files.filter(|(name, _)| name.ends_with(".seg"));
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let mut placed = segments.map(|(name, bytes)| (name, word(&bytes, 24), word(&bytes, 32)));
    let found = placed.find(|(_, base, size)| (*base..base + size).contains(&lsn));
    let (name, base, _) = found.unwrap();
    (name, base)
}
