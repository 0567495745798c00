//! Finding the log after everybody died: the longest valid prefix, and what is wrong with it.
//!
//! The scan follows the records by their checksums, epochs and seals. Where a record does not
//! check out, the question is whether it had been durable. Every record says how far the durable
//! watermark was when it was appended, so any later valid record that proves a watermark beyond
//! the bad place makes it *damage*: reported, settled by a LOSS record, stepped over. Without such
//! evidence it is a *torn tail*: never confirmed, cut there and reported.
//!
//! What lies between the highest proven watermark and the end may be in the page cache only. It is
//! rewritten to a continuation file and synced before it counts; then a new segment begins a new
//! epoch, at positions and sequences that nothing before can have used.

use std::collections::BTreeMap;

use super::recent::Recent;
use super::reseal::Continuation;
use super::scan::{Leftovers, RingImage, Source, open_segments};
use super::{HEADER_SPAN, LOG_DIR, Log};
use crate::error::Result;
use crate::format::Bad;
use crate::format::payload::{Seal, SnapHead};
use crate::format::record::{self, ALIGN, Kind, Record};
use crate::format::segment::{HEADER_BLOCK, JUMP, SegmentHeader};
use crate::sys::Dir;

/// What the scan passes on.
pub(crate) enum Event<'a> {
    /// A valid record at this LSN.
    Record(u64, &'a Record<'a>),
    /// A segment that begins a new epoch.
    Jump,
}

/// A place where what had been durable is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) number: u64,
    pub(crate) reason: String,
}

/// What a scan of the log came to.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// End of the valid log.
    pub(crate) end: u64,
    /// Number of the segment it was read from; 0 if there is none.
    pub(crate) first: u64,
    /// Highest epoch in evidence.
    pub(crate) epoch: u32,
    /// Number of the segment the log ends in; 0 if there is none.
    pub(crate) last: u64,
    /// Highest durable watermark that any valid record proves.
    pub(crate) proven: u64,
    pub(crate) damage: Vec<Damage>,
    /// Bytes of valid records behind the end, and why they do not count.
    pub(crate) cut: u64,
    pub(crate) records: u64,
}

/// A log on disk, being recovered.
pub(crate) struct Recovery {
    pub(crate) sources: BTreeMap<u64, Source>,
    pub(crate) left: Leftovers,
    ring: Option<RingImage>,
    /// Files of segments that an earlier recovery cut off and died before putting them away: a
    /// new epoch begins behind them, so they are no part of the log.
    cut_off: Vec<String>,
}

struct Step {
    len: u64,
    seal: Option<Seal>,
    epoch: u32,
    proves: u64,
}

impl Recovery {
    /// Opens every segment. `ring` is what shared memory of this boot still holds.
    pub(crate) fn open(dir: &Dir, uuid: &[u8; 16], ring: Option<RingImage>) -> Result<Self> {
        let (sources, left) = open_segments(dir, uuid)?;
        Ok(Self {
            sources,
            left,
            ring,
            cut_off: Vec::new(),
        })
    }

    /// Where replay may start, the best first: the snapshots that headers name.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let mut starts: Vec<u64> = self
            .sources
            .values()
            .map(|s| s.header.snap_lsn)
            .filter(|&lsn| lsn != 0 && self.number_at(lsn).is_some())
            .collect();
        starts.sort_unstable_by(|a, b| b.cmp(a));
        starts.dedup();
        starts
    }

    /// Whether what is there begins with the first record ever written, or is nothing at all.
    pub(crate) fn begins_at_the_beginning(&self) -> bool {
        self.sources
            .values()
            .next()
            .is_none_or(|s| s.header.prev_end == 0)
    }

    /// The segments, the newest first.
    pub(crate) fn numbers_downwards(&self) -> Vec<u64> {
        self.sources.keys().rev().copied().collect()
    }

    /// The snapshots that begin in a segment, the latest first.
    pub(crate) fn snapshots_in(&mut self, number: u64) -> Result<Vec<u64>> {
        let Some(source) = self.sources.get_mut(&number) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        let mut from = source.first();
        while let Some(at) = source.find_record(from)? {
            let mut len = ALIGN as u64;
            if let Ok(record) = source.record(at)? {
                len = record.header.padded_len() as u64;
                let begins = record.header.kind == Kind::Snap as u8
                    && SnapHead::decode(record.body).is_ok_and(|head| head.piece == 0);
                if begins {
                    found.push(at);
                }
            }
            from = at + len;
        }
        found.reverse();
        Ok(found)
    }

    /// The segment that holds this position. A new epoch begins before the end of the file that
    /// its predecessor stopped in, so the files' ranges overlap: the newest one counts.
    fn number_at(&self, lsn: u64) -> Option<u64> {
        self.sources
            .values()
            .rev()
            .find(|s| s.first() <= lsn && lsn < s.limit())
            .map(|s| s.number)
    }

    /// Follows the log from `start` (0: from its oldest segment) to its end.
    pub(crate) fn scan(
        &mut self,
        start: u64,
        visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let oldest = self.sources.values().next().map(|s| (s.number, s.first()));
        let at = if start == 0 {
            oldest
        } else {
            self.number_at(start).map(|n| (n, start))
        };
        let Some((mut number, mut lsn)) = at else {
            return Ok(found);
        };
        found.first = number;
        found.epoch = self
            .sources
            .values()
            .map(|s| s.header.epoch)
            .max()
            .unwrap_or(0);
        let mut epoch = 0;
        loop {
            found.last = number;
            let stuck = match self.step(number, lsn, epoch, visit)? {
                Ok(step) => {
                    epoch = step.epoch;
                    found.records += 1;
                    found.proven = found.proven.max(step.proves);
                    lsn += step.len;
                    let Some(seal) = step.seal else { continue };
                    if self.follow_seal(&seal, lsn)? {
                        number = u64::from(seal.next_number);
                        lsn = seal.next_base + HEADER_SPAN;
                        continue;
                    }
                    Bad::Zero
                }
                Err(bad) => bad,
            };
            // An earlier recovery may have ended the log here, and begun a new epoch.
            let next = match self.jump_after(number, lsn) {
                Some(next) => {
                    self.set_aside(number, next.0);
                    Some(next)
                }
                None => self.pass_damage(&mut found, (number, lsn), epoch, stuck)?,
            };
            let Some((next, first)) = next else {
                found.end = lsn;
                found.epoch = found.epoch.max(epoch);
                found.cut = self.cut_bytes(number, lsn)?;
                found.proven = found.proven.min(lsn);
                return Ok(found);
            };
            for (&n, source) in self.sources.range(number..=next) {
                if n > number && source.header.flags & JUMP != 0 {
                    epoch = epoch.max(source.header.epoch);
                    visit(Event::Jump)?;
                }
            }
            (number, lsn) = (next, first);
        }
    }

    /// Takes the record at `lsn` from the files, else from the ring.
    fn step(
        &mut self,
        number: u64,
        lsn: u64,
        epoch: u32,
        visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Result<Step, Bad>> {
        let Some(source) = self.sources.get_mut(&number) else {
            return Ok(Err(Bad::Zero));
        };
        let salt = source.header.salt;
        let limit = source.limit();
        let from_file = source.record(lsn)?;
        let record = match from_file {
            Ok(record) if record.header.epoch >= epoch => record,
            other => {
                let bad = other.err().unwrap_or(Bad::Value);
                let bytes = self.ring.as_ref().and_then(|ring| ring.at(lsn));
                match bytes.map(|b| record::parse(b, lsn, salt)) {
                    Some(Ok(r)) if r.header.epoch >= epoch && lsn < limit => r,
                    _ => return Ok(Err(bad)),
                }
            }
        };
        let header = record.header;
        let seal = if header.kind == Kind::Seal as u8 {
            match Seal::decode(record.body) {
                Ok(seal) => Some(seal),
                Err(bad) => return Ok(Err(bad)),
            }
        } else {
            None
        };
        visit(Event::Record(lsn, &record))?;
        Ok(Ok(Step {
            len: header.padded_len() as u64,
            seal,
            epoch: header.epoch,
            proves: header.proves_durable(lsn),
        }))
    }

    /// Whether the segment that a seal names is there, on disk or with its header in the ring.
    fn follow_seal(&mut self, seal: &Seal, end: u64) -> Result<bool> {
        let number = u64::from(seal.next_number);
        let fits = |h: &SegmentHeader| h.base == seal.next_base && h.prev_end == end;
        if let Some(source) = self.sources.get(&number) {
            return Ok(fits(&source.header));
        }
        let header = self
            .ring
            .as_ref()
            .and_then(|ring| ring.at(seal.next_base))
            .filter(|bytes| bytes.len() >= HEADER_BLOCK)
            .and_then(|bytes| SegmentHeader::decode(bytes).ok());
        match header {
            Some(header) if fits(&header) && u64::from(header.number) == number => {
                self.sources
                    .insert(number, Source::without_file(number, header));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The segment that begins a new epoch where the log ended at `lsn`.
    fn jump_after(&self, number: u64, lsn: u64) -> Option<(u64, u64)> {
        self.sources
            .range(number + 1..)
            .map(|(_, s)| s)
            .find(|s| s.header.flags & JUMP != 0 && s.header.prev_end == lsn)
            .map(|s| (s.number, s.first()))
    }

    /// Files with a damaged header that no segment of the log takes as one of its own.
    fn damaged_for_good(&self, found: &Found) -> Vec<String> {
        let taken: Vec<String> = self
            .sources
            .values()
            .filter(|s| s.number <= found.last)
            .flat_map(files_of)
            .collect();
        let damaged = self.left.damaged.iter().map(|(name, _)| name.clone());
        damaged.filter(|name| !taken.contains(name)).collect()
    }

    /// Files of segments that were used, to judge by what follows them, and are blank now.
    pub(crate) fn emptied(&self, found: &Found) -> Vec<String> {
        let used = |number: u64| {
            let next = self.sources.range(number..=found.last.max(number)).next();
            next.is_some_and(|(&n, s)| n > number && s.header.flags & JUMP == 0)
        };
        let number = |name: &str| crate::format::segment::parse_file_name(name);
        let blank = self.left.blank.iter();
        blank
            .filter(|name| number(name).is_some_and(|n| used(u64::from(n.number))))
            .cloned()
            .collect()
    }

    /// Forgets the segments between the end of an epoch and the one that begins the next.
    fn set_aside(&mut self, last: u64, next: u64) {
        let numbers: Vec<u64> = self
            .sources
            .range(last + 1..next)
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            if let Some(source) = self.sources.remove(&number) {
                self.cut_off.extend(files_of(&source));
            }
        }
    }

    /// At a place that does not check out: if something valid behind it proves that it had been
    /// durable, notes the damage and returns the next valid record.
    fn pass_damage(
        &mut self,
        found: &mut Found,
        (number, lsn): (u64, u64),
        epoch: u32,
        bad: Bad,
    ) -> Result<Option<(u64, u64)>> {
        if broken!(TruncateAtFirstBadCrc) {
            return Ok(None);
        }
        let Some((next_number, next)) = self.next_valid(number, lsn, epoch)? else {
            return Ok(None);
        };
        if self.highest_proof(next_number, next, epoch)? <= lsn {
            return Ok(None);
        }
        if !broken!(SilentSkipOverBadCrc) {
            found.damage.push(Damage {
                from: lsn,
                to: next,
                number,
                reason: bad.to_string(),
            });
        }
        Ok(Some((next_number, next)))
    }

    /// The first valid record behind `lsn`, here or in a later segment.
    fn next_valid(&mut self, number: u64, lsn: u64, epoch: u32) -> Result<Option<(u64, u64)>> {
        let numbers: Vec<u64> = self.sources.range(number..).map(|(n, _)| *n).collect();
        for n in numbers {
            let Some(source) = self.sources.get_mut(&n) else {
                continue;
            };
            let mut from = if n == number {
                lsn + ALIGN as u64
            } else {
                source.first()
            };
            while let Some(at) = source.find_record(from)? {
                if source.record(at)?.is_ok_and(|r| r.header.epoch >= epoch) {
                    return Ok(Some((n, at)));
                }
                from = at + ALIGN as u64;
            }
        }
        Ok(None)
    }

    /// The highest durable watermark that valid records from here on prove.
    fn highest_proof(&mut self, number: u64, lsn: u64, epoch: u32) -> Result<u64> {
        let mut highest = 0;
        let numbers: Vec<u64> = self.sources.range(number..).map(|(n, _)| *n).collect();
        for n in numbers {
            let Some(source) = self.sources.get_mut(&n) else {
                continue;
            };
            let mut from = if n == number { lsn } else { source.first() };
            while let Some(at) = source.find_record(from)? {
                let len = match source.record(at)? {
                    Ok(r) if r.header.epoch >= epoch => {
                        highest = highest.max(r.header.proves_durable(at));
                        r.header.padded_len() as u64
                    }
                    _ => ALIGN as u64,
                };
                from = at + len;
            }
        }
        Ok(highest)
    }

    /// Bytes of valid records behind the end that are cut.
    fn cut_bytes(&mut self, number: u64, end: u64) -> Result<u64> {
        let mut cut = 0;
        let numbers: Vec<u64> = self.sources.range(number..).map(|(n, _)| *n).collect();
        for n in numbers {
            let Some(source) = self.sources.get_mut(&n) else {
                continue;
            };
            let mut from = if n == number { end } else { source.first() };
            while let Some(at) = source.find_record(from)? {
                let len = source.record(at)?.map_or(ALIGN, |r| r.header.padded_len()) as u64;
                cut += len;
                from = at + len;
            }
            if n == number && cut == 0 {
                // A record that is torn itself.
                cut += source.first_nonzero(end)?.map_or(0, |at| at + 1 - end);
            }
        }
        Ok(cut)
    }

    /// The log's bytes `[from, to)` of one segment, from the files and the ring.
    fn image(&mut self, number: u64, from: u64, to: u64) -> Result<Vec<u8>> {
        let Some(source) = self.sources.get_mut(&number) else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        let mut lsn = from;
        if lsn == source.header.base && lsn < to {
            let header = SegmentHeader {
                file: 0,
                continues_at: 0,
                ..source.header
            };
            bytes.extend_from_slice(&header.encode());
            lsn += HEADER_SPAN;
        }
        let salt = source.header.salt;
        while lsn < to {
            let own = match source.record(lsn)? {
                Ok(record) => {
                    let len = record.header.padded_len() as u64;
                    source.copy(lsn, lsn + len)?
                }
                Err(_) => {
                    let Some(rest) = self.ring.as_ref().and_then(|ring| ring.at(lsn)) else {
                        break;
                    };
                    let Ok(r) = record::parse(rest, lsn, salt) else {
                        break;
                    };
                    rest[..r.header.padded_len()].to_vec()
                }
            };
            lsn += own.len() as u64;
            bytes.extend_from_slice(&own);
        }
        Ok(bytes)
    }

    /// Makes the recovered end safe: what is not proven durable goes to adopted continuations, and
    /// nothing behind the end can come back. `log` has no members yet.
    pub(crate) fn secure_end(&mut self, log: &Log, found: &Found) -> Result<()> {
        if found.last == 0 || broken!(NoRewriteOnReopen) {
            return Ok(());
        }
        let numbers: Vec<u64> = self
            .sources
            .values()
            .filter(|s| s.number <= found.last && s.limit() > found.proven)
            .filter(|s| s.header.base < found.end)
            .map(|s| s.number)
            .collect();
        for number in numbers {
            self.secure_segment(log, found, number)?;
        }
        Ok(())
    }

    fn secure_segment(&mut self, log: &Log, found: &Found, number: u64) -> Result<()> {
        let Some(end) = self.end_of(number, found)? else {
            return Ok(());
        };
        let Some(source) = self.sources.get_mut(&number) else {
            return Ok(());
        };
        let header = source.header;
        let from = if found.proven <= header.base {
            header.base
        } else {
            found.proven.min(end)
        };
        if from == end && source.first_nonzero(end)?.is_none() {
            return Ok(());
        }
        let bytes = self.image(number, from, end)?;
        let segment = Recent {
            number,
            base: header.base,
            end,
            limit: header.end(),
            salt: header.salt,
            file: 0,
        };
        let continuation = Continuation {
            segment: &segment,
            from,
            bytes: &bytes,
            goes_on: false,
        };
        let header = SegmentHeader {
            file: 0,
            continues_at: 0,
            ..header
        };
        log.write_continuation(&continuation, &header)?;
        Ok(())
    }

    /// Where the valid records of a segment end.
    fn end_of(&mut self, number: u64, found: &Found) -> Result<Option<u64>> {
        if number == found.last {
            return Ok(Some(found.end));
        }
        // Sealed: its successor says where it ended.
        let next = self
            .sources
            .range(number + 1..=found.last)
            .map(|(_, s)| s.header.prev_end);
        Ok(next.into_iter().next())
    }

    /// Puts away what does not belong to the log any more, once the new segment is durable.
    pub(crate) fn tidy(&self, log: &Log, found: &Found, new: u64) -> Result<()> {
        for name in self
            .left
            .blank
            .iter()
            .chain(&self.left.unadopted)
            .chain(&self.left.temporary)
        {
            let number = crate::format::segment::parse_file_name(name).map(|n| u64::from(n.number));
            if name == "reserve.pre" || number == Some(new) {
                continue;
            }
            let in_use = number.is_some_and(|n| n <= found.last && self.sources.contains_key(&n));
            // A file whose header never got durable, but which a continuation completes, stays:
            // its number must not be used again.
            if !in_use || self.left.unadopted.contains(name) {
                log.dir.unlink_if_there(&Log::path(name))?;
            }
        }
        let stale: Vec<String> = self
            .sources
            .values()
            .filter(|s| s.number > found.last)
            .flat_map(files_of)
            .chain(self.cut_off.iter().cloned())
            .chain(self.damaged_for_good(found))
            .collect();
        if !stale.is_empty() {
            log.dir.make_dir(QUARANTINE)?;
            // What is moved into a directory whose own name a power cut takes would be lost.
            log.dir.sync_dir("")?;
            for name in stale {
                let target = format!("{QUARANTINE}/{name}.{:x}", log.ctl.host.realtime_ms());
                log.dir.rename(&Log::path(&name), &target)?;
            }
            log.dir.sync_dir(QUARANTINE)?;
        }
        log.dir.sync_dir(LOG_DIR)
    }
}

/// The names of a segment's files.
fn files_of(source: &Source) -> Vec<String> {
    let number = u32::try_from(source.number).unwrap_or(u32::MAX);
    let files = source.pieces.iter().map(|(_, file, _)| *file);
    files
        .map(|file| crate::format::segment::file_name(number, file))
        .collect()
}

/// Where damaged and superseded segments go. Only `repair` empties it.
pub(crate) const QUARANTINE: &str = "quarantine";
