//! Promise P1 as the kernel sees it: before a sync `send` returns, the bytes were written and an
//! fdatasync that began after the write has returned, also when another process led the flush.
//!
//! `strace` records the writes to the log, the syncs, and a marker that each sender writes to a
//! file right after its `send` returned. Four processes send at the same time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "children/mod.rs"]
mod children;

use std::collections::BTreeMap;
use std::io::Write;

use children::{Child, Place, Start, not_run};
use keepq::Store;

const TEST: &str = "a_sync_send_returns_after_an_fdatasync_that_covers_it";
const SENDS: usize = 60;
/// The processes that send at the same time.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// What every body begins with, so that it can be found in what was written.
const MARK: &str = "durable-order";

fn send_and_mark() {
    let options = Store::options().send_timeout(children::PATIENCE);
    let store = options.open(children::arg("STORE")).unwrap();
    let topic = store.topic("t").unwrap();
    let name = children::arg("NAME");
    let path = children::arg("MARKER");
    let mut marker = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    children::say("ready");
    children::listen();
    for number in 0..SENDS {
        let body = format!("{MARK}-{name}-{number:04}.");
        assert!(topic.send(&body).unwrap().durable);
        marker
            .write_all(format!("returned {body}\n").as_bytes())
            .unwrap();
    }
    children::say("done");
    children::listen();
}

/// A system call, from when it was entered to when it returned.
#[derive(Debug)]
struct Call {
    begun: f64,
    ended: f64,
    name: String,
    text: String,
}

/// Reads what `strace -f -ttt -T` wrote, joining calls that another thread's line cut in two.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: BTreeMap<&str, (f64, String)> = BTreeMap::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        // Short process numbers are padded, so the fields are not always one space apart.
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((time, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        let rest = rest.trim();
        let Ok(time) = time.parse::<f64>() else {
            continue;
        };
        let whole = if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(pid, (time, start.to_owned()));
            continue;
        } else if rest.starts_with("<... ") {
            let Some((begun, start)) = open.remove(pid) else {
                continue;
            };
            let (_, end) = rest.split_once("resumed>").unwrap();
            (begun, format!("{start}{end}"))
        } else {
            (time, rest.to_owned())
        };
        let (begun, text) = whole;
        // `pwrite64(...) = 160 <0.000012>`: the time it took stands last.
        let took = text
            .rsplit_once('<')
            .and_then(|(_, t)| t.strip_suffix('>')?.parse::<f64>().ok());
        let Some(took) = took else { continue };
        let Some((name, _)) = text.split_once('(') else {
            continue;
        };
        let name = name.to_owned();
        found.push(Call {
            begun,
            ended: begun + took,
            name,
            text,
        });
    }
    found
}

/// The trace's clock has microseconds, and a call's duration is measured apart from its begin.
const GRAIN: f64 = 20e-6;

/// For each body that a marker says was returned: its write by some process, then a sync by the
/// same, then the marker. Returns how many were made durable by another process alone.
fn check(traces: &BTreeMap<&str, Vec<Call>>, name: &str) -> usize {
    let mut by_others = 0;
    for number in 0..SENDS {
        let body = format!("{MARK}-{name}-{number:04}.");
        let marker = traces[name]
            .iter()
            .find(|c| c.name == "write" && c.text.contains(&format!("returned {body}")))
            .unwrap_or_else(|| panic!("{body} was not traced"));
        let makers: Vec<&str> = traces
            .iter()
            .filter(|(_, calls)| makes_durable(calls, &body, marker))
            .map(|(maker, _)| *maker)
            .collect();
        assert!(
            !makers.is_empty(),
            "nobody wrote and synced {body} before {marker:?}"
        );
        by_others += usize::from(!makers.contains(&name));
    }
    by_others
}

/// Whether this process wrote the body to the log, and then synced it, before the marker.
fn makes_durable(calls: &[Call], body: &str, marker: &Call) -> bool {
    let written = calls
        .iter()
        .filter(|c| c.name == "pwrite64" && c.text.contains(body))
        .min_by(|a, b| a.ended.total_cmp(&b.ended));
    written.is_some_and(|written| {
        calls.iter().any(|c| {
            let ordered = c.begun + GRAIN >= written.ended && c.ended <= marker.begun + GRAIN;
            c.name == "fdatasync" && ordered && c.text.contains("= 0")
        })
    })
}

#[test]
fn a_sync_send_returns_after_an_fdatasync_that_covers_it() {
    if children::role().is_some() {
        return send_and_mark();
    }
    let version = std::process::Command::new("strace").arg("-V").output();
    if version.is_err() {
        return not_run(
            "the order of system calls",
            "no strace; apt-get install strace",
        );
    }
    // Of four that send at once, the one who leads next does it for those who came meanwhile; but
    // a machine may run one process after the other.
    for round in 0..30 {
        match sends_of_four(&format!("order-{round}")) {
            Some(0) => {}
            Some(_) => return,
            None => return not_run("the order of system calls", "strace may not trace here"),
        }
    }
    panic!("no process ever flushed for another");
}

/// Four processes send, and every send is checked; how many were made durable by another process
/// alone. None: nobody may trace here.
fn sends_of_four(name: &str) -> Option<usize> {
    let place = Place::new(name);
    Store::open(place.store()).unwrap().topic("t").unwrap();
    let trace = |name: &str| place.file(&format!("{name}.strace")).display().to_string();
    let mut children = Vec::new();
    for name in NAMES {
        let output = trace(name);
        let vars = [
            ("STORE", place.store().display().to_string()),
            ("NAME", name.to_owned()),
            ("MARKER", place.file(name).display().to_string()),
        ];
        let calls = "trace=pwrite64,fdatasync,write,fsync";
        let start = Start {
            test: TEST,
            role: name,
            vars: &vars,
            through: &[
                "strace", "-f", "-ttt", "-T", "-s", "100000", "-e", calls, "-o", &output,
            ],
        };
        children.push(Child::start_with(&start, |_| {}));
    }
    for child in &children {
        match child.hear_or_end() {
            Some(line) => assert_eq!(line, "ready"),
            None => return None,
        }
    }
    for child in &mut children {
        child.tell("go on");
    }
    for child in &children {
        child.expect("done");
    }
    for child in &mut children {
        child.tell("go on");
    }
    for child in children {
        child.finish();
    }
    let traces: BTreeMap<&str, Vec<Call>> = NAMES
        .map(|name| (name, calls(&std::fs::read_to_string(trace(name)).unwrap())))
        .into();
    let all = traces.values().flatten();
    let syncs = all.filter(|c| c.name == "fdatasync").count();
    let led: usize = NAMES.iter().map(|name| check(&traces, name)).sum();
    eprintln!(
        "{} sends, {syncs} syncs, {led} made durable by another process",
        NAMES.len() * SENDS
    );
    Some(led)
}
