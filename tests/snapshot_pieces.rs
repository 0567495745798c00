//! A snapshot is written in pieces while others go on: whatever happens between two of its pieces
//! is there after a recovery that begins with it.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/members.rs"]
mod members;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld, set_point_hook};
use members::{open, owed};

/// The number after that of the last message.
const LAST: u64 = 18;

/// What the other member did in the middle of the snapshot.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    reached: bool,
    acked: bool,
    sent: bool,
}

/// Writes a snapshot, at the `k`-th point of which another member acks and sends.
fn interrupted_at(k: u64) -> Done {
    let world = SimWorld::new(SimOptions::default());
    let writer = open(&world);
    let other = open(&world);
    let group = other.group("t", "g");
    for id in 1..8 {
        writer.send("t", id, 3000);
    }
    let held = group.receive(Duration::ZERO).unwrap().unwrap();
    assert_eq!(members::id_of(held.body()), 1);
    let held = RefCell::new(Some(held));
    let topic = other.store.topic("t").unwrap();
    let done = Rc::new(Cell::new(Done::default()));
    let count = Cell::new(0);
    let result = Rc::clone(&done);
    set_point_hook(Some(Box::new(move || {
        count.set(count.get() + 1);
        if count.get() == k {
            // Where the writer holds a lock they get `Busy`, and nothing has happened.
            let acked = held.take().unwrap().ack().is_ok();
            let sent = topic.send(members::body(8, 100)).is_ok();
            result.set(Done {
                reached: true,
                acked,
                sent,
            });
        }
    })));
    writer.store.maintain().unwrap();
    set_point_hook(None);
    // The next segment names the snapshot as the place to begin at.
    for id in 9..LAST {
        writer.send("t", id, 3000);
    }
    writer.store.flush(None).unwrap();
    let reached = done.get();
    writer.dies();
    drop(group);
    other.dies();
    let cut = world.power_cut_with(|_| 1);
    let heir = open(&cut);
    let left = owed(&cut, &heir.store);
    let mut expected: Vec<u64> = (1..LAST).collect();
    expected.retain(|&id| !(id == 1 && reached.acked || id == 8 && !reached.sent));
    assert_eq!(left, expected, "at point {k}: {reached:?}");
    heir.leaves();
    reached
}

#[test]
fn what_happens_between_two_pieces_is_not_forgotten() {
    let mut between = 0;
    for k in 1.. {
        let done = interrupted_at(k);
        if !done.reached {
            eprintln!("{between} of {k} points");
            break;
        }
        between += u64::from(done.acked && done.sent);
    }
    assert!(
        between >= 8,
        "only {between} of them at a point where nothing is locked"
    );
}

/// Where the bodies of the pieces of a segment's last snapshot begin in its file.
fn pieces(file: &[u8]) -> Vec<u64> {
    const HEADER: usize = 40;
    const SNAP: u8 = 10;
    let mut found = Vec::new();
    let mut at = 4096;
    while at + HEADER < file.len() {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let len = usize::try_from(word(at + 4)).unwrap();
        if len == 0 {
            break;
        }
        if file[at + 36] == SNAP {
            if word(at + HEADER + 8) == 0 {
                found.clear();
            }
            found.push(u64::try_from(at + HEADER).unwrap());
        }
        at += len.next_multiple_of(16);
    }
    found
}

#[test]
fn a_later_snapshot_that_lacks_a_piece_is_not_gone_over_to() {
    let world = SimWorld::new(SimOptions::default());
    let mut m = open(&world);
    m.group("t", "g");
    // Segments whose headers name a snapshot, then one that no header names.
    for id in 1..LAST {
        m.send("t", id, 3000);
        m.store.look();
    }
    assert_eq!(m.receive("t", "g", 3), 3);
    m.store.rest().unwrap();
    for id in LAST..LAST + 2 {
        m.send("t", id, 100);
    }
    m.dies();
    let cut = world.power_cut_with(|_| 1);
    let segments = cut
        .files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".seg"));
    let found = segments.map(|(name, bytes)| (name, pieces(&bytes)));
    let (name, pieces) = found
        .filter(|(_, pieces)| !pieces.is_empty())
        .max()
        .unwrap();
    assert!(pieces.len() >= 3, "{} pieces", pieces.len());
    for at in pieces {
        let damaged = cut.fork();
        assert!(damaged.corrupt(&name, at + 9, 0x10));
        let heir = open(&damaged);
        let left = owed(&damaged, &heir.store);
        assert!(
            left.iter().copied().eq(1..LAST + 2),
            "the piece at {at}: {left:?}"
        );
        heir.leaves();
    }
}
