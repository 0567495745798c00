//! A random history of names over several processes, against a model that is as simple as the
//! promise.

use std::collections::BTreeMap;

use keepq::sim::{Rng, SimOptions, SimWorld};
use keepq::{Code, OutMessage, Producer, limits};

use crate::members::{Member, assert_whole, open};
use crate::{MOST, SOON, WEEK, names};

/// What is known of a name.
#[derive(Default, Clone)]
struct Name {
    /// What each number was answered with.
    sent: Vec<(u64, Option<u64>)>,
    /// The last use, at the earliest and at the latest.
    used: (u64, u64),
    /// The process that has the newest handle.
    open: Option<usize>,
}

struct Play {
    world: SimWorld,
    now: u64,
    members: [Option<Member>; 3],
    handles: BTreeMap<String, (usize, Producer)>,
    names: BTreeMap<String, Name>,
    dropped: usize,
}

/// Plays one history; how many names were dropped for others.
pub(crate) fn play(seed: u64, mut rng: Rng) -> usize {
    let world = SimWorld::new(SimOptions {
        seed,
        ..SimOptions::default()
    });
    let now = 2_000_000_000_000;
    world.set_realtime(now);
    let mut play = Play {
        world,
        now,
        members: [None, None, None],
        handles: BTreeMap::new(),
        names: BTreeMap::new(),
        dropped: 0,
    };
    for step in 0..300 {
        let at = rng.index(3);
        if play.members[at].is_none() {
            play.members[at] = Some(open(&play.world));
        }
        // The clock of the simulator moves by itself, too.
        play.world.set_realtime(play.now);
        let name = format!("p{}", rng.below(24));
        let when = format!("seed {seed}, step {step}");
        match rng.below(20) {
            0..=6 => play.open_name(at, &name, &when),
            7..=12 => play.send(&name, &mut rng, &when),
            13..=14 => play.close(&name),
            15..=16 => play.pass(rng.below(WEEK / 2)),
            17 => play.kill(at),
            18 => play.members[at].as_ref().unwrap().store.maintain().unwrap(),
            _ if rng.below(3) == 0 => play.recover(rng.below(2) == 0, &when),
            _ => {}
        }
    }
    play.recover(true, &format!("seed {seed}, in the end"));
    play.dropped
}

impl Play {
    fn pass(&mut self, ms: u64) {
        self.world.advance(ms);
        self.now += ms;
    }

    fn open_name(&mut self, at: usize, name: &str, when: &str) {
        let member = self.members[at].as_ref().unwrap();
        let before = names(member);
        let opened = member.store.producer(name);
        let after = names(member);
        let idle = |name: &Name, used: u64| name.open.is_none() && used + WEEK <= self.now;
        let surely = |name: &Name| idle(name, name.used.1 + SOON);
        let producer = match opened {
            Ok(producer) => producer,
            Err(e) => {
                assert_eq!(e.code(), Code::LimitExceeded, "{when}: {e}");
                assert_eq!(before, after, "{when}");
                assert!(
                    before.len() == MOST && !before.contains(&name.to_owned()),
                    "{when}"
                );
                let free = self.names.iter().find(|(_, n)| surely(n));
                assert!(
                    free.is_none(),
                    "{when}: {:?} could make room",
                    free.map(|f| f.0)
                );
                return;
            }
        };
        let gone: Vec<&String> = before.iter().filter(|n| !after.contains(n)).collect();
        assert!(gone.len() <= 1, "{when}: {gone:?} are gone");
        for old in gone {
            let known = self.names.remove(old).unwrap();
            assert!(
                before.len() == MOST && idle(&known, known.used.0 - SOON),
                "{when}: {old} is gone"
            );
            let older = self
                .names
                .values()
                .find(|n| surely(n) && n.used.1 + SOON < known.used.0);
            assert!(older.is_none(), "{when}: {old} was used later than another");
            self.dropped += 1;
        }
        let known = self.names.entry(name.to_owned()).or_default();
        known.used = (self.now, self.now);
        known.open = Some(at);
        assert_eq!(
            producer.next_seq().unwrap(),
            known.sent.len() as u64,
            "{when}: {name}"
        );
        self.handles.insert(name.to_owned(), (at, producer));
    }

    fn send(&mut self, name: &str, rng: &mut Rng, when: &str) {
        let Some((at, producer)) = self.handles.get(name) else {
            return;
        };
        let topic = self.members[*at]
            .as_ref()
            .unwrap()
            .store
            .topic("t")
            .unwrap();
        let known = self.names.get_mut(name).unwrap();
        for _ in 0..1 + rng.below(30) {
            let number = known.sent.len() as u64;
            let sent = producer
                .send(&topic, Some(number), &OutMessage::default())
                .unwrap();
            assert!(!sent.duplicate, "{when}: {name} {number}");
            known.sent.push((sent.id.lsn(), sent.seq));
            known.used = (self.now, self.now);
        }
        let number = rng.below(known.sent.len() as u64 + 2);
        let again = producer.send(&topic, Some(number), &OutMessage::default());
        let next = known.sent.len() as u64;
        match known.sent.get(usize::try_from(number).unwrap()) {
            None if number == next => {
                let sent = again.unwrap();
                assert!(!sent.duplicate, "{when}: {name} {number}");
                known.sent.push((sent.id.lsn(), sent.seq));
            }
            None => assert_eq!(again.unwrap_err().code(), Code::ProducerGap, "{when}"),
            Some(&first) => {
                let again = again.unwrap();
                let recalled = next - number <= limits::PRODUCER_RECALLED;
                let first = if recalled { first } else { (0, None) };
                assert!(again.duplicate, "{when}: {name} {number}");
                assert_eq!(
                    (again.id.lsn(), again.seq),
                    first,
                    "{when}: {name} {number}"
                );
            }
        }
    }

    fn close(&mut self, name: &str) {
        if self.handles.remove(name).is_some() {
            let known = self.names.get_mut(name).unwrap();
            known.used = (self.now, self.now);
            known.open = None;
        }
    }

    fn kill(&mut self, at: usize) {
        let alone = self.members.iter().flatten().count() == 1;
        self.handles.retain(|_, (of, _)| *of != at);
        self.members[at].take().unwrap().dies();
        if alone {
            // Whoever opens the store next cleans up.
            self.members[at] = Some(open(&self.world));
        }
        for member in self.members.iter().flatten() {
            member.store.look();
        }
        for known in self.names.values_mut().filter(|n| n.open == Some(at)) {
            known.open = None;
            known.used = (self.now, self.now);
        }
    }

    /// All die; the machine loses its power, or only its shared memory.
    fn recover(&mut self, cut: bool, when: &str) {
        self.handles.clear();
        for member in &mut self.members {
            if let Some(member) = member.take() {
                // An open is on disk with the next sync send only.
                member.store.flush(None).unwrap();
                member.dies();
            }
        }
        if cut {
            self.world = self.world.power_cut_with(|_| 1);
        } else {
            self.world.remove("ctl");
        }
        self.world.set_realtime(self.now);
        let member = open(&self.world);
        let all: Vec<String> = self.names.keys().cloned().collect();
        assert_eq!(names(&member), all, "{when}");
        assert_whole(&member.store, when);
        for known in self.names.values_mut() {
            // Which of them were closed, the log does not tell to the moment.
            known.used.1 = self.now;
            known.open = None;
        }
        self.members[0] = Some(member);
    }
}
