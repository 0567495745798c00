//! What is there and what is not, after purges and deletions.

use super::*;

#[test]
fn a_purge_takes_what_is_there_for_everybody_and_leaves_what_comes_after() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = start(&world);
    let mut other = open(&world);
    assert_eq!(other.receive("orders", "mail", 3), 3);
    let receipt = other.held[0].receipt();
    let topic = m.store.topic("orders").unwrap();
    assert_eq!(topic.purge().unwrap(), 9);
    for held in other.held.drain(..) {
        assert_eq!(held.ack().unwrap_err().code(), Code::LeaseLost);
        assert_eq!(held.nack(None).unwrap_err().code(), Code::LeaseLost);
        assert_eq!(held.reject("x").unwrap_err().code(), Code::LeaseLost);
        assert_eq!(
            held.extend(Duration::from_secs(9)).unwrap_err().code(),
            Code::LeaseLost
        );
    }
    assert_eq!(m.store.ack(&receipt).unwrap_err().code(), Code::LeaseLost);
    assert!(topic.is_empty().unwrap() && topic.browse().next().is_none());
    assert_eq!(topic.purge().unwrap(), 0);
    m.send("orders", 50, 60);
    for name in ["billing", "mail"] {
        let stats = m.group("orders", name).stats().unwrap();
        assert_eq!(
            (stats.ready, stats.in_flight, stats.delayed, stats.lag),
            (1, 0, 0, 1)
        );
        assert_eq!(m.receive("orders", name, 9), 1);
        let delivery = m.held.pop().unwrap();
        assert_eq!((id_of(delivery.body()), delivery.attempt()), (50, 1));
        delivery.nack(Some(Duration::ZERO)).unwrap();
    }
    // A group that is new begins behind the purge.
    assert_eq!(m.receive("orders", "new", 9), 1);
    m.held.clear();
    other.leaves();
    let mut wanted = expected("purge").1;
    for name in ["billing", "mail", "new"] {
        wanted.insert(("orders".to_owned(), name.to_owned()), vec![50]);
    }
    assert_eq!(agreed(&world, m, "purged"), wanted);
}

#[test]
fn a_purge_counts_what_somebody_is_owed() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    let topic = m.store.topic("t").unwrap();
    // Without a group all is kept.
    (1..=5).for_each(|id| m.send("t", id, 40));
    assert_eq!(topic.purge().unwrap(), 5);
    (6..=15).for_each(|id| m.send("t", id, 40));
    // One group is done with 6 to 9, but for 7; the other has settled 6 to 8, and holds 9 and 10.
    assert_eq!(m.receive("t", "a", 4), 4);
    let seven = m.held.remove(1);
    m.held.drain(..).for_each(|d| d.ack().unwrap());
    assert_eq!(m.receive("t", "b", 5), 5);
    m.held.drain(..3).for_each(|d| d.ack().unwrap());
    assert_eq!(topic.purge().unwrap(), 1 + 7);
    assert_eq!(seven.ack().unwrap_err().code(), Code::LeaseLost);
    assert_eq!(m.store.topic("other").unwrap().purge().unwrap(), 0);
}

/// Asserts that what is asked for is not there any more.
fn gone<T>(what: &str, result: keepq::Result<T>) {
    let code = result.err().map(|e| e.code());
    assert_eq!(code, Some(Code::NotFound), "{what}");
}

fn handle_is_told(member: &Member, topic: &keepq::Topic) {
    gone("send", topic.send(b"x"));
    let chunked = topic.send(body(1, 9_000)).unwrap_err();
    assert_eq!(chunked.outcome(), Some(keepq::Outcome::NotStored));
    let text = chunked.to_string();
    assert!(text.contains("orders was deleted"), "{text}");
    gone("chunked", Err::<(), _>(chunked));
    gone("send_async", topic.send_async(b"x"));
    let producer = member.store.producer("loader").unwrap();
    let out = keepq::OutMessage::default();
    gone("numbered", producer.send(topic, Some(0), &out));
    gone("len", topic.len());
    gone("bounds", topic.bounds());
    gone("config", topic.config());
    gone("configure", topic.configure().max_messages(1).apply());
    gone("purge", topic.purge());
    gone("delete", topic.delete());
}

fn group_is_told(group: &keepq::Group) {
    gone("receive", group.receive(Duration::ZERO));
    gone("stats", group.stats());
    gone("config", group.config());
    gone("configure", group.configure().max_attempts(3).apply());
    gone("delete", group.delete());
    let letters = group.dead_letters();
    gone("letters", letters.len());
    gone("purge", letters.purge());
    gone("purge of one", letters.purge_one(0));
    gone("browse", letters.browse().next().unwrap());
}

#[test]
fn handles_of_a_deleted_topic_tell_so_and_the_new_one_is_empty() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = start(&world);
    let mut other = open(&world);
    assert_eq!(other.receive("orders", "mail", 2), 2);
    let receipt = other.held[0].receipt();
    let old = other.store.topic("orders").unwrap();
    let old_groups = ["mail", "billing"].map(|name| other.group("orders", name));
    let mut browse = old.browse();
    assert!(browse.next().unwrap().is_ok());
    delete_topic(&mut m);
    let new_group = m.group("orders", "mail");
    assert!(m.store.topic("orders").unwrap().is_empty().unwrap());
    m.send("orders", 77, 60);
    handle_is_told(&other, &old);
    old_groups.iter().for_each(group_is_told);
    let errors = (0..300).find_map(|_| browse.next()?.err());
    gone("browse", errors.map_or(Ok(()), Err));
    let ended = |code| matches!(code, Code::NotFound | Code::LeaseLost);
    let held: Vec<_> = other.held.drain(..).collect();
    assert!(ended(held[0].ack().unwrap_err().code()));
    assert!(ended(held[1].reject("x").unwrap_err().code()));
    assert!(ended(m.store.ack(&receipt).unwrap_err().code()));
    // All the while the new one has what was sent to it.
    let got = new_group.receive_batch(9, Duration::ZERO).unwrap();
    let numbers: Vec<u64> = got.iter().map(|d| id_of(d.body())).collect();
    assert_eq!(numbers, [77]);
    drop(got);
    other.leaves();
    let mut wanted = expected("delete topic").1;
    wanted.insert(("orders".to_owned(), "mail".to_owned()), vec![77]);
    assert_eq!(agreed(&world, m, "made again"), wanted);
}

#[test]
fn a_group_made_again_begins_anew() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = start(&world);
    let old = m.group("orders", "billing");
    delete_group(&mut m);
    assert_eq!(
        old.receive(Duration::ZERO).unwrap_err().code(),
        Code::NotFound
    );
    assert!(m.store.existing_topic("%DLQ%orders%billing").is_err());
    let new = m
        .store
        .group("orders", "billing")
        .max_attempts(3)
        .open()
        .unwrap();
    assert_eq!(new.dead_letters().len().unwrap(), 0);
    assert_eq!(new.config().unwrap().max_attempts, 3);
    let stats = new.stats().unwrap();
    assert_eq!(
        (stats.ready, stats.in_flight, stats.delayed, stats.dead),
        (9, 0, 0, 0)
    );
    let mut wanted = expected("delete group").1;
    wanted.insert(
        ("orders".to_owned(), "billing".to_owned()),
        (1..=9).collect(),
    );
    assert_eq!(agreed(&world, m, "made again"), wanted);
}

#[test]
fn keepqs_own_streams_are_not_deleted() {
    let world = SimWorld::new(SimOptions::default());
    let m = start(&world);
    let stream = m.store.topic("%DLQ%orders%billing").unwrap();
    assert_eq!(stream.delete().unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(stream.purge().unwrap_err().code(), Code::InvalidArgument);
    // A group that consumes one is deleted like any other.
    let reader = m.group("%DLQ%orders%billing", "reader");
    reader.delete().unwrap();
    assert_eq!(reader.stats().unwrap_err().code(), Code::NotFound);
    assert_eq!(
        m.group("orders", "billing").dead_letters().len().unwrap(),
        1
    );
}

#[test]
fn places_are_given_again_and_ids_are_not() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    let mut handles = Vec::new();
    m.send("kept", 1, 40);
    m.group("kept", "g");
    for round in 0..60 {
        let topic = m.store.topic("t").unwrap();
        topic.send(body(100 + round, 40)).unwrap();
        assert_eq!(m.receive("t", "g", 9), 1, "round {round}");
        m.held.pop().unwrap().reject("no good").unwrap();
        handles.push((topic.clone(), m.group("t", "g")));
        topic.delete().unwrap();
        match round % 8 {
            3 => m.store.maintain().unwrap(),
            5 => {
                handles.clear();
                m.leaves();
                m = open(&world);
            }
            7 => {
                handles.clear();
                m.leaves();
                assert!(world.remove("ctl"));
                m = open(&world);
            }
            _ => {}
        }
        for (topic, group) in &handles {
            assert_eq!(topic.send(b"x").unwrap_err().code(), Code::NotFound);
            assert_eq!(
                group.receive(Duration::ZERO).unwrap_err().code(),
                Code::NotFound
            );
        }
        assert_whole(&m.store, &format!("round {round}"));
    }
    let names: Vec<String> = m
        .store
        .stats()
        .unwrap()
        .topics
        .into_iter()
        .map(|t| t.name)
        .collect();
    assert_eq!(names, ["kept"]);
    // As many as there are places, and not one more.
    let made = (0..40)
        .take_while(|i| m.store.topic(&format!("n{i}")).is_ok())
        .count();
    assert_eq!(made, 15);
    m.store.existing_topic("n7").unwrap().delete().unwrap();
    m.store.topic("another").unwrap();
    assert_eq!(
        m.store.topic("more").unwrap_err().code(),
        Code::LimitExceeded
    );
}

#[test]
fn the_space_of_what_is_gone_comes_back() {
    for (name, act) in CHANGES {
        let world = SimWorld::new(SimOptions::default());
        let mut m = start(&world);
        // Dead letters keep what they were, also when all else is gone.
        for topic in ["orders", "other"] {
            let letters = m.group(topic, "billing").dead_letters();
            assert_eq!(letters.purge().unwrap(), 1);
        }
        // Only the one group is owed these.
        m.group("orders", "mail").delete().unwrap();
        (200..400).for_each(|id| m.send("orders", id, 900));
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
        let full = m.store.stats().unwrap().segments;
        if name == "purge" {
            m.store.topic("orders").unwrap().purge().unwrap();
        } else {
            act(&mut m);
        }
        if name == "delete group" {
            // Without a group the topic keeps everything: another one takes what there is.
            let all = m.group("orders", "rest");
            while let Some(delivery) = all.receive(Duration::ZERO).unwrap() {
                delivery.ack().unwrap();
            }
        }
        // Reclaim needs snapshots above what it removes, all of it durable. What "other" has not
        // consumed must not hold it up, either.
        m.store.topic("other").unwrap().purge().unwrap();
        for id in 1000..1100 {
            m.send("new", id, 400);
            let delivery = m.group("new", "g").receive(Duration::ZERO).unwrap();
            delivery.unwrap().ack().unwrap();
            m.store.flush(None).unwrap();
            m.store.maintain().unwrap();
        }
        let left = m.store.stats().unwrap().segments;
        assert!(full > 8 && left * 2 < full, "{name}: {left} of {full}");
    }
}

/// Random sends, receives, settlements, purges and deletions by two processes that die, with
/// snapshots, rolls, restarts and power cuts: the store holds what a simple model holds.
#[test]
fn topics_that_come_and_go_hold_what_was_sent_to_them() {
    for seed in 0..80 {
        Churn::new(seed).run(90);
    }
}

/// Names that come and go.
const NAMES: [&str; 3] = ["a", "b", "c"];
const READERS: [&str; 2] = ["x", "y"];

struct Churn {
    seed: u64,
    rng: Rng,
    world: SimWorld,
    seats: [Option<Member>; 2],
    /// What each group of each topic that is there is owed.
    model: BTreeMap<&'static str, BTreeMap<&'static str, Vec<u64>>>,
    next: u64,
}

impl Churn {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: Rng::new(seed),
            world: SimWorld::new(SimOptions::default()),
            seats: [None, None],
            model: BTreeMap::new(),
            next: 1,
        }
    }

    fn run(mut self, steps: usize) {
        for step in 0..steps {
            let seat = self.rng.index(2);
            if self.seats[seat].is_none() {
                self.seats[seat] = Some(open(&self.world));
            }
            self.step(seat);
            let m = self.seats.iter().flatten().next();
            if let Some(m) = m {
                assert_whole(&m.store, &format!("seed {}, step {step}", self.seed));
            }
        }
        let [one, two] = std::mem::take(&mut self.seats);
        two.into_iter().for_each(Member::leaves);
        let living = one.unwrap_or_else(|| open(&self.world));
        let when = format!("seed {}", self.seed);
        let found = agreed(&self.world, living, &when);
        let groups = self.model.iter().flat_map(|(t, groups)| {
            let key = |g: &str| ((*t).to_owned(), g.to_owned());
            groups.iter().map(move |(g, ids)| (key(g), ids.clone()))
        });
        assert_eq!(found, groups.collect::<Owed>(), "{when}");
    }

    fn step(&mut self, seat: usize) {
        let name = NAMES[self.rng.index(NAMES.len())];
        let reader = READERS[self.rng.index(READERS.len())];
        match self.rng.below(20) {
            0..=6 => self.send(seat, name),
            7..=10 => self.receive(seat, (name, reader)),
            11..=13 => self.take_away(seat, (name, reader)),
            14 | 15 => self.seats[seat].as_ref().unwrap().store.maintain().unwrap(),
            16 => {
                let m = self.seats[seat].take().unwrap();
                m.store.flush(None).unwrap();
                m.leaves();
            }
            17 => {
                let mut m = self.seats[seat].take().unwrap();
                if self.model.get(name).is_some_and(|g| g.contains_key(reader)) {
                    // It dies with what it holds.
                    m.receive(name, reader, 3);
                }
                m.dies();
            }
            18 => self.all_die(),
            _ => {
                self.seats[seat].as_ref().unwrap().store.look();
                self.world.advance(700);
            }
        }
    }

    fn send(&mut self, seat: usize, name: &'static str) {
        let m = self.seats[seat].as_ref().unwrap();
        // All its groups at once: one made later begins with what is kept, and that depends on the
        // files.
        let groups = self.model.entry(name).or_insert_with(|| {
            READERS.into_iter().for_each(|g| drop(m.group(name, g)));
            READERS.into_iter().map(|g| (g, Vec::new())).collect()
        });
        m.send(name, self.next, 200 + self.rng.index(700));
        groups.values_mut().for_each(|ids| ids.push(self.next));
        self.next += 1;
    }

    fn receive(&mut self, seat: usize, (name, reader): (&'static str, &'static str)) {
        let Some(ids) = self.model.get_mut(name).and_then(|g| g.get_mut(reader)) else {
            return;
        };
        let m = self.seats[seat].as_mut().unwrap();
        m.receive(name, reader, 3);
        for delivery in m.held.drain(..) {
            let id = id_of(delivery.body());
            assert!(ids.contains(&id), "seed {}: {id} of {name}", self.seed);
            if self.rng.below(3) != 0 {
                delivery.ack().unwrap();
                ids.retain(|known| *known != id);
            }
        }
    }

    /// A purge, or a deletion of a group that is not the last, or of a topic.
    fn take_away(&mut self, seat: usize, (name, reader): (&'static str, &'static str)) {
        let m = self.seats[seat].as_ref().unwrap();
        let Some(groups) = self.model.get_mut(name) else {
            return;
        };
        let topic = m.store.existing_topic(name).unwrap();
        match self.rng.below(3) {
            0 => {
                topic.purge().unwrap();
                groups.values_mut().for_each(Vec::clear);
            }
            1 => {
                if groups.len() > 1 && groups.remove(reader).is_some() {
                    m.group(name, reader).delete().unwrap();
                }
            }
            _ => {
                topic.delete().unwrap();
                self.model.remove(name);
            }
        }
    }

    fn all_die(&mut self) {
        for seat in &mut self.seats {
            if let Some(m) = seat.take() {
                m.store.flush(None).unwrap();
                m.dies();
            }
        }
        match self.rng.below(3) {
            0 => self.world = self.world.power_cut(self.rng.next_u64()),
            1 => drop(self.world.remove("ctl")),
            _ => {}
        }
    }
}

#[test]
fn what_the_last_group_had_taken_does_not_come_back_and_the_rest_stays() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    // Large ones, whose chunks go as soon as they are settled, whatever becomes of their record.
    for id in 1..=9 {
        m.send("t", id, 9_000);
    }
    assert_eq!(m.receive("t", "g", 6), 6);
    m.held.drain(..5).for_each(|d| d.ack().unwrap());
    m.store.flush(None).unwrap();
    for _ in 0..4 {
        m.store.look();
    }
    m.group("t", "g").delete().unwrap();
    m.held.clear();
    for id in 10..=12 {
        m.send("t", id, 60);
    }
    let mut owed = agreed_after(&world, m);
    owed.retain(|(_, group), _| group == "late");
    let wanted: Owed = [(("t".to_owned(), "late".to_owned()), (7..=12).collect())].into();
    assert_eq!(owed, wanted);
}

/// What a group that is made only now gets, as everybody sees it.
fn agreed_after(world: &SimWorld, m: Member) -> Owed {
    drop(m.group("t", "late"));
    agreed(world, m, "the last group is deleted")
}
