//! Ten million messages waiting: what memory that takes, and whether the rates hold.

use std::time::Instant;

use keepq::{Flush, Store};

use super::{Place, Row, cannot, fill, per_second, take_in_batches, take_one_by_one};
use crate::args::BenchArgs;
use crate::exit::Failure;

const SHALLOW: u64 = 10_000;
const DEEP: u64 = 10_000_000;
/// How many messages a rate is measured over: as many as wait in the shallow store.
const SAMPLE: u64 = SHALLOW;
const MIB: f64 = 1024.0;

/// Rates of one store at one depth.
struct Rates {
    send: f64,
    one: f64,
    batch: f64,
}

pub(super) fn deep(place: &Place, args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let shallow = place.store("shallow", Flush::Async)?;
    let deep = place.store("deep", Flush::Async)?;
    fill(&shallow.topic("t")?, SHALLOW)?;
    fill(&deep.topic("t")?, DEEP)?;
    deep.flush(None)?;
    let memory = memory_kib()?;
    let mut pairs = Vec::new();
    for pair in 0..args.pairs {
        pairs.push((rates(&deep, pair)?, rates(&shallow, pair)?));
    }
    deep.close()?;
    shallow.close()?;
    place.clear("deep")?;
    place.clear("shallow")?;
    let of = |rate: fn(&Rates) -> f64| -> Vec<(f64, f64)> {
        pairs
            .iter()
            .map(|(deep, shallow)| (rate(deep), rate(shallow)))
            .collect()
    };
    let against = "raw = with 10 thousand waiting; at least 0.9";
    Ok(vec![
        Row::alone("memory with 10 M waiting", "MiB", memory / MIB).noted("at most 80"),
        Row::pairs("async send with 10 M waiting", "1/s", &of(|r| r.send)).noted(against),
        Row::pairs("receive + ack with 10 M waiting", "1/s", &of(|r| r.one)).noted(against),
        Row::pairs("batch receive with 10 M waiting", "1/s", &of(|r| r.batch)).noted(against),
    ])
}

/// A group of its own starts at the earliest message: the whole depth is before it.
fn rates(store: &Store, pair: u32) -> Result<Rates, Failure> {
    let topic = store.topic("t")?;
    let started = Instant::now();
    for _ in 0..SAMPLE {
        topic.send(super::BODY)?;
    }
    let send = per_second(SAMPLE, started.elapsed());
    let group = store.group("t", &format!("one-{pair}")).open()?;
    let started = Instant::now();
    take_one_by_one(&group, SAMPLE)?;
    let one = per_second(SAMPLE, started.elapsed());
    let group = store.group("t", &format!("batch-{pair}")).open()?;
    let started = Instant::now();
    take_in_batches(&group, SAMPLE)?;
    Ok(Rates {
        send,
        one,
        batch: per_second(SAMPLE, started.elapsed()),
    })
}

/// Anonymous and shared memory of this process, in KiB. The control file's pages are file pages
/// on a disk file system and are added from the list of mappings.
fn memory_kib() -> Result<f64, Failure> {
    let read = |path| std::fs::read_to_string(path).map_err(|e| cannot("read memory figures", &e));
    let status = read("/proc/self/status")?;
    let maps = read("/proc/self/smaps")?;
    let anonymous = field(&status, "RssAnon:") + field(&status, "RssShmem:");
    Ok(anonymous + control_pages(&maps))
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// KiB resident of mappings of files named `ctl`.
fn control_pages(maps: &str) -> f64 {
    let mut inside = false;
    let mut sum = 0.0;
    for line in maps.lines() {
        // A mapping begins with its addresses; the lines after it have a name and a colon.
        if line
            .split_whitespace()
            .next()
            .is_some_and(|word| !word.ends_with(':'))
        {
            inside = line.ends_with("/ctl");
        } else if inside {
            sum += field(line, "Rss:");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_figures_are_found() {
        let maps = "7f00-7f01 rw-s 00000000 08:01 12 /q/ctl\nSize: 16384 kB\nRss: 300 kB\n\
                    7f02-7f03 rw-p 00000000 00:00 0\nRss: 50 kB\n\
                    7f04-7f05 rw-s 00000000 08:01 13 /r/ctl\nRss: 7 kB\n";
        assert!((control_pages(maps) - 307.0).abs() < 1e-9);
        assert!((field("VmRSS: 5 kB\nRssAnon:\t  12 kB\n", "RssAnon:") - 12.0).abs() < 1e-9);
        assert!(memory_kib().unwrap() > 0.0);
    }
}
