//! Sends: synchronous beside a raw loop of pwrite and fdatasync, asynchronous alone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use keepq::{Flush, Topic};

use super::{BODY, Place, Row, cannot, fill, per_second};
use crate::args::BenchArgs;
use crate::exit::Failure;

const SYNC_SENDS: u64 = 2_000;
const ASYNC_SENDS: u64 = 1_000_000;
/// What a body and its record's header occupy in the log.
const RECORD: usize = 192;

pub(super) fn sync_send(place: &Place, args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let store = place.store("sync", Flush::Sync)?;
    let topic = store.topic("t")?;
    let raw = Prepared::new(place, u64::from(args.pairs) + 1)?;
    // The first round grows the first, small segments: it is not what a store does all day.
    send_one_by_one(&topic, SYNC_SENDS)?;
    raw.round(0)?;
    let mut pairs = Vec::new();
    for pair in 0..u64::from(args.pairs) {
        let started = Instant::now();
        send_one_by_one(&topic, SYNC_SENDS)?;
        let keepq = per_second(SYNC_SENDS, started.elapsed());
        let started = Instant::now();
        raw.round(pair + 1)?;
        pairs.push((keepq, per_second(SYNC_SENDS, started.elapsed())));
    }
    store.close()?;
    place.clear("sync")?;
    let row = Row::pairs("sync send, 1 thread, 128 B", "1/s", &pairs);
    Ok(vec![row.noted(
        "raw = pwrite + fdatasync on a prepared file; at least 0.95",
    )])
}

fn send_one_by_one(topic: &Topic, count: u64) -> Result<(), Failure> {
    for _ in 0..count {
        topic.send(BODY)?;
    }
    Ok(())
}

/// A file whose every block is written and on disk, so that a flush writes data alone.
struct Prepared {
    file: File,
}

impl Prepared {
    fn new(place: &Place, rounds: u64) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(place.dir.join("raw"))
            .map_err(|e| cannot("make the raw file", &e))?;
        let zeros = vec![0; 1 << 20];
        let length = rounds * SYNC_SENDS * RECORD as u64;
        let mut at = 0;
        while at < length {
            file.write_all_at(&zeros, at)
                .map_err(|e| cannot("write the raw file", &e))?;
            at += zeros.len() as u64;
        }
        file.sync_all()
            .map_err(|e| cannot("sync the raw file", &e))?;
        Ok(Self { file })
    }

    fn round(&self, round: u64) -> Result<(), Failure> {
        let record = [b'r'; RECORD];
        for n in 0..SYNC_SENDS {
            let at = (round * SYNC_SENDS + n) * RECORD as u64;
            self.file
                .write_all_at(&record, at)
                .map_err(|e| cannot("write the raw file", &e))?;
            self.file
                .sync_data()
                .map_err(|e| cannot("sync the raw file", &e))?;
        }
        Ok(())
    }
}

pub(super) fn async_send(place: &Place, _: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let store = place.store("async", Flush::Async)?;
    let topic = store.topic("t")?;
    // The first touch of memory is not what is measured.
    send_one_by_one(&topic, ASYNC_SENDS / 4)?;
    let started = Instant::now();
    send_one_by_one(&topic, ASYNC_SENDS)?;
    let one = per_second(ASYNC_SENDS, started.elapsed());
    let started = Instant::now();
    fill(&topic, ASYNC_SENDS)?;
    let many = per_second(ASYNC_SENDS, started.elapsed());
    store.close()?;
    place.clear("async")?;
    Ok(vec![
        Row::alone("async send, 1 thread, 128 B", "1/s", one),
        Row::alone("async send in batches, 128 B", "1/s", many),
    ])
}
