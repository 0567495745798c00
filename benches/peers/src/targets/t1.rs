//! T1: synchronous sends by one thread, beside the loop of pwrite and fdatasync.

use super::{MAIN, SIZES, keepq_to};
use crate::Res;
use crate::bodies::Bodies;
use crate::peer::Mode;
use crate::raw::{HEADER, Prepared};
use crate::report::Verdict;
use crate::rounds::{Entrant, alternate, rate};
use crate::run::Bench;

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    for size in SIZES {
        measure(bench, size)?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, size: usize) -> Res<()> {
    let dir = bench.dir("t1")?;
    let bodies = Bodies::new(size);
    let slot = bench.slot();
    let raw = Prepared::new(&dir.join("raw"))?;
    let record = vec![b'r'; HEADER + size];
    let mut at = 0;
    let raw = Entrant::new("raw pwrite + fdatasync", "on a prepared file", move || {
        rate(slot, 1, |_| {
            at = raw.write(at, &record)?;
            Ok(())
        })
    });
    let mut entrants = vec![raw];
    entrants.extend(bench.entrants(
        |facts| facts.sync.is_some(),
        |peer| {
            let queue = peer.open(&dir.join(peer.name()), Mode::Sync)?;
            // The first sends grow the first, small files: not what a queue does all day.
            rate(slot, 1, |n| queue.send(0, bodies.get(n)))?;
            let bodies = &bodies;
            Ok(Entrant::new(peer.name(), "", move || {
                rate(slot, 1, |n| queue.send(0, bodies.get(n)))
            }))
        },
    ));
    let rounds = bench.rounds() * 2 - 1;
    let outcomes = alternate(rounds, entrants, || Ok(()))?;
    let work = format!("sync send, 1 thread, {size} B");
    bench.report.add("T1", &work, "1/s", &outcomes);
    if size == MAIN {
        bench.report.verdict(Verdict {
            target: "T1",
            what: "sync send, 1 thread, of the raw loop".into(),
            got: keepq_to(&outcomes, "raw pwrite + fdatasync"),
            need: 0.95,
            at_least: true,
            note: String::new(),
        });
    }
    Ok(())
}
