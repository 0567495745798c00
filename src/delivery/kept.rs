//! What a topic keeps, counted: for its limits, for the store's, and for what is retained.
//!
//! A message counts as kept from its send until every group has settled it and all before it, and
//! until nothing retains it any more. A topic without groups keeps everything. So what is kept is
//! all from one sequence on, *kept from*; T_KEPT and T_KEPT_BYTES are exact for that sequence. A
//! send adds to them in its own transaction. That a group settles changes nothing here: the
//! sequence is moved later, by [`refresh`], when somebody wants room, and then the messages that
//! are passed are looked up for their sizes. The log knows the counts from a CONFIG record, a
//! snapshot or a purge, and counts on from there; reclaim removes nothing that would still have to
//! be looked up (T_KEPT_LOGGED).
//!
//! Only topics that have a limit or retain something are counted, or all of them where the store
//! has a limit: a send to another costs one test of a flag.

use super::fetch;
use super::gone::is_void;
use super::places::{live_groups, live_topics};
use super::slot::{Head, Owner, State};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::commitlog::prepare::Maintenance;
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Result};
use crate::format::payload::{Config, Kept, TopicConfig};
use crate::format::record::{Draft, Kind};
use crate::shm::control::{
    G_KEPT_BYTES, G_LIMIT, G_LIMIT_FLAGS, G_OLDEST, G_SLOT_TOP, P_CURSOR, P_TOPIC, S_HEAD, S_OWNER,
    S_SEQ, T_FIRST, T_FLAGS, T_KEPT, T_KEPT_BYTES, T_KEPT_FROM, T_KEPT_LOGGED, T_LIMIT_FLAGS,
    T_MAX_BYTES, T_MAX_MESSAGES, T_NEXT, T_RETAIN_BYTES, T_RETAIN_MS, TOPIC_COUNTED,
    TOPIC_COUNTING, W_QUOTA_WAIT, W_ROLLBACKS,
};
use crate::shm::{Ctl, Tx, wake};

/// Most messages that one step of [`refresh`] looks up.
const STEP: usize = 1024;

/// Whose limit has no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    /// The store's, else the topic's.
    pub(crate) store: bool,
    /// It is a number of messages, else of bytes.
    pub(crate) messages: bool,
    pub(crate) limit: u64,
    pub(crate) kept: u64,
    /// Senders wait for room.
    pub(crate) block: bool,
}

/// The limit that has no room for a message of so many bytes. Lock E is held.
#[cold]
pub(crate) fn over(tx: &Tx<'_>, topic: u32, bytes: u64) -> Option<Over> {
    let word = |w| tx.get(tx.ctl.layout.topic(topic, w));
    let block = word(T_LIMIT_FLAGS) & u64::from(TopicConfig::BLOCK) != 0;
    let of = |store, messages, limit, kept, more, block| {
        let over = limit != 0 && kept + more > limit;
        over.then_some(Over {
            store,
            messages,
            limit,
            kept,
            block,
        })
    };
    let store_blocks = tx.global(G_LIMIT_FLAGS) & u64::from(TopicConfig::BLOCK) != 0;
    of(false, true, word(T_MAX_MESSAGES), word(T_KEPT), 1, block)
        .or_else(|| {
            of(
                false,
                false,
                word(T_MAX_BYTES),
                word(T_KEPT_BYTES),
                bytes,
                block,
            )
        })
        .or_else(|| {
            let kept = tx.global(G_KEPT_BYTES);
            of(true, false, tx.global(G_LIMIT), kept, bytes, store_blocks)
        })
}

/// Counts a message that was just appended.
#[cold]
pub(crate) fn add(tx: &mut Tx<'_>, topic: u32, bytes: u64) {
    change(tx, topic, |kept| {
        kept.count += 1;
        kept.bytes += bytes;
    });
}

/// Changes a topic's counts, and the store's with them.
fn change(tx: &mut Tx<'_>, topic: u32, change: impl FnOnce(&mut Kept)) {
    let before = kept(tx.ctl, topic);
    let mut after = before;
    change(&mut after);
    let at = |w| tx.ctl.layout.topic(topic, w);
    let (from, count, bytes) = (at(T_KEPT_FROM), at(T_KEPT), at(T_KEPT_BYTES));
    tx.set(from, after.from);
    tx.set(count, after.count);
    tx.set(bytes, after.bytes);
    let all = tx.global(G_KEPT_BYTES).saturating_sub(before.bytes);
    tx.set_global(G_KEPT_BYTES, all.saturating_add(after.bytes));
}

/// Whether what the topic keeps is counted.
#[inline]
pub(crate) fn is_counted(ctl: &Ctl, topic: u32) -> bool {
    ctl.load(ctl.layout.topic(topic, T_FLAGS)) & TOPIC_COUNTED != 0
}

/// What the topic keeps, if it is counted.
pub(crate) fn kept(ctl: &Ctl, topic: u32) -> Kept {
    let word = |w| ctl.load(ctl.layout.topic(topic, w));
    Kept {
        from: word(T_KEPT_FROM),
        count: word(T_KEPT),
        bytes: word(T_KEPT_BYTES),
    }
}

/// The topic's options.
pub(crate) fn options(ctl: &Ctl, topic: u32) -> TopicConfig {
    let word = |w| ctl.load(ctl.layout.topic(topic, w));
    TopicConfig {
        max_bytes: word(T_MAX_BYTES),
        max_messages: word(T_MAX_MESSAGES),
        retain_ms: word(T_RETAIN_MS),
        retain_bytes: word(T_RETAIN_BYTES),
        flags: crate::shm::lock::low_half(word(T_LIMIT_FLAGS)),
    }
}

/// Begins to count what is sent to a topic from this sequence on, until [`enter`] makes it count.
pub(super) fn begin(tx: &mut Tx<'_>, topic: u32, next: u64) {
    let flags = tx.ctl.layout.topic(topic, T_FLAGS);
    let known = tx.get(flags);
    tx.set(flags, known | TOPIC_COUNTING);
    change(tx, topic, |kept| {
        *kept = Kept {
            from: next,
            count: 0,
            bytes: 0,
        };
    });
}

/// The sequence of the first message that somebody is owed, or that is kept without a group.
pub(super) fn lowest_owed(ctl: &Ctl, topic: u32) -> u64 {
    let groups = groups_of(ctl, topic);
    let first = ctl.load(ctl.layout.topic(topic, T_FIRST));
    if groups.is_empty() {
        return first;
    }
    low_watermark(ctl, &groups).max(first)
}

/// Makes a topic a counted one, with these options and counts, as the log has them.
pub(crate) fn enter(tx: &mut Tx<'_>, topic: u32, options: &TopicConfig, kept: Kept) {
    let at = |w| tx.ctl.layout.topic(topic, w);
    let words = [
        (at(T_MAX_BYTES), options.max_bytes),
        (at(T_MAX_MESSAGES), options.max_messages),
        (at(T_RETAIN_MS), options.retain_ms),
        (at(T_RETAIN_BYTES), options.retain_bytes),
        (at(T_LIMIT_FLAGS), u64::from(options.flags)),
        (at(T_KEPT_LOGGED), kept.from),
    ];
    let flags = at(T_FLAGS);
    for (at, value) in words {
        tx.set(at, value);
    }
    let known = tx.get(flags);
    tx.set(flags, known & !TOPIC_COUNTING | TOPIC_COUNTED);
    change(tx, topic, |now| *now = kept);
}

/// A topic that is purged or deleted keeps nothing; from `next` on it counts anew.
pub(crate) fn clear(tx: &mut Tx<'_>, topic: u32, next: u64) {
    if tx.get(tx.ctl.layout.topic(topic, T_FLAGS)) & (TOPIC_COUNTED | TOPIC_COUNTING) != 0 {
        change(tx, topic, |kept| {
            *kept = Kept {
                from: next,
                count: 0,
                bytes: 0,
            };
        });
        tx.set(tx.ctl.layout.topic(topic, T_KEPT_LOGGED), next);
    }
}

/// Something was settled: whoever waits for room may find some.
#[inline]
pub(crate) fn settled(ctl: &Ctl) {
    if ctl.load(W_QUOTA_WAIT) != 0 && !broken!(WakeLost) {
        wake::below_limit(ctl);
    }
}

fn groups_of(ctl: &Ctl, topic: u32) -> Vec<u32> {
    let of = |group: &u32| ctl.load(ctl.layout.group(*group, P_TOPIC)) == u64::from(topic);
    live_groups(ctl).filter(of).collect()
}

/// The lowest sequence that some group has not settled. Read without the lock: the cursors first,
/// for what is claimed later lies at or above them.
fn low_watermark(ctl: &Ctl, groups: &[u32]) -> u64 {
    let cursor = |&group: &u32| ctl.load(ctl.layout.group(group, P_CURSOR));
    let mut low = groups.iter().map(cursor).min().unwrap_or(0);
    let places: Vec<u32> = groups
        .iter()
        .map(|&g| crate::shm::id::place_of(g))
        .collect();
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    for slot in 0..top {
        let word = |w| ctl.load(ctl.layout.slot(slot, w));
        let seq = word(S_SEQ);
        if seq >= low {
            continue;
        }
        let state = Head::unpack(word(S_HEAD)).map(|head| head.state);
        let group = Owner::unpack(word(S_OWNER)).group;
        let holds = !matches!(state, Some(State::Free | State::Removed | State::Settled));
        if holds && places.contains(&group) && !is_void(ctl, group, seq) {
            low = seq;
        }
    }
    low
}

/// One step of counting off what nobody is owed any more. False: there is nothing to count off.
pub(crate) fn refresh(log: &Log, topic: u32) -> Result<bool> {
    let ctl = &log.ctl;
    let rollbacks = ctl.load(W_ROLLBACKS);
    let before = kept(ctl, topic);
    let groups = groups_of(ctl, topic);
    if groups.is_empty() || !is_counted(ctl, topic) {
        return Ok(false);
    }
    let low = low_watermark(ctl, &groups);
    let passed = match pass(log, topic, before, low) {
        // Deleted meanwhile.
        Err(e) if e.code() == Code::NotFound => return Ok(false),
        passed => passed?,
    };
    if passed.from <= before.from {
        return Ok(false);
    }
    let mut tx = ctl.begin(ctl.patience())?;
    let unchanged = ctl.load(W_ROLLBACKS) == rollbacks
        && rollbacks % 2 == 0
        && ctl.has_topic(topic)
        && kept(ctl, topic).from == before.from
        && groups_of(ctl, topic) == groups;
    if unchanged {
        let next = tx.get(ctl.layout.topic(topic, T_NEXT));
        change(&mut tx, topic, |kept| {
            kept.from = passed.from;
            kept.count = kept.count.saturating_sub(passed.count);
            kept.bytes = kept.bytes.saturating_sub(passed.bytes);
            if passed.from >= next {
                // What damage took could not be counted off.
                (kept.count, kept.bytes) = (0, 0);
            }
        });
    }
    tx.commit();
    Ok(true)
}

/// What can be counted off of `kept`, with all below `low` settled: up to which sequence, how many
/// messages, and their bytes.
fn pass(log: &Log, topic: u32, kept: Kept, low: u64) -> Result<Kept> {
    let options = options(&log.ctl, topic);
    let now = log.ctl.host.realtime_ms();
    let mut passed = Kept {
        from: kept.from,
        count: 0,
        bytes: 0,
    };
    if low <= kept.from {
        return Ok(passed);
    }
    let some = log.candidates(topic, kept.from, STEP)?;
    let mut ahead = ReadAhead::default();
    for &(seq, lsn) in some.iter().filter(|(seq, _)| *seq < low) {
        let (bytes, sent) = match fetch::size_of(log, topic, seq, lsn, &mut ahead) {
            // Its size is not known any more: it is counted off when all are.
            Err(e) if e.code() == Code::Corrupt => (0, 0),
            size => size?,
        };
        let left = kept.bytes.saturating_sub(passed.bytes + bytes);
        let young = options.retain_ms != 0 && sent.saturating_add(options.retain_ms) > now;
        let wanted = options.retain_bytes != 0 && left < options.retain_bytes;
        if young || wanted {
            return Ok(passed);
        }
        passed.count += 1;
        passed.bytes += bytes;
        passed.from = seq + 1;
    }
    let more = some.len() == STEP && some.last().is_some_and(|(seq, _)| *seq < low);
    if !more {
        // What lies between is in gaps.
        passed.from = low;
    }
    Ok(passed)
}

/// Counts off what can be: of this topic, or of all where the store's limit is reached. False:
/// nothing came of it.
pub(crate) fn make_room(log: &Log, topic: Option<u32>) -> Result<bool> {
    let topics = match topic {
        Some(topic) => vec![topic],
        None => live_topics(&log.ctl).collect(),
    };
    let mut made = false;
    for topic in topics {
        made |= refresh(log, topic)?;
    }
    Ok(made)
}

/// Says that somebody waits for room; the event that it comes with.
pub(crate) fn arm(ctl: &Ctl) -> u64 {
    wake::arm_limit(ctl)
}

/// The sequence from which on a counted topic keeps messages as far as the log knows: reclaim
/// leaves what would still be looked up.
pub(crate) fn logged_from(ctl: &Ctl, topic: u32) -> Option<u64> {
    is_counted(ctl, topic).then(|| ctl.load(ctl.layout.topic(topic, T_KEPT_LOGGED)))
}

/// Counts off all that can be, and notes it in the log, so that reclaim can go on. What room a full
/// disk has is for snapshots: there only what keeps the oldest segment is noted, once it does not.
pub(crate) fn note(log: &Log, held: &Maintenance<'_>) -> Result<()> {
    let ctl = &log.ctl;
    let oldest = if log.is_short() {
        let first = log.sealed_from(ctl.global(G_OLDEST))?.into_iter().next();
        match first.filter(|first| !log.is_in_region(first.number)) {
            Some(first) => Some(first),
            None => return Ok(()),
        }
    } else {
        None
    };
    for topic in live_topics(ctl) {
        if !is_counted(ctl, topic) {
            continue;
        }
        while refresh(log, topic)? {}
        let logged = ctl.load(ctl.layout.topic(topic, T_KEPT_LOGGED));
        let from = kept(ctl, topic).from;
        let frees = |oldest| -> Result<bool> {
            let streams = log.streams(oldest)?.iter();
            let end = streams.filter(|s| s.stream == topic).map(|s| s.end).next();
            Ok(end.is_some_and(|end| logged < end && end <= from))
        };
        let wanted = oldest.as_ref().map_or(Ok(true), frees)?;
        if from == logged || !wanted {
            continue;
        }
        let need = Need::new(
            draft(topic, TopicConfig::default(), None).bytes.len(),
            0,
            Purpose::Snap,
        );
        let noted = log.transact_holding(Some(held), need, ctl.patience(), |tx| {
            if ctl.has_topic(topic) {
                let (options, kept) = (options(ctl, topic), kept(ctl, topic));
                log.append(tx, &mut draft(topic, options, Some(kept)).bytes, 0);
                tx.set(ctl.layout.topic(topic, T_KEPT_LOGGED), kept.from);
            }
            Ok(())
        });
        match noted {
            // Not now.
            Err(e) if e.code() == Code::Full => return Ok(()),
            noted => noted?,
        }
    }
    Ok(())
}

fn draft(id: u32, options: TopicConfig, kept: Option<Kept>) -> Draft {
    let kept = kept.unwrap_or_default();
    let config = Config::TopicConfigure { id, options, kept };
    Draft::new(Kind::Config, 0, id, &[], &[&config.encode()])
}
