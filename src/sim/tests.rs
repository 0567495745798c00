//! The simulator itself: what it loses, what it must never lose, and how it fails and kills.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::error::Code;
use crate::sys::{Dir, Handle, Host, Open, Probe};

fn world(unit: usize) -> SimWorld {
    SimWorld::new(SimOptions {
        seed: 7,
        unit,
        ..SimOptions::default()
    })
}

fn dir_of(world: &SimWorld) -> Dir {
    Dir::new(world.process().disk())
}

/// A file whose name and first content are durable.
fn durable_file(dir: &Dir, path: &str, bytes: &[u8]) -> Handle {
    let file = dir.open(path, Open::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync().unwrap();
    dir.sync_dir("").unwrap();
    file
}

/// Every content that `path` can have after a power cut now (`None`: no such file).
fn after_cuts(world: &SimWorld, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let mut found = BTreeSet::new();
    let (_, all) = world.each_cut(100_000, 0, 0, |cut| {
        found.insert(cut.read_file(path));
    });
    assert!(all);
    found
}

#[test]
fn unsynced_units_are_lost_kept_or_torn_each_on_its_own() {
    let world = world(512);
    let dir = dir_of(&world);
    let file = durable_file(&dir, "a", &[1; 1024]);
    file.write_all_at(&[2; 1024], 0).unwrap();
    let found = after_cuts(&world, "a");
    let halves = |a: u8, b: u8| Some([[a; 512], [b; 512]].concat());
    let expected = [halves(1, 1), halves(1, 2), halves(2, 1), halves(2, 2)];
    assert_eq!(found, BTreeSet::from(expected));
    // A version in between may be the one that reached the disk.
    file.write_all_at(&[3; 512], 0).unwrap();
    assert!(after_cuts(&world, "a").contains(&halves(2, 1)));
    file.sync().unwrap();
    assert_eq!(after_cuts(&world, "a"), BTreeSet::from([halves(3, 2)]));
}

#[test]
fn a_large_unit_is_torn_between_sectors() {
    let world = world(4096);
    let dir = dir_of(&world);
    let file = durable_file(&dir, "a", &[1; 4096]);
    file.write_all_at(&[2; 4096], 0).unwrap();
    let mut torn = 0;
    for bytes in after_cuts(&world, "a") {
        let bytes = bytes.unwrap();
        let new = bytes.iter().take_while(|&&byte| byte == 2).count();
        assert_eq!(new % 512, 0);
        assert!(bytes[new..].iter().all(|&byte| byte == 1));
        torn += usize::from(new != 0 && new != 4096);
    }
    assert_eq!(torn, 1);
}

#[test]
fn what_was_synced_is_never_lost_whatever_the_cut() {
    for metadata in [MetadataModel::Unordered, MetadataModel::Ordered] {
        let world = SimWorld::new(SimOptions {
            metadata,
            ..SimOptions::default()
        });
        let dir = dir_of(&world);
        dir.make_dir("log").unwrap();
        dir.sync_dir("").unwrap();
        dir.write_durably("log/a", b"first").unwrap();
        dir.write_durably("SUPER", b"second").unwrap();
        assert_eq!(world.dirty_units(), 0);
        let before = world.image_hash();
        dir.open("log/b", Open::Create)
            .unwrap()
            .write_all_at(b"unsynced", 0)
            .unwrap();
        for seed in 0..200 {
            let cut = world.power_cut(seed);
            assert_eq!(cut.read_file("log/a").unwrap(), b"first", "seed {seed}");
            assert_eq!(cut.read_file("SUPER").unwrap(), b"second", "seed {seed}");
            // Nothing is half decided after a cut: a second one changes nothing.
            assert_eq!(cut.power_cut(seed + 1).image_hash(), cut.image_hash());
        }
        let lost = world.power_cut_with(|_| 1);
        assert_eq!(lost.image_hash(), before);
    }
}

#[test]
fn a_length_that_was_not_synced_may_be_lost_and_reserved_space_reads_as_zeros() {
    let world = world(512);
    let dir = dir_of(&world);
    // Freed space full of old bytes, to see that none of them shine through.
    durable_file(&dir, "old", &[9; 4096]);
    dir.unlink("old").unwrap();
    dir.sync_dir("").unwrap();
    let file = durable_file(&dir, "a", &[1; 100]);
    file.allocate(1024).unwrap();
    let lens: BTreeSet<usize> = after_cuts(&world, "a")
        .into_iter()
        .map(|bytes| bytes.unwrap().len())
        .collect();
    assert_eq!(lens, BTreeSet::from([100, 1024]));
    file.write_all_at(&[2; 512], 512).unwrap();
    for bytes in after_cuts(&world, "a") {
        let bytes = bytes.unwrap();
        assert!(bytes[..100].iter().all(|&byte| byte == 1));
        assert!(bytes[100..].iter().all(|&byte| byte == 0 || byte == 2));
    }
}

#[test]
fn fresh_space_that_was_not_reserved_may_show_what_a_removed_file_held() {
    let world = world(512);
    let dir = dir_of(&world);
    durable_file(&dir, "old", &[9; 512]);
    dir.unlink("old").unwrap();
    dir.sync_dir("").unwrap();
    let file = durable_file(&dir, "a", b"");
    file.write_all_at(&[2; 512], 0).unwrap();
    let found = after_cuts(&world, "a");
    for expected in [vec![], vec![0; 512], vec![2; 512], vec![9; 512]] {
        assert!(found.contains(&Some(expected)));
    }
}

#[test]
fn names_that_were_not_synced_may_be_lost_and_a_rename_is_whole() {
    let world = world(4096);
    let dir = dir_of(&world);
    durable_file(&dir, "a", b"old");
    let file = dir.open("a.tmp", Open::Create).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    file.sync().unwrap();
    dir.rename("a.tmp", "a").unwrap();
    let names = |cut: &SimWorld| cut.files();
    let mut seen = BTreeSet::new();
    world.each_cut(1000, 0, 0, |cut| {
        seen.insert(names(&cut));
    });
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let expected = [
        vec![file("a", "old")],
        vec![file("a", "old"), file("a.tmp", "new")],
        vec![file("a", "new")],
    ];
    assert_eq!(seen, BTreeSet::from(expected));
    dir.unlink("a").unwrap();
    assert!(
        after_cuts(&world, "a").contains(&Some(b"old".to_vec())),
        "a lost unlink"
    );
    dir.sync_dir("").unwrap();
    assert_eq!(after_cuts(&world, "a"), BTreeSet::from([None]));
}

#[test]
fn a_journal_keeps_operations_in_order() {
    let options = SimOptions {
        metadata: MetadataModel::Ordered,
        ..SimOptions::default()
    };
    let world = SimWorld::new(options);
    let dir = dir_of(&world);
    for name in ["a", "b", "c"] {
        dir.open(name, Open::Create).unwrap();
    }
    let mut seen = Vec::new();
    let (count, all) = world.each_cut(1000, 0, 0, |cut| seen.push(cut.files().len()));
    seen.sort_unstable();
    assert_eq!((count, all, seen), (4, true, vec![0, 1, 2, 3]));
    assert_eq!(dir.list("").unwrap(), ["a", "b", "c"]);
}

#[test]
fn moving_between_directories_is_durable_once_both_are_synced() {
    let world = world(4096);
    let dir = dir_of(&world);
    for name in ["log", "quarantine"] {
        dir.make_dir(name).unwrap();
    }
    dir.sync_dir("").unwrap();
    dir.write_durably("log/a", b"x").unwrap();
    dir.rename("log/a", "quarantine/a").unwrap();
    dir.sync_dir("quarantine").unwrap();
    let found = after_cuts(&world, "log/a");
    assert_eq!(found, BTreeSet::from([None, Some(b"x".to_vec())]));
    dir.sync_dir("log").unwrap();
    assert_eq!(
        after_cuts(&world, "quarantine/a"),
        BTreeSet::from([Some(b"x".to_vec())])
    );
    // A durable name brings along what had to happen before it could be made.
    dir.rename("quarantine/a", "log/a").unwrap();
    dir.open("quarantine/a", Open::Create).unwrap();
    dir.sync_dir("quarantine").unwrap();
    assert_eq!(
        after_cuts(&world, "log/a"),
        BTreeSet::from([Some(b"x".to_vec())])
    );
}

#[test]
fn a_failed_sync_is_told_once_per_open_file_and_the_cache_lies() {
    let world = world(4096);
    let dir = dir_of(&world);
    let first = durable_file(&dir, "a", b"old");
    let second = dir.open("a", Open::Write).unwrap();
    first.write_all_at(b"new", 0).unwrap();
    world.plan_fault(FaultPlan {
        nth_call: 1,
        error: Fault::Errno(libc::EIO),
        sticky: false,
    });
    assert_eq!(first.sync().unwrap_err().errno(), Some(libc::EIO));
    assert_eq!(world.faults_hit(), 1);
    assert!(
        fault_sites()
            .keys()
            .any(|site| site.file.ends_with("sim/tests.rs"))
    );
    first
        .sync()
        .expect("told already, and nothing is dirty any more");
    let third = dir.open("a", Open::Write).unwrap();
    third.sync().expect("opened after the failure");
    assert_eq!(second.sync().unwrap_err().errno(), Some(libc::EIO));
    second.sync().expect("told already");
    let mut bytes = [0; 3];
    first.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new");
    assert!(after_cuts(&world, "a").contains(&Some(b"old".to_vec())));
    world.drop_caches();
    assert_eq!(world.read_file("a").unwrap(), b"old");
    first.write_all_at(b"new", 0).unwrap();
    first.sync().unwrap();
    assert_eq!(
        after_cuts(&world, "a"),
        BTreeSet::from([Some(b"new".to_vec())])
    );
}

#[test]
fn a_full_disk_refuses_and_gives_space_back() {
    let options = SimOptions {
        unit: 512,
        capacity: Some(4096),
        ..SimOptions::default()
    };
    let world = SimWorld::new(options);
    let dir = dir_of(&world);
    let file = dir.open("a", Open::Create).unwrap();
    file.allocate(2048).unwrap();
    assert_eq!(file.allocate(8192).unwrap_err().code(), Code::Full);
    let other = dir.open("b", Open::Create).unwrap();
    let error = other.write_all_at(&[1; 4096], 0).unwrap_err();
    assert_eq!((error.code(), error.position()), (Code::Full, Some(2048)));
    assert_eq!(other.stat().unwrap().allocated, 2048);
    file.write_all_at(&[1; 2048], 0)
        .expect("reserved space can be written");
    dir.unlink("b").unwrap();
    assert!(
        file.write_all_at(&[1; 512], 2048).is_err(),
        "still open, so still there"
    );
    drop(other);
    file.write_all_at(&[1; 512], 2048).unwrap();
}

#[test]
fn faults_hit_the_planned_call_and_sticky_ones_all_later() {
    let world = world(4096);
    let dir = dir_of(&world);
    let file = durable_file(&dir, "a", b"x");
    world.plan_fault(FaultPlan {
        nth_call: 2,
        error: Fault::Errno(libc::EIO),
        sticky: false,
    });
    file.stat().unwrap();
    assert!(file.stat().is_err());
    file.stat().unwrap();
    let full = Fault::Errno(libc::ENOSPC);
    world.plan_fault(FaultPlan {
        nth_call: 1,
        error: full,
        sticky: true,
    });
    let mut byte = [0];
    file.read_at(&mut byte, 0).expect("reading needs no space");
    assert_eq!(file.write_all_at(b"y", 0).unwrap_err().code(), Code::Full);
    assert_eq!(file.write_all_at(b"y", 0).unwrap_err().code(), Code::Full);
    world.plan_fault(FaultPlan {
        nth_call: 1,
        error: Fault::Short,
        sticky: true,
    });
    file.write_all_at(b"hello world", 0)
        .expect("short writes are gone on with");
    let mut bytes = [0; 20];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 11);
    assert_eq!(&bytes[..11], b"hello world");
    world.clear_fault();
    world.plan_fault(FaultPlan {
        nth_call: 1,
        error: Fault::Errno(libc::EINTR),
        sticky: true,
    });
    file.sync()
        .expect("interruptions are retried below the seam");
}

#[test]
fn a_member_is_killed_before_each_of_its_disk_calls() {
    let write = |world: &SimWorld| {
        let process = world.process();
        Dir::new(process.disk())
            .write_durably("a", b"text")
            .unwrap();
    };
    run_member(Fate::lives(), || write(&world(4096))).unwrap();
    let points = points_used();
    assert_eq!(
        points, 6,
        "unlink, create, write, sync, rename, directory sync"
    );
    for kill_at in 1..=points {
        let world = world(4096);
        assert_eq!(
            run_member(Fate::dies_at(kill_at), || write(&world)),
            Err(Killed)
        );
        // The rename is the fifth call: whoever is killed before it leaves no file.
        assert_eq!(
            world.read_file("a").is_some(),
            kill_at > 5,
            "point {kill_at}"
        );
    }
}

#[test]
fn a_killed_process_frees_its_bytes_and_leaves_its_shared_memory() {
    let world = world(4096);
    let (first, second) = (world.process(), world.process());
    let (host, other) = (first.host(), second.host());
    host.open_lock(true).unwrap();
    other.open_lock(false).unwrap();
    assert!(host.try_lock_byte(16).unwrap());
    assert!(!other.try_lock_byte(16).unwrap());
    assert_eq!(host.probe_byte(16).unwrap(), Probe::Free);
    assert_eq!(other.probe_byte(16).unwrap(), Probe::Held);
    let arena = host.create_map("ctl", 8192).unwrap();
    let (seen, stat) = other.open_map("ctl").unwrap();
    arena.store(8, 5);
    assert_eq!((seen.load(8), stat.len), (5, 8192));
    first.kill();
    assert!(!first.is_alive());
    assert_eq!(other.probe_byte(16).unwrap(), Probe::Free);
    assert!(other.try_lock_byte(16).unwrap());
    assert_eq!(seen.load(8), 5);
    let dead = Dir::new(first.disk()).list("").unwrap_err();
    assert_eq!(dead.errno(), Some(libc::ESHUTDOWN));
}

#[test]
fn a_host_that_is_dropped_gives_its_bytes_back_and_two_in_one_process_differ() {
    let world = world(4096);
    let process = world.process();
    let (first, second) = (process.host(), process.host());
    first.open_lock(true).unwrap();
    second.open_lock(false).unwrap();
    assert!(first.try_lock_byte(1).unwrap());
    assert_eq!(second.probe_byte(1).unwrap(), Probe::Held);
    drop(first);
    assert_eq!(second.probe_byte(1).unwrap(), Probe::Free);
}

#[test]
fn a_power_cut_makes_a_new_boot_and_leaves_anything_in_shared_memory() {
    let mut fates = BTreeSet::new();
    for seed in 0..200 {
        let world = SimWorld::new(SimOptions {
            seed,
            ..SimOptions::default()
        });
        let process = world.process();
        let host: std::sync::Arc<dyn Host> = process.host();
        let arena = host.create_map("ctl", 8192).unwrap();
        Dir::new(process.disk()).sync_dir("").unwrap();
        arena.store(0, 1);
        arena.store(4096, 1);
        let cut = world.power_cut(seed);
        let after = cut.process().host();
        assert_ne!(after.boot_id(), host.boot_id());
        assert!(after.boottime_ms() < host.boottime_ms());
        assert!(after.realtime_ms() > host.realtime_ms());
        let words = [0, 4096].map(|at| cut.map_word("ctl", at));
        fates.insert((cut.read_file("ctl").map(|bytes| bytes.len()), words));
    }
    let whole = |a, b| (Some(8192), [Some(a), Some(b)]);
    let expected = [
        (None, [None, None]),
        (Some(0), [None, None]),
        whole(0, 0),
        whole(1, 1),
        whole(0, 1),
        whole(1, 0),
    ];
    assert_eq!(fates, BTreeSet::from(expected));
}

#[test]
fn a_copy_of_the_machine_is_independent_and_empty_of_processes() {
    let world = world(4096);
    let process = world.process();
    let (dir, host) = (Dir::new(process.disk()), process.host());
    host.open_lock(true).unwrap();
    assert!(host.try_lock_byte(16).unwrap());
    let arena = host.create_map("ctl", 4096).unwrap();
    let file = dir.open("a", Open::Create).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    arena.store(8, 1);
    let copy = world.fork();
    file.write_all_at(b"two", 0).unwrap();
    arena.store(8, 2);
    assert_eq!(copy.read_file("a").unwrap(), b"one");
    assert_eq!(copy.map_word("ctl", 8), Some(1));
    let other = copy.process().host();
    other.open_lock(false).unwrap();
    assert_eq!(other.probe_byte(16).unwrap(), Probe::Free);
    assert_eq!(other.boot_id(), host.boot_id());
}

#[test]
fn waiting_lets_time_pass_and_a_changed_word_does_not_wait() {
    let world = world(4096);
    let host = world.process().host();
    let arena = host.create_map("ctl", 4096).unwrap();
    arena.store(8, 1 << 32);
    let before = world.boottime_ms();
    host.wait(&arena, 8, 1, Duration::from_millis(40));
    assert_eq!(world.boottime_ms(), before);
    host.wait(&arena, 8, 0, Duration::from_millis(40));
    assert_eq!(world.boottime_ms(), before + 40);
    world.advance(1000);
    assert_eq!(world.boottime_ms(), before + 1040);
}

#[test]
fn files_can_be_damaged_from_outside() {
    let world = world(512);
    let dir = dir_of(&world);
    let file = durable_file(&dir, "a", &[0; 1000]);
    assert!(world.corrupt("a", 700, 0x80));
    assert!(!world.corrupt("a", 1000, 1));
    let mut byte = [0];
    file.read_at(&mut byte, 700).unwrap();
    assert_eq!(byte, [0x80]);
    assert_eq!(world.power_cut(1).read_file("a").unwrap()[700], 0x80);
    assert!(world.truncate("a", 3));
    assert_eq!(file.stat().unwrap().len, 3);
    world.write_file("b", b"placed");
    assert_eq!(world.power_cut(1).read_file("b").unwrap(), b"placed");
    assert!(world.remove("b"));
    assert!(!world.remove("b"));
    let files: Vec<String> = world.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["a"]);
    assert!(!world.set_map_word("a", 0, 1), "not shared memory");
}

#[test]
fn the_same_seed_gives_the_same_machine() {
    let run = |seed: u64| {
        let world = SimWorld::new(SimOptions {
            seed,
            ..SimOptions::default()
        });
        let (dir, host) = (dir_of(&world), world.process().host());
        for i in 0..50 {
            let name = format!("f{}", host.random() % 8);
            let how = if dir.try_stat(&name).unwrap().is_some() {
                Open::Write
            } else {
                Open::Create
            };
            let file = dir.open(&name, how).unwrap();
            file.write_all_at(&host.random().to_le_bytes(), host.random() % 20_000)
                .unwrap();
            if i % 7 == 0 {
                file.sync().unwrap();
                dir.sync_dir("").unwrap();
            }
        }
        let cut = world.power_cut(seed);
        (
            cut.image_hash(),
            cut.files(),
            world.disk_calls(),
            world.boottime_ms(),
        )
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2));
}

#[test]
fn many_cuts_are_drawn_with_both_ends_among_them() {
    let world = world(512);
    let dir = dir_of(&world);
    let file = durable_file(&dir, "a", &[1; 16 * 512]);
    file.write_all_at(&[2; 16 * 512], 0).unwrap();
    assert_eq!(world.dirty_units(), 16);
    let mut seen = BTreeSet::new();
    let (count, all) = world.each_cut(1000, 64, 3, |cut| {
        seen.insert(cut.read_file("a").unwrap());
    });
    assert_eq!((count, all), (64, false));
    assert!(seen.contains(&vec![1; 16 * 512]) && seen.contains(&vec![2; 16 * 512]));
    assert!(seen.len() > 30, "{} different states", seen.len());
}

#[test]
fn each_switch_of_the_disk_takes_its_protection_away() {
    const TEST: &str = "each_switch_of_the_disk_takes_its_protection_away";
    let switches = [
        Break::NoFdatasync,
        Break::EveryThirdFdatasync,
        Break::NoFileSyncBeforeRename,
        Break::NoDirSync,
    ];
    let lossy = || {
        let world = world(512);
        let dir = dir_of(&world);
        (0..3).for_each(|i| dir.write_durably("a", &[i; 512]).unwrap());
        after_cuts(&world, "a") != BTreeSet::from([Some(vec![2; 512])])
    };
    if switches.into_iter().any(broken) {
        assert!(lossy());
        return;
    }
    assert!(!lossy());
    // A switch is in force for the whole process, so each gets one of its own.
    for switch in switches {
        crate::sys::tests::run_alone(module_path!(), TEST, "KEEPQ_BREAK", switch.name());
    }
}

#[test]
fn threads_may_be_members_at_the_same_time() {
    let world = world(4096);
    let dir = dir_of(&world);
    std::thread::scope(|scope| {
        for member in 0..4_u8 {
            let process = world.process();
            scope.spawn(move || {
                let (dir, host) = (Dir::new(process.disk()), process.host());
                host.open_lock(true).unwrap();
                assert!(host.try_lock_byte(u64::from(member)).unwrap());
                let name = format!("f{member}");
                for round in 0..50_u8 {
                    dir.write_durably(&name, &[round; 64]).unwrap();
                }
            });
        }
    });
    assert_eq!(dir.list("").unwrap(), ["LOCK", "f0", "f1", "f2", "f3"]);
    let cut = world.power_cut(1);
    assert!((0..4).all(|member| cut.read_file(&format!("f{member}")).unwrap() == [49; 64]));
}
