//! Any byte of a store may be changed, any file cut, removed or put in another's place: nothing
//! panics or hangs, no message is ever delivered that was not sent, what is lost is told, and what
//! is around it stays usable.
//!
//! What is derived (shared memory, sidecars) may be damaged in any way without any loss.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

#[path = "support/history.rs"]
mod history;
#[path = "support/members.rs"]
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use history::{Owed, history, owed_at_first};
use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Store};
use members::{Member, assert_whole, body, id_of, open, options};

/// What an open of a damaged store came to.
#[derive(Debug, Default)]
struct Findings {
    refused: Option<Code>,
    /// What recovery told of: damage or a cut.
    told: bool,
    notes: Vec<String>,
    /// Receives that ended with an error.
    errors: usize,
    got: Owed,
}

impl Findings {
    fn reported(&self) -> bool {
        self.refused.is_some() || self.told || self.errors > 0
    }

    fn missing(&self) -> Vec<(String, u64)> {
        let none = BTreeSet::new();
        let owed = owed_at_first();
        let missing = owed.iter().flat_map(|(group, ids)| {
            let got = self.got.get(group).unwrap_or(&none);
            let lost = ids.difference(got).map(|id| (group.clone(), *id));
            lost.collect::<Vec<_>>()
        });
        missing.collect()
    }
}

/// Codes with which a damaged store may be refused.
const REFUSALS: [Code; 6] = [
    Code::Corrupt,
    Code::Incompatible,
    Code::NotAStore,
    Code::StoreGone,
    Code::NotFound,
    Code::InvalidArgument,
];

/// Opens the store and receives everything that can be had.
fn examine(world: &SimWorld, when: &str) -> Findings {
    let mut found = Findings::default();
    let process = world.process();
    let store = match Store::open_simulated(&process, options().create(false)) {
        Ok(store) => store,
        Err(e) => {
            let missing = e.errno() == Some(libc::ENOENT);
            assert!(missing || REFUSALS.contains(&e.code()), "{when}: {e:?}");
            found.refused = Some(e.code());
            return found;
        }
    };
    let report = store.recovery();
    found.notes.clone_from(&report.notes);
    found.told = report.damaged_bytes + report.cut_bytes > 0;
    for (topic, group) in [("orders", "billing"), ("fast", "g")] {
        receive_all(world, &store, (topic, group), &mut found, when);
    }
    if let Err(e) = store.flush(None) {
        // A file that should be written to is gone: nothing can be stored any more.
        assert_eq!(e.code(), Code::StoreGone, "{when}: {e:?}");
        found.refused = Some(e.code());
        return found;
    }
    receive_all(
        world,
        &store,
        ("%DLQ%orders%billing", "undertaker"),
        &mut found,
        when,
    );
    // What is around the damage stays usable.
    let topic = store.topic("new").unwrap();
    topic
        .send(body(99, 200))
        .unwrap_or_else(|e| panic!("{when}: {e:?}"));
    let group = store.group("new", "g").open().unwrap();
    match group.receive(Duration::ZERO) {
        Ok(got) => assert_eq!(id_of(got.expect("it was sent").body()), 99, "{when}"),
        // The header of the very file that is being written to is the damaged one.
        Err(e) if when.contains(".1.seg") => assert_eq!(e.code(), Code::Corrupt, "{when}"),
        Err(e) => panic!("{when}: {e:?}"),
    }
    assert_whole(&store, when);
    store.close().unwrap_or_else(|e| panic!("{when}: {e:?}"));
    found
}

fn receive_all(
    world: &SimWorld,
    store: &Store,
    (topic, name): (&str, &str),
    found: &mut Findings,
    when: &str,
) {
    let group = match store.group(topic, name).create(name == "undertaker").open() {
        Ok(group) => group,
        // The record that made it is the damaged one.
        Err(e) if e.code() == Code::NotFound => return,
        Err(e) => panic!("{when}: {e:?}"),
    };
    let ids = found.got.entry(format!("{topic}/{name}")).or_default();
    for _ in 0..100 {
        match group.receive_batch(16, Duration::ZERO) {
            Ok(got) if got.is_empty() => {
                let stats = group.stats().unwrap();
                if stats.delayed + stats.in_flight == 0 {
                    return;
                }
                world.advance(700_000);
            }
            Ok(got) => {
                ids.extend(got.iter().map(|d| id_of(d.body())));
                assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()), "{when}");
            }
            // A file that is gone is an I/O error for as long as it is.
            Err(e) if e.errno() == Some(libc::ENOENT) => {
                found.errors += 1;
                return;
            }
            Err(e) => {
                assert_eq!(e.code(), Code::Corrupt, "{when}: {e:?}");
                found.errors += 1;
            }
        }
    }
    panic!("{when}: {topic}/{name} never ends");
}

fn damage_in(world: &SimWorld) -> Vec<String> {
    let m = open(world);
    let report = m.store.verify().unwrap();
    m.leaves();
    let texts = report.findings.iter();
    texts
        .map(|f| format!("{} at {}: {}", f.file, f.position, f.reason))
        .collect()
}

/// Examines a machine with shared memory as it is, and with shared memory gone.
fn both_ways(world: &SimWorld, when: &str) -> [Findings; 2] {
    let cold = world.fork();
    cold.remove("ctl");
    [
        examine(world, &format!("{when}, warm")),
        examine(&cold, &format!("{when}, cold")),
    ]
}

/// Damage that must cost nothing.
fn assert_nothing_lost(world: &SimWorld, when: &str) {
    for found in both_ways(world, when) {
        assert!(found.refused.is_none(), "{when}: {found:?}");
        assert!(found.missing().is_empty(), "{when}: {:?}", found.missing());
    }
}

/// Damage that may cost something, but never silently.
fn assert_loss_is_told(world: &SimWorld, when: &str) -> usize {
    let mut most = 0;
    let verified = Store::open_simulated(&world.fork().process(), options().create(false))
        .is_ok_and(|store| store.verify().is_ok_and(|report| !report.is_ok()));
    for (found, way) in both_ways(world, when).into_iter().zip(["warm", "cold"]) {
        let missing = found.missing();
        let told = missing.is_empty() || found.reported() || verified;
        assert!(
            told,
            "{when}, {way}: silent loss of {missing:?}, {:?}",
            found.notes
        );
        if found.refused.is_none() {
            most = most.max(missing.len());
        }
    }
    most
}

fn names(world: &SimWorld, ending: &str) -> Vec<String> {
    let all = world.files().into_iter().map(|(name, _)| name);
    all.filter(|name| name.ends_with(ending)).collect()
}

#[test]
fn the_history_is_whole_and_has_every_kind_of_file() {
    let world = history();
    assert_eq!(damage_in(&world), Vec::<String>::new());
    assert!(names(&world, ".0.seg").len() >= 3);
    assert!(!names(&world, ".idx").is_empty());
    assert_eq!(names(&world, ".1.seg").len(), 1);
    assert_nothing_lost(&world, "undamaged");
    let kinds: BTreeSet<u8> = records(&world).into_iter().map(|r| r.kind).collect();
    assert!(kinds.len() >= 9, "{kinds:?}");
}

/// A record of a segment: where it lies and what it is.
struct Place {
    file: String,
    at: usize,
    len: usize,
    kind: u8,
}

/// Walks the records of all segment files by their lengths.
fn records(world: &SimWorld) -> Vec<Place> {
    let mut found = Vec::new();
    for (file, bytes) in world.files() {
        if !file.ends_with(".0.seg") {
            continue;
        }
        let mut at = 4096;
        while let Some(head) = bytes.get(at..at + 40) {
            let len = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
            if len < 40 {
                break;
            }
            let len = len.next_multiple_of(16);
            found.push(Place {
                file: file.clone(),
                at,
                len,
                kind: head[36],
            });
            at += len;
        }
    }
    found
}

#[test]
fn a_flipped_bit_in_a_record_is_told_and_costs_one_message() {
    let base = history();
    let mut seen: BTreeMap<u8, usize> = BTreeMap::new();
    let mut runs = 0;
    for place in records(&base) {
        let count = seen.entry(place.kind).or_default();
        *count += 1;
        if *count > 2 {
            continue;
        }
        let body = (0..6).map(|i| 40 + i * (place.len - 41) / 5);
        for at in (0..40).chain(body.filter(|at| *at < place.len)) {
            let world = base.fork();
            let bit = 1 << ((at + place.at) % 8);
            assert!(world.corrupt(&place.file, (place.at + at) as u64, bit));
            let (kind, file) = (place.kind, &place.file);
            let when = format!("{file} at {} + {at}, a record of kind {kind}", place.at);
            // A continuation may have replaced what lies here.
            let known = !damage_in(&world.fork()).is_empty();
            let lost = assert_loss_is_told(&world, &when);
            assert!(known || lost == 0, "{when}: verify sees nothing");
            // The records that name a topic or a group take all of it along.
            assert!(
                lost <= 1 || names_something(kind),
                "{when}: {lost} messages lost"
            );
            runs += 1;
        }
    }
    eprintln!("{runs} flipped bits in records of kinds {seen:?}");
}

/// CONFIG and SEAL records stand for more than one message.
fn names_something(kind: u8) -> bool {
    kind != 1 && kind != 2
}

#[test]
fn what_lies_between_two_lost_messages_stays() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    for id in 1..=10 {
        m.send("t", id, 200);
    }
    m.group("t", "g");
    m.leaves();
    let messages: Vec<Place> = records(&world)
        .into_iter()
        .filter(|r| r.kind == 1)
        .collect();
    assert_eq!(messages.len(), 10);
    for lost in [2, 6] {
        let at = messages[lost].at + messages[lost].len - 20;
        assert!(world.corrupt(&messages[lost].file, at as u64, 1));
    }
    let whole: Vec<u64> = (1..=10).filter(|id| ![3, 7].contains(id)).collect();
    for round in 0..3 {
        assert!(world.remove("ctl"));
        let mut m = open(&world);
        let group = m.group("t", "g");
        if round == 0 {
            let told = group.receive(Duration::ZERO).unwrap_err();
            assert_eq!(told.code(), Code::Corrupt, "{told}");
            assert!(told.message().contains("2 messages"), "{told}");
        }
        // Told once, and nobody settles anything: all that is whole comes again and again.
        assert_eq!(m.receive("t", "g", 64), whole.len(), "round {round}");
        let got: Vec<u64> = m.held.iter().map(|d| id_of(d.body())).collect();
        assert_eq!(got, whole, "round {round}");
        m.store.flush(None).unwrap();
        m.dies();
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_told() {
    let base = history();
    for (file, bytes) in base.files() {
        let spots: Vec<usize> = match file.as_str() {
            "SUPER" => (0..128).chain([500, 4092, 4095]).collect(),
            name if name.ends_with(".seg") => (0..128).chain((128..4096).step_by(64)).collect(),
            _ => continue,
        };
        for at in spots.into_iter().filter(|at| *at < bytes.len()) {
            let world = base.fork();
            assert!(world.corrupt(&file, at as u64, 1 << (at % 8)));
            assert_loss_is_told(&world, &format!("{file} at {at}"));
        }
    }
}

#[test]
fn sidecars_are_only_a_convenience() {
    let base = history();
    for name in names(&base, ".idx") {
        let len = base.read_file(&name).unwrap().len();
        for at in (0..len).step_by((len / 100).max(1)) {
            let world = base.fork();
            assert!(world.corrupt(&name, at as u64, 1 << (at % 8)));
            assert_nothing_lost(&world, &format!("{name} at {at}"));
        }
        for len in [0, 1, 100, len / 2, len + 4096] {
            let world = base.fork();
            assert!(world.truncate(&name, len));
            assert_nothing_lost(&world, &format!("{name} of {len} bytes"));
        }
    }
    let all = names(&base, ".idx");
    for name in &all {
        let world = base.fork();
        assert!(world.remove(name));
        assert_nothing_lost(&world, &format!("{name} is gone"));
        for other in all.iter().filter(|other| *other != name) {
            let world = base.fork();
            world.write_file(name, &base.read_file(other).unwrap());
            assert_nothing_lost(&world, &format!("{other} stands as {name}"));
        }
    }
}

#[test]
fn shared_memory_is_rebuilt_without_loss() {
    let base = history();
    let len = base.read_file("ctl").unwrap().len();
    let words = (0..512).step_by(7).chain((4096..4608).step_by(4));
    for at in words.chain((8192..len).step_by(1997)) {
        let bit = if at % 2 == 0 { 1 } else { 0x80 };
        let world = base.fork();
        assert!(world.corrupt("ctl", at as u64, bit));
        assert_nothing_lost(&world, &format!("ctl at {at}, bit {bit:#x}"));
    }
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("zeros", vec![0; len]),
        ("ones", vec![0xff; len]),
        ("noise", body(7, len)),
        ("half", base.read_file("ctl").unwrap()[..len / 2].to_vec()),
    ] {
        let world = base.fork();
        world.write_file("ctl", &bytes);
        assert_nothing_lost(&world, &format!("ctl is {what}"));
    }
}

#[test]
fn scribbling_on_shared_memory_in_use_delivers_nothing_wrong() {
    let base = history();
    let len = base.read_file("ctl").unwrap().len();
    for at in (8192..len - 8).step_by(9001).chain((256..4600).step_by(96)) {
        for value in [0, 1, u64::MAX, 0x7fff_ffff_ffff, 64] {
            let world = base.fork();
            let mut m = open(&world);
            assert!(world.set_map_word("ctl", at & !7, value));
            use_roughly(&mut m);
            // However it went, everybody dies, and shared memory is not believed.
            m.dies();
            assert!(world.remove("ctl"));
            let when = format!("{value:#x} in shared memory at {at}");
            // What was overwritten may have reached the files: anything but wrong bytes, a panic
            // or a hang is an answer.
            examine(&world, &when);
        }
    }
}

/// Calls that meet what they meet; none may panic or hang, and no wrong message comes out.
fn use_roughly(m: &mut Member) {
    let Ok(group) = m.store.group("fast", "g").open() else {
        return;
    };
    for _ in 0..3 {
        if let Ok(got) = group.receive_batch(2, Duration::ZERO) {
            // Kept until the process dies: nothing is settled.
            for d in &got {
                id_of(d.body());
            }
            m.held.extend(got);
        }
        m.process.world().advance(100);
    }
    let _ = m.store.stats();
    m.store.look();
}

/// A continuation that nothing durable follows: no other file tells that it was there.
fn unmissed(file: &str) -> bool {
    file.ends_with(".1.seg")
}

#[test]
fn cut_missing_and_foreign_files_are_told() {
    let base = history();
    for (file, bytes) in base.files() {
        if file == "ctl" {
            continue;
        }
        for len in [0, 16, 4095, 4096, 5000, bytes.len() / 2, bytes.len() + 8192] {
            let world = base.fork();
            assert!(world.truncate(&file, len));
            let when = format!("{file} of {len} bytes");
            if unmissed(&file) {
                both_ways(&world, &when);
            } else {
                assert_loss_is_told(&world, &when);
            }
        }
        let world = base.fork();
        assert!(world.remove(&file));
        let when = format!("{file} is gone");
        if unmissed(&file) {
            both_ways(&world, &when);
        } else {
            assert_loss_is_told(&world, &when);
        }
        let world = base.fork();
        world.write_file(&file, &body(3, bytes.len().max(5000)));
        assert_loss_is_told(&world, &format!("{file} is something else"));
    }
    let segments = names(&base, ".seg");
    for a in &segments {
        for b in segments.iter().filter(|b| *b > a) {
            let world = base.fork();
            world.write_file(a, &base.read_file(b).unwrap());
            world.write_file(b, &base.read_file(a).unwrap());
            assert_loss_is_told(&world, &format!("{a} and {b} changed places"));
        }
    }
    for name in [
        "log/hello",
        "log/00000099.0.seg",
        "log/00000001.7.seg",
        "log/0.idx",
        "x",
    ] {
        let world = base.fork();
        world.write_file(name, b"hello");
        assert_nothing_lost(&world, &format!("{name} is there"));
    }
}

#[test]
fn a_store_without_its_superblock_is_not_made_anew() {
    let world = history();
    let segments = names(&world, ".seg");
    assert!(world.remove("SUPER"));
    for gone in ["", "ctl"] {
        world.remove(gone);
        let refused = Store::open_simulated(&world.process(), options()).unwrap_err();
        assert_eq!(refused.code(), Code::Corrupt, "{refused:?}");
        assert_eq!(names(&world, ".seg"), segments);
    }
}
