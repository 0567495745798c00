//! fjall 3: an LSM tree. A queue of it: ascending keys, one consumer that knows the next.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::lock;
use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Fjall;

struct Open {
    database: Database,
    items: Keyspace,
    mode: Mode,
    next: AtomicU64,
    first: Mutex<u64>,
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("insert + persist(SyncData)"),
            lazy: Some("insert (its journal is written, not synced)"),
            never_syncs: true,
            take: Some("get + remove of the next key"),
            waits: false,
            shared: false,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        let database = Database::builder(dir).open();
        let database = database.map_err(cannot("open the database"))?;
        let items = database.keyspace("q", KeyspaceCreateOptions::default);
        let items = items.map_err(cannot("open the keyspace"))?;
        let key = |guard: Option<fjall::Guard>| match guard {
            Some(guard) => guard.key().map(|key| number(&key)).map(Some),
            None => Ok(None),
        };
        let first = key(items.first_key_value()).map_err(cannot("read"))?;
        let last = key(items.last_key_value()).map_err(cannot("read"))?;
        Ok(Box::new(Open {
            database,
            items,
            mode,
            next: AtomicU64::new(last.map_or(0, |last| last + 1)),
            first: Mutex::new(first.unwrap_or(0)),
        }))
    }
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

impl Open {
    fn persist(&self) -> Res<()> {
        match self.mode {
            Mode::Async => Ok(()),
            Mode::Sync => {
                let persisted = self.database.persist(PersistMode::SyncData);
                persisted.map_err(cannot("persist"))
            }
        }
    }
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.items.insert(key, body).map_err(cannot("insert"))?;
        self.persist()
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        let mut batch = self.database.batch();
        for body in bodies {
            let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            batch.insert(&self.items, key, *body);
        }
        batch.commit().map_err(cannot("commit a batch"))?;
        self.persist()
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        self.take_batch(1, check).map(|count| count == 1)
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let mut first = lock(&self.first)?;
        let mut batch = self.database.batch();
        let mut count = 0;
        while count < most {
            let key = (*first + count as u64).to_be_bytes();
            let Some(body) = self.items.get(key).map_err(cannot("read"))? else {
                break;
            };
            check(&body)?;
            batch.remove(&self.items, key);
            count += 1;
        }
        batch.commit().map_err(cannot("remove"))?;
        *first += count as u64;
        Ok(count)
    }
}
