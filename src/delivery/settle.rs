//! Taking messages back: ack, nack, reject, extend; leases that end by themselves; dead letters.
//!
//! A settlement is fenced by (slot, generation, sequence): every lease has a generation of its
//! own, so the receipt of an earlier delivery fits nothing. What must outlive the processes is a
//! record: ACK (later, where a full disk has no room for one: see [`coalesced`]), RETRY where there
//! is room (it only counts attempts), RELEASE in one BATCH with the ACK of a dead letter, so that
//! it is never in both places or in neither.

use super::bury::{self, Burial, REASON_REJECTED};
use super::putback::{RETRY_LEN, put_back, wake_if_ready};
use super::registry::{self, GROUP_SYNC_ACK};
use super::slot::{self, Freeing, Head, Owner, State};
use super::{claim, coalesced, gone, kept, order};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::{Code, Error, Result};
use crate::format::payload::{Ack, Run, reason};
use crate::format::record::{self, Draft, Kind, padded};
use crate::options::Flush;
use crate::shm::control::{P_FLAGS, P_READY, S_OWNER};
use crate::shm::id::place_of;
use crate::shm::{Ctl, Tx, wake};

/// Names one delivery in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) group: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) seq: u64,
}

/// How a message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// The group's back-off.
    Backoff,
    /// After so many ms; 0 = at once.
    After(u64),
}

fn lease_lost(log: &Log, held: &Held) -> Error {
    if !log.ctl.has_group(held.group) {
        return super::places::group_deleted();
    }
    let group = registry::group_name(&log.ctl, held.group).unwrap_or_default();
    Error::new(
        Code::LeaseLost,
        format!(
            "the lease on sequence {} of group {group} has ended: it expired, was settled already, \
             or its process ended; the message was or will be delivered again, unless it was \
             purged. Extend leases of long work",
            held.seq
        ),
    )
}

/// The slot's head if the delivery still holds its lease.
fn check(tx: &Tx<'_>, held: &Held) -> Result<Option<Head>> {
    if held.slot >= tx.ctl.layout.geometry.slots {
        return Ok(None);
    }
    let head = slot::head(tx, held.slot)?;
    let (seq, _) = slot::message(tx, held.slot);
    let fits = head.state == State::Leased
        && head.generation == held.generation
        && seq == held.seq
        && Owner::unpack(tx.get(tx.ctl.layout.slot(held.slot, S_OWNER))).group
            == place_of(held.group)
        && tx.ctl.has_group(held.group)
        && !gone::is_void(tx.ctl, held.group, seq);
    Ok(fits.then_some(head))
}

/// Ends a lease without saying where the message goes.
fn end_lease(tx: &mut Tx<'_>, held: &Held) -> Result<()> {
    slot::wheel_remove(tx, held.slot)?;
    slot::uncount(tx, held.group, State::Leased);
    Ok(())
}

/// Settles one delivery as done. Returns the LSN that must be durable for the ack to be.
/// The deadline is asked for when something must be waited for. An ack that `flush` does not want
/// to be durable succeeds on a full disk, too.
pub(crate) fn ack(
    log: &Log,
    held: &Held,
    flush: Flush,
    deadline: impl FnOnce() -> u64,
) -> Result<u64> {
    let purpose = purpose_of(flush);
    match settle_with(log, held, (reason::ACKED, purpose), deadline) {
        Err(e) if is_without_room(&e, purpose) => coalesce(log, held),
        settled => settled,
    }
}

/// Settles a delivery whose message damage has taken.
pub(crate) fn lose(log: &Log, held: &Held, deadline: u64) -> Result<u64> {
    let purpose = Purpose::Coalesce;
    match settle_with(log, held, (reason::LOST, purpose), || deadline) {
        Err(e) if is_without_room(&e, purpose) => coalesce(log, held),
        settled => settled,
    }
}

/// What acks are for that are to be so durable.
fn purpose_of(flush: Flush) -> Purpose {
    match flush {
        Flush::Sync => Purpose::Settle,
        Flush::Async => Purpose::Coalesce,
    }
}

/// Whether a settlement found the disk full that can do without a record.
fn is_without_room(error: &Error, purpose: Purpose) -> bool {
    purpose == Purpose::Coalesce && error.code() == Code::Full
}

/// Settles a delivery without a record: see [`coalesced`].
#[cold]
fn coalesce(log: &Log, held: &Held) -> Result<u64> {
    let mut tx = log.ctl.begin(log.ctl.patience())?;
    let Some(head) = check(&tx, held)? else {
        return Err(lease_lost(log, held));
    };
    end_lease(&mut tx, held)?;
    coalesced::keep(&mut tx, held.slot, held.group, head)?;
    tx.commit();
    made_way(log, held.group, 1);
    kept::settled(&log.ctl);
    Ok(0)
}

fn settle_with(
    log: &Log,
    held: &Held,
    (why, purpose): (u8, Purpose),
    deadline: impl FnOnce() -> u64,
) -> Result<u64> {
    match Ack::encode_one(held.seq, why) {
        Some(body) => {
            let mut record = record::short(Kind::Ack, held.group, body);
            settle_by(log, held, (&mut record, purpose), deadline)
        }
        None => {
            let ack = Ack {
                runs: vec![Run {
                    first: held.seq,
                    count: 1,
                }],
                reason: why,
            };
            let mut draft = Draft::new(Kind::Ack, 0, held.group, &[], &[&ack.encode()]);
            settle_by(log, held, (&mut draft.bytes, purpose), deadline)
        }
    }
}

/// So many messages of the group are settled: wakes a consumer if that lets another one go, which
/// was parked behind one of them or for which there was no room.
#[inline]
pub(super) fn made_way(log: &Log, group: u32, settled: u64) {
    let ctl = &log.ctl;
    if wake::group_is_armed(ctl, group)
        && (ctl.load(ctl.layout.group(group, P_READY)) > 0
            || claim::left_its_cap(ctl, group, settled))
    {
        wake::wake_group(ctl, group);
    }
}

/// Settles a delivery by this ACK record.
fn settle_by(
    log: &Log,
    held: &Held,
    (record, purpose): (&mut [u8], Purpose),
    deadline: impl FnOnce() -> u64,
) -> Result<u64> {
    let need = Need::new(record.len(), 0, purpose);
    let end = log.transact_soon(need, deadline, |tx| {
        let Some(head) = check(tx, held)? else {
            return Err(lease_lost(log, held));
        };
        let lsn = log.append(tx, record, 0);
        end_lease(tx, held)?;
        order::settled(tx, held.slot, head)?;
        Ok(lsn + record.len() as u64)
    })?;
    made_way(log, held.group, 1);
    kept::settled(&log.ctl);
    Ok(end)
}

/// The record that notes that consumers were told of a loss.
pub(crate) fn told_draft(group: u32, first: u64, count: u64) -> Draft {
    let ack = Ack {
        runs: vec![Run {
            first,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }],
        reason: reason::TOLD,
    };
    Draft::new(Kind::Ack, 0, group, &[], &[&ack.encode()])
}

/// Settles deliveries of one group as done, in one record. One result each; the LSN as in [`ack`].
pub(crate) fn ack_many(
    log: &Log,
    held: &[Held],
    (group, flush): (u32, Flush),
    deadline: u64,
) -> (Vec<Result<()>>, u64) {
    let purpose = purpose_of(flush);
    let mut results: Vec<Result<()>> = Vec::with_capacity(held.len());
    let mut end = 0;
    for piece in held.chunks(128) {
        let acked = match ack_piece(log, piece, (group, purpose), deadline) {
            Err(e) if is_without_room(&e, purpose) => coalesce_piece(log, piece, group),
            acked => acked,
        };
        match acked {
            Ok((fits, lsn)) => {
                end = end.max(lsn);
                made_way(log, group, piece.len() as u64);
                results.extend(piece.iter().zip(fits).map(|(held, fits)| {
                    if fits {
                        Ok(())
                    } else {
                        Err(lease_lost(log, held))
                    }
                }));
            }
            Err(e) => results.extend(piece.iter().map(|_| Err(e.clone()))),
        }
    }
    kept::settled(&log.ctl);
    (results, end)
}

/// As [`coalesce`], of many deliveries: which of them had their lease.
#[cold]
fn coalesce_piece(log: &Log, held: &[Held], group: u32) -> Result<(Vec<bool>, u64)> {
    let mut tx = log.ctl.begin(log.ctl.patience())?;
    let mut fits = Vec::with_capacity(held.len());
    for one in held {
        let head = check(&tx, one)?.filter(|_| one.group == group);
        fits.push(head.is_some());
        if let Some(head) = head {
            end_lease(&mut tx, one)?;
            coalesced::keep(&mut tx, one.slot, group, head)?;
        }
    }
    tx.commit();
    Ok((fits, 0))
}

fn ack_piece(
    log: &Log,
    held: &[Held],
    (group, purpose): (u32, Purpose),
    deadline: u64,
) -> Result<(Vec<bool>, u64)> {
    let most = padded(64 + held.len() * 12);
    let need = Need::new(most, 0, purpose);
    log.transact(need, deadline, |tx| {
        let mut fits = Vec::with_capacity(held.len());
        let mut seqs = Vec::with_capacity(held.len());
        let mut freeing = Freeing::new(tx);
        for one in held {
            let head = check(tx, one)?.filter(|_| one.group == group);
            fits.push(head.is_some());
            if let Some(head) = head {
                order::leave(tx, one.slot)?;
                freeing.free(tx, one.slot, head)?;
                seqs.push(one.seq);
            }
        }
        if seqs.is_empty() {
            return Ok((fits, 0));
        }
        freeing.finish(tx, group)?;
        seqs.sort_unstable();
        let ack = Ack {
            runs: runs(&seqs),
            reason: reason::ACKED,
        };
        let mut draft = Draft::new(Kind::Ack, 0, group, &[], &[&ack.encode()]);
        let lsn = log.append(tx, &mut draft.bytes, 0);
        Ok((fits, lsn + draft.bytes.len() as u64))
    })
}

/// Joins consecutive sequences. `seqs` ascend.
pub(super) fn runs(seqs: &[u64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &seq in seqs {
        match runs.last_mut() {
            Some(run) if run.first + u64::from(run.count) == seq => run.count += 1,
            _ => runs.push(Run {
                first: seq,
                count: 1,
            }),
        }
    }
    runs
}

/// How durable acks of the group are when they return.
pub(crate) fn ack_flush(ctl: &Ctl, group: u32) -> Flush {
    if ctl.load(ctl.layout.group(group, P_FLAGS)) & GROUP_SYNC_ACK != 0 {
        Flush::Sync
    } else {
        Flush::Async
    }
}

/// Puts a message back for another attempt, or among the dead letters if it had its last.
pub(crate) fn nack(log: &Log, held: &Held, back: Return, deadline: u64) -> Result<()> {
    let need = Need::new(RETRY_LEN, 0, Purpose::Coalesce);
    let put_back = |tx: &mut Tx<'_>| {
        let Some(head) = check(tx, held)? else {
            return Err(lease_lost(log, held));
        };
        end_lease(tx, held)?;
        put_back(log, tx, held.slot, held.group, head, back)
    };
    let exhausted = match log.transact(need, deadline, put_back) {
        Err(e) if is_without_room(&e, need.purpose) => {
            let mut tx = log.ctl.begin(deadline)?;
            let exhausted = put_back(&mut tx)?;
            tx.commit();
            exhausted
        }
        exhausted => exhausted?,
    };
    wake_if_ready(log, held.group);
    if exhausted {
        // Ready with no attempt left: if this fails, the next receive does it.
        let _ = bury::bury_or_postpone(log, held.slot, held.group, held.seq, deadline);
    }
    Ok(())
}

/// Gives a message up: it goes to the dead letters now.
pub(crate) fn reject(log: &Log, held: &Held, why: &str, deadline: u64) -> Result<u64> {
    if !bury::has_dead_letters(&log.ctl, held.group) {
        return Err(Error::new(
            Code::InvalidArgument,
            "a message of keepq's own streams cannot be rejected; ack it to drop it",
        ));
    }
    let stream = bury::dead_letter_topic(log, held.group, deadline)?;
    let burial = Burial {
        group: held.group,
        stream,
        code: REASON_REJECTED,
        reason: why,
        purpose: Purpose::Settle,
    };
    burial.run(log, deadline, |tx| {
        let Some(head) = check(tx, held)? else {
            return Err(lease_lost(log, held));
        };
        end_lease(tx, held)?;
        Ok(Some((held.slot, head)))
    })
}

/// Moves a lease's end to `ms` from now.
pub(crate) fn extend(log: &Log, held: &Held, ms: u64, deadline: u64) -> Result<()> {
    let now = log.ctl.host.boottime_ms();
    let mut tx = log.ctl.begin(deadline)?;
    if check(&tx, held)?.is_none() {
        return Err(lease_lost(log, held));
    }
    slot::wheel_remove(&mut tx, held.slot)?;
    slot::wheel_insert(&mut tx, held.slot, now.saturating_add(ms))?;
    tx.commit();
    Ok(())
}

/// Whether a delivery still holds its lease.
pub(crate) fn is_held(log: &Log, held: &Held) -> Result<bool> {
    let tx = log.ctl.begin(log.ctl.patience())?;
    Ok(check(&tx, held)?.is_some())
}

/// Makes a lease outlive its process.
pub(crate) fn detach(log: &Log, held: &Held) -> Result<()> {
    let mut tx = log.ctl.begin(log.ctl.patience())?;
    if check(&tx, held)?.is_none() {
        return Err(lease_lost(log, held));
    }
    let at = log.ctl.layout.slot(held.slot, S_OWNER);
    tx.set(
        at,
        Owner {
            group: held.group,
            member: None,
        }
        .pack(),
    );
    tx.commit();
    Ok(())
}
