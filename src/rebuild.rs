//! Building the shared state anew from the log, when shared memory is gone: the parts of a cold
//! open.

use crate::commitlog::append::{Need, Purpose, ring_write, start_segment};
use crate::commitlog::recover::{Event, Found, Recovery};
use crate::commitlog::{HEADER_SPAN, Log};
use crate::delivery::replay::Model;
use crate::error::{Code, Error, Result};
use crate::format::Bad;
use crate::format::payload::{Gap, Loss, SnapHead};
use crate::format::record::{Draft, Kind, Record};
use crate::format::segment::{self, JUMP, SegmentHeader};
use crate::open::FIRST_SEGMENT;
use crate::reports::RecoveryReport;
use crate::shm::control::{
    G_ACTIVE, G_EPOCH, G_GROWN, G_OLDEST, G_SNAP, G_SNAP_BEFORE, G_TAIL, R_BASE, R_END, R_FILE,
    R_LIMIT, R_NUMBER, R_SALT, W_DURABLE, W_WRITTEN,
};
use crate::shm::undo;

/// Replays the log from the best snapshot that turns out to be whole.
pub(crate) fn replay(recovery: &mut Recovery, jump: u64) -> Result<(Model, Found)> {
    let (model, found) = replay_from_best(recovery, jump)?;
    let oldest = recovery.oldest(found.last, model.oldest);
    if found.damage.is_empty() || oldest <= found.first {
        return Ok((model, found));
    }
    // It began with segments that are to be removed, and some behind them may be gone already: that
    // is no damage. What is kept tells all.
    let removed = recovery.leave_out_below(oldest);
    replay_from_best(recovery, jump).or_else(|_| {
        recovery.sources.extend(removed);
        Ok((model, found))
    })
}

fn replay_from_best(recovery: &mut Recovery, jump: u64) -> Result<(Model, Found)> {
    let named = recovery.starts();
    for &start in &named {
        if let Some(done) = replay_from(recovery, start, jump)? {
            return Ok(done);
        }
    }
    if !recovery.begins_at_the_beginning() {
        // A header names the last snapshot of when it was written; when several were written since,
        // all that headers name may be reclaimed. Look for them.
        for number in recovery.numbers_downwards() {
            for start in recovery.snapshots_in(number)? {
                if named.contains(&start) {
                    continue;
                }
                if let Some(done) = replay_from(recovery, start, jump)? {
                    return Ok(done);
                }
            }
        }
        if !recovery.sources.is_empty() {
            return Err(no_start());
        }
    }
    let done = replay_from(recovery, 0, jump)?;
    Ok(done.unwrap_or_default())
}

/// A replay from one snapshot, which goes over to every later one that turns out to be whole: acks
/// that a full disk had no room for stand in snapshots alone.
struct Replay {
    /// The snapshot it began with, 0 = the beginning of the log.
    start: u64,
    jump: u64,
    model: Model,
    /// What the log tells from a later snapshot on, whose end has not come yet.
    later: Option<Model>,
}

impl Replay {
    fn new(start: u64, jump: u64) -> Self {
        Self {
            start,
            jump,
            model: Model::new(start, jump),
            later: None,
        }
    }

    /// Whether what it began with is whole.
    fn has_begun(&self) -> bool {
        self.start == 0 || self.model.snap_complete
    }

    fn jump(&mut self) {
        self.model.jump();
        if let Some(later) = &mut self.later {
            later.jump();
        }
    }

    fn apply(&mut self, lsn: u64, record: &Record<'_>) -> Result<(), Bad> {
        let piece = record.header.kind == Kind::Snap as u8;
        if piece && lsn != self.start && SnapHead::decode(record.body)?.piece == 0 {
            self.later = Some(Model::new(lsn, self.jump));
        }
        for model in self.later.iter_mut().chain([&mut self.model]) {
            let early = !piece && !model.snap_complete && model.snap() != 0;
            if !(broken!(SnapReplayedFromLastPiece) && early) {
                model.apply(lsn, record)?;
            }
        }
        let whole = self.later.as_ref().is_some_and(|m| m.snap_complete);
        if whole && self.has_begun() && !broken!(LaterSnapshotIgnored) {
            if let Some(later) = self.later.take() {
                self.model.go_on_with(later);
            }
        }
        Ok(())
    }
}

/// Replays from one snapshot, or from the beginning (0). `None`: the snapshot is not whole.
fn replay_from(recovery: &mut Recovery, start: u64, jump: u64) -> Result<Option<(Model, Found)>> {
    let mut replay = Replay::new(start, jump);
    let mut wrong = None;
    let found = recovery.scan(start, &mut |event| {
        match event {
            Event::Jump => replay.jump(),
            Event::Record(lsn, record) => {
                if let Err(bad) = replay.apply(lsn, record) {
                    wrong.get_or_insert((lsn, bad));
                }
            }
        }
        Ok(())
    })?;
    if let Some((lsn, bad)) = wrong {
        return Err(Error::new(
            Code::Incompatible,
            format!("the record at {lsn:#x} of the log cannot be understood: {bad}"),
        )
        .at_position(lsn));
    }
    // A snapshot that survived by chance does not vouch for what lies before it.
    let usable = start == 0 || replay.has_begun() && found.proven >= start;
    Ok(usable.then_some((replay.model, found)))
}

/// Whether an open was refused because nothing tells what the beginning of the log held.
pub(crate) fn is_no_start(error: &Error) -> bool {
    error.code() == Code::Corrupt && error.message() == no_start().message()
}

/// Replays all that is left of a log whose snapshots are all damaged, for a repair: from what the
/// pieces of any of them tell, and from the records.
pub(crate) fn salvage(recovery: &mut Recovery, jump: u64) -> Result<(Model, Found)> {
    let mut model = Model::salvaging(jump);
    let found = recovery.scan(0, &mut |event| {
        match event {
            Event::Jump => model.jump(),
            // What cannot be understood tells nothing.
            Event::Record(lsn, record) => drop(model.apply(lsn, record)),
        }
        Ok(())
    })?;
    model.end_salvage();
    Ok((model, found))
}

/// The beginning of the log is reclaimed and no snapshot that stands for it is whole.
fn no_start() -> Error {
    Error::new(
        Code::Corrupt,
        "no snapshot in the log is whole, and what they stand for is reclaimed: topics and groups \
         are unknown. The messages are still there; restore the store's files from a copy, or \
         run keepq repair, which makes the store usable with what is left",
    )
}

/// Fills in the words of a store that was just made.
pub(crate) fn start_created(log: &Log, recovery: &Recovery) -> Result<()> {
    let Some(source) = recovery.sources.get(&1) else {
        return Err(Error::new(
            Code::Internal,
            "a new store has no first segment",
        ));
    };
    let h = source.header;
    let mut tx = log.ctl.begin(log.ctl.patience())?;
    start_segment(&log.ctl, &mut tx, 1, h.base, h.size, h.salt);
    tx.set_global(G_TAIL, HEADER_SPAN);
    tx.set_global(G_EPOCH, 1);
    tx.set_global(G_OLDEST, 1);
    tx.set_global(G_GROWN, h.size);
    tx.commit();
    undo::init(&log.ctl, W_WRITTEN, HEADER_SPAN);
    undo::init(&log.ctl, W_DURABLE, HEADER_SPAN);
    Ok(())
}

/// Begins a new epoch: a new segment beyond everything that could have been written.
pub(crate) fn start_epoch(
    log: &Log,
    recovery: &Recovery,
    found: &Found,
    model: &Model,
) -> Result<()> {
    let ctl = &log.ctl;
    let ring = ctl.layout.geometry.ring;
    let highest = recovery
        .sources
        .values()
        .filter(|s| s.header.base >= found.end)
        .map(|s| s.limit())
        .fold(found.end, u64::max);
    let jump = if broken!(SequenceReuse) { 0 } else { ring };
    let base = (highest + jump).next_multiple_of(HEADER_SPAN);
    let number = recovery.left.highest.max(found.last) + 1;
    let short = u32::try_from(number)
        .map_err(|_| Error::new(Code::LimitExceeded, "the log has too many segments"))?;
    let size = FIRST_SEGMENT
        .min(ctl.layout.geometry.segment)
        .max(log.least_size(1 << 10));
    let name = log.prepare_named(short, size)?;
    let epoch = if broken!(EpochNotBumped) {
        found.epoch
    } else {
        found.epoch + 1
    };
    let header = SegmentHeader {
        number: short,
        epoch,
        base,
        prev_end: found.end,
        snap_lsn: model.snap(),
        flags: JUMP,
        oldest: u32::try_from(recovery.oldest(found.last, model.oldest)).unwrap_or(1),
        ..first_header_of(log, size)
    };
    debug_assert!(name.ends_with(".seg"));
    let mut tx = ctl.begin(ctl.patience())?;
    if let Some(last) = recovery.sources.get(&found.last) {
        let at = |word| ctl.layout.recent(found.last, word);
        tx.set(at(R_NUMBER), found.last);
        tx.set(at(R_BASE), last.header.base);
        tx.set(at(R_END), found.end);
        tx.set(at(R_LIMIT), last.limit());
        tx.set(at(R_SALT), last.header.salt);
        tx.set(at(R_FILE), 0);
    }
    start_segment(ctl, &mut tx, number, base, size, header.salt);
    ring_write(ctl, base, &header.encode());
    tx.set_global(G_TAIL, base + HEADER_SPAN);
    tx.set_global(G_EPOCH, u64::from(epoch));
    let oldest = recovery.sources.keys().next().copied().unwrap_or(number);
    let oldest = oldest.max(recovery.oldest(found.last, model.oldest));
    tx.set_global(G_OLDEST, oldest);
    tx.set_global(G_GROWN, size);
    tx.set_global(G_SNAP, model.snap());
    tx.set_global(G_SNAP_BEFORE, model.snap());
    debug_assert!(tx.global(G_ACTIVE) == number);
    undo::init(ctl, W_WRITTEN, base);
    undo::init(ctl, W_DURABLE, base);
    tx.commit();
    Ok(())
}

fn first_header_of(log: &Log, size: u64) -> SegmentHeader {
    let host = &*log.ctl.host;
    SegmentHeader {
        number: 0,
        file: 0,
        epoch: 0,
        base: 0,
        size,
        salt: host.random(),
        uuid: log.uuid,
        prev_end: 0,
        snap_lsn: 0,
        continues_at: 0,
        created_ms: host.realtime_ms(),
        flags: 0,
        oldest: 1,
        algorithm: segment::CRC32,
        version: segment::VERSION,
    }
}

/// Finds what is missing with segment files that somebody took away below the place where the
/// replay began; what is missing behind it, the replay has found.
pub(crate) fn note_holes(
    log: &Log,
    recovery: &mut Recovery,
    found: &mut Found,
    model: &mut Model,
) -> Result<()> {
    if found.first == 0 || broken!(SilentSkipOverBadCrc) {
        return Ok(());
    }
    let oldest = recovery.oldest(found.last, model.oldest);
    let holes = recovery.holes(oldest, found.first)?;
    for hole in &holes {
        for (&stream, topic) in &model.topics {
            let end_before = log.end_in_sealed(stream, hole.before)?;
            let first = end_before.map_or(topic.first, |end| end.max(topic.first));
            let next = log
                .candidates(stream, first, 1)?
                .first()
                .map(|(seq, _)| *seq);
            let end = next.unwrap_or_else(|| model.next_before_jump(topic));
            let gap = Gap {
                stream,
                first,
                count: end.saturating_sub(first),
            };
            if gap.count > 0 && !model.gaps.contains(&gap) {
                model.gaps.push(gap);
            }
        }
    }
    found
        .damage
        .splice(0..0, holes.into_iter().map(|hole| hole.damage));
    Ok(())
}

/// Finds the messages that were outstanding and have become unknown: those that were copied forward
/// leave no gap between others when damage takes them.
pub(crate) fn note_missing(log: &Log, model: &mut Model) -> Result<()> {
    if !broken!(SilentSkipOverBadCrc) {
        let missing = model.missing(log)?;
        model.gaps.extend(missing);
    }
    Ok(())
}

/// Writes down what damage took, so that every group is told once.
pub(crate) fn note_loss(log: &Log, found: &Found, model: &Model) -> Result<()> {
    if model.gaps.is_empty() {
        return Ok(());
    }
    let from = found.damage.first().map_or(0, |d| d.from);
    let to = found.damage.last().map_or(0, |d| d.to);
    let reason = found
        .damage
        .first()
        .map_or_else(String::new, |d| d.reason.clone());
    for gaps in model.gaps.chunks(256) {
        let loss = Loss {
            from,
            to,
            gaps: gaps.to_vec(),
            reason: reason.clone(),
        };
        let mut draft = Draft::new(Kind::Loss, 0, 0, &[], &[&loss.encode()]);
        let need = Need::new(draft.bytes.len(), 0, Purpose::Settle);
        log.transact(need, log.ctl.patience(), |tx| {
            log.append(tx, &mut draft.bytes, 0);
            Ok(())
        })?;
    }
    model.tell_groups(log)
}

/// Writes down damage that a repair has dealt with: `verify` tells of it as known from then on.
pub(crate) fn note_known(log: &Log, range: (u64, u64), reason: &str) -> Result<()> {
    let (from, to) = range;
    let loss = Loss {
        from,
        to,
        gaps: Vec::new(),
        reason: reason.to_owned(),
    };
    let mut draft = Draft::new(Kind::Loss, 0, 0, &[], &[&loss.encode()]);
    let need = Need::new(draft.bytes.len(), 0, Purpose::Settle);
    log.transact(need, log.ctl.patience(), |tx| {
        log.append(tx, &mut draft.bytes, 0);
        Ok(())
    })
}

pub(crate) fn describe(
    report: &mut RecoveryReport,
    found: &Found,
    model: &Model,
    recovery: &Recovery,
) {
    report.records = model.records;
    report.cut_bytes = found.cut;
    for damage in &found.damage {
        report.damaged_bytes += damage.to.saturating_sub(damage.from);
        report.notes.push(format!(
            "damage in segment {}, log positions {:#x} to {:#x}: {}",
            damage.number, damage.from, damage.to, damage.reason
        ));
    }
    if found.cut > 0 {
        report.notes.push(format!(
            "{} bytes behind {:#x} were never confirmed durable and were cut",
            found.cut, found.end
        ));
    }
    for (name, bad) in &recovery.left.damaged {
        report.damaged_bytes += HEADER_SPAN;
        report.notes.push(format!("log/{name}: {bad}"));
    }
    for name in recovery.emptied(found) {
        report.damaged_bytes += HEADER_SPAN;
        report.notes.push(format!(
            "log/{name} is empty, but the log goes on behind it"
        ));
    }
}
