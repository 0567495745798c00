//! Stores made by earlier builds of this format open and hold what they held.
//!
//! `tests/fixtures/draft/` holds whole directories without their shared memory. They are made once,
//! by running this suite with `KEEPQ_MAKE_FIXTURES=1`, and never again for a format that is out.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/history.rs"]
mod history;
#[path = "support/members.rs"]
mod members;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use history::{history, owed_at_first};
use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Flush};
use members::{assert_whole, drain, open};

fn place(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/draft");
    root.join(name)
}

/// Five messages in one segment, one of them acked.
fn small() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("greetings").unwrap();
    let group = m.group("greetings", "readers");
    for text in ["hello", "", "w\u{f6}rld", "fourth", "fifth"] {
        let message = topic.message(text.as_bytes()).key("k").tag("t");
        message.header("from", b"\x00\xff").send().unwrap();
    }
    let first = group.receive(Duration::ZERO).unwrap().unwrap();
    first.ack_with(Flush::Sync).unwrap();
    m.leaves();
    world
}

/// Writes the files of a machine into a directory, but for what is made anew anyway.
fn keep(world: &SimWorld, to: &Path) {
    for (name, bytes) in world.files() {
        if name == "ctl" || name.ends_with(".pre") {
            continue;
        }
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// A machine whose disk holds a copy of a fixture.
fn load(name: &str) -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    open(&world).leaves();
    for (file, _) in world.files() {
        assert!(world.remove(&file));
    }
    let from = place(name);
    for dir in [from.clone(), from.join("log")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(&from).unwrap().to_str().unwrap();
                world.write_file(name, &std::fs::read(&path).unwrap());
            }
        }
    }
    world
}

fn make_if_asked(name: &str, make: fn() -> SimWorld) {
    if std::env::var_os("KEEPQ_MAKE_FIXTURES").is_some() {
        let _ = std::fs::remove_dir_all(place(name));
        keep(&make(), &place(name));
    }
}

#[test]
fn a_small_store_holds_its_messages() {
    make_if_asked("small", small);
    let world = load("small");
    let m = open(&world);
    let report = m.store.recovery();
    let clean = !report.warm && report.damaged_bytes == 0 && report.cut_bytes == 0;
    assert!(clean, "{report:?}");
    let group = m.group("greetings", "readers");
    let got = group.receive_batch(10, Duration::ZERO).unwrap();
    let bodies: Vec<&[u8]> = got.iter().map(|d| d.body()).collect();
    assert_eq!(
        bodies,
        [b"".as_slice(), b"w\xc3\xb6rld", b"fourth", b"fifth"]
    );
    for (d, seq) in got.iter().zip(1..) {
        assert_eq!((d.seq(), d.attempt()), (seq, 1));
        assert_eq!((d.key(), d.tag()), (Some("k"), Some("t")));
        let headers: Vec<(&str, &[u8])> = d.headers().collect();
        assert_eq!(headers, [("from", b"\x00\xff".as_slice())]);
    }
    assert!(m.store.verify().unwrap().is_ok());
}

#[test]
fn a_store_with_a_history_owes_what_it_owed() {
    make_if_asked("history", history);
    let world = load("history");
    let m = open(&world);
    let report = m.store.recovery();
    let clean = !report.warm && report.damaged_bytes == 0 && report.cut_bytes == 0;
    assert!(clean, "{report:?}");
    assert_whole(&m.store, "opened");
    let drained = drain(&world, &m.store);
    for (key, ids) in owed_at_first() {
        let (topic, group) = key.split_once('/').unwrap();
        let got = &drained[&(topic.to_owned(), group.to_owned())];
        let got: BTreeSet<u64> = got.iter().map(|(id, _)| *id).collect();
        assert_eq!(got, ids, "{key}");
    }
    let producer = m.store.producer("loader").unwrap();
    assert_eq!(producer.next_seq().unwrap(), 30);
}

/// Six dead letters, of which the first and the fourth are purged, before a snapshot and after it.
fn buried() -> SimWorld {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("orders").unwrap();
    let group = m.group("orders", "billing");
    for text in ["a", "b", "c", "d", "e", "f"] {
        topic.send(text).unwrap();
        let delivery = group.receive(Duration::ZERO).unwrap().unwrap();
        delivery.reject(&format!("no {text}")).unwrap();
    }
    assert!(group.dead_letters().purge_one(3).unwrap());
    m.store.maintain().unwrap();
    assert!(group.dead_letters().purge_one(0).unwrap());
    m.leaves();
    world
}

#[test]
fn a_store_with_dead_letters_holds_those_that_were_not_purged() {
    make_if_asked("buried", buried);
    let world = load("buried");
    let m = open(&world);
    assert_whole(&m.store, "opened");
    let letters = m.group("orders", "billing").dead_letters();
    assert_eq!(letters.len().unwrap(), 4);
    let found: Vec<(u64, String)> = letters
        .browse()
        .map(|letter| letter.unwrap())
        .map(|letter| (letter.seq, letter.burial.unwrap().reason))
        .collect();
    let expected = [(1, "no b"), (2, "no c"), (4, "no e"), (5, "no f")];
    assert_eq!(found, expected.map(|(seq, why)| (seq, why.to_owned())));
}

#[test]
fn a_fixture_of_another_format_is_refused() {
    let world = load("small");
    let mut bytes = world.read_file("SUPER").unwrap();
    // The magic stays, all else is as no version writes it.
    bytes[8..64].fill(0xee);
    world.write_file("SUPER", &bytes);
    let process = world.process();
    let refused = keepq::Store::open_simulated(&process, members::options()).unwrap_err();
    let codes = [Code::Corrupt, Code::Incompatible, Code::NotAStore];
    assert!(codes.contains(&refused.code()), "{refused:?}");
}
