//! The oldest message that a group has not settled, for statistics.
//!
//! That is the one with the lowest sequence: outstanding, or the first behind the cursor. Found by
//! one look at each slot in use, whatever the backlog. Read without the lock: cursors before slots,
//! so that a message which is claimed meanwhile is found at one of the two.

use std::collections::BTreeMap;

use super::slot::{Head, Owner, State};
use super::{claim, fetch, gone, places};
use crate::commitlog::Log;
use crate::commitlog::read::ReadAhead;
use crate::shm::Ctl;
use crate::shm::control::{G_SLOT_TOP, P_CURSOR, S_HEAD, S_LSN, S_OWNER, S_SEQ};

/// What some groups have not settled, by their ids.
pub(crate) struct Oldest {
    cursors: BTreeMap<u32, u64>,
    /// The lowest outstanding sequence, and where its message lies.
    outstanding: BTreeMap<u32, (u64, u64)>,
}

impl Oldest {
    /// Reads it for these groups.
    pub(crate) fn of(ctl: &Ctl, groups: impl Iterator<Item = u32>) -> Self {
        let cursor = |group| ctl.load(ctl.layout.group(group, P_CURSOR));
        let mut found = Self {
            cursors: groups.map(|group| (group, cursor(group))).collect(),
            outstanding: BTreeMap::new(),
        };
        if found
            .cursors
            .keys()
            .any(|&group| claim::held(ctl, group) > 0)
        {
            found.read_slots(ctl);
        }
        found
    }

    fn read_slots(&mut self, ctl: &Ctl) {
        let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
        for slot in 0..top {
            let word = |w| ctl.load(ctl.layout.slot(slot, w));
            let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
            if matches!(
                state,
                None | Some(State::Free | State::Removed | State::Settled)
            ) {
                continue;
            }
            let (place, seq) = (Owner::unpack(word(S_OWNER)).group, word(S_SEQ));
            let group = places::group_at(ctl, place);
            if self.cursors.contains_key(&group) && !gone::is_void(ctl, place, seq) {
                let lowest = self.outstanding.entry(group).or_insert((u64::MAX, 0));
                *lowest = (*lowest).min((seq, word(S_LSN)));
            }
        }
    }

    /// When the oldest message of a group of this topic was sent, in ms since 1970. `None`: there
    /// is none, or it cannot be read.
    pub(crate) fn sent_ms(&self, log: &Log, topic: u32, group: u32) -> Option<u64> {
        let cursor = *self.cursors.get(&group)?;
        let next = log.candidates(topic, cursor, 1).ok();
        let next = next.and_then(|found| found.first().copied());
        let lowest = self.outstanding.get(&group).copied();
        let (seq, lsn) = lowest.into_iter().chain(next).min()?;
        fetch::time_of(log, topic, seq, lsn, &mut ReadAhead::default()).ok()
    }
}
