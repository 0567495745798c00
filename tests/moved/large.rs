//! Many messages pass, and one stays.

use std::time::Duration;

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Delivery, Flush, Group, PinKind, StoreOptions};

use crate::members::{Member, body, open_with};
use crate::scene::{segments, settle_down};

const SEGMENT: u64 = 256 << 10;
const MESSAGES: u64 = 50_000;
const TURN: u64 = 250;
const GROUPS: [&str; 3] = ["a", "b", "stalls"];

fn open(world: &SimWorld) -> Member {
    let options = StoreOptions::default().flush(Flush::Async);
    open_with(world, options.sized(SEGMENT, 4096))
}

/// Bytes of the segments' files.
fn bytes(world: &SimWorld) -> u64 {
    let names = segments(world).into_iter();
    let files = names.map(|name| world.read_file(&name).unwrap().len() as u64);
    files.sum()
}

/// Receives and acks all there is, but keeps the first message of the stalling group.
fn take_all(group: &Group, stuck: &mut Option<Delivery>) -> u64 {
    let mut taken = 0;
    loop {
        let mut got = group.receive_batch(256, Duration::ZERO).unwrap();
        if got.is_empty() {
            return taken;
        }
        taken += got.len() as u64;
        if group.name() == "stalls" && stuck.is_none() {
            *stuck = Some(got.remove(0));
        }
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
    }
}

#[test]
fn many_messages_pass_and_one_that_stays_keeps_nothing_else() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let topic = m.store.topic("t").unwrap();
    let groups = GROUPS.map(|name| {
        let group = m.store.group("t", name).lease(Duration::from_secs(3600));
        group.open().unwrap()
    });
    let (mut stuck, mut taken, mut highest) = (None, 0, 0);
    let bodies: Vec<Vec<u8>> = (0..TURN).map(|id| body(id, 100)).collect();
    for _ in 0..MESSAGES / TURN {
        for body in &bodies {
            topic.message(body).send().unwrap();
        }
        for group in &groups {
            taken += take_all(group, &mut stuck);
        }
        m.store.flush(None).unwrap();
        m.store.look();
        highest = highest.max(bytes(&world));
    }
    assert_eq!(taken, 3 * MESSAGES);
    let stuck = stuck.unwrap();
    assert_eq!((stuck.seq(), stuck.attempt()), (0, 1));
    settle_down(&m);
    assert!(bytes(&world) <= 2 * SEGMENT, "{:?}", segments(&world));
    // While they passed, no more than the snapshots and the ring need, and the run that pays.
    assert!(highest <= 12 * SEGMENT, "{highest}");
    let pin = m.store.stats().unwrap().pin.unwrap();
    assert_eq!(
        (pin.group.as_deref(), pin.kind),
        (Some("stalls"), PinKind::Outstanding)
    );
    assert_eq!((pin.seq, pin.id), (0, stuck.id()));
    assert!(pin.bytes <= 2 * SEGMENT, "{}", pin.bytes);
    assert_eq!(stuck.body(), bodies[0]);
    m.store.ack(&stuck.receipt()).unwrap();
    drop(stuck);
    assert_eq!(m.store.stats().unwrap().pin, None);
    m.leaves();
    assert!(world.remove("ctl"));
    let m = open(&world);
    for name in GROUPS {
        let group = m.store.group("t", name).open().unwrap();
        assert!(group.receive(Duration::ZERO).unwrap().is_none(), "{name}");
    }
    assert!(m.store.verify().unwrap().is_ok());
    m.leaves();
}
