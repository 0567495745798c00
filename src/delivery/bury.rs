//! Dead letters: a message that used up its attempts or was rejected gets a place in the group's
//! dead-letter stream, without being copied, in one BATCH with its ACK.

use super::claim::topic_of;
use super::slot::{self, Head};
use super::{order, putback, registry, settle};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::{Code, Error, Result};
use crate::format::name;
use crate::format::payload::{Ack, BatchBuilder, MAX_REASON, Release, Run, reason};
use crate::format::record::{Draft, Kind, padded};
use crate::shm::control::{P_DEAD, P_DEAD_TOPIC, T_FLAGS, T_NEXT, TOPIC_SYNC};
use crate::shm::{Ctl, Tx};

/// Whether the group's exhausted messages go to a dead-letter stream: not those of keepq's own
/// streams, which nothing catches any more.
pub(crate) fn has_dead_letters(ctl: &Ctl, group: u32) -> bool {
    let topic = ctl.load(ctl.layout.group(group, crate::shm::control::P_TOPIC));
    u32::try_from(topic)
        .ok()
        .and_then(|topic| registry::topic_name(ctl, topic).ok())
        .is_some_and(|name| !name::is_internal(&name))
}

/// After how long a message that has no attempt left is buried, where the disk had no room for it.
const POSTPONED_MS: u64 = 1000;

const REASON_ATTEMPTS: u8 = 1;
pub(crate) const REASON_REJECTED: u8 = 2;

/// The dead-letter stream of a group, made when it is first needed.
pub(crate) fn dead_letter_topic(log: &Log, group: u32, deadline: u64) -> Result<u32> {
    let ctl = &log.ctl;
    super::places::ask_group(ctl, group)?;
    let known = ctl.load(ctl.layout.group(group, P_DEAD_TOPIC));
    if known != 0 {
        return u32::try_from(known - 1).map_err(|_| ctl.damaged("a dead-letter stream"));
    }
    let tx = ctl.begin(deadline)?;
    super::places::check_group(ctl, group)?;
    let topic = topic_of(&tx, group)?;
    let flags = tx.get(ctl.layout.topic(topic, T_FLAGS));
    let name = name::dlq_name(
        &registry::topic_name(ctl, topic)?,
        &registry::group_name(ctl, group)?,
    );
    drop(tx);
    let wanted = super::topics::TopicWanted {
        name: &name,
        flags: flags & TOPIC_SYNC,
        settings: super::limits::TopicSettings::default(),
        dead_of: Some(group),
    };
    super::topics::create(log, &wanted, deadline).map_err(|e| match e.code() {
        // Nothing came of what the stream was wanted for: that is not in the log, as this code says
        // of sends and settlements.
        Code::FlushTimeout => Error::new(
            Code::Timeout,
            format!("the dead-letter stream {name} was not on disk in time; try again"),
        ),
        _ => e,
    })
}

/// Moves the READY message of this slot, which has no attempt left, to the dead letters.
fn bury_ready(log: &Log, slot: u32, group: u32, seq: u64, deadline: u64) -> Result<()> {
    let stream = dead_letter_topic(log, group, deadline)?;
    let why = "no attempt left";
    let burial = Burial {
        group,
        stream,
        code: REASON_ATTEMPTS,
        reason: why,
        purpose: Purpose::Coalesce,
    };
    burial.run(log, deadline, |tx| {
        if slot::ready_first(tx, group)? != Some(slot) || slot::message(tx, slot).0 != seq {
            return Ok(None);
        }
        if !tx.ctl.has_group(group) || super::gone::is_void(tx.ctl, group, seq) {
            return Ok(None);
        }
        let head = slot::head(tx, slot)?;
        slot::ready_pop(tx, group)?;
        Ok(Some((slot, head)))
    })?;
    Ok(())
}

/// As [`bury_ready`]; where the disk has no room for it, the message waits [`POSTPONED_MS`], so
/// that what comes after it goes on.
pub(crate) fn bury_or_postpone(
    log: &Log,
    slot: u32,
    group: u32,
    seq: u64,
    deadline: u64,
) -> Result<()> {
    match bury_ready(log, slot, group, seq, deadline) {
        Err(e) if e.code() == Code::Full => {
            let mut tx = log.ctl.begin(log.ctl.patience())?;
            if slot::ready_first(&tx, group)? == Some(slot) && slot::message(&tx, slot).0 == seq {
                let head = slot::head(&tx, slot)?;
                slot::ready_pop(&mut tx, group)?;
                let due = tx.ctl.host.boottime_ms() + POSTPONED_MS;
                putback::wait_until(&mut tx, slot, group, head, due)?;
            }
            tx.commit();
            Ok(())
        }
        buried => buried,
    }
}

/// The sequence of the message in a slot, as read without the lock.
pub(crate) fn seq_of(log: &Log, slot: u32) -> u64 {
    log.ctl
        .load(log.ctl.layout.slot(slot, crate::shm::control::S_SEQ))
}

pub(super) struct Burial<'a> {
    pub(super) group: u32,
    pub(super) stream: u32,
    pub(super) code: u8,
    pub(super) reason: &'a str,
    pub(super) purpose: Purpose,
}

impl Burial<'_> {
    /// Appends BATCH {ACK, RELEASE} for the message that `take` takes out of its list.
    pub(super) fn run(
        &self,
        log: &Log,
        deadline: u64,
        mut take: impl FnMut(&mut Tx<'_>) -> Result<Option<(u32, Head)>>,
    ) -> Result<u64> {
        let most = padded(40 + 256 + MAX_REASON);
        let need = Need::new(most, 1, self.purpose).with_links(1);
        let end = log.transact(need, deadline, |tx| {
            let Some((slot, head)) = take(tx)? else {
                return Ok(0);
            };
            let (mut draft, origin) = self.draft(tx, slot, head)?;
            let lsn = log.append(tx, &mut draft.bytes, 0);
            let next_at = log.ctl.layout.topic(self.stream, T_NEXT);
            let seq = tx.get(next_at);
            log.index(tx, self.stream, seq, lsn);
            log.note_link(tx, lsn, origin);
            tx.set(next_at, seq + 1);
            slot::add(tx, log.ctl.layout.group(self.group, P_DEAD), 1);
            order::settled(tx, slot, head)?;
            Ok(lsn + draft.bytes.len() as u64)
        })?;
        crate::commitlog::append::wake_topic(log, self.stream);
        settle::made_way(log, self.group, 1);
        super::kept::settled(&log.ctl);
        Ok(end)
    }

    fn draft(&self, tx: &Tx<'_>, slot: u32, head: Head) -> Result<(Draft, u64)> {
        let (seq, origin_lsn) = slot::message(tx, slot);
        let release = Release {
            origin_lsn,
            source_stream: topic_of(tx, self.group)?,
            source_seq: seq,
            group: self.group,
            attempts: u32::from(head.attempts),
            reason_code: self.code,
            dead_at_ms: tx.ctl.host.realtime_ms(),
            reason: self.reason.to_owned(),
        };
        let ack = Ack {
            runs: vec![Run {
                first: seq,
                count: 1,
            }],
            reason: reason::DEAD,
        };
        let next = tx.get(tx.ctl.layout.topic(self.stream, T_NEXT));
        let mut batch = BatchBuilder::new();
        let wrong = |bad| Error::new(Code::Internal, format!("a dead letter's record: {bad}"));
        batch
            .push(Kind::Ack, 0, self.group, 0, &[], &[&ack.encode()])
            .map_err(wrong)?;
        batch
            .push(
                Kind::Release,
                0,
                self.stream,
                next,
                &[],
                &[&release.encode()],
            )
            .map_err(wrong)?;
        Ok((batch.build(), origin_lsn))
    }
}
