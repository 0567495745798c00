//! Every documented exit code, through the program: 0 ok, 1 failed, 2 usage, 3 empty or timed out,
//! 4 not found, 5 damage found, 6 busy, 7 in doubt, 130 Ctrl-C.

#![allow(clippy::disallowed_methods)] // Tests use files and clocks.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use common::{Done, Place};

/// Where the two locks of shared memory lie: see `src/shm/control.rs`.
const ENGINE_LOCK: u64 = 4096;
const FLUSH_LOCK: u64 = 4096 + 64;

/// What the program answers while this process, which lives, holds a lock and does not go on.
fn while_held(place: &Place, lock: u64, args: &[&str]) -> Done {
    place.run(&["send", "t", "first"]).ok();
    let store = keepq::Store::open(place.store()).unwrap();
    let ctl = OpenOptions::new()
        .write(true)
        .open(place.store().join("ctl"))
        .unwrap();
    // Taken by member 0, which is this process: the only one.
    let word = |taken: u64| ((1_u64 << 40) | (taken << 1)).to_le_bytes();
    ctl.write_all_at(&word(1), lock).unwrap();
    let done = place.run(args);
    ctl.write_all_at(&word(0), lock).unwrap();
    store.close().unwrap();
    done
}

#[test]
fn busy_is_6_and_names_who_holds_what() {
    let place = Place::new("busy");
    let done = while_held(&place, ENGINE_LOCK, &["send", "t", "second"]);
    assert_eq!(done.code, 6, "{}", done.err);
    let pid = std::process::id().to_string();
    assert!(done.err.contains(&pid), "{}", done.err);
    // Refused: it is not there.
    assert_eq!(place.receive_all("t", "g").len(), 1);
}

#[test]
fn a_message_that_may_or_may_not_be_on_disk_is_7() {
    let place = Place::new("in-doubt");
    let done = while_held(&place, FLUSH_LOCK, &["send", "t", "second"]);
    assert_eq!(done.code, 7, "{}", done.err);
    // Nothing failed in the end: it is there, once.
    assert_eq!(place.receive_all("t", "g").len(), 2);
}

#[test]
fn the_other_codes() {
    let place = Place::new("codes");
    let code = |args: &[&str]| place.run(args).code;
    assert_eq!(code(&["send", "t", "x"]), 0);
    assert_eq!(code(&["recv", "t", "-g", "g", "--wait", "0"]), 0);
    assert_eq!(code(&["recv", "t", "-g", "g", "--wait", "0"]), 3);
    assert_eq!(code(&["recv", "nowhere", "-g", "g", "--wait", "0"]), 4);
    assert_eq!(code(&["ack", "no-receipt"]), 2);
    assert_eq!(code(&["no-such-command"]), 2);
    assert_eq!(code(&["--help"]), 0);
    let mut full = place.keepq(&["stats"]);
    let full = full.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(full.status().unwrap().code(), Some(1));
    let segment = place.store().join("log/00000001.0.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(code(&["verify"]), 5);
    // A dry run changes nothing, a repair leaves the store in order.
    assert_eq!(code(&["repair", "--dry-run"]), 5);
    assert_eq!(code(&["verify"]), 5);
    let store = keepq::Store::open(place.store()).unwrap();
    assert_eq!(code(&["repair"]), 6);
    assert_eq!(code(&["repair", "--dry-run"]), 6);
    store.close().unwrap();
    let done = place.run(&["repair", "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(code(&["verify"]), 0);
    assert_eq!(
        place.run(&["repair", "-o", "table"]).text(),
        "nothing needs repair\n"
    );
    assert!(place.store().join("quarantine").is_dir());
    assert_eq!(code(&["send", "t", "y"]), 0);
    let nowhere = place.run(&["--store", "/nonexistent/keepq", "repair"]);
    assert_eq!(nowhere.code, 4, "{}", nowhere.err);
}
