//! A repair makes a damaged store usable: it touches nothing that is whole, says what is lost, and
//! comes to the same end however often it is killed or cut.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/history.rs"]
mod history;
#[path = "support/members.rs"]
mod members;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use history::{Owed, history, owed_at_first};
use keepq::sim::{SimOptions, SimWorld, set_point_hook};
use keepq::{Code, RepairOptions, RepairReport, Result, Store, repair_simulated};
use members::{Member, assert_whole, body, id_of, open, options};

const MSG: u8 = 1;

fn repair(world: &SimWorld) -> Result<RepairReport> {
    let process = world.process();
    let report = repair_simulated(&process, &RepairOptions::default());
    process.kill();
    report
}

fn try_repair(world: &SimWorld) -> Result<RepairReport> {
    let process = world.process();
    let report = repair_simulated(&process, &RepairOptions { dry_run: true });
    process.kill();
    report
}

fn names(world: &SimWorld, ending: &str) -> Vec<String> {
    let all = world.files().into_iter().map(|(name, _)| name);
    all.filter(|name| name.ends_with(ending)).collect()
}

/// Everything that can be had: per group the numbers, and how many receives told of a loss.
fn receive_everything(world: &SimWorld, when: &str) -> (Owed, usize) {
    let process = world.process();
    let store = Store::open_simulated(&process, options().create(false))
        .unwrap_or_else(|e| panic!("{when}: it does not open after its repair: {e}"));
    let mut got = Owed::new();
    let mut told = 0;
    let mut groups: Vec<(String, String)> = store
        .stats()
        .unwrap()
        .groups
        .into_iter()
        .map(|g| (g.topic, g.name))
        .collect();
    groups.push(("%DLQ%orders%billing".into(), "undertaker".into()));
    for (topic, name) in groups {
        let Ok(group) = store.group(&topic, &name).open() else {
            continue;
        };
        let ids = got.entry(format!("{topic}/{name}")).or_default();
        for _ in 0..200 {
            match group.receive_batch(64, Duration::ZERO) {
                Ok(some) if some.is_empty() => {
                    let stats = group.stats().unwrap();
                    if stats.delayed + stats.in_flight == 0 {
                        break;
                    }
                    world.advance(700_000);
                }
                Ok(some) => {
                    ids.extend(some.iter().map(|d| id_of(d.body())));
                    assert!(
                        group.ack_many(some).into_iter().all(|r| r.is_ok()),
                        "{when}"
                    );
                }
                Err(e) => {
                    assert_eq!(e.code(), Code::Corrupt, "{when}: {e:?}");
                    told += 1;
                }
            }
        }
    }
    let new = store.topic("new");
    let new = new.unwrap_or_else(|e| panic!("{when}: {e:?}"));
    let sent = new.send(body(99, 200));
    sent.unwrap_or_else(|e| panic!("{when}: {e:?}"));
    let group = store.group("new", "g").open().unwrap();
    let back = group.receive(Duration::ZERO);
    let back = back.unwrap_or_else(|e| panic!("{when}: {e:?}")).unwrap();
    assert_eq!(id_of(back.body()), 99, "{when}");
    back.ack().unwrap();
    assert_whole(&store, when);
    store.close().unwrap_or_else(|e| panic!("{when}: {e:?}"));
    (got, told)
}

fn missing(got: &Owed) -> BTreeSet<(String, u64)> {
    let none = BTreeSet::new();
    let owed = owed_at_first();
    let missing = owed.iter().flat_map(|(group, ids)| {
        let got = got.get(group).unwrap_or(&none);
        let lost = ids.difference(got).map(|id| (group.clone(), *id));
        lost.collect::<Vec<_>>()
    });
    missing.collect()
}

/// What a repaired store owes, and what the repair said.
struct Repaired {
    missing: BTreeSet<(String, u64)>,
    report: RepairReport,
}

/// Repairs a damaged history in every way that must come to the same. `None`: it cannot be
/// repaired, and says so.
fn repaired(world: &SimWorld, when: &str) -> Option<Repaired> {
    let untouched = world.files();
    let dry = try_repair(world);
    assert!(
        world.files() == untouched,
        "{when}: a dry run changes something"
    );
    let report = match repair(world) {
        Ok(report) => report,
        Err(e) => {
            let fits = [
                Code::Corrupt,
                Code::NotAStore,
                Code::Incompatible,
                Code::NotFound,
            ];
            assert!(fits.contains(&e.code()), "{when}: {e:?}");
            assert_eq!(dry.unwrap_err().code(), e.code(), "{when}");
            return None;
        }
    };
    let dry = dry.unwrap_or_else(|e| panic!("{when}: the dry run alone fails: {e}"));
    let first = |report: &RepairReport| report.actions.first().cloned();
    assert_eq!(first(&dry), first(&report), "{when}");
    if dry.after.files > 0 && dry.after != dry.before {
        assert_eq!(
            (&dry.actions, &dry.lost),
            (&report.actions, &report.lost),
            "{when}"
        );
        assert_eq!(dry.after.findings, report.after.findings, "{when}");
    }
    assert!(report.is_ok(), "{when}: {:?}", report.after.findings);
    let after = world.files();
    let again = repair(world).unwrap();
    assert!(
        again.actions.is_empty(),
        "{when}: a second repair: {:?}",
        again.actions
    );
    assert!(
        world.files() == after,
        "{when}: a second repair changes something"
    );
    assert_kept(&untouched, &after, &report, when);
    let cold = world.fork();
    cold.remove("ctl");
    let (got, told) = receive_everything(world, &format!("{when}, warm"));
    let (got_cold, told_cold) = receive_everything(&cold, &format!("{when}, cold"));
    assert_eq!(
        (&got, told),
        (&got_cold, told_cold),
        "{when}: warm and cold differ"
    );
    let missing = missing(&got);
    let lost = report.lost.iter().map(|l| l.count).sum::<u64>();
    let said = lost > 0 || !report.lost_state.is_empty() || !report.before.is_ok();
    assert!(
        missing.is_empty() || said,
        "{when}: {missing:?} are lost without a word"
    );
    Some(Repaired { missing, report })
}

/// A copy of each damaged file is kept.
fn assert_kept(
    before: &[(String, Vec<u8>)],
    after: &[(String, Vec<u8>)],
    report: &RepairReport,
    when: &str,
) {
    let damaged = |file: &str| {
        let mut findings = report.before.findings.iter();
        findings.any(|f| f.damage && f.file == file)
    };
    for (file, bytes) in before.iter().filter(|(file, _)| damaged(file)) {
        let kept = after
            .iter()
            .any(|(name, kept)| name.starts_with("quarantine/") && kept == bytes);
        assert!(kept, "{when}: no copy of {file} as it was");
    }
}

#[test]
fn a_store_that_is_whole_is_left_as_it_is() {
    let world = history();
    let before = world.files();
    let report = repair(&world).unwrap();
    assert!(report.actions.is_empty() && report.is_ok(), "{report:?}");
    assert!(world.files() == before);
}

#[test]
fn in_a_directory_that_is_no_store_nothing_is_made() {
    let world = SimWorld::new(SimOptions::default());
    let nothing = world.files();
    for refused in [try_repair(&world), repair(&world)] {
        assert_eq!(refused.unwrap_err().code(), Code::NotAStore);
        assert!(world.files() == nothing);
    }
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
        if !file.ends_with(".seg") {
            continue;
        }
        let mut at = 4096;
        while let Some(head) = bytes.get(at..at + 40) {
            let len = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
            if len < 40 {
                break;
            }
            let len = len.next_multiple_of(16);
            let (file, kind) = (file.clone(), head[36]);
            found.push(Place {
                file,
                at,
                len,
                kind,
            });
            at += len;
        }
    }
    found
}

#[test]
fn a_damaged_record_costs_its_message_and_is_known_afterwards() {
    let base = history();
    let mut seen: BTreeMap<u8, usize> = BTreeMap::new();
    let mut known = 0;
    for place in records(&base)
        .into_iter()
        .filter(|p| p.file.ends_with(".0.seg"))
    {
        let count = seen.entry(place.kind).or_default();
        *count += 1;
        if *count > 4 {
            continue;
        }
        for at in [1, 5, 20, 36, 39, place.len / 2, place.len - 17] {
            let world = base.fork();
            assert!(world.corrupt(&place.file, (place.at + at) as u64, 0x10));
            let when = format!("{} at {} + {at}, kind {}", place.file, place.at, place.kind);
            let Some(found) = repaired(&world, &when) else {
                panic!("{when}: it cannot be repaired");
            };
            if place.kind == MSG {
                assert!(found.missing.len() <= 1, "{when}: {:?}", found.missing);
            }
            known += usize::from(found.report.after.findings.iter().any(|f| f.known));
        }
    }
    assert!(known > 40, "only {known} are known afterwards");
}

#[test]
fn what_a_damaged_message_was_is_named() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    for id in 1..=10 {
        m.send("t", id, 200);
    }
    m.group("t", "g");
    m.leaves();
    let messages: Vec<Place> = records(&world)
        .into_iter()
        .filter(|r| r.kind == MSG)
        .collect();
    for lost in [2, 3, 6] {
        let at = messages[lost].at + messages[lost].len - 20;
        assert!(world.corrupt(&messages[lost].file, at as u64, 1));
    }
    let report = repair(&world).unwrap();
    let lost: Vec<(&str, u64, u64)> = report
        .lost
        .iter()
        .map(|l| (l.topic.as_str(), l.first_seq, l.count))
        .collect();
    assert_eq!(lost, [("t", 2, 2), ("t", 6, 1)]);
    assert!(report.before.findings.iter().filter(|f| f.damage).count() >= 2);
    let (got, told) = receive_everything(&world, "named");
    assert_eq!(got["t/g"], [1, 2, 5, 6, 8, 9, 10].into());
    assert!(told > 0, "the group is told");
    let (got, told) = receive_everything(&world, "named, again");
    assert!(
        got["t/g"].is_empty() && told == 0,
        "told once: {told}, {got:?}"
    );
}

#[test]
fn a_single_wrong_bit_in_a_header_or_in_super_costs_nothing() {
    let base = history();
    for (file, bytes) in base.files() {
        if file != "SUPER" && !file.ends_with(".seg") {
            continue;
        }
        for at in (0..128).step_by(3).chain([500, 509, 2048, 4090]) {
            let world = base.fork();
            assert!(at < bytes.len() && world.corrupt(&file, at as u64, 1 << (at % 8)));
            let when = format!("{file} at {at}");
            let found = repaired(&world, &when).unwrap_or_else(|| panic!("{when}: not repaired"));
            // The adopted block of a continuation is no header.
            if at != 2048 {
                assert!(found.missing.is_empty(), "{when}: {:?}", found.missing);
            }
        }
    }
}

#[test]
fn cut_missing_foreign_and_swapped_files_are_dealt_with() {
    let base = history();
    let mut dealt = 0;
    for (file, bytes) in base.files() {
        if file.ends_with(".1.seg") {
            // A continuation that nothing durable follows is not missed (docs/GUARANTEES.md).
            continue;
        }
        let alien = body(3, bytes.len().max(5_000));
        for what in ["gone", "empty", "cut", "half", "else"] {
            let world = base.fork();
            match what {
                "gone" => assert!(world.remove(&file)),
                "empty" => assert!(world.truncate(&file, 0)),
                "cut" => assert!(world.truncate(&file, 5_000)),
                "half" => assert!(world.truncate(&file, bytes.len() / 2)),
                _ => world.write_file(&file, &alien),
            }
            dealt += usize::from(repaired(&world, &format!("{file}: {what}")).is_some());
        }
    }
    assert!(dealt > 30, "only {dealt} are dealt with");
    let segments = names(&base, ".seg");
    for a in &segments {
        for b in segments.iter().filter(|b| *b > a) {
            let world = base.fork();
            world.write_file(a, &base.read_file(b).unwrap());
            world.write_file(b, &base.read_file(a).unwrap());
            let when = format!("{a} and {b} changed places");
            let found = repaired(&world, &when).unwrap_or_else(|| panic!("{when}: not repaired"));
            assert!(found.missing.is_empty(), "{when}: {:?}", found.missing);
        }
    }
}

#[test]
fn a_store_in_use_is_busy() {
    let world = history();
    let m = open(&world);
    for report in [repair(&world), try_repair(&world)] {
        assert_eq!(report.unwrap_err().code(), Code::Busy);
    }
    let files = world.files();
    m.dies();
    // Without LOCK, shared memory tells that somebody did not leave.
    let world = world.fork();
    assert!(world.remove("LOCK"));
    let e = repair(&world).unwrap_err();
    assert_eq!(e.code(), Code::Busy, "{e}");
    assert!(e.message().contains("LOCK is missing"), "{e}");
    assert_eq!(
        world.files().len(),
        files.len() - usize::from(files.iter().any(|f| f.0 == "LOCK"))
    );
}

/// A store whose beginning is reclaimed, with messages that are owed: numbers 1,000 and up.
fn reclaimed() -> (SimWorld, BTreeSet<u64>) {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    m.group("t", "g");
    for id in 0..40 {
        m.send("t", id, 2_000);
        m.receive("t", "g", 8);
        for held in m.held.drain(..) {
            held.ack().unwrap();
        }
        m.store.flush(None).unwrap();
        m.store.maintain().unwrap();
    }
    for id in 1_000..1_010 {
        m.send("t", id, 300);
    }
    m.leaves();
    assert!(!names(&world, ".seg").contains(&"log/00000001.0.seg".to_owned()));
    (world, (1_000..1_010).collect())
}

const SNAP: u8 = 10;

#[test]
fn a_store_without_any_whole_snapshot_opens_again() {
    for whole_pieces in [false, true] {
        let (world, owed) = reclaimed();
        let mut snaps: Vec<Place> = records(&world)
            .into_iter()
            .filter(|r| r.kind == SNAP)
            .collect();
        assert!(snaps.len() > 3);
        if whole_pieces {
            // The last pieces only: names are still to be had.
            snaps.retain(|r| r.len < 80);
        }
        for snap in &snaps {
            assert!(world.corrupt(&snap.file, (snap.at + 45) as u64, 4));
        }
        assert!(world.remove("ctl"));
        let refused = Store::open_simulated(&world.fork().process(), options()).unwrap_err();
        assert_eq!(refused.code(), Code::Corrupt, "{refused}");
        assert!(refused.message().contains("keepq repair"), "{refused}");
        let report = repair(&world).unwrap();
        assert!(report.is_ok(), "{report:?}");
        assert!(!report.lost_state.is_empty(), "{report:?}");
        // The next open needs nothing of what is damaged.
        let cold = world.fork();
        assert!(cold.remove("ctl"));
        open(&cold).leaves();
        let m = open(&world);
        let stats = m.store.stats().unwrap();
        let (topic, name) = if whole_pieces {
            assert_eq!(stats.groups.len(), 1, "{stats:?}");
            ("t".to_owned(), "g")
        } else {
            let said = report.lost_state.iter().any(|s| s.contains("recovered-0"));
            assert!(said, "{:?}", report.lost_state);
            ("recovered-0".to_owned(), "new")
        };
        m.leaves();
        check_kept(&world, (&topic, name), &owed);
        let report = repair(&world).unwrap();
        assert!(report.actions.is_empty(), "{report:?}");
    }
}

/// Every message that is owed comes, warm and cold.
fn check_kept(world: &SimWorld, (topic, name): (&str, &str), owed: &BTreeSet<u64>) {
    let cold = world.fork();
    assert!(cold.remove("ctl"));
    for world in [world.fork(), cold] {
        let m = open(&world);
        let got = take_all(&m, topic, name);
        assert!(owed.is_subset(&got), "{got:?}");
        assert_whole(&m.store, "after a repair");
        m.leaves();
    }
}

fn take_all(m: &Member, topic: &str, name: &str) -> BTreeSet<u64> {
    let group = m.store.group(topic, name).open().unwrap();
    let mut got = BTreeSet::new();
    loop {
        match group.receive_batch(64, Duration::ZERO) {
            Ok(some) if some.is_empty() => return got,
            Ok(some) => {
                got.extend(some.iter().map(|d| id_of(d.body())));
                assert!(group.ack_many(some).into_iter().all(|r| r.is_ok()));
            }
            Err(e) => assert_eq!(e.code(), Code::Corrupt, "{e}"),
        }
    }
}

/// Repairs a machine; how it looked at every disk call, killed there and cut there.
fn every_end(world: &SimWorld) -> Vec<(String, SimWorld)> {
    let ends = Rc::new(RefCell::new(Vec::new()));
    let (seen, machine, mut last) = (ends.clone(), world.clone(), world.disk_calls());
    set_point_hook(Some(Box::new(move || {
        let call = machine.disk_calls();
        if call == last {
            return;
        }
        last = call;
        let killed = machine.fork();
        killed.kill_all();
        let mut seen = seen.borrow_mut();
        seen.push((format!("killed at call {call}"), killed));
        if call % 4 != 0 {
            return;
        }
        seen.push((
            format!("cut at call {call}, nothing kept"),
            machine.power_cut_with(|_| 0),
        ));
        seen.push((
            format!("cut at call {call}, all kept"),
            machine.power_cut_with(|_| 1),
        ));
        seen.push((
            format!("cut at call {call}, by chance"),
            machine.power_cut(call),
        ));
    })));
    let report = repair(world);
    set_point_hook(None);
    report.unwrap();
    ends.take()
}

#[test]
fn a_repair_that_ends_anywhere_is_finished_by_the_next() {
    let base = history();
    let message = records(&base)
        .into_iter()
        .find(|r| r.kind == MSG && r.len > 500)
        .unwrap();
    let segments = names(&base, ".0.seg");
    type Damage<'a> = (&'a str, Box<dyn Fn(&SimWorld) + 'a>);
    let damages: [Damage<'_>; 5] = [
        (
            "a record",
            Box::new(|w| {
                w.corrupt(&message.file, message.at as u64 + 60, 8);
            }),
        ),
        (
            "a header's bit",
            Box::new(|w| {
                w.corrupt(&segments[1], 30, 8);
            }),
        ),
        (
            "a header",
            Box::new(|w| {
                for at in 20..40 {
                    w.corrupt(&segments[1], at, 0x5a);
                }
            }),
        ),
        (
            "swapped files",
            Box::new(|w| {
                let [a, b] = [0, 1].map(|i| w.read_file(&segments[i]).unwrap());
                w.write_file(&segments[0], &b);
                w.write_file(&segments[1], &a);
            }),
        ),
        (
            "a missing file",
            Box::new(|w| {
                w.remove(&segments[1]);
            }),
        ),
    ];
    for (what, damage) in damages {
        let world = base.fork();
        damage(&world);
        // What was damaged is on the disk so.
        let world = world.power_cut_with(|_| 1);
        let ends = every_end(&world);
        let (whole, _) = receive_everything(&world, what);
        assert!(ends.len() > 100, "{what}: {}", ends.len());
        for (when, end) in ends {
            let when = format!("{what}, {when}");
            let report = repair(&end).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert!(report.is_ok(), "{when}: {:?}", report.after.findings);
            let (got, _) = receive_everything(&end, &when);
            assert_eq!(got, whole, "{when}");
        }
    }
}
