//! T5: receive and ack over a backlog, one by one and in batches, every body checked.

use super::{MAIN, SIZES, of};
use crate::Res;
use crate::bodies::Bodies;
use crate::dir::settle_disk;
use crate::peer::Mode;
use crate::report::{Verdict, number};
use crate::roles::{Backlog, fill};
use crate::rounds::{Entrant, Outcome, alternate};
use crate::run::Bench;

/// Messages waiting at the beginning, unless a peer bears fewer.
fn backlog(size: usize) -> u64 {
    if size == MAIN { 1_000_000 } else { 200_000 }
}

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    for size in SIZES {
        for batch in [false, true] {
            measure(bench, size, batch)?;
        }
    }
    Ok(())
}

fn measure(bench: &mut Bench, size: usize, batch: bool) -> Res<()> {
    let dir = bench.dir("t5")?;
    let bodies = &Bodies::new(size);
    let rounds = bench.rounds();
    // The backlog is used up within the rounds, or the time of a round is over before.
    let slot = bench.slot() * 2;
    let entrants = bench.entrants(
        |facts| facts.take.is_some(),
        |peer| {
            let depth = backlog(size).min(peer.facts().depth);
            let queue = peer.open(&dir.join(peer.name()), Mode::Async)?;
            fill(&*queue, bodies, 0, depth)?;
            let most = depth / rounds as u64;
            let mut backlog = Backlog {
                queue,
                bodies,
                depth,
                next: 0,
            };
            let note = format!("{} waiting at first", number(depth as f64));
            Ok(Entrant::new(peer.name(), note, move || {
                backlog.take(slot, most, batch)
            }))
        },
    );
    settle_disk(dir.path())?;
    let outcomes = alternate(rounds, entrants, || settle_disk(dir.path()))?;
    let how = if batch { "in batches" } else { "one by one" };
    let work = format!("receive + ack {how}, {size} B");
    bench.report.add("T5", &work, "1/s", &outcomes);
    if size == MAIN {
        bench.report.verdict(Verdict {
            target: "T5",
            what: format!("receive + ack {how}, 1/s"),
            got: of(&outcomes, "keepq").and_then(Outcome::figure),
            need: if batch { 5e6 } else { 2e6 },
            at_least: true,
            note: String::new(),
        });
    }
    Ok(())
}
