//! One case of a call that is killed at each of its points, and what must hold afterwards.
#![allow(dead_code, clippy::print_stderr, reason = "each suite uses a part")]

use std::time::Duration;

use keepq::Flush;
use keepq::sim::{SimOptions, SimWorld};

use crate::members::{
    Drained, Member, assert_whole, body, drain, ids, kill_at, open, open_with, options,
};

type Lines = Vec<String>;

/// A call that is killed at each of its points.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What the dying member does before.
    pub(crate) ready: fn(&mut Member),
    /// What it dies in.
    pub(crate) act: fn(&mut Member),
    /// The changes of state that others can tell apart.
    pub(crate) steps: usize,
    /// Whether the attempts are in the log. Those of a delivery that ends with the store closed are
    /// not: only its message is.
    pub(crate) attempts_logged: bool,
    /// Messages that a group gets, and those it is rid of, when all is done.
    pub(crate) gain: &'static [(&'static str, u64)],
    pub(crate) loss: &'static [(&'static str, u64)],
}

pub(crate) const NOTHING: Case = Case {
    name: "",
    ready: |_| {},
    act: |_| {},
    steps: 1,
    attempts_logged: true,
    gain: &[],
    loss: &[],
};

/// A store with a history: settled, waiting, dead and new messages; numbers from 1 on.
pub(crate) fn base() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let mut member = open(&world);
    for id in 1..=8 {
        member.send("orders", id, 60);
    }
    member.group("orders", "mail");
    let last = member.store.group("orders", "strict").max_attempts(1);
    drop(last.open().unwrap());
    assert_eq!(member.receive("orders", "billing", 3), 3);
    for (i, d) in member.held.drain(..).enumerate() {
        match i {
            0 => d.ack().unwrap(),
            1 => d.nack(Some(Duration::from_secs(100))).unwrap(),
            _ => d.nack(Some(Duration::ZERO)).unwrap(),
        }
    }
    member.leaves();
    let member = open_with(&world, options().flush(Flush::Async));
    let fast = member.store.topic("fast").unwrap();
    fast.message(&body(20, 50))
        .flush(Flush::Async)
        .send()
        .unwrap();
    member.group("fast", "g");
    member.leaves();
    world
}

/// What `base` owes to each group: (topic, group, numbers).
const OWED: [(&str, &str, &[u64]); 4] = [
    ("fast", "g", &[20]),
    ("orders", "billing", &[2, 3, 4, 5, 6, 7, 8]),
    ("orders", "mail", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("orders", "strict", &[1, 2, 3, 4, 5, 6, 7, 8]),
];

/// Checks what was drained against what is owed, a case's gains and losses included (`done`), or
/// perhaps included (not `done`).
pub(crate) fn assert_owed(case: &Case, drained: &Drained, done: bool, when: &str) {
    let found = ids(drained);
    let mut keys: Vec<String> = found.keys().map(|(t, g)| format!("{t}/{g}")).collect();
    keys.extend(OWED.iter().map(|(t, g, _)| format!("{t}/{g}")));
    keys.extend(case.gain.iter().map(|(k, _)| (*k).to_owned()));
    keys.sort();
    keys.dedup();
    for key in keys {
        let of = |list: &[(&str, u64)]| -> Vec<u64> {
            list.iter()
                .filter(|(k, _)| *k == key)
                .map(|(_, id)| *id)
                .collect()
        };
        let (gain, loss) = (of(case.gain), of(case.loss));
        let owed = OWED.iter().find(|(t, g, _)| format!("{t}/{g}") == key);
        let before = owed.map_or(&[][..], |(_, _, ids)| ids);
        let (topic, group) = key.split_once('/').unwrap();
        let empty = Vec::new();
        let got = found
            .get(&(topic.to_owned(), group.to_owned()))
            .unwrap_or(&empty);
        let mut unique = got.clone();
        unique.dedup();
        assert_eq!(&unique, got, "{when}: {key} gets a message twice");
        let surely = |id: &u64| !loss.contains(id);
        let missing: Vec<u64> = before.iter().copied().filter(surely).collect();
        let lost: Vec<&u64> = missing.iter().filter(|id| !got.contains(id)).collect();
        assert!(lost.is_empty(), "{when}: {key} lost {lost:?}");
        let odd = |id: &&u64| !before.contains(id) && !gain.contains(id);
        let foreign: Vec<&u64> = got.iter().filter(odd).collect();
        assert!(foreign.is_empty(), "{when}: {key} got {foreign:?}");
        if done {
            let late: Vec<&u64> = gain.iter().filter(|id| !got.contains(id)).collect();
            let back: Vec<&u64> = loss.iter().filter(|id| got.contains(id)).collect();
            assert!(
                late.is_empty() && back.is_empty(),
                "{when}: {key} lacks {late:?} or still has {back:?}: {drained:?}"
            );
        }
    }
}

/// What a living member, a warm and a cold open find after a death.
pub(crate) struct Aftermath {
    pub(crate) state: Lines,
    pub(crate) drained: Drained,
}

/// The living member repairs, sends, and leaves; then the store is opened twice more.
pub(crate) fn aftermath(case: &Case, world: &SimWorld, living: Member, when: &str) -> Aftermath {
    living.store.look();
    assert_whole(&living.store, when);
    let state = living.store.describe_state().unwrap();
    living.leaves();
    let warm = open(world);
    assert!(
        warm.store.recovery().warm,
        "{when}: {:?}",
        warm.store.recovery()
    );
    assert_whole(&warm.store, when);
    let again = warm.store.describe_state().unwrap();
    assert_eq!(state, again, "{when}: a warm open finds something else");
    warm.leaves();
    let findings = verify(world);
    assert!(findings.is_empty(), "{when}: {findings:?}");
    let twin = world.fork();
    let warm = open(world);
    let drained = drain(world, &warm.store);
    assert_whole(&warm.store, when);
    warm.leaves();
    assert!(twin.remove("ctl"));
    let cold = open(&twin);
    let report = cold.store.recovery();
    assert!(
        !report.warm && report.damaged_bytes == 0,
        "{when}: {report:?}"
    );
    assert_eq!(report.cut_bytes, 0, "{when}: {report:?}");
    assert_whole(&cold.store, when);
    let producers = |lines: &Lines| -> Lines {
        let mut lines = lines.clone();
        lines.retain(|line| line.starts_with("producer "));
        lines.sort();
        lines
    };
    assert_eq!(
        producers(&state),
        producers(&cold.store.describe_state().unwrap()),
        "{when}: a cold open knows other producers"
    );
    let rebuilt = drain(&twin, &cold.store);
    if case.attempts_logged {
        assert_same(&drained, &rebuilt, when);
    }
    assert_eq!(
        ids(&drained),
        ids(&rebuilt),
        "{when}: a cold open owes something else"
    );
    cold.leaves();
    Aftermath { state, drained }
}

/// A cold open owes the same messages with the same attempts. (What waits for a back-off comes
/// when it is due, so only the order may differ.)
fn assert_same(warm: &Drained, cold: &Drained, when: &str) {
    let sorted = |d: &Drained| {
        let mut d = d.clone();
        d.values_mut().for_each(|v| v.sort_unstable());
        d.retain(|_, v| !v.is_empty());
        d
    };
    assert_eq!(
        sorted(warm),
        sorted(cold),
        "{when}: a cold open owes something else"
    );
}

fn verify(world: &SimWorld) -> Vec<String> {
    let member = open(world);
    let report = member.store.verify().unwrap();
    member.leaves();
    let damage = report.findings.iter().filter(|f| f.damage);
    damage
        .map(|f| format!("{} at {}: {}", f.file, f.position, f.reason))
        .collect()
}

/// Runs a case to its end at every kill point; returns how many there were.
pub(crate) fn run(case: &Case) -> u64 {
    let base = base();
    let mut states: Vec<Lines> = Vec::new();
    let mut k = 0;
    loop {
        k += 1;
        let when = format!("{}, killed at point {k}", case.name);
        let world = base.fork();
        let mut dying = open(&world);
        let living = open(&world);
        (case.ready)(&mut dying);
        let survived = kill_at(dying, k, &case.act);
        let found = aftermath(case, &world, living, &when);
        let at = states.iter().position(|s| *s == found.state);
        match at {
            None => states.push(found.state),
            Some(at) => assert_eq!(at + 1, states.len(), "{when}: an earlier state is back"),
        }
        assert!(
            states.len() <= case.steps + 1,
            "{when}: a state between before and after: {:#?}",
            differences(&states[states.len() - 2], &states[states.len() - 1])
        );
        assert_owed(case, &found.drained, survived, &when);
        if survived {
            break;
        }
    }
    eprintln!("{}: {k} kill points, {} states", case.name, states.len());
    assert_eq!(states.len(), case.steps + 1, "{}: {states:#?}", case.name);
    k
}

fn differences(a: &Lines, b: &Lines) -> Lines {
    let gone = a
        .iter()
        .filter(|l| !b.contains(l))
        .map(|l| format!("- {l}"));
    let new = b
        .iter()
        .filter(|l| !a.contains(l))
        .map(|l| format!("+ {l}"));
    gone.chain(new).collect()
}
