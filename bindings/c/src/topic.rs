//! Topics: their options, purging and deleting them.

use crate::error::{KEEPQ_OK, guard, keepq_rc};
use crate::sized;
use crate::store::{keepq, store};
use crate::text;
use crate::topic_opts::keepq_topic_opts;
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
/// Makes a topic with these options, durably. A send makes a topic, too, but without limits. Of a
/// topic that is there, an option that is set and differs is KEEPQ_E_CONFIG_MISMATCH;
/// keepq_topic_configure changes it. opts may be NULL. There is no handle: topics are known by
/// their names.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also options for a
/// stream of dead letters, which has none), KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE,
/// KEEPQ_E_CONFIG_MISMATCH, KEEPQ_E_NOT_FOUND (the store is open to look only, and it is not
/// there); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topic_create(
    q: *mut keepq,
    topic: *const c_char,
    opts: *const keepq_topic_opts,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string and the struct.
        let (name, opts) = unsafe { (text::required(topic, "topic")?, sized::read(opts)?) };
        opts.apply(entry.store.topic_with(name))?.open()?;
        Ok(KEEPQ_OK)
    })
}

/// Changes options of a topic, for every process, durably; what is 0 stays as it is. A limit below
/// what is kept takes nothing away: sends are refused or wait until there is room. The first limit
/// or retention of a topic counts what it keeps already, which takes time in proportion to that.
/// opts may not be NULL.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
/// of dead letters), KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_FOUND,
/// KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topic_configure(
    q: *mut keepq,
    topic: *const c_char,
    opts: *const keepq_topic_opts,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let name = unsafe { text::required(topic, "topic") }?;
        if opts.is_null() {
            return Err(text::null("opts"));
        }
        // SAFETY: the caller promises the struct.
        let opts = unsafe { sized::read(opts) }?;
        let topic = entry.store.existing_topic(name)?;
        opts.change(topic.configure())?.apply()?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with the options that the topic has now; -1 = none. They may be passed on to
/// keepq_topic_create and keepq_topic_configure.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topic_config(
    q: *mut keepq,
    topic: *const c_char,
    out: *mut keepq_topic_opts,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let name = unsafe { text::required(topic, "topic") }?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let config = entry.store.existing_topic(name)?.config()?;
        // SAFETY: the caller promises the struct.
        unsafe { sized::write(out, &keepq_topic_opts::of(&config)) }?;
        Ok(KEEPQ_OK)
    })
}

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
