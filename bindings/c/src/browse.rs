//! Looking at messages and dead letters without receiving them; removing dead letters.

use crate::error::{KEEPQ_OK, guard, keepq_rc};
use crate::group::{self, keepq_group};
use crate::msg::{self, keepq_msg};
use crate::sized::{self, SizedStruct};
use crate::store::{keepq, store};
use crate::text;
use engine::{Code, Error, Result, limits};
use std::ffi::c_char;
use std::mem::size_of;
use std::ptr;

/// How a message became a dead letter. Start it with KEEPQ_DEAD_INFO_INIT. The strings belong to
/// the message.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_dead_info {
    /// sizeof(keepq_dead_info).
    pub size: usize,
    /// Its sequence in the topic it was sent to.
    pub topic_seq: u64,
    /// When it was given up, ms since 1970 UTC.
    pub dead_at_ms: i64,
    /// How often it had been delivered.
    pub attempts: u32,
    /// 1 = a consumer rejected it, 0 = its attempts were used up.
    pub rejected: i32,
    /// The topic it was sent to.
    pub topic: *const c_char,
    /// Why: the reason of the reject, or that no attempt was left.
    pub reason: *const c_char,
}

// SAFETY: repr(C), size first; integers and raw pointers.
unsafe impl SizedStruct for keepq_dead_info {
    const NAME: &'static str = "keepq_dead_info";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        topic_seq: 0,
        dead_at_ms: 0,
        attempts: 0,
        rejected: 0,
        topic: ptr::null(),
        reason: ptr::null(),
    };
}

fn check_cap(cap: usize) -> Result<()> {
    if cap <= limits::RECEIVE_BATCH {
        return Ok(());
    }
    let text = format!("cap is {cap}; at most {} at a time", limits::RECEIVE_BATCH);
    Err(Error::new(Code::LimitExceeded, text))
}

/// ======== Looking without receiving ========
///
/// Reads up to cap messages of a topic, in order, from sequence from_seq on, without receiving
/// them: nothing is claimed and nothing changes. out has room for cap handles (1 to 1024), of which
/// *n are set; each is to be freed. KEEPQ_EMPTY when there are none from there on. Go on with the
/// sequence of the last one plus 1. A message that damage has taken is among them; keepq_msg_check
/// tells.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND, KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_browse(
    q: *mut keepq,
    topic: *const c_char,
    from_seq: u64,
    out: *mut *mut keepq_msg,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the number.
        unsafe { text::clear(n, 0) };
        let entry = store(q)?;
        msg::check_room((out, cap, n))?;
        // SAFETY: the caller promises a string.
        let topic = unsafe { text::required(topic, "topic") }?;
        check_cap(cap)?;
        let found = entry.store.existing_topic(topic)?.browse().from(from_seq);
        let handles = found.take(cap).map(|found| msg::browsed(found?));
        // SAFETY: checked above.
        unsafe { msg::hand_out(handles, (out, cap, n)) }
    })
}

/// As keepq_browse, for the dead letters of a group: messages that were rejected, or failed
/// max_attempts times. from_seq counts among the dead letters. keepq_msg_dead_info tells why and
/// when.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_dlq_browse(
    g: *mut keepq_group,
    from_seq: u64,
    out: *mut *mut keepq_msg,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the number.
        unsafe { text::clear(n, 0) };
        let entry = group::entry(g)?;
        msg::check_room((out, cap, n))?;
        check_cap(cap)?;
        let found = entry.group.dead_letters().browse().from(from_seq);
        let handles = found.take(cap).map(|found| msg::dead(found?));
        // SAFETY: checked above.
        unsafe { msg::hand_out(handles, (out, cap, n)) }
    })
}

/// Fills out with how a message from keepq_dlq_browse became a dead letter.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also of another message), KEEPQ_E_CORRUPT
/// (damage has taken the note of it).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_dead_info(
    m: *const keepq_msg,
    out: *mut keepq_dead_info,
) -> keepq_rc {
    guard(|| {
        let entry = msg::entry(m)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let burial = entry.dead()?.burial.as_ref().map_err(Error::clone)?;
        let (topic, reason) = entry.dead_texts();
        let info = keepq_dead_info {
            topic_seq: burial.topic_seq,
            dead_at_ms: i64::try_from(burial.dead_at_ms).unwrap_or(i64::MAX),
            attempts: burial.attempts,
            rejected: i32::from(burial.rejected),
            topic,
            reason,
            ..keepq_dead_info::INIT
        };
        // SAFETY: the caller promises the struct.
        unsafe { sized::write(out, &info) }?;
        Ok(KEEPQ_OK)
    })
}

/// Removes all dead letters of a group that there are now, durably. removed, which may be NULL,
/// gets their number.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_READ_ONLY; the
/// disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_dlq_purge(g: *mut keepq_group, removed: *mut u64) -> keepq_rc {
    guard(|| {
        let purged = group::entry(g)?.group.dead_letters().purge()?;
        // SAFETY: the caller promises a place for the number, or NULL.
        if let Some(removed) = unsafe { removed.as_mut() } {
            *removed = purged;
        }
        Ok(KEEPQ_OK)
    })
}

/// Removes one dead letter, by its sequence (keepq_msg_seq), durably.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_NOT_FOUND,
/// KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_dlq_purge_one(g: *mut keepq_group, seq: u64) -> keepq_rc {
    guard(|| {
        let group = &group::entry(g)?.group;
        if group.dead_letters().purge_one(seq)? {
            return Ok(KEEPQ_OK);
        }
        let text = format!(
            "there is no dead letter {seq} of group {} of topic {}",
            group.name(),
            group.topic()
        );
        Err(Error::new(Code::NotFound, text))
    })
}
