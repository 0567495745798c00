//! Purging and deleting topics.

use crate::error::{KEEPQ_OK, guard, keepq_rc};
use crate::store::{keepq, store};
use crate::text;
use engine::{Result, Topic};
use std::ffi::c_char;

/// A topic that is there.
///
/// # Safety
/// `topic` is NULL or a string.
unsafe fn existing(q: *const keepq, topic: *const c_char) -> Result<Topic> {
    let entry = store(q)?;
    // SAFETY: the caller's promise.
    let name = unsafe { text::required(topic, "topic") }?;
    entry.store.existing_topic(name)
}

/// ======== Topics ========
///
/// Takes away all messages that the topic has now, for every group, durably: those still to come
/// and those that consumers hold, whose leases are lost. What is sent afterwards stays, and so do
/// dead letters. purged, which may be NULL, gets how many messages some group had not settled; in a
/// topic without groups, how many there were.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
/// of dead letters: keepq_dlq_purge does that), KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND,
/// KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topic_purge(
    q: *mut keepq,
    topic: *const c_char,
    purged: *mut u64,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a string.
        let count = unsafe { existing(q, topic) }?.purge()?;
        // SAFETY: the caller promises a place for the number, or NULL.
        if let Some(purged) = unsafe { purged.as_mut() } {
            *purged = count;
        }
        Ok(KEEPQ_OK)
    })
}

/// Deletes a topic with its messages, its groups and their dead letters, durably. Handles of its
/// groups, in any process, get KEEPQ_E_NOT_FOUND from then on, also a receive that waits, and are
/// still to be closed; so do messages that are settled. The name is free: the next send makes a new
/// topic.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
/// of dead letters), KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topic_delete(q: *mut keepq, topic: *const c_char) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a string.
        unsafe { existing(q, topic) }?.delete()?;
        Ok(KEEPQ_OK)
    })
}
