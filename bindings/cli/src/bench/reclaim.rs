//! Ten million messages sent and consumed by three groups, one of which stalls on one message:
//! what the disk holds meanwhile and afterwards.

use std::time::{Duration, Instant};

use keepq::{Delivery, Flush, Group, Store};

use super::{BATCH, Place, Row, cannot, fill, path_of, per_second};
use crate::args::BenchArgs;
use crate::exit::Failure;

const MESSAGES: u64 = 10_000_000;
/// Sent between two turns of the groups.
const TURN: u64 = 100_000;
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn reclaim(place: &Place, _args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let store = place.store("reclaim", Flush::Async)?;
    let topic = store.topic("t")?;
    let open = |name: &str| {
        let day = Duration::from_secs(24 * 3600);
        store.group("t", name).lease(day).open()
    };
    let groups = [open("a")?, open("b")?, open("stalls")?];
    let mut stuck = None;
    let mut most: u64 = 0;
    let started = Instant::now();
    for _ in 0..MESSAGES / TURN {
        fill(&topic, TURN)?;
        for group in &groups {
            take_all(group, &mut stuck)?;
        }
        most = most.max(store.stats()?.disk_bytes);
    }
    let rate = per_second(MESSAGES, started.elapsed());
    let written = store.stats()?.tail;
    let (least, came_back) = settle_down(&store)?;
    let pinned = store.stats()?.pin.map_or(0, |pin| pin.bytes);
    drop(stuck);
    store.close()?;
    let store = Store::open(path_of(place, "reclaim"))?;
    let owed = store.group("t", "stalls").open()?.stats()?.ready;
    store.close()?;
    if owed != 1 {
        let text = format!("{owed} messages are owed to the group that stalls, not 1");
        return Err(Failure::failed(text));
    }
    place.clear("reclaim")?;
    let mib = |bytes: u64| figure(bytes) / MIB;
    Ok(vec![
        Row::alone("10 M messages by 3 groups", "1/s", rate),
        Row::alone("log written for them", "MiB", mib(written)),
        Row::alone("most disk meanwhile", "MiB", mib(most)),
        Row::alone("disk afterwards", "MiB", mib(least))
            .noted("one message is unacked: at most two segments, the reserve and indexes"),
        Row::alone("of it kept by that message", "MiB", mib(pinned)),
        Row::alone("until the disk was back", "s", came_back.as_secs_f64()),
    ])
}

// Counts of bytes are far below 2^52: nothing is lost.
#[allow(clippy::cast_precision_loss)]
fn figure(bytes: u64) -> f64 {
    bytes as f64
}

/// Receives and acknowledges all there is, but for the first message of the group that stalls.
fn take_all(group: &Group, stuck: &mut Option<Delivery>) -> Result<(), Failure> {
    loop {
        let mut got = group.receive_batch(BATCH, Duration::ZERO)?;
        if got.is_empty() {
            return Ok(());
        }
        if group.name() == "stalls" && stuck.is_none() {
            *stuck = Some(got.remove(0));
        }
        for result in group.ack_many(got) {
            result?;
        }
    }
}

/// Waits until the disk holds no less for two seconds; what it holds then, and how long the last
/// change took to come.
fn settle_down(store: &Store) -> Result<(u64, Duration), Failure> {
    let started = Instant::now();
    let (mut least, mut since) = (u64::MAX, started);
    while since.elapsed() < Duration::from_secs(2) {
        let now = store.stats()?.disk_bytes;
        if now < least {
            (least, since) = (now, Instant::now());
        }
        if started.elapsed() > Duration::from_secs(60) {
            let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(cannot("wait for the disk to come back", &error));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok((least, since - started))
}
