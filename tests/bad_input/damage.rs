//! Files of the store that were deleted, cut, overwritten or added while nobody had it open.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepq::{Code, Error, Group, Store};

use crate::children::{PATIENCE, Place};
use crate::{check, drain, filled, picture};

/// Enough for three segments: 1, 2 and 4 MiB.
const MESSAGES: u32 = 4000;

fn group(path: &Path) -> (Store, Group) {
    let store = Store::options().create(false).open(path).unwrap();
    let group = store.group("t", "g").create(false).open().unwrap();
    (store, group)
}

fn segment(path: &Path, number: u32) -> PathBuf {
    path.join(format!("log/{number:08}.0.seg"))
}

/// The store opens, and everything is there.
fn all_there(path: &Path) {
    let (store, group) = group(path);
    let (numbers, errors) = drain(&group);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(numbers.iter().copied().eq(0..MESSAGES), "{}", numbers.len());
    drop(group);
    store.close().unwrap();
}

#[test]
fn shared_memory_of_any_content_is_rebuilt_and_nothing_is_lost() {
    for kind in [
        "deleted",
        "empty",
        "short",
        "garbage",
        "zeros",
        "long",
        "directory",
    ] {
        let place = Place::new(&format!("ctl-{kind}"));
        filled(&place.store(), MESSAGES);
        let ctl = place.store().join("ctl");
        let len = std::fs::metadata(&ctl).unwrap().len();
        match kind {
            "deleted" => std::fs::remove_file(&ctl).unwrap(),
            "empty" => std::fs::write(&ctl, "").unwrap(),
            "garbage" => {
                let garbage: Vec<u8> = (0..len).map(|i| ((i * i) >> 3).to_le_bytes()[0]).collect();
                std::fs::write(&ctl, garbage).unwrap();
            }
            "directory" => {
                std::fs::remove_file(&ctl).unwrap();
                std::fs::create_dir(&ctl).unwrap();
            }
            _ => {
                let file = std::fs::OpenOptions::new().write(true).open(&ctl).unwrap();
                match kind {
                    "short" => file.set_len(len - 4096).unwrap(),
                    "long" => file.set_len(len + 4096).unwrap(),
                    _ => file.write_all_at(&vec![0; 1 << 20], 0).unwrap(),
                }
            }
        }
        if kind == "directory" {
            // Nothing of keepq's; it is not deleted, and the error says what stands in the way.
            let e = Store::open(place.store()).unwrap_err();
            check(&e, Code::Storage, &ctl);
            std::fs::remove_dir(&ctl).unwrap();
        }
        all_there(&place.store());
    }
}

#[test]
fn indexes_of_any_content_are_rebuilt_and_nothing_is_lost() {
    for kind in ["deleted", "empty", "garbage", "swapped"] {
        let place = Place::new(&format!("idx-{kind}"));
        filled(&place.store(), MESSAGES);
        let index = |number: u32| place.store().join(format!("log/{number:08}.idx"));
        let first = index(1);
        assert!(first.exists(), "there is an index to damage");
        match kind {
            "deleted" => std::fs::remove_file(&first).unwrap(),
            "empty" => std::fs::write(&first, "").unwrap(),
            "garbage" => std::fs::write(&first, vec![0xa5; 9000]).unwrap(),
            _ => {
                let second = std::fs::read(index(2)).unwrap_or_default();
                std::fs::write(&first, second).unwrap();
            }
        }
        all_there(&place.store());
    }
}

#[test]
fn files_of_others_in_the_log_stay_and_disturb_nobody() {
    let place = Place::new("strangers");
    filled(&place.store(), MESSAGES);
    let strangers = [
        "log/README",
        "log/00000001.0.seg.bak",
        "log/99.seg",
        "backup.tar",
    ];
    for name in strangers {
        std::fs::write(place.store().join(name), "somebody's").unwrap();
    }
    std::fs::remove_file(place.store().join("ctl")).unwrap();
    all_there(&place.store());
    for name in strangers {
        let content = std::fs::read(place.store().join(name)).unwrap();
        assert_eq!(content, b"somebody's", "{name}");
    }
    let report = keepq::verify(place.store(), &mut |_, _| {}).unwrap();
    assert!(report.is_ok());
    let told = |name: &&str| report.findings.iter().any(|f| f.file == **name);
    assert!(
        strangers.iter().filter(|n| n.starts_with("log/")).all(told),
        "{report:?}"
    );
}

#[test]
fn a_store_without_its_super_is_not_made_anew_over_its_messages() {
    for and_ctl in [false, true] {
        let place = Place::new(&format!("no-super-{and_ctl}"));
        filled(&place.store(), MESSAGES);
        let path = place.store().join("SUPER");
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        if and_ctl {
            std::fs::remove_file(place.store().join("ctl")).unwrap();
        }
        let before = picture(&place.store());
        let e = Store::open(place.store()).unwrap_err();
        check(&e, Code::Corrupt, &path);
        assert!(e.message().contains("missing"), "{e}");
        assert_eq!(picture(&place.store()), before);
        std::fs::write(&path, content).unwrap();
        all_there(&place.store());
    }
}

#[test]
fn a_store_without_its_lock_file_is_refused_with_advice() {
    let place = Place::new("no-lock");
    filled(&place.store(), MESSAGES);
    let lock = place.store().join("LOCK");
    std::fs::remove_file(&lock).unwrap();
    let e = Store::open(place.store()).unwrap_err();
    check(&e, Code::StoreGone, &lock);
    assert!(!lock.exists());
    // As the advice says.
    let made = std::fs::File::create(&lock).unwrap();
    made.set_len(4096).unwrap();
    all_there(&place.store());
}

#[test]
fn a_store_without_its_log_is_damage_and_no_new_log_is_begun() {
    for ctl in [true, false] {
        let place = Place::new(&format!("no-log-{ctl}"));
        filled(&place.store(), 10);
        let kept = place.file("kept");
        std::fs::rename(place.store().join("log"), &kept).unwrap();
        if !ctl {
            std::fs::remove_file(place.store().join("ctl")).unwrap();
        }
        let opened = Store::open(place.store()).and_then(|store| {
            let group = store.group("t", "g").open()?;
            let nothing = group.receive(Duration::ZERO);
            let sent = store.topic("t")?.send(crate::numbered(10));
            assert!(sent.is_err(), "stored without a log: {sent:?}");
            nothing
        });
        let e = opened
            .err()
            .unwrap_or_else(|| panic!("it read from a missing log"));
        let fits = [Code::Corrupt, Code::StoreGone, Code::Storage].contains(&e.code());
        assert!(fits && e.to_string().contains("log"), "{e}");
        let _ = std::fs::remove_dir_all(place.store().join("log"));
        std::fs::rename(&kept, place.store().join("log")).unwrap();
        let (store, group) = group(&place.store());
        let (mut numbers, errors) = drain(&group);
        assert!(errors.is_empty(), "{errors:?}");
        // What could not be read was put back and comes after its back-off.
        while numbers.len() < 10 {
            let late = group.receive(PATIENCE).unwrap().unwrap();
            numbers.push(u32::from_le_bytes(late.body()[..4].try_into().unwrap()));
            late.ack().unwrap();
        }
        while let Some(late) = group.receive(Duration::from_millis(1500)).unwrap() {
            numbers.push(u32::from_le_bytes(late.body()[..4].try_into().unwrap()));
            late.ack().unwrap();
        }
        numbers.sort_unstable();
        // The refused send may be among them: its outcome was in doubt.
        assert!(numbers.iter().copied().take(10).eq(0..10), "{numbers:?}");
        assert!(numbers.len() == 10 || numbers[10..] == [10], "{numbers:?}");
        store.close().unwrap();
    }
}

#[test]
fn a_second_rebuild_starts_from_the_snapshot_that_was_written_after_the_first() {
    let place = Place::new("rebuilt-twice");
    filled(&place.store(), MESSAGES);
    let ctl = place.store().join("ctl");
    std::fs::remove_file(&ctl).unwrap();
    let (store, _) = group(&place.store());
    let topic = store.topic("t").unwrap();
    // The new epoch begins at positions that the half-empty segment before it spans as well. Two
    // rolls later a snapshot lies there.
    for number in MESSAGES..2 * MESSAGES {
        let body = crate::numbered(number);
        topic
            .message(&body)
            .flush(keepq::Flush::Async)
            .send()
            .unwrap();
        if number % 256 == 0 {
            assert!(store.flush(None).unwrap());
            store.maintain().unwrap();
        }
    }
    store.close().unwrap();
    std::fs::remove_file(&ctl).unwrap();
    let (store, group) = group(&place.store());
    let report = store.recovery();
    assert_eq!(report.notes.len(), 1, "{report:?}");
    assert!(
        report.records < u64::from(MESSAGES),
        "it began at a snapshot: {report:?}"
    );
    let (numbers, errors) = drain(&group);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        numbers.iter().copied().eq(0..2 * MESSAGES),
        "{}",
        numbers.len()
    );
}

/// After damage: what is around it is delivered in order, the loss is reported, not silent.
fn the_rest_is_there(path: &Path, lost_at_least: usize, lost_at_most: usize) {
    let (store, group) = group(path);
    let (numbers, errors) = drain(&group);
    let lost = MESSAGES as usize - numbers.len();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    assert!(
        (lost_at_least..=lost_at_most).contains(&lost),
        "{lost} are lost"
    );
    assert!(!errors.is_empty(), "a loss is never silent");
    let told = |e: &Error| matches!(e.code(), Code::Corrupt | Code::StoreGone | Code::Storage);
    assert!(errors.iter().all(told), "{errors:?}");
    // The store stays usable.
    let topic = store.topic("t").unwrap();
    topic.send(crate::numbered(7)).unwrap();
    let (numbers, errors) = drain(&group);
    assert_eq!(
        (numbers.as_slice(), errors.len()),
        ([7].as_slice(), 0),
        "{errors:?}"
    );
    drop(group);
    store.close().unwrap();
}

#[test]
fn a_sealed_segment_with_a_hole_loses_what_was_in_it_and_says_so() {
    for (cold, indexed) in [(false, true), (true, true), (false, false), (true, false)] {
        let place = Place::new(&format!("hole-{cold}-{indexed}"));
        filled(&place.store(), MESSAGES);
        let path = segment(&place.store(), 2);
        let index = path.with_file_name("00000002.idx");
        assert!(index.exists(), "written before the store was closed");
        if !indexed {
            std::fs::remove_file(&index).unwrap();
        }
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0x5a; 8192], 600_000).unwrap();
        let report = keepq::verify(place.store(), &mut |_, _| {}).unwrap();
        let found = report.findings.iter().find(|f| f.damage).unwrap();
        assert!(found.file.ends_with("00000002.0.seg"), "{found:?}");
        assert!((590_000..=600_000).contains(&found.position), "{found:?}");
        if cold {
            std::fs::remove_file(place.store().join("ctl")).unwrap();
        }
        the_rest_is_there(&place.store(), 7, 11);
    }
}

#[test]
fn a_sealed_segment_that_was_cut_loses_its_end_and_says_so() {
    for cold in [false, true] {
        let place = Place::new(&format!("cut-{cold}"));
        filled(&place.store(), MESSAGES);
        let path = segment(&place.store(), 2);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        let report = keepq::verify(place.store(), &mut |_, _| {}).unwrap();
        assert!(!report.is_ok());
        if cold {
            std::fs::remove_file(place.store().join("ctl")).unwrap();
        }
        the_rest_is_there(&place.store(), 800, 1000);
    }
}
