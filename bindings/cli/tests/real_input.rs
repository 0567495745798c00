//! Real input: the lines of the Python standard library (duplicates, empty lines, invalid UTF-8
//! and carriage returns included) go through one named producer and three receivers of a group,
//! all of them killed several times and started again with the same command. The body of producer
//! sequence k is line k, every line is delivered, none is invented.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.
#![allow(clippy::print_stdout)] // What was used and done is said.

mod common;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use common::{Place, kill};
use serde_json::Value;

const LEAST_LINES: usize = 100_000;
const MOST_LINES: usize = 120_000;
const SENDER_KILLS: usize = 6;
const RECEIVERS: usize = 3;
const RECEIVER_KILLS: usize = 4;
/// A receiver is killed after so many lines.
const QUOTA: usize = 4_000;

#[test]
fn lines_of_real_files_survive_kills_of_senders_and_receivers() {
    let place = Place::new("real-input");
    let (origin, lines) = input();
    println!("{} lines of {origin}", lines.len());
    assert!(lines.len() >= LEAST_LINES);
    // The topic exists before the first receiver asks for it.
    let load = ["send", "lines", "--lines", "--producer", "loader"];
    place.feed(&load, b"").ok();

    let place = Arc::new(place);
    let seen = Arc::new(Mutex::new(Deliveries::default()));
    let lines = Arc::new(lines);
    let all_sent = Arc::new(AtomicBool::new(false));
    let receivers: Vec<_> = (0..RECEIVERS)
        .map(|_| {
            let (place, seen, lines) = (place.clone(), seen.clone(), lines.clone());
            let all_sent = all_sent.clone();
            std::thread::spawn(move || receive(&place, &seen, &lines, &all_sent))
        })
        .collect();
    send(&place, &load, &lines);
    all_sent.store(true, Ordering::SeqCst);
    let kills: usize = receivers
        .into_iter()
        .map(|receiver| receiver.join().unwrap())
        .sum();
    assert!(kills >= RECEIVERS, "only {kills} receivers were killed");

    let seen = seen.lock().unwrap();
    println!(
        "{} deliveries of {} lines, {SENDER_KILLS} senders and {kills} receivers killed",
        seen.count,
        seen.numbers.len()
    );
    let missing: Vec<_> = (0..lines.len())
        .filter(|n| !seen.numbers.contains(n))
        .take(10)
        .collect();
    assert!(missing.is_empty(), "lines never delivered: {missing:?}");
    let group = &place
        .run(&["groups", "ls", "lines", "-o", "jsonl"])
        .ok()
        .json_lines()[0];
    for left in ["ready", "in_flight", "delayed", "dead"] {
        assert_eq!(group[left], 0, "{group}");
    }
    let topic = &place
        .run(&["topics", "ls", "-o", "jsonl"])
        .ok()
        .json_lines()[0];
    // What every group has acked may be gone; sequences are never used again.
    let next = topic["next_seq"].as_u64().unwrap();
    assert!(next >= lines.len() as u64, "{topic}");
}

/// What all receivers printed.
#[derive(Default)]
struct Deliveries {
    numbers: HashSet<usize>,
    count: usize,
}

/// Sends all lines; killed in the middle of the work, with input yet to come, then run again.
fn send(place: &Place, load: &[&str], lines: &[Vec<u8>]) {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    for attempt in 1..=SENDER_KILLS {
        let part = &text[..text.len() / (SENDER_KILLS + 1) * attempt];
        let mut command = place.keepq(load);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(part).unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "a sender ended before its input did"
        );
        kill(&mut child);
    }
    let done = place.feed(load, &text).ok();
    assert!(
        done.err.contains("sent before"),
        "the last run resumes: {}",
        done.err
    );
}

/// One receiver: killed after some lines and started again, at last until everything was sent and
/// nothing comes. How often it was killed.
fn receive(
    place: &Place,
    seen: &Mutex<Deliveries>,
    lines: &[Vec<u8>],
    all_sent: &AtomicBool,
) -> usize {
    let mut kills = 0;
    loop {
        // Asked before the run: the last one must find nothing although everything is there.
        let last = all_sent.load(Ordering::SeqCst);
        let mut command = place.keepq(&["recv", "lines", "-g", "g1", "-o", "jsonl"]);
        command.args(["--wait", "5s"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut text = Vec::new();
        let mut count = 0;
        while (kills == RECEIVER_KILLS || count < QUOTA)
            && output.read_until(b'\n', &mut text).unwrap() > 0
        {
            count += 1;
        }
        if kills < RECEIVER_KILLS && count >= QUOTA {
            kill(&mut child);
            kills += 1;
            // What it had written before it died counts too.
            output.read_to_end(&mut text).unwrap();
            check(&text, false, seen, lines);
            continue;
        }
        let code = child.wait().unwrap().code();
        assert!(
            [Some(0), Some(3)].contains(&code),
            "a receiver failed: {code:?}"
        );
        check(&text, true, seen, lines);
        if last {
            return kills;
        }
    }
}

/// Every line of a receiver's output is a line of the input; only a killed receiver may leave a
/// torn one at the end.
fn check(text: &[u8], ended: bool, seen: &Mutex<Deliveries>, lines: &[Vec<u8>]) {
    let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
    assert!(
        !ended || whole == text.len(),
        "a receiver that was not killed left a torn line"
    );
    let mut numbers = Vec::new();
    for line in text[..whole]
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
    {
        let message: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(message["producer"], "loader");
        let number = usize::try_from(message["producer_seq"].as_u64().unwrap()).unwrap();
        assert!(number < lines.len(), "line {number} is invented");
        assert_eq!(body(&message), lines[number], "line {number} differs");
        numbers.push(number);
    }
    let mut seen = seen.lock().unwrap();
    seen.count += numbers.len();
    seen.numbers.extend(numbers);
}

fn body(message: &Value) -> Vec<u8> {
    match message["body"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let text = message["body_base64"].as_str().unwrap();
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap()
        }
    }
}

/// Where the lines come from, and the lines. Real files where there are any; to them are added
/// lines as real files rarely have them.
fn input() -> (String, Vec<Vec<u8>>) {
    let python = python_library();
    let rust = std::env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("registry/src"));
    let places = [
        (python, "py", "the Python standard library"),
        (rust, "rs", "Rust packages"),
        (
            Some(env!("CARGO_MANIFEST_DIR").into()),
            "rs",
            "this program, again and again",
        ),
    ];
    for (place, extension, origin) in places {
        let Some(place) = place else { continue };
        let mut lines = Vec::new();
        read_lines(&place, extension, &mut lines);
        if lines.is_empty() {
            continue;
        }
        // A small source is repeated: duplicates are part of what is shown.
        while lines.len() < LEAST_LINES {
            lines.extend_from_within(..);
        }
        lines.truncate(MOST_LINES);
        spice(&mut lines);
        return (origin.to_string(), lines);
    }
    panic!("no files were found to send");
}

fn python_library() -> Option<PathBuf> {
    let script = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(path.trim())).filter(|path| path.is_dir())
}

fn read_lines(dir: &Path, extension: &str, lines: &mut Vec<Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if lines.len() >= MOST_LINES {
            return;
        }
        if path.is_dir() {
            read_lines(&path, extension, lines);
        } else if path.extension().is_some_and(|e| e == extension) {
            let mut text = std::fs::read(&path).unwrap_or_default();
            if text.last() == Some(&b'\n') {
                text.pop();
            }
            lines.extend(text.split(|&b| b == b'\n').map(<[u8]>::to_vec));
        }
    }
}

/// Every 500th line becomes one that is not UTF-8, has a carriage return or a NUL, is empty, or
/// is long.
fn spice(lines: &mut [Vec<u8>]) {
    let long = "0123456789abcdef".repeat(8192).into_bytes();
    let odd: [&[u8]; 6] = [
        b"\xff\xfe\x00\x80",
        b"carriage return\r",
        b"\r",
        b"",
        b"caf\xe9",
        &long,
    ];
    for (n, line) in lines.iter_mut().step_by(500).enumerate() {
        // Long lines only now and then: they are a megabyte in eight.
        let which = if n % 16 == 5 { 5 } else { n % 5 };
        *line = odd[which].to_vec();
    }
}
