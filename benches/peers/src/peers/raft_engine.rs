//! raft-engine 0.4: the log of many Raft groups, with group commit. A queue of it: a group per
//! sending thread, entries with consecutive indexes, and a compaction as the ack.

use std::path::Path;
use std::sync::Mutex;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::lock;
use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct RaftEngine;

/// Threads that have a group of their own.
const LANES: usize = 64;

/// Messages of one compaction.
const ACKED: u64 = 256;

/// The next index of a group, and the batch its entries are laid out in.
struct Lane {
    next: u64,
    batch: LogBatch,
}

struct Open {
    engine: Engine,
    mode: Mode,
    lanes: Vec<Mutex<Lane>>,
    first: Mutex<u64>,
}

/// An entry: eight bytes of index, then the body.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.get(..8).and_then(|bytes| bytes.try_into().ok());
        index.map_or(0, u64::from_le_bytes)
    }
}

impl Peer for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some(
                "sync writes, files of 64 MiB prefilled, no compression, a group per thread",
            ),
            lazy: Some("writes without sync, no compression"),
            never_syncs: true,
            take: Some("the entry is read; every 256 its group is compacted up to it"),
            waits: false,
            shared: false,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        let config = Config {
            dir: dir.to_string_lossy().into_owned(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(64),
            purge_threshold: ReadableSize::gb(4),
            prefill_for_recycle: mode == Mode::Sync,
            prefill_limit: (mode == Mode::Sync).then(|| ReadableSize::mb(256)),
            ..Config::default()
        };
        let engine = Engine::open(config).map_err(cannot("open the engine"))?;
        let lane = |lane| {
            let last = engine.last_index(lane as u64 + 1);
            Mutex::new(Lane {
                next: last.map_or(1, |last| last + 1),
                batch: LogBatch::default(),
            })
        };
        let lanes = (0..LANES).map(lane).collect();
        let first = Mutex::new(engine.first_index(1).unwrap_or(1));
        Ok(Box::new(Open {
            engine,
            mode,
            lanes,
            first,
        }))
    }
}

impl Open {
    fn append(&self, lane: usize, bodies: &[&[u8]]) -> Res<()> {
        let number = lane % LANES;
        let mut lane = lock(&self.lanes[number])?;
        let first = lane.next;
        let entry = |(n, body): (usize, &&[u8])| {
            let mut value = (first + n as u64).to_le_bytes().to_vec();
            value.extend_from_slice(body);
            BytesValue {
                value,
                ..BytesValue::default()
            }
        };
        let entries: Vec<_> = bodies.iter().enumerate().map(entry).collect();
        let added = lane
            .batch
            .add_entries::<Indexed>(number as u64 + 1, &entries);
        added.map_err(cannot("lay entries out"))?;
        let written = self.engine.write(&mut lane.batch, self.mode == Mode::Sync);
        written.map_err(cannot("write"))?;
        lane.next += bodies.len() as u64;
        Ok(())
    }
}

impl Queue for Open {
    fn send(&self, lane: usize, body: &[u8]) -> Res<()> {
        self.append(lane, &[body])
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        self.append(0, bodies)
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        let mut first = lock(&self.first)?;
        let entry = self.engine.get_entry::<Indexed>(1, *first);
        let Some(entry) = entry.map_err(cannot("read"))? else {
            return Ok(false);
        };
        check(&entry.value[8..])?;
        *first += 1;
        if (*first).is_multiple_of(ACKED) {
            self.engine.compact_to(1, *first);
        }
        Ok(true)
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let mut first = lock(&self.first)?;
        let last = self.engine.last_index(1).map_or(0, |last| last + 1);
        let end = last.min(*first + most as u64);
        let mut entries = Vec::new();
        if end > *first {
            let fetched =
                self.engine
                    .fetch_entries_to::<Indexed>(1, *first, end, None, &mut entries);
            fetched.map_err(cannot("read a batch"))?;
        }
        for entry in &entries {
            check(&entry.value[8..])?;
        }
        *first = end.max(*first);
        self.engine.compact_to(1, *first);
        Ok(entries.len())
    }
}
