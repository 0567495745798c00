//! Promises P6 and P8 for what happens around a store: wrong directories, missing rights, full
//! disks, files that were cut, deleted or put there by others. Each case gives a clear error that
//! names the place, loses nothing that was confirmed, and leaves alone what is not keepq's.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub
)]

#[path = "children/mod.rs"]
mod children;
#[path = "bad_input/damage.rs"]
mod damage;
#[path = "bad_input/gone.rs"]
mod gone;
#[path = "bad_input/place.rs"]
mod place;
#[path = "bad_input/receipts.rs"]
mod receipts;
#[path = "bad_input/space.rs"]
mod space;

use std::path::Path;
use std::time::{Duration, SystemTime};

use keepq::{Code, Error, Group, Store};

/// The error has this code, and its text names the place.
#[track_caller]
fn check(e: &Error, code: Code, place: &Path) {
    assert_eq!(e.code(), code, "{e}");
    let name = place.display().to_string();
    assert!(e.to_string().contains(&name), "{name} is not named: {e}");
}

/// Everything in a directory: path, kind or content, and when it changed.
fn picture(dir: &Path) -> Vec<(String, Vec<u8>, SystemTime)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let about = path.symlink_metadata().unwrap();
        let content = if about.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            format!("{:?}", about.file_type()).into_bytes()
        };
        all.push((
            path.display().to_string(),
            content,
            about.modified().unwrap(),
        ));
        if about.is_dir() {
            all.extend(picture(&path));
        }
    }
    all.sort();
    all
}

/// Makes a store with this many messages, `0`, `1`, ..., and closes it.
fn filled(path: &Path, messages: u32) {
    let options = Store::options().segment_size(16 << 20).ring_size(1 << 20);
    let store = options.slots(1024).open(path).unwrap();
    let topic = store.topic("t").unwrap();
    store.group("t", "g").open().unwrap();
    for number in 0..messages {
        let sent = topic
            .message(&numbered(number))
            .flush(keepq::Flush::Async)
            .send();
        sent.unwrap();
    }
    assert!(store.flush(None).unwrap());
    store.close().unwrap();
}

/// A body of a kilobyte that says its number.
fn numbered(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(256)
}

/// Receives and acks all there is; the numbers of the bodies, and the errors on the way.
fn drain(group: &Group) -> (Vec<u32>, Vec<Error>) {
    let (mut numbers, mut errors) = (Vec::new(), Vec::new());
    loop {
        match group.receive_batch(256, Duration::ZERO) {
            Ok(got) if got.is_empty() => return (numbers, errors),
            Ok(got) => {
                for delivery in &got {
                    let number = u32::from_le_bytes(delivery.body()[..4].try_into().unwrap());
                    assert!(delivery.body() == numbered(number), "{number} is not whole");
                    numbers.push(number);
                }
                assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
            }
            Err(e) => errors.push(e),
        }
        assert!(
            errors.len() < 100,
            "it goes on for ever: {:?}",
            errors.last()
        );
    }
}
