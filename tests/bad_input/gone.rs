//! Stores whose files are taken away while they are open: no send reports success for what went
//! into a deleted file.

use std::path::Path;
use std::time::{Duration, Instant};

use keepq::{Code, Error, Flush, Outcome, Store, Topic};

use crate::children::{PATIENCE, Place};
use crate::numbered;

fn told(e: &Error) {
    assert_eq!(e.code(), Code::StoreGone, "{e}");
    assert!(e.outcome().is_some_and(|o| o != Outcome::Stored), "{e:?}");
    assert!(!e.is_retriable());
}

fn open(path: &Path, flush: Flush) -> (Store, Topic) {
    let options = Store::options().flush(flush).send_timeout(PATIENCE);
    let store = options.open(path).unwrap();
    let topic = store.topic("t").unwrap();
    topic.send(b"before").unwrap();
    (store, topic)
}

#[test]
fn a_sync_send_into_a_deleted_store_is_never_a_success() {
    for what in ["store", "log", "segment"] {
        let place = Place::new(&format!("gone-{what}"));
        let (store, topic) = open(&place.store(), Flush::Sync);
        let (second, theirs) = open(&place.store(), Flush::Sync);
        match what {
            "store" => std::fs::remove_dir_all(place.store()).unwrap(),
            "log" => std::fs::remove_dir_all(place.store().join("log")).unwrap(),
            _ => std::fs::remove_file(place.store().join("log/00000001.0.seg")).unwrap(),
        }
        told(&topic.send(b"lost").unwrap_err());
        // It stays so, for everybody, and is refused before the append from now on.
        for topic in [&topic, &theirs] {
            let e = topic.send(b"lost").unwrap_err();
            told(&e);
            assert_eq!(e.outcome(), Some(Outcome::NotStored), "{e:?}");
        }
        assert_eq!(
            store.flush(Some(PATIENCE)).unwrap_err().code(),
            Code::StoreGone
        );
        let group = store.group("t", "g").open();
        assert!(group.is_err(), "a group is a record, too");
        let _ = store.close();
        let _ = second.close();
    }
}

#[test]
fn async_sends_into_a_deleted_store_are_told_once_a_flush_finds_out() {
    let place = Place::new("gone-async");
    let (store, topic) = open(&place.store(), Flush::Async);
    assert!(store.flush(Some(PATIENCE)).unwrap());
    std::fs::remove_dir_all(place.store()).unwrap();
    let until = Instant::now() + PATIENCE;
    let e = loop {
        match topic.send(b"maybe") {
            Ok(sent) => assert!(!sent.durable, "nobody may call this durable"),
            Err(e) => break e,
        }
        assert!(Instant::now() < until, "nobody finds out");
    };
    told(&e);
    assert_eq!(
        store.flush(Some(PATIENCE)).unwrap_err().code(),
        Code::StoreGone
    );
}

#[test]
fn a_truncated_segment_is_noticed_by_the_next_flush() {
    let place = Place::new("gone-cut");
    let (_store, topic) = open(&place.store(), Flush::Sync);
    let path = place.store().join("log/00000001.0.seg");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    // Longer than all that was written, but nothing that comes behind it may count.
    file.set_len(4096).unwrap();
    let taken_away = |topic: &Topic| topic.send(numbered(1));
    let mut last = taken_away(&topic);
    file.set_len(100).unwrap();
    for _ in 0..3 {
        last = last.and_then(|_| {
            file.set_len(100).unwrap();
            taken_away(&topic)
        });
    }
    // Each flush writes behind the cut and so lengthens the file again; what it cannot bring back
    // are the bytes before, which verify reports.
    if last.is_ok() {
        let report = keepq::verify(place.store(), &mut |_, _| {}).unwrap();
        assert!(!report.is_ok(), "{report:?}");
    }
}

#[test]
fn a_store_made_anew_in_the_same_place_is_another_store() {
    let place = Place::new("gone-anew");
    let (old, topic) = open(&place.store(), Flush::Sync);
    std::fs::remove_dir_all(place.store()).unwrap();
    let (new, fresh) = open(&place.store(), Flush::Sync);
    told(&topic.send(b"old").unwrap_err());
    fresh.send(b"new").unwrap();
    let group = new.group("t", "g").open().unwrap();
    let got = group.receive_batch(10, Duration::ZERO).unwrap();
    let bodies: Vec<&[u8]> = got.iter().map(keepq::Delivery::body).collect();
    assert_eq!(bodies, [b"before".as_slice(), b"new"]);
    assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    let _ = old.close();
    assert!(new.verify().unwrap().is_ok());
}

#[test]
fn a_store_that_is_moved_while_it_is_open_goes_on() {
    let place = Place::new("moved");
    let (store, topic) = open(&place.store(), Flush::Sync);
    let target = place.file("elsewhere");
    std::fs::rename(place.store(), &target).unwrap();
    topic.send(b"after").unwrap();
    // Another process finds the same store at its new place.
    let second = Store::options().create(false).open(&target).unwrap();
    assert!(second.recovery().joined);
    let group = second.group("t", "g").open().unwrap();
    let got = group.receive_batch(10, Duration::ZERO).unwrap();
    assert_eq!(got.len(), 2);
    drop(got);
    store.close().unwrap();
    assert!(second.verify().unwrap().is_ok());
}
