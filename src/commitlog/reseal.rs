//! After a failed write or fdatasync: the bytes in doubt go to a new file, or the store fails.
//!
//! The kernel reports a writeback error once per open file and then marks the pages clean, so the
//! same pages must never be synced again: a second fsync would lie. The ring still holds
//! everything that is not durable. It is written to a *continuation file* of each segment
//! concerned (same number, salt and positions; next file number; `continues_at` in its header),
//! synced, and only then adopted by a block of its own in the header, synced again. Adopted, it is
//! the authority from `continues_at` on; not adopted, it does not count. (The hazard is known
//! since Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.)

use super::append::ring_read;
use super::recent::Recent;
use super::{HEADER_SPAN, LOG_DIR, Log};
use crate::error::{Code, Error, Result};
use crate::format::record;
use crate::format::segment::{self, ADOPTED_AT, SegmentHeader, encode_adopted, file_name};
use crate::shm::control::{
    FLUSH_FAILED, FLUSH_OK, FLUSH_RESEALING, R_FILE, W_DURABLE, W_FLUSH_ERRNO, W_FLUSH_STATE,
    W_INTENT, W_PUBLISHED, W_RESEALS, W_WRITTEN,
};
use crate::sys::{Handle, Open};

impl Log {
    /// Rewrites `[DURABLE, PUBLISHED)` to continuation files. F is held. An error means that the
    /// store has failed for every process.
    pub(super) fn reseal(&self, cause: &Error) -> Result<()> {
        let ctl = &self.ctl;
        let errno = u64::from(cause.errno().unwrap_or(libc::EIO).unsigned_abs());
        ctl.publish(W_FLUSH_ERRNO, errno);
        ctl.publish(W_FLUSH_STATE, FLUSH_RESEALING);
        let target = ctl.load(W_PUBLISHED);
        match self.write_continuations(target) {
            Ok(()) => {
                ctl.publish(W_WRITTEN, target);
                ctl.publish(W_DURABLE, target);
                ctl.publish(W_INTENT, 0);
                ctl.publish(W_FLUSH_ERRNO, 0);
                ctl.publish(W_FLUSH_STATE, FLUSH_OK);
                Ok(())
            }
            Err(e) => {
                if let Some(errno) = e.errno() {
                    ctl.publish(W_FLUSH_ERRNO, u64::from(errno.unsigned_abs()));
                }
                let state = if broken!(FailedNotSticky) {
                    FLUSH_OK
                } else {
                    FLUSH_FAILED
                };
                ctl.publish(W_FLUSH_STATE, state);
                Err(self.failed())
            }
        }
    }

    fn write_continuations(&self, target: u64) -> Result<()> {
        let durable = self.ctl.load(W_DURABLE);
        for segment in self.recent_between(durable, target) {
            let from = durable.max(segment.base);
            let to = target.min(segment.end);
            let bytes = self.ring_image(&segment, from, to)?;
            let whole = Continuation {
                segment: &segment,
                from,
                bytes: &bytes,
                goes_on: true,
            };
            let header = self.original_header(&whole)?;
            let file = self.write_continuation(&whole, &header)?;
            self.adopt_in_control(segment.number, file)?;
        }
        Ok(())
    }

    /// The log's bytes from the ring, every record's checksums checked.
    fn ring_image(&self, seg: &Recent, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        ring_read(&self.ctl, from, &mut bytes);
        let mut at = from;
        if from == seg.base && at < to {
            at += HEADER_SPAN;
        }
        while at < to {
            let rest = &bytes[usize::try_from(at - from).unwrap_or(0)..];
            let record = record::parse(rest, at, seg.salt)
                .map_err(|bad| self.ctl.damaged(&format!("the ring at {at:#x}: {bad}")))?;
            at += record.header.padded_len() as u64;
        }
        Ok(bytes)
    }

    /// Writes, syncs and adopts a continuation file; returns its number.
    pub(crate) fn write_continuation(
        &self,
        c: &Continuation<'_>,
        original: &SegmentHeader,
    ) -> Result<u32> {
        let seg = c.segment;
        let number = u32::try_from(seg.number)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let (file, handle) = self.create_continuation(number)?;
        // A continuation from the segment's start begins with its first record: it has a header
        // of its own.
        let records_from = c.from.max(seg.base + HEADER_SPAN);
        let header = SegmentHeader {
            file,
            continues_at: records_from,
            created_ms: self.ctl.host.realtime_ms(),
            ..*original
        };
        let filled = self.fill_continuation(c, &header, &handle);
        if filled.is_err() {
            // It does not count yet, and a full disk has better use for its room.
            let _ = self
                .dir
                .unlink_if_there(&Self::path(&file_name(number, file)));
        }
        filled?;
        self.dir.sync_dir(LOG_DIR)?;
        handle.write_all_at(&encode_adopted(&header), ADOPTED_AT as u64)?;
        handle.sync()?;
        Ok(file)
    }

    /// Writes and syncs everything of a continuation file but its adoption.
    fn fill_continuation(
        &self,
        c: &Continuation<'_>,
        header: &SegmentHeader,
        handle: &Handle,
    ) -> Result<()> {
        let base = c.segment.base;
        let skip = usize::try_from(header.continues_at - c.from)
            .unwrap_or(0)
            .min(c.bytes.len());
        let bytes = &c.bytes[skip..];
        let at = header.continues_at - base;
        // Room for the rest of the segment, if more is to come; where that fails, writes tell. The
        // header has its room before anything is written: a file that ends within it would look
        // damaged.
        if !c.goes_on || handle.allocate(header.size).is_err() {
            handle.allocate(HEADER_SPAN)?;
        }
        handle.write_all_at(bytes, at)?;
        handle.write_all_at(&header.encode(), 0)?;
        handle.sync()
    }

    /// A file under the next free number of the segment: never one that was used.
    fn create_continuation(&self, number: u32) -> Result<(u32, Handle)> {
        let taken = self
            .dir
            .list(LOG_DIR)?
            .iter()
            .filter_map(|name| segment::parse_file_name(name))
            .filter(|name| name.number == number)
            .map(|name| name.file)
            .max()
            .unwrap_or(0);
        let file = taken.checked_add(1).ok_or_else(|| {
            Error::new(
                Code::Corrupt,
                "a segment has an impossible file number in log/",
            )
        })?;
        let path = Self::path(&file_name(number, file));
        Ok((file, self.dir.open(&path, Open::Create)?))
    }

    fn adopt_in_control(&self, number: u64, file: u32) -> Result<()> {
        let mut tx = self.ctl.begin(self.ctl.patience())?;
        let at = self.ctl.layout.recent(number, R_FILE);
        tx.set(at, u64::from(file));
        tx.commit();
        let resealed = self.ctl.load(W_RESEALS).wrapping_add(1);
        self.ctl.publish(W_RESEALS, resealed);
        Ok(())
    }

    /// The segment's own header: from the bytes to be written, else from the file written last
    /// (after an earlier reseal, the first file may never have got its header).
    fn original_header(&self, c: &Continuation<'_>) -> Result<SegmentHeader> {
        if c.from == c.segment.base {
            return SegmentHeader::decode(c.bytes)
                .map_err(|bad| self.ctl.damaged(&format!("a segment's header: {bad}")));
        }
        self.file_header(c.segment.number, c.segment.file)
    }
}

/// What goes into a continuation file.
pub(crate) struct Continuation<'a> {
    pub(crate) segment: &'a Recent,
    /// From here on it is the authority.
    pub(crate) from: u64,
    /// The log's bytes from there.
    pub(crate) bytes: &'a [u8],
    /// Whether more will be appended to the segment.
    pub(crate) goes_on: bool,
}
