//! rusqlite 0.40, which is SQLite: a table as a queue, in write-ahead mode.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::lock;
use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Rusqlite;

/// One connection for all threads: SQLite has one writer at a time anyway.
struct Open(Mutex<Connection>);

impl Peer for Rusqlite {
    fn name(&self) -> &'static str {
        "rusqlite"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("WAL, synchronous = FULL, statements prepared"),
            lazy: Some("WAL, synchronous = OFF, statements prepared"),
            never_syncs: true,
            take: Some("DELETE of the first row RETURNING its body"),
            waits: false,
            shared: true,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        std::fs::create_dir_all(dir).map_err(cannot("make the directory"))?;
        let connection = Connection::open(dir.join("q.db")).map_err(cannot("open"))?;
        let prepare = || {
            connection.busy_timeout(Duration::from_secs(60))?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            let synchronous = if mode == Mode::Sync { "full" } else { "off" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            let table = "CREATE TABLE IF NOT EXISTS q (id INTEGER PRIMARY KEY, body BLOB)";
            connection.execute_batch(table)
        };
        prepare().map_err(cannot("set the database up"))?;
        Ok(Box::new(Open(Mutex::new(connection))))
    }
}

const INSERT: &str = "INSERT INTO q (body) VALUES (?1)";
const TAKE: &str = "DELETE FROM q WHERE id IN (SELECT id FROM q ORDER BY id LIMIT ?1) \
                    RETURNING body";

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        let connection = lock(&self.0)?;
        let sent = connection
            .prepare_cached(INSERT)
            .and_then(|mut insert| insert.execute([body]));
        sent.map(drop).map_err(cannot("insert"))
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        let mut connection = lock(&self.0)?;
        let mut send = || {
            let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut insert = txn.prepare_cached(INSERT)?;
                for body in bodies {
                    insert.execute([body])?;
                }
            }
            txn.commit()
        };
        send().map_err(cannot("insert a batch"))
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        self.take_batch(1, check).map(|count| count == 1)
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let connection = lock(&self.0)?;
        let take = || {
            let mut take = connection.prepare_cached(TAKE)?;
            let rows = take.query_map([most as i64], |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let bodies = take().map_err(cannot("delete"))?;
        for body in &bodies {
            check(body)?;
        }
        Ok(bodies.len())
    }
}
