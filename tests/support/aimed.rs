//! Faults aimed at places of the engine, not at numbers of calls: some places are only come to
//! after another fault, or while what it left is opened.
#![allow(dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use keepq::sim::{Fault, FaultPlan, SimWorld, Site};
use keepq::sim::{announced_site, calls_announced, fault_sites, set_point_hook};

/// Which call fails: the first from this place.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub site: Site,
    pub error: Fault,
    pub sticky: bool,
}

/// Watches the calls of this thread on one machine, until it is dropped.
pub struct Watch {
    seen: Rc<RefCell<BTreeSet<Site>>>,
}

impl Watch {
    /// Notes where calls come from; the aimed one fails, in place of what was planned before.
    pub fn start(world: &SimWorld, aim: Option<Aim>) -> Self {
        let seen = Rc::new(RefCell::new(BTreeSet::new()));
        let (note, machine) = (Rc::clone(&seen), world.clone());
        let (mut last, mut aim) = (calls_announced(), aim);
        set_point_hook(Some(Box::new(move || {
            let calls = calls_announced();
            if calls == last {
                return;
            }
            last = calls;
            let Some(site) = announced_site() else { return };
            note.borrow_mut().insert(site);
            if let Some(aim) = aim.take_if(|aim| aim.site == site) {
                machine.plan_fault(FaultPlan {
                    nth_call: 1,
                    error: aim.error,
                    sticky: aim.sticky,
                });
            }
        })));
        Self { seen }
    }

    /// The places that called.
    pub fn end(self) -> BTreeSet<Site> {
        self.seen.take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        set_point_hook(None);
    }
}

/// What leads to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// The workload of a seed, with a fault before that place.
    Run(u64, Option<FaultPlan>),
    /// The opening of one end of such a workload.
    Left(u64, Option<FaultPlan>, usize),
    /// The opening of what a recovery left that had this fault.
    Again(u64, FaultPlan, usize),
}

/// Most scenes of one sort that are kept for a place.
const KEPT: usize = 4;

/// How places were come to that no fault has struck yet.
#[derive(Default)]
pub struct Scenes {
    of: BTreeMap<Site, Vec<Scene>>,
}

impl Scenes {
    /// Notes where a scene came to.
    pub fn note(&mut self, seen: BTreeSet<Site>, scene: Scene) {
        let sort = std::mem::discriminant(&scene);
        let struck = fault_sites();
        for site in seen.into_iter().filter(|site| !struck.contains_key(site)) {
            let kept = self.of.entry(site).or_default();
            let same = |s: &&Scene| std::mem::discriminant(*s) == sort;
            if kept.iter().filter(same).count() < KEPT {
                kept.push(scene);
            }
        }
    }

    /// The scenes that came to this place.
    pub fn of(&self, site: Site) -> &[Scene] {
        self.of.get(&site).map_or(&[], Vec::as_slice)
    }
}
