//! From a topic's sequence to a log position.
//!
//! The messages of the active segment, and of a sealed one without a sidecar yet, are indexed in
//! two regions of shared memory: per topic a chain of blocks of 62 offsets. Older segments have
//! sidecars. An index is read without lock E; what was read counts only if neither region changed
//! its segment and no transaction was rolled back meanwhile, and only entries below `PUBLISHED`
//! are taken, so an appender that dies in its transaction can neither add nor hide a message.

use super::append::region_of;
use super::{HEADER_SPAN, Log};
use crate::error::{Code, Error, Result};
use crate::shm::control::{
    BLOCK_ENTRIES, G_ACTIVE, G_OLDEST, R_BASE, REGIONS, T_FIRST, T_INDEX, T_INDEX_SIZE, T_NEXT,
    W_PUBLISHED, W_ROLLBACKS, X_BLOCKS, X_LINKS, X_LINKS_CHAIN, X_MIN_REF, X_NUMBER,
};
use crate::shm::{Ctl, Tx};

/// Messages of a topic in order: (sequence, LSN). Complete from the sequence asked for up to the
/// last one listed: none in between is missing.
pub(crate) type Candidates = Vec<(u64, u64)>;

/// How often an index that changes is read again before the lock is asked who changes it.
const TRIES: u32 = 1000;

/// Follows a chain of index blocks.
pub(crate) struct Walk {
    region: usize,
    block: u32,
    at: u64,
}

impl Walk {
    /// From the chain word of a topic: first block << 32 | last block.
    pub(crate) fn new(_ctl: &Ctl, region: usize, chain: u64) -> Self {
        Self {
            region,
            block: u32::try_from(chain >> 32).unwrap_or(u32::MAX),
            at: 0,
        }
    }

    /// The next entry's offset in the segment, bytes.
    pub(crate) fn next(&mut self, ctl: &Ctl) -> Option<u64> {
        if self.at == BLOCK_ENTRIES {
            self.skip_block(ctl)?;
        }
        if self.block >= ctl.layout.geometry.blocks {
            return None;
        }
        let (word, shift) = entry_place(self.at);
        self.at += 1;
        let packed = ctl.load(ctl.layout.block(self.region, self.block, word));
        Some(((packed >> shift) & 0xffff_ffff) * 16)
    }

    /// Passes over entries, whole blocks at a time.
    pub(super) fn skip(&mut self, ctl: &Ctl, mut entries: u64) -> Option<()> {
        while entries >= BLOCK_ENTRIES {
            self.skip_block(ctl)?;
            entries -= BLOCK_ENTRIES;
        }
        self.at = entries;
        Some(())
    }

    fn skip_block(&mut self, ctl: &Ctl) -> Option<()> {
        if self.block >= ctl.layout.geometry.blocks {
            return None;
        }
        let next = ctl.load(ctl.layout.block(self.region, self.block, 0));
        self.block = u32::try_from(next).ok()?;
        self.at = 0;
        Some(())
    }
}

/// Word and shift of an entry in its block.
#[inline]
const fn entry_place(at: u64) -> (usize, u32) {
    // At most 62 entries.
    #[allow(clippy::cast_possible_truncation)]
    (8 + (at as usize / 2) * 8, (at as u32 % 2) * 32)
}

/// Adds a block to a chain that has `count` entries; returns the chain's word.
fn longer(tx: &mut Tx<'_>, region: usize, count: u64, chain: u64) -> u64 {
    let layout = tx.ctl.layout;
    let used = layout.region(region, X_BLOCKS);
    let block = tx.get(used) & 0xffff_ffff;
    tx.set(used, block + 1);
    if count == 0 {
        return block << 32 | block;
    }
    let last = crate::shm::lock::low_half(chain);
    tx.set(layout.block(region, last, 0), block);
    chain & !0xffff_ffff | block
}

/// Writes the entry of that number into the last block of a chain.
fn put(tx: &mut Tx<'_>, region: usize, (count, chain): (u64, u64), distance: u64) {
    let (word, shift) = entry_place(count % BLOCK_ENTRIES);
    let last = crate::shm::lock::low_half(chain);
    let place = tx.ctl.layout.block(region, last, word);
    let offset = (distance / 16) & 0xffff_ffff;
    tx.set(
        place,
        tx.get(place) & !(0xffff_ffff << shift) | offset << shift,
    );
}

impl Log {
    /// Enters a message that was just appended at `lsn` into the index of the active segment.
    /// [`Log::reserve`] made room for it.
    #[inline]
    pub(crate) fn index(&self, tx: &mut Tx<'_>, topic: u32, seq: u64, lsn: u64) {
        let layout = &self.ctl.layout;
        let active = tx.global(G_ACTIVE);
        let region = region_of(active);
        let base = tx.get(layout.recent(active, R_BASE));
        let at = |word: usize| layout.topic(topic, T_INDEX + region * T_INDEX_SIZE + word * 8);
        let mut count = if tx.get(at(0)) == active {
            tx.get(at(2))
        } else {
            0
        };
        let mut chain = tx.get(at(3));
        if count == 0 {
            tx.set(at(1), seq);
        }
        if count % BLOCK_ENTRIES == 0 {
            chain = longer(tx, region, count, chain);
            tx.set(at(3), chain);
        }
        put(tx, region, (count, chain), lsn - base);
        count += 1;
        tx.set(at(2), count);
        if count == 1 {
            // Last: until then nobody takes what an older segment left here for this one's.
            tx.set(at(0), active);
        }
    }

    /// Notes that the record just appended at `lsn` ties the active segment to others: it refers to
    /// an older record, `target`, or is a copy of it. [`Need::with_links`] made room for it.
    ///
    /// [`Need::with_links`]: super::append::Need::with_links
    pub(crate) fn note_link(&self, tx: &mut Tx<'_>, lsn: u64, target: u64) {
        let layout = &self.ctl.layout;
        let active = tx.global(G_ACTIVE);
        let region = region_of(active);
        let lowest = layout.region(region, X_MIN_REF);
        if target < tx.get(lowest) {
            tx.set(lowest, target);
        }
        let base = tx.get(layout.recent(active, R_BASE));
        let [count_at, chain_at] = [X_LINKS, X_LINKS_CHAIN].map(|w| layout.region(region, w));
        let (count, mut chain) = (tx.get(count_at), tx.get(chain_at));
        if count % BLOCK_ENTRIES == 0 {
            chain = longer(tx, region, count, chain);
            tx.set(chain_at, chain);
        }
        put(tx, region, (count, chain), lsn - base);
        tx.set(count_at, count + 1);
    }

    /// Up to `max` messages of a topic from sequence `from` on.
    pub(crate) fn candidates(&self, topic: u32, from: u64, max: usize) -> Result<Candidates> {
        let ctl = &self.ctl;
        let mut tries = 0;
        loop {
            let rollbacks = ctl.load(W_ROLLBACKS);
            let numbers = self.region_numbers();
            let published = ctl.load(W_PUBLISHED);
            let next = ctl.load(ctl.layout.topic(topic, T_NEXT));
            let first = ctl.load(ctl.layout.topic(topic, T_FIRST));
            let from = from.max(first);
            let oldest = ctl.global(G_OLDEST);
            let mut found = Vec::new();
            if from < next {
                match self.collect(topic, from, max, published, &mut found) {
                    Ok(()) => {}
                    // Reclaimed under our eyes: what it held is settled or has been moved.
                    Err(_) if ctl.global(G_OLDEST) != oldest => continue,
                    // Of a topic that was deleted nothing needs to be there.
                    Err(_) if !ctl.has_topic(topic) => {
                        self.check_topic(topic)?;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            if !ctl.has_topic(topic) {
                self.check_topic(topic)?;
                continue;
            }
            // Moved messages are looked for after those in their places: with one oldest segment
            // all along, none can have gone from there to where was looked already.
            if numbers == self.region_numbers()
                && ctl.global(G_OLDEST) == oldest
                && rollbacks == ctl.load(W_ROLLBACKS)
                && rollbacks % 2 == 0
            {
                return Ok(found);
            }
            tries += 1;
            if tries % TRIES == 0 {
                self.check_rollbacks()?;
            }
            std::hint::spin_loop();
        }
    }

    /// Fails if a topic is not in use, and not only half: whoever deletes it may die and be rolled
    /// back.
    #[cold]
    fn check_topic(&self, topic: u32) -> Result<()> {
        let ctl = &self.ctl;
        let _tx = ctl.begin_to_read(ctl.patience())?;
        if ctl.has_topic(topic) {
            return Ok(());
        }
        Err(Error::new(
            Code::NotFound,
            "the topic was deleted, here or in another process",
        ))
    }

    /// Waits for whoever rolls back, or takes over from him if he is dead.
    #[cold]
    fn check_rollbacks(&self) -> Result<()> {
        let ctl = &self.ctl;
        if ctl.is_frozen() {
            // Whoever looks only cannot help.
            return Err(ctl.being_repaired());
        }
        let _tx = ctl.begin(ctl.patience())?;
        if ctl.load(W_ROLLBACKS) % 2 == 0 {
            return Ok(());
        }
        Err(ctl.damaged("a rollback goes on that nobody does"))
    }

    /// What changes whenever an index passes from shared memory to a sidecar.
    pub(super) fn region_numbers(&self) -> [u64; REGIONS + 1] {
        let ctl = &self.ctl;
        [
            ctl.load(ctl.layout.region(0, X_NUMBER)),
            ctl.load(ctl.layout.region(1, X_NUMBER)),
            ctl.global(G_ACTIVE),
        ]
    }

    fn collect(
        &self,
        topic: u32,
        from: u64,
        max: usize,
        published: u64,
        found: &mut Candidates,
    ) -> Result<()> {
        let ctl = &self.ctl;
        let mut regions: Vec<(u64, usize)> = (0..REGIONS)
            .map(|r| (ctl.load(ctl.layout.region(r, X_NUMBER)), r))
            .filter(|(number, _)| *number != 0)
            .collect();
        regions.sort_unstable();
        let in_memory = regions
            .iter()
            .filter_map(|&(number, region)| {
                let at = |w: usize| {
                    ctl.layout
                        .topic(topic, T_INDEX + region * T_INDEX_SIZE + w * 8)
                };
                (ctl.load(at(0)) == number).then(|| ctl.load(at(1)))
            })
            .min();
        if in_memory.is_none_or(|first| from < first) {
            let below = regions.first().map_or(u64::MAX, |(number, _)| *number);
            let here = self.collect_sealed(topic, from, max, below, found)?;
            let until = here.or(in_memory).unwrap_or(u64::MAX);
            if from < until {
                // Those that are no longer where they were written come before all that are.
                let mut all = self.moved_messages(topic, from..until, max, 0)?;
                if !all.is_empty() {
                    all.append(found);
                    all.truncate(max);
                    *found = all;
                }
            }
        }
        for (number, region) in regions {
            if found.len() >= max {
                break;
            }
            let from = found.last().map_or(from, |(seq, _)| seq + 1);
            self.collect_region(topic, from, max, published, (number, region), found);
        }
        Ok(())
    }

    /// Returns the first sequence of the topic in the first of those segments.
    fn collect_sealed(
        &self,
        topic: u32,
        mut from: u64,
        max: usize,
        below: u64,
        found: &mut Candidates,
    ) -> Result<Option<u64>> {
        let mut first = None;
        for segment in self.sealed_with(topic, from, below)? {
            let sidecar = self.sidecar(&segment)?;
            first = first.or(sidecar.first_seq(topic));
            while found.len() < max {
                let Some((seq, lsn)) = sidecar.at_or_after(topic, from) else {
                    break;
                };
                found.push((seq, lsn));
                from = seq + 1;
            }
            if found.len() >= max {
                break;
            }
        }
        Ok(first)
    }

    fn collect_region(
        &self,
        topic: u32,
        from: u64,
        max: usize,
        published: u64,
        (number, region): (u64, usize),
        found: &mut Candidates,
    ) {
        let ctl = &self.ctl;
        let at = |w: usize| {
            ctl.layout
                .topic(topic, T_INDEX + region * T_INDEX_SIZE + w * 8)
        };
        if ctl.load(at(0)) != number {
            return;
        }
        let base = ctl.load(ctl.layout.recent(number, R_BASE));
        let (first, count) = (ctl.load(at(1)), ctl.load(at(2)));
        let skip = from.saturating_sub(first);
        if skip >= count {
            return;
        }
        let mut walk = Walk::new(ctl, region, ctl.load(at(3)));
        if walk.skip(ctl, skip).is_none() {
            return;
        }
        for i in skip..count {
            let Some(offset) = walk.next(ctl) else { return };
            let lsn = base + offset;
            if offset < HEADER_SPAN || lsn >= published || found.len() >= max {
                return;
            }
            found.push((first + i, lsn));
        }
    }
}
