//! Settling what was received: by its message, or by a receipt from anywhere.

use crate::error::{KEEPQ_OK, guard, keepq_rc, rc_of};
use crate::handle::Used;
use crate::msg::{self, MsgEntry, keepq_msg};
use crate::opts::negative;
use crate::store::{keepq, store};
use crate::text;
use engine::{Code, Delivery, Error, Receipt, Result};
use std::ffi::c_char;
use std::time::Duration;

/// A delay of a nack: -1 = the group's back-off, 0 = at once.
fn delay(ms: i64) -> Result<Option<Duration>> {
    match u64::try_from(ms) {
        Ok(ms) => Ok(Some(Duration::from_millis(ms))),
        Err(_) if ms == -1 => Ok(None),
        Err(_) => Err(negative("delay_ms", ms)),
    }
}

fn lease(ms: i64) -> Result<Duration> {
    u64::try_from(ms)
        .map(Duration::from_millis)
        .map_err(|_| negative("ms", ms))
}

/// ======== Settling ========
///
/// Done with the message: it is not delivered to this group again. Free it afterwards. When it
/// returns, that survives the death of every process, and with ack_flush sync power loss too.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (m
/// was not received), KEEPQ_E_LEASE_LOST (it was or will be delivered again, or is settled
/// already), with ack_flush sync KEEPQ_E_FLUSH_TIMEOUT (done, not known to be on disk); the
/// disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_ack(m: *mut keepq_msg) -> keepq_rc {
    guard(|| {
        msg::entry(m)?
            .received()?
            .delivery()
            .ack()
            .map(|()| KEEPQ_OK)
    })
}

/// Not done: deliver it again after delay_ms; -1 = after the group's back-off, 0 = at once. With no
/// attempt left it becomes a dead letter.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED (over 30 days); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_nack(m: *mut keepq_msg, delay_ms: i64) -> keepq_rc {
    guard(|| {
        let entry = msg::entry(m)?;
        let delivery = entry.received()?.delivery();
        delivery.nack(delay(delay_ms)?).map(|()| KEEPQ_OK)
    })
}

/// Never deliver it to this group again: it becomes a dead letter, with this reason (UTF-8, at most
/// 1024 bytes).
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED (the reason); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_reject(m: *mut keepq_msg, reason: *const c_char) -> keepq_rc {
    guard(|| {
        let entry = msg::entry(m)?;
        let delivery = entry.received()?.delivery();
        // SAFETY: the caller promises a string.
        let reason = unsafe { text::required(reason, "reason") }?;
        delivery.reject(reason).map(|()| KEEPQ_OK)
    })
}

/// Makes the lease end ms from now on, at most 30 days.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_extend(m: *mut keepq_msg, ms: i64) -> keepq_rc {
    guard(|| {
        let entry = msg::entry(m)?;
        let delivery = entry.received()?.delivery();
        delivery.extend(lease(ms)?).map(|()| KEEPQ_OK)
    })
}

/// keepq_ack for n messages, of one group or several, with one flush for each group. Each has its
/// own result: each[i] for msgs[i]; each may be NULL. Returns 0 if all are acked, else the error of
/// the first that is not. The messages are still to be freed.
///
/// Errors: KEEPQ_E_INVALID_ARGUMENT when msgs is NULL (nothing is acked); else one of keepq_ack's:
/// KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_LEASE_LOST; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_ack_many(
    msgs: *mut *mut keepq_msg,
    n: usize,
    each: *mut keepq_rc,
) -> keepq_rc {
    guard(|| {
        if msgs.is_null() && n > 0 {
            return Err(text::null("msgs"));
        }
        // SAFETY: below `n`: the caller's promise.
        let entries: Vec<_> = (0..n)
            .map(|i| msg::entry(unsafe { *msgs.add(i) }))
            .collect();
        let mut results: Vec<Option<Result<()>>> = entries.iter().map(wrong).collect();
        for first in 0..n {
            if results[first].is_none() {
                ack_with_group_of(first, &entries, &mut results);
            }
        }
        let mut first_error = None;
        for (i, result) in results.into_iter().enumerate() {
            let error = result.and_then(Result::err);
            let rc = error.as_ref().map_or(KEEPQ_OK, |e| rc_of(e.code()));
            if !each.is_null() {
                // SAFETY: not NULL, so it has room for `n` numbers: the caller's promise.
                unsafe { each.add(i).write(rc) };
            }
            first_error = first_error.or(error);
        }
        first_error.map_or(Ok(KEEPQ_OK), Err)
    })
}

/// Why it cannot be acked at all; None if it can.
fn wrong(entry: &Result<Used<'_, MsgEntry>>) -> Option<Result<()>> {
    match entry {
        Ok(entry) => entry.received().err().map(Err),
        Err(e) => Some(Err(e.clone())),
    }
}

/// Acks the messages from `first` on that were received by the same group and have no result yet.
fn ack_with_group_of(
    first: usize,
    entries: &[Result<Used<'_, MsgEntry>>],
    results: &mut [Option<Result<()>>],
) {
    let received = |i: usize| entries[i].as_ref().ok().and_then(|e| e.received().ok());
    let Some(one) = received(first) else { return };
    let same: Vec<(usize, &Delivery)> = (first..entries.len())
        .filter(|&i| results[i].is_none())
        .filter_map(|i| {
            received(i)
                .filter(|r| r.by == one.by)
                .map(|r| (i, r.delivery()))
        })
        .collect();
    let acked = one
        .group
        .ack_many(same.iter().map(|(_, delivery)| *delivery));
    for ((i, _), result) in same.iter().zip(acked) {
        results[*i] = Some(result);
    }
    // The engine gives one result each; should it not, the loop that calls this must still end.
    let missing = || Error::new(Code::Internal, "an ack of many gave too few results");
    results[first].get_or_insert_with(|| Err(missing()));
}

/// # Safety
/// `receipt` is NULL or a string.
unsafe fn receipt(receipt: *const c_char) -> Result<Receipt> {
    // SAFETY: the caller's promise.
    unsafe { text::required(receipt, "receipt") }?.parse()
}

/// keepq_ack by receipt: also for a message that another process received.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_ack_receipt(q: *mut keepq, receipt: *const c_char) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let receipt = unsafe { self::receipt(receipt) }?;
        entry.store.ack(&receipt).map(|()| KEEPQ_OK)
    })
}

/// keepq_nack by receipt.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_nack_receipt(
    q: *mut keepq,
    receipt: *const c_char,
    delay_ms: i64,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let receipt = unsafe { self::receipt(receipt) }?;
        entry
            .store
            .nack(&receipt, delay(delay_ms)?)
            .map(|()| KEEPQ_OK)
    })
}

/// keepq_reject by receipt.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_reject_receipt(
    q: *mut keepq,
    receipt: *const c_char,
    reason: *const c_char,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises strings.
        let (receipt, reason) =
            unsafe { (self::receipt(receipt)?, text::required(reason, "reason")?) };
        entry.store.reject(&receipt, reason).map(|()| KEEPQ_OK)
    })
}

/// keepq_extend by receipt.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_extend_receipt(
    q: *mut keepq,
    receipt: *const c_char,
    ms: i64,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let receipt = unsafe { self::receipt(receipt) }?;
        entry.store.extend(&receipt, lease(ms)?).map(|()| KEEPQ_OK)
    })
}
