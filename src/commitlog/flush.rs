//! Making the log durable: drain the ring into the files, fdatasync, move `DURABLE`. Under F.
//!
//! Whoever needs durability and finds F free leads a flush for everybody; the others sleep until
//! it ends (followers) or until it is their turn (the next leader). One fdatasync covers all
//! senders of all processes.
//!
//! Order, invariant 3: the bytes are in the file, written after this process's descriptor was
//! opened (else written again first, because an fsync vouches only for those); `INTENT` = target;
//! fdatasync of each file; `DURABLE` = target; `INTENT` = 0. A successor that finds `INTENT` set
//! knows that a leader died around its fdatasync, whose error it may have taken with it, and
//! writes everything again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::append::{Need, Purpose, ring_read};
use super::recent::Recent;
use super::{HEADER_SPAN, Log};
use crate::error::{Code, Error, Outcome, Result};
use crate::format::payload::Watermark;
use crate::format::record::{Draft, Kind, SKIPPABLE};
use crate::format::segment::file_name;
use crate::shm::control::{
    FLUSH_FAILED, FLUSH_RESEALING, G_TAIL, W_DURABLE, W_FLUSH_BEGUN, W_FLUSH_ERRNO, W_FLUSH_STATE,
    W_FLUSH_TARGET, W_FLUSHES, W_INTENT, W_LOCK_F, W_MARKED, W_PUBLISHED, W_RESEALS, W_WRITTEN,
};
use crate::shm::lock::{self, Which};
use crate::shm::{member, pace, wake};
use crate::sys::{Handle, Open};

/// Most bytes of one write. Larger ones are not faster and want more memory.
const PIECE: u64 = 256 << 10;

/// The descriptors this process writes segments through.
pub(crate) struct Writers {
    /// How often the log had been resealed when they were opened.
    pub(crate) resealed: u64,
    pub(crate) open: BTreeMap<u64, Writer>,
    /// What is copied out of the ring to be written, kept from one drain to the next: fresh memory
    /// costs more than the copy.
    pub(crate) buffer: Vec<u8>,
}

/// One of them.
pub(crate) struct Writer {
    handle: Handle,
    /// `WRITTEN` when it was opened: its fsync does not vouch for bytes below.
    opened_at: u64,
}

/// Holds lock F; gives it back and wakes everybody however the flush ended.
pub(super) struct Lead<'a> {
    log: &'a Log,
    number: u64,
}

impl<'a> Lead<'a> {
    pub(super) fn try_new(log: &'a Log) -> Option<Self> {
        lock::try_acquire(&log.ctl, Which::Flush).then(|| Self::held(log))
    }

    pub(super) fn new(log: &'a Log, deadline: u64) -> Result<Self> {
        lock::acquire(&log.ctl, Which::Flush, deadline)?;
        Ok(Self::held(log))
    }

    fn held(log: &'a Log) -> Self {
        Self {
            log,
            number: log.ctl.load(W_FLUSH_BEGUN),
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if killed!() {
            return;
        }
        lock::release(&self.log.ctl, Which::Flush);
        wake::flush_ended(&self.log.ctl, self.number);
        wake::room_made(&self.log.ctl);
        wake::durable_moved(&self.log.ctl);
    }
}

impl Log {
    /// Bytes appended and not yet durable.
    pub(crate) fn unflushed(&self) -> u64 {
        self.ctl
            .load(W_PUBLISHED)
            .saturating_sub(self.ctl.load(W_DURABLE))
    }

    /// Waits until everything below `lsn` is durable, leading a flush if nobody does.
    /// `Ok(false)`: the deadline (BOOTTIME ms) came first.
    pub(crate) fn wait_durable(&self, lsn: u64, deadline: u64) -> Result<bool> {
        let ctl = &self.ctl;
        if ctl.load(W_DURABLE) < lsn {
            pace::comes(ctl);
        }
        loop {
            if ctl.load(W_DURABLE) >= lsn {
                return Ok(true);
            }
            if ctl.load(W_FLUSH_STATE) == FLUSH_FAILED {
                return Err(self.failed().with_outcome(Outcome::MaybeStored));
            }
            if let Some(mut lead) = Lead::try_new(self) {
                if ctl.load(W_DURABLE) < lsn {
                    pace::gather(ctl);
                }
                self.lead(&mut lead)
                    .map_err(|e| e.or_outcome(Outcome::MaybeStored))?;
                if ctl.load(W_DURABLE) >= lsn {
                    return Ok(true);
                }
            }
            let left = deadline.saturating_sub(ctl.host.boottime_ms());
            if left == 0 {
                return Ok(false);
            }
            self.follow(lsn, Duration::from_millis(left));
        }
    }

    /// Sleeps until the flush that covers `lsn` ends, or it is our turn to lead.
    fn follow(&self, lsn: u64, timeout: Duration) {
        let ctl = &self.ctl;
        let begun = ctl.load(W_FLUSH_BEGUN);
        let number = if ctl.load(W_FLUSH_TARGET) >= lsn {
            begun
        } else {
            begun + 1
        };
        let event = wake::flush_event(ctl, number);
        let holder = ctl.load(W_LOCK_F);
        let free = lock::owner_of(holder).is_none();
        if free || ctl.load(W_DURABLE) >= lsn {
            return;
        }
        wake::sleep_until_flushed(ctl, number, event, timeout);
        if ctl.load(W_LOCK_F) == holder {
            lock::rescue(ctl, Which::Flush, holder);
        }
    }

    /// Flushes everything published so far, waiting for F until `deadline`.
    pub(crate) fn flush_now(&self, deadline: u64) -> Result<()> {
        let target = self.ctl.load(W_PUBLISHED);
        let mut lead = Lead::new(self, deadline)?;
        if self.ctl.load(W_DURABLE) >= target && self.ctl.load(W_FLUSH_STATE) != FLUSH_RESEALING {
            return self.check_usable();
        }
        self.lead(&mut lead)
    }

    /// Flushes, then writes down that everything was durable: whatever is damaged afterwards is
    /// known to be damage, and not taken for an unfinished tail.
    pub(crate) fn flush_and_mark(&self, deadline: u64) -> Result<()> {
        self.flush_now(deadline)?;
        if self.mark_durable(deadline)? {
            self.flush_now(deadline)
        } else {
            Ok(())
        }
    }

    /// Appends a WATERMARK if everything is durable and nothing was appended since the last one.
    /// It is flushed with whatever comes next, or by the keeper.
    pub(crate) fn mark_durable(&self, deadline: u64) -> Result<bool> {
        let ctl = &self.ctl;
        let durable = ctl.load(W_DURABLE);
        if durable != ctl.load(W_PUBLISHED) || durable == ctl.load(W_MARKED) {
            return Ok(false);
        }
        let body = Watermark { durable }.encode();
        let mut draft = Draft::new(Kind::Watermark, SKIPPABLE, 0, &[], &[&body]);
        let mut tx = ctl.begin(deadline)?;
        let need = Need::new(draft.bytes.len(), 0, Purpose::Settle);
        // Only worth having while it needs no room to be made.
        if tx.global(G_TAIL) != durable || self.reserve(&mut tx, need)?.is_err() {
            return Ok(false);
        }
        let lsn = self.append(&mut tx, &mut draft.bytes, 0);
        ctl.publish(W_MARKED, lsn + draft.bytes.len() as u64);
        tx.commit();
        Ok(true)
    }

    /// Writes pending bytes to the files without making them durable, if F is free.
    pub(crate) fn drain_if_free(&self) {
        if let Some(lead) = Lead::try_new(self) {
            if self.ctl.load(W_FLUSH_STATE) == 0 && self.ctl.load(W_INTENT) == 0 {
                let target = self.ctl.load(W_PUBLISHED);
                let failed = self.drain(target).err();
                if let Some(e) = failed.filter(|e| e.errno() != Some(libc::EFBIG)) {
                    // The ring still holds the bytes: like a failed flush.
                    let _ = self.reseal(&e);
                }
            }
            drop(lead);
        }
    }

    /// Leads a flush of all that is published. F is held.
    pub(super) fn lead(&self, lead: &mut Lead<'_>) -> Result<()> {
        let ctl = &self.ctl;
        match ctl.load(W_FLUSH_STATE) {
            FLUSH_FAILED => return Err(self.failed()),
            FLUSH_RESEALING => return self.reseal(&self.failed()),
            _ => {}
        }
        let target = ctl.load(W_PUBLISHED);
        ctl.publish(W_FLUSH_TARGET, target);
        lead.number += 1;
        ctl.publish(W_FLUSH_BEGUN, lead.number);
        pace::takes(ctl);
        if target <= ctl.load(W_DURABLE) {
            return Ok(());
        }
        let started = ctl.host.nanos();
        match self.flush_to(target) {
            Ok(()) => {
                pace::took(ctl, ctl.host.nanos().saturating_sub(started));
                ctl.publish(W_FLUSHES, ctl.load(W_FLUSHES).wrapping_add(1));
                Ok(())
            }
            Err(e) if e.code() == Code::StoreGone => {
                // What had been durable is gone with the file: another file would not help.
                ctl.publish(W_FLUSH_ERRNO, u64::from(libc::ESTALE.unsigned_abs()));
                ctl.publish(W_FLUSH_STATE, FLUSH_FAILED);
                Err(e)
            }
            // This process may not write there (`ulimit -f`): nothing was written, the ring holds
            // it all, and any process with a higher limit writes it again.
            Err(e) if e.errno() == Some(libc::EFBIG) => Err(e),
            Err(e) => self.reseal(&e),
        }
    }

    /// After a sync: refuses to count what went into a file that somebody deleted or truncated.
    fn check_there(&self, segment: &Recent, handle: &Handle, target: u64) -> Result<()> {
        let written = target.min(segment.end) - segment.base;
        match handle.stat() {
            Ok(stat) if stat.links == 0 || stat.len < written => Err(self.gone()),
            // Not knowing is no evidence; the sync has succeeded.
            _ => Ok(()),
        }
    }

    fn flush_to(&self, target: u64) -> Result<()> {
        let ctl = &self.ctl;
        let durable = ctl.load(W_DURABLE);
        if ctl.load(W_INTENT) != 0 {
            member::repair_flush(ctl);
        }
        let segments = self.recent_between(durable, target);
        let vouched = self.open_writers(&segments)?;
        if vouched > durable && ctl.load(W_WRITTEN) > durable && !broken!(NoRewriteOnReopen) {
            ctl.publish(W_WRITTEN, durable);
        }
        if broken!(WatermarkBeforeFsync) {
            ctl.publish(W_DURABLE, target);
        }
        ctl.publish(W_INTENT, target);
        self.drain(target)?;
        for segment in &segments {
            let handle = self.writer(segment)?;
            handle.sync()?;
            self.check_there(segment, &handle, target)?;
        }
        ctl.publish(W_DURABLE, target);
        ctl.publish(W_INTENT, 0);
        self.writers
            .lock()
            .open
            .retain(|&n, _| segments.last().is_some_and(|s| s.number <= n));
        Ok(())
    }

    /// Opens what is not open of these segments; returns the LSN from which on every descriptor's
    /// fsync vouches for what was written.
    fn open_writers(&self, segments: &[Recent]) -> Result<u64> {
        let mut vouched = 0;
        for segment in segments {
            self.writer(segment)?;
            if let Some(w) = self.writers.lock().open.get(&segment.number) {
                if w.opened_at > segment.base {
                    vouched = vouched.max(w.opened_at.min(segment.end));
                }
            }
        }
        Ok(vouched)
    }

    /// The descriptor this process writes a segment through.
    fn writer(&self, segment: &Recent) -> Result<Handle> {
        let mut writers = self.writers.lock();
        let resealed = self.ctl.load(W_RESEALS);
        if writers.resealed != resealed && !broken!(OldDescriptorAfterReseal) {
            writers.open.clear();
            writers.resealed = resealed;
        }
        if let Some(writer) = writers.open.get(&segment.number) {
            return Ok(writer.handle.clone());
        }
        let number = u32::try_from(segment.number)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let path = Self::path(&file_name(number, segment.file));
        let handle = self.dir.open(&path, Open::Write)?;
        let opened_at = self.ctl.load(W_WRITTEN);
        writers.open.insert(
            segment.number,
            Writer {
                handle: handle.clone(),
                opened_at,
            },
        );
        Ok(handle)
    }

    /// Writes `[WRITTEN, target)` from the ring to the files. F is held.
    fn drain(&self, target: u64) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.writers.lock().buffer);
        let drained = self.drain_through(target, &mut buffer);
        self.writers.lock().buffer = buffer;
        drained
    }

    fn drain_through(&self, target: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let ctl = &self.ctl;
        let mut written = ctl.load(W_WRITTEN);
        while written < target {
            let Some(segment) = self.recent_at(written) else {
                written = self.skip_gap(written, target)?;
                ctl.publish(W_WRITTEN, written);
                continue;
            };
            let end = target.min(segment.end);
            let piece = (end - written).min(PIECE);
            self.write_piece(&segment, written, piece, buffer)?;
            written += piece;
            ctl.publish(W_WRITTEN, written);
        }
        Ok(())
    }

    /// The start of the segment behind the gap that `lsn` lies in.
    fn skip_gap(&self, lsn: u64, target: u64) -> Result<u64> {
        self.recent_between(lsn, target)
            .iter()
            .map(|s| s.base)
            .find(|&base| base > lsn)
            .ok_or_else(|| self.ctl.damaged("a log position lies in no segment"))
    }

    fn write_piece(&self, seg: &Recent, lsn: u64, len: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let handle = self.writer(seg)?;
        // A first write into a page runs to the page's end: the rest of it is written as zeros,
        // so that the kernel need not read the page. (The records after overwrite them.)
        let end = lsn + len;
        let padded = end.next_multiple_of(HEADER_SPAN).min(seg.limit);
        let fresh = lsn <= end - end % HEADER_SPAN;
        let total = if fresh { padded - lsn } else { len };
        let total = usize::try_from(total).unwrap_or(0);
        let filled = usize::try_from(len).unwrap_or(0);
        if buffer.len() < total {
            buffer.resize(total, 0);
        }
        ring_read(&self.ctl, lsn, &mut buffer[..filled]);
        buffer[filled..total].fill(0);
        handle.write_all_at(&buffer[..total], lsn - seg.base)
    }

    /// The error for a flush whose time was over: appended, not yet durable.
    pub(crate) fn flush_timeout(&self) -> Error {
        let leader = match lock::owner_of(self.ctl.load(W_LOCK_F)) {
            Some(slot) => format!(" (process {} is writing)", member::pid(&self.ctl, slot)),
            None => String::new(),
        };
        Error::new(
            Code::FlushTimeout,
            format!(
                "appended, but not confirmed on disk in time{leader}; wait for it with flush, do \
                 not send it again"
            ),
        )
        .with_outcome(Outcome::MaybeStored)
    }
}
