//! What shared memory must say of order keys.

use std::collections::BTreeMap;

use super::{Check, slot_top};
use crate::delivery::order;
use crate::delivery::registry;
use crate::delivery::slot::{self, Head, Owner, State};
use crate::shm::control::{P_PARKED, S_CHAIN, S_HEAD, S_KEY, S_OWNER, S_SEQ};

impl Check<'_> {
    fn word(&self, slot: u32, word: usize) -> u64 {
        self.tx.get(self.log.ctl.layout.slot(slot, word))
    }

    /// Of each key and group one message is found as the head and is not parked; the others are
    /// parked behind it, in order of sequence, and counted.
    pub(super) fn orders(&mut self) {
        let mut parked: BTreeMap<u32, u64> = BTreeMap::new();
        for slot in 0..slot_top(self.tx) {
            let Some(head) = Head::unpack(self.word(slot, S_HEAD)) else {
                continue;
            };
            let key = self.word(slot, S_KEY);
            if matches!(head.state, State::Free | State::Removed) || key == 0 {
                continue;
            }
            let group = Owner::unpack(self.word(slot, S_OWNER)).group;
            let found = order::head_of(self.tx, group, key).ok().flatten();
            if head.state == State::Parked {
                *parked.entry(group).or_default() += 1;
                self.expect(found.is_some_and(|at| at != slot), || {
                    format!("slot {slot} is parked behind {found:?}")
                });
            } else {
                self.expect(found == Some(slot), || {
                    format!("slot {slot} leads its order key, and {found:?} is found for it")
                });
                self.chain(slot, key, group);
            }
        }
        for group in 0..registry::groups(&self.log.ctl) {
            let kept = self.tx.get(self.log.ctl.layout.group(group, P_PARKED));
            let counted = parked.get(&group).copied().unwrap_or_default();
            self.expect(kept == counted, || {
                format!("group {group} has {counted} parked, counted {kept}")
            });
        }
    }

    fn chain(&mut self, head: u32, key: u64, group: u32) {
        let chain = self.word(head, S_CHAIN);
        let list = format!("the chain behind slot {head}");
        let mut next = u32::try_from(chain >> 32)
            .ok()
            .and_then(|n| n.checked_sub(1));
        let (mut last, mut seq) = (0, self.word(head, S_SEQ));
        while let Some(slot) = next {
            if !self.enter(slot, &list, &[State::Parked]) {
                break;
            }
            let of = Owner::unpack(self.word(slot, S_OWNER)).group;
            let own = (self.word(slot, S_KEY), of, self.word(slot, S_SEQ));
            self.expect(own.0 == key && own.1 == group && own.2 > seq, || {
                format!("{list}: slot {slot} has {own:?} after {seq}")
            });
            (last, seq) = (u64::from(slot) + 1, own.2);
            next = slot::next_in_list(self.tx, slot).ok().flatten();
        }
        self.expect(chain & 0xffff_ffff == last, || {
            format!("{list} ends with {last}, kept as {chain:#x}")
        });
    }
}
