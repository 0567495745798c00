//! Opening a machine after a crash and taking everything out of its store.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::time::Duration;

use keepq::sim::{Rng, SimProcess, SimWorld, set_point_hook};
use keepq::{Code, Flush, Group, OutMessage, Store, StoreOptions};

use super::oracle::{
    CHOOSY, Found, GROUPS, Ledger, ORDERED, Outcome, TOPICS, WANTED, body, in_one_lane, number_of,
};

/// Numbers of messages sent by an examination; no workload reaches them.
const FRESH: usize = 1 << 40;

/// The sizes of every simulated store.
pub fn options(flush: Flush) -> StoreOptions {
    StoreOptions::default().tiny().flush(flush)
}

/// One of the groups, as every process opens it.
pub fn open_group(store: &Store, number: usize) -> keepq::Result<Group> {
    let (topic, name, sync, attempts) = GROUPS[number];
    let ack = if sync { Flush::Sync } else { Flush::Async };
    let group = store.group(TOPICS[topic], name);
    let mut group = group.ack_flush(ack).max_attempts(attempts);
    if ORDERED.contains(&number) {
        group = group.ordered(true);
    }
    if number == CHOOSY {
        group = group.tags(WANTED);
    }
    group.open()
}

/// The stream of a group's dead letters.
pub fn dead_letters(number: usize) -> String {
    let (topic, name, _, _) = GROUPS[number];
    format!("%DLQ%{}%{name}", TOPICS[topic])
}

/// What to do with the machine before and while it is examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether a cut right after the recovery must leave the same, and a cut within it what the
    /// first recovery could have found.
    pub twice: bool,
    pub seed: u64,
}

/// Opens the store, takes everything out and says what there was. `ledger` judges what a power cut
/// within the recovery leaves, also where only processes had died before.
pub fn examine(world: &SimWorld, ledger: &Ledger, look: Look) -> Outcome {
    let mut outcome = Outcome::default();
    let store = match open_somehow(world, ledger, look, &mut outcome) {
        Ok(store) => store,
        Err(e) => {
            let files = world.files();
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            let text = format!("the store does not open: {e:?}, {names:?}");
            outcome.problems.push(text);
            return outcome;
        }
    };
    let report = store.recovery();
    if report.damaged_bytes != 0 || report.notes.iter().any(|n| n.contains("damage")) {
        let text = format!("damage reported where there is none: {report:?}");
        outcome.problems.push(text);
    }
    let again = look.twice.then(|| {
        [
            world.power_cut_with(|_| 1),
            world.power_cut_with(|_| 0),
            world.power_cut(look.seed),
            world.fork(),
        ]
    });
    if let Err(e) = drain(&store, world, &mut outcome) {
        outcome
            .problems
            .push(format!("an error while draining: {e:?}"));
    }
    for (i, world) in again.into_iter().flatten().enumerate() {
        let once = Look {
            twice: false,
            seed: look.seed,
        };
        let second = examine(&world, ledger, once);
        if let Some(how) = outcome.differs(&second, ledger) {
            let what = ["the worst cut", "the best cut", "a drawn cut", "a kill"][i];
            let text = format!("after a recovery, {what} and a second one: {how}");
            outcome.problems.push(text);
        }
    }
    outcome
}

/// Opens the store. On a disk that has an end every other time without room first, which may be
/// refused and must lose nothing; then others give room.
fn open_somehow(
    world: &SimWorld,
    ledger: &Ledger,
    look: Look,
    outcome: &mut Outcome,
) -> keepq::Result<Store> {
    let mut open = || {
        let process = world.process();
        let opened = if look.twice {
            open_with_cuts(world, &process, ledger, look.seed, outcome)
        } else {
            Store::open_simulated(&process, options(Flush::Sync))
        };
        // The dead hold no lock.
        opened.inspect_err(|_| process.kill())
    };
    let first = (world.has_an_end() && look.seed % 2 == 0).then(&mut open);
    world.leave_room(None);
    let store = match first {
        Some(Err(e)) if e.code() != Code::Full || !e.message().contains("free") => return Err(e),
        Some(Ok(store)) => store,
        Some(Err(_)) | None => open()?,
    };
    if store.is_short() {
        // There is no keeper that would notice that there is room.
        store.look();
    }
    Ok(store)
}

/// Opens the store, and at each disk call on the way looks at what a power cut there would leave.
fn open_with_cuts(
    world: &SimWorld,
    process: &SimProcess,
    ledger: &Ledger,
    seed: u64,
    outcome: &mut Outcome,
) -> keepq::Result<Store> {
    let cuts = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (seen, machine) = (std::rc::Rc::clone(&cuts), world.clone());
    let (mut rng, mut last) = (Rng::new(seed), 0);
    set_point_hook(Some(Box::new(move || {
        let calls = machine.disk_calls();
        if calls != last {
            last = calls;
            if rng.below(4) == 0 {
                seen.borrow_mut()
                    .push((calls, machine.power_cut(rng.next_u64())));
            }
        }
    })));
    let opened = Store::open_simulated(process, options(Flush::Sync));
    set_point_hook(None);
    for (call, cut) in cuts.borrow_mut().drain(..) {
        let once = Look { twice: false, seed };
        let found = examine(&cut, ledger, once);
        if let Some(wrong) = ledger.judge(&found).first() {
            let text = format!("a cut within the recovery, at disk call {call}: {wrong}");
            outcome.problems.push(text);
        }
    }
    opened
}

fn drain(store: &Store, world: &SimWorld, outcome: &mut Outcome) -> keepq::Result<()> {
    let wrong = store.check_state()?;
    outcome.problems.extend(wrong);
    for number in 0..GROUPS.len() {
        let group = open_group(store, number)?;
        outcome.live[number] = drain_group(&group, number, world, &mut outcome.problems)?;
    }
    // A dead letter of a sync topic comes when it is durable, and there is no keeper.
    store.flush(None)?;
    for number in 0..GROUPS.len() {
        let stream = dead_letters(number);
        if store.existing_topic(&stream).is_ok() {
            let group = store.group(&stream, "reader").open()?;
            // Dead letters come in the order in which they died.
            let mut found = drain_group(&group, 0, world, &mut outcome.problems)?;
            // Some are buried only now: that sequence is the examination's doing.
            found.values_mut().for_each(|at| at.seq = 0);
            outcome.dead[number] = found;
        }
    }
    let loader = match store.producer("loader") {
        // What was found may have the reserve as its next segment; the keeper makes a regular one.
        Err(e) if e.code() == keepq::Code::Full => {
            store.maintain()?;
            store.producer("loader")?
        }
        opened => opened?,
    };
    outcome.producer_next = loader.next_seq()?;
    let again = OutMessage {
        flush: Some(Flush::Async),
        ..OutMessage::default()
    };
    let topic = store.topic(TOPICS[0])?;
    for number in outcome.producer_next.saturating_sub(64)..outcome.producer_next {
        let sent = loader.send(&topic, Some(number), &again)?;
        if !sent.duplicate {
            let text = format!("number {number} is stored twice");
            outcome.problems.push(text);
        }
        outcome.recalled.insert(number, (sent.seq, sent.id.lsn()));
    }
    send_fresh(store, world, outcome)?;
    let verified = store.verify()?;
    if !verified.is_ok() {
        let text = format!("verify after the recovery: {:?}", verified.findings);
        outcome.problems.push(text);
    }
    for group in store.stats()?.groups {
        let ours = TOPICS.contains(&group.topic.as_str());
        if ours && group.ready + group.in_flight + group.delayed + group.lag != 0 {
            let text = format!("something is left after draining: {group:?}");
            outcome.problems.push(text);
        }
    }
    store.close()
}

/// Takes everything out of a group, what waits for its back-off too.
fn drain_group(
    group: &Group,
    number_of_group: usize,
    world: &SimWorld,
    problems: &mut Vec<String>,
) -> keepq::Result<BTreeMap<usize, Found>> {
    let mut found = BTreeMap::new();
    let mut waited = 0;
    loop {
        let got = group.receive_batch(48, Duration::ZERO)?;
        if got.is_empty() {
            let stats = group.stats()?;
            if stats.delayed + stats.in_flight == 0 || waited == 4 {
                return Ok(found);
            }
            waited += 1;
            world.advance(700_000);
            continue;
        }
        for delivery in &got {
            let at = Found {
                seq: delivery.seq(),
                id: delivery.id().lsn(),
                len: delivery.body().len(),
            };
            match number_of(delivery.body()) {
                None => problems.push(format!("bytes that nobody sent, at {at:?}")),
                Some(number) => {
                    let before = |(other, was): &(&usize, &Found)| {
                        was.seq > at.seq && in_one_lane(number_of_group, **other, number)
                    };
                    if let Some((other, _)) = found.iter().find(before) {
                        problems.push(format!("message {number} comes after {other}"));
                    }
                    if found.insert(number, at).is_some() {
                        problems.push(format!("message {number} is delivered twice, at {at:?}"));
                    }
                }
            }
        }
        for result in group.ack_many(got) {
            result?;
        }
    }
}

/// The store takes new messages after a recovery, and delivers just those.
fn send_fresh(store: &Store, world: &SimWorld, outcome: &mut Outcome) -> keepq::Result<()> {
    for (number, name) in TOPICS.iter().enumerate() {
        let topic = store.topic(name)?;
        let bytes = body(FRESH + number, 64 + number);
        let sent = topic.message(&bytes).tag(WANTED[0]).send()?;
        let seq = sent.seq.unwrap_or(u64::MAX);
        outcome.fresh.push((number, seq, sent.id.lsn()));
    }
    for (number, (topic, ..)) in GROUPS.iter().enumerate() {
        let group = open_group(store, number)?;
        let found = drain_group(&group, number, world, &mut outcome.problems)?;
        let expected = FRESH + topic;
        if found.len() != 1 || !found.contains_key(&expected) {
            let text = format!("sent one new message, group {number} got {found:?}");
            outcome.problems.push(text);
        }
    }
    Ok(())
}
