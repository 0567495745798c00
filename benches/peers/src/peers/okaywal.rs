//! okaywal 0.3: a write-ahead log with group commit. It hands nothing out.

use std::path::Path;

use okaywal::{LogVoid, WriteAheadLog};

use crate::peer::{Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Okaywal;

struct Open(WriteAheadLog);

impl Peer for Okaywal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("defaults: segments of 1 MiB, recycled after 768 KiB"),
            lazy: None,
            never_syncs: false,
            take: None,
            waits: false,
            shared: false,
            depth: 0,
        }
    }

    fn open(&self, dir: &Path, _mode: Mode) -> Res<Box<dyn Queue>> {
        let log = WriteAheadLog::recover(dir, LogVoid).map_err(cannot("open the log"))?;
        Ok(Box::new(Open(log)))
    }
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        self.send_batch(&[body])
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        let mut entry = self.0.begin_entry().map_err(cannot("begin an entry"))?;
        for body in bodies {
            entry.write_chunk(body).map_err(cannot("write"))?;
        }
        entry.commit().map(drop).map_err(cannot("commit"))
    }
}
