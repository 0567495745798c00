//! T8: growth. Rates at a great depth beside those at 10 thousand, memory, and bytes written per
//! byte of body.

use super::MAIN;
use crate::Res;
use crate::children::{Role, path};
use crate::peer::{Facts, Peer};
use crate::report::{Verdict, number};
use crate::rounds::median;
use crate::run::{Bench, one_row};

const SHALLOW: u64 = 10_000;
const WRITTEN: u64 = 200_000;
const WORKS: [&str; 3] = ["async send", "receive + ack", "batch receive + ack"];

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    for peer in bench.able(|facts: &Facts| facts.take.is_some() && facts.depth > SHALLOW) {
        if let Err(error) = growth(bench, peer) {
            one_row(bench, "T8", "growth", peer.name(), "", Err(error));
        }
    }
    for peer in bench.able(|facts: &Facts| facts.take.is_some()) {
        if let Err(error) = written(bench, peer) {
            one_row(bench, "T8", "bytes written", peer.name(), "", Err(error));
        }
    }
    Ok(())
}

fn growth(bench: &mut Bench, peer: &dyn Peer) -> Res<()> {
    let ours = peer.name() == "keepq";
    let most = peer.facts().depth;
    let depth = if bench.full || ours {
        most
    } else {
        most.min(200_000)
    };
    let dir = bench.dir("t8")?;
    let (deep, shallow) = (path(&dir.join("deep")), path(&dir.join("shallow")));
    let (depth_text, sample) = (depth.to_string(), SHALLOW.to_string());
    let args = ["growth", peer.name(), &deep, &shallow, &depth_text, &sample];
    let mut role = Role::start(&args)?;
    let memory = role.hear_number()?;
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for _ in 0..bench.rounds() {
        role.tell("again")?;
        let line = role.hear()?;
        let rates: Vec<f64> = line.split(' ').filter_map(|r| r.parse().ok()).collect();
        for (n, ratios) in ratios.iter_mut().enumerate() {
            let both = rates.get(n).zip(rates.get(n + 3));
            let (deep, shallow) = both.ok_or("a process gave no rates")?;
            ratios.push(deep / shallow);
        }
    }
    role.kill()?;
    let waiting = format!("{} waiting", number(depth as f64));
    let work = format!("memory, {waiting}");
    one_row(bench, "T8", &work, peer.name(), "MiB", Ok(memory));
    if ours {
        verdict(bench, "anonymous + shared memory, MiB", memory, 80.0, false);
    }
    for (what, ratios) in WORKS.iter().zip(&ratios) {
        let ratio = median(ratios);
        let work = format!("{what}, {waiting} to 10 k");
        one_row(bench, "T8", &work, peer.name(), "ratio", Ok(ratio));
        if ours {
            verdict(bench, &work, ratio, 0.9, true);
        }
    }
    Ok(())
}

fn written(bench: &mut Bench, peer: &dyn Peer) -> Res<()> {
    let dir = bench.dir("t8")?;
    let count = WRITTEN.min(peer.facts().depth / 2);
    let (count_text, size) = (count.to_string(), MAIN.to_string());
    let store = path(&dir.join("store"));
    let mut role = Role::start(&["written", peer.name(), &store, &count_text, &size])?;
    let bodies = (count * MAIN as u64) as f64;
    let works = [
        ("sends", 2.0, 1.6),
        ("acks one by one", 1.0, 0.4),
        ("acks in runs", 1.0, 0.05),
    ];
    for (what, times, need) in works {
        let bytes = role.hear_number()? / (times * bodies);
        let work = format!("bytes written per body byte, {what}");
        one_row(bench, "T8", &work, peer.name(), "bytes", Ok(bytes));
        if peer.name() == "keepq" {
            verdict(bench, &work, bytes, need, false);
        }
    }
    Ok(())
}

fn verdict(bench: &mut Bench, what: &str, got: f64, need: f64, at_least: bool) {
    bench.report.verdict(Verdict {
        target: "T8",
        what: what.into(),
        got: Some(got),
        need,
        at_least,
        note: String::new(),
    });
}
