//! A scene for each row of the table: it makes the circumstances and sends.

use std::sync::mpsc::channel;
use std::time::Duration;

use keepq::sim::{CallKind, SimOptions, set_point_hook};
use keepq::{Code, Error, Flush, OutMessage, Outcome, Store, WhenFull, limits};

use crate::members::{open, open_with, options};
use crate::strikes::{
    during_a_flush, fail_from_next, fails, fails_in_the_end, second, start, within_a_send,
};
use crate::{Scene, Seen};

const SHORT: Duration = Duration::from_millis(200);

/// The rows in the order of the table.
pub(crate) const ALL: &[Scene] = &[
    ("LimitExceeded", "the message is over a limit", over_a_limit),
    (
        "InvalidArgument",
        "the producer is of another open of the store",
        foreign_producer,
    ),
    (
        "ProducerGap",
        "a producer's sequence is beyond its next one",
        gap,
    ),
    ("ProducerFenced", "the producer was opened again", fenced),
    ("NotFound", "the topic was deleted", deleted),
    (
        "NotFound",
        "the topic was deleted while an asynchronous send was in flight",
        deleted_in_flight,
    ),
    (
        "LimitExceeded",
        "the body is larger than the topic's or the store's max_bytes",
        over_max_bytes,
    ),
    (
        "Full",
        "the topic or the store is at its limit, at every attempt",
        at_the_limit,
    ),
    ("Timeout", "so, and senders wait", at_the_limit_too_long),
    ("Closed", "the store was closed", closed),
    ("ForkedHandle", "called in a forked child", forked),
    (
        "ForkedHandle",
        "a send of the parent, asked for in a forked child",
        forked_pending,
    ),
    (
        "Busy",
        "a living process holds the engine lock and does not go on",
        busy,
    ),
    (
        "Timeout",
        "the ring is full and the disk does not keep up",
        ring_full,
    ),
    ("Timeout", "too many are in flight", in_flight_too_long),
    (
        "Full",
        "too many are in flight, with `WhenFull::Refuse`",
        in_flight_refused,
    ),
    (
        "Full",
        "the disk or the quota is full, at every attempt",
        disk_full,
    ),
    (
        "Full",
        "this process's file-size limit stops the flush, at every attempt",
        size_limit,
    ),
    (
        "Storage",
        "the next file of the log cannot be made",
        cannot_prepare,
    ),
    (
        "ReadOnly",
        "so, because the file system is mounted read-only",
        read_only,
    ),
    ("FlushTimeout", "the flush takes too long", flush_timeout),
    (
        "Failed",
        "the flush fails, and so does writing to another file",
        flush_fails,
    ),
    ("Failed", "a flush had failed so before", had_failed),
    (
        "StoreGone",
        "the flush finds that files of the log were deleted",
        gone,
    ),
    ("StoreGone", "a flush had found that before", had_gone),
    ("Corrupt", "shared memory makes no sense", corrupt),
];

fn over_a_limit() -> Seen {
    let (_world, _member, topic) = start(SimOptions::default());
    let body = vec![0; limits::BODY + 1];
    fails(&topic, || topic.send_async(&body))
}

fn foreign_producer() -> Seen {
    let (_world, member, topic) = start(SimOptions::default());
    let other = open(member.process.world());
    let producer = other.store.producer("loader").unwrap();
    fails(&topic, || {
        producer.send(&topic, None, &OutMessage::default())
    })
}

fn gap() -> Seen {
    let (_world, member, topic) = start(SimOptions::default());
    let producer = member.store.producer("loader").unwrap();
    fails(&topic, || {
        producer.send(&topic, Some(1), &OutMessage::default())
    })
}

fn fenced() -> Seen {
    let (_world, member, topic) = start(SimOptions::default());
    let old = member.store.producer("loader").unwrap();
    member.store.producer("loader").unwrap();
    fails(&topic, || old.send(&topic, Some(0), &OutMessage::default()))
}

fn deleted() -> Seen {
    let (world, member, topic) = start(SimOptions::default());
    let (_other, theirs) = second(&world);
    theirs.delete().unwrap();
    let before = member.store.published();
    let error = topic.send(b"x").unwrap_err();
    let appended = member.store.published() > before;
    Seen { error, appended }
}

fn deleted_in_flight() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    let (_other, theirs) = second(&world);
    let before = topic.len().unwrap();
    let pending = topic.send_async(b"x").unwrap();
    let appended = topic.len().unwrap() > before;
    theirs.delete().unwrap();
    let error = pending.wait(None).unwrap_err();
    Seen { error, appended }
}

fn over_max_bytes() -> Seen {
    let (_world, _member, topic) = start(SimOptions::default());
    topic.configure().max_bytes(100).apply().unwrap();
    fails(&topic, || topic.send([0; 101]))
}

fn at_the_limit() -> Seen {
    let (_world, _member, topic) = start(SimOptions::default());
    topic.configure().max_messages(1).apply().unwrap();
    fails(&topic, || topic.send(b"x"))
}

fn at_the_limit_too_long() -> Seen {
    let (_world, _member, topic) = start(SimOptions::default());
    let change = topic.configure().max_messages(1);
    change.when_full(WhenFull::Wait).apply().unwrap();
    fails(&topic, || topic.message(b"x").timeout(SHORT).send())
}

fn closed() -> Seen {
    let (world, member, topic) = start(SimOptions::default());
    let (_other, observer) = second(&world);
    member.store.close().unwrap();
    fails(&observer, || topic.send_async(b"x"))
}

/// A store on a real disk, for what only real processes do.
struct Real {
    path: std::path::PathBuf,
}

impl Real {
    fn open(
        name: &str,
        set: impl FnOnce(keepq::StoreOptions) -> keepq::StoreOptions,
    ) -> (Self, Store) {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("send-errors-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        // No disk is so slow that it ends a send.
        let patient = Store::options().send_timeout(Duration::from_secs(120));
        let store = set(patient).open(&path).unwrap();
        (Self { path }, store)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Runs `send` in a forked child; the child's exit code tells the error.
fn in_a_child(send: impl FnOnce() -> Option<Error>) -> Error {
    // SAFETY: the child uses handles that refuse before they lock anything, and ends without
    // cleaning up.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: ends the child at once if it hangs.
        unsafe { libc::alarm(120) };
        let told = send().map_or(0, |e| {
            let code = Code::ALL.iter().position(|code| *code == e.code());
            let outcome = [None, Some(Outcome::NotStored), Some(Outcome::MaybeStored)];
            let outcome = outcome.iter().position(|outcome| *outcome == e.outcome());
            i32::try_from(1 + code.unwrap_or(0) * 3 + outcome.unwrap_or(0)).unwrap_or(0)
        });
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(told) }
    }
    assert!(pid > 1);
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the child ended by a signal");
    let told = usize::try_from(libc::WEXITSTATUS(status)).unwrap();
    assert!(told > 0, "the child's send succeeds");
    let error = Error::new(Code::ALL[(told - 1) / 3], "as the child was told");
    match (told - 1) % 3 {
        0 => error,
        1 => error.with_outcome(Outcome::NotStored),
        _ => error.with_outcome(Outcome::MaybeStored),
    }
}

fn forked() -> Seen {
    let (_real, store) = Real::open("forked", |options| options);
    let topic = store.topic("t").unwrap();
    fails(&topic, || {
        Err::<(), _>(in_a_child(|| topic.send_async(b"x").err()))
    })
}

fn forked_pending() -> Seen {
    let (_real, store) = Real::open("forked-pending", |options| options);
    let topic = store.topic("t").unwrap();
    // While a callback stands still, nobody settles what is sent.
    let (enter, entered) = channel();
    let (open, opened) = channel::<()>();
    topic.send_async(b"gate").unwrap().on_done(move |_| {
        enter.send(()).unwrap();
        let _ = opened.recv();
    });
    entered.recv_timeout(Duration::from_secs(120)).unwrap();
    let seen = fails(&topic, || {
        let pending = topic.send_async(b"x").unwrap();
        Err::<(), _>(in_a_child(|| pending.wait(None).err()))
    });
    open.send(()).unwrap();
    seen
}

fn busy() -> Seen {
    for point in 1..200 {
        let (world, member, _topic) = start(SimOptions::default());
        let (_other, theirs) = second(&world);
        match within_a_send(point, &member, theirs) {
            Some(Ok(seen)) => return seen,
            Some(Err(_)) => {}
            None => break,
        }
    }
    panic!("no point of a send holds the lock");
}

fn ring_full() -> Seen {
    let (world, member, _topic) = start(SimOptions::default());
    let (_other, theirs) = second(&world);
    during_a_flush(&member, move || fails_in_the_end(&theirs, SHORT))
}

fn flush_timeout() -> Seen {
    let (world, member, _topic) = start(SimOptions::default());
    let (_other, theirs) = second(&world);
    during_a_flush(&member, move || {
        fails(&theirs, || {
            let pending = theirs.message(b"x").timeout(SHORT).send_async().unwrap();
            pending.wait(None)
        })
    })
}

/// With one send in flight whose callback stands still, sends another.
fn with_one_in_flight(send: impl FnOnce(&keepq::Topic) -> keepq::Result<keepq::Pending>) -> Seen {
    let (_real, store) = Real::open("in-flight", |options| options.max_in_flight(1));
    let topic = store.topic("t").unwrap();
    let (open, opened) = channel::<()>();
    topic.send_async(b"gate").unwrap().on_done(move |_| {
        let _ = opened.recv();
    });
    let seen = fails(&topic, || send(&topic));
    open.send(()).unwrap();
    seen
}

fn in_flight_too_long() -> Seen {
    with_one_in_flight(|topic| topic.message(b"x").timeout(SHORT).send_async())
}

fn in_flight_refused() -> Seen {
    with_one_in_flight(|topic| topic.message(b"x").when_full(WhenFull::Refuse).send_async())
}

fn disk_full() -> Seen {
    let (world, _member, topic) = start(SimOptions {
        capacity: Some(32 << 20),
        ..SimOptions::default()
    });
    world.write_file("filler", &vec![1; 32 << 20]);
    fails_in_the_end(&topic, Duration::from_secs(3))
}

fn size_limit() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    fail_from_next(&world, CallKind::Pwrite, libc::EFBIG);
    let seen = fails(&topic, || topic.send(b"x"));
    set_point_hook(None);
    assert_eq!(world.faults_hit(), 3, "three attempts");
    seen
}

fn cannot_prepare() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    fail_from_next(&world, CallKind::Create, libc::EIO);
    let seen = fails_in_the_end(&topic, SHORT);
    set_point_hook(None);
    seen
}

fn read_only() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    fail_from_next(&world, CallKind::Create, libc::EROFS);
    let seen = fails_in_the_end(&topic, SHORT);
    set_point_hook(None);
    seen
}

fn flush_fails() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    fail_from_next(&world, CallKind::Fdatasync, libc::EIO);
    let seen = fails(&topic, || topic.send(b"x"));
    set_point_hook(None);
    seen
}

fn had_failed() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    fail_from_next(&world, CallKind::Fdatasync, libc::EIO);
    topic.send(b"x").unwrap_err();
    set_point_hook(None);
    fails(&topic, || topic.send_async(b"y"))
}

fn gone() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    assert!(world.remove("log/00000001.0.seg"));
    fails(&topic, || topic.send_async(b"x").unwrap().wait(None))
}

fn had_gone() -> Seen {
    let (world, _member, topic) = start(SimOptions::default());
    assert!(world.remove("log/00000001.0.seg"));
    topic.send(b"x").unwrap_err();
    fails(&topic, || topic.send(b"y"))
}

/// Damages the number of the segment that was prepared: the words that were zero before and hold
/// that number afterwards.
fn corrupt() -> Seen {
    let world = keepq::sim::SimWorld::new(SimOptions::default());
    let member = open_with(&world, options().flush(Flush::Async));
    let topic = member.store.topic("t").unwrap();
    let words = |world: &keepq::sim::SimWorld| -> Vec<u64> {
        let bytes = world.read_file("ctl").unwrap();
        let words = bytes.chunks_exact(8);
        words
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    let mut before = words(&world);
    // Preparation begins at half of a segment.
    while !world
        .files()
        .iter()
        .any(|(path, _)| path.contains("00000002"))
    {
        before = words(&world);
        topic.send([7; 500]).unwrap();
        member.store.maintain().unwrap();
    }
    let after = words(&world);
    for (at, (was, is)) in before.into_iter().zip(after).enumerate() {
        if (was, is) == (0, 2) {
            assert!(world.set_map_word("ctl", at * 8, 2 + (1 << 40)));
        }
    }
    fails_in_the_end(&topic, SHORT)
}
