//! Full disks and limits on the size of files: refused before anything changes, acks go on, and
//! space comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use keepq::{Code, Flush, Group, Outcome, Store, StoreOptions, Topic};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::children::{self, Child, PATIENCE, Place, Start, not_run, say};
use crate::place::can_mount;
use crate::{drain, numbered};

fn small() -> StoreOptions {
    let options = Store::options().segment_size(16 << 20).ring_size(1 << 20);
    let options = options.slots(1024).send_timeout(PATIENCE);
    options.allow_unsafe_filesystem(true)
}

/// Sends until the store is full; how many were taken.
fn fill(store: &Store, topic: &Topic, from: u32) -> u32 {
    for number in from.. {
        let before = topic.len().unwrap();
        // Now and then one that must be on disk, so that a full disk shows at a flush too.
        let flush = if number % 16 == 0 {
            Flush::Sync
        } else {
            Flush::Async
        };
        let body = numbered(number);
        match topic.message(&body).flush(flush).timeout(PATIENCE).send() {
            Ok(_) => {}
            Err(e) => {
                assert_eq!(e.code(), Code::Full, "{e}");
                assert_eq!(e.outcome(), Some(Outcome::NotStored), "{e}");
                assert!(e.is_retriable());
                assert_eq!(
                    topic.len().unwrap(),
                    before,
                    "refused before anything changed"
                );
                assert!(store.flush(Some(PATIENCE)).unwrap());
                return number;
            }
        }
        assert!(number < 1_000_000, "the disk has no end");
    }
    unreachable!("the loop ends by returning")
}

/// Sends again and again until there is room, which the keeper makes.
fn send_when_there_is_room(topic: &Topic, number: u32) {
    let until = Instant::now() + PATIENCE;
    loop {
        match topic.send(numbered(number)) {
            Ok(_) => return,
            Err(e) if e.code() == Code::Full && Instant::now() < until => {
                // Nothing tells when space comes back: the keeper looks every 50 ms.
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => panic!("no room came back: {e}"),
        }
    }
}

fn takes_all(group: &Group, sent: u32) {
    let (numbers, errors) = drain(group);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(
        numbers.iter().copied().eq(0..sent),
        "{} of {sent}",
        numbers.len()
    );
}

/// Fills the disk the store lies on, consumes everything, and sends again.
fn on_a_full_disk() {
    let path = children::arg("STORE");
    let store = small().open(&path).unwrap();
    let topic = store.topic("t").unwrap();
    let group = store.group("t", "g").open().unwrap();
    let sent = fill(&store, &topic, 0);
    assert!(sent > 1000, "only {sent} messages fitted");
    // It stays refused, and a second process is told the same.
    assert_eq!(topic.send(numbered(sent)).unwrap_err().code(), Code::Full);
    let second = small().open(&path).unwrap();
    let e = second.topic("t").unwrap().send(numbered(sent)).unwrap_err();
    assert_eq!(
        (e.code(), e.outcome()),
        (Code::Full, Some(Outcome::NotStored))
    );
    second.close().unwrap();
    // Dead letters work too.
    for number in 0..sent {
        let delivery = group.receive(PATIENCE).unwrap().unwrap();
        assert!(
            delivery.body() == numbered(number),
            "{number} of {sent} is not whole"
        );
        if number + 1 == sent {
            delivery.reject("no").unwrap();
        } else {
            delivery.ack().unwrap();
        }
    }
    send_when_there_is_room(&topic, 0);
    for number in 1..500 {
        send_when_there_is_room(&topic, number);
    }
    takes_all(&group, 500);
    assert_eq!(group.stats().unwrap().dead, 1);
    assert!(store.flush(Some(PATIENCE)).unwrap());
    let report = store.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
    store.close().unwrap();
    let again = small().open(&path).unwrap();
    let group = again.group("t", "g").open().unwrap();
    assert!(group.receive(Duration::ZERO).unwrap().is_none());
    say("done");
}

fn full_disk(test: &str, mount: &str) {
    if children::role().is_some() {
        return on_a_full_disk();
    }
    let place = Place::new(&test.replace(':', "-"));
    let point = place.file("mnt");
    std::fs::create_dir(&point).unwrap();
    let path = point.display().to_string();
    if let Err(why) = can_mount(mount, &path) {
        return not_run(test, &why);
    }
    let script = format!("{mount} && exec \"$@\"");
    let start = Start {
        test,
        role: "full",
        vars: &[("STORE", point.join("store").display().to_string())],
        through: &["unshare", "-m", "sh", "-c", &script, &path],
    };
    let child = Child::start_with(&start, |_| {});
    child.expect("done");
    child.finish();
}

#[test]
fn a_full_memory_disk_refuses_sends_and_lets_acks_make_room() {
    let test = "space::a_full_memory_disk_refuses_sends_and_lets_acks_make_room";
    full_disk(test, "mount -t tmpfs -o size=24m tmpfs \"$0\"");
}

#[test]
fn a_full_ext4_refuses_sends_and_lets_acks_make_room() {
    let test = "space::a_full_ext4_refuses_sends_and_lets_acks_make_room";
    let mount = "truncate -s 32M \"$0.img\" && mkfs.ext4 -q -F \"$0.img\" && \
                 mount -o loop \"$0.img\" \"$0\"";
    full_disk(test, mount);
}

#[test]
fn a_limit_on_the_size_of_files_makes_small_segments_and_kills_nobody() {
    let test = "space::a_limit_on_the_size_of_files_makes_small_segments_and_kills_nobody";
    if children::role().is_some() {
        return under_a_limit();
    }
    let place = Place::new("fsize");
    let vars = [("STORE", place.store().display().to_string())];
    let mut child = Child::start(test, "limited", &vars);
    child.expect("not made");
    let store = small().open(place.store()).unwrap();
    child.tell("go on");
    child.expect("sent");
    let topic = store.topic("t").unwrap();
    topic.send(numbered(5000)).unwrap();
    child.tell("end");
    child.finish();
    let group = store.group("t", "g").open().unwrap();
    takes_all(&group, 5001);
}

fn under_a_limit() {
    let path = children::arg("STORE");
    let limit = |bytes| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let current = Some(bytes);
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    // Too little for a store to be made at all.
    limit(512 << 10);
    let e = small().open(&path).unwrap_err();
    assert_eq!(
        (e.code(), e.errno()),
        (Code::Full, Some(libc::EFBIG)),
        "{e}"
    );
    assert!(e.message().contains("ulimit"), "{e}");
    assert!(
        !Path::new(&path).join("SUPER").exists(),
        "nothing is half made"
    );
    say("not made");
    children::listen();
    limit(3 << 20);
    let store = small().open(&path).unwrap();
    let topic = store.topic("t").unwrap();
    // Segments of four megabytes are not possible: it goes on with smaller ones.
    for number in 0..5000 {
        let body = numbered(number);
        topic
            .message(&body)
            .flush(Flush::Async)
            .timeout(PATIENCE)
            .send()
            .unwrap();
    }
    assert!(store.flush(Some(PATIENCE)).unwrap());
    say("sent");
    children::listen();
}

#[test]
fn a_writer_under_a_limit_leaves_no_damage_where_others_have_gone_on() {
    let test = "space::a_writer_under_a_limit_leaves_no_damage_where_others_have_gone_on";
    if children::role().is_some() {
        // Trying again would succeed as soon as the other process has written the bytes.
        let store = small().send_retries(0).open(children::arg("STORE"));
        let store = store.unwrap();
        let topic = store.topic("t").unwrap();
        let maximum = getrlimit(Resource::Fsize).maximum;
        let current = Some(64 << 10);
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
        // The bytes are in shared memory; this process cannot write them to the file.
        let e = topic.message(&numbered(u32::MAX)).send().unwrap_err();
        say(&format!("failed {} {:?}", e.code().name(), e.outcome()));
        return;
    }
    let place = Place::new("fsize-others");
    let store = small().open(place.store()).unwrap();
    let topic = store.topic("t").unwrap();
    for number in 0..200 {
        topic
            .message(&numbered(number))
            .flush(Flush::Async)
            .send()
            .unwrap();
    }
    store.flush(None).unwrap();
    let vars = [("STORE", place.store().display().to_string())];
    let child = Child::start(test, "limited", &vars);
    let said = child.expect("failed");
    assert!(
        said.starts_with("Full") || said.starts_with("Failed"),
        "{said}"
    );
    child.finish();
    // What its limit did to it must not end the store for those without one.
    for number in 200..300 {
        topic
            .send(numbered(number))
            .unwrap_or_else(|e| panic!("{number}: {e}"));
    }
    let group = store.group("t", "g").open().unwrap();
    let (numbers, errors) = drain(&group);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(numbers.into_iter().filter(|&n| n != u32::MAX).eq(0..300));
}
