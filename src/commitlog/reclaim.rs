//! Removing segments that nothing needs any more.
//!
//! A segment goes only below every live reference, with a complete and durable snapshot above it,
//! and with every record that released its contents durable too (invariant 16). The delivery layer
//! says which that are.

use std::collections::VecDeque;

use super::append::{Need, Purpose};
use super::prepare::Maintenance;
use super::{LOG_DIR, Log};
use crate::error::Result;
use crate::format::payload::Config;
use crate::format::record::{Draft, Kind};
use crate::format::segment::{parse_file_name, parse_sidecar_name};
use crate::shm::Tx;
use crate::shm::control::{G_OLDEST, G_TAIL, PINS, W_DURABLE};

/// What whoever maintains the store is about to copy forward: only a plan, that any other process
/// can make again.
#[derive(Default)]
pub(crate) struct Moving {
    /// Original LSNs.
    pub(crate) todo: VecDeque<u64>,
    /// The last segment of the run that is to go.
    pub(crate) last: u64,
    /// The last segment whose bytes have paid for copies: no byte pays twice.
    pub(crate) paid: u64,
    /// Where the log must have come to before another plan is worth the trouble.
    pub(crate) look_again_at: u64,
}

impl Log {
    /// The lowest LSN that chunked sends in progress need.
    pub(crate) fn chunk_pin(&self) -> u64 {
        let ctl = &self.ctl;
        let mut lowest = u64::MAX;
        if broken!(ReclaimBelowChunk) {
            return lowest;
        }
        for member in 0..ctl.layout.geometry.members {
            for pin in 0..PINS {
                let lsn = ctl.load(ctl.layout.pin(member, pin));
                if lsn != 0 {
                    lowest = lowest.min(lsn);
                }
            }
        }
        lowest
    }

    /// Removes the segments before `first_kept`, in which nothing was live when the log ended at
    /// `as_of`, unless `still` says under the lock that it does not hold any more. The maintenance
    /// byte is held.
    pub(crate) fn reclaim_before(
        &self,
        held: &Maintenance<'_>,
        first_kept: u64,
        as_of: u64,
        still: &dyn Fn(&Tx<'_>) -> bool,
    ) -> Result<()> {
        let early = broken!(UnlinkBeforeReleaseDurable) || broken!(UnlinkBeforeMovedDurable);
        if self.ctl.load(W_DURABLE) < as_of && !early {
            self.flush_now(self.ctl.patience())?;
        }
        if self.announce_reclaim(held, first_kept, still)? {
            self.remove_below(first_kept)?;
        }
        Ok(())
    }

    /// Writes down, durably, that everything below a segment may be gone: a file that is missing
    /// without such a note was taken away by somebody else.
    fn announce_reclaim(
        &self,
        held: &Maintenance<'_>,
        first_kept: u64,
        still: &dyn Fn(&Tx<'_>) -> bool,
    ) -> Result<bool> {
        if broken!(UnlinkBeforeReleaseDurable) {
            return Ok(true);
        }
        let first = u32::try_from(first_kept)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let body = Config::Reclaim { first }.encode();
        let mut draft = Draft::new(Kind::Config, 0, 0, &[], &[&body]);
        let need = Need::new(draft.bytes.len(), 0, Purpose::Snap);
        let announced = self.transact_holding(Some(held), need, self.ctl.patience(), |tx| {
            if !still(tx) {
                return Ok(false);
            }
            self.append(tx, &mut draft.bytes, 0);
            tx.set_global(G_OLDEST, first_kept);
            Ok(true)
        })?;
        if announced && !broken!(UnlinkBeforeMovedDurable) {
            self.flush_now(self.ctl.patience())?;
        }
        Ok(announced)
    }

    /// Removes the files of all segments below this number, the oldest first: what a death leaves
    /// behind is still the continuous beginning of the log, and the next one removes it.
    pub(crate) fn remove_below(&self, first_kept: u64) -> Result<()> {
        let mut removed = false;
        for name in self.dir.list(LOG_DIR)? {
            let number = parse_file_name(&name)
                .map(|n| n.number)
                .or_else(|| parse_sidecar_name(&name));
            if number.is_some_and(|n| u64::from(n) < first_kept) {
                removed |= self.dir.unlink_if_there(&Self::path(&name))?;
            }
        }
        if removed {
            self.dir.sync_dir(LOG_DIR)
        } else {
            Ok(())
        }
    }

    /// Where the log ends now, for [`Log::reclaim_below`].
    pub(crate) fn tail(&self) -> u64 {
        self.ctl.global(G_TAIL)
    }
}
