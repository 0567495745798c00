//! Power cuts, and deaths of all processes, at every disk call of whole workloads, and again
//! within the recoveries: whatever was confirmed is there once, nothing else is.
//!
//! Every line of a failure names the seed, the machine and the call to come back to it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use keepq::sim::{
    Fate, Fault, FaultPlan, MetadataModel, Rng, SimOptions, SimWorld, calls_announced, points_used,
    run_member, set_point_hook,
};

mod support {
    pub mod examine;
    pub mod judges;
    pub mod oracle;
    pub mod shape;
    pub mod workload;
}

use support::examine::{Look, examine};
use support::judges::{Case, Judges};
use support::oracle::Ledger;
use support::workload::{Counts, Taste, Workload};

/// Power cuts looked at for each disk call, where there are too many for all.
const SAMPLES: usize = 8;
/// Steps of each workload.
const STEPS: usize = 45;
/// Up to so many different cuts at one call, all are looked at.
const ALL_UP_TO: usize = 12;
/// Every so-and-so many cases are looked at twice: recovered, cut again, recovered again.
const TWICE: u64 = 24;
/// Histories on a disk that is full now and then, and steps of each.
const HISTORIES: u64 = 16;
const LONG: usize = 160;
/// One of so many disk calls is looked at: a call that waits for room asks the disk again and
/// again.
const ONE_OF: u64 = 1_000;
/// While there are acks that the log has no room for, one of so many.
const ONE_OF_UNNOTED: u64 = 180;
/// So many cuts at a call.
const FEW: usize = 4;

fn machine(seed: u64, unit: usize, metadata: MetadataModel) -> SimWorld {
    SimWorld::new(SimOptions {
        seed,
        unit,
        metadata,
        ..SimOptions::default()
    })
}

/// Looks at every disk call of a workload from `from` on.
struct Sweep {
    world: SimWorld,
    ledger: Rc<RefCell<Ledger>>,
    judges: Rc<Judges>,
    rng: Rng,
    name: String,
    last: (u64, u64),
    /// Looks only at calls after a planned fault has struck, and at so many of them.
    after_fault: Option<u64>,
    /// Looks at one of so many calls, and at so many cuts there.
    sparse: Option<(u64, usize)>,
    /// How many calls it looked at.
    looked: u64,
}

impl Sweep {
    /// At a kill point: right before a disk call, looks at what a crash here would leave.
    fn point(&mut self) {
        let now = (calls_announced(), self.world.disk_calls());
        if now == self.last || self.judges.failed() {
            return;
        }
        self.last = now;
        if let Some(left) = &mut self.after_fault {
            if self.world.faults_hit() == 0 || *left == 0 {
                return;
            }
            *left -= 1;
        }
        if self.sparse.is_some_and(|(of, _)| self.rng.below(of) != 0) {
            return;
        }
        self.looked += 1;
        self.ledger.borrow_mut().reach(self.world.watermark());
        let ledger = Arc::new(self.ledger.borrow().clone());
        self.cuts(&ledger, now.1);
        self.kills(&ledger, now.1);
    }

    fn look(&mut self) -> Look {
        Look {
            twice: self.rng.below(TWICE) == 0,
            seed: self.rng.next_u64(),
        }
    }

    fn cuts(&mut self, ledger: &Arc<Ledger>, call: u64) {
        let seed = self.rng.next_u64();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let (all, samples) = self.sparse.map_or((ALL_UP_TO, SAMPLES), |(_, n)| (n, n));
        self.world.each_cut(all, samples, seed, |cut| {
            if seen.insert(self.judges.count(&cut)) {
                found.push(cut);
            }
        });
        for (i, world) in found.into_iter().enumerate() {
            let look = self.look();
            self.judges.submit(Case {
                world,
                ledger: Arc::clone(ledger),
                killed: false,
                look,
                label: format!("{}, disk call {call}, cut {i}", self.name),
            });
        }
    }

    /// The death of all processes: nothing that returned is lost, as long as shared memory is
    /// there; without it, what was durable.
    fn kills(&mut self, ledger: &Arc<Ledger>, call: u64) {
        if self.rng.below(3) != 0 {
            return;
        }
        let world = self.world.fork();
        let label = format!("{}, disk call {call}, all killed", self.name);
        let killed = self.rng.below(2) == 0;
        let label = if killed {
            label
        } else {
            world.remove("ctl");
            format!("{label}, ctl removed")
        };
        self.judges.count(&world);
        let look = Look {
            twice: self.rng.below(4) == 0,
            seed: self.rng.next_u64(),
        };
        self.judges.submit(Case {
            world,
            ledger: Arc::clone(ledger),
            killed,
            look,
            label,
        });
    }
}

/// Runs a workload and looks at every disk call of it.
fn sweep(judges: &Rc<Judges>, world: SimWorld, name: &str, (seed, taste, steps): Run) {
    sweep_faulty(judges, world, name, (seed, taste, steps), None);
}

type Run = (u64, Taste, usize);

fn sweep_faulty(
    judges: &Rc<Judges>,
    world: SimWorld,
    name: &str,
    (seed, taste, steps): Run,
    after_fault: Option<u64>,
) {
    let mut workload = Workload::new(world.clone(), Ledger::default(), seed, taste);
    let mut sweep = Sweep {
        world,
        ledger: Rc::clone(&workload.ledger),
        judges: Rc::clone(judges),
        rng: Rng::new(seed ^ 0x5eed),
        name: format!("{name}, seed {seed}, {taste:?}"),
        last: (0, 0),
        after_fault,
        sparse: None,
        looked: 0,
    };
    set_point_hook(Some(Box::new(move || sweep.point())));
    workload.prepare();
    workload.run(steps);
    set_point_hook(None);
    let problems = workload.ledger.borrow().problems.clone();
    assert!(
        problems.is_empty(),
        "{name}, seed {seed}, {taste:?}: {problems:?}"
    );
}

fn finish(judges: Rc<Judges>, what: &str, least: u64) {
    let judges = Rc::into_inner(judges).expect("no hook is left");
    let states = judges.finish(what);
    assert!(states >= least, "{states} crash states are too few");
}

fn all_tastes(unit: usize, metadata: MetadataModel, seed: u64, least: u64) {
    let judges = Rc::new(Judges::new());
    let name = format!("units of {unit}, {metadata:?}");
    for (i, taste) in [Taste::Mixed, Taste::Flow, Taste::Heavy]
        .into_iter()
        .enumerate()
    {
        let seed = seed + i as u64;
        sweep(
            &judges,
            machine(seed, unit, metadata),
            &name,
            (seed, taste, STEPS),
        );
    }
    finish(judges, &name, least);
}

#[test]
fn cut_at_every_call_with_sectors_in_any_order() {
    all_tastes(512, MetadataModel::Unordered, 100, 2_000);
}

#[test]
fn cut_at_every_call_with_sectors_and_a_journal() {
    all_tastes(512, MetadataModel::Ordered, 200, 2_000);
}

#[test]
fn cut_at_every_call_with_torn_pages_in_any_order() {
    all_tastes(4096, MetadataModel::Unordered, 300, 2_000);
}

#[test]
fn cut_at_every_call_with_torn_pages_and_a_journal() {
    all_tastes(4096, MetadataModel::Ordered, 400, 2_000);
}

#[test]
fn cut_at_every_call_after_a_failed_sync() {
    let judges = Rc::new(Judges::new());
    for round in 0..16 {
        let seed = 500 + round;
        let world = machine(seed, 4096, MetadataModel::Unordered);
        world.plan_fault(FaultPlan {
            nth_call: 60 + round * 11,
            error: Fault::Errno(libc::EIO),
            sticky: round % 8 == 7,
        });
        let run = (seed, Taste::Mixed, 30);
        sweep_faulty(&judges, world, "after a fault", run, Some(12));
    }
    finish(judges, "after a failed call", 200);
}

/// One machine through many lives: worked on, crashed anywhere, recovered, worked on.
fn lives(
    seed: u64,
    count: usize,
    tastes: &[Taste],
    tally: &mut (u64, HashSet<u64>),
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let unit = [512, 4096][rng.index(2)];
    let metadata = [MetadataModel::Unordered, MetadataModel::Ordered][rng.index(2)];
    let taste = tastes[rng.index(tastes.len())];
    let mut world = machine(seed, unit, metadata);
    let mut ledger = Ledger::default();
    for life in 0..count {
        let end = 400 + rng.below(16_000);
        let mut workload = Workload::new(world, ledger, rng.next_u64(), taste);
        let died = run_member(Fate::dies_at(end), || {
            workload.prepare();
            workload.run(50);
        });
        let at = points_used();
        workload.kill_all();
        workload
            .ledger
            .borrow_mut()
            .reach(workload.world.watermark());
        ledger = workload.ledger.borrow().clone();
        let killed = rng.below(4) == 0;
        let known = if killed {
            ledger.clone().all_safe()
        } else {
            ledger.clone()
        };
        let fate = rng.next_u64();
        world = if killed {
            workload.world.fork()
        } else {
            workload.world.power_cut(fate)
        };
        drop(workload);
        tally.0 += 1;
        tally.1.insert(world.image_hash());
        let look = Look {
            twice: rng.below(8) == 0,
            seed: rng.next_u64(),
        };
        let outcome = examine(&world.fork(), &ledger, look);
        let wrong = known.judge(&outcome);
        if !wrong.is_empty() {
            let shown: Vec<_> = wrong.iter().take(6).collect();
            return Err(format!(
                "seed {seed}, life {life}, {died:?} at point {at}, killed only {killed}: {shown:#?}"
            ));
        }
        if !killed {
            // What is undone is undone.
            ledger.all_noted();
        }
        ledger.resolve(&outcome);
    }
    Ok(())
}

#[test]
fn many_lives_keep_every_promise_and_never_use_a_number_twice() {
    let mut tally = (0, HashSet::new());
    let tastes = [Taste::Mixed, Taste::Flow, Taste::Heavy];
    for seed in 0..60 {
        if let Err(wrong) = lives(seed, 4, &tastes, &mut tally) {
            panic!("{wrong}");
        }
    }
    let (states, images) = (tally.0, tally.1.len());
    println!("many lives: {states} crash states, {images} distinct images");
}

#[test]
fn cut_anywhere_on_a_disk_that_is_full_now_and_then() {
    let judges = Rc::new(Judges::new());
    let (mut counts, unnoted) = (Counts::default(), Rc::new(RefCell::new(0)));
    for seed in 600..600 + HISTORIES {
        let unit = [512, 4096][usize::from(seed % 2 == 0)];
        let metadata =
            [MetadataModel::Unordered, MetadataModel::Ordered][usize::from(seed % 4 < 2)];
        let world = machine(seed, unit, metadata);
        let mut workload = Workload::new(world.clone(), Ledger::default(), seed, Taste::Full);
        let mut sweep = Sweep {
            world: world.clone(),
            ledger: Rc::clone(&workload.ledger),
            judges: Rc::clone(&judges),
            rng: Rng::new(seed ^ 0x5eed),
            name: format!("full now and then, seed {seed}, units of {unit}, {metadata:?}"),
            last: (0, 0),
            after_fault: None,
            sparse: None,
            looked: 0,
        };
        workload.prepare();
        let seen = Rc::clone(&unnoted);
        set_point_hook(Some(Box::new(move || {
            let is_unnoted = world.may_have_unnoted_acks();
            let of = if is_unnoted { ONE_OF_UNNOTED } else { ONE_OF };
            sweep.sparse = Some((of, FEW));
            let before = sweep.looked;
            sweep.point();
            *seen.borrow_mut() += u64::from(is_unnoted && sweep.looked > before);
        })));
        workload.run(LONG);
        set_point_hook(None);
        let problems = workload.ledger.borrow().problems.clone();
        assert!(problems.is_empty(), "seed {seed}: {problems:?}");
        counts.add(workload.counts);
    }
    println!(
        "{counts:?}, {} calls with acks in shared memory",
        unnoted.borrow()
    );
    finish(judges, "full now and then", 300);
}

#[test]
fn many_lives_on_a_disk_that_is_full_now_and_then() {
    let mut tally = (0, HashSet::new());
    for seed in 1_000..1_016 {
        if let Err(wrong) = lives(seed, 4, &[Taste::Full], &mut tally) {
            panic!("{wrong}");
        }
    }
    println!("many lives: {} crash states", tally.0);
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    let run = |seed: u64, taste: Taste| {
        let world = machine(seed, 4096, MetadataModel::Unordered);
        let mut workload = Workload::new(world.clone(), Ledger::default(), seed, taste);
        workload.prepare();
        workload.run(80);
        workload.kill_all();
        let cut = world.power_cut(seed);
        let ledger = workload.ledger.borrow().clone();
        let look = Look { twice: true, seed };
        let outcome = examine(&cut, &ledger, look);
        (
            workload.trace,
            world.disk_calls(),
            world.image_hash(),
            cut.image_hash(),
            format!("{outcome:?}"),
        )
    };
    for seed in 0..2 {
        for taste in [Taste::Mixed, Taste::Flow, Taste::Heavy] {
            assert_eq!(run(seed, taste), run(seed, taste), "seed {seed}, {taste:?}");
        }
    }
}
