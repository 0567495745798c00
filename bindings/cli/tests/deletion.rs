//! Topics are made with options, changed and purged, topics and groups deleted, through the
//! program.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod common;

use common::Place;

fn bodies(place: &Place, topic: &str, group: &str) -> Vec<String> {
    let rows = place.receive_all(topic, group);
    let body = |m: &serde_json::Value| m["body"].as_str().unwrap().to_owned();
    rows.iter().map(body).collect()
}

#[test]
fn a_topic_is_purged_and_goes_on() {
    let place = Place::new("purge");
    place.feed(&["send", "t", "--lines"], b"a\nb\nc\n").ok();
    place.run(&["recv", "t", "-g", "g", "-n", "1"]).ok();
    let done = place.run(&["topics", "purge", "t", "-o", "jsonl"]).ok();
    assert_eq!(done.text(), "{\"purged\":2}\n");
    assert_eq!(bodies(&place, "t", "g"), [""; 0]);
    place.run(&["send", "t", "d"]).ok();
    assert_eq!(bodies(&place, "t", "g"), ["d"]);
    assert_eq!(place.run(&["topics", "purge", "nowhere"]).code, 4);
}

#[test]
fn a_topic_is_deleted_with_its_groups_and_dead_letters() {
    let place = Place::new("topic");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    let done = place
        .run(&["recv", "t", "-g", "g", "-n", "1", "--no-ack"])
        .ok();
    let receipt = done.json_lines()[0]["receipt"].as_str().unwrap().to_owned();
    place.run(&["reject", &receipt, "no good"]).ok();
    let stream = "%DLQ%t%g";
    assert_eq!(place.run(&["topics", "rm", stream]).code, 2);
    assert_eq!(place.run(&["topics", "rm", "t"]).ok().text(), "");
    for args in [
        &["topics", "rm", "t"][..],
        &["topics", "info", "t"],
        &["tail", "t"],
    ] {
        assert_eq!(place.run(args).code, 4, "{args:?}");
    }
    assert_eq!(place.run(&["dlq", "ls", "t", "-g", "g"]).code, 4);
    assert_eq!(place.run(&["groups", "ls", "-o", "jsonl"]).ok().text(), "");
    assert_eq!(place.run(&["topics", "ls", "-o", "jsonl"]).ok().text(), "");
    place.run(&["send", "t", "new"]).ok();
    assert_eq!(bodies(&place, "t", "g"), ["new"]);
    place.run(&["verify"]).ok();
}

#[test]
fn options_are_given_shown_and_changed() {
    let place = Place::new("options");
    let create = [
        "topics",
        "create",
        "t",
        "--max-messages",
        "2",
        "--retain-age",
        "2m",
    ];
    assert_eq!(place.run(&create).code, 4, "only send makes a store");
    place.run(&["send", "other", "x"]).ok();
    let done = place.run(&[&create[..], &["-o", "jsonl"]].concat()).ok();
    let options = done.json_lines().remove(0);
    assert_eq!(options["max_messages"], 2);
    assert_eq!(
        (&options["when_full"], &options["retain_age"]),
        (&"refuse".into(), &120.0.into())
    );
    assert!(options["max_bytes"].is_null());
    // The same again, and another.
    place.run(&create).ok();
    let other = place.run(&["topics", "create", "t", "--max-messages", "3"]);
    assert_eq!(other.code, 1, "{}", other.err);
    assert!(
        other.err.contains('2') && other.err.contains('3'),
        "{}",
        other.err
    );
}

#[test]
fn a_limit_refuses_sends_until_it_is_raised() {
    let place = Place::new("limit");
    place.run(&["send", "t", "a"]).ok();
    place
        .run(&["topics", "configure", "t", "--max-messages", "2"])
        .ok();
    place.run(&["send", "t", "b"]).ok();
    let full = place.run(&["send", "t", "c"]);
    assert_eq!(full.code, 1, "{}", full.err);
    assert!(full.err.contains("max_messages is 2"), "{}", full.err);
    let change = [
        "topics",
        "configure",
        "t",
        "--max-messages",
        "none",
        "--max-bytes",
        "1k",
    ];
    place.run(&change).ok();
    place.run(&["send", "t", "c"]).ok();
    let info = place
        .run(&["topics", "info", "t", "-o", "jsonl"])
        .ok()
        .json_lines()
        .remove(0);
    assert_eq!((&info["kept"], &info["kept_bytes"]), (&3.into(), &3.into()));
    assert_eq!(
        (&info["max_messages"], &info["max_bytes"]),
        (&serde_json::Value::Null, &1024.into())
    );
    assert_eq!(
        place
            .run(&["topics", "configure", "nowhere", "--max-bytes", "1k"])
            .code,
        4
    );
    assert_eq!(
        place
            .run(&["topics", "configure", "t", "--max-bytes", "1x"])
            .code,
        2
    );
    assert_eq!(
        place
            .run(&["topics", "configure", "t", "--max-bytes", "0"])
            .code,
        2
    );
}

#[test]
fn a_group_is_deleted_and_the_others_stay() {
    let place = Place::new("group");
    place.feed(&["send", "t", "--lines"], b"a\nb\n").ok();
    assert_eq!(bodies(&place, "t", "kept"), ["a", "b"]);
    let done = place
        .run(&["recv", "t", "-g", "g", "-n", "1", "--no-ack"])
        .ok();
    let receipt = done.json_lines()[0]["receipt"].as_str().unwrap().to_owned();
    place.run(&["groups", "rm", "t", "g"]).ok();
    for args in [
        &["groups", "rm", "t", "g"][..],
        &["groups", "info", "t", "g"],
        &["ack", &receipt],
    ] {
        assert_eq!(place.run(args).code, 4, "{args:?}");
    }
    assert_eq!(place.run(&["groups", "rm", "nowhere", "g"]).code, 4);
    place.run(&["send", "t", "c"]).ok();
    assert_eq!(bodies(&place, "t", "kept"), ["c"]);
}
