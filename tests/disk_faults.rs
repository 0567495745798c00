//! Every disk call that the engine makes is made to fail, in every way such a call can: nothing
//! confirmed is lost by it, nothing refused appears, and the store works again afterwards.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keepq::sim::{Fault, FaultPlan, MetadataModel, SimOptions, SimWorld, Site};
use keepq::sim::{call_sites, fault_sites};

mod support {
    pub mod aimed;
    pub mod examine;
    pub mod oracle;
    pub mod reserve;
    pub mod shape;
    pub mod workload;
}

#[path = "support/history.rs"]
mod history;
#[path = "support/members.rs"]
mod members;
#[path = "support/repairs.rs"]
mod repairs;

use support::aimed::{Aim, Scene, Scenes, Watch};
use support::examine::{Look, examine};
use support::oracle::Ledger;
use support::reserve::{Strike, play};
use support::workload::{Taste, Workload};

/// What calls fail with; EFBIG and EDQUOT stand for their like.
const FAULTS: [Fault; 8] = [
    Fault::Errno(libc::EIO),
    Fault::Errno(libc::ENOSPC),
    Fault::Errno(libc::EDQUOT),
    Fault::Errno(libc::EROFS),
    Fault::Errno(libc::EFBIG),
    Fault::Errno(libc::EMFILE),
    Fault::Errno(libc::EACCES),
    Fault::Short,
];

/// Places that no simulated run reaches, each with the reason.
const REAL_ONLY: [(&str, &str); 0] = [];

fn machine(seed: u64) -> SimWorld {
    SimWorld::new(SimOptions {
        seed,
        metadata: MetadataModel::Unordered,
        ..SimOptions::default()
    })
}

/// What a workload left.
struct End {
    world: SimWorld,
    ledger: Ledger,
    /// The machine after the worst cut, after a drawn one, and after the death of the processes
    /// with a page cache that has forgotten what could not be written.
    left: [SimWorld; 3],
    seen: BTreeSet<Site>,
}

/// A workload with a planned fault and an aimed one.
fn run(seed: u64, plan: Option<FaultPlan>, aim: Option<Aim>) -> End {
    let world = machine(seed);
    let taste = [Taste::Mixed, Taste::Flow, Taste::Heavy][usize::try_from(seed % 3).unwrap()];
    if let Some(plan) = plan {
        world.plan_fault(plan);
    }
    let watch = Watch::start(&world, aim);
    let mut workload = Workload::new(world.clone(), Ledger::default(), seed, taste);
    workload.prepare();
    workload.run(60);
    let seen = watch.end();
    world.clear_fault();
    workload.ledger.borrow_mut().reach(world.watermark());
    let ledger = workload.ledger.borrow().clone();
    let left = [
        world.power_cut_with(|_| 1),
        world.power_cut(seed),
        world.fork(),
    ];
    left[2].drop_caches();
    End {
        world,
        ledger,
        left,
        seen,
    }
}

/// Examines a machine; returns what contradicts the promises and which places were come to.
fn look_at(machine: &SimWorld, ledger: &Ledger, seed: u64) -> (Vec<String>, BTreeSet<Site>) {
    let watch = Watch::start(machine, None);
    let outcome = examine(machine, ledger, Look { twice: false, seed });
    let seen = watch.end();
    (ledger.judge(&outcome).into_iter().take(5).collect(), seen)
}

/// Judges every end of a workload with faults.
fn judge_run((seed, plan, aim): (u64, FaultPlan, Option<Aim>), scenes: &mut Scenes) -> bool {
    let end = run(seed, Some(plan), aim);
    let hit = end.world.faults_hit() > 0;
    for (i, machine) in end.left.iter().enumerate() {
        let ledger = if i == 2 {
            end.ledger.clone().all_safe()
        } else {
            end.ledger.clone()
        };
        let (wrong, seen) = look_at(machine, &ledger, seed);
        assert!(
            wrong.is_empty(),
            "seed {seed}, {plan:?}, {aim:?}, end {i}: {wrong:#?}"
        );
        if aim.is_none() {
            scenes.note(seen, Scene::Left(seed, Some(plan), i));
        }
    }
    if aim.is_none() {
        scenes.note(end.seen, Scene::Run(seed, Some(plan)));
    }
    hit
}

/// Opens a store, and does everything with it that takes no message out.
fn visit(machine: &SimWorld) {
    let process = machine.process();
    let options = support::examine::options(keepq::Flush::Sync);
    let opened = keepq::Store::open_simulated(&process, options);
    if let Ok(store) = &opened {
        let _ = store.verify();
        let _ = store.stats();
        let _ = store.maintain();
        let _ = store.close();
    }
    drop(opened);
    process.kill();
}

/// A visit with a fault; returns the machine after a cut and after the death of the process.
fn faulty_visit(at: &SimWorld, plan: Option<FaultPlan>, aim: Option<Aim>) -> ([SimWorld; 2], u64) {
    let machine = at.fork();
    let before = machine.faults_hit();
    if let Some(plan) = plan {
        machine.plan_fault(plan);
    }
    let watch = Watch::start(&machine, aim);
    visit(&machine);
    drop(watch);
    machine.clear_fault();
    let hit = machine.faults_hit() - before;
    ([machine.power_cut_with(|_| 1), machine], hit)
}

/// A fault at a call of a recovery: it may fail, and the next one succeeds.
fn judge_visit(
    (seed, plan, aim): (u64, Option<FaultPlan>, Option<Aim>),
    at: &SimWorld,
    ledger: &Ledger,
    scenes: &mut Scenes,
) -> bool {
    let (left, hit) = faulty_visit(at, plan, aim);
    for (i, machine) in left.iter().enumerate() {
        let (wrong, seen) = look_at(machine, ledger, seed);
        assert!(
            wrong.is_empty(),
            "seed {seed}, recovery, {plan:?}, {aim:?}, end {i}: {wrong:#?}"
        );
        if let (Some(plan), None) = (plan, aim) {
            scenes.note(seen, Scene::Again(seed, plan, i));
        }
    }
    hit > 0
}

/// Plays a scene again and lets the aimed call fail.
fn judge_scene(scene: Scene, aim: Aim, scenes: &mut Scenes) {
    // A plan that never comes, for the scene of a workload without a fault.
    let never = FaultPlan {
        nth_call: u64::MAX,
        error: Fault::Short,
        sticky: false,
    };
    match scene {
        Scene::Run(seed, plan) => {
            judge_run((seed, plan.unwrap_or(never), Some(aim)), scenes);
        }
        Scene::Left(seed, plan, i) => {
            let end = run(seed, plan, None);
            judge_visit((seed, None, Some(aim)), &end.left[i], &end.ledger, scenes);
        }
        Scene::Again(seed, plan, i) => {
            let end = run(seed, None, None);
            let (left, _) = faulty_visit(&end.left[1], Some(plan), None);
            judge_visit((seed, None, Some(aim)), &left[i], &end.ledger, scenes);
        }
    }
}

/// Aims every kind of fault at every place that was called and that no fault has struck.
fn strike_the_rest(scenes: &mut Scenes) -> u64 {
    let mut runs = 0;
    for site in call_sites().into_keys() {
        if fault_sites().contains_key(&site) {
            continue;
        }
        for scene in scenes.of(site).to_vec() {
            let errors = FAULTS.into_iter().filter(|e| e.applies_to(site.kind));
            for (i, error) in errors.enumerate() {
                let sticky = i % 2 == 1;
                let aim = Aim {
                    site,
                    error,
                    sticky,
                };
                judge_scene(scene, aim, scenes);
                runs += 1;
                if !fault_sites().contains_key(&site) {
                    // This scene came there by a call that only the examination makes.
                    break;
                }
            }
            if fault_sites().contains_key(&site) {
                break;
            }
        }
    }
    runs
}

/// Faults while the reserve is in use, which takes a disk that is full and gets room again.
fn strike_at_the_reserve() {
    for strike in [Strike::Back, Strike::Overtaken] {
        for error in [libc::EIO, libc::EROFS, libc::EACCES].map(Fault::Errno) {
            let (left, ledger, struck) = play(7, strike, error).unwrap();
            assert!(struck, "{strike:?}");
            for (i, machine) in left.iter().enumerate() {
                let (wrong, _) = look_at(machine, &ledger, 7);
                assert!(
                    wrong.is_empty(),
                    "{strike:?}, {error:?}, end {i}: {wrong:#?}"
                );
            }
        }
    }
}

/// Faults while a recovery puts a file away that is no part of the log: with its bytes it is in
/// the quarantine in the end, and nothing else is gone.
fn strike_at_the_quarantine() {
    let end = run(0, None, None);
    let machine = end.left[1].fork();
    let strange = "000000ff.0.seg";
    let bytes = [0xa5; 4096];
    machine.write_file(&format!("log/{strange}"), &bytes);
    let calls = {
        let counted = machine.fork();
        let before = counted.disk_calls();
        visit(&counted);
        counted.disk_calls() - before
    };
    for plan in (1..=calls).flat_map(plans) {
        let (left, _) = faulty_visit(&machine, Some(plan), None);
        for (i, machine) in left.iter().enumerate() {
            let (mut wrong, _) = look_at(machine, &end.ledger, 0);
            wrong.retain(|text| !text.starts_with("damage reported"));
            assert!(wrong.is_empty(), "{plan:?}, end {i}: {wrong:#?}");
            let files = machine.files();
            let kept: Vec<_> = files.iter().filter(|(p, _)| p.contains(strange)).collect();
            let whole =
                kept.len() == 1 && kept[0].0.starts_with("quarantine/") && kept[0].1 == bytes;
            assert!(whole, "{plan:?}, end {i}: {:?}", kept.first().map(|k| &k.0));
        }
    }
}

/// Faults while a consumer finds out that the whole store was deleted: it gets an error each time,
/// and the right one when it could look.
fn strike_at_a_store_that_is_gone() {
    let receive = |plan: Option<FaultPlan>| {
        let world = machine(0);
        let process = world.process();
        let options = support::examine::options(keepq::Flush::Sync);
        let store = keepq::Store::open_simulated(&process, options).unwrap();
        store
            .topic("t")
            .unwrap()
            .send(b"gone with the rest")
            .unwrap();
        let group = store.group("t", "g").open().unwrap();
        for (file, _) in world.files() {
            assert!(world.remove(&file));
        }
        let before = world.disk_calls();
        if let Some(plan) = plan {
            world.plan_fault(plan);
        }
        let got = group
            .receive(std::time::Duration::ZERO)
            .map(|d| d.is_some());
        let calls = world.disk_calls() - before;
        world.clear_fault();
        process.kill();
        (got.unwrap_err(), calls)
    };
    let (e, calls) = receive(None);
    assert_eq!(e.code(), keepq::Code::StoreGone, "{e}");
    for plan in (1..=calls).flat_map(plans) {
        let (e, _) = receive(Some(plan));
        // Where the look at SUPER failed, only the missing segment is told of.
        use keepq::Code::{Corrupt, Full, Storage, StoreGone};
        let told = [StoreGone, Storage, Full, Corrupt];
        assert!(told.contains(&e.code()), "{plan:?}: {e:?}");
    }
}

/// The lines of the engine's sources that call the disk.
fn places_in_source() -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = vec![root.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["sim", "sys", "tests"].contains(&name.as_str()) {
                    dirs.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let file = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                for line in places_in(&text) {
                    found.insert((file.clone(), line));
                }
            }
        }
    }
    found
}

fn places_in(text: &str) -> Vec<u32> {
    const ALWAYS: [&str; 10] = [
        ".rename(",
        ".unlink(",
        ".unlink_if_there(",
        ".make_dir(",
        ".sync_dir(",
        ".try_stat(",
        ".read_small(",
        ".write_durably(",
        ".write_all_at(",
        ".read_at(",
    ];
    // These names are common: the receiver must be a directory or a file.
    const ON_DISK: [&str; 5] = [".open(", ".list(", ".stat(", ".sync()", ".allocate("];
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tests = lines
        .iter()
        .position(|l| *l == "#[cfg(test)]")
        .unwrap_or(lines.len());
    let mut found = Vec::new();
    for (i, line) in lines[..tests].iter().enumerate() {
        if line.starts_with("//") {
            continue;
        }
        let before = if line.starts_with('.') && i > 0 {
            lines[i - 1]
        } else {
            ""
        };
        let on_disk = |call: &str| {
            let Some(at) = line.find(call) else {
                return false;
            };
            let receiver = format!("{before}{}", &line[..at]);
            ["dir", "handle", "file"]
                .iter()
                .any(|name| receiver.ends_with(name))
        };
        if ALWAYS.iter().any(|call| line.contains(call)) || ON_DISK.iter().any(|c| on_disk(c)) {
            found.push(u32::try_from(i + 1).unwrap());
        }
    }
    found
}

/// Over the calls, each kind of fault comes once and for ever.
fn plans(nth_call: u64) -> impl Iterator<Item = FaultPlan> {
    FAULTS
        .into_iter()
        .zip(nth_call..)
        .map(move |(error, turn)| FaultPlan {
            nth_call,
            error,
            sticky: turn % 2 == 0,
        })
}

/// Faults at the calls of the workload and of a recovery; returns the runs and those struck.
fn sweep(seed: u64, scenes: &mut Scenes) -> (u64, u64) {
    let (mut runs, mut hit) = (0, 0);
    let mut count = |struck| {
        runs += 1;
        hit += u64::from(struck);
    };
    let end = run(seed, None, None);
    scenes.note(end.seen, Scene::Run(seed, None));
    let calls = end.world.disk_calls();
    // The first calls make the store: each of them; of the others, a part.
    for nth_call in (1..=calls.min(90)).chain((91..=calls).step_by(17)) {
        for plan in plans(nth_call) {
            count(judge_run((seed, plan, None), scenes));
        }
    }
    let recovered = end.left[1].fork();
    let before = recovered.disk_calls();
    let (wrong, seen) = look_at(&recovered, &end.ledger, seed);
    assert_eq!(wrong, Vec::<String>::new());
    scenes.note(seen, Scene::Left(seed, None, 1));
    let calls = (recovered.disk_calls() - before).min(160);
    for plan in (1..=calls).step_by(3).flat_map(plans) {
        count(judge_visit(
            (seed, Some(plan), None),
            &end.left[1],
            &end.ledger,
            scenes,
        ));
    }
    (runs, hit)
}

/// Faults while somebody only looks at a store that others use: an error, and nothing else.
fn strike_at_those_who_look() {
    let world = machine(0);
    let options = support::examine::options(keepq::Flush::Sync);
    let process = world.process();
    let store = keepq::Store::open_simulated(&process, options.clone()).unwrap();
    store.topic("t").unwrap().send(b"seen").unwrap();
    let looking = options.read_only(true);
    let looking = keepq::Store::open_simulated(&world.process(), looking).unwrap();
    let before = world.disk_calls();
    looking.stats().unwrap();
    let calls = world.disk_calls() - before;
    let mut failed = 0;
    for plan in (1..=calls).flat_map(plans) {
        world.plan_fault(plan);
        let stats = looking.stats();
        world.clear_fault();
        failed += u64::from(stats.is_err());
        assert_eq!(looking.stats().unwrap().topics.len(), 1);
    }
    assert!(
        failed >= calls && calls > 0,
        "{failed} of {calls} calls failed"
    );
    store.topic("t").unwrap().send(b"seen too").unwrap();
    let topic = looking.topic("t").unwrap();
    assert_eq!(topic.browse().filter(|m| m.is_ok()).count(), 2);
    process.kill();
}

/// Faults while a store is made, and opened again from the log, whose shared memory is named in
/// RUNTIME: what was confirmed is there afterwards.
fn strike_at_the_runtime_directory() {
    let options = || {
        let options = support::examine::options(keepq::Flush::Sync);
        options.runtime_dir("/elsewhere".into())
    };
    let open = |world: &SimWorld| keepq::Store::open_simulated(&world.process(), options());
    let live = |world: &SimWorld| -> keepq::Result<()> {
        let store = open(world)?;
        store.topic("t")?.send(b"confirmed")?;
        store.close()?;
        let _ = world.remove("ctl");
        open(world)?.close()
    };
    let world = machine(0);
    live(&world).unwrap();
    assert!(world.read_file("RUNTIME").is_some());
    for plan in (1..=world.disk_calls()).flat_map(plans) {
        let world = machine(0);
        world.plan_fault(plan);
        let lived = live(&world);
        world.clear_fault();
        world.kill_all();
        for world in [world.power_cut_with(|_| 1), world] {
            let store = open(&world).unwrap();
            let there = store.topic("t").unwrap().browse().count();
            assert!(there == 1 || lived.is_err(), "{plan:?}: {lived:?}");
            store.close().unwrap();
        }
    }
}

#[test]
fn every_disk_call_may_fail() {
    repairs::strike_at_repairs();
    strike_at_the_reserve();
    strike_at_the_quarantine();
    strike_at_a_store_that_is_gone();
    strike_at_those_who_look();
    strike_at_the_runtime_directory();
    let mut scenes = Scenes::default();
    let (mut runs, mut hit) = (0, 0);
    for seed in 0..3 {
        let (some_runs, some_hit) = sweep(seed, &mut scenes);
        runs += some_runs;
        hit += some_hit;
    }
    println!("{runs} runs with a planned fault, {hit} of them struck");
    let aimed = strike_the_rest(&mut scenes);
    println!("{aimed} runs with an aimed fault");
    let lines = |sites: BTreeMap<Site, u64>| -> BTreeSet<(String, u32)> {
        let line = |site: Site| (site.file.to_owned(), site.line);
        sites.into_keys().map(line).collect()
    };
    let (faulted, called) = (lines(fault_sites()), lines(call_sites()));
    let spared: Vec<String> = call_sites()
        .keys()
        .filter(|site| !fault_sites().contains_key(site))
        .map(|site| format!("{site} {:?}", scenes.of(*site)))
        .collect();
    let places = places_in_source();
    let excused = |place: &(String, u32)| REAL_ONLY.iter().any(|(at, _)| place.0.ends_with(at));
    let missed: Vec<_> = places
        .iter()
        .filter(|p| !faulted.contains(p) && !excused(p))
        .collect();
    let never: Vec<_> = missed.iter().filter(|p| !called.contains(**p)).collect();
    println!(
        "Disk call sites hit: {} / {}; primitives at them: {} / {}",
        places.len() - missed.len(),
        places.len(),
        fault_sites().len(),
        call_sites().len()
    );
    assert!(
        missed.is_empty() && spared.is_empty(),
        "never failed: {missed:?}; never called: {never:?}; spared: {spared:#?}"
    );
}

/// What is not durable is read from the ring, also when it was written to a file already: after a
/// failed sync the file may have forgotten it.
#[test]
fn what_could_not_be_flushed_is_still_delivered_whole() {
    let world = machine(0);
    let process = world.process();
    let options = support::examine::options(keepq::Flush::Async);
    let store = keepq::Store::open_simulated(&process, options).unwrap();
    let topic = store.topic("t").unwrap();
    let group = store.group("t", "g").open().unwrap();
    store.flush(None).unwrap();
    topic.send(b"in the ring").unwrap();
    // The write succeeds; the sync fails, and so does everything that could mend it.
    world.plan_fault(FaultPlan {
        nth_call: 2,
        error: Fault::Errno(libc::EIO),
        sticky: true,
    });
    assert!(store.flush(None).is_err());
    world.clear_fault();
    world.drop_caches();
    let got = group.receive(std::time::Duration::ZERO).unwrap().unwrap();
    assert_eq!(got.body(), b"in the ring");
    process.kill();
}
