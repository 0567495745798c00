//! heed 0.22, which is LMDB: a B+ tree in a mapped file. A queue of it: ascending keys.
//!
//! Unsafe code: opening, because nobody else may change the mapped file. Nobody does.

#![allow(unsafe_code)]

use std::path::Path;
use std::sync::Mutex;

use heed::byteorder::BE;
use heed::types::{Bytes, U64};
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RwTxn, WithoutTls};

use super::lock;
use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Heed;

struct Open {
    env: Env<WithoutTls>,
    items: Database<U64<BE>, Bytes>,
    /// One writer at a time in this process; LMDB's own lock keeps other processes out.
    writing: Mutex<()>,
}

impl Peer for Heed {
    fn name(&self) -> &'static str {
        "heed"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("defaults, MDB_APPEND"),
            lazy: Some("MDB_WRITEMAP, MDB_NOSYNC, MDB_MAPASYNC, MDB_APPEND"),
            never_syncs: true,
            take: Some("read and deleted in one transaction"),
            waits: false,
            shared: true,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        std::fs::create_dir_all(dir).map_err(cannot("make the directory"))?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(32 << 30);
        if mode == Mode::Async {
            let flags = EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC | EnvFlags::MAP_ASYNC;
            // SAFETY: the flags give up durability, which is what is asked for.
            unsafe { options.flags(flags) };
        }
        // SAFETY: only LMDB touches the files of this directory.
        let env = unsafe { options.open(dir) }.map_err(cannot("open the environment"))?;
        let mut txn = env.write_txn().map_err(cannot("begin"))?;
        let items = env.create_database(&mut txn, None);
        let items = items.map_err(cannot("open the database"))?;
        txn.commit().map_err(cannot("commit"))?;
        Ok(Box::new(Open {
            env,
            items,
            writing: Mutex::new(()),
        }))
    }
}

impl Open {
    fn change<T>(&self, work: impl FnOnce(&mut RwTxn<'_>) -> heed::Result<T>) -> Res<T> {
        let _writing = lock(&self.writing)?;
        let mut txn = self.env.write_txn().map_err(cannot("begin"))?;
        let value = work(&mut txn).map_err(cannot("change the database"))?;
        txn.commit().map_err(cannot("commit"))?;
        Ok(value)
    }
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        self.send_batch(&[body])
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        self.change(|txn| {
            let last = self.items.last(txn)?;
            let mut key = last.map_or(0, |(key, _)| key + 1);
            for body in bodies {
                self.items
                    .put_with_flags(txn, PutFlags::APPEND, &key, body)?;
                key += 1;
            }
            Ok(())
        })
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        self.take_batch(1, check).map(|count| count == 1)
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let mut wrong = Ok(());
        let count = self.change(|txn| {
            for count in 0..most {
                let Some((key, body)) = self.items.first(txn)? else {
                    return Ok(count);
                };
                wrong = check(body);
                if wrong.is_err() {
                    return Ok(count);
                }
                self.items.delete(txn, &key)?;
            }
            Ok(most)
        })?;
        wrong.map(|()| count)
    }
}
