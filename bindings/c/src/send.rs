//! Sending.

use crate::error::{
    KEEPQ_OK, KEEPQ_OUTCOME_NONE, KEEPQ_OUTCOME_STORED, guard, keepq_rc, outcome_of, rc_of,
};
use crate::opts::{flush, keepq_send_opts, timeout};
use crate::sized::{self, SizedStruct};
use crate::store::{keepq, store};
use crate::text;
use engine::{Code, Outcome, Result, Sent};
use std::ffi::{c_char, c_void};
use std::mem::size_of;

/// Stored as durably as asked.
pub const KEEPQ_SEND_OK: i32 = 0;
/// Appended, not confirmed on disk in time: wait with keepq_flush, do not send again.
pub const KEEPQ_SEND_FLUSH_DISK_TIMEOUT: i32 = 1;
/// Not sent, or not known: see rc and outcome.
pub const KEEPQ_SEND_FAILED: i32 = 2;

/// keepq_sent.seq when there is none.
pub const KEEPQ_NO_SEQ: u64 = u64::MAX;

/// What became of a message. Start it with KEEPQ_SENT_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_sent {
    /// sizeof(keepq_sent).
    pub size: usize,
    /// Its sequence in the topic, from 0; KEEPQ_NO_SEQ if it has none.
    pub seq: u64,
    /// Its identity: 16 hexadecimal digits and a NUL; "" if it was not stored.
    pub id: [c_char; 24],
    /// What the send returned.
    pub rc: i32,
    /// One of KEEPQ_SEND_*.
    pub status: i32,
    /// One of KEEPQ_OUTCOME_*.
    pub outcome: i32,
    /// 1 if it was on disk when the call returned.
    pub durable: i32,
    /// 1 if its producer had sent this sequence before: nothing was appended.
    pub duplicate: i32,
}

// SAFETY: repr(C), size first; integers only.
unsafe impl SizedStruct for keepq_sent {
    const NAME: &'static str = "keepq_sent";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        seq: KEEPQ_NO_SEQ,
        id: [0; 24],
        rc: KEEPQ_OK,
        status: KEEPQ_SEND_FAILED,
        outcome: KEEPQ_OUTCOME_NONE,
        durable: 0,
        duplicate: 0,
    };
}

impl keepq_sent {
    fn of(result: &Result<Sent>) -> Self {
        let mut out = Self::INIT;
        match result {
            Ok(sent) => {
                out.seq = sent.seq.unwrap_or(KEEPQ_NO_SEQ);
                for (to, from) in out.id.iter_mut().zip(sent.id.to_string().bytes()) {
                    // A char is signed on some machines; the bits are what counts.
                    *to = c_char::from_ne_bytes([from]);
                }
                out.status = KEEPQ_SEND_OK;
                out.outcome = KEEPQ_OUTCOME_STORED;
                out.durable = i32::from(sent.durable);
                out.duplicate = i32::from(sent.duplicate);
            }
            Err(error) => {
                out.rc = rc_of(error.code());
                out.outcome = outcome_of(error.outcome());
                if error.code() == Code::FlushTimeout {
                    out.status = KEEPQ_SEND_FLUSH_DISK_TIMEOUT;
                }
            }
        }
        out
    }
}

/// Sends one message; makes the topic if it is new. opts and out may be NULL. 0 means that the
/// durability asked for was reached. Once the arguments are found good, out tells what became of
/// the message, also after an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_send(
    q: *mut keepq,
    topic: *const c_char,
    body: *const c_void,
    len: usize,
    opts: *const keepq_send_opts,
    out: *mut keepq_sent,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises what each helper asks for.
        let (name, body, opts) = unsafe {
            sized::check_out(out.cast_const())?;
            (
                text::required(topic, "topic")?,
                text::bytes(body, len, "body")?,
                sized::read(opts)?,
            )
        };
        let result = entry
            .topic(name)
            // SAFETY: the caller promises the strings and headers that the options point to.
            .and_then(|topic| unsafe { send_one(&topic, body, &opts) })
            // What fails without an outcome failed before it could reach the log.
            .map_err(|e| e.or_outcome(Outcome::NotStored));
        // SAFETY: checked above; the caller promises the struct.
        unsafe { sized::write(out, &keepq_sent::of(&result)) }?;
        result.map(|_| KEEPQ_OK)
    })
}

/// # Safety
/// The strings and headers of `opts` are valid during the call.
unsafe fn send_one(topic: &engine::Topic, body: &[u8], opts: &keepq_send_opts) -> Result<Sent> {
    opts.refuse_unsupported()?;
    let mut message = topic.message(body);
    // SAFETY: the caller's promise.
    let (key, tag, headers) = unsafe {
        (
            text::optional(opts.key, "key")?,
            text::optional(opts.tag, "tag")?,
            opts.headers()?,
        )
    };
    if let Some(key) = key {
        message = message.key(key);
    }
    if let Some(tag) = tag {
        message = message.tag(tag);
    }
    for (name, value) in headers {
        message = message.header(name, value);
    }
    if let Some(flush) = flush("flush", opts.flush)? {
        message = message.flush(flush);
    }
    if let Some(timeout) = timeout("timeout_ms", opts.timeout_ms)? {
        message = message.timeout(timeout);
    }
    message.send()
}
