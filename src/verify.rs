//! Reading every file of a store and checking every byte that has a checksum, without changing
//! anything and without locks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::commitlog::scan::{Leftovers, Source, open_segments};
use crate::commitlog::{LOG_DIR, Log};
use crate::error::{Code, Error, Result};
use crate::format::payload::{self, Config, Loss, Moved, Seal, SnapItem};
use crate::format::record::{ALIGN, Kind, Record, parse_carried};
use crate::format::segment::{JUMP, file_name, parse_file_name, parse_sidecar_name};
use crate::format::sidecar::Sidecar;
use crate::open::read_super;
use crate::reports::{Finding, VerifyReport};
use crate::sys::{Dir, RealDisk};

/// What is told of progress: bytes done, bytes in all.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Reads and checks every file of a store without opening it for work: no locks are taken and
/// nothing is changed. `progress` is told (bytes done, bytes in all).
///
/// Of a store in use, what others write meanwhile may show as an unfinished tail (not as damage).
///
/// # Errors
/// `NotFound`, `NotAStore`, `Incompatible`, `Corrupt` when SUPER itself is damaged, I/O errors.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("verify");
/// let store = keepq::Store::open(&dir)?;
/// store.topic("orders")?.send(b"one")?;
/// let report = keepq::verify(&dir, &mut |_done, _total| {})?;
/// assert!(report.is_ok() && report.messages == 1, "{:?}", report.findings);
/// # store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
pub fn verify(path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let path = path.as_ref();
    let disk = RealDisk::open_dir(path, 0o600).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Code::NotFound,
            format!(
                "there is no store {}: the directory does not exist",
                path.display()
            ),
        )
        .at_path(path),
        _ => Error::io("open the directory", path, &e),
    })?;
    verify_log(&Dir::new(Arc::new(disk)), progress)
}

pub(crate) fn verify_log(dir: &Dir, progress: Progress<'_>) -> Result<VerifyReport> {
    Ok(examine(dir, progress)?.report)
}

/// What a look at every file came to.
pub(crate) struct Examined {
    pub(crate) report: VerifyReport,
    /// The log positions that each finding concerns, where they are known.
    pub(crate) ranges: Vec<Option<(u64, u64)>>,
    /// What stands in the log besides good segments.
    pub(crate) left: Leftovers,
    /// How many segments that ended lack their index.
    pub(crate) unindexed: usize,
}

/// As [`verify`], with the log positions of what was found.
pub(crate) fn examine(dir: &Dir, progress: Progress<'_>) -> Result<Examined> {
    let Some(superblock) = read_super(dir)? else {
        return Err(Error::new(
            Code::NotAStore,
            format!(
                "{} is not a keepq store: it has no SUPER",
                dir.display("").display()
            ),
        )
        .at_path(dir.display("")));
    };
    let mut v = Verifier {
        report: VerifyReport {
            files: 1,
            ..VerifyReport::default()
        },
        ranges: Vec::new(),
        known: Vec::new(),
        oldest: 0,
    };
    if dir.try_stat("LOCK")?.is_none() {
        v.find(
            "LOCK",
            0,
            0,
            "it is missing; make an empty file if no process uses the store",
            true,
        );
    }
    let (mut sources, left) = open_segments(dir, &superblock.uuid)?;
    let total: u64 = sources.values().map(|s| s.header.size).sum();
    v.leftovers(&left);
    if sources.is_empty() {
        v.find(LOG_DIR, 0, 0, "it holds no readable segment", true);
    }
    let ends = v.segments(&mut sources, total, progress)?;
    v.beginning(&sources);
    let indexes = v.sidecars(dir, &sources, &ends)?;
    let ended = sources.keys().rev().skip(1);
    let unindexed = ended.filter(|number| !indexes.contains(number)).count();
    let (report, ranges) = v.end();
    Ok(Examined {
        report,
        ranges,
        left,
        unindexed,
    })
}

struct Verifier {
    report: VerifyReport,
    /// The log positions of each finding.
    ranges: Vec<Option<(u64, u64)>>,
    /// Damaged log positions that a repair has noted.
    known: Vec<(u64, u64)>,
    /// The oldest segment that the log says is kept.
    oldest: u64,
}

/// The number of the segment that a file of the log belongs to.
fn number_of(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let number = parse_file_name(name).map(|n| n.number);
    number.or_else(|| parse_sidecar_name(name)).map(u64::from)
}

/// Where the records of a segment were found to end, and whether a seal ends them.
struct End {
    lsn: u64,
    seal: Option<Seal>,
}

impl Verifier {
    fn find(&mut self, file: &str, position: u64, length: u64, reason: &str, damage: bool) {
        self.ranges.push(None);
        self.report.findings.push(Finding {
            file: file.to_owned(),
            position,
            length,
            reason: reason.to_owned(),
            damage,
            known: false,
        });
    }

    /// Damage at these log positions.
    fn damage(&mut self, file: &str, position: u64, (from, to): (u64, u64), reason: &str) {
        self.find(file, position, to - from, reason, true);
        if let Some(range) = self.ranges.last_mut() {
            *range = Some((from, to));
        }
    }

    /// The findings in order, and their log positions. What a repair has noted is no damage now.
    fn end(mut self) -> (VerifyReport, Vec<Option<(u64, u64)>>) {
        let findings = std::mem::take(&mut self.report.findings);
        let mut all: Vec<(Finding, Option<(u64, u64)>)> =
            findings.into_iter().zip(self.ranges).collect();
        // While this looks, a segment that the log has given up may be half removed.
        let oldest = self.oldest;
        all.retain(|(finding, _)| number_of(&finding.file).is_none_or(|n| n >= oldest));
        all.sort_by(|(a, _), (b, _)| (&a.file, a.position).cmp(&(&b.file, b.position)));
        for (finding, range) in &mut all {
            let noted = range.is_some_and(|(from, to)| {
                self.known
                    .iter()
                    .any(|&(first, end)| first <= from && to <= end)
            });
            if finding.damage && noted {
                finding.damage = false;
                finding.known = true;
                finding.reason.push_str("; a repair has noted what it took");
            }
        }
        let (findings, ranges) = all.into_iter().unzip();
        self.report.findings = findings;
        (self.report, ranges)
    }

    fn leftovers(&mut self, left: &Leftovers) {
        for (name, bad) in &left.damaged {
            self.find(
                &Log::path(name),
                0,
                4096,
                &format!("its header: {bad}"),
                true,
            );
        }
        for name in &left.unadopted {
            let why = "a continuation that never came into use; the next open removes it";
            self.find(&Log::path(name), 0, 0, why, false);
        }
        for name in &left.foreign {
            self.find(
                &Log::path(name),
                0,
                0,
                "keepq does not make files of this name",
                false,
            );
        }
    }

    fn segments(
        &mut self,
        sources: &mut BTreeMap<u64, Source>,
        total: u64,
        progress: Progress<'_>,
    ) -> Result<BTreeMap<u64, End>> {
        let followers: BTreeMap<u64, (u64, u64, u32)> = sources
            .values()
            .map(|s| (s.number, (s.header.base, s.header.prev_end, s.header.flags)))
            .collect();
        // Any record proves how much had been durable when it was written.
        let mut proven = 0;
        for source in sources.values_mut() {
            proven = proven.max(highest_proof(source)?);
        }
        let mut ends = BTreeMap::new();
        let mut done = 0;
        for (&number, source) in sources.iter_mut() {
            // A new epoch steps over whatever its predecessor left behind its end.
            let cut = followers
                .range(number + 1..)
                .next()
                .filter(|(_, (_, _, flags))| flags & JUMP != 0)
                .map(|(_, (_, prev_end, _))| *prev_end);
            let end = self.segment(source, proven, cut)?;
            if let Some(seal) = &end.seal {
                let next = u64::from(seal.next_number);
                let fits = followers.get(&next).is_none_or(|(base, prev_end, _)| {
                    *base == seal.next_base && *prev_end == end.lsn
                });
                if !fits && cut.is_none() {
                    let name = file_name(seal.next_number, 0);
                    let why = "it does not continue its predecessor";
                    let base = followers.get(&next).map_or(0, |(base, _, _)| *base);
                    self.damage(&Log::path(&name), 0, (base, base + 4096), why);
                }
                if !followers.contains_key(&next) && proven > seal.next_base && cut.is_none() {
                    let name = file_name(seal.next_number, 0);
                    let behind = followers.range(next..).next();
                    let to = behind.map_or(proven, |(_, (base, _, _))| *base);
                    let range = (seal.next_base, to.max(seal.next_base + 1));
                    self.damage(&Log::path(&name), 0, range, "it is missing");
                }
            }
            ends.insert(number, end);
            done += source.header.size;
            progress(done, total);
        }
        Ok(ends)
    }

    /// Whether the segments that the log says are kept are there from the first on.
    fn beginning(&mut self, sources: &BTreeMap<u64, Source>) {
        let headers = sources.values().map(|s| u64::from(s.header.oldest));
        let oldest = headers.fold(self.oldest, u64::max);
        self.oldest = oldest;
        let first = sources.keys().find(|&&n| n >= oldest).copied();
        for number in oldest..first.unwrap_or(oldest) {
            let name = file_name(u32::try_from(number).unwrap_or(u32::MAX), 0);
            let to = first.and_then(|n| sources.get(&n)).map_or(1, Source::first);
            self.damage(&Log::path(&name), 0, (0, to), "it is missing");
        }
    }

    fn segment(&mut self, source: &mut Source, proven: u64, cut: Option<u64>) -> Result<End> {
        self.report.files += source.pieces.len() as u64;
        self.report.bytes += source.header.size;
        let mut lsn = source.first();
        let mut epoch = 0;
        loop {
            if cut == Some(lsn) {
                return Ok(End { lsn, seal: None });
            }
            let (bad, len) = match source.record(lsn)? {
                Ok(record) if record.header.epoch >= epoch => {
                    epoch = record.header.epoch;
                    let len = record.header.padded_len() as u64;
                    self.count(&record);
                    if !is_whole_copy(&record) {
                        let (name, position) = place(source, lsn);
                        let why = "a record that was copied forward does not check out";
                        self.find(&name, position, len, why, true);
                        lsn += len;
                        continue;
                    }
                    if record.header.kind == Kind::Seal as u8 {
                        let seal = Seal::decode(record.body).ok();
                        self.check_rest(source, lsn + len)?;
                        return Ok(End {
                            lsn: lsn + len,
                            seal,
                        });
                    }
                    (None, len)
                }
                Ok(record) => (
                    Some("its epoch is lower than before".to_owned()),
                    record.header.padded_len() as u64,
                ),
                Err(bad) => (Some(bad.to_string()), 0),
            };
            match bad {
                None => lsn += len,
                Some(why) => match self.after_bad(source, (lsn, epoch), proven, cut, &why)? {
                    Some(next) => lsn = next,
                    None => return Ok(End { lsn, seal: None }),
                },
            }
        }
    }

    /// A place that does not check out: damage if it had been durable, else the log's end.
    fn after_bad(
        &mut self,
        source: &mut Source,
        (lsn, epoch): (u64, u32),
        proven: u64,
        cut: Option<u64>,
        why: &str,
    ) -> Result<Option<u64>> {
        let (name, position) = place(source, lsn);
        let mut next = source.find_record(lsn + ALIGN as u64)?;
        while let Some(at) = next {
            if source.record(at)?.is_ok_and(|r| r.header.epoch >= epoch) {
                break;
            }
            next = source.find_record(at + ALIGN as u64)?;
        }
        let next = next.filter(|&at| cut.is_none_or(|cut| at < cut));
        let durable_until = proven.min(cut.unwrap_or(u64::MAX)).min(source.limit());
        if lsn < durable_until {
            let to = next.unwrap_or(durable_until);
            self.damage(&name, position, (lsn, to), why);
            return Ok(next.or(cut.filter(|&cut| cut > lsn && cut < source.limit())));
        }
        if source.first_nonzero(lsn)?.is_some() {
            let why = "the log ends here in something unfinished or damaged; nothing behind it \
                       proves that it was ever on disk, so the next recovery cuts it";
            self.find(&name, position, 0, why, false);
        }
        Ok(None)
    }

    fn check_rest(&mut self, source: &mut Source, end: u64) -> Result<()> {
        if let Some(at) = source.first_nonzero(end)? {
            let (name, position) = place(source, at);
            self.find(
                &name,
                position,
                0,
                "bytes behind the end of a sealed segment",
                false,
            );
        }
        Ok(())
    }

    fn count(&mut self, record: &Record<'_>) {
        self.report.records += 1;
        match record.header.kind().ok().flatten() {
            Some(Kind::Msg) => self.report.messages += 1,
            Some(Kind::Batch) => {
                let parts = payload::iter(record.body).flatten();
                let messages = parts.filter(|p| p.kind == Kind::Msg as u8).count();
                self.report.messages += messages as u64;
            }
            Some(Kind::Config) => {
                if let Ok(Config::Reclaim { first }) = Config::decode(record.body) {
                    self.oldest = self.oldest.max(u64::from(first));
                }
            }
            Some(Kind::Loss) => {
                if let Ok(loss) = Loss::decode(record.body) {
                    if loss.gaps.is_empty() {
                        self.known.push((loss.from, loss.to));
                    }
                }
            }
            Some(Kind::Snap) => {
                for item in payload::decode_items(record.body).unwrap_or_default() {
                    if let SnapItem::Oldest { number } = item {
                        self.oldest = self.oldest.max(u64::from(number));
                    }
                }
            }
            _ => {}
        }
    }

    /// A sidecar is only a convenience: a bad one is worth knowing, not damage.
    fn sidecars(
        &mut self,
        dir: &Dir,
        sources: &BTreeMap<u64, Source>,
        ends: &BTreeMap<u64, End>,
    ) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for name in dir.list(LOG_DIR)? {
            let Some(number) = parse_sidecar_name(&name) else {
                continue;
            };
            self.report.files += 1;
            let path = Log::path(&name);
            let bytes = dir.read_small(&path, 320 << 20)?;
            self.report.bytes += bytes.len() as u64;
            let number = u64::from(number);
            found.push(number);
            let rebuilt = "; it is rebuilt when it is needed";
            match Sidecar::parse(&bytes) {
                Err(bad) => self.find(&path, 0, 0, &format!("{bad}{rebuilt}"), false),
                Ok(s) => {
                    let fits = sources.get(&number).is_some_and(|source| {
                        source.header.base == s.header.base && source.header.salt == s.header.salt
                    });
                    // Where a seal is damaged, the next segment says where this one ended.
                    let next = sources.range(number + 1..).next();
                    let followed = next.is_some_and(|(_, n)| n.header.prev_end == s.header.end);
                    let ended = ends.get(&number).is_some_and(|end| end.lsn == s.header.end);
                    let fits = fits && (ended || followed);
                    if !fits {
                        let why = format!("it does not describe its segment{rebuilt}");
                        self.find(&path, 0, 0, &why, false);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Whether a record is no copy of another, or one that checks out.
fn is_whole_copy(record: &Record<'_>) -> bool {
    record.header.kind != Kind::Moved as u8
        || Moved::decode(record.body).is_ok_and(|moved| parse_carried(moved.record).is_ok())
}

/// The file and offset of a log position.
fn place(source: &Source, lsn: u64) -> (String, u64) {
    let file = source.piece(lsn).map_or(0, |(file, _, _)| file);
    let number = u32::try_from(source.number).unwrap_or(u32::MAX);
    (
        Log::path(&file_name(number, file)),
        lsn - source.header.base,
    )
}

fn highest_proof(source: &mut Source) -> Result<u64> {
    let mut highest = 0;
    let mut from = source.first();
    while let Some(at) = source.find_record(from)? {
        let (proof, len) = match source.record(at)? {
            Ok(r) => (r.header.proves_durable(at), r.header.padded_len() as u64),
            Err(_) => (0, ALIGN as u64),
        };
        highest = highest.max(proof);
        from = at + len;
    }
    Ok(highest)
}
