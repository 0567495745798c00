//! T4: asynchronous sends by one thread, one by one and in batches.

use super::{MAIN, SIZES, keepq_to, of};
use crate::Res;
use crate::bodies::Bodies;
use crate::dir::settle_disk;
use crate::peer::Mode;
use crate::raw::{HEADER, copies_per_second, disk_bandwidth};
use crate::report::Verdict;
use crate::roles::{BATCH, send_rate};
use crate::rounds::{Entrant, Outcome, alternate};
use crate::run::Bench;

const COPY: &str = "raw memcpy + CRC";
const DISK: &str = "raw disk stream, records";

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    for size in SIZES {
        for batch in [1, BATCH] {
            let outcomes = measure(bench, size, batch)?;
            if size == MAIN && batch == 1 {
                judge(bench, &outcomes);
            }
        }
    }
    Ok(())
}

fn measure(bench: &mut Bench, size: usize, batch: u64) -> Res<Vec<Outcome>> {
    let dir = bench.dir("t4")?;
    let bodies = &Bodies::new(size);
    let slot = bench.slot();
    let file = dir.join("stream");
    let record = (HEADER + size) as f64;
    let mut entrants = vec![
        Entrant::new(COPY, "into warm memory", || {
            Ok(copies_per_second(bodies.get(0)))
        }),
        Entrant::new(DISK, "256 MiB in 1 MiB writes, then fdatasync", move || {
            Ok(disk_bandwidth(&file)? / record)
        }),
    ];
    entrants.extend(bench.entrants(
        |facts| facts.lazy.is_some(),
        |peer| {
            let queue = peer.open(&dir.join(peer.name()), Mode::Async)?;
            // The first touch of memory is not what is measured.
            send_rate(&*queue, bodies, slot / 4, batch)?;
            let label = if peer.facts().never_syncs {
                "never syncs"
            } else {
                ""
            };
            Ok(Entrant::new(peer.name(), label, move || {
                send_rate(&*queue, bodies, slot, batch)
            }))
        },
    ));
    let outcomes = alternate(bench.rounds(), entrants, || settle_disk(dir.path()))?;
    let how = if batch > 1 { " in batches" } else { "" };
    let work = format!("async send{how}, {size} B");
    bench.report.add("T4", &work, "1/s", &outcomes);
    Ok(outcomes)
}

fn judge(bench: &mut Bench, outcomes: &[Outcome]) {
    let disk = of(outcomes, DISK).and_then(Outcome::figure);
    let bound = disk.map_or(5e6, |records| (0.8 * records).min(5e6));
    bench.report.verdict(Verdict {
        target: "T4",
        what: "async send, 1/s".into(),
        got: of(outcomes, "keepq").and_then(Outcome::figure),
        need: bound,
        at_least: true,
        note: "the lesser of 5 M/s and 0.8 x the disk's stream of records".into(),
    });
    bench.report.verdict(Verdict {
        target: "T4",
        what: "async send, of yaque".into(),
        got: keepq_to(outcomes, "yaque"),
        need: 3.0,
        at_least: true,
        note: "yaque never syncs".into(),
    });
}
