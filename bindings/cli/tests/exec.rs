//! `keepq recv --exec`: a command for each message; how it ends settles the message.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{Done, Place, signal, taken, wait};
use serde_json::{Value, json};

fn exec(place: &Place, command: &str, more: &[&str]) -> Done {
    let args = ["recv", "t", "-g", "g", "--exec", command];
    place.run(&[&args[..], more].concat())
}

fn group(place: &Place) -> Value {
    let done = place.run(&["groups", "info", "t", "g", "-o", "jsonl"]);
    done.ok().json_lines().remove(0)
}

fn counts(place: &Place) -> (u64, u64, u64, u64) {
    let info = group(place);
    let of = |name: &str| info[name].as_u64().unwrap();
    (of("ready"), of("in_flight"), of("delayed"), of("dead"))
}

#[test]
fn the_command_gets_the_body_and_the_rest_in_its_environment() {
    let place = Place::new("exec-env");
    let id = place
        .run(&["send", "t", "the body", "-k", "k y", "-H", "h=v"])
        .ok();
    let id = id.text().trim().to_owned();
    let show = "cat; echo; echo $KEEPQ_ID; echo $KEEPQ_TOPIC $KEEPQ_GROUP $KEEPQ_SEQ \
                $KEEPQ_ATTEMPT; echo \"$KEEPQ_KEY\"; echo \"${KEEPQ_TAG-none}\"; \
                echo \"$KEEPQ_HEADERS\"; echo \"$KEEPQ_STORE\"; echo $KEEPQ_RECEIPT; \
                echo $KEEPQ_SENT_AT_MS";
    let done = exec(&place, show, &["-n", "1"]).ok();
    let lines: Vec<&str> = done.text().lines().collect();
    assert_eq!(lines[0], "the body");
    assert_eq!(lines[1], id);
    assert_eq!(lines[2], "t g 0 1");
    assert_eq!(lines[3..6], ["k y", "none", "{\"h\":\"v\"}"]);
    assert_eq!(lines[6], place.store().to_str().unwrap());
    assert!(lines[7].starts_with("kq1-"), "{}", lines[7]);
    assert!(lines[8].parse::<u64>().unwrap() > 1_600_000_000_000);
    assert_eq!(counts(&place), (0, 0, 0, 0));
}

#[test]
fn exit_codes_settle() {
    let place = Place::new("exec-codes");
    // What is to come again does not while the test runs, however long that takes.
    let store = keepq::Store::open(place.store()).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let backoff = keepq::Backoff {
        first: hour,
        max: hour,
        ..keepq::Backoff::default()
    };
    store.group("t", "g").backoff(backoff).open().unwrap();
    store.close().unwrap();
    // 0: done.
    place.run(&["send", "t", "x"]).ok();
    exec(&place, "true", &["-n", "1"]).ok();
    assert_eq!(counts(&place), (0, 0, 0, 0));
    // 65: to the dead letters.
    place.run(&["send", "t", "bad"]).ok();
    let done = exec(&place, "exit 65", &["-n", "1"]).ok();
    assert_eq!((counts(&place), done.err.as_str()), ((0, 0, 0, 1), ""));
    let letters = place.run(&["dlq", "ls", "t", "-g", "g"]).ok().json_lines();
    assert_eq!(letters[0]["body"], "bad");
    assert!(letters[0]["reason"].as_str().unwrap().contains("65"));
    // 75: again later, quietly.
    place.run(&["send", "t", "y"]).ok();
    let done = exec(&place, "exit 75", &["-n", "1"]).ok();
    assert_eq!((counts(&place), done.err.as_str()), ((0, 0, 1, 1), ""));
    // Anything else: again later, and said.
    for command in ["exit 3", "kill -9 $$"] {
        place.run(&["send", "t", "z"]).ok();
        let done = exec(&place, command, &["-n", "1"]).ok();
        assert!(done.err.contains("comes again"), "{}", done.err);
    }
    assert_eq!(counts(&place), (0, 0, 3, 1));
    // Nothing there.
    assert_eq!(exec(&place, "true", &["--wait", "0"]).code, 3);
}

#[test]
fn a_command_need_not_read_its_input() {
    let place = Place::new("exec-unread");
    let body = vec![b'x'; 4 << 20];
    place.feed(&["send", "t"], &body).ok();
    place.feed(&["send", "t"], &body).ok();
    exec(&place, "true", &["-n", "1"]).ok();
    let done = exec(&place, "wc -c", &["-n", "1"]).ok();
    assert_eq!(done.text().trim(), body.len().to_string());
    assert_eq!(counts(&place), (0, 0, 0, 0));
}

#[test]
fn a_lease_is_extended_while_the_command_runs() {
    let place = Place::new("exec-lease");
    let store = keepq::Store::open(place.store()).unwrap();
    let group = store.group("t", "g");
    let lease = std::time::Duration::from_secs(3);
    let group = group.lease(lease).open().unwrap();
    store.topic("t").unwrap().send(b"x").unwrap();
    let mut command = place.keepq(&["recv", "t", "-g", "g", "-n", "1", "--exec"]);
    command.arg("echo begun; cat >/dev/null; read line < gate");
    let gate = place.dir.join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let mut child = command
        .current_dir(&place.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    // More than two leases long nobody else gets it.
    assert!(group.receive(lease * 9 / 4).unwrap().is_none());
    std::fs::write(&gate, b"go\n").unwrap();
    assert_eq!(wait(child), 0);
    let stats = group.stats().unwrap();
    assert_eq!((stats.ready, stats.in_flight, stats.delayed), (0, 0, 0));
    store.close().unwrap();
}

#[test]
fn a_lease_that_was_lost_is_told() {
    let place = Place::new("exec-lost");
    place.run(&["send", "t", "x"]).ok();
    // Somebody settles it meanwhile.
    let keepq = env!("CARGO_BIN_EXE_keepq");
    let done = exec(&place, &format!("{keepq} ack $KEEPQ_RECEIPT"), &["-n", "1"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("come again"), "{}", done.err);
}

#[test]
fn stopped_it_settles_what_it_has_and_ends() {
    let place = Place::new("exec-stop");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    let mut command = place.keepq(&["recv", "t", "-g", "g", "--exec"]);
    let gate = place.dir.join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let mut child = command
        .arg("echo begun; read line < gate")
        .current_dir(&place.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    signal(&child, "TERM");
    taken(&child);
    std::fs::write(&gate, b"go\n").unwrap();
    assert_eq!(wait(child), 0);
    assert_eq!(counts(&place), (1, 0, 0, 0));
}

#[test]
fn exec_excludes_what_makes_no_sense_with_it() {
    let place = Place::new("exec-usage");
    place.run(&["send", "t", "x"]).ok();
    assert_eq!(exec(&place, "true", &["--no-ack"]).code, 2);
    assert_eq!(exec(&place, "true", &["-o", "raw"]).code, 2);
    // Without a shell nothing is lost.
    let mut command = place.keepq(&["recv", "t", "-g", "g", "-n", "1", "--exec", "true"]);
    let done = Done::from(command.env("PATH", place.dir.as_os_str()).output().unwrap());
    assert_eq!(done.code, 1);
    assert!(done.err.contains("sh"), "{}", done.err);
    assert_eq!(place.receive_all("t", "g")[0]["body"], json!("x"));
}
