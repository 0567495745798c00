//! The targets, one file each.

mod t1;
mod t2;
mod t3;
mod t4;
mod t5;
pub(crate) mod t6;
mod t7;
mod t8;

use crate::Res;
use crate::rounds::{Outcome, ratio};
use crate::run::{Bench, instructions, syncs};

type Target = fn(&mut Bench) -> Res<()>;

pub(crate) const ALL: [(&str, Target); 10] = [
    ("T1", t1::run),
    ("T2", t2::run),
    ("T3", t3::run),
    ("T4", t4::run),
    ("T5", t5::run),
    ("T6", t6::run),
    ("T7", t7::run),
    ("T8", t8::run),
    ("syncs", syncs),
    ("instructions", instructions),
];

/// Bytes of a body.
const SIZES: [usize; 2] = [128, 1024];
/// The size the targets are about.
const MAIN: usize = 128;

/// The outcome with this name.
fn of<'a>(outcomes: &'a [Outcome], name: &str) -> Option<&'a Outcome> {
    outcomes.iter().find(|outcome| outcome.name == name)
}

/// keepq's ratio to this one.
fn keepq_to(outcomes: &[Outcome], name: &str) -> Option<f64> {
    ratio(of(outcomes, "keepq")?, of(outcomes, name)?)
}

/// The fastest peer: neither keepq nor a raw limit.
fn best_peer(outcomes: &[Outcome]) -> Option<&Outcome> {
    let peers = outcomes.iter().filter(|outcome| {
        outcome.name != "keepq" && !outcome.name.starts_with("raw") && outcome.figure().is_some()
    });
    peers.max_by(|a, b| f64::total_cmp(&a.figure().unwrap_or(0.0), &b.figure().unwrap_or(0.0)))
}
