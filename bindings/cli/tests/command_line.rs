//! The command line as its users meet it: exit codes, formats, signals, failing outputs.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::{Place, signal, wait};
use serde_json::{Value, json};

#[test]
fn a_message_travels_with_everything_it_has() {
    let place = Place::new("travel");
    let args = [
        "send",
        "orders",
        "hello",
        "-k",
        "user-42",
        "-t",
        "new",
        "-H",
        "source=web",
    ];
    let id = place.run(&args).ok().text().trim().to_string();
    assert_eq!(id.len(), 16, "{id}");
    let done = place
        .run(&["recv", "orders", "-g", "billing", "-n", "1"])
        .ok();
    let message = &done.json_lines()[0];
    assert_eq!(message["id"], json!(id));
    assert_eq!(message["topic"], "orders");
    assert_eq!(message["seq"], 0);
    assert_eq!(message["producer"], Value::Null);
    assert_eq!(message["producer_seq"], Value::Null);
    assert_eq!(message["key"], "user-42");
    assert_eq!(message["tag"], "new");
    assert_eq!(message["headers"], json!({"source": "web"}));
    assert_eq!(message["attempt"], 1);
    assert_eq!(message["body"], "hello");
    let sent_at = message["sent_at"].as_str().unwrap();
    assert!(
        sent_at.len() == 24 && sent_at.starts_with("20") && sent_at.ends_with('Z'),
        "{sent_at}"
    );
    let fields: Vec<_> = message
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let documented = [
        "id",
        "topic",
        "seq",
        "producer",
        "producer_seq",
        "key",
        "tag",
        "headers",
        "attempt",
        "sent_at",
        "receipt",
        "body",
    ];
    let mut documented = documented.to_vec();
    documented.sort_unstable();
    let mut fields = fields.clone();
    fields.sort_unstable();
    assert_eq!(fields, documented);
    // Acknowledged once written: nothing is left.
    assert_eq!(
        place
            .run(&["recv", "orders", "-g", "billing", "--wait", "0"])
            .code,
        3
    );
}

#[test]
fn only_send_makes_a_store_or_a_topic() {
    let place = Place::new("nothing");
    for args in [
        &["recv", "orders", "-g", "g", "--wait", "0"][..],
        &["stats"],
        &["topics", "ls"],
        &["groups", "ls"],
        &["verify"],
    ] {
        let done = place.run(args);
        assert_eq!(done.code, 4, "{args:?}: {done:?}");
        assert!(!done.err.is_empty());
        assert!(!place.store().exists(), "{args:?} made a store");
    }
    place.run(&["send", "orders", "x"]).ok();
    assert_eq!(
        place.run(&["recv", "order", "-g", "g", "--wait", "0"]).code,
        4
    );
    assert_eq!(place.run(&["groups", "ls", "order"]).code, 4);
    let topics = place
        .run(&["topics", "ls", "-o", "jsonl"])
        .ok()
        .json_lines();
    let names: Vec<_> = topics.iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["orders"], "a mistyped topic was made");
}

#[test]
fn usage_errors_are_2_and_say_what_to_do() {
    let place = Place::new("usage");
    let mut command = place.keepq(&["stats"]);
    let output = command.env_remove("KEEPQ_STORE").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("--store") && text.contains("KEEPQ_STORE"),
        "{text}"
    );
    for args in [
        &["recv", "t", "-g", "g", "-o", "xml"][..],
        &["recv", "t"],
        &["recv", "t", "-g", "g", "--wait", "soon"],
        &["recv", "t", "-g", "g", "-n", "0"],
        &["send", "t", "body", "--lines"],
        &["send", "t", "body", "-H", "=x"],
        &["send", "no/such/name", "body"],
        &["ack", "this-is-no-receipt"],
        &["frobnicate"],
    ] {
        assert_eq!(place.run(args).code, 2, "{args:?}");
    }
    assert_eq!(place.run(&["--help"]).code, 0);
    assert!(place.run(&["--version"]).ok().text().starts_with("keepq "));
}

#[test]
fn lines_keep_every_byte() {
    let place = Place::new("lines");
    place
        .feed(&["send", "t", "--lines"], b"a\r\n\n\xff\xfe\nend")
        .ok();
    let messages = place.receive_all("t", "g");
    assert_eq!(messages.len(), 4);
    assert_eq!(messages[0]["body"], "a\r");
    assert_eq!(messages[1]["body"], "");
    assert_eq!(messages[2]["body_base64"], "//4=");
    assert!(messages[2].get("body").is_none());
    assert_eq!(messages[3]["body"], "end");
    let raw = place
        .run(&["recv", "t", "-g", "raw", "--wait", "0", "-o", "raw"])
        .ok();
    assert_eq!(raw.out, b"a\r\n\n\xff\xfe\nend\n");
}

#[test]
fn standard_input_without_lines_is_one_message() {
    let place = Place::new("stdin");
    place.feed(&["send", "t"], b"one\ntwo\n").ok();
    place.feed(&["send", "t"], b"").ok();
    let messages = place.receive_all("t", "g");
    let bodies: Vec<_> = messages
        .iter()
        .map(|m| m["body"].as_str().unwrap())
        .collect();
    assert_eq!(bodies, ["one\ntwo\n", ""]);
    let large = vec![b'x'; (16 << 20) + 1];
    let done = place.feed(&["send", "t"], &large);
    assert_eq!(done.code, 1, "{}", done.err);
}

#[test]
fn a_named_producer_resumes_and_never_duplicates() {
    let place = Place::new("producer");
    let args = ["send", "t", "--lines", "--producer", "loader"];
    place.feed(&args, b"0\n1\n2\n").ok();
    place.feed(&args, b"0\n1\n2\n").ok();
    place.feed(&args, b"0\n1\n2\n3\n4\n").ok();
    let messages = place.receive_all("t", "g");
    assert_eq!(messages.len(), 5, "{messages:?}");
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(message["producer"], "loader");
        assert_eq!(message["producer_seq"], n);
        assert_eq!(message["body"], n.to_string());
    }
}

#[test]
fn a_receipt_settles_from_another_process() {
    let place = Place::new("receipt");
    place.feed(&["send", "t", "--lines"], b"a\nb\nc\n").ok();
    let taken = place
        .run(&["recv", "t", "-g", "g", "-n", "3", "--no-ack"])
        .ok()
        .json_lines();
    let receipt = |n: usize| taken[n]["receipt"].as_str().unwrap().to_string();
    // Nobody gets them while the leases last, though the process that took them is gone.
    assert_eq!(
        place.run(&["recv", "t", "-g", "g", "--wait", "300ms"]).code,
        3
    );
    place.run(&["extend", &receipt(0), "1m"]).ok();
    place.run(&["ack", &receipt(0)]).ok();
    place.run(&["nack", &receipt(1), "--delay", "0"]).ok();
    place.run(&["reject", &receipt(2), "unreadable"]).ok();
    let again = place.receive_all("t", "g");
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(
        (&again[0]["body"], &again[0]["attempt"]),
        (&json!("b"), &json!(2))
    );
    let late = place.run(&["ack", &receipt(0)]);
    assert_eq!(late.code, 1, "a receipt settles once: {late:?}");
    let group = &place
        .run(&["groups", "ls", "-o", "jsonl"])
        .ok()
        .json_lines()[0];
    assert_eq!(group["dead"], 1);
}

#[test]
fn a_failed_write_gives_the_message_back() {
    let place = Place::new("full");
    place.run(&["send", "t", "x"]).ok();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = place.keepq(&["recv", "t", "-g", "g", "-n", "1"]);
    let output = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
    let again = place.receive_all("t", "g");
    assert_eq!(again.len(), 1, "what was not written is not acknowledged");
}

#[test]
fn a_closed_pipe_gives_the_message_back() {
    let place = Place::new("pipe");
    place.run(&["send", "t", "x"]).ok();
    let mut command = place.keepq(&["recv", "t", "-g", "g", "-n", "1"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .stdout(writer)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.receive_all("t", "g").len(), 1);
}

/// Starts `recv` without an end, and returns it once it has printed the first message.
fn waiting_receiver(place: &Place) -> std::process::Child {
    place.run(&["send", "t", "first"]).ok();
    let mut command = place.keepq(&["recv", "t", "-g", "g"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("first"), "{line}");
    child
}

#[test]
fn ctrl_c_ends_a_wait_with_130_and_leaves_nothing_leased() {
    let place = Place::new("sigint");
    let child = waiting_receiver(&place);
    signal(&child, "INT");
    assert_eq!(wait(child), 130);
    let group = &place
        .run(&["groups", "ls", "-o", "jsonl"])
        .ok()
        .json_lines()[0];
    assert_eq!(
        (&group["in_flight"], &group["ready"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn sigterm_ends_a_wait_cleanly() {
    let place = Place::new("sigterm");
    let child = waiting_receiver(&place);
    signal(&child, "TERM");
    assert_eq!(wait(child), 0);
}

#[test]
fn ctrl_c_ends_a_send_that_waits_for_input() {
    let place = Place::new("sigint-send");
    let mut command = place.keepq(&["send", "t", "--lines", "-o", "jsonl"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"one\n").unwrap();
    // A complete line is sent though the input goes on.
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("SEND_OK"), "{line}");
    signal(&child, "INT");
    assert_eq!(wait(child), 130);
    drop(stdin);
    assert_eq!(place.receive_all("t", "g").len(), 1);
}

#[test]
fn recv_ends_after_n_messages_and_prints_one_json_array() {
    let place = Place::new("array");
    place.feed(&["send", "t", "--lines"], b"a\nb\nc\n").ok();
    let done = place
        .run(&["recv", "t", "-g", "g", "-n", "2", "-o", "json"])
        .ok();
    let array: Value = serde_json::from_slice(&done.out).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 2);
    let done = place
        .run(&[
            "recv", "t", "-g", "g", "-n", "5", "--wait", "0", "-o", "table",
        ])
        .ok();
    assert_eq!(done.text().lines().count(), 2, "{}", done.text());
    let done = place.run(&["recv", "t", "-g", "g", "--wait", "0", "-o", "json"]);
    assert_eq!((done.code, done.text()), (3, "[]\n"));
}

#[test]
fn stats_count_in_every_form() {
    let place = Place::new("stats");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    place.run(&["recv", "t", "-g", "g", "-n", "1"]).ok();
    let rows = place.run(&["stats"]).ok().json_lines();
    let types: Vec<_> = rows
        .iter()
        .map(|row| row["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["store", "topic", "group"]);
    assert_eq!(
        (&rows[1]["next_seq"], &rows[1]["groups"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&rows[2]["ready"], &rows[2]["in_flight"]),
        (&json!(1), &json!(0))
    );
    let age = rows[2]["oldest_age"].as_f64().unwrap();
    assert!((0.0..600.0).contains(&age), "{age}");
    assert_eq!(rows[2]["consumers"], 0);
    let all: Value = serde_json::from_slice(&place.run(&["stats", "-o", "json"]).ok().out).unwrap();
    assert_eq!(all["topics"][0]["name"], "t");
    assert_eq!(all["groups"][0]["consumers"], 0);
    let table = place.run(&["stats", "-o", "table"]).ok();
    assert!(table.text().contains("durable"));
    assert!(table.text().contains("oldest_age"));
    place.run(&["recv", "t", "-g", "g", "--wait", "0"]).ok();
    let rows = place.run(&["stats"]).ok().json_lines();
    assert_eq!(rows[2]["oldest_age"], Value::Null, "it has nothing to do");
}

#[test]
fn verify_passes_a_sound_store_and_names_damage() {
    let place = Place::new("verify");
    place
        .feed(&["send", "t", "--lines"], b"first body\nsecond body\n")
        .ok();
    // Sent later, it is the proof that the others were on disk: they cannot be a torn tail.
    place.run(&["send", "t", "third body"]).ok();
    let report = place.run(&["verify", "-o", "json"]).ok();
    let report: Value = serde_json::from_slice(&report.out).unwrap();
    assert_eq!(
        (&report["ok"], &report["messages"]),
        (&json!(true), &json!(3))
    );
    let log = place.store().join("log");
    let segment = std::fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(10).any(|window| window == b"first body")
        })
        .expect("a segment holds the first body");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes
        .windows(10)
        .position(|window| window == b"first body")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let done = place.run(&["verify", "-o", "jsonl"]);
    assert_eq!(done.code, 5, "{done:?}");
    let finding = &done.json_lines()[0];
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(
        finding["file"].as_str().unwrap().ends_with(name),
        "{finding}"
    );
    let position = usize::try_from(finding["position"].as_u64().unwrap()).unwrap();
    assert!(
        position <= at && at - position < 256,
        "{position}, not near {at}"
    );
    assert!(!finding["reason"].as_str().unwrap().is_empty());
}

#[test]
fn doctor_examines_the_place() {
    let place = Place::new("doctor");
    place.run(&["send", "t", "x"]).ok();
    let checks = place.run(&["doctor", "-o", "jsonl"]).ok().json_lines();
    assert!(!checks.is_empty());
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:?}");
}

#[test]
fn bench_measures_a_small_backlog() {
    let place = Place::new("bench");
    let dir = place.dir.to_str().unwrap();
    let args = [
        "bench",
        "--dir",
        dir,
        "--only",
        "receive",
        "--backlog",
        "2000",
        "-o",
        "json",
    ];
    let done = place.run(&args).ok();
    let rows: Value = serde_json::from_slice(&done.out).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(rows[0]["keepq"].as_f64().unwrap() > 0.0);
    assert_eq!(
        std::fs::read_dir(&place.dir).unwrap().count(),
        0,
        "the stores are removed"
    );
}

#[test]
fn the_demonstration_accounts_for_every_message_and_notices_a_loss() {
    let place = Place::new("demo");
    for (name, more, code, lost) in [
        ("sound", None, 0, "lost=0"),
        ("sabotaged", Some("--sabotage"), 1, "lost=1"),
    ] {
        let dir = place.dir.join(name);
        let dir = dir.to_str().unwrap();
        let mut args = vec![
            "demo",
            "--seconds",
            "1",
            "--kills",
            "15",
            "--seed",
            "7",
            "--dir",
            dir,
        ];
        args.extend(more);
        let done = place.run(&args);
        assert_eq!(done.code, code, "{done:?}");
        let lines: Vec<_> = done.text().lines().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("sent=") && lines[0].ends_with(lost),
            "{}",
            lines[0]
        );
    }
}

#[test]
fn tags_order_keys_and_consumers_reach_the_group() {
    let place = Place::new("choosy");
    for (body, tag, key) in [
        ("1", "a", "k"),
        ("2", "b", "k"),
        ("3", "a", "k"),
        ("4", "c", "l"),
    ] {
        let args = ["send", "t", body, "-t", tag, "--order-key", key];
        place.run(&args).ok();
    }
    let bodies = |args: &[&str]| {
        let receive = ["recv", "t", "--wait", "0", "-o", "raw"];
        let done = place.run(&[&receive[..], args].concat()).ok();
        done.text().to_owned()
    };
    let filter = ["-g", "some", "--tag", "a", "--tag", "c"];
    assert_eq!(bodies(&filter), "1\n3\n4\n");
    let other = place.run(&["recv", "t", "-g", "some", "--tag", "b", "--wait", "0"]);
    assert_eq!(other.code, 1, "{other:?}");
    // Leased and left so, the first of a key holds the others back.
    let ordered = ["-g", "lanes", "--ordered"];
    assert_eq!(bodies(&[&ordered[..], &["--no-ack"]].concat()), "1\n4\n");
    let none = place.run(&["recv", "t", "-g", "lanes", "--wait", "0"]);
    assert_eq!(none.code, 3, "{none:?}");
    // Each consumer gets all for itself.
    for consumer in ["one", "two"] {
        let mine = ["-g", "news", "--consumer", consumer];
        assert_eq!(bodies(&mine), "1\n2\n3\n4\n");
    }
    // One without a name does each time, and leaves nothing.
    for _ in 0..2 {
        assert_eq!(bodies(&["-g", "news", "--broadcast"]), "1\n2\n3\n4\n");
    }
    let groups = place.run(&["groups", "ls"]).ok().json_lines();
    let names: Vec<_> = groups.iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lanes", "news%one", "news%two", "some"]);
    for other in [&["--consumer", "one"][..], &["--no-ack"]] {
        let both = ["recv", "t", "-g", "news", "--broadcast"];
        assert_eq!(place.run(&[&both, other].concat()).code, 2, "{other:?}");
    }
}
