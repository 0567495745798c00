//! Making segments ahead of need, so that a roll is only a change of words under the lock.
//!
//! A prepared file has its final name and no header yet: the header goes through the ring when the
//! segment is rolled into. It is allocated, and zero-written where the store flushes synchronously
//! (turning unwritten extents into written ones would cost a journal commit at every flush),
//! synced, renamed and its name made durable, and only then announced in shared memory. The
//! reserve is one more prepared file that sends never use: with the disk full it becomes the next
//! segment for acks and a snapshot, so that consumers go on and space comes back.
//!
//! All of it under byte 1 of LOCK (maintenance), which a death gives back.

use super::append::{Lack, full};
use super::{LOG_DIR, Log};
use crate::error::{Code, Error, Outcome, Result};
use crate::format::segment::{file_name, prepared_name};
use crate::shm::control::{
    G_ACTIVE, G_GROWN, G_IN_RESERVE, G_NEXT, G_NEXT_RESERVE, G_NEXT_SALT, G_NEXT_SIZE, G_OLDEST,
    G_TAIL, R_BASE, R_LIMIT, W_DURABLE, W_PUBLISHED,
};
use crate::shm::member::BYTE_MAINTENANCE;
use crate::shm::wake;
use crate::sys::Open;

/// The file of the reserve.
const RESERVE: &str = "reserve.pre";
/// On a disk that is nearly full, segments are made this small before sends are refused.
pub(crate) const SMALLEST: u64 = 1 << 20;

/// The maintenance byte, given back when dropped.
pub(crate) struct Maintenance<'a> {
    log: &'a Log,
}

impl Drop for Maintenance<'_> {
    fn drop(&mut self) {
        if !killed!() {
            self.log.ctl.host.unlock_byte(BYTE_MAINTENANCE);
            self.log
                .maintaining
                .store(false, std::sync::atomic::Ordering::Release);
        }
    }
}

impl Log {
    /// Becomes the one that maintains the store, unless somebody is.
    pub(crate) fn try_maintain(&self) -> Result<Option<Maintenance<'_>>> {
        use std::sync::atomic::Ordering;
        // Through one descriptor the byte can be taken twice, so threads exclude one another first.
        if self.maintaining.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        match self.ctl.host.try_lock_byte(BYTE_MAINTENANCE) {
            Ok(true) => Ok(Some(Maintenance { log: self })),
            other => {
                self.maintaining.store(false, Ordering::Release);
                other
                    .map(|_| None)
                    .map_err(|e| Error::io("lock a byte of", "LOCK", &e))
            }
        }
    }

    /// Does what gets an append on that found no room, or waits for whoever is doing it. Returns
    /// after one step; the caller tries again.
    pub(crate) fn make_room(
        &self,
        lack: Lack,
        deadline: u64,
        held: Option<&Maintenance<'_>>,
    ) -> Result<()> {
        let event = wake::room_event(&self.ctl);
        let left = deadline.saturating_sub(self.ctl.host.boottime_ms());
        if left == 0 {
            return Err(Error::new(
                Code::Timeout,
                "no room in the log in time: the disk does not keep up; send slower or wait longer",
            ));
        }
        match lack {
            Lack::Full => Err(full(self)),
            Lack::Ring => {
                // Any bytes that become durable make room. If none are left to, somebody has
                // flushed since this one looked, and there is room.
                let durable = self.ctl.load(W_DURABLE);
                let published = self.ctl.load(W_PUBLISHED);
                let waited = self.wait_durable(published.min(durable + 1), deadline);
                // The record this is for is not appended yet, whatever became of others.
                waited
                    .map(|_| ())
                    .map_err(|e| e.with_outcome(Outcome::NotStored))
            }
            Lack::Segment(_) | Lack::Region => {
                if let Some(held) = held {
                    return self.provide(lack, deadline, held);
                }
                match self.try_maintain()? {
                    Some(held) => self.provide(lack, deadline, &held),
                    None => {
                        let timeout = std::time::Duration::from_millis(left);
                        wake::sleep_until_room(&self.ctl, event, timeout);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Prepares the missing segment, or frees an index region.
    fn provide(&self, lack: Lack, deadline: u64, held: &Maintenance<'_>) -> Result<()> {
        if let Lack::Segment(least) = lack {
            return self.prepare_next(held, least).map_err(|e| self.or_gone(e));
        }
        self.flush_now(deadline)?;
        self.write_pending_sidecar(self.ctl.global(G_ACTIVE))
            .map(|_| ())
    }

    /// Whether the next segment should be prepared by now: at half of the active one.
    pub(crate) fn wants_preparation(&self) -> bool {
        let ctl = &self.ctl;
        if ctl.global(G_NEXT) != 0 && ctl.global(G_NEXT_RESERVE) == 0 {
            return false;
        }
        let active = ctl.global(G_ACTIVE);
        let word = |word| ctl.load(ctl.layout.recent(active, word));
        let (base, limit) = (word(R_BASE), word(R_LIMIT));
        ctl.global(G_IN_RESERVE) != 0
            || ctl.global(G_NEXT_RESERVE) != 0
            || ctl.global(G_TAIL).saturating_sub(base) * 2 > limit.saturating_sub(base)
    }

    /// Prepares the next segment and the reserve. On a full disk the reserve becomes the next.
    pub(crate) fn prepare_next(&self, _held: &Maintenance<'_>, least: u64) -> Result<()> {
        let ctl = &self.ctl;
        let ready = ctl.global(G_NEXT) != 0;
        if ready && ctl.global(G_NEXT_SIZE) >= least && ctl.global(G_NEXT_RESERVE) == 0 {
            return Ok(());
        }
        // The reserve is replaced before sends go on: they would fill the disk without any. Unless
        // it is all there is: then only its own end gives room back.
        let active = ctl.global(G_ACTIVE);
        let without = ctl.global(G_IN_RESERVE) != 0 && ctl.global(G_OLDEST) < active;
        if without && !broken!(ReserveNotReplaced) && !self.prepare_reserve()? {
            return Err(full(self));
        }
        let number = u32::try_from(active + 1)
            .map_err(|_| Error::new(Code::LimitExceeded, "the log has too many segments"))?;
        let grown = ctl.global(G_GROWN).saturating_mul(2);
        let size = grown.clamp(least, ctl.layout.geometry.segment.max(least));
        let size = size.next_multiple_of(4096);
        let temporary = Self::path(&prepared_name(number, 0));
        match self.prepare_what_fits(&temporary, size, least) {
            Ok(size) => {
                if !self.withdraw(number)? {
                    // Somebody rolled into what had been announced: that file is in use now.
                    self.dir.unlink_if_there(&temporary)?;
                    return Ok(());
                }
                self.announce(&temporary, number, size, 0)?;
            }
            Err(e) if e.code() == Code::Full && !ready => {
                self.dir.unlink_if_there(&temporary)?;
                self.use_reserve(number, least)?;
                return Ok(());
            }
            Err(e) => {
                self.dir.unlink_if_there(&temporary)?;
                return Err(e);
            }
        }
        self.prepare_reserve()?;
        Ok(())
    }

    /// Prepares a file of this size, or of half, a quarter and so on where the disk has no room: a
    /// disk that held one large segment must not stay full for want of room for a second. Returns
    /// the size.
    fn prepare_what_fits(&self, path: &str, size: u64, least: u64) -> Result<u64> {
        let smallest = least.max(SMALLEST).min(size);
        let mut size = size;
        loop {
            match self.prepare_file(path, size, self.prewrite) {
                Err(e) if e.code() == Code::Full && size > smallest => {
                    size = (size / 2).next_multiple_of(4096).max(smallest);
                }
                made => return made.map(|()| size),
            }
        }
    }

    /// Keeps a reserve, if there is room for one: whether there is one.
    pub(crate) fn prepare_reserve(&self) -> Result<bool> {
        let path = Self::path(RESERVE);
        if self.dir.try_stat(&path)?.is_some() {
            return Ok(true);
        }
        let temporary = Self::path("reserve.new.pre");
        let made = self
            .prepare_file(&temporary, self.reserve_size(), false)
            .and_then(|()| self.dir.rename(&temporary, &path));
        match made {
            Ok(()) => Ok(true),
            Err(e) => {
                // The next preparation tries again.
                let _ = self.dir.unlink_if_there(&temporary);
                if e.code() == Code::Full {
                    Ok(false)
                } else {
                    Err(e)
                }
            }
        }
    }

    /// Makes an empty segment file with its final, durable name, for recovery. Returns its path.
    pub(crate) fn prepare_named(&self, number: u32, size: u64) -> Result<String> {
        let temporary = Self::path(&prepared_name(number, 0));
        self.prepare_file(&temporary, size, self.prewrite)?;
        let path = Self::path(&file_name(number, 0));
        self.dir.rename(&temporary, &path)?;
        self.dir.sync_dir(LOG_DIR)?;
        Ok(path)
    }

    fn prepare_file(&self, path: &str, size: u64, prewrite: bool) -> Result<()> {
        self.dir.unlink_if_there(path)?;
        let handle = self.dir.open(path, Open::Create)?;
        let size = if broken!(SpaceNotAllocated) { 0 } else { size };
        handle.allocate(size)?;
        if prewrite {
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < size {
                let piece = usize::try_from((size - at).min(1 << 20)).unwrap_or(1 << 20);
                handle.write_all_at(&zeros[..piece], at)?;
                at += piece as u64;
            }
        }
        handle.sync()
    }

    /// Takes the announcement of a next segment back, so that nobody can roll into a file that is
    /// about to be replaced; the reserve keeps its file. False: the number is in use by now.
    fn withdraw(&self, number: u32) -> Result<bool> {
        let mut tx = self.ctl.begin(self.ctl.patience())?;
        if tx.global(G_ACTIVE) + 1 != u64::from(number) {
            return Ok(false);
        }
        let was_reserve = tx.global(G_NEXT) != 0 && tx.global(G_NEXT_RESERVE) != 0;
        tx.set_global(G_NEXT, 0);
        tx.set_global(G_NEXT_RESERVE, 0);
        tx.commit();
        if was_reserve {
            self.dir
                .rename(&Self::path(&file_name(number, 0)), &Self::path(RESERVE))?;
        }
        Ok(true)
    }

    /// Whether the disk is so full that only the reserve is left.
    pub(crate) fn is_short(&self) -> bool {
        let ctl = &self.ctl;
        ctl.global(G_IN_RESERVE) != 0 || ctl.global(G_NEXT_RESERVE) != 0
    }

    /// Gives a prepared file its name and tells everybody.
    fn announce(&self, temporary: &str, number: u32, size: u64, reserve: u64) -> Result<()> {
        let path = Self::path(&file_name(number, 0));
        self.dir.rename(temporary, &path)?;
        self.dir.sync_dir(LOG_DIR)?;
        let salt = self.ctl.host.random();
        let mut tx = self.ctl.begin(self.ctl.patience())?;
        if tx.global(G_ACTIVE) + 1 == u64::from(number) {
            tx.set_global(G_NEXT, u64::from(number));
            tx.set_global(G_NEXT_SIZE, size);
            tx.set_global(G_NEXT_SALT, salt);
            tx.set_global(G_NEXT_RESERVE, reserve);
        }
        tx.commit();
        wake::room_made(&self.ctl);
        Ok(())
    }

    /// The disk is full: what was kept back becomes the next segment, for acks and a snapshot.
    fn use_reserve(&self, number: u32, least: u64) -> Result<()> {
        let path = Self::path(RESERVE);
        match self.dir.try_stat(&path)? {
            Some(stat) if stat.len >= least => self.announce(&path, number, stat.len, 1),
            _ => Err(full(self)),
        }
    }
}
