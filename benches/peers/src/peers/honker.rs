//! honker 0.5: a task queue on SQLite. Bodies are JSON.

use std::path::Path;

use honker::{Database, EnqueueOpts, QueueOpts};

use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Honker;

struct Open {
    database: Database,
    queue: honker::Queue,
}

const WORKER: &str = "w";

impl Peer for Honker {
    fn name(&self) -> &'static str {
        "honker"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("WAL, synchronous = FULL"),
            lazy: Some("WAL, synchronous = OFF"),
            never_syncs: true,
            take: Some("claim (leased), then ack, which deletes the row"),
            waits: true,
            shared: true,
            depth: 10_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        std::fs::create_dir_all(dir).map_err(cannot("make the directory"))?;
        let database = Database::open(dir.join("q.db")).map_err(cannot("open"))?;
        let synchronous = if mode == Mode::Sync { "FULL" } else { "OFF" };
        let pragma = format!("PRAGMA synchronous = {synchronous}");
        let set = database.with_conn(|connection| connection.execute_batch(&pragma));
        set.map_err(cannot("set the database up"))?;
        let queue = database.queue("t", QueueOpts::default());
        Ok(Box::new(Open { database, queue }))
    }
}

fn text(body: &[u8]) -> Res<&str> {
    std::str::from_utf8(body).map_err(cannot("send what is no text"))
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        let sent = self.queue.enqueue(&text(body)?, EnqueueOpts::default());
        sent.map(drop).map_err(cannot("enqueue"))
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        let txn = self.database.transaction().map_err(cannot("begin"))?;
        for body in bodies {
            let sent = self
                .queue
                .enqueue_tx(&txn, &text(body)?, EnqueueOpts::default());
            sent.map_err(cannot("enqueue a batch"))?;
        }
        txn.commit().map_err(cannot("commit"))
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        let Some(job) = self.queue.claim_one(WORKER).map_err(cannot("claim"))? else {
            return Ok(false);
        };
        let body: String = job.payload_as().map_err(cannot("read"))?;
        check(body.as_bytes())?;
        let acked = job.ack().map_err(cannot("ack"))?;
        if acked {
            Ok(true)
        } else {
            Err("an ack came too late".into())
        }
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let claimed = self.queue.claim_batch(WORKER, most as i64);
        let jobs = claimed.map_err(cannot("claim a batch"))?;
        for job in &jobs {
            let body: String = job.payload_as().map_err(cannot("read"))?;
            check(body.as_bytes())?;
        }
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        let acked = self.queue.ack_batch(&ids, WORKER);
        acked.map_err(cannot("ack a batch"))?;
        Ok(jobs.len())
    }

    fn wait(&self, then: &mut dyn FnMut() -> Res<()>) -> Res<()> {
        let waker = self.queue.claim_waker();
        let job = waker.next(WORKER).map_err(cannot("claim"))?;
        then()?;
        let job = job.ok_or("its watcher stopped")?;
        job.ack().map(drop).map_err(cannot("ack"))
    }
}
