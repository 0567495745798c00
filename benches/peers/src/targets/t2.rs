//! T2: synchronous sends by many threads of one process, beside one fdatasync shared by all.

use super::{MAIN, SIZES, best_peer, keepq_to};
use crate::Res;
use crate::bodies::Bodies;
use crate::peer::Mode;
use crate::raw::{HEADER, SharedSync};
use crate::report::Verdict;
use crate::rounds::{Entrant, alternate, rate_of_threads};
use crate::run::Bench;

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    for threads in [16, 64] {
        for size in SIZES {
            measure(bench, threads, size)?;
        }
    }
    Ok(())
}

fn measure(bench: &mut Bench, threads: usize, size: usize) -> Res<()> {
    let dir = bench.dir("t2")?;
    let bodies = &Bodies::new(size);
    let slot = bench.slot();
    let raw = SharedSync::new(&dir.join("raw"))?;
    let record = vec![b'r'; HEADER + size];
    let raw = Entrant::new("raw shared fdatasync", "on a prepared file", move || {
        rate_of_threads(slot, threads, |_, _| raw.write(&record))
    });
    let mut entrants = vec![raw];
    entrants.extend(bench.entrants(
        |facts| facts.sync.is_some(),
        |peer| {
            let queue = peer.open(&dir.join(peer.name()), Mode::Sync)?;
            let turn = move || rate_of_threads(slot, threads, |t, n| queue.send(t, bodies.get(n)));
            turn()?;
            Ok(Entrant::new(peer.name(), "", turn))
        },
    ));
    let outcomes = alternate(bench.rounds(), entrants, || Ok(()))?;
    let work = format!("sync send, {threads} threads, {size} B");
    bench.report.add("T2", &work, "1/s", &outcomes);
    if size == MAIN {
        let best = best_peer(&outcomes).map(|best| best.name.clone());
        let name = best.unwrap_or_default();
        bench.report.verdict(Verdict {
            target: "T2",
            what: format!("sync send, {threads} threads, of the best peer"),
            got: keepq_to(&outcomes, &name),
            need: 1.3,
            at_least: true,
            note: name,
        });
    }
    Ok(())
}
