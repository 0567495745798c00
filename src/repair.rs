//! Making a damaged store usable again: the counterpart of `verify`.
//!
//! A repair works alone, under the lock of opening. In this order: copies of every damaged file go
//! to quarantine; what is known for sure is put right (a single wrong bit in SUPER or in a header,
//! files under each other's names); the state is rebuilt from the log, as by a cold open, which
//! settles what damage took by LOSS records; indexes are made again; the damage itself is noted in
//! the log, so that `verify` tells of it as known; and a snapshot makes the next open independent
//! of everything before. A death anywhere leaves a store that the next repair brings to the same
//! end.

use std::path::Path;
use std::sync::Arc;

use crate::commitlog::recover::QUARANTINE;
use crate::commitlog::{LOG_DIR, Log};
use crate::delivery::{registry, snapshot};
use crate::error::{Code, Error, Result};
use crate::format::segment::parse_sidecar_name;
use crate::open::{self, Alone, Mended};
use crate::options::{RepairOptions, StoreOptions};
use crate::rebuild;
use crate::reports::{LostMessages, RepairReport};
use crate::shm::member;
use crate::sys::{Dir, Env, RealDisk, RealHost, RuntimeDir, looking};
use crate::verify::{Examined, Progress, examine};

mod files;

/// Repairs the store in this directory, which nobody may have open: afterwards it opens, everything
/// that is not damaged is delivered, and what damage took is told to each group once.
///
/// Good data is never touched: damaged files are copied to `quarantine/` in the store before
/// anything changes, and no file is changed in place. A repair that dies can be started again. A
/// store that needs none is left as it is. With [`RepairOptions::dry_run`] nothing is changed, and
/// the report says what would be.
///
/// When even the snapshots are damaged that stand for what was reclaimed, groups start again at the
/// earliest kept message: they get some messages a second time and miss none. The report says so.
///
/// `progress` is told (bytes done, bytes in all) of each pass over the log.
///
/// # Errors
/// `Busy` while a process has the store open, `NotFound`, `NotAStore`, `Incompatible`, `Full`;
/// `Corrupt` when nothing can be made of what is left: no SUPER, or no readable segment.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("repair");
/// use keepq::RepairOptions;
///
/// let store = keepq::Store::open(&dir)?;
/// store.topic("orders")?.send(b"one")?;
/// store.close()?;
/// let report = keepq::repair(&dir, &RepairOptions::default(), &mut |_, _| {})?;
/// assert!(report.is_ok() && report.actions.is_empty(), "nothing needed repair");
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
pub fn repair(
    path: impl AsRef<Path>,
    options: &RepairOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RepairReport> {
    let path = path.as_ref();
    let opening = StoreOptions {
        create: false,
        read_only: options.dry_run,
        ..StoreOptions::default()
    };
    let disk = RealDisk::open_dir(path, 0o600).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Code::NotFound,
            format!("there is no store {}", path.display()),
        )
        .at_path(path),
        _ => Error::io("open the directory", path, &e),
    })?;
    let prepare = |e: std::io::Error| Error::io("prepare", path, &e);
    let mut report = RepairReport::default();
    // SUPER says whether shared memory lies elsewhere, so it comes first.
    let env = Env {
        disk: Arc::new(disk.clone()),
        host: Arc::new(RealHost::new(&disk).map_err(prepare)?),
        runtime: None,
    };
    if begin(&env, options, &mut report)? {
        return Ok(report);
    }
    drop(env);
    let (host, runtime) = match open::place_of_maps(&disk, &opening)? {
        None => (RealHost::new(&disk), None),
        Some((named, maps)) => {
            let host = RealHost::with_maps(&disk, &maps);
            let disk = Arc::new(maps);
            (host, Some(RuntimeDir { named, disk }))
        }
    };
    let env = Env {
        disk: Arc::new(disk),
        host: Arc::new(host.map_err(prepare)?),
        runtime,
    };
    finish(&env, options, &mut report, progress)?;
    Ok(report)
}

/// As [`repair`], in the directory of `env`.
#[cfg(feature = "sim")]
pub(crate) fn repair_in(env: &Env, options: &RepairOptions) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    if !begin(env, options, &mut report)? {
        finish(env, options, &mut report, &mut |_, _| {})?;
    }
    Ok(report)
}

/// Makes LOCK and SUPER usable. True: a dry run can look no further.
fn begin(env: &Env, options: &RepairOptions, report: &mut RepairReport) -> Result<bool> {
    let dir = Dir::new(env.disk.clone());
    let no_lock = dir.try_stat("LOCK")?.is_none();
    let no_super = dir.try_stat("SUPER")?.is_none();
    if no_lock && no_super {
        // Nothing is made in a directory of somebody else.
        let path = dir.display("");
        let text = format!(
            "{} is not a keepq store: it has neither SUPER nor LOCK",
            path.display()
        );
        return Err(Error::new(Code::NotAStore, text).at_path(path));
    }
    if no_lock {
        report
            .actions
            .push("LOCK: it is missing; made anew".to_owned());
        if options.dry_run {
            report.before = examine(&dir, &mut |_, _| {})?.report;
            report.after = report.before.clone();
            return Ok(true);
        }
    }
    let _alone = open::take_alone(env, &dir, options.dry_run)?;
    let mended = files::mend_super(&dir, options.dry_run)?;
    let stop = options.dry_run && mended.is_some();
    report.actions.extend(mended);
    Ok(stop)
}

fn finish(
    env: &Env,
    options: &RepairOptions,
    report: &mut RepairReport,
    progress: Progress<'_>,
) -> Result<()> {
    let real = Dir::new(env.disk.clone());
    let alone = open::take_alone(env, &real, options.dry_run)?;
    let own = options.dry_run.then(|| looking(env));
    let env = own.as_ref().unwrap_or(env);
    let dir = Dir::new(env.disk.clone());
    let found = examine(&dir, progress)?;
    report.before = found.report.clone();
    if !needs_work(&dir, &found)? {
        report.after = found.report;
        return Ok(());
    }
    let kept = files::quarantined(&dir)?;
    let mut work = Work {
        env,
        dir: &dir,
        report,
    };
    work.put_right(&found)?;
    work.rebuild(&alone)?;
    let mut now = files::quarantined(&dir)?;
    now.retain(|name| !kept.contains(name));
    report.quarantined = now
        .into_iter()
        .map(|name| format!("{QUARANTINE}/{name}"))
        .collect();
    report.after = examine(&dir, progress)?.report;
    Ok(())
}

/// Whether there is anything to repair. What stands behind the end of the log, and files of others,
/// are no concern of a repair.
fn needs_work(dir: &Dir, found: &Examined) -> Result<bool> {
    let left = &found.left;
    let temporary = left.temporary.iter().any(|name| name != "reserve.pre");
    let findings = found.report.findings.iter();
    let broken = findings
        .filter(|f| f.damage || f.file.ends_with(".idx"))
        .count();
    let uuid = open::read_super(dir)?.map(|superblock| superblock.uuid);
    let misplaced = match uuid {
        Some(uuid) => files::misplaced(dir, &uuid)?,
        None => Vec::new(),
    };
    Ok(broken > 0
        || !misplaced.is_empty()
        || temporary
        || !left.unadopted.is_empty()
        || found.unindexed > 0
        || files::has_temporary(dir)?
        || files::is_unfinished(dir)?)
}

struct Work<'a> {
    env: &'a Env,
    dir: &'a Dir,
    report: &'a mut RepairReport,
}

impl Work<'_> {
    /// Before the log is read.
    fn put_right(&mut self, found: &Examined) -> Result<()> {
        let findings = found.report.findings.iter();
        let mut damaged: Vec<&str> = findings
            .filter(|f| f.damage && f.file.starts_with(LOG_DIR))
            .map(|f| f.file.as_str())
            .collect();
        damaged.dedup();
        for path in damaged {
            if path != LOG_DIR && !broken!(NoCopyBeforeRepair) {
                files::keep_copy(self.dir, path)?;
            }
        }
        let Some(superblock) = open::read_super(self.dir)? else {
            return Ok(());
        };
        let actions = &mut self.report.actions;
        files::remove_temporary(self.dir, actions)?;
        files::mend_names(self.dir, &superblock.uuid, actions)?;
        files::mend_headers(self.dir, &superblock.uuid, actions)
    }

    fn rebuild(&mut self, alone: &Alone<'_>) -> Result<()> {
        let (log, recovery, mended) = open::attach_to_mend(self.env, self.dir, alone)?;
        let told = recovery.notes.iter().map(|note| format!("rebuilt: {note}"));
        self.report.actions.extend(told);
        let written = self.write_down(&log, &mended);
        let left = member::leave(&log.ctl);
        written.and(left)
    }

    /// Into the rebuilt store: the indexes, what is lost, and a snapshot.
    fn write_down(&mut self, log: &Log, mended: &Mended) -> Result<()> {
        self.restore_indexes(log)?;
        self.report.lost_state.clone_from(&mended.lost);
        for gap in &mended.gaps {
            self.lost(log, gap.stream, (gap.first, gap.count))?;
        }
        let now = examine(self.dir, &mut |_, _| {})?;
        for (finding, range) in now.report.findings.iter().zip(&now.ranges) {
            let Some(range) = range.filter(|_| finding.damage) else {
                continue;
            };
            self.lost_with(log, range)?;
            if !broken!(RepairNotNoted) {
                rebuild::note_known(log, range, &format!("{}: {}", finding.file, finding.reason))?;
            }
            self.report.actions.push(format!(
                "{} at {}: {}; noted as lost",
                finding.file, finding.position, finding.reason
            ));
        }
        if let Some(held) = log.try_maintain()? {
            if !broken!(NoSnapshotAfterRepair) {
                snapshot::write(log, &held)?;
            }
        }
        log.flush_and_mark(log.ctl.patience())
    }

    fn restore_indexes(&mut self, log: &Log) -> Result<()> {
        let sealed = log.sealed_from(0)?;
        for segment in &sealed {
            if log.restore_sidecar(segment)? {
                let text = format!("the index of segment {}: made again", segment.number);
                self.report.actions.push(text);
            }
        }
        for name in self.dir.list(LOG_DIR)? {
            let of = parse_sidecar_name(&name).map(u64::from);
            if of.is_some_and(|number| sealed.iter().all(|s| s.number != number)) {
                self.dir.unlink_if_there(&Log::path(&name))?;
                let text = format!("log/{name}: the index of no segment; removed");
                self.report.actions.push(text);
            }
        }
        Ok(())
    }

    /// The messages that the indexes say lie in a damaged range.
    fn lost_with(&mut self, log: &Log, (from, to): (u64, u64)) -> Result<()> {
        for topic in 0..registry::topics(&log.ctl) {
            let (mut seq, mut run) = (0, None);
            for segment in log.sealed_from(0)? {
                if segment.end <= from || segment.base >= to {
                    continue;
                }
                let index = log.sidecar(&segment)?;
                seq = seq.max(index.first_seq(topic).unwrap_or(u64::MAX));
                while let Some((at, lsn)) = index.at_or_after(topic, seq) {
                    seq = at + 1;
                    if !(from..to).contains(&lsn) {
                        continue;
                    }
                    run = match run {
                        Some((first, count)) if first + count == at => Some((first, count + 1)),
                        Some(run) => {
                            self.lost(log, topic, run)?;
                            Some((at, 1))
                        }
                        None => Some((at, 1)),
                    };
                }
                seq = 0;
            }
            if let Some(run) = run {
                self.lost(log, topic, run)?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, log: &Log, topic: u32, (first_seq, count): (u64, u64)) -> Result<()> {
        let lost = LostMessages {
            topic: registry::topic_name(&log.ctl, topic)?,
            first_seq,
            count,
        };
        if !self.report.lost.contains(&lost) {
            self.report.lost.push(lost);
        }
        Ok(())
    }
}
