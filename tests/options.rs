//! Options are stored when a group is made: a different one later is refused, `configure` changes
//! them durably, and where a group begins is as it was asked.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/members.rs"]
mod members;
#[path = "options/rocketmq.rs"]
mod rocketmq;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Backoff, Code, Flush, Group, GroupOptions, Start, Store};
use members::{Member, assert_whole, body, id_of, kill_at, open, open_with, options};

const SECOND: Duration = Duration::from_secs(1);

fn backoff(first: u64) -> Backoff {
    Backoff {
        first: Duration::from_millis(first),
        factor: 1.5,
        max: Duration::from_secs(9),
        jitter: 0.25,
        ..Backoff::default()
    }
}

/// A group with an explicit value for every option.
fn made(m: &Member) -> Group {
    let group = m.store.group("orders", "billing");
    let group = group.lease(7 * SECOND).max_attempts(3).backoff(backoff(10));
    group.ack_flush(Flush::Sync).open().unwrap()
}

#[test]
fn each_option_that_differs_later_is_refused_with_both_values() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let config = made(&m).config().unwrap();
    assert_eq!((config.lease, config.max_attempts), (7 * SECOND, 3));
    assert_eq!(config.backoff, backoff(10));
    assert_eq!(config.ack_flush, Flush::Sync);
    m.leaves();
    // The same is fine, and so is nothing; also when it is read back from the log.
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        assert_eq!(made(&m).config().unwrap(), config);
        assert_eq!(m.group("orders", "billing").config().unwrap(), config);
        type Ask = fn(GroupOptions) -> GroupOptions;
        let others: [(Ask, &str, &str); 5] = [
            (|g| g.lease(8 * SECOND), "7000 ms", "8000 ms"),
            (|g| g.max_attempts(4), "3", "4"),
            (|g| g.ack_flush(Flush::Async), "sync", "async"),
            (|g| g.backoff(backoff(11)), "first=10ms", "first=11ms"),
            (
                |g| {
                    g.backoff(Backoff {
                        jitter: 0.5,
                        ..backoff(10)
                    })
                },
                "250",
                "500",
            ),
        ];
        for (ask, stored, asked) in others {
            let refused = ask(m.store.group("orders", "billing")).open();
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::ConfigMismatch);
            let text = refused.to_string();
            assert!(text.contains(stored) && text.contains(asked), "{text}");
            assert!(
                text.contains("billing") && text.contains("orders"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_group_that_somebody_else_makes_meanwhile_is_checked_too() {
    // Whoever comes second finds the group only under the lock, or before it: either way it has
    // the options it asked for, or an error.
    for _ in 0..20 {
        let world = SimWorld::new(SimOptions {
            threads: true,
            ..SimOptions::default()
        });
        let m = open_with(&world, options().send_timeout(Duration::MAX));
        m.store.topic("orders").unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let open = |attempts| {
                let group = m.store.group("orders", "billing").max_attempts(attempts);
                scope.spawn(move || group.open().map(|g| (g.config().unwrap(), attempts)))
            };
            let threads = [open(3), open(4)];
            threads.map(|t| t.join().unwrap()).into()
        });
        let (opened, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((opened.len(), refused.len()), (1, 1));
        for group in opened {
            let (config, asked) = group.unwrap();
            assert_eq!(config.max_attempts, asked);
        }
        assert_eq!(
            refused.into_iter().next().unwrap().unwrap_err().code(),
            Code::ConfigMismatch
        );
    }
}

#[test]
fn a_change_holds_for_every_handle_and_after_every_end() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let other = open(&world);
    let group = made(&m);
    let seen_by = other.group("orders", "billing");
    let change = group.configure().max_attempts(2).ack_flush(Flush::Async);
    let config = change.lease(2 * SECOND).apply().unwrap();
    assert_eq!((config.lease, config.max_attempts), (2 * SECOND, 2));
    assert_eq!(config.backoff, backoff(10), "what is not named stays");
    assert_eq!(config.ack_flush, Flush::Async);
    assert_eq!(seen_by.config().unwrap(), config);
    // It is on disk now, whatever else is.
    let cut = open(&world.power_cut_with(|_| 1));
    assert_eq!(cut.group("orders", "billing").config().unwrap(), config);
    // A snapshot knows it as well.
    m.store.maintain().unwrap();
    let config = group.configure().backoff(backoff(77)).apply().unwrap();
    assert_eq!(config.backoff, backoff(77));
    m.store.maintain().unwrap();
    other.leaves();
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        assert_eq!(m.group("orders", "billing").config().unwrap(), config);
        assert_whole(&m.store, "opened");
    }
}

#[test]
fn a_change_is_what_deliveries_go_by() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = made(&m);
    m.send("orders", 1, 40);
    group
        .configure()
        .lease(SECOND)
        .max_attempts(1)
        .apply()
        .unwrap();
    let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
    world.advance(1_100);
    m.store.look();
    assert_eq!(delivery.ack().unwrap_err().code(), Code::LeaseLost);
    world.advance(20_000);
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    assert_eq!(group.stats().unwrap().dead, 1);
}

#[test]
fn a_change_out_of_range_changes_nothing() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let group = made(&m);
    let before = group.config().unwrap();
    let change = group.configure().max_attempts(0).lease(SECOND);
    assert_eq!(change.apply().unwrap_err().code(), Code::InvalidArgument);
    let change = group.configure().lease(Duration::ZERO);
    assert_eq!(change.apply().unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(group.config().unwrap(), before);
    assert_eq!(group.configure().apply().unwrap(), before);
}

#[test]
fn a_change_that_is_killed_is_made_wholly_or_not_at_all() {
    let base = SimWorld::new(SimOptions::default());
    let m = open(&base);
    let before = made(&m).config().unwrap();
    m.leaves();
    let act = |m: &mut Member| {
        let group = m.group("orders", "billing");
        let change = group.configure().lease(SECOND).max_attempts(9);
        change.backoff(backoff(5)).apply().unwrap();
    };
    let mut k = 1;
    loop {
        let world = base.fork();
        let living = open(&world);
        let returned = kill_at(open(&world), k, &act);
        let when = format!("killed at {k}");
        living.store.flush(None).unwrap();
        let judge = |m: &Member| {
            assert_whole(&m.store, &when);
            let config = m.group("orders", "billing").config().unwrap();
            let changed = config.max_attempts == 9;
            assert_eq!(config.lease == SECOND, changed, "{when}: {config:?}");
            assert_eq!(config.backoff == backoff(5), changed, "{when}: {config:?}");
            assert!(changed || config == before, "{when}: {config:?}");
            assert!(changed || !returned, "{when}: {config:?}");
            changed
        };
        let changed = judge(&living);
        assert_eq!(
            judge(&open(&world.power_cut_with(|_| 1))),
            changed,
            "{when}"
        );
        living.leaves();
        assert_eq!(judge(&open(&world)), changed, "{when}");
        if returned {
            assert!(k > 3, "there are points to be killed at");
            return;
        }
        k += 1;
    }
}

/// The numbers that a new group gets, which begins there.
fn starting(m: &Member, start: Start) -> Vec<u64> {
    let name = format!("g{}", m.store.stats().unwrap().groups.len());
    let group = m.store.group("orders", &name).start(start).open().unwrap();
    let mut numbers = Vec::new();
    loop {
        let got = group.receive_batch(100, Duration::ZERO).unwrap();
        if got.is_empty() {
            break;
        }
        numbers.extend(got.iter().map(|d| id_of(d.body())));
        assert!(group.ack_many(got).into_iter().all(|acked| acked.is_ok()));
    }
    numbers
}

#[test]
fn a_group_begins_where_it_was_asked_to() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    // A clock that is set back in the middle: 1000, 1001, .. 1004, 1000, 1001, .. 1004, 1005, ..
    let at = |s: u64| s * 1000;
    for number in 0..40 {
        let second = if number < 5 { number } else { number - 5 };
        world.set_realtime((1000 + second) * 1000);
        let len = if number % 7 == 0 { 9000 } else { 40 };
        topic.send(body(number, len)).unwrap();
    }
    let all: Vec<u64> = (0..40).collect();
    assert_eq!(starting(&m, Start::Earliest), all);
    assert_eq!(starting(&m, Start::Latest), [0; 0]);
    assert_eq!(starting(&m, Start::Sequence(0)), all);
    assert_eq!(starting(&m, Start::Sequence(17)), all[17..]);
    assert_eq!(starting(&m, Start::Sequence(40)), [0; 0]);
    assert_eq!(starting(&m, Start::Sequence(u64::MAX)), [0; 0]);
    assert_eq!(starting(&m, Start::Time(at(0))), all);
    assert_eq!(starting(&m, Start::Time(at(1000))), all);
    // The first in order that is at or behind the time, though some behind it are before the time.
    assert_eq!(starting(&m, Start::Time(at(1003))), all[3..]);
    assert_eq!(starting(&m, Start::Time(at(1003) - 500)), all[3..]);
    assert_eq!(starting(&m, Start::Time(at(1005))), all[10..]);
    assert_eq!(starting(&m, Start::Time(at(1034))), all[39..]);
    assert_eq!(starting(&m, Start::Time(at(1035))), [0; 0]);
    // A group that is there stays where it is.
    let again = m.store.group("orders", "g0").start(Start::Latest);
    assert_eq!(again.open().unwrap().stats().unwrap().cursor, 40);
}

/// A directory under target/, removed at the end.
struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    /// Modes of the files and of the directories, each once.
    fn modes(&self) -> (Vec<u32>, Vec<u32>) {
        let (mut files, mut dirs) = (Vec::new(), Vec::new());
        let mut left = vec![self.0.clone()];
        while let Some(path) = left.pop() {
            let metadata = path.symlink_metadata().unwrap();
            let modes = if metadata.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                &mut dirs
            } else {
                &mut files
            };
            let mode = metadata.permissions().mode() & 0o7777;
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        }
        (files, dirs)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_have_the_mode_the_store_was_made_with_whoever_makes_them() {
    for (mode, files, dirs) in [
        (None, 0o600, 0o700),
        (Some(0o644), 0o644, 0o755),
        (Some(0o660), 0o660, 0o2770),
    ] {
        let place = Place::new("options-mode");
        let options = Store::options().segment_size(16 << 20);
        let first = match mode {
            Some(mode) => options.mode(mode).open(&place.0),
            None => options.open(&place.0),
        };
        let store = first.unwrap();
        store.topic("t").unwrap().send(b"x").unwrap();
        store.close().unwrap();
        assert_eq!(place.modes(), (vec![files], vec![dirs]));
        // A second user, who says nothing of modes, makes files: shared memory and segments.
        std::fs::remove_file(place.0.join("ctl")).unwrap();
        let names = || std::fs::read_dir(place.0.join("log")).unwrap().count();
        let before = names();
        let store = Store::open(&place.0).unwrap();
        store.topic("t").unwrap().send(vec![0; 2 << 20]).unwrap();
        assert!(names() > before);
        store.close().unwrap();
        assert_eq!(place.modes(), (vec![files], vec![dirs]));
    }
}

#[test]
fn what_a_store_was_made_with_cannot_be_asked_otherwise_later() {
    let place = Place::new("options-store");
    let made = || Store::options().segment_size(16 << 20).ring_size(1 << 20);
    let made = || made().slots(2048).mode(0o640);
    let store = made().open(&place.0).unwrap();
    let check = |when: &str| {
        // The same, or nothing, is fine.
        made().open(&place.0).unwrap();
        Store::open(&place.0).unwrap();
        let others = [
            (
                Store::options().segment_size(32 << 20),
                "16777216",
                "33554432",
            ),
            (Store::options().ring_size(2 << 20), "1048576", "2097152"),
            (Store::options().slots(4096), "2048", "4096"),
            (Store::options().mode(0o600), "0o640", "0o600"),
        ];
        for (other, stored, asked) in others {
            for other in [other.clone(), other.read_only(true)] {
                let refused = other.open(&place.0).unwrap_err();
                assert_eq!(refused.code(), Code::ConfigMismatch, "{when}");
                let text = refused.to_string();
                assert!(text.contains(stored) && text.contains(asked), "{text}");
            }
        }
    };
    check("in use");
    store.close().unwrap();
    check("left");
}

/// The one file of shared memory below a runtime directory.
fn maps_in(runtime: &Place) -> Vec<std::path::PathBuf> {
    let list = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    };
    list(&runtime.0).iter().flat_map(|dir| list(dir)).collect()
}

fn runtime(name: &str) -> Place {
    let runtime = Place::new(name);
    std::fs::create_dir_all(&runtime.0).unwrap();
    runtime
}

#[test]
fn shared_memory_can_lie_in_a_directory_of_its_own() {
    let place = Place::new("options-runtime");
    let other = Place::new("options-runtime-other");
    let (runtime, elsewhere) = (runtime("options-rundir"), runtime("options-rundir-2"));
    let made = |place: &Place| {
        Store::options()
            .runtime_dir(runtime.0.clone())
            .open(&place.0)
    };
    let store = made(&place).unwrap();
    let topic = store.topic("t").unwrap();
    topic.send(b"one").unwrap();
    assert!(!place.0.join("ctl").exists());
    let map = maps_in(&runtime);
    assert_eq!(map.len(), 1);
    // Others find it by themselves, and share it.
    let second = Store::open(&place.0).unwrap();
    assert!(second.recovery().joined);
    second
        .topic("t")
        .unwrap()
        .message(b"two")
        .flush(Flush::Async)
        .send()
        .unwrap();
    assert_eq!(topic.len().unwrap(), 2);
    let looking = Store::options().read_only(true).open(&place.0).unwrap();
    assert!(looking.recovery().joined);
    assert_eq!(looking.topic("t").unwrap().len().unwrap(), 2);
    drop(looking);
    second.close().unwrap();
    store.close().unwrap();
    let store = made(&place).unwrap();
    assert!(store.recovery().warm);
    store.close().unwrap();
    // Two stores in one runtime directory do not meet.
    let store = made(&other).unwrap();
    assert!(store.recovery().created);
    assert_eq!(maps_in(&runtime).len(), 2);
    store.close().unwrap();
    // Another one later is refused with both, and so is one for a store that has none.
    let refused = Store::options()
        .runtime_dir(elsewhere.0.clone())
        .open(&place.0);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigMismatch);
    for dir in [&runtime, &elsewhere] {
        assert!(
            refused.to_string().contains(dir.0.to_str().unwrap()),
            "{refused}"
        );
    }
    let plain = Place::new("options-runtime-plain");
    Store::open(&plain.0).unwrap();
    assert_eq!(made(&plain).unwrap_err().code(), Code::ConfigMismatch);
    let relative = Store::options().runtime_dir("run".into()).open(&plain.0);
    assert_eq!(relative.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn shared_memory_that_the_store_does_not_name_is_never_used() {
    let place = Place::new("options-nonce");
    let runtime = runtime("options-nonce-dir");
    let store = Store::options()
        .runtime_dir(runtime.0.clone())
        .open(&place.0)
        .unwrap();
    store.topic("t").unwrap().send(b"one").unwrap();
    store.close().unwrap();
    let map = maps_in(&runtime).remove(0);
    // A machine or container where the directory is empty: it recovers from the log.
    let stale = runtime.0.join("stale");
    std::fs::rename(&map, &stale).unwrap();
    let store = Store::open(&place.0).unwrap();
    assert!(!store.recovery().warm && !store.recovery().joined);
    assert_eq!(store.topic("t").unwrap().browse().count(), 1);
    // One with what an earlier life left there, while this one lives: it is refused.
    let current = runtime.0.join("current");
    std::fs::rename(&map, &current).unwrap();
    std::fs::rename(&stale, &map).unwrap();
    let refused = Store::open(&place.0).unwrap_err();
    assert_eq!(refused.code(), Code::Incompatible, "{refused}");
    assert!(refused.to_string().contains("RUNTIME"), "{refused}");
    let looking = Store::options().read_only(true).open(&place.0).unwrap_err();
    assert_eq!(looking.code(), Code::Incompatible, "{looking}");
    store.topic("t").unwrap().send(b"two").unwrap();
    store.close().unwrap();
    // Nobody has it open: it is recovered from the log, not from what it was before.
    let store = Store::open(&place.0).unwrap();
    assert!(!store.recovery().warm);
    let bodies: Vec<Vec<u8>> = store
        .topic("t")
        .unwrap()
        .browse()
        .map(|m| m.unwrap().content.unwrap().body().to_vec())
        .collect();
    assert_eq!(bodies, [b"one", b"two"]);
    store.close().unwrap();
    // Without the directory itself there is a clear error, and looking still works.
    std::fs::remove_dir_all(&runtime.0).unwrap();
    let refused = Store::open(&place.0).unwrap_err();
    assert!(refused.to_string().contains("runtime_dir"), "{refused}");
    let looking = Store::options().read_only(true).open(&place.0).unwrap();
    assert_eq!(looking.topic("t").unwrap().browse().count(), 2);
}
