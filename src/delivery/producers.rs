//! Named producers: their table, the results of their last sends, and which name makes room.
//!
//! A name keeps its place until the table is full. Then the name that was used least recently is
//! dropped for a new one, but only if nobody has it open and it was not used for [`KEPT_MS`]; where
//! there is none, the new name is refused. A name that was dropped and comes back begins anew: only
//! that long after its last use can a number of before be taken for a new one.
//!
//! A place keeps its epoch when it gets another name, so that a handle of the old name, which is
//! fenced already, does not fit the new one.

use std::collections::BTreeMap;

use super::registry::{hash_name, read_name, table_len, too_many, write_name};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::Result;
use crate::format::name::MAX_NAME;
use crate::format::payload::{Config, ProducerOpen, RESULTS, SendResult, SnapItem};
use crate::format::record::{Draft, Kind};
use crate::options::limits;
use crate::shm::control::{
    self, D_EPOCH, D_HASH, D_LSN, D_NAME, D_NAME_LEN, D_NEXT, D_OWNER, D_STATE, D_USED, G_PRODUCERS,
};
use crate::shm::{Ctl, Tx, lock, member};

/// A name that was not used for so long may be dropped for another, in ms.
#[allow(clippy::cast_possible_truncation)] // a week
const KEPT_MS: u64 = limits::PRODUCER_KEPT.as_millis() as u64;

/// Set in [`SendResult::place`] of a message in chunks.
const CHUNKED: u64 = 1;

const _: () =
    assert!(RESULTS as u64 == control::RESULTS && control::RESULTS == limits::PRODUCER_RECALLED);

/// Number of places in use.
pub(crate) fn count(ctl: &Ctl) -> u32 {
    table_len(ctl, G_PRODUCERS, ctl.layout.geometry.producers)
}

/// The name of a producer.
pub(crate) fn name(ctl: &Ctl, id: u32) -> Option<String> {
    let at = |word| ctl.layout.producer(id, word);
    read_name(ctl, at(D_NAME), at(D_NAME_LEN))
}

/// Finds a producer. Lock E is held.
fn find(ctl: &Ctl, wanted: &str) -> Option<u32> {
    let hash = hash_name(wanted);
    (0..count(ctl)).find(|&id| {
        let at = |word| ctl.layout.producer(id, word);
        ctl.load(at(D_STATE)) == 1
            && ctl.load(at(D_HASH)) == hash
            && name(ctl, id).is_some_and(|n| n == wanted)
    })
}

/// Where a producer stands in the table, and which of its handles may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) id: u32,
    pub(crate) epoch: u32,
}

impl Handle {
    /// Whether it is the newest handle of its name.
    pub(crate) fn is_current(self, tx: &Tx<'_>) -> bool {
        tx.get(tx.ctl.layout.producer(self.id, D_EPOCH)) == u64::from(self.epoch)
    }
}

/// Opens a named producer: its next epoch, which fences older handles. `generation` is that of the
/// member which opens it.
pub(crate) fn open(log: &Log, name: &str, generation: u32, deadline: u64) -> Result<Handle> {
    let ctl = &log.ctl;
    let opened_ms = ctl.host.realtime_ms();
    let draft = |epoch| {
        let open = ProducerOpen {
            name: name.to_owned(),
            epoch,
            opened_ms,
        };
        Draft::new(Kind::Producer, 0, 0, &[], &[&open.encode()])
    };
    let longest = drop_draft(&"n".repeat(MAX_NAME)).bytes.len();
    let need = Need::new(draft(0).bytes.len() + longest, 0, Purpose::Send);
    log.transact(need, deadline, |tx| {
        let found = find(ctl, name);
        let id = match found {
            Some(id) => id,
            None => place_for_new(log, tx, opened_ms)?,
        };
        let at = |word| ctl.layout.producer(id, word);
        let known = tx.get(at(D_EPOCH));
        let epoch = u32::try_from(known + 1).map_err(|_| ctl.damaged("the epoch of a producer"))?;
        log.append(tx, &mut draft(epoch).bytes, 0);
        if found.is_none() {
            enter(tx, id, name);
        }
        tx.set(at(D_EPOCH), u64::from(epoch));
        tx.set(at(D_OWNER), pack_owner((ctl.me(), generation)));
        tx.set(at(D_USED), opened_ms);
        Ok(Handle { id, epoch })
    })
}

fn drop_draft(name: &str) -> Draft {
    let name = name.to_owned();
    let body = Config::ProducerDrop { name }.encode();
    Draft::new(Kind::Config, 0, 0, &[], &[&body])
}

/// A free place, or that of the name which has to make room. Drops that name.
fn place_for_new(log: &Log, tx: &mut Tx<'_>, now: u64) -> Result<u32> {
    let ctl = &log.ctl;
    let (used, most) = (count(ctl), ctl.layout.geometry.producers);
    if used < most {
        return Ok(used);
    }
    let word = |id, word| tx.get(ctl.layout.producer(id, word));
    let droppable = |&id: &u32| {
        let idle = now.saturating_sub(word(id, D_USED)) >= KEPT_MS || broken!(ProducerDroppedEarly);
        idle && (!is_open(tx, id) || broken!(OpenProducerDropped))
    };
    let Some(id) = (0..most)
        .filter(droppable)
        .min_by_key(|&id| word(id, D_USED))
    else {
        return Err(too_many(
            "named producers",
            most,
            "use fewer names, or wait: one that nobody has open makes room 7 days after its last \
             use",
        ));
    };
    let old = name(ctl, id).ok_or_else(|| ctl.damaged("a producer's name"))?;
    if !broken!(ProducerDropNotNoted) {
        log.append(tx, &mut drop_draft(&old).bytes, 0);
    }
    Ok(id)
}

const fn pack_owner((slot, generation): (u32, u32)) -> u64 {
    (generation as u64) << 32 | (slot as u64 + 1)
}

/// Whether a member that lives, or is not cleaned up after yet, has the newest handle.
fn is_open(tx: &Tx<'_>, id: u32) -> bool {
    let ctl = tx.ctl;
    let owner = tx.get(ctl.layout.producer(id, D_OWNER));
    let Some(slot) = lock::low_half(owner).checked_sub(1) else {
        return false;
    };
    slot < ctl.layout.geometry.members
        && member::in_use(ctl, slot)
        && pack_owner((slot, member::generation(ctl, slot))) == owner
}

/// Enters a name into the table; nothing is known of its sends.
fn enter(tx: &mut Tx<'_>, id: u32, name: &str) {
    let layout = tx.ctl.layout;
    let at = |word| layout.producer(id, word);
    write_name(tx, at(D_NAME), at(D_NAME_LEN), name);
    tx.set(at(D_HASH), hash_name(name));
    tx.set(at(D_NEXT), 0);
    tx.set(at(D_LSN), 0);
    tx.set(at(D_STATE), 1);
    tx.set_global(G_PRODUCERS, tx.global(G_PRODUCERS).max(u64::from(id) + 1));
}

/// Notes that a handle was closed. What it was used for stays known; its name may be dropped once
/// it was not used for long.
pub(crate) fn close(log: &Log, handle: Handle) -> Result<()> {
    let ctl = &log.ctl;
    let mut tx = ctl.begin(ctl.patience())?;
    if handle.is_current(&tx) {
        tx.set(ctl.layout.producer(handle.id, D_OWNER), 0);
        tx.set(
            ctl.layout.producer(handle.id, D_USED),
            ctl.host.realtime_ms(),
        );
        tx.commit();
    }
    Ok(())
}

/// Closes the handles of one generation of a member: it died or closes the store.
pub(crate) fn release_member(log: &Log, member: (u32, u32)) -> Result<()> {
    let ctl = &log.ctl;
    let owner = pack_owner(member);
    for id in 0..count(ctl) {
        let at = ctl.layout.producer(id, D_OWNER);
        // Found without the lock, checked under it.
        if ctl.load(at) != owner {
            continue;
        }
        let mut tx = ctl.begin(ctl.patience())?;
        if tx.get(at) == owner {
            tx.set(at, 0);
            tx.set(ctl.layout.producer(id, D_USED), ctl.host.realtime_ms());
            tx.commit();
        }
    }
    Ok(())
}

/// What is known of a send that a producer made before.
pub(crate) struct Known {
    /// The message's id and topic sequence, as far back as results are kept.
    pub(crate) result: Option<(u64, u64)>,
    /// The message is durable when the watermark has reached this.
    pub(crate) end: u64,
}

/// What the send of this number, which is below the next one, was answered with.
pub(crate) fn recall(tx: &Tx<'_>, id: u32, number: u64) -> Known {
    let layout = &tx.ctl.layout;
    let word = |w| tx.get(layout.producer(id, w));
    let next = word(D_NEXT);
    // The watermark moves between records, so the first byte of a record stands for all.
    let last = word(D_LSN) + 1;
    let at = |number| layout.result(id, number).map(|w| tx.get(w));
    let kept = if broken!(OnlyLastSendRecalled) {
        1
    } else {
        control::RESULTS
    };
    let [place, seq] = at(number);
    if next.saturating_sub(number) > kept || place == 0 {
        return Known {
            result: None,
            end: last,
        };
    }
    let first = place & !CHUNKED;
    let end = if place & CHUNKED == 0 {
        first + 1
    } else if number + 1 == next {
        last
    } else {
        // Its record lies behind its chunks, and before what was sent next.
        match at(number + 1)[0] & !CHUNKED {
            0 => last,
            behind => behind,
        }
    };
    Known {
        result: Some((first, seq)),
        end,
    }
}

/// Notes a send: its number, the LSN of its record, and what it is answered with.
pub(crate) fn note(tx: &mut Tx<'_>, id: u32, send: &Noted) {
    let layout = tx.ctl.layout;
    let at = |word| layout.producer(id, word);
    let [place, seq] = layout.result(id, send.number);
    tx.set(at(D_NEXT), send.number + 1);
    tx.set(at(D_LSN), send.lsn);
    tx.set(at(D_USED), send.sent_ms);
    tx.set(place, place_of(send.lsn, send.message));
    tx.set(seq, send.seq);
}

/// A numbered send that was just appended.
pub(crate) struct Noted {
    pub(crate) number: u64,
    /// Where its record lies.
    pub(crate) lsn: u64,
    /// The message's id: its first chunk's LSN, or its record's.
    pub(crate) message: u64,
    pub(crate) seq: u64,
    pub(crate) sent_ms: u64,
}

/// [`SendResult::place`] of a message with this id, whose record lies at `lsn`.
pub(crate) const fn place_of(lsn: u64, message: u64) -> u64 {
    if lsn == message {
        lsn
    } else {
        message | CHUNKED
    }
}

/// A producer as a snapshot keeps it.
pub(crate) fn snap_item(tx: &Tx<'_>, id: u32) -> SnapItem {
    let layout = &tx.ctl.layout;
    let word = |w| tx.get(layout.producer(id, w));
    let next = word(D_NEXT);
    let kept = if broken!(ResultsNotInSnap) {
        next
    } else {
        next.saturating_sub(control::RESULTS)
    };
    let results = (kept..next).map(|number| {
        let [place, seq] = layout.result(id, number).map(|w| tx.get(w));
        SendResult { place, seq }
    });
    SnapItem::Producer {
        name: name(tx.ctl, id).unwrap_or_default(),
        epoch: lock::low_half(word(D_EPOCH)),
        last_seq_plus_1: next,
        last_lsn: word(D_LSN),
        used_ms: word(D_USED),
        open: is_open(tx, id),
        results: results.collect(),
    }
}

/// A producer as the log tells it.
#[derive(Debug, Default, Clone)]
pub(crate) struct InLog {
    epoch: u32,
    next: u64,
    lsn: u64,
    used_ms: u64,
    open: bool,
    /// By number.
    results: BTreeMap<u64, SendResult>,
}

impl InLog {
    /// It was opened.
    pub(crate) fn opened(&mut self, open: &ProducerOpen) {
        self.epoch = self.epoch.max(open.epoch);
        self.used_ms = open.opened_ms;
        self.open = true;
    }

    /// A message of this number lies in the log.
    pub(crate) fn sent(&mut self, send: &Noted) {
        if send.number >= self.next {
            self.next = send.number.saturating_add(1);
            self.lsn = send.lsn;
            self.used_ms = send.sent_ms;
        }
        let place = place_of(send.lsn, send.message);
        let seq = send.seq;
        self.keep(send.number, SendResult { place, seq });
    }

    fn keep(&mut self, number: u64, result: SendResult) {
        self.results.insert(number, result);
        let kept = self.next.saturating_sub(control::RESULTS);
        self.results.retain(|&number, _| number >= kept);
    }

    /// A snapshot holds it so.
    pub(crate) fn load(&mut self, item: &SnapItem) {
        let SnapItem::Producer {
            epoch,
            last_seq_plus_1: next,
            last_lsn,
            used_ms,
            open,
            results,
            ..
        } = item
        else {
            return;
        };
        self.epoch = self.epoch.max(*epoch);
        if *next >= self.next {
            (self.next, self.lsn) = (*next, *last_lsn);
        }
        (self.used_ms, self.open) = (*used_ms, *open);
        let first = next.saturating_sub(results.len() as u64);
        for (number, result) in (first..).zip(results) {
            self.keep(number, *result);
        }
    }

    /// Writes it into fresh shared memory.
    pub(crate) fn install(&self, log: &Log, id: u32, name: &str) -> Result<()> {
        let ctl = &log.ctl;
        let mut tx = ctl.begin(ctl.patience())?;
        enter(&mut tx, id, name);
        let at = |word| ctl.layout.producer(id, word);
        tx.set(at(D_EPOCH), u64::from(self.epoch));
        tx.set(at(D_NEXT), self.next);
        tx.set(at(D_LSN), self.lsn);
        // For how long a handle that nobody closed was open, nothing tells.
        let used = if self.open {
            ctl.host.realtime_ms()
        } else {
            self.used_ms
        };
        tx.set(at(D_USED), used);
        for (&number, result) in &self.results {
            let [place, seq] = ctl.layout.result(id, number);
            tx.set(place, result.place);
            tx.set(seq, result.seq);
        }
        tx.commit();
        Ok(())
    }
}

/// The producers that the table takes: all, unless damage took a record that one was dropped. Then
/// those that were used last.
pub(crate) fn that_fit(all: &BTreeMap<String, InLog>, most: u32) -> Vec<(&String, &InLog)> {
    let mut fit: Vec<_> = all.iter().collect();
    let most = most as usize;
    if fit.len() > most {
        fit.sort_by_key(|(_, producer)| std::cmp::Reverse((producer.open, producer.used_ms)));
        fit.truncate(most);
    }
    fit
}

/// A producer in one line, without times.
#[cfg(feature = "sim")]
pub(crate) fn describe(tx: &Tx<'_>, id: u32) -> String {
    match snap_item(tx, id) {
        SnapItem::Producer {
            name,
            epoch,
            last_seq_plus_1,
            results,
            ..
        } => format!("producer {name} epoch {epoch} next {last_seq_plus_1} results {results:?}"),
        _ => String::new(),
    }
}
