//! Ids of topics and groups: a place in a table of shared memory, and how often that place was
//! given to another before. Places are used again, ids never: what still names a deleted topic or
//! group (a handle, a receipt, a record, an index) fits nothing that came after it.

use super::undo::Ctl;

/// Bits of an id that are its place; the others count.
const PLACE_BITS: u32 = 12;
const PLACE: u32 = (1 << PLACE_BITS) - 1;

/// The place of a topic or group in its table.
#[inline]
pub(crate) const fn place_of(id: u32) -> u32 {
    id & PLACE
}

/// The id after this one at the same place; `None`: the place is used up.
pub(crate) const fn next_id(id: u32) -> Option<u32> {
    id.checked_add(1 << PLACE_BITS)
}

/// What becomes of a topic or group: the low byte of its state word. The id stands above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Life {
    /// Nobody's place. If the word is 0 it never was anybody's, else the id is the last that was.
    Free = 0,
    Live = 1,
    /// A group that was deleted and whose slots are still to be freed.
    Dying = 2,
}

/// The state word of a topic or group with this id.
#[inline]
pub(crate) const fn state_word(id: u32, life: Life) -> u64 {
    // A place that was used is told from one that never was.
    1 << 40 | (id as u64) << 8 | life as u64
}

/// The id in a state word.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the bits above are no part of it
pub(crate) const fn id_in(word: u64) -> u32 {
    (word >> 8) as u32
}

/// Whether a state word is that of a topic or group in use.
#[inline]
pub(crate) const fn is_live(word: u64) -> bool {
    word & 0xff == Life::Live as u64
}

/// Whether a state word is that of a group whose slots are still to be freed.
pub(crate) const fn is_dying(word: u64) -> bool {
    word & 0xff == Life::Dying as u64
}

impl Ctl {
    /// Whether this topic is in use. Without lock E: as long as nobody makes or deletes one just
    /// now.
    #[inline]
    pub(crate) fn has_topic(&self, id: u32) -> bool {
        let at = self.layout.topic(id, super::control::T_STATE);
        place_of(id) < self.layout.geometry.topics && self.load(at) == state_word(id, Life::Live)
    }

    /// Whether this group is in use, as [`Ctl::has_topic`].
    #[inline]
    pub(crate) fn has_group(&self, id: u32) -> bool {
        let at = self.layout.group(id, super::control::P_STATE);
        place_of(id) < self.layout.geometry.groups && self.load(at) == state_word(id, Life::Live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_gives_many_ids_and_none_twice() {
        let mut id = 7;
        for _ in 0..1000 {
            let next = next_id(id).unwrap();
            assert!(next > id && place_of(next) == 7);
            id = next;
        }
        assert_eq!(next_id(u32::MAX - 5), None);
    }

    #[test]
    fn state_words_tell_what_they_hold() {
        for id in [0, 1, 4096, u32::MAX] {
            let live = state_word(id, Life::Live);
            assert!(is_live(live) && !is_dying(live) && id_in(live) == id);
            assert!(is_dying(state_word(id, Life::Dying)));
            assert_ne!(state_word(id, Life::Free), 0);
        }
        assert!(!is_live(0));
    }
}
