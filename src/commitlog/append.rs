//! Appending to the log: one copy into the tail ring, under lock E.
//!
//! A transaction first reserves what all its records need ([`Log::reserve`]); only then does it
//! change anything, so a full disk or ring is found before any state changes. Rolling to the next
//! segment is part of the reservation: a SEAL ends the active one, and the header of the next goes
//! through the ring like every other byte, so that a flush, a reseal or a recovery treats it as
//! part of the log.
//!
//! The ring holds `[durable, tail)`. Its bytes are private to the transaction until `PUBLISHED`
//! moves; older bytes are overwritten only below `durable`, which readers check after a copy.

use std::sync::atomic::{Ordering, fence};

use super::prepare::Maintenance;
use super::{HEADER_SPAN, Log};
use crate::error::{Code, Error, Result};
use crate::format::payload::Seal;
use crate::format::record::{self, Draft, HEADER, Kind};
use crate::format::segment::SegmentHeader;
use crate::shm::control::{
    BLOCK_ENTRIES, G_ACTIVE, G_EPOCH, G_GROWN, G_IN_RESERVE, G_NEXT, G_NEXT_RESERVE, G_NEXT_SALT,
    G_NEXT_SIZE, G_OLDEST, G_SNAP, G_TAIL, P_NEXT, R_BASE, R_END, R_FILE, R_LIMIT, R_NUMBER,
    R_SALT, REGIONS, T_FLAGS, T_GROUP, T_NEXT, TAG_BLOCK, TOPIC_SYNC, W_DURABLE, X_BLOCKS, X_LINKS,
    X_MIN_REF, X_NUMBER,
};
use crate::shm::{Ctl, Tx, wake};

/// What an append is for: who may use the reserve when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A message or a setting: refused when the disk is full.
    Send,
    /// An ack, retry or dead letter: may use the first half of the reserve.
    Settle,
    /// The same, of one that can do without a record: it is refused where the log has no room,
    /// and does not wait for any.
    Coalesce,
    /// A record copied forward, so that segments can go: may use what settles may, and what the
    /// largest snapshot leaves of the other half.
    Move,
    /// A snapshot: may use all of it.
    Snap,
}

/// Why there is no room now, and what would make some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The ring is full of bytes that are not durable: a flush makes room.
    Ring,
    /// No segment of at least so many bytes is prepared.
    Segment(u64),
    /// Both index regions are in use: the sidecar of this segment must be written.
    Region,
    /// Only the reserve is left.
    Full,
}

/// What a transaction is about to append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Bytes of all its records, padded.
    pub(crate) bytes: u64,
    /// How many of them are indexed.
    pub(crate) entries: u64,
    /// How many of them tie the segment to others: see [`Log::note_link`].
    pub(crate) links: u64,
    pub(crate) purpose: Purpose,
}

impl Need {
    /// The need for records of these padded lengths together.
    pub(crate) fn new(bytes: usize, entries: usize, purpose: Purpose) -> Self {
        Self {
            bytes: bytes as u64,
            entries: entries as u64,
            links: 0,
            purpose,
        }
    }

    /// The same, with so many records that refer to others or are copies.
    pub(crate) const fn with_links(self, links: u64) -> Self {
        Self { links, ..self }
    }
}

/// For how long a disk without room is not asked again by those who can do without, ms.
const LOOK_MS: u64 = 50;
/// Bytes of the reserve beyond two of the largest snapshots.
pub(crate) const RESERVE_SLACK: u64 = 64 << 10;

/// Padded length of a SEAL record.
const SEAL: u64 = record::padded(HEADER + 16) as u64;

impl Log {
    /// The largest record: of a message 256 KiB, of a batch 1 MiB, never over a quarter of the
    /// ring.
    pub(crate) fn max_record(&self, kind: Kind) -> usize {
        let most: u64 = if kind == Kind::Batch {
            1 << 20
        } else {
            256 << 10
        };
        usize::try_from(most.min(self.ctl.layout.geometry.ring / 4)).unwrap_or(4096)
    }

    /// Makes sure that the transaction's records fit, rolling to the next segment if they do not
    /// fit the active one. On `Err(Lack)` inside, nothing was changed: drop the transaction and
    /// call [`Log::make_room`].
    #[inline]
    pub(crate) fn reserve(&self, tx: &mut Tx<'_>, need: Need) -> Result<Result<(), Lack>> {
        self.check_usable()?;
        let tail = tx.global(G_TAIL);
        let durable = self.ctl.load(W_DURABLE);
        let ring = self.ctl.layout.geometry.ring;
        if tail + need.bytes - durable.min(tail) > ring {
            return Ok(Err(Lack::Ring));
        }
        let active = tx.global(G_ACTIVE);
        let limit = tx.get(self.ctl.layout.recent(active, R_LIMIT));
        let reserved = tx.global(G_IN_RESERVE) != 0;
        if tail + need.bytes + SEAL <= limit
            && self.index_fits(tx, active, need)
            && (!reserved || self.fits_reserve(tail, limit, need))
        {
            return Ok(Ok(()));
        }
        self.roll(tx, need)
    }

    /// Of the reserve, settles get the first half, a snapshot all, sends nothing.
    fn fits_reserve(&self, tail: u64, limit: u64, need: Need) -> bool {
        match need.purpose {
            Purpose::Snap => true,
            Purpose::Settle | Purpose::Coalesce => limit - tail > self.reserve_size() / 2,
            Purpose::Move => {
                let snap = self.reserve_size() / 2 - RESERVE_SLACK / 2;
                (limit - tail).saturating_sub(need.bytes) > snap
            }
            Purpose::Send => broken!(NoReserveForAcks),
        }
    }

    /// Whether so many more entries and links surely fit the index of the active segment.
    #[inline]
    fn index_fits(&self, tx: &Tx<'_>, active: u64, need: Need) -> bool {
        let Need { entries, links, .. } = need;
        let used = tx.get(self.ctl.layout.region(region_of(active), X_BLOCKS));
        let blocks = u64::from(self.ctl.layout.geometry.blocks);
        // The first may be the first of its topic in this segment, the others are of the same one.
        let links = links.div_ceil(BLOCK_ENTRIES) + links.min(1);
        used + entries.div_ceil(BLOCK_ENTRIES) + entries.min(1) + links <= blocks
    }

    #[cold]
    fn roll(&self, tx: &mut Tx<'_>, need: Need) -> Result<Result<(), Lack>> {
        let ctl = &self.ctl;
        let next = tx.global(G_NEXT);
        let size = tx.global(G_NEXT_SIZE);
        let least = self.least_size(need.bytes);
        if next == 0 || size < least {
            return Ok(Err(Lack::Segment(least)));
        }
        let reserve = tx.global(G_NEXT_RESERVE);
        if reserve != 0 && need.purpose == Purpose::Send && !broken!(NoReserveForAcks) {
            return Ok(Err(Lack::Full));
        }
        let region = region_of(next);
        if tx.get(ctl.layout.region(region, X_NUMBER)) != 0 {
            return Ok(Err(Lack::Region));
        }
        let durable = ctl.load(W_DURABLE);
        let replaced_end = tx.get(ctl.layout.recent(next, R_END));
        if tx.get(ctl.layout.recent(next, R_NUMBER)) != 0 && replaced_end > durable {
            return Ok(Err(Lack::Ring));
        }
        let tail = tx.global(G_TAIL);
        let end = tail + SEAL;
        let base = end.next_multiple_of(HEADER_SPAN);
        if base + HEADER_SPAN + need.bytes - durable.min(tail) > ctl.layout.geometry.ring {
            return Ok(Err(Lack::Ring));
        }
        self.seal_and_start(
            tx,
            Start {
                next,
                size,
                base,
                reserve,
            },
        )?;
        Ok(Ok(()))
    }

    fn seal_and_start(&self, tx: &mut Tx<'_>, start: Start) -> Result<()> {
        let ctl = &self.ctl;
        let active = tx.global(G_ACTIVE);
        let number = u32::try_from(start.next)
            .map_err(|_| ctl.damaged("the number of the next segment is impossible"))?;
        let seal = Seal {
            next_base: start.base,
            next_number: number,
        }
        .encode();
        let mut draft = Draft::new(Kind::Seal, 0, 0, &[], &[&seal]);
        debug_assert_eq!(draft.bytes.len() as u64, SEAL);
        self.append(tx, &mut draft.bytes, 0);
        let end = tx.global(G_TAIL);
        tx.set(ctl.layout.recent(active, R_END), end);
        let salt = tx.global(G_NEXT_SALT);
        let header = SegmentHeader {
            number,
            file: 0,
            epoch: epoch(tx),
            base: start.base,
            size: start.size,
            salt,
            uuid: self.uuid,
            prev_end: end,
            snap_lsn: tx.global(G_SNAP),
            continues_at: 0,
            created_ms: ctl.host.realtime_ms(),
            flags: 0,
            oldest: u32::try_from(tx.global(G_OLDEST))
                .unwrap_or(0)
                .clamp(1, number),
            algorithm: crate::format::segment::CRC32,
            version: crate::format::segment::VERSION,
        };
        ring_write(ctl, start.base, &header.encode());
        start_segment(ctl, tx, start.next, start.base, start.size, salt);
        tx.set_global(G_TAIL, start.base + HEADER_SPAN);
        tx.set_global(G_NEXT, 0);
        tx.set_global(G_NEXT_RESERVE, 0);
        tx.set_global(G_IN_RESERVE, start.reserve);
        if start.reserve == 0 {
            tx.set_global(G_GROWN, start.size);
        }
        Ok(())
    }

    /// The smallest next segment that this need allows: twice the record that needs it.
    pub(crate) fn least_size(&self, bytes: u64) -> u64 {
        (2 * (bytes + SEAL) + HEADER_SPAN).next_multiple_of(HEADER_SPAN)
    }

    /// Size of the reserve: twice the largest snapshot that the limits allow.
    pub(crate) fn reserve_size(&self) -> u64 {
        let g = self.ctl.layout.geometry;
        let places = [g.slots, g.topics, g.groups, g.tag_blocks(), g.producers];
        let snap = Self::snapshot_size(places.map(u64::from));
        (2 * snap + RESERVE_SLACK).next_multiple_of(HEADER_SPAN)
    }

    /// The most that a snapshot takes with so many slots, topics, groups, blocks of tags and
    /// producers in use.
    pub(crate) const fn snapshot_size(
        [slots, topics, groups, tag_blocks, producers]: [u64; 5],
    ) -> u64 {
        slots * 48
            + topics * 320
            + groups * (256 + 224)
            + tag_blocks * TAG_BLOCK as u64
            + producers * 1200
    }

    /// Runs a transaction that appends: reserves, makes room and tries again when there is none,
    /// runs `body`, commits. `body` may run several times; what a failed run changed is undone.
    #[inline]
    pub(crate) fn transact<T>(
        &self,
        need: Need,
        deadline: u64,
        body: impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.transact_holding(None, need, deadline, body)
    }

    /// As [`Log::transact`], with a deadline that is only asked for when something must be waited
    /// for: reading the clock costs as much as the rest of a small transaction.
    #[inline]
    pub(crate) fn transact_soon<T>(
        &self,
        need: Need,
        deadline: impl FnOnce() -> u64,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        if let Some(mut tx) = self.ctl.try_begin() {
            if self.reserve(&mut tx, need)?.is_ok() {
                let value = body(&mut tx)?;
                tx.finish();
                return Ok(value);
            }
        }
        self.transact(need, deadline(), body)
    }

    /// As [`Log::transact`], for whoever holds the maintenance byte and so must make room itself.
    #[inline]
    pub(crate) fn transact_holding<T>(
        &self,
        held: Option<&Maintenance<'_>>,
        need: Need,
        deadline: u64,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut refused = None;
        loop {
            let mut tx = self.ctl.begin(deadline)?;
            match self.reserve(&mut tx, need)? {
                Ok(()) => {
                    let value = body(&mut tx)?;
                    tx.finish();
                    return Ok(value);
                }
                Err(Lack::Segment(_)) if self.is_known_full(&tx, need.purpose) => {
                    drop(tx);
                    return Err(full(self));
                }
                Err(lack) => {
                    drop(tx);
                    let event = wake::room_event(&self.ctl);
                    match self.make_room(lack, deadline, held) {
                        Err(e) if need.purpose == Purpose::Settle && e.code() == Code::Full => {
                            // What is settled lets the keeper make room: worth waiting for.
                            self.await_room(event, deadline, &e)?;
                            refused = Some(e);
                        }
                        Err(e) if e.code() == Code::Timeout => return Err(refused.unwrap_or(e)),
                        Err(e) if e.code() == Code::Full => {
                            let now = self.ctl.host.boottime_ms();
                            self.found_full_at.store(now, Ordering::Relaxed);
                            return Err(e);
                        }
                        made => made?,
                    }
                }
            }
        }
    }

    /// Whether the disk had no room for a segment when it was last tried, and this record is not
    /// worth another try: the keeper makes one every 50 ms.
    fn is_known_full(&self, tx: &Tx<'_>, purpose: Purpose) -> bool {
        let lately = || {
            let tried = self.found_full_at.load(Ordering::Relaxed);
            tried != 0 && self.ctl.host.boottime_ms().saturating_sub(tried) < LOOK_MS
        };
        purpose == Purpose::Coalesce && (tx.global(G_IN_RESERVE) != 0 || lately())
    }

    /// Bytes of the active segment that are not written yet.
    pub(crate) fn room_in_active(&self) -> u64 {
        let ctl = &self.ctl;
        let limit = ctl.load(ctl.layout.recent(ctl.global(G_ACTIVE), R_LIMIT));
        limit.saturating_sub(self.tail())
    }

    /// Waits a moment for room on a full disk; the error once the deadline has passed.
    #[cold]
    fn await_room(&self, event: u64, deadline: u64, error: &Error) -> Result<()> {
        let left = deadline.saturating_sub(self.ctl.host.boottime_ms());
        if left == 0 {
            return Err(error.clone());
        }
        wake::sleep_until_room(&self.ctl, event, std::time::Duration::from_millis(left));
        Ok(())
    }

    /// Appends a record that [`Log::reserve`] made room for; returns its LSN.
    #[inline]
    pub(crate) fn append(&self, tx: &mut Tx<'_>, record: &mut [u8], seq: u64) -> u64 {
        let ctl = &self.ctl;
        let lsn = tx.global(G_TAIL);
        let salt = tx.get(ctl.layout.recent(tx.global(G_ACTIVE), R_SALT));
        let dur = record::durable_distance(lsn, ctl.load(W_DURABLE));
        if let Some(header) = record.first_chunk_mut::<HEADER>() {
            record::finish_header(header, lsn, salt, epoch(tx), dur, seq);
        }
        ring_write(ctl, lsn, record);
        tx.set_global(G_TAIL, lsn + record.len() as u64);
        lsn
    }

    /// Appends messages of a topic, whose records lie one behind the other in `records` and end at
    /// `ends`, and enters them into the index; returns the first one's LSN and sequence. All lie in
    /// one segment: [`Log::reserve`] made room for them together.
    #[inline]
    pub(crate) fn append_messages(
        &self,
        tx: &mut Tx<'_>,
        topic: u32,
        records: &mut [u8],
        ends: &[usize],
    ) -> (u64, u64) {
        let ctl = &self.ctl;
        let next_at = ctl.layout.topic(topic, T_NEXT);
        let (first, first_seq) = (tx.global(G_TAIL), tx.get(next_at));
        let salt = tx.get(ctl.layout.recent(tx.global(G_ACTIVE), R_SALT));
        let (durable, epoch) = (ctl.load(W_DURABLE), epoch(tx));
        let mut start = 0;
        for (seq, &end) in (first_seq..).zip(ends) {
            let lsn = first + start as u64;
            let dur = record::durable_distance(lsn, durable);
            if let Some(header) = records[start..].first_chunk_mut::<HEADER>() {
                record::finish_header(header, lsn, salt, epoch, dur, seq);
            }
            self.index(tx, topic, seq, lsn);
            start = end;
        }
        ring_write(ctl, first, records);
        tx.set_global(G_TAIL, first + records.len() as u64);
        tx.set(next_at, first_seq + ends.len() as u64);
        (first, first_seq)
    }
}

struct Start {
    next: u64,
    size: u64,
    base: u64,
    reserve: u64,
}

/// The epoch records are written in.
#[inline]
pub(crate) fn epoch(tx: &Tx<'_>) -> u32 {
    crate::shm::lock::low_half(tx.global(G_EPOCH))
}

/// The index region of a segment that has one.
#[inline]
#[allow(clippy::cast_possible_truncation)] // below REGIONS
pub(crate) const fn region_of(number: u64) -> usize {
    (number % REGIONS as u64) as usize
}

/// Enters a new active segment into shared memory.
pub(crate) fn start_segment(
    ctl: &Ctl,
    tx: &mut Tx<'_>,
    number: u64,
    base: u64,
    size: u64,
    salt: u64,
) {
    let at = |word| ctl.layout.recent(number, word);
    tx.set(at(R_NUMBER), number);
    tx.set(at(R_BASE), base);
    tx.set(at(R_END), 0);
    tx.set(at(R_LIMIT), base + size);
    tx.set(at(R_SALT), salt);
    tx.set(at(R_FILE), 0);
    let region = region_of(number);
    tx.set(ctl.layout.region(region, X_NUMBER), number);
    tx.set(ctl.layout.region(region, X_BLOCKS), 0);
    tx.set(ctl.layout.region(region, X_MIN_REF), u64::MAX);
    tx.set(ctl.layout.region(region, X_LINKS), 0);
    tx.set_global(G_ACTIVE, number);
}

/// Copies bytes of the log into the ring. They may wrap around its end.
#[inline]
pub(crate) fn ring_write(ctl: &Ctl, lsn: u64, bytes: &[u8]) {
    // Readers must not see these bytes together with an older `durable` than we checked.
    fence(Ordering::Release);
    let (at, first) = ring_split(ctl, lsn, bytes.len());
    let whole = ctl.arena.copy_in(at, &bytes[..first])
        && (first == bytes.len() || ctl.arena.copy_in(ctl.layout.ring, &bytes[first..]));
    assert!(whole, "the ring lies inside ctl");
}

/// Copies bytes of the log out of the ring; the caller checks afterwards that they were not
/// overwritten meanwhile.
#[inline]
pub(crate) fn ring_read(ctl: &Ctl, lsn: u64, bytes: &mut [u8]) {
    let len = bytes.len();
    let (at, first) = ring_split(ctl, lsn, len);
    let (head, rest) = bytes.split_at_mut(first);
    let whole = ctl.arena.copy_out(at, head)
        && (rest.is_empty() || ctl.arena.copy_out(ctl.layout.ring, rest));
    assert!(whole, "the ring lies inside ctl");
    fence(Ordering::Acquire);
}

/// Where in `ctl` an LSN lies, and how many of `len` bytes follow before the ring's end.
#[inline]
fn ring_split(ctl: &Ctl, lsn: u64, len: usize) -> (usize, usize) {
    let ring = ctl.layout.geometry.ring;
    // At most 256 MiB, so both fit.
    #[allow(clippy::cast_possible_truncation)]
    let (at, left) = (
        (lsn & (ring - 1)) as usize,
        (ring - (lsn & (ring - 1))) as usize,
    );
    (ctl.layout.ring + at, len.min(left))
}

/// The error of a full disk.
pub(crate) fn full(log: &Log) -> Error {
    Error::new(
        Code::Full,
        format!(
            "no room on the disk of {} for more messages; acks still work and free space. Free \
             some on the disk, or let the consumers catch up",
            log.dir.display("").display()
        ),
    )
    .at_path(log.dir.display(""))
}

/// Wakes a consumer of each group of a topic whose messages were just published. In a topic that
/// delivers only what is durable, the flush does it.
#[inline]
pub(crate) fn wake_topic(log: &Log, topic: u32) {
    let ctl = &log.ctl;
    if !broken!(WakeLost)
        && ctl.load(ctl.layout.topic(topic, T_FLAGS)) & TOPIC_SYNC == 0
        && wake::topic_is_armed(ctl, topic)
    {
        wake_groups_of(log, topic);
    }
}

#[cold]
fn wake_groups_of(log: &Log, topic: u32) {
    let ctl = &log.ctl;
    let most = ctl.layout.geometry.groups;
    let mut link = ctl.load(ctl.layout.topic(topic, T_GROUP));
    let mut woken = false;
    for _ in 0..most {
        let Some(group) = u32::try_from(link).ok().and_then(|l| l.checked_sub(1)) else {
            break;
        };
        if group >= most {
            break;
        }
        woken |= wake::wake_group(ctl, group);
        link = ctl.load(ctl.layout.group(group, P_NEXT));
    }
    if !woken {
        wake::disarm_topic(ctl, topic);
    }
}
