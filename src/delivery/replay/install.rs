//! The state of a replay, written into fresh shared memory.

use super::Model;
use crate::commitlog::Log;
use crate::commitlog::read::ReadAhead;
use crate::delivery::progress::{Group, Tries};
use crate::delivery::slot::{self, Head, Owner, State};
use crate::delivery::{kept, limits, order, pick, places, producers, registry, removed, tags};
use crate::error::Result;
use crate::format::name;
use crate::format::payload::{self, Gap, GroupConfig};
use crate::shm::Tx;
use crate::shm::control::{
    P_CURSOR, P_GENERATION, P_LOST, P_LOST_COUNT, P_START, S_LSN, S_OWNER, S_SEQ,
};
use crate::shm::id::place_of;

impl Model {
    /// Writes the state into fresh shared memory. Its index must be usable: the catalog's words
    /// are set. Nobody else sees it yet.
    pub(crate) fn install(&self, log: &Log) -> Result<()> {
        let ctl = &log.ctl;
        let mut tx = ctl.begin(ctl.patience())?;
        limits::enter_store(&mut tx, self.store.0, self.store.1);
        tx.commit();
        for (&(group, place), &id) in &self.used {
            let geometry = ctl.layout.geometry;
            let most = if group {
                geometry.groups
            } else {
                geometry.topics
            };
            if place < most {
                let mut tx = ctl.begin(ctl.patience())?;
                places::enter_used(&mut tx, group, id);
                tx.commit();
            }
        }
        for (&id, topic) in &self.topics {
            self.in_bounds(ctl.layout.geometry.topics, place_of(id), log)?;
            let mut tx = ctl.begin(ctl.patience())?;
            let flags = u64::from(topic.flags);
            registry::enter_topic(&mut tx, id, &topic.name, flags, topic.first, topic.next);
            if let Some((options, kept)) = &topic.limits {
                kept::enter(&mut tx, id, options, *kept);
            }
            tx.commit();
        }
        let most = ctl.layout.geometry.producers;
        for (id, (name, producer)) in (0..).zip(producers::that_fit(&self.producers, most)) {
            producer.install(log, id, name)?;
        }
        for (&id, group) in &self.groups {
            self.in_bounds(ctl.layout.geometry.groups, place_of(id), log)?;
            self.install_group(log, id, group)?;
        }
        Ok(())
    }

    /// Messages that were outstanding, and that no index knows any more: their copies are damaged,
    /// and so is what listed them.
    pub(crate) fn missing(&self, log: &Log) -> Result<Vec<Gap>> {
        let mut missing = Vec::new();
        for group in self.groups.values() {
            let stream = group.topic;
            for &seq in group.tries.keys().filter(|&&seq| group.is_unsettled(seq)) {
                let known = self.gaps.iter().chain(&missing).any(|gap: &Gap| {
                    gap.stream == stream && (gap.first..gap.first + gap.count).contains(&seq)
                });
                let listed = || log.candidates(stream, seq, 1);
                if !known && listed()?.first().is_none_or(|(found, _)| *found != seq) {
                    missing.push(Gap {
                        stream,
                        first: seq,
                        count: 1,
                    });
                }
            }
        }
        Ok(missing)
    }

    /// Marks in shared memory which groups must be told of newly found gaps.
    pub(crate) fn tell_groups(&self, log: &Log) -> Result<()> {
        let ctl = &log.ctl;
        for gap in &self.gaps {
            for (&id, group) in self.groups.iter().filter(|(_, g)| g.topic == gap.stream) {
                let Some((from, lost)) = group.unsettled_in(gap.first, gap.count) else {
                    continue;
                };
                let mut tx = ctl.begin(ctl.patience())?;
                let (first, count) = (
                    ctl.layout.group(id, P_LOST),
                    ctl.layout.group(id, P_LOST_COUNT),
                );
                let known = tx.get(count);
                let start = if known == 0 {
                    from
                } else {
                    tx.get(first).min(from)
                };
                tx.set(first, start);
                tx.set(count, known + lost);
                tx.commit();
            }
        }
        Ok(())
    }

    fn in_bounds(&self, most: u32, id: u32, log: &Log) -> Result<()> {
        if id < most {
            return Ok(());
        }
        Err(crate::Error::new(
            crate::Code::Corrupt,
            format!("the log names a topic, group or producer {id}, but the store has {most}"),
        )
        .at_path(log.dir.display(crate::commitlog::LOG_DIR)))
    }

    fn install_group(&self, log: &Log, id: u32, group: &Group) -> Result<()> {
        let ctl = &log.ctl;
        let at = |word| ctl.layout.group(id, word);
        let mut tx = ctl.begin(ctl.patience())?;
        self.in_bounds(ctl.layout.geometry.topics, place_of(group.topic), log)?;
        registry::enter_group(
            &mut tx,
            id,
            group.topic,
            &group.name,
            &group.config,
            group.cursor,
        );
        tx.set(at(P_START), group.start);
        tx.set(at(P_GENERATION), u64::from(group.generation));
        if let Some((first, count)) = group.lost {
            tx.set(at(P_LOST), first);
            tx.set(at(P_LOST_COUNT), count);
        }
        tx.set(at(P_CURSOR), group.cursor);
        let tags: Vec<String> = group.tags.iter().cloned().collect();
        if tags.len() > payload::MAX_TAGS {
            return Err(crate::Error::new(
                crate::Code::Corrupt,
                format!("the log gives group {} {} tags", group.name, tags.len()),
            )
            .at_path(log.dir.display(crate::commitlog::LOG_DIR)));
        }
        tags::store(&mut tx, id, &tags, group.tags_version)?;
        tx.commit();
        self.install_dead_letters(log, id, group)?;
        let ordered = group.config.flags & GroupConfig::ORDERED != 0;
        let mut ahead = ReadAhead::default();
        for (&from, &to) in &group.unsettled {
            let mut next = from;
            while next < to {
                let most = usize::try_from(to - next).unwrap_or(256).min(256);
                let some = log.candidates(group.topic, next, most)?;
                let Some(&(last, _)) = some.last() else { break };
                for (seq, lsn) in some.into_iter().filter(|(seq, _)| *seq < to) {
                    let tries = group.tries.get(&seq).copied().unwrap_or_default();
                    let key = if ordered && !broken!(OrderLostInRecovery) {
                        pick::key_of(log, group.topic, (seq, lsn), &mut ahead)?
                    } else {
                        0
                    };
                    install_message(log, id, (seq, lsn), (tries, key))?;
                }
                next = last + 1;
            }
        }
        Ok(())
    }
}

impl Model {
    /// Connects a group with its dead-letter stream: what was purged there, and how many are left.
    fn install_dead_letters(&self, log: &Log, id: u32, group: &Group) -> Result<()> {
        let Some(topic) = self.topics.get(&group.topic) else {
            return Ok(());
        };
        let name = name::dlq_name(&topic.name, &group.name);
        let Some((&stream, found)) = self.topics.iter().find(|(_, t)| t.name == name) else {
            return Ok(());
        };
        let runs = self.removed.get(&id).into_iter().flatten();
        let runs: Vec<removed::Range> = runs.map(|(&from, &to)| (from, to)).collect();
        removed::install(log, (id, stream), (found.first, found.next), &runs)
    }
}

fn install_message(
    log: &Log,
    group: u32,
    (seq, lsn): (u64, u64),
    (tries, key): (Tries, u64),
) -> Result<()> {
    let ctl = &log.ctl;
    let mut tx = ctl.begin(ctl.patience())?;
    let Some(slot) = slot::allocate(&mut tx)? else {
        return Err(crate::Error::new(
            crate::Code::Corrupt,
            "the log holds more outstanding messages than the store has slots",
        )
        .at_path(log.dir.display(crate::commitlog::LOG_DIR)));
    };
    tx.set(ctl.layout.slot(slot, S_SEQ), seq);
    tx.set(ctl.layout.slot(slot, S_LSN), lsn);
    tx.set(
        ctl.layout.slot(slot, S_OWNER),
        Owner {
            group,
            member: None,
        }
        .pack(),
    );
    let waits = tries.due_ms.saturating_sub(ctl.host.realtime_ms());
    enter_list(&mut tx, (slot, key), group, tries, waits)?;
    tx.commit();
    Ok(())
}

fn enter_list(
    tx: &mut Tx<'_>,
    (slot, key): (u32, u64),
    group: u32,
    tries: Tries,
    waits: u64,
) -> Result<()> {
    let head = Head {
        generation: slot::head(tx, slot)?.generation,
        attempts: u16::try_from(tries.attempts).unwrap_or(u16::MAX),
        crashes: u8::try_from(tries.crashes).unwrap_or(u8::MAX),
        state: if waits == 0 {
            State::Ready
        } else {
            State::Waiting
        },
    };
    slot::set_head(tx, slot, head);
    if key != 0 && order::enter(tx, group, key, slot)? {
        return Ok(());
    }
    if waits == 0 {
        return slot::ready_push(tx, group, slot);
    }
    // A clock that was set back must not hold a message for longer than the longest back-off.
    let longest = u64::try_from(crate::options::limits::LEASE.as_millis()).unwrap_or(u64::MAX);
    let waits = waits.min(longest);
    let due = tx.ctl.host.boottime_ms() + waits;
    slot::wheel_insert(tx, slot, due)?;
    slot::count(tx, group, State::Waiting);
    Ok(())
}
