//! walrus-rust 0.2: a write-ahead log with topics and a read position each.

use std::path::Path;

use walrus_rust::{FsyncSchedule, ReadConsistency, disable_fd_backend};

use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Walrus;

struct Open {
    log: walrus_rust::Walrus,
    topics: Vec<String>,
}

/// Threads that have a topic of their own.
const LANES: usize = 64;

impl Peer for Walrus {
    fn name(&self) -> &'static str {
        "walrus-rust"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("mapped files, FsyncSchedule::SyncEach, a topic per thread"),
            lazy: Some("mapped files, FsyncSchedule::NoFsync"),
            never_syncs: true,
            take: Some("the read position is written every 1000 messages"),
            waits: false,
            shared: false,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        // It takes a name below WALRUS_DATA_DIR, not a directory.
        let below = std::env::var_os("WALRUS_DATA_DIR").ok_or("WALRUS_DATA_DIR is not set")?;
        let key = dir.strip_prefix(&below).map_err(cannot("name the log"))?;
        let key = key.to_string_lossy().replace('/', "_");
        place(dir, &Path::new(&below).join(&key))?;
        disable_fd_backend();
        let schedule = match mode {
            Mode::Sync => FsyncSchedule::SyncEach,
            Mode::Async => FsyncSchedule::NoFsync,
        };
        let reads = ReadConsistency::AtLeastOnce {
            persist_every: 1000,
        };
        let log = walrus_rust::Walrus::with_consistency_and_schedule_for_key(&key, reads, schedule);
        Ok(Box::new(Open {
            log: log.map_err(cannot("open the log"))?,
            topics: (0..LANES).map(|lane| format!("t{lane}")).collect(),
        }))
    }
}

/// Lets the log's own directory be this one.
fn place(dir: &Path, own: &Path) -> Res<()> {
    std::fs::create_dir_all(dir).map_err(cannot("make the directory"))?;
    match std::os::unix::fs::symlink(dir, own) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(cannot("link")(e)),
        _ => Ok(()),
    }
}

impl Queue for Open {
    fn send(&self, lane: usize, body: &[u8]) -> Res<()> {
        let topic = &self.topics[lane % LANES];
        self.log
            .append_for_topic(topic, body)
            .map_err(cannot("append"))
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        self.log
            .batch_append_for_topic(&self.topics[0], bodies)
            .map_err(cannot("append a batch"))
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        let read = self.log.read_next(&self.topics[0], true);
        match read.map_err(cannot("read"))? {
            Some(entry) => check(&entry.data).map(|()| true),
            None => Ok(false),
        }
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        // It counts bytes: as many as `most` of the largest bodies that are measured.
        let read = self
            .log
            .batch_read_for_topic(&self.topics[0], most * 1024, true);
        let entries = read.map_err(cannot("read a batch"))?;
        for entry in &entries {
            check(&entry.data)?;
        }
        Ok(entries.len())
    }
}
