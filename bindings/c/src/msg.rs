//! A received message: what can be read from it, and freeing it.
//!
//! The engine's delivery stays readable after it is settled; only what C wants to end with a NUL
//! byte is copied.

use crate::error::{KEEPQ_OK, c_string, guard, guard_value, keepq_rc};
use crate::handle::Table;
use crate::text;
use engine::{Delivery, Result};
use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// A received message. It belongs to one thread at a time.
pub struct keepq_msg {
    _never_looked_at: [u8; 0],
}

/// Bytes that belong to somebody else: here to the message, until it is freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_bytes {
    /// The first byte; NULL if there is no such thing.
    pub ptr: *const c_void,
    /// How many there are.
    pub len: usize,
}

const NO_BYTES: keepq_bytes = keepq_bytes {
    ptr: ptr::null(),
    len: 0,
};

pub(crate) struct MsgEntry {
    pub(crate) delivery: Delivery,
    id: CString,
    topic: CString,
    key: Option<CString>,
    tag: Option<CString>,
    receipt: CString,
}

static MESSAGES: Table<MsgEntry> = Table::new(3, "message", "keepq_msg_free");

impl MsgEntry {
    fn new(delivery: Delivery) -> Self {
        let own = |s: &str| c_string(s.as_bytes());
        Self {
            id: own(&delivery.id().to_string()),
            topic: own(delivery.topic()),
            key: delivery.key().map(own),
            tag: delivery.tag().map(own),
            receipt: own(&delivery.receipt().to_string()),
            delivery,
        }
    }
}

/// A handle for a delivery. When it cannot be had, the delivery is given back at once.
pub(crate) fn open(delivery: Delivery) -> Result<*mut keepq_msg> {
    Ok(ptr::without_provenance_mut(
        MESSAGES.insert(MsgEntry::new(delivery))?,
    ))
}

/// The message behind a handle.
pub(crate) fn entry(m: *const keepq_msg) -> Result<Arc<MsgEntry>> {
    MESSAGES.get(m.addr())
}

/// Handles that are freed again unless the whole batch of them is handed out.
pub(crate) struct Opened(Vec<*mut keepq_msg>);

impl Opened {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self(Vec::with_capacity(n))
    }

    pub(crate) fn push(&mut self, handle: *mut keepq_msg) {
        self.0.push(handle);
    }

    pub(crate) fn into_all(mut self) -> Vec<*mut keepq_msg> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for handle in &self.0 {
            // Each was opened by us and given to nobody: removing cannot fail.
            let _ = MESSAGES.remove(handle.addr());
        }
    }
}

fn bytes_of(bytes: &[u8]) -> keepq_bytes {
    keepq_bytes {
        ptr: bytes.as_ptr().cast(),
        len: bytes.len(),
    }
}

/// Reads something from a message. What pointers in it point to lives in the table until the
/// message is freed.
fn read<T>(m: *const keepq_msg, none: T, get: impl FnOnce(&MsgEntry) -> T) -> T {
    guard_value(|| Ok(get(&*entry(m)?)), |_| none)
}

/// The body. ptr is NULL only when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_body(m: *const keepq_msg) -> keepq_bytes {
    read(m, NO_BYTES, |e| bytes_of(e.delivery.body()))
}

/// The identity: 16 hexadecimal digits, the same through all attempts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_id(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| e.id.as_ptr())
}

/// The sequence in the topic, from 0; KEEPQ_NO_SEQ when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_seq(m: *const keepq_msg) -> u64 {
    read(m, crate::send::KEEPQ_NO_SEQ, |e| e.delivery.seq())
}

/// The topic's name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_topic(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| e.topic.as_ptr())
}

/// The key; NULL if it has none. A key with a NUL byte in it, as other languages can send it, ends
/// there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_key(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        e.key.as_ref().map_or(ptr::null(), |k| k.as_ptr())
    })
}

/// The tag; NULL if it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_tag(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        e.tag.as_ref().map_or(ptr::null(), |t| t.as_ptr())
    })
}

/// The value of the header with this name; ptr is NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_header(m: *const keepq_msg, name: *const c_char) -> keepq_bytes {
    let find = || {
        let entry = entry(m)?;
        // SAFETY: the caller promises a string.
        let name = unsafe { text::required(name, "name") }?;
        let found = entry.delivery.headers().find(|(n, _)| *n == name);
        Ok(found.map_or(NO_BYTES, |(_, value)| bytes_of(value)))
    };
    guard_value(find, |_| NO_BYTES)
}

/// Which delivery of the message this is, from 1; 0 when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_attempt(m: *const keepq_msg) -> u32 {
    read(m, 0, |e| e.delivery.attempt())
}

/// When it was sent, ms since 1970 UTC; -1 when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_sent_at_ms(m: *const keepq_msg) -> i64 {
    read(m, -1, |e| {
        i64::try_from(e.delivery.sent_at_ms()).unwrap_or(i64::MAX)
    })
}

/// The receipt: text with which any process can settle this delivery.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_receipt(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| e.receipt.as_ptr())
}

/// Frees a message and everything read from it. One that is not settled is given back at once, as
/// by keepq_nack(m, 0).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_free(m: *mut keepq_msg) -> keepq_rc {
    guard(|| {
        MESSAGES.remove(m.addr())?;
        Ok(KEEPQ_OK)
    })
}
