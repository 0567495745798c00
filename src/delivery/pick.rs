//! Claiming new messages in a group that does not take them as they come: it has a tag filter, or
//! one message of an order key at a time.
//!
//! What decides is in the messages, so they are read before the lock is taken
//! ([`Labels::label_all`]). Under it each candidate is handed out, parked behind its order key
//! ([`super::order`]) or skipped.
//! What is skipped is settled: one ACK with the reason *filtered*, in the same transaction as the
//! cursor that moves past it, so that no recovery looks at it again and its segment can go.

use super::claim::{self, Claim, Wanted};
use super::slot::{self, Head, Owner};
use super::{fetch, order, tags};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::commitlog::index::Candidates;
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Result};
use crate::format::key_hash::key_hash;
use crate::format::message::Meta;
use crate::format::payload::{Ack, Run, reason};
use crate::format::record::{Draft, Kind, padded};
use crate::shm::control::{
    P_CURSOR, P_FLAGS, P_TAGS, P_TAGS_VERSION, S_KEY, S_LSN, S_OWNER, S_SEQ,
};
use crate::shm::{Ctl, Tx};

/// Candidates that are read before a claim.
pub(crate) const LOOK_UP: usize = 64;

/// What a group does with one candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Label {
    /// Its tag is none of those that the group wants.
    pub(crate) skip: bool,
    /// Hash of its order key; 0 = none.
    pub(crate) key: u64,
}

/// What a group goes by, and what that says of the candidates in hand.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    group: u32,
    /// Of the tags it was made by.
    version: u64,
    tags: Vec<String>,
    ordered: bool,
    /// Of the first candidates, in their order.
    of: Vec<Label>,
}

/// What became of candidates that were not handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// None was passed over.
    None,
    /// Some were: behind them may be others.
    Some,
    /// One could not be skipped: there is no room in the log to say so.
    NoRoom,
}

/// Whether the group looks at its messages before it takes them.
#[inline]
pub(crate) fn is_choosy(ctl: &Ctl, group: u32) -> bool {
    let word = |w| ctl.load(ctl.layout.group(group, w));
    word(P_FLAGS) & u64::from(ORDERED) != 0 || word(P_TAGS) != 0
}

const ORDERED: u32 = crate::format::payload::GroupConfig::ORDERED;

impl Labels {
    /// What the group goes by now, if that is not what these labels were made by.
    pub(crate) fn renew(&mut self, log: &Log, group: u32) -> Result<bool> {
        let ctl = &log.ctl;
        let word = |w| ctl.load(ctl.layout.group(group, w));
        let ordered = word(P_FLAGS) & u64::from(ORDERED) != 0;
        if word(P_TAGS_VERSION) == self.version && ordered == self.ordered {
            return Ok(false);
        }
        let tx = ctl.begin(ctl.patience())?;
        *self = Self {
            group,
            version: word(P_TAGS_VERSION),
            tags: tags::read(ctl, group)?,
            ordered,
            of: Vec::new(),
        };
        drop(tx);
        Ok(true)
    }

    /// Reads the candidates. One that is damaged is claimed like any other, and told of then. From
    /// one that cannot be read on, they are dropped.
    pub(crate) fn label_all(
        &mut self,
        log: &Log,
        topic: u32,
        candidates: &mut Candidates,
        ahead: &mut ReadAhead,
    ) -> Result<()> {
        self.of.clear();
        let cursor = || log.ctl.load(log.ctl.layout.group(self.group, P_CURSOR));
        let mut failure = None;
        for &(seq, lsn) in &*candidates {
            match self.label(log, topic, (seq, lsn), ahead) {
                Ok(label) => self.of.push(label),
                // Others have taken it meanwhile, and perhaps its file is gone with it.
                Err(_) if seq < cursor() => self.of.push(Label::default()),
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        candidates.truncate(self.of.len());
        match failure {
            Some(e) if self.of.is_empty() => Err(e),
            _ => Ok(()),
        }
    }

    fn label(
        &self,
        log: &Log,
        topic: u32,
        (seq, lsn): (u64, u64),
        ahead: &mut ReadAhead,
    ) -> Result<Label> {
        let judge = |meta: &Meta<'_>| Label {
            skip: !self.wants(meta.tag),
            key: if self.ordered {
                meta.order_key.map_or(0, |key| key_hash(&log.uuid, key))
            } else {
                0
            },
        };
        match fetch::with_meta(log, (topic, seq, lsn), ahead, judge) {
            Err(e) if e.code() == Code::Corrupt => Ok(Label::default()),
            labelled => labelled,
        }
    }

    fn wants(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|t| t == tag))
    }
}

/// The hash of the order key of a message that was looked at before; 0 if it has none or is
/// damaged.
pub(crate) fn key_of(
    log: &Log,
    topic: u32,
    (seq, lsn): (u64, u64),
    ahead: &mut ReadAhead,
) -> Result<u64> {
    let labels = Labels {
        ordered: true,
        ..Labels::default()
    };
    Ok(labels.label(log, topic, (seq, lsn), ahead)?.key)
}

/// What a claim of new messages in such a group may take.
pub(super) struct Picking<'a> {
    pub(super) wanted: Wanted,
    pub(super) candidates: &'a [(u64, u64)],
    pub(super) labels: &'a Labels,
    pub(super) room: usize,
    pub(super) now: u64,
}

/// Hands out, parks and skips candidates. `candidates` ascend from the cursor or before it.
pub(super) fn claim_chosen(
    log: &Log,
    tx: &mut Tx<'_>,
    picking: &Picking<'_>,
    out: &mut Vec<Claim>,
) -> Result<Passed> {
    let group = picking.wanted.group;
    let layout = log.ctl.layout;
    let cursor_at = layout.group(group, P_CURSOR);
    let mut cursor = tx.get(cursor_at);
    if picking.labels.version != tx.get(layout.group(group, P_TAGS_VERSION)) {
        // The tags were changed meanwhile.
        return Ok(Passed::Some);
    }
    let visible = claim::visible_end(tx, claim::topic_of(tx, group)?);
    let behind = picking.candidates.partition_point(|(seq, _)| *seq < cursor);
    let labelled = picking.candidates.iter().zip(&picking.labels.of);
    let (mut room, mut passed) = (picking.room, Passed::None);
    let mut slots = claim::room_for_new(&log.ctl, group);
    let mut skips = Skips::default();
    for (&(seq, lsn), label) in labelled.skip(behind).take(claim::MOST) {
        if room == 0 || lsn >= visible {
            break;
        }
        if label.skip {
            if !skips.make_room(log, tx)? {
                passed = Passed::NoRoom;
                break;
            }
            skips.add(seq);
            passed = Passed::Some;
        } else {
            if slots == 0 {
                break;
            }
            slots -= 1;
            let Some(slot) = slot::allocate(tx)? else {
                break;
            };
            tx.set(layout.slot(slot, S_SEQ), seq);
            tx.set(layout.slot(slot, S_LSN), lsn);
            if claim_one(tx, picking, (slot, label.key), out)? {
                room -= 1;
            } else {
                passed = Passed::Some;
            }
        }
        cursor = seq + 1;
    }
    skips.append(log, tx, group);
    tx.set(cursor_at, cursor);
    Ok(passed)
}

/// Leases a message, or parks it (false) behind one with the same key.
fn claim_one(
    tx: &mut Tx<'_>,
    picking: &Picking<'_>,
    (slot, key): (u32, u64),
    out: &mut Vec<Claim>,
) -> Result<bool> {
    let group = picking.wanted.group;
    let layout = tx.ctl.layout;
    let head = Head {
        attempts: 0,
        crashes: 0,
        ..slot::head(tx, slot)?
    };
    if key == 0 {
        tx.set(layout.slot(slot, S_KEY), 0);
    } else {
        let member = None;
        tx.set(layout.slot(slot, S_OWNER), Owner { group, member }.pack());
        slot::set_head(tx, slot, head);
        if order::enter(tx, group, key, slot)? {
            return Ok(false);
        }
    }
    let claim = claim::lease(tx, picking.wanted, slot, head, picking.now)?;
    out.push(claim);
    Ok(true)
}

/// The runs of sequences that are skipped in one transaction.
#[derive(Default)]
struct Skips {
    runs: Vec<Run>,
    reserved: bool,
}

impl Skips {
    /// Room for the record, whatever it comes to.
    const NEED: usize = padded(64 + claim::MOST * 12);

    fn make_room(&mut self, log: &Log, tx: &mut Tx<'_>) -> Result<bool> {
        if !self.reserved {
            self.reserved = log.reserve(tx, need())?.is_ok();
        }
        Ok(self.reserved)
    }

    fn add(&mut self, seq: u64) {
        match self.runs.last_mut() {
            Some(run) if run.first + u64::from(run.count) == seq => run.count += 1,
            _ => self.runs.push(Run {
                first: seq,
                count: 1,
            }),
        }
    }

    fn append(mut self, log: &Log, tx: &mut Tx<'_>, group: u32) {
        if self.runs.is_empty() || broken!(SkipNotLogged) {
            return;
        }
        if broken!(SkipLoggedTooFar) {
            if let Some(run) = self.runs.last_mut() {
                run.count += 1;
            }
        }
        let ack = Ack {
            runs: self.runs,
            reason: reason::FILTERED,
        };
        let mut draft = Draft::new(Kind::Ack, 0, group, &[], &[&ack.encode()]);
        log.append(tx, &mut draft.bytes, 0);
    }
}

fn need() -> Need {
    Need::new(Skips::NEED, 0, Purpose::Settle)
}

/// Waits for room in the log for what is to be skipped.
pub(crate) fn await_room(log: &Log, deadline: u64) -> Result<()> {
    log.transact(need(), deadline, |_| Ok(()))
}
