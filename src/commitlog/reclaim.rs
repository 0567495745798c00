//! Removing segments that nothing needs any more.
//!
//! A segment goes only below every live reference, with a complete and durable snapshot above it,
//! and with every record that released its contents durable too (invariant 16). The delivery layer
//! says what the lowest live reference is; this module adds what the log itself still needs.

use super::append::{Need, Purpose};
use super::prepare::Maintenance;
use super::{LOG_DIR, Log};
use crate::error::Result;
use crate::format::payload::Config;
use crate::format::record::{Draft, Kind};
use crate::format::segment::{parse_file_name, parse_sidecar_name};
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, G_SNAP_BEFORE, G_TAIL, PINS, REGIONS, W_DURABLE, X_MIN_REF, X_NUMBER,
};

impl Log {
    /// The lowest LSN that chunked sends in progress and the last two snapshots need.
    pub(crate) fn lowest_pin(&self) -> u64 {
        let ctl = &self.ctl;
        let mut lowest = ctl.global(G_SNAP_BEFORE);
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

    /// Removes the segments that lie wholly below `live`, as the delivery layer found it when the
    /// log ended at `as_of`. The maintenance byte is held. Returns how many were removed.
    pub(crate) fn reclaim_below(
        &self,
        held: &Maintenance<'_>,
        live: u64,
        as_of: u64,
    ) -> Result<u64> {
        let ctl = &self.ctl;
        if !broken!(UnlinkBeforeReleaseDurable) && ctl.load(W_DURABLE) < as_of {
            return Ok(0);
        }
        let mut keep_from = live;
        let oldest = ctl.global(G_OLDEST);
        let sealed = self.sealed_from(oldest)?;
        // Releases and chunk lists of segments that stay refer to older ones: follow them down.
        for region in 0..REGIONS {
            if ctl.load(ctl.layout.region(region, X_NUMBER)) != 0 && !broken!(ReclaimBelowChunk) {
                keep_from = keep_from.min(ctl.load(ctl.layout.region(region, X_MIN_REF)));
            }
        }
        for segment in sealed.iter().rev() {
            if segment.end > keep_from && !broken!(ReclaimBelowChunk) {
                keep_from = keep_from.min(self.min_ref(segment)?);
            }
        }
        let in_regions = [0, 1].map(|r| ctl.load(ctl.layout.region(r, X_NUMBER)));
        let gone: Vec<_> = sealed
            .iter()
            .take_while(|s| s.end <= keep_from && !in_regions.contains(&s.number))
            .collect();
        let Some(last) = gone.last() else {
            return Ok(0);
        };
        let first_kept = sealed
            .iter()
            .map(|s| s.number)
            .find(|&n| n > last.number)
            .unwrap_or_else(|| ctl.global(G_ACTIVE));
        self.announce_reclaim(held, first_kept)?;
        self.remove_below(first_kept)?;
        Ok(gone.len() as u64)
    }

    /// Writes down, durably, that everything below a segment may be gone: a file that is missing
    /// without such a note was taken away by somebody else.
    fn announce_reclaim(&self, held: &Maintenance<'_>, first_kept: u64) -> Result<()> {
        if broken!(UnlinkBeforeReleaseDurable) {
            return Ok(());
        }
        let first = u32::try_from(first_kept)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let body = Config::Reclaim { first }.encode();
        let mut draft = Draft::new(Kind::Config, 0, 0, &[], &[&body]);
        let need = Need::new(draft.bytes.len(), 0, Purpose::Snap);
        self.transact_holding(Some(held), need, self.ctl.patience(), |tx| {
            self.append(tx, &mut draft.bytes, 0);
            tx.set_global(G_OLDEST, first_kept);
            Ok(())
        })?;
        self.flush_now(self.ctl.patience())
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
