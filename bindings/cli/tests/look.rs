//! Looking at messages, dead letters and counters: nothing is claimed by it.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.
#![allow(clippy::print_stderr)] // What a machine lacks is said.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use common::{Done, Place, signal, wait};
use serde_json::{Value, json};

/// What a group has, before and after something that must not change it: all but the time.
fn group(place: &Place, topic: &str, group: &str) -> Value {
    let done = place.run(&["groups", "info", topic, group, "-o", "jsonl"]);
    let mut row = done.ok().json_lines().remove(0);
    assert!(row.as_object_mut().unwrap().remove("oldest_age").is_some());
    row
}

fn bodies(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|m| m["body"].as_str().unwrap()).collect()
}

/// Gives up the next message of group g of topic t, with this reason.
fn reject(place: &Place, reason: &str) -> String {
    let done = place.run(&["recv", "t", "-g", "g", "-n", "1", "--no-ack"]);
    let message = done.ok().json_lines().remove(0);
    let receipt = message["receipt"].as_str().unwrap();
    place.run(&["reject", receipt, reason]).ok();
    message["id"].as_str().unwrap().to_owned()
}

#[test]
fn peek_tail_and_get_show_messages_and_claim_none() {
    let place = Place::new("peek");
    place
        .run(&["send", "t", "a", "-k", "key", "-H", "h=v"])
        .ok();
    place.feed(&["send", "t", "--lines"], b"b\nc\nd\n").ok();
    assert_eq!(place.run(&["peek", "t", "-g", "g"]).code, 4);
    place.run(&["recv", "t", "-g", "g", "-n", "1"]).ok();
    let before = group(&place, "t", "g");
    let all = place.run(&["peek", "t"]).ok().json_lines();
    assert_eq!(bodies(&all), ["a", "b", "c", "d"]);
    let fields: Vec<&String> = all[0].as_object().unwrap().keys().collect();
    let expected = [
        "id",
        "topic",
        "seq",
        "producer",
        "producer_seq",
        "key",
        "tag",
        "headers",
        "sent_at",
        "body",
    ];
    assert_eq!(fields, expected);
    assert_eq!(all[0]["headers"], json!({"h": "v"}));
    let of = |args: &[&str]| {
        let done = place.run(args).ok();
        let rows = done.json_lines();
        bodies(&rows).join(",")
    };
    assert_eq!(of(&["peek", "t", "-n", "2"]), "a,b");
    assert_eq!(of(&["peek", "t", "--from", "2"]), "c,d");
    assert_eq!(of(&["peek", "t", "-g", "g", "-n", "1"]), "b");
    assert_eq!(of(&["tail", "t", "-n", "2"]), "c,d");
    assert_eq!(of(&["tail", "t"]), "a,b,c,d");
    let id = all[1]["id"].as_str().unwrap();
    assert_eq!(place.run(&["get", id]).ok().json_lines(), all[1..2]);
    assert_eq!(place.run(&["get", id, "-o", "raw"]).ok().text(), "b\n");
    let done = place.run(&["peek", "t", "-o", "raw"]).ok();
    assert_eq!(done.text(), "a\nb\nc\nd\n");
    let done = place.run(&["tail", "t", "-o", "json"]).ok();
    let array: Value = serde_json::from_slice(&done.out).unwrap();
    assert_eq!(array, json!(all));
    let table = place.run(&["peek", "t", "-o", "table"]).ok();
    assert_eq!(table.text().lines().count(), 5, "{}", table.text());
    assert_eq!(group(&place, "t", "g"), before);
    // Nothing there, nowhere, and no such thing.
    assert_eq!(place.run(&["peek", "t", "--from", "4"]).code, 3);
    assert_eq!(place.run(&["tail", "t", "-n", "0"]).code, 3);
    assert_eq!(place.run(&["get", "00000000000fffff"]).code, 4);
    assert_eq!(place.run(&["get", "12"]).code, 2);
    for args in [&["peek", "x"][..], &["tail", "x"]] {
        assert_eq!(place.run(args).code, 4, "{args:?}");
    }
}

#[test]
fn tail_follows_until_it_is_stopped() {
    let place = Place::new("tail");
    place.run(&["send", "t", "first"]).ok();
    for (name, code) in [("INT", 130), ("TERM", 0)] {
        let mut command = place.keepq(&["tail", "t", "-f", "-n", "1", "-o", "raw"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        place.run(&["send", "t", "later"]).ok();
        out.read_line(&mut line).unwrap();
        assert!(line.ends_with("later\n"), "{line}");
        signal(&child, name);
        assert_eq!(wait(child), code);
        out.read_to_string(&mut line).unwrap();
    }
}

#[test]
fn dead_letters_are_listed_shown_and_purged() {
    let place = Place::new("dlq");
    place
        .feed(&["send", "t", "--lines"], b"a\n\xffb\nc\nd\n")
        .ok();
    let ls = ["dlq", "ls", "t", "-g", "g"];
    assert_eq!(place.run(&ls).code, 4, "there is no group yet");
    let ids: Vec<String> = ["no a", "no b", "no c"]
        .map(|why| reject(&place, why))
        .into();
    let before = group(&place, "t", "g");
    assert_eq!(before["dead"], 3);
    let rows = place.run(&ls).ok().json_lines();
    let found: Vec<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(found, ids);
    let row = &rows[1];
    assert_eq!((&row["topic"], &row["seq"]), (&json!("t"), &json!(1)));
    assert_eq!(row["dead_seq"], 1);
    assert_eq!(
        (&row["attempts"], &row["rejected"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(row["reason"], "no b");
    assert_eq!(row["body_base64"], "/2I=");
    assert!(row["dead_at"].as_str().unwrap().ends_with('Z'));
    let some = place.run(&[&ls[..], &["-n", "1", "--from", "2"]].concat());
    assert_eq!(some.ok().json_lines(), rows[2..]);
    let array = place.run(&[&ls[..], &["-o", "json"]].concat()).ok();
    let array: Value = serde_json::from_slice(&array.out).unwrap();
    assert_eq!(array, json!(rows));
    let table = place.run(&[&ls[..], &["-o", "table"]].concat()).ok();
    assert!(table.text().contains("no c"), "{}", table.text());
    let show = ["dlq", "show", "t", "-g", "g"];
    let one = place.run(&[&show[..], &[&ids[2]]].concat()).ok();
    assert_eq!(one.json_lines(), rows[2..]);
    let one = place.run(&[&show[..], &["--seq", "0", "-o", "table"]].concat());
    let text = one.ok().text().to_owned();
    assert!(text.contains("no a") && text.contains("dead_at"), "{text}");
    assert_eq!(place.run(&show).code, 2);
    assert_eq!(place.run(&[&show[..], &["zz"]].concat()).code, 2);
    let absent = "00000000000fffff";
    assert_eq!(place.run(&[&show[..], &[absent]].concat()).code, 4);
    assert_eq!(group(&place, "t", "g"), before, "looking changed something");

    let purge = ["dlq", "purge", "t", "-g", "g"];
    assert_eq!(place.run(&[&purge[..], &[absent]].concat()).code, 4);
    let done = place.run(&[&purge[..], &[&ids[1]]].concat()).ok();
    assert_eq!(done.json_lines(), [json!({"purged": 1})]);
    assert_eq!(place.run(&[&purge[..], &[&ids[1]]].concat()).code, 4);
    let rows = place.run(&ls).ok().json_lines();
    assert_eq!(bodies(&rows), ["a", "c"]);
    assert_eq!(place.run(&purge).ok().json_lines(), [json!({"purged": 2})]);
    assert_eq!(place.run(&ls).code, 3);
    assert_eq!(group(&place, "t", "g")["dead"], 0);
    // The topic's own message that was not given up is still there.
    assert_eq!(bodies(&place.receive_all("t", "g")), ["d"]);
    assert_eq!(place.run(&["dlq", "ls", "t", "-g", "x"]).code, 4);
}

#[test]
fn what_is_damaged_is_shown_as_such_with_5() {
    let place = Place::new("damaged");
    let body = "a body that is easy to find";
    let id = place
        .run(&["send", "t", body])
        .ok()
        .text()
        .trim()
        .to_owned();
    place.run(&["send", "t", "whole"]).ok();
    assert_eq!(reject(&place, "no"), id);
    let file = place.store().join("log/00000001.0.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(body.len()).position(|w| w == body.as_bytes());
    bytes[at.unwrap() + 3] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["get", &id]).code, 5);
    let done = place.run(&["peek", "t"]);
    assert_eq!(done.code, 5);
    let rows = done.json_lines();
    let damage = rows[0]["damage"].as_str().unwrap();
    assert!(damage.contains("00000001.0.seg"), "{damage}");
    assert_eq!(rows[1]["body"], "whole");
    let done = place.run(&["peek", "t", "-o", "table"]);
    assert!(
        done.code == 5 && done.text().contains("damaged"),
        "{done:?}"
    );
    let done = place.run(&["peek", "t", "-o", "raw"]);
    assert_eq!((done.code, done.text()), (5, "whole\n"));
    assert!(done.err.contains("sequence 0"), "{}", done.err);
    let done = place.run(&["dlq", "ls", "t", "-g", "g"]);
    assert_eq!(done.code, 5);
    let letter = &done.json_lines()[0];
    assert_eq!(letter["reason"], "no");
    assert!(letter["damage"].is_string() && letter["body"].is_null());
    let table = place.run(&["dlq", "ls", "t", "-g", "g", "-o", "table"]);
    assert!(table.code == 5 && table.text().contains("(damaged)"));
    let seq = ["--seq", "0"];
    let show = [&["dlq", "show", "t", "-g", "g"][..], &seq].concat();
    assert_eq!(place.run(&show).code, 5);
    let purge = [&["dlq", "purge", "t", "-g", "g"][..], &seq].concat();
    assert_eq!(place.run(&purge).ok().json_lines(), [json!({"purged": 1})]);
    assert_eq!(place.run(&["dlq", "ls", "t", "-g", "g"]).code, 3);
}

#[test]
fn topics_and_groups_have_an_info() {
    let place = Place::new("info");
    place.run(&["send", "t", "x"]).ok();
    place.run(&["recv", "t", "-g", "g", "-n", "1"]).ok();
    place.run(&["recv", "t", "-g", "h", "-n", "1"]).ok();
    let topic = place.run(&["topics", "info", "t"]).ok().json_lines();
    let expected = json!({
        "name": "t", "first_seq": 0, "next_seq": 1, "groups": ["g", "h"],
        "pinned_bytes": 0, "pinned_by": "", "kept": null, "kept_bytes": null,
        "max_bytes": null, "max_messages": null, "when_full": "refuse",
        "retain_age": null, "retain_bytes": null,
    });
    assert_eq!(topic, [expected]);
    let info = group(&place, "t", "g");
    assert_eq!(
        (&info["lease"], &info["max_attempts"]),
        (&json!(30.0), &json!(16))
    );
    assert_eq!(info["ack_flush"], "async");
    let backoff = json!({"first": 1.0, "factor": 2.0, "max": 600.0, "jitter": 0.1});
    assert_eq!(info["backoff"], backoff);
    // This command is no consumer of what it tells of.
    assert_eq!(info["consumers"], 0);
    let store = keepq::Store::open(place.store()).unwrap();
    let levels = store
        .group("t", "levels")
        .backoff(keepq::Backoff::rocketmq());
    let levels = levels.open().unwrap();
    let info = group(&place, "t", "levels");
    assert_eq!(
        (&info["backoff"], &info["consumers"]),
        (&json!("rocketmq"), &json!(1))
    );
    levels.delete().unwrap();
    store.close().unwrap();
    let table = place.run(&["groups", "info", "t", "g", "-o", "table"]).ok();
    assert!(table.text().contains("max_attempts"), "{}", table.text());
    let whole = place.run(&["topics", "info", "t", "-o", "json"]).ok();
    let whole: Value = serde_json::from_slice(&whole.out).unwrap();
    assert_eq!(whole, topic[0]);
    assert_eq!(place.run(&["topics", "info", "x"]).code, 4);
    assert_eq!(place.run(&["groups", "info", "t", "x"]).code, 4);
    assert_eq!(place.run(&["groups", "info", "x", "g"]).code, 4);
}

#[test]
fn stats_for_prometheus_say_each_number_once() {
    let place = Place::new("prom");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    place.run(&["recv", "t", "-g", "g", "-n", "1"]).ok();
    // One that sorts before, and has nothing to do.
    place.run(&["recv", "t", "-g", "all", "--wait", "0"]).ok();
    let done = place.run(&["stats", "-o", "prom"]).ok();
    let lines: Vec<&str> = done.text().lines().collect();
    // Where there is no number, there is no line.
    let ages = lines.iter().filter(|l| l.contains("oldest_age")).copied();
    let ages: Vec<&str> = ages.collect();
    assert_eq!(ages[0], "# TYPE keepq_group_oldest_age_seconds gauge");
    let age = ages[1].strip_prefix("keepq_group_oldest_age_seconds{topic=\"t\",group=\"g\"} ");
    let age: f64 = age.unwrap().parse().unwrap();
    assert!(ages.len() == 2 && (0.0..600.0).contains(&age), "{ages:?}");
    for line in [
        "# TYPE keepq_store_flushes_total counter",
        "# TYPE keepq_group_ready gauge",
        "keepq_topic_next_seq{topic=\"t\"} 2",
        "keepq_group_ready{topic=\"t\",group=\"g\"} 1",
        "keepq_group_dead{topic=\"t\",group=\"g\"} 0",
        "keepq_group_consumers{topic=\"t\",group=\"g\"} 0",
    ] {
        let times = lines.iter().filter(|l| **l == line).count();
        assert_eq!(times, 1, "{line} in {}", done.text());
    }
    // A type, then its samples; names and numbers as the format has them.
    let mut family = "";
    for line in lines {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(series.split('{').next(), Some(family));
        let whole = !series.contains("age_seconds");
        assert!(!whole || value.parse::<u64>().is_ok(), "{line}");
    }
}

#[test]
fn stats_are_printed_again_and_again_until_stopped() {
    let place = Place::new("watch");
    place.run(&["send", "t", "a"]).ok();
    let mut command = place.keepq(&["stats", "-o", "prom", "--watch", "50ms"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut seen = 0;
    for line in out.lines() {
        let line = line.unwrap();
        if line == "keepq_topic_next_seq{topic=\"t\"} 1" && seen == 0 {
            seen = 1;
            place.run(&["send", "t", "b"]).ok();
        }
        if line == "keepq_topic_next_seq{topic=\"t\"} 2" && seen == 1 {
            seen = 2;
            signal(&child, "INT");
        }
    }
    assert_eq!((seen, wait(child)), (2, 130));
}

#[test]
fn completions_name_the_commands() {
    let place = Place::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let done = place.run(&["completions", shell]).ok();
        for word in ["recv", "dlq", "store", "purge"] {
            assert!(done.text().contains(word), "{shell} lacks {word}");
        }
        assert!(!done.text().contains("demo-role"), "a hidden command");
    }
    assert_eq!(place.run(&["completions", "cmd"]).code, 2);
}

/// The program in a mount namespace of its own, where the store is mounted read-only. None: this
/// machine lets nobody make one.
fn on_a_read_only_mount(place: &Place, args: &[&str]) -> Option<Done> {
    let unshare = ["--user", "--map-root-user", "--mount"];
    let may = Command::new("unshare").args(unshare).arg("true").status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("NOT RUN: this machine allows no mount namespaces to users");
        return None;
    }
    let script = "mount --bind \"$KEEPQ_STORE\" \"$KEEPQ_STORE\" && \
                  mount -o remount,ro,bind \"$KEEPQ_STORE\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_keepq")])
        .args(args)
        .env("KEEPQ_STORE", place.store())
        .output();
    Some(Done::from(output.unwrap()))
}

#[test]
fn on_a_read_only_mount_everything_can_be_looked_at_and_nothing_changed() {
    let place = Place::new("mount");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    reject(&place, "no");
    let files = |place: &Place| -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let dirs = [place.store(), place.store().join("log")];
        let entries = dirs.iter().flat_map(|d| std::fs::read_dir(d).unwrap());
        let paths = entries.map(|e| e.unwrap().path()).filter(|p| p.is_file());
        paths
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect()
    };
    let before = files(&place);
    let peek = ["peek", "t"];
    let Some(done) = on_a_read_only_mount(&place, &peek) else {
        return;
    };
    assert_eq!(bodies(&done.ok().json_lines()), ["a", "b"]);
    let run = |args: &[&str]| on_a_read_only_mount(&place, args).unwrap();
    let letters = run(&["dlq", "ls", "t", "-g", "g"]).ok().json_lines();
    assert_eq!(letters[0]["reason"], "no");
    assert_eq!(
        run(&["groups", "info", "t", "g"]).ok().json_lines()[0]["dead"],
        1
    );
    run(&["stats"]).ok();
    run(&["verify"]).ok();
    for args in [
        &["send", "t", "x"][..],
        &["recv", "t", "-g", "g", "--wait", "0"],
        &["dlq", "purge", "t", "-g", "g"],
    ] {
        let done = run(args);
        assert_eq!(done.code, 1, "{args:?}");
        assert!(done.err.to_lowercase().contains("read"), "{}", done.err);
    }
    assert!(before == files(&place), "something was changed");
    // While somebody outside writes, what he writes is seen.
    let store = keepq::Store::open(place.store()).unwrap();
    store.topic("t").unwrap().send(b"c").unwrap();
    let held = store.group("t", "g").open().unwrap();
    let held = held.receive(std::time::Duration::ZERO).unwrap().unwrap();
    assert_eq!(bodies(&run(&peek).ok().json_lines()), ["a", "b", "c"]);
    let info = run(&["groups", "info", "t", "g"]).ok().json_lines();
    assert_eq!(
        (&info[0]["in_flight"], &info[0]["lag"]),
        (&json!(1), &json!(1))
    );
    held.ack().unwrap();
    store.close().unwrap();
}

#[test]
fn peek_shows_the_messages_with_a_key() {
    let place = Place::new("key");
    for (body, key) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "a")] {
        place.run(&["send", "t", body, "-k", key]).ok();
    }
    place.run(&["send", "t", "5"]).ok();
    let found = |args: &[&str]| {
        let done = place
            .run(&[&["peek", "t", "-o", "raw"], args].concat())
            .ok();
        done.text().to_owned()
    };
    assert_eq!(found(&["--key", "a"]), "1\n3\n4\n");
    assert_eq!(found(&["-k", "a", "-n", "1", "--from", "1"]), "3\n");
    assert_eq!(found(&["-k", "b"]), "2\n");
    assert_eq!(place.run(&["peek", "t", "-k", "c"]).code, 3);
}
