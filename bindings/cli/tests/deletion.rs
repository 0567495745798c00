//! Topics and groups are purged and deleted through the program.

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
