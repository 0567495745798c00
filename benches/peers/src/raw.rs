//! The limits of the machine: what any queue that does this work must pay.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crate::{Res, cannot};

/// What a header adds to a body in the raw loops, as in keepq's log.
pub(crate) const HEADER: usize = 64;
const FILE: u64 = 64 << 20;
const PIECE: usize = 1 << 20;

/// A file whose every block is written and on disk, so that a flush writes data alone. The loops
/// begin again at its start when they reach its end.
pub(crate) struct Prepared {
    file: File,
}

impl Prepared {
    pub(crate) fn new(path: &Path) -> Res<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(cannot("make the raw file"))?;
        let zeros = vec![0; PIECE];
        for at in (0..FILE).step_by(PIECE) {
            file.write_all_at(&zeros, at)
                .map_err(cannot("write the raw file"))?;
        }
        file.sync_all().map_err(cannot("sync the raw file"))?;
        Ok(Self { file })
    }

    /// Writes at a position and syncs; the next position.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Res<u64> {
        let end = at + bytes.len() as u64;
        let (at, end) = if end > FILE {
            (0, bytes.len() as u64)
        } else {
            (at, end)
        };
        self.file
            .write_all_at(bytes, at)
            .map_err(cannot("write the raw file"))?;
        self.file.sync_data().map_err(cannot("sync the raw file"))?;
        Ok(end)
    }
}

/// One fdatasync shared by all threads that wait: the least that a group commit does. Whoever
/// finds nobody writing writes everything that has gathered.
pub(crate) struct SharedSync {
    file: Prepared,
    state: Mutex<Gathered>,
    ended: Condvar,
}

#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Batches taken to be written, and batches on disk.
    begun: u64,
    done: u64,
    at: u64,
    failed: Option<String>,
}

impl SharedSync {
    pub(crate) fn new(path: &Path) -> Res<Self> {
        Ok(Self {
            file: Prepared::new(path)?,
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    fn state(&self) -> Res<MutexGuard<'_, Gathered>> {
        self.state.lock().map_err(|_| "a thread panicked".into())
    }

    pub(crate) fn write(&self, record: &[u8]) -> Res<()> {
        let mut state = self.state()?;
        state.bytes.extend_from_slice(record);
        let mine = state.begun + 1;
        loop {
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            if state.done >= mine {
                return Ok(());
            }
            if state.begun > state.done {
                let waited = self.ended.wait(state);
                state = waited.map_err(|_| "a thread panicked".to_string())?;
                continue;
            }
            state.begun += 1;
            let bytes = std::mem::take(&mut state.bytes);
            let at = state.at;
            drop(state);
            let written = self.file.write(at, &bytes);
            state = self.state()?;
            match written {
                Ok(end) => state.at = end,
                Err(error) => state.failed = Some(error),
            }
            state.done = state.begun;
            self.ended.notify_all();
        }
    }
}

/// Copies of bodies with a checksum each into memory that is warm, per second.
pub(crate) fn copies_per_second(body: &[u8]) -> f64 {
    const COUNT: usize = 200_000;
    let record = HEADER + body.len();
    let mut ring = vec![1_u8; (1 << 20) / record * record];
    let mut sum = 0;
    let mut at = 0;
    let started = Instant::now();
    for _ in 0..COUNT {
        let to = &mut ring[at..at + record];
        let checksum = crc32fast::hash(std::hint::black_box(body));
        to[..4].copy_from_slice(&checksum.to_le_bytes());
        to[HEADER..].copy_from_slice(body);
        sum ^= checksum;
        at = if at + 2 * record > ring.len() {
            0
        } else {
            at + record
        };
    }
    let took = started.elapsed();
    std::hint::black_box((sum, &ring));
    COUNT as f64 / took.as_secs_f64()
}

/// Bytes per second of a stream of 1 MiB writes into a new file, the final sync included.
pub(crate) fn disk_bandwidth(path: &Path) -> Res<f64> {
    const LENGTH: u64 = 256 << 20;
    let bytes = vec![7; PIECE];
    let started = Instant::now();
    let file = File::create(path).map_err(cannot("make a file"))?;
    for at in (0..LENGTH).step_by(PIECE) {
        file.write_all_at(&bytes, at).map_err(cannot("write"))?;
    }
    file.sync_data().map_err(cannot("sync"))?;
    let took = started.elapsed();
    std::fs::remove_file(path).map_err(cannot("remove a file"))?;
    Ok(LENGTH as f64 / took.as_secs_f64())
}
