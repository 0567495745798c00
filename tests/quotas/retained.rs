//! Messages that are kept although everybody has settled them, and space that comes back.

use super::*;

/// What a new group of the topic gets, without settling it.
fn replayed(m: &Member, topic: &str) -> Vec<u64> {
    let group = m.group(topic, "replay");
    let mut all = Vec::new();
    while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
        all.push(id_of(delivery.body()));
        delivery.ack().unwrap();
    }
    group.delete().unwrap();
    all
}

fn consume(m: &Member, topic: &str, group: &str) {
    let group = m.group(topic, group);
    while let Some(delivery) = group.receive(Duration::ZERO).unwrap() {
        delivery.ack().unwrap();
    }
}

/// The name of the oldest segment file.
fn first_segment(world: &SimWorld) -> String {
    let names = world.files().into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".seg")).min().unwrap()
}

/// Sends and consumes so much of another topic that segments can go.
fn traffic(m: &Member, rounds: u64) {
    for id in 0..rounds {
        m.send("traffic", 5000 + id, 900);
        consume(m, "traffic", "g");
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
}

#[test]
fn settled_messages_are_kept_as_long_as_their_age_says() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m
        .store
        .topic_with("t")
        .retain_age(Duration::from_secs(1000));
    let topic = topic.open().unwrap();
    m.group("t", "g");
    (1..=50).for_each(|id| m.send("t", id, 900));
    world.advance(600_000);
    (51..=53).for_each(|id| m.send("t", id, 900));
    consume(&m, "t", "g");
    traffic(&m, 40);
    assert_eq!(replayed(&m, "t"), (1..=53).collect::<Vec<_>>());
    m.store.flush(None).unwrap();
    assert_eq!(
        replayed(&open_quick(&cut(&world)), "t"),
        (1..=53).collect::<Vec<_>>()
    );
    let first = first_segment(&world);
    world.advance(500_000);
    traffic(&m, 40);
    // The first fifty are over age, and their space is back.
    assert_eq!(replayed(&m, "t"), [51, 52, 53]);
    assert_eq!(kept(&m, "t"), Some((3, 2700)));
    assert!(first_segment(&world) > first, "{first}");
    // What is retained counts for a limit, and what nobody has settled is kept whatever its age.
    topic.configure().max_messages(4).apply().unwrap();
    assert_eq!(fill(&topic, 54, 900), 1);
    world.advance(2_000_000);
    assert_eq!(fill(&topic, 55, 900), 3);
    m.store.flush(None).unwrap();
    let after = open_quick(&cut(&world));
    assert_eq!(replayed(&after, "t"), [54, 55, 56, 57]);
}

#[test]
fn settled_messages_are_kept_as_far_as_their_bytes_say() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m.store.topic_with("t").retain_bytes(2500).open().unwrap();
    m.group("t", "g");
    (1..=9).for_each(|id| m.send("t", id, 1000));
    // All nine: nobody has settled them.
    assert_eq!(replayed(&m, "t"), (1..=9).collect::<Vec<_>>());
    consume(&m, "t", "g");
    traffic(&m, 40);
    assert_eq!(replayed(&m, "t"), [7, 8, 9]);
    m.send("t", 10, 1000);
    consume(&m, "t", "g");
    traffic(&m, 3);
    assert_eq!(replayed(&m, "t"), [8, 9, 10]);
    topic.configure().retain_bytes(None).apply().unwrap();
    traffic(&m, 3);
    assert_eq!(replayed(&m, "t"), [0; 0]);
}

#[test]
fn what_is_counted_off_gives_its_space_back_and_stays_counted_off() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_quick(&world);
    let topic = m.store.topic_with("t").max_messages(30).open().unwrap();
    m.group("t", "g");
    let (mut next, mut most) = (1, 0);
    for _ in 0..20 {
        next += fill(&topic, next, 900);
        consume(&m, "t", "g");
        for _ in 0..3 {
            m.store.flush(None).unwrap();
            m.store.maintain().unwrap();
        }
        most = most.max(m.store.stats().unwrap().segments);
    }
    assert!(most < 16, "{most} segments for 30 messages");
    assert!(next > 500);
    // Also where the counts are read back from the log.
    for world in [cut(&world), world.fork()] {
        let m = open_quick(&world);
        assert_counted(&m, "opened");
    }
}
