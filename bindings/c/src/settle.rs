//! Settling what was received: by its message, or by a receipt from anywhere.

use crate::error::{KEEPQ_OK, guard, keepq_rc};
use crate::msg::{self, keepq_msg};
use crate::opts::negative;
use crate::store::{keepq, store};
use crate::text;
use engine::{Receipt, Result};
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

/// Done with the message: it is not delivered to this group again. Free it afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_ack(m: *mut keepq_msg) -> keepq_rc {
    guard(|| msg::entry(m)?.delivery.ack().map(|()| KEEPQ_OK))
}

/// Not done: deliver it again after delay_ms; -1 = after the group's back-off, 0 = at once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_nack(m: *mut keepq_msg, delay_ms: i64) -> keepq_rc {
    guard(|| {
        let delay = delay(delay_ms)?;
        msg::entry(m)?.delivery.nack(delay).map(|()| KEEPQ_OK)
    })
}

/// Never deliver it to this group again: it becomes a dead letter, with this reason (UTF-8, at most
/// 1024 bytes).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_reject(m: *mut keepq_msg, reason: *const c_char) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a string.
        let reason = unsafe { text::required(reason, "reason") }?;
        msg::entry(m)?.delivery.reject(reason).map(|()| KEEPQ_OK)
    })
}

/// Keeps the message for ms more, from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_extend(m: *mut keepq_msg, ms: i64) -> keepq_rc {
    guard(|| {
        let lease = lease(ms)?;
        msg::entry(m)?.delivery.extend(lease).map(|()| KEEPQ_OK)
    })
}

/// # Safety
/// `receipt` is NULL or a string.
unsafe fn receipt(receipt: *const c_char) -> Result<Receipt> {
    // SAFETY: the caller's promise.
    unsafe { text::required(receipt, "receipt") }?.parse()
}

/// keepq_ack by receipt, also for a message another process received.
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
