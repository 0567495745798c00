//! `keepq bench`: rates beside the raw limits of the same machine, in the same run.
//!
//! Machines drift, so what counts is a ratio: keepq and the raw limit take turns, several pairs,
//! and the median of the pairs' ratios is reported. Absolute figures are for orientation.

mod deep;
mod hop;
mod receives;
mod reclaim;
mod sends;
mod shared_word;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use keepq::{Flush, Group, OutMessage, Store, Topic};
use serde_json::{Value, json};

use crate::args::{BenchArgs, BenchRole, BenchRoleArgs};
use crate::exit::{Failure, OK};
use crate::output;

/// The size of a body in every measurement.
const BODY: [u8; 128] = [b'k'; 128];
/// Messages handed to one batch call.
const BATCH: usize = 256;

/// One measurement: keepq's figure and, where there is one, the raw limit's.
struct Row {
    name: &'static str,
    unit: &'static str,
    keepq: f64,
    raw: Option<f64>,
    /// Median of the pairs' keepq / raw.
    ratio: Option<f64>,
    note: &'static str,
}

impl Row {
    fn alone(name: &'static str, unit: &'static str, keepq: f64) -> Self {
        Self {
            name,
            unit,
            keepq,
            raw: None,
            ratio: None,
            note: "",
        }
    }

    fn pairs(name: &'static str, unit: &'static str, pairs: &[(f64, f64)]) -> Self {
        let ratios = pairs.iter().map(|(keepq, raw)| keepq / raw);
        Self {
            name,
            unit,
            keepq: median(pairs.iter().map(|p| p.0)),
            raw: Some(median(pairs.iter().map(|p| p.1))),
            ratio: Some(median(ratios)),
            note: "",
        }
    }

    fn noted(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "keepq": rounded(self.keepq),
            "raw": self.raw.map(rounded),
            "ratio": self.ratio.map(rounded),
            "unit": self.unit,
            "note": self.note,
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Three digits after the point for small figures, none for large ones.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1000.0 {
        value.round()
    } else {
        (value * 1000.0).round() / 1000.0
    }
}

fn per_second(count: u64, took: Duration) -> f64 {
    // Counts are far below 2^52: nothing is lost.
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    count / took.as_secs_f64()
}

/// The directory of the measurements; removed with what is in it when the run ends.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new(args: &BenchArgs) -> Result<Self, Failure> {
        let base = args.dir.clone().unwrap_or_else(|| "target".into());
        let dir = base.join(format!("bench-{}", std::process::id()));
        let dir = std::path::absolute(dir).map_err(|e| cannot("find the directory", &e))?;
        std::fs::create_dir_all(&dir).map_err(|e| cannot("make the directory", &e))?;
        Ok(Self { dir })
    }

    /// A store of its own for one measurement.
    fn store(&self, name: &str, flush: Flush) -> Result<Store, Failure> {
        Ok(Store::options()
            .flush(flush)
            .exist_ok(false)
            .open(self.dir.join(name))?)
    }

    fn clear(&self, name: &str) -> Result<(), Failure> {
        std::fs::remove_dir_all(self.dir.join(name)).map_err(|e| cannot("remove a store", &e))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is named by its path under the directory that was chosen.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn cannot(what: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what}: {error}"))
}

type Measure = fn(&Place, &BenchArgs) -> Result<Vec<Row>, Failure>;

const MEASURES: [(&str, Measure); 6] = [
    ("sync-send", sends::sync_send),
    ("async-send", sends::async_send),
    ("receive", receives::receive),
    ("hop", hop::hop),
    ("deep", deep::deep),
    ("reclaim", reclaim::reclaim),
];

pub(crate) fn run(args: &BenchArgs) -> Result<i32, Failure> {
    let place = Place::new(args)?;
    let wanted = |name: &str| match &args.only {
        Some(part) => name.contains(part.as_str()),
        None => match name {
            "deep" => args.deep,
            "reclaim" => args.reclaim,
            _ => true,
        },
    };
    let chosen: Vec<_> = MEASURES.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names = MEASURES.map(|(name, _)| name).join(", ");
        return Err(Failure::usage(format!(
            "no such measurement; there are: {names}"
        )));
    }
    let progress = ProgressBar::new_spinner();
    let mut rows = Vec::new();
    for (name, measure) in chosen {
        progress.set_message(format!("measuring {name}"));
        progress.tick();
        rows.extend(measure(&place, args)?.iter().map(Row::json));
    }
    progress.finish_and_clear();
    output::print(&output::format_rows(args.output, &rows))?;
    Ok(OK)
}

pub(crate) fn role(args: &BenchRoleArgs) -> Result<i32, Failure> {
    match args.role {
        BenchRole::Ping => hop::answer_words(&args.place, args.count),
        BenchRole::Hop => hop::answer_messages(&args.place, args.count),
    }
}

/// Sends `count` messages in batches.
fn fill(topic: &Topic, count: u64) -> Result<(), Failure> {
    let message = OutMessage {
        body: &BODY,
        ..OutMessage::default()
    };
    let batch = vec![message; BATCH];
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(BATCH);
        for result in topic.send_many(&batch[..now]) {
            result?;
        }
        left -= now as u64;
    }
    Ok(())
}

/// Receives and acknowledges `count` messages one by one, each checked.
fn take_one_by_one(group: &Group, count: u64) -> Result<(), Failure> {
    for _ in 0..count {
        let message = group
            .receive(Duration::from_secs(10))?
            .ok_or_else(missing)?;
        if message.body() != BODY {
            return Err(Failure::failed("a body differs from what was sent"));
        }
        message.ack()?;
    }
    Ok(())
}

/// The same in batches.
fn take_in_batches(group: &Group, count: u64) -> Result<(), Failure> {
    let mut left = count;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(BATCH);
        let messages = group.receive_batch(most, Duration::from_secs(10))?;
        if messages.is_empty() {
            return Err(missing());
        }
        if messages.iter().any(|m| m.body() != BODY) {
            return Err(Failure::failed("a body differs from what was sent"));
        }
        left -= messages.len() as u64;
        for result in group.ack_many(messages) {
            result?;
        }
    }
    Ok(())
}

fn missing() -> Failure {
    Failure::failed("a message that was sent did not come")
}

/// The path of a store below a place, for a process that is told it.
fn path_of(place: &Place, name: &str) -> PathBuf {
    Path::new(&place.dir).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        let row = Row::pairs("x", "1/s", &[(1.0, 2.0), (9.0, 10.0), (3.0, 4.0)]);
        assert!((row.ratio.unwrap() - 0.75).abs() < 1e-9);
    }
}
