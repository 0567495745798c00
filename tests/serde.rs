//! The feature `serde`: what the values of the API look like as JSON, and that they are read back.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/members.rs"]
mod members;

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Backoff, Code, Error, Flush, GroupConfig, MessageId, Outcome, Sent, Start};
use keepq::{RecoveryReport, StoreStats, VerifyReport};
use members::open;
use serde_json::{Value, from_value, json, to_value};

fn value(of: impl serde::Serialize) -> Value {
    to_value(of).unwrap()
}

#[test]
fn what_a_send_returns_is_read_back() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let sent = m.store.topic("t").unwrap().send(b"x").unwrap();
    let json = value(&sent);
    let id = format!("{:016x}", sent.id.lsn());
    assert_eq!(
        json,
        json!({ "id": id, "seq": 0, "status": "SEND_OK", "durable": true, "duplicate": false })
    );
    assert_eq!(from_value::<Sent>(json).unwrap(), sent);
    assert_eq!(from_value::<MessageId>(json!(id)).unwrap(), sent.id);
    assert!(from_value::<MessageId>(json!("12")).is_err());
    assert!(from_value::<MessageId>(json!(12)).is_err());
}

#[test]
fn settings_are_words_and_are_read_back() {
    for (flush, word) in [(Flush::Sync, "sync"), (Flush::Async, "async")] {
        assert_eq!(value(flush), json!(word));
        assert_eq!(from_value::<Flush>(json!(word)).unwrap(), flush);
    }
    for (start, json) in [
        (Start::Earliest, json!("earliest")),
        (Start::Latest, json!("latest")),
        (Start::Sequence(7), json!({ "sequence": 7 })),
        (Start::Time(8), json!({ "time": 8 })),
    ] {
        assert_eq!(value(start), json);
        assert_eq!(from_value::<Start>(json).unwrap(), start);
    }
    let outcomes = [Outcome::NotStored, Outcome::MaybeStored, Outcome::Stored];
    for outcome in outcomes {
        assert_eq!(value(outcome), json!(outcome.name()));
        assert_eq!(from_value::<Outcome>(value(outcome)).unwrap(), outcome);
    }
    let backoff = Backoff::default();
    assert_eq!(from_value::<Backoff>(value(backoff)).unwrap(), backoff);
}

#[test]
fn an_error_says_everything_it_knows() {
    let error = Error::new(Code::Full, "no room")
        .at_path("/a/b")
        .at_position(7)
        .with_errno(28)
        .with_outcome(Outcome::NotStored);
    assert_eq!(
        value(&error),
        json!({
            "code": format!("KQ-{}", Code::Full.number()), "name": "Full", "message": "no room",
            "retriable": true, "outcome": "not_stored", "path": "/a/b", "position": 7,
            "errno": 28,
        })
    );
    let bare = value(Error::new(Code::Closed, "closed"));
    assert_eq!(
        (&bare["path"], &bare["errno"], &bare["outcome"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

#[test]
fn reports_and_counters_are_read_back() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    m.send("t", 1, 50);
    let group = m.group("t", "g");
    let config = m.store.group("t", "g").open().unwrap().stats().unwrap();
    assert_eq!(value(&config)["ready"], json!(1));
    let stats = m.store.stats().unwrap();
    let json = value(&stats);
    assert_eq!(json["topics"][0]["name"], json!("t"));
    assert_eq!(from_value::<StoreStats>(json).unwrap(), stats);
    let recovery = m.store.recovery().clone();
    assert_eq!(
        from_value::<RecoveryReport>(value(&recovery)).unwrap(),
        recovery
    );
    let verified = m.store.verify().unwrap();
    assert_eq!(
        from_value::<VerifyReport>(value(&verified)).unwrap(),
        verified
    );
    drop(group);
    m.leaves();
    assert!(world.remove("LOCK"));
    assert!(world.remove("ctl"));
    let process = world.process();
    let report = keepq::repair_simulated(&process, &keepq::RepairOptions::default()).unwrap();
    let json = value(&report);
    assert_eq!(json["actions"][0], json!("LOCK: it is missing; made anew"));
    assert_eq!(from_value::<keepq::RepairReport>(json).unwrap(), report);
    let config: GroupConfig = from_value(json!({
        "lease": { "secs": 30, "nanos": 0 },
        "max_attempts": 16,
        "backoff": value(Backoff::default()),
        "ack_flush": "sync",
        "max_outstanding": 64,
        "tags": ["new"],
        "ordered": false,
    }))
    .unwrap();
    assert_eq!(
        (config.lease, config.ack_flush),
        (Duration::from_secs(30), Flush::Sync)
    );
}
