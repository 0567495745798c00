//! Purges and deletions: what is gone for good, all at once.
//!
//! One transaction with one record makes it so, however much there is: a purge moves the topic's
//! first sequence, the cursors of its groups and the sequence below which their slots are *void*; a
//! deletion takes groups and topics out of use, and all slots of a group that is not in use are
//! void. A void slot counts for nothing: its lease is lost, it is not handed out, it is in no
//! snapshot and keeps no segment. [`finish`] frees void slots in small transactions; whoever purged
//! does it, and if he dies, the keeper. A deleted group's place is given away only then.

use std::collections::BTreeSet;

use super::places::{
    check_group, group_at, group_deleted, live_groups, live_topics, topic_deleted,
};
use super::slot::{self, Head, Owner, State};
use super::{coalesced, kept, order, registry, tags, unnamed};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::{Code, Error, Result};
use crate::format::name;
use crate::format::payload::{BatchBuilder, Config};
use crate::format::record::{Draft, HEADER, Kind, padded};
use crate::shm::control::{
    G_GONE, G_SLOT_TOP, G_SWEPT, G_TAIL, P_CURSOR, P_DEAD_TOPIC, P_LEASED, P_NEXT, P_PARKED,
    P_PURGED, P_READY, P_REMOVED, P_SETTLED, P_STATE, P_TOPIC, P_WAITING, S_CHAIN, S_HEAD, S_OWNER,
    S_SEQ, T_FIRST, T_GROUP, T_NEXT, T_STATE, W_ROLLBACKS,
};
use crate::shm::id::{Life, is_dying, is_live, place_of, state_word};
use crate::shm::{Ctl, Tx, wake};

/// Most slots that are freed in one transaction.
const STEP: usize = 64;
/// Most messages that are freed behind others in one transaction.
const PARKED: usize = 256;
/// Most places of groups that are freed in one transaction: each may give back 73 blocks of tags.
const PLACES: usize = 16;
/// How often all slots are looked through before it is left to the next one who does it.
const ROUNDS: u32 = 256;
/// Places looked up at a time.
const LOOK_UP: usize = 4096;

/// Whether this sequence of this group (its id or its place) counts for nothing any more.
#[inline]
pub(crate) fn is_void(ctl: &Ctl, group: u32, seq: u64) -> bool {
    let word = |w| ctl.load(ctl.layout.group(group, w));
    seq < word(P_PURGED) || !is_live(word(P_STATE))
}

/// The slot's message and owner, if it holds one that is void; also runs of removed dead letters
/// of a group that is gone.
fn void_in(ctl: &Ctl, slot: u32) -> Option<(State, u32)> {
    let word = |w| ctl.load(ctl.layout.slot(slot, w));
    let state = Head::unpack(word(S_HEAD))?.state;
    let group = Owner::unpack(word(S_OWNER)).group;
    let void = match state {
        State::Free => false,
        State::Removed => !is_live(ctl.load(ctl.layout.group(group, P_STATE))),
        _ => is_void(ctl, group, word(S_SEQ)),
    };
    void.then_some((state, group))
}

/// Frees a slot that is in no list. What was parked behind it takes its place, void or not.
pub(super) fn free(tx: &mut Tx<'_>, slot: u32) -> Result<()> {
    let head = slot::head(tx, slot)?;
    order::settled(tx, slot, head)
}

/// Frees void messages parked behind this one, until `most` is used up. Whether none is left.
fn free_parked(tx: &mut Tx<'_>, slot: u32, group: u32, most: &mut usize) -> Result<bool> {
    let ctl = tx.ctl;
    order::drop_parked(tx, slot, most, |seq| is_void(ctl, group, seq))
}

/// How many messages of a topic some group is still to get or to settle, or are kept because it has
/// no group; and the sequence up to which they were counted.
fn count_owed(log: &Log, topic: u32) -> Result<(u64, u64)> {
    let ctl = &log.ctl;
    let word = |w| ctl.load(ctl.layout.topic(topic, w));
    let next = word(T_NEXT);
    let groups = groups_of(ctl, topic);
    let cursor = |&group: &u32| ctl.load(ctl.layout.group(group, P_CURSOR));
    let mut from = groups.iter().map(cursor).min().unwrap_or(word(T_FIRST));
    // Below the lowest cursor only what is outstanding.
    let places: BTreeSet<u32> = groups.iter().map(|&group| place_of(group)).collect();
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    let outstanding = (0..top).filter_map(|slot| {
        let word = |w| ctl.load(ctl.layout.slot(slot, w));
        let state = Head::unpack(word(S_HEAD))?.state;
        let (group, seq) = (Owner::unpack(word(S_OWNER)).group, word(S_SEQ));
        let free = matches!(state, State::Free | State::Removed | State::Settled);
        let counts = !free && places.contains(&group);
        (counts && seq < from && !is_void(ctl, group, seq)).then_some(seq)
    });
    let mut count = outstanding.collect::<BTreeSet<u64>>().len() as u64;
    while from < next {
        let some = log.candidates(topic, from, LOOK_UP)?;
        let Some(&(last, _)) = some.last() else { break };
        count += some.iter().filter(|(seq, _)| *seq < next).count() as u64;
        from = last + 1;
    }
    Ok((count, next))
}

/// Takes the messages of a topic away, all that it has now. Returns how many of them somebody was
/// still owed, and the LSN that must be durable for it.
pub(crate) fn purge(log: &Log, topic: u32, deadline: u64) -> Result<(u64, u64)> {
    let ctl = &log.ctl;
    loop {
        let gone = ctl.global(G_GONE);
        let (count, up_to) = count_owed(log, topic)?;
        let done = purge_counted(log, topic, gone, deadline)?;
        if let Some((next, end)) = done {
            wake::room_made(ctl);
            // What came since is all owed: sequences are dense while anybody is alive.
            return Ok((count + next.saturating_sub(up_to), end));
        }
    }
}

/// Purges, unless anything else was purged or deleted since `gone`: then the count is wrong.
/// Returns the sequence from which on the topic has messages, and the end of the record.
fn purge_counted(log: &Log, topic: u32, gone: u64, deadline: u64) -> Result<Option<(u64, u64)>> {
    let draft = |first_seq| {
        let config = Config::TopicPurge {
            id: topic,
            first_seq,
        };
        Draft::new(Kind::Config, 0, topic, &[], &[&config.encode()])
    };
    let need = Need::new(draft(0).bytes.len(), 0, Purpose::Settle);
    let ctl = &log.ctl;
    log.transact(need, deadline, |tx| {
        if !ctl.has_topic(topic) {
            return Err(topic_deleted());
        }
        if tx.global(G_GONE) != gone {
            return Ok(None);
        }
        let next = tx.get(ctl.layout.topic(topic, T_NEXT));
        if !broken!(PurgeOfTopicNotNoted) {
            log.append(tx, &mut draft(next).bytes, 0);
        }
        tx.set(ctl.layout.topic(topic, T_FIRST), next);
        kept::clear(tx, topic, next);
        for group in groups_of(ctl, topic) {
            tx.set(ctl.layout.group(group, P_CURSOR), next);
            tx.set(ctl.layout.group(group, P_PURGED), next);
        }
        is_gone(tx);
        Ok(Some((next, tx.global(G_TAIL))))
    })
}

fn is_gone(tx: &mut Tx<'_>) {
    tx.set_global(G_GONE, tx.global(G_GONE) + 1);
}

fn groups_of(ctl: &Ctl, topic: u32) -> Vec<u32> {
    let of = |group: &u32| ctl.load(ctl.layout.group(*group, P_TOPIC)) == u64::from(topic);
    live_groups(ctl).filter(of).collect()
}

/// What a deletion takes out of use.
#[derive(Default)]
struct Doomed {
    topics: Vec<u32>,
    groups: Vec<u32>,
    /// A topic that stays without groups, and the sequence up to which they had taken its messages:
    /// what is settled may be half gone, so it must not count as kept again.
    left: Option<(u32, u64)>,
}

impl Doomed {
    /// A group with its dead letters, and whoever consumes these.
    fn add_group(&mut self, ctl: &Ctl, group: u32) {
        self.groups.push(group);
        let dead = ctl.load(ctl.layout.group(group, P_DEAD_TOPIC));
        let dead = u32::try_from(dead).ok().and_then(|d| d.checked_sub(1));
        if let Some(dead) = dead.filter(|&dead| ctl.has_topic(dead)) {
            self.topics.push(dead);
            self.groups.extend(groups_of(ctl, dead));
        }
    }

    /// The records of it, as one that applies wholly or not at all. Of a topic its groups are not
    /// named: whoever reads it takes them away, too.
    fn draft(&self, group: Option<u32>) -> Result<Draft> {
        let group = group.map(|id| (id, Config::GroupDelete { id }));
        let topics = self
            .topics
            .iter()
            .map(|&id| (id, Config::TopicDelete { id }));
        let left = self
            .left
            .map(|(id, first_seq)| (id, Config::TopicPurge { id, first_seq }));
        let parts: Vec<(u32, Config)> = group.into_iter().chain(topics).chain(left).collect();
        if let [(id, config)] = parts.as_slice() {
            return Ok(Draft::new(Kind::Config, 0, *id, &[], &[&config.encode()]));
        }
        let mut batch = BatchBuilder::new();
        for (id, config) in parts {
            batch
                .push(Kind::Config, 0, id, 0, &[], &[&config.encode()])
                .map_err(|bad| Error::new(Code::Internal, format!("a deletion's record: {bad}")))?;
        }
        Ok(batch.build())
    }

    fn take_away(&self, tx: &mut Tx<'_>) {
        let layout = tx.ctl.layout;
        for &topic in &self.topics {
            kept::clear(tx, topic, 0);
            tx.set(layout.topic(topic, T_STATE), state_word(topic, Life::Free));
        }
        for &group in &self.groups {
            tx.set(layout.group(group, P_STATE), state_word(group, Life::Dying));
        }
        if let Some((topic, first)) = self.left {
            let at = layout.topic(topic, T_FIRST);
            tx.set(at, tx.get(at).max(first));
        }
        is_gone(tx);
    }
}

/// Takes a topic out of use, with its groups and their dead letters. Returns the LSN that must be
/// durable for it.
pub(crate) fn delete_topic(log: &Log, topic: u32, deadline: u64) -> Result<u64> {
    delete(log, (Purpose::Settle, deadline), &|ctl| {
        if !ctl.has_topic(topic) {
            return Err(topic_deleted());
        }
        let mut doomed = Doomed::default();
        doomed.topics.push(topic);
        for group in groups_of(ctl, topic) {
            doomed.add_group(ctl, group);
        }
        Ok((doomed, None))
    })
}

/// Takes a group out of use, with its dead letters. Returns the LSN that must be durable for it.
pub(crate) fn delete_group(log: &Log, group: u32, deadline: u64) -> Result<u64> {
    delete(log, (Purpose::Settle, deadline), &|ctl| {
        check_group(ctl, group)?;
        doom_group(ctl, group)
    })
}

/// As [`delete_group`], of one that ends with its member, if that has left it.
pub(super) fn delete_orphan(log: &Log, group: u32, deadline: u64) -> Result<u64> {
    // The room of a snapshot: it may be what keeps all others, and nobody waits for it.
    delete(log, (Purpose::Snap, deadline), &|ctl| {
        if !unnamed::is_orphan(ctl, group) {
            return Err(group_deleted());
        }
        if !unnamed::has_such_a_name(ctl, group) {
            return Err(ctl.damaged("a group with a name is to end by itself"));
        }
        doom_group(ctl, group)
    })
}

fn doom_group(ctl: &Ctl, group: u32) -> Result<(Doomed, Option<u32>)> {
    let mut doomed = Doomed::default();
    doomed.add_group(ctl, group);
    let topic = super::claim::topic_of_group(ctl, group)?;
    let alone = groups_of(ctl, topic) == [group];
    // Where it is counted what is kept, all that is needed of it is.
    if alone && !kept::is_counted(ctl, topic) && !doomed.topics.contains(&topic) {
        let cursor = ctl.load(ctl.layout.group(group, P_CURSOR));
        doomed.left = Some((topic, cursor));
    }
    Ok((doomed, Some(group)))
}

type Choose<'a> = &'a dyn Fn(&Ctl) -> Result<(Doomed, Option<u32>)>;

fn delete(log: &Log, (purpose, deadline): (Purpose, u64), choose: Choose<'_>) -> Result<u64> {
    let ctl = &log.ctl;
    // How much it is shows under the lock only: room is made for the most there can be.
    let part = padded(HEADER + 16);
    let streams = live_topics(ctl).filter(|&t| is_internal(ctl, t)).count();
    let need = Need::new(padded(HEADER + part * (streams + 10)), 0, purpose);
    let (end, groups) = log.transact(need, deadline, |tx| {
        let (doomed, group) = choose(ctl)?;
        if doomed.topics.len() > streams + 8 {
            return Err(Error::new(
                Code::Busy,
                "many groups got their first dead letter just now; delete it again",
            ));
        }
        let mut draft = doomed.draft(group)?;
        if !broken!(DeletionNotNoted) {
            log.append(tx, &mut draft.bytes, 0);
        }
        if let Some(group) = group {
            unlink(tx, group)?;
        }
        doomed.take_away(tx);
        Ok((tx.global(G_TAIL), doomed.groups))
    })?;
    // Whoever waits for a message or for room finds that there is nothing to wait for.
    for group in groups {
        wake::wake_whole_group(ctl, group);
    }
    wake::room_made(ctl);
    Ok(end)
}

fn is_internal(ctl: &Ctl, topic: u32) -> bool {
    registry::topic_name(ctl, topic).is_ok_and(|name| name::is_internal(&name))
}

/// Takes a group out of the list of its topic.
fn unlink(tx: &mut Tx<'_>, group: u32) -> Result<()> {
    let layout = tx.ctl.layout;
    let topic = super::claim::topic_of(tx, group)?;
    let wanted = u64::from(place_of(group)) + 1;
    let mut at = layout.topic(topic, T_GROUP);
    for _ in 0..layout.geometry.groups {
        let link = tx.get(at);
        let Some(place) = u32::try_from(link).ok().and_then(|l| l.checked_sub(1)) else {
            break;
        };
        if place >= layout.geometry.groups {
            break;
        }
        let next = layout.group(place, P_NEXT);
        if link == wanted {
            let next = tx.get(next);
            tx.set(at, next);
            return Ok(());
        }
        at = next;
    }
    Err(tx.ctl.damaged("a group is not in the list of its topic"))
}

/// Whether void slots are still to be freed.
#[inline]
pub(crate) fn unfinished(ctl: &Ctl) -> bool {
    ctl.global(G_GONE) != ctl.global(G_SWEPT)
}

/// Frees all void slots, if there may be any, and then the places of deleted groups. In steps, so
/// that nobody waits long for the lock; several may do it at once.
pub(crate) fn finish(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    if !unfinished(ctl) || ctl.is_frozen() {
        return Ok(());
    }
    for _ in 0..ROUNDS {
        let (gone, rollbacks) = (ctl.global(G_GONE), ctl.load(W_ROLLBACKS));
        sweep_ready(log)?;
        let swept = sweep_others(log)?;
        let mut tx = ctl.begin(ctl.patience())?;
        // What was read was half a change that was rolled back: then something may be left.
        if ctl.load(W_ROLLBACKS) != rollbacks || rollbacks % 2 != 0 {
            continue;
        }
        let freed = free_places(&mut tx)?;
        let done = tx.global(G_GONE) == gone && swept && freed;
        if done {
            tx.set_global(G_SWEPT, gone);
        }
        tx.commit();
        if done {
            return Ok(());
        }
    }
    // Others undo it as fast, or shared memory makes no sense: the keeper tries again.
    Ok(())
}

/// Frees the void messages at the heads of the READY queues: what came later is behind them.
fn sweep_ready(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    for place in 0..registry::groups(ctl) {
        while ctl.load(ctl.layout.group(place, P_READY)) != 0 {
            let mut tx = ctl.begin(ctl.patience())?;
            let freed = free_ready(&mut tx, place)?;
            tx.commit();
            if freed < STEP {
                break;
            }
        }
    }
    Ok(())
}

/// Frees void messages at the head of a group's READY queue, a bounded number.
pub(super) fn free_ready(tx: &mut Tx<'_>, group: u32) -> Result<usize> {
    let mut parked = PARKED;
    for freed in 0..STEP {
        match slot::ready_first(tx, group)? {
            Some(slot) if is_void(tx.ctl, group, slot::message(tx, slot).0) => {
                if !free_parked(tx, slot, group, &mut parked)? {
                    return Ok(STEP);
                }
                slot::ready_pop(tx, group)?;
                free(tx, slot)?;
            }
            _ => return Ok(freed),
        }
    }
    Ok(STEP)
}

/// Frees void slots that are leased or wait, and what is parked behind them. Found without the
/// lock, checked under it. Whether none was left behind.
fn sweep_others(log: &Log) -> Result<bool> {
    let ctl = &log.ctl;
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    let (mut slot, mut all) = (0, true);
    while slot < top {
        let mut some = Vec::new();
        while slot < top && some.len() < STEP {
            if void_in(ctl, slot).is_some() {
                some.push(slot);
            }
            slot += 1;
        }
        for &slot in &some {
            sweep_behind(log, slot)?;
        }
        if !some.is_empty() {
            let mut tx = ctl.begin(ctl.patience())?;
            for slot in some {
                all &= free_other(&mut tx, slot)?;
            }
            tx.commit();
        }
    }
    Ok(all)
}

/// Frees what is void and parked behind a void message that is leased or waits.
fn sweep_behind(log: &Log, slot: u32) -> Result<()> {
    let ctl = &log.ctl;
    while ctl.load(ctl.layout.slot(slot, S_CHAIN)) != 0 {
        let mut tx = ctl.begin(ctl.patience())?;
        let Some((State::Leased | State::Waiting, group)) = void_in(ctl, slot) else {
            return Ok(());
        };
        let none_left = free_parked(&mut tx, slot, group, &mut { PARKED })?;
        tx.commit();
        if none_left {
            return Ok(());
        }
    }
    Ok(())
}

/// Frees a slot if it is void, leased or waiting, and nothing void is parked behind it: else false.
fn free_other(tx: &mut Tx<'_>, slot: u32) -> Result<bool> {
    match void_in(tx.ctl, slot) {
        Some((state @ (State::Leased | State::Waiting), group)) => {
            if !free_parked(tx, slot, group, &mut 0)? {
                return Ok(false);
            }
            slot::wheel_remove(tx, slot)?;
            slot::uncount(tx, group, state);
            free(tx, slot)?;
        }
        Some((State::Removed, group)) => {
            slot::sub(tx, tx.ctl.layout.group(group, P_REMOVED), 1);
            let head = slot::head(tx, slot)?;
            slot::free(tx, slot, head);
        }
        Some((State::Settled, group)) => coalesced::forget(tx, slot, group)?,
        _ => {}
    }
    Ok(true)
}

/// Makes the places of deleted groups free that have no slot any more, a bounded number. Whether
/// there are no others.
fn free_places(tx: &mut Tx<'_>) -> Result<bool> {
    let ctl = tx.ctl;
    let dying: Vec<u32> = (0..registry::groups(ctl))
        .filter(|&place| is_dying(ctl.load(ctl.layout.group(place, P_STATE))))
        .collect();
    for &place in dying.iter().take(PLACES) {
        let word = |w| ctl.load(ctl.layout.group(place, w));
        let counts = [P_READY, P_LEASED, P_WAITING, P_PARKED, P_SETTLED, P_REMOVED];
        if counts.iter().any(|&w| word(w) != 0) {
            return Ok(false);
        }
        tags::forget(tx, place)?;
        let id = group_at(ctl, place);
        tx.set(ctl.layout.group(place, P_STATE), state_word(id, Life::Free));
    }
    Ok(dying.len() <= PLACES)
}
