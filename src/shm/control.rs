//! The layout of `ctl`, the shared memory of a store.
//!
//! ```text
//! page 0        frozen for ever: identity, ring position and size, the four watermarks
//! page 1        locks E, F; flush state; counters outside the sum
//! undo          undo_n is in page 1; entries of two words: offset, old value
//! wait words    per group: event, armed; per topic: armed (futexes and hints, never state)
//! pins          per member: first LSNs of chunked sends in progress
//! STATE         everything below is changed by `Tx::set` under E only, and summed:
//!   globals, recent segments, topics, groups, producers, members, wheel, index, slots, order keys,
//!   tags, consumers
//! ring          the bytes [durable, tail) of the log, and older ones until overwritten
//! ```
//!
//! | word | written by | under | a crash in the middle leaves |
//! |---|---|---|---|
//! | STATE words | `Tx::set` | E | an undo entry: rolled back by whoever repairs E |
//! | `PUBLISHED` | `Tx::commit` | E | `PUBLISHED` < `TAIL` with `UNDO_N` = 0: repair publishes |
//! | `WRITTEN`, `INTENT` | the flush leader | F | repair of F sets `WRITTEN` = `DURABLE` |
//! | `DURABLE` | the flush leader, after fdatasync | F | the old or the new value, both true |
//! | `FLUSH_STATE`, `FLUSH_ERRNO` | the flush leader | F | RESEALING: the next leader reseals |
//! | `COME`, `TAKEN`, batch, mean | senders, the flush leader | -, F | a hint: one short wait |
//! | `UNNOTED` | who acks without a record, `note` | E | 1: whoever flushes looks closer |
//! | armed, event | anybody | - | a lost hint: costs a wait of at most 50 ms |
//! | ring bytes | an appender | E | bytes at or above `PUBLISHED`: never read |
//!
//! All of them are 64-bit, stored with release and loaded with acquire order. Lock words are
//! changed by compare-and-swap only.

pub(crate) use super::geometry::Geometry;
use super::id::place_of;

/// Version of this layout. Another one is refused while members live and rebuilt otherwise.
pub(crate) const LAYOUT_VERSION: u64 = 4;
/// First word of `ctl`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"keepqctl");

// Page 0: frozen. Identity.
pub(crate) const W_MAGIC: usize = 0;
pub(crate) const W_LAYOUT: usize = 8;
pub(crate) const W_SIZE: usize = 16;
pub(crate) const W_READY: usize = 24;
pub(crate) const W_BOOT: usize = 32;
pub(crate) const W_UUID: usize = 48;
pub(crate) const W_INCARNATION: usize = 64;
pub(crate) const W_RING_AT: usize = 72;
pub(crate) const W_RING_SIZE: usize = 80;
pub(crate) const W_DIR_DEV: usize = 88;
pub(crate) const W_DIR_INO: usize = 96;
pub(crate) const W_CTL_INO: usize = 104;
pub(crate) const W_LOCK_INO: usize = 112;
pub(crate) const W_GEOMETRY_HASH: usize = 120;
// Watermarks, a cache line each.
pub(crate) const W_PUBLISHED: usize = 256;
pub(crate) const W_WRITTEN: usize = 320;
pub(crate) const W_DURABLE: usize = 384;

// Page 1: locks and flush state.
const P1: usize = 4096;
pub(crate) const W_LOCK_E: usize = P1;
pub(crate) const W_LOCK_F: usize = P1 + 64;
pub(crate) const W_UNDO_N: usize = P1 + 128;
/// Sum over the STATE words; itself part of every transaction's undo.
pub(crate) const W_SUM: usize = P1 + 136;
/// How often a transaction was rolled back: readers outside E look again when it moved.
pub(crate) const W_ROLLBACKS: usize = P1 + 144;
pub(crate) const W_INTENT: usize = P1 + 192;
/// [`FLUSH_OK`], [`FLUSH_RESEALING`] or [`FLUSH_FAILED`].
pub(crate) const W_FLUSH_STATE: usize = P1 + 200;
pub(crate) const W_FLUSH_ERRNO: usize = P1 + 208;
/// How often a continuation file was adopted: descriptors and cached names of before are dropped.
pub(crate) const W_RESEALS: usize = P1 + 216;
/// Number of flushes begun; its parity picks the word that followers wait on.
pub(crate) const W_FLUSH_BEGUN: usize = P1 + 224;
/// Where the flush in progress will bring `DURABLE`.
pub(crate) const W_FLUSH_TARGET: usize = P1 + 232;
/// Number of flushes ended well (statistics).
pub(crate) const W_FLUSHES: usize = P1 + 240;
/// Two futexes: sleepers until a flush of even or odd number ends.
pub(crate) const W_FLUSH_EVENT: [usize; 2] = [P1 + 256, P1 + 320];
/// Sleepers registered on each of them.
pub(crate) const W_FLUSH_SLEEPERS: [usize; 2] = [P1 + 264, P1 + 328];
/// Futex: room in the ring, a prepared segment, a free index region.
pub(crate) const W_ROOM_EVENT: usize = P1 + 384;
pub(crate) const W_ROOM_SLEEPERS: usize = P1 + 392;
/// Some sender waits for room below a limit.
pub(crate) const W_QUOTA_WAIT: usize = P1 + 400;
/// Some group waits for messages to become durable.
pub(crate) const W_ARMED_DURABLE: usize = P1 + 448;
/// Somebody found shared state that makes no sense: no warm attach any more.
pub(crate) const W_DAMAGED: usize = P1 + 456;
/// Where the log ended when the last WATERMARK record was appended.
pub(crate) const W_MARKED: usize = P1 + 464;
/// Some acks may be in shared memory only: 0 = none is, whatever change is half done.
pub(crate) const W_UNNOTED: usize = P1 + 472;

/// Senders that have come to wait for the disk, ever (a hint, as the next three: see `pace`).
pub(crate) const W_COME: usize = P1 + 512;
/// The same when the last flush chose what it covers, and those between the last two such moments.
pub(crate) const W_TAKEN: usize = P1 + 576;
pub(crate) const W_FLUSH_BATCH: usize = P1 + 584;
/// Mean time of flushes, in nanoseconds.
pub(crate) const W_FLUSH_NANOS: usize = P1 + 592;

/// Flushing works.
pub(crate) const FLUSH_OK: u64 = 0;
/// A flush failed; its bytes are being rewritten to a continuation file.
pub(crate) const FLUSH_RESEALING: u64 = 1;
/// The rewrite failed too: the store refuses sends and acks.
pub(crate) const FLUSH_FAILED: u64 = 2;

const UNDO_AT: usize = 2 * 4096;

/// Most entries of one transaction's undo list.
pub(crate) const UNDO_MAX: usize = 8192;

// Globals, relative to the start of STATE.
pub(crate) const G_TAIL: usize = 0;
pub(crate) const G_EPOCH: usize = 8;
/// Number of the active segment.
pub(crate) const G_ACTIVE: usize = 16;
pub(crate) const G_TOPICS: usize = 24;
pub(crate) const G_GROUPS: usize = 32;
pub(crate) const G_PRODUCERS: usize = 40;
pub(crate) const G_FREE_SLOT: usize = 48;
pub(crate) const G_OUTSTANDING: usize = 56;
/// The wheel's position: the last tick whose bucket was emptied of what was due.
pub(crate) const G_TICK: usize = 64;
/// Prepared next segment: number (0 none), size, salt, 1 if only for settles.
pub(crate) const G_NEXT: usize = 72;
pub(crate) const G_NEXT_SIZE: usize = 80;
pub(crate) const G_NEXT_SALT: usize = 88;
pub(crate) const G_NEXT_RESERVE: usize = 96;
/// The active segment is the reserve: sends roll out of it before they append.
pub(crate) const G_IN_RESERVE: usize = 104;
/// Size of the last regular segment (the next is twice as large).
pub(crate) const G_GROWN: usize = 112;
/// First and end LSN of the last complete SNAP; first of the one before.
pub(crate) const G_SNAP: usize = 120;
pub(crate) const G_SNAP_END: usize = 128;
pub(crate) const G_SNAP_BEFORE: usize = 136;
/// Number of the segment the last SNAP was begun for.
pub(crate) const G_SNAP_FOR: usize = 144;
/// The lowest segment number that is kept.
pub(crate) const G_OLDEST: usize = 152;
/// Next generation of leases, so that no receipt is ever valid twice.
pub(crate) const G_LEASES: usize = 160;
/// Slots from here on were never used; before it, free ones are in the free list.
pub(crate) const G_SLOT_TOP: usize = 168;
/// How many purges and deletions there were, and up to which of them the slots were swept.
pub(crate) const G_GONE: usize = 176;
pub(crate) const G_SWEPT: usize = 184;
/// The store's limit of bytes that all topics keep (0 = none), its flags, and what they keep.
pub(crate) const G_LIMIT: usize = 192;
pub(crate) const G_LIMIT_FLAGS: usize = 200;
pub(crate) const G_KEPT_BYTES: usize = 208;
/// Blocks of tags: the first free one + 1, and the first that was never used.
pub(crate) const G_TAG_FREE: usize = 216;
pub(crate) const G_TAG_TOP: usize = 224;
/// Slots of messages whose acks the log does not know yet (see `delivery::coalesced`).
pub(crate) const G_SETTLED: usize = 232;
const GLOBALS: usize = 512;

/// Recent segments: those that may hold bytes not yet durable.
pub(crate) const RECENT: usize = 16;
const RECENT_SIZE: usize = 64;
pub(crate) const R_NUMBER: usize = 0;
pub(crate) const R_BASE: usize = 8;
/// End of its records; 0 while active.
pub(crate) const R_END: usize = 16;
/// First LSN behind its file.
pub(crate) const R_LIMIT: usize = 24;
pub(crate) const R_SALT: usize = 32;
/// File number: 0, or the continuation that was adopted last.
pub(crate) const R_FILE: usize = 40;

/// An index region: the messages of one segment that has no sidecar yet.
pub(crate) const REGIONS: usize = 2;
const REGION_HEAD: usize = 64;
/// Number of the segment, 0 if the region is free.
pub(crate) const X_NUMBER: usize = 0;
/// Blocks in use.
pub(crate) const X_BLOCKS: usize = 8;
/// Lowest LSN that a record of the segment refers to.
pub(crate) const X_MIN_REF: usize = 16;
/// Records of the segment that tie it to others: how many, first block << 32 | last block.
pub(crate) const X_LINKS: usize = 24;
pub(crate) const X_LINKS_CHAIN: usize = 32;
/// Bytes of a block: a word with the next block's number, then 62 entries of 32 bits.
pub(crate) const BLOCK: usize = 256;
/// Entries of a block.
pub(crate) const BLOCK_ENTRIES: u64 = 62;

pub(crate) const TOPIC_SIZE: usize = 512;
pub(crate) const T_STATE: usize = 0;
pub(crate) const T_NEXT: usize = 8;
pub(crate) const T_FIRST: usize = 16;
/// First group of the topic + 1; groups are linked.
pub(crate) const T_GROUP: usize = 24;
pub(crate) const T_FLAGS: usize = 32;
/// Per region: segment number, first sequence, count, first block << 32 | last block.
pub(crate) const T_INDEX: usize = 40;
pub(crate) const T_INDEX_SIZE: usize = 32;
pub(crate) const T_HASH: usize = 112;
pub(crate) const T_NAME_LEN: usize = 120;
pub(crate) const T_NAME: usize = 128;
/// Limits of what is kept, and what is retained: 0 = none. See `delivery::kept`.
pub(crate) const T_LIMIT_FLAGS: usize = 384;
pub(crate) const T_MAX_BYTES: usize = 392;
pub(crate) const T_MAX_MESSAGES: usize = 400;
pub(crate) const T_RETAIN_MS: usize = 408;
pub(crate) const T_RETAIN_BYTES: usize = 416;
/// What is kept: from this sequence on so many messages with so many bytes.
pub(crate) const T_KEPT_FROM: usize = 424;
pub(crate) const T_KEPT: usize = 432;
pub(crate) const T_KEPT_BYTES: usize = 440;
/// The first of them as far as the log knows.
pub(crate) const T_KEPT_LOGGED: usize = 448;
/// All of these.
pub(crate) const LIMIT_WORDS: [usize; 9] = [
    T_LIMIT_FLAGS,
    T_MAX_BYTES,
    T_MAX_MESSAGES,
    T_RETAIN_MS,
    T_RETAIN_BYTES,
    T_KEPT_FROM,
    T_KEPT,
    T_KEPT_BYTES,
    T_KEPT_LOGGED,
];
/// Topic flag, not stored: what is kept is counted.
pub(crate) const TOPIC_COUNTED: u64 = 1 << 32;
/// Topic flag, not stored: what is sent is counted, and somebody counts what was there before.
pub(crate) const TOPIC_COUNTING: u64 = 1 << 33;
/// Topic flag: messages are delivered once durable.
pub(crate) const TOPIC_SYNC: u64 = 1;

pub(crate) const GROUP_SIZE: usize = 512;
pub(crate) const P_STATE: usize = 0;
pub(crate) const P_TOPIC: usize = 8;
pub(crate) const P_CURSOR: usize = 16;
pub(crate) const P_READY_HEAD: usize = 24;
pub(crate) const P_READY_TAIL: usize = 32;
pub(crate) const P_READY: usize = 40;
pub(crate) const P_LEASED: usize = 48;
pub(crate) const P_WAITING: usize = 56;
pub(crate) const P_LEASE_MS: usize = 64;
pub(crate) const P_MAX_ATTEMPTS: usize = 72;
pub(crate) const P_BACKOFF_FIRST: usize = 80;
/// factor in thousandths << 32 | jitter in thousandths.
pub(crate) const P_BACKOFF_SHAPE: usize = 88;
pub(crate) const P_BACKOFF_MAX: usize = 96;
pub(crate) const P_FLAGS: usize = 104;
pub(crate) const P_MAX_OUTSTANDING: usize = 112;
pub(crate) const P_DEAD_TOPIC: usize = 120;
pub(crate) const P_NEXT: usize = 128;
pub(crate) const P_DEAD: usize = 136;
pub(crate) const P_START: usize = 144;
pub(crate) const P_GENERATION: usize = 152;
/// Sequences lost through damage that the group has not been told of: first, count.
pub(crate) const P_LOST: usize = 160;
pub(crate) const P_LOST_COUNT: usize = 168;
pub(crate) const P_HASH: usize = 176;
pub(crate) const P_NAME_LEN: usize = 184;
pub(crate) const P_NAME: usize = 192;
/// Messages that wait behind one with the same order key.
pub(crate) const P_PARKED: usize = 448;
/// The group's tags: first block + 1 << 32 | length of the list in bytes; 0 = every message.
pub(crate) const P_TAGS: usize = 456;
/// Raised whenever the tags change.
pub(crate) const P_TAGS_VERSION: usize = 464;
/// Messages below this sequence were purged.
pub(crate) const P_PURGED: usize = 472;
/// Slots of messages whose acks the log does not know yet.
pub(crate) const P_SETTLED: usize = 480;
/// Slots that hold runs of removed dead letters.
pub(crate) const P_REMOVED: usize = 504;

pub(crate) const PRODUCER_SIZE: usize = D_RESULTS + 64 * RESULT_SIZE;
const _: () = assert!(RESULTS == 64);
pub(crate) const D_STATE: usize = 0;
pub(crate) const D_EPOCH: usize = 8;
/// Last sequence + 1.
pub(crate) const D_NEXT: usize = 16;
pub(crate) const D_LSN: usize = 24;
/// Who has its newest handle open: member generation << 32 | member slot + 1; 0 = nobody.
pub(crate) const D_OWNER: usize = 32;
/// When it was last opened, sent or had its handle closed, in ms since 1970.
pub(crate) const D_USED: usize = 40;
pub(crate) const D_HASH: usize = 48;
pub(crate) const D_NAME_LEN: usize = 56;
pub(crate) const D_NAME: usize = 64;
/// The results of its last sends, each at its number modulo [`RESULTS`].
const D_RESULTS: usize = 192;
/// How many of them.
pub(crate) const RESULTS: u64 = 64;
/// Where the message lies (see `delivery::producers`; 0 = not known), and its topic sequence.
const RESULT_SIZE: usize = 16;

pub(crate) const MEMBER_SIZE: usize = 64;
/// 0 free, 1 in use.
pub(crate) const M_STATE: usize = 0;
pub(crate) const M_GENERATION: usize = 8;
pub(crate) const M_PID: usize = 16;
pub(crate) const M_SINCE: usize = 24;
pub(crate) const M_LEASES: usize = 32;

/// Pins of one member: first LSNs of its chunked sends in progress, 0 = free.
pub(crate) const PINS: usize = 8;

/// Buckets of the timer wheel, and the milliseconds of one.
pub(crate) const WHEEL: usize = 4096;
pub(crate) const TICK_MS: u64 = 16;

pub(crate) const SLOT_SIZE: usize = 64;
/// generation << 32 | attempts << 16 | crashes << 8 | state
pub(crate) const S_HEAD: usize = 0;
pub(crate) const S_SEQ: usize = 8;
pub(crate) const S_LSN: usize = 16;
/// BOOTTIME ms at which the lease or the back-off ends; of a settled message where the log ended
/// when it was acked.
pub(crate) const S_DUE: usize = 24;
/// member generation << 32 | member slot + 1 << 16 | place of the group
pub(crate) const S_OWNER: usize = 32;
/// Hash of the order key in an ordered group, 0 = none. Of a run of removed dead letters: how many.
pub(crate) const S_KEY: usize = 40;
/// next << 32 | previous, each slot + 1: in the wheel, the READY list, the free list or among those
/// parked behind the same order key
pub(crate) const S_LINK: usize = 48;
/// The messages parked behind this one: first << 32 | last, each slot + 1; 0 = none.
pub(crate) const S_CHAIN: usize = 56;

/// Bytes of a block of tags: a word with the next block's number + 1, then text.
pub(crate) const TAG_BLOCK: usize = 64;

/// Where everything lies, computed from the geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) geometry: Geometry,
    pub(crate) undo: usize,
    waits: usize,
    pins: usize,
    pub(crate) state: usize,
    recent: usize,
    topics: usize,
    groups: usize,
    producers: usize,
    members: usize,
    wheel: usize,
    index: usize,
    slots: usize,
    keys: usize,
    tags: usize,
    consumers: usize,
    pub(crate) state_end: usize,
    pub(crate) ring: usize,
    /// Length of `ctl`.
    pub(crate) size: usize,
}

const fn page(n: usize) -> usize {
    n.div_ceil(4096) * 4096
}

impl Layout {
    /// Lays `ctl` out.
    pub(crate) fn new(g: Geometry) -> Self {
        let undo = UNDO_AT;
        let waits = page(undo + UNDO_MAX * 16);
        let pins = page(waits + (g.groups as usize) * 16 + (g.topics as usize) * 8);
        let state = page(pins + g.members as usize * PINS * 8);
        let recent = state + GLOBALS;
        let topics = page(recent + RECENT * RECENT_SIZE);
        let groups = topics + g.topics as usize * TOPIC_SIZE;
        let producers = groups + g.groups as usize * GROUP_SIZE;
        let members = producers + g.producers as usize * PRODUCER_SIZE;
        let wheel = members + g.members as usize * MEMBER_SIZE;
        let index = page(wheel + WHEEL * 8);
        let slots = page(index + REGIONS * (REGION_HEAD + g.blocks as usize * BLOCK));
        let keys = slots + g.slots as usize * SLOT_SIZE;
        let tags = keys + g.slots as usize * 8;
        let consumers = tags + g.tag_blocks() as usize * TAG_BLOCK;
        let state_end = page(consumers + g.groups as usize * g.members.div_ceil(64) as usize * 8);
        let ring = state_end;
        // The ring is at most 256 MiB, which fits every usize keepq runs on.
        #[allow(clippy::cast_possible_truncation)]
        let size = ring + g.ring as usize;
        Self {
            geometry: g,
            undo,
            waits,
            pins,
            state,
            recent,
            topics,
            groups,
            producers,
            members,
            wheel,
            index,
            slots,
            keys,
            tags,
            consumers,
            state_end,
            ring,
            size,
        }
    }

    /// A number that differs when anything of the layout does.
    pub(crate) fn hash(&self) -> u64 {
        let g = self.geometry;
        let words = [
            self.size as u64,
            self.state as u64,
            self.slots as u64,
            self.index as u64,
            g.ring,
            u64::from(g.slots) << 32 | u64::from(g.topics),
            u64::from(g.groups) << 32 | u64::from(g.blocks),
        ];
        words.iter().fold(LAYOUT_VERSION, |h, w| {
            (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
        })
    }

    /// A word of the globals.
    #[inline]
    pub(crate) const fn global(&self, word: usize) -> usize {
        self.state + word
    }

    /// A word of the recent segment with this number.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below RECENT
    pub(crate) const fn recent(&self, number: u64, word: usize) -> usize {
        self.recent + (number % RECENT as u64) as usize * RECENT_SIZE + word
    }

    /// A word of a topic. Its place < `geometry.topics`, else the offset is outside of STATE and
    /// the arena refuses it or the caller's check of the id has failed already.
    #[inline]
    pub(crate) const fn topic(&self, id: u32, word: usize) -> usize {
        self.topics + place_of(id) as usize * TOPIC_SIZE + word
    }

    /// A word of a group.
    #[inline]
    pub(crate) const fn group(&self, id: u32, word: usize) -> usize {
        self.groups + place_of(id) as usize * GROUP_SIZE + word
    }

    /// A word of a producer.
    #[inline]
    pub(crate) const fn producer(&self, id: u32, word: usize) -> usize {
        self.producers + id as usize * PRODUCER_SIZE + word
    }

    /// The two words with the result of a producer's send of this number.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below RESULTS
    pub(crate) const fn result(&self, id: u32, number: u64) -> [usize; 2] {
        let at = self.producer(id, D_RESULTS + (number % RESULTS) as usize * RESULT_SIZE);
        [at, at + 8]
    }

    /// A word of a member.
    #[inline]
    pub(crate) const fn member(&self, slot: u32, word: usize) -> usize {
        self.members + slot as usize * MEMBER_SIZE + word
    }

    /// The head of a wheel bucket.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below WHEEL
    pub(crate) const fn bucket(&self, tick: u64) -> usize {
        self.wheel + (tick % WHEEL as u64) as usize * 8
    }

    /// A word of a slot.
    #[inline]
    pub(crate) const fn slot(&self, slot: u32, word: usize) -> usize {
        self.slots + slot as usize * SLOT_SIZE + word
    }

    /// The word of the order keys with this number: first slot + 1 of the bucket of this number,
    /// and << 32 the slot + 1 that follows the slot of this number in its bucket.
    #[inline]
    pub(crate) const fn key(&self, number: u32) -> usize {
        self.keys + number as usize * 8
    }

    /// A word of a block of tags.
    #[inline]
    pub(crate) const fn tag_block(&self, block: u32, word: usize) -> usize {
        self.tags + block as usize * TAG_BLOCK + word
    }

    /// How many words hold a bit for each member.
    #[inline]
    pub(crate) const fn consumer_words(&self) -> u32 {
        self.geometry.members.div_ceil(64)
    }

    /// A word of the members that have a group open: a bit for each of 64, from the first on.
    #[inline]
    pub(crate) const fn consumers(&self, group: u32, word: u32) -> usize {
        self.consumers + (place_of(group) * self.consumer_words() + word) as usize * 8
    }

    /// A word of an index region's head.
    #[inline]
    pub(crate) const fn region(&self, region: usize, word: usize) -> usize {
        self.index + region * (REGION_HEAD + self.geometry.blocks as usize * BLOCK) + word
    }

    /// A word of an index block.
    #[inline]
    pub(crate) const fn block(&self, region: usize, block: u32, word: usize) -> usize {
        self.region(region, REGION_HEAD) + block as usize * BLOCK + word
    }

    /// The futex that consumers of a group sleep on.
    #[inline]
    pub(crate) const fn group_event(&self, id: u32) -> usize {
        self.waits + place_of(id) as usize * 16
    }

    /// Whether some consumer of the group sleeps or is about to.
    #[inline]
    pub(crate) const fn group_armed(&self, id: u32) -> usize {
        self.waits + place_of(id) as usize * 16 + 8
    }

    /// Whether some group of the topic is armed.
    #[inline]
    pub(crate) const fn topic_armed(&self, id: u32) -> usize {
        self.waits + self.geometry.groups as usize * 16 + place_of(id) as usize * 8
    }

    /// A pin of a member.
    #[inline]
    pub(crate) const fn pin(&self, member: u32, pin: usize) -> usize {
        self.pins + (member as usize * PINS + pin) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_control_file_is_about_twenty_mebibytes() {
        let l = Layout::new(Geometry::new(8 << 20, 64 << 20, 1 << 16).unwrap());
        assert!((18 << 20..=24 << 20).contains(&l.size), "{}", l.size);
        assert_eq!(l.geometry.producers, 4096);
        assert_eq!(l.ring % 4096, 0);
    }

    #[test]
    fn tables_do_not_overlap() {
        let g = Geometry::new(1 << 20, 16 << 20, 2048).unwrap();
        let l = Layout::new(g);
        assert!(l.topic(g.topics - 1, TOPIC_SIZE) <= l.group(0, 0));
        assert!(l.group(g.groups - 1, GROUP_SIZE) <= l.producer(0, 0));
        assert!(l.result(0, 63)[1] + 8 <= l.producer(1, 0));
        assert!(l.producer(g.producers - 1, PRODUCER_SIZE) <= l.member(0, 0));
        assert!(l.member(g.members - 1, MEMBER_SIZE) <= l.bucket(0));
        assert!(l.bucket(WHEEL as u64 - 1) + 8 <= l.region(0, 0));
        assert!(l.block(0, g.blocks - 1, BLOCK) <= l.region(1, 0));
        assert!(l.block(1, g.blocks - 1, BLOCK) <= l.slot(0, 0));
        assert!(l.slot(g.slots - 1, SLOT_SIZE) <= l.key(0));
        assert!(l.key(g.slots - 1) + 8 <= l.tag_block(0, 0));
        assert!(l.tag_block(g.tag_blocks() - 1, TAG_BLOCK) <= l.consumers(0, 0));
        assert!(l.consumers(g.groups - 1, l.consumer_words() - 1) + 8 <= l.ring);
        assert!(l.topic_armed(g.topics - 1) + 8 <= l.pin(0, 0));
        assert!(l.pin(g.members - 1, PINS) <= l.state);
    }

    #[test]
    fn sizes_one_past_their_limits_are_refused() {
        assert!(Geometry::new(Geometry::MAX_RING, 64 << 20, 1024).is_ok());
        assert!(Geometry::new(Geometry::MAX_RING * 2, 64 << 20, 1024).is_err());
        assert!(Geometry::new(3 << 20, 64 << 20, 1024).is_err());
        assert!(Geometry::new(8 << 20, Geometry::MAX_SEGMENT, 1024).is_ok());
        assert!(Geometry::new(8 << 20, Geometry::MAX_SEGMENT + 4096, 1024).is_err());
        assert!(Geometry::new(8 << 20, 64 << 20, Geometry::MAX_SLOTS).is_ok());
        assert!(Geometry::new(8 << 20, 64 << 20, Geometry::MAX_SLOTS + 1).is_err());
    }
}
