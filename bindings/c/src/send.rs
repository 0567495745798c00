//! Sending and waiting for the disk; what a message is made of.

use crate::error::{
    KEEPQ_OK, KEEPQ_OUTCOME_NONE, KEEPQ_OUTCOME_STORED, guard, keepq_rc, outcome_of, rc_of,
};
use crate::opts::{flag, flush, keepq_send_opts, timeout, when_full};
use crate::sized::{self, Array, SizedStruct};
use crate::store::{StoreEntry, keepq, store};
use crate::text;
use engine::{Code, Error, OutMessage, Outcome, Pending, Producer, Result, Sent};
use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// keepq_sent.status: stored as durably as asked.
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
    /// What became of it: KEEPQ_OK or the error.
    pub rc: i32,
    /// One of KEEPQ_SEND_*.
    pub status: i32,
    /// One of KEEPQ_OUTCOME_*.
    pub outcome: i32,
    /// 1 if it was on disk by then.
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
    // Not inlined, so that the digits are written as two words and not as sixteen bytes.
    #[inline(never)]
    fn fill(&mut self, sent: &Sent) {
        self.seq = sent.seq.unwrap_or(KEEPQ_NO_SEQ);
        self.status = KEEPQ_SEND_OK;
        self.outcome = KEEPQ_OUTCOME_STORED;
        self.durable = i32::from(sent.durable);
        self.duplicate = i32::from(sent.duplicate);
        let id = sent.id.lsn();
        let digits = [id >> 32, id & 0xffff_ffff].map(hexadecimal);
        // SAFETY: there is room for 24 characters, and any byte is one.
        unsafe {
            self.id
                .as_mut_ptr()
                .cast::<[u64; 2]>()
                .write_unaligned(digits)
        };
    }

    pub(crate) fn of(result: &Result<Sent>) -> Self {
        let mut out = Self::INIT;
        match result {
            Ok(sent) => out.fill(sent),
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

/// The eight digits of a number below 2^32, as they stand in memory. Formatting would cost more
/// than all else that a callback takes, and a loop over the digits half of it.
fn hexadecimal(number: u64) -> u64 {
    // Each byte's two halves apart, then each a digit: those above nine are letters.
    let mut nibbles = (number | number << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((nibbles + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    let digits = nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1);
    digits.to_be()
}

/// A message of keepq_send_batch. Start it with KEEPQ_MSG_IN_INIT. In an array the first one's size
/// is that of all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_msg_in {
    /// sizeof(keepq_msg_in).
    pub size: usize,
    /// The topic; made if it is new.
    pub topic: *const c_char,
    /// The content: any bytes.
    pub body: *const c_void,
    /// How many: at most 16 MiB.
    pub len: usize,
    /// NULL = the defaults.
    pub opts: *const keepq_send_opts,
}

// SAFETY: repr(C), size first; integers and raw pointers.
unsafe impl SizedStruct for keepq_msg_in {
    const NAME: &'static str = "keepq_msg_in";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        topic: ptr::null(),
        body: ptr::null(),
        len: 0,
        opts: ptr::null(),
    };
}

/// Told of a send that succeeded. sent lasts until it returns.
pub type keepq_send_cb = Option<unsafe extern "C" fn(user: *mut c_void, sent: *const keepq_sent)>;

/// What is sent, borrowed from the caller.
pub(crate) struct Outgoing<'a> {
    pub(crate) message: OutMessage<'a>,
    producer: Option<&'a str>,
    pub(crate) seq: Option<u64>,
}

impl<'a> Outgoing<'a> {
    /// # Safety
    /// `opts` is NULL or points to options whose strings and headers are valid as long as `'a`.
    #[inline]
    pub(crate) unsafe fn read(body: &'a [u8], opts: *const keepq_send_opts) -> Result<Self> {
        if opts.is_null() {
            let message = OutMessage {
                body,
                ..OutMessage::default()
            };
            return Ok(Self {
                message,
                producer: None,
                seq: None,
            });
        }
        // SAFETY: the caller's promise.
        unsafe { Self::new(body, &sized::read(opts)?) }
    }

    /// # Safety
    /// The strings and headers of `opts` are valid as long as `'a`.
    unsafe fn new(body: &'a [u8], opts: &keepq_send_opts) -> Result<Self> {
        opts.refuse_unsupported()?;
        // SAFETY: the caller's promise.
        let (key, tag, order_key, headers, producer) = unsafe {
            (
                text::optional(opts.key, "key")?,
                text::optional(opts.tag, "tag")?,
                text::optional(opts.order_key, "order_key")?,
                opts.headers()?,
                text::optional(opts.producer, "producer")?,
            )
        };
        let numbered = flag("has_producer_seq", opts.has_producer_seq)?;
        if numbered && producer.is_none() || !numbered && opts.producer_seq != 0 {
            return Err(Error::new(
                Code::InvalidArgument,
                "producer_seq needs a producer and has_producer_seq = 1",
            ));
        }
        #[allow(clippy::needless_update)] // For the fields that the engine gets later.
        let message = OutMessage {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush("flush", opts.flush)?,
            timeout: timeout("timeout_ms", opts.timeout_ms)?,
            when_full: when_full("when_full", opts.when_full)?,
            ..OutMessage::default()
        };
        Ok(Self {
            message,
            producer,
            seq: numbered.then_some(opts.producer_seq),
        })
    }

    /// The named producer that sends it.
    #[inline]
    pub(crate) fn producer(&self, entry: &StoreEntry) -> Result<Option<Arc<Producer>>> {
        self.producer.map(|name| entry.producer(name)).transpose()
    }

    fn send(&self, entry: &StoreEntry, topic: &[u8]) -> Result<Sent> {
        entry.send_to(topic, |topic| match self.producer(entry)? {
            None => topic.send_message(&self.message),
            Some(producer) => producer.send(topic, self.seq, &self.message),
        })
    }

    #[inline]
    pub(crate) fn send_async(&self, entry: &StoreEntry, topic: &[u8]) -> Result<Pending> {
        entry.send_to(topic, |topic| match self.producer(entry)? {
            None => topic.send_message_async(&self.message),
            Some(producer) => producer.send_async(topic, self.seq, &self.message),
        })
    }
}

/// ======== Sending ========
///
/// Sends one message; makes the topic if it is new. opts and out may be NULL. 0 means that the
/// durability asked for was reached: by default, on disk. Tries again within its time after a
/// retriable error, and never appends twice. Once the arguments are found good, out tells what
/// became of the message, also after an error: KEEPQ_OUTCOME_NOT_STORED (safe to send again) or
/// KEEPQ_OUTCOME_MAYBE_STORED. A topic that keeps as much as it may refuses it or lets it wait, as
/// keepq_topic_opts.when_full says.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INVALID_NAME (topic or producer), KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_INCOMPATIBLE (a newer
/// header's field is set), KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FLUSH_TIMEOUT
/// (stored, not confirmed: wait with keepq_flush), KEEPQ_E_FULL and KEEPQ_E_TIMEOUT (also of a
/// limit of the topic or the store), KEEPQ_E_PRODUCER_GAP, KEEPQ_E_PRODUCER_FENCED; the disk's.
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
                text::unchecked(topic, "topic")?,
                text::bytes(body, len, "body")?,
                sized::read(opts)?,
            )
        };
        // SAFETY: the caller promises the strings and headers that the options point to.
        let result = unsafe { Outgoing::new(body, &opts) }
            .and_then(|out| out.send(&entry, name))
            // What fails without an outcome failed before it could reach the log.
            .map_err(|e| e.or_outcome(Outcome::NotStored));
        // SAFETY: checked above; the caller promises the struct.
        unsafe { sized::write(out, &keepq_sent::of(&result)) }?;
        result.map(|_| KEEPQ_OK)
    })
}

/// Sends n messages in order, with one flush for each run of messages to the same topic by the same
/// producer. Not atomic: each has its own result, out[i] for msgs[i], and one that fails does not
/// keep the others from being sent, but for one that finds no room in its time
/// (KEEPQ_E_TIMEOUT), which ends its run. out may be NULL; the size of its first struct is that
/// of all. Returns 0 if all succeeded, else the error of the first that failed. The time is that
/// of the first message of a run.
///
/// Errors: those of the call itself, when nothing is sent and out is untouched:
/// KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED
/// (n); else one of keepq_send's: KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE,
/// KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FULL, KEEPQ_E_PRODUCER_GAP,
/// KEEPQ_E_PRODUCER_FENCED; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_send_batch(
    q: *mut keepq,
    msgs: *const keepq_msg_in,
    n: usize,
    out: *mut keepq_sent,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises the arrays; nothing is written through `msgs`.
        let (msgs, out) = unsafe { (Array::new(msgs.cast_mut(), n)?, Array::new(out, n)?) };
        let msgs = match msgs {
            Some(msgs) => msgs,
            None if n == 0 => return Ok(KEEPQ_OK),
            None => return Err(text::null("msgs")),
        };
        // SAFETY: the caller promises the strings, headers and bodies.
        let all: Vec<_> = (0..n).map(|i| unsafe { one_of(&msgs, i) }).collect();
        let mut first_error = None;
        let mut at = 0;
        while at < n {
            let run = run_from(&all, at);
            at = run.end;
            for (i, result) in run.clone().zip(send_run(&entry, &all[run])) {
                let result = result.map_err(|e| e.or_outcome(Outcome::NotStored));
                if let Some(out) = &out {
                    out.write(i, &keepq_sent::of(&result));
                }
                first_error = first_error.or(result.err());
            }
        }
        first_error.map_or(Ok(KEEPQ_OK), Err)
    })
}

/// A message of a batch and its topic, or what is wrong with it.
type Part<'a> = Result<(&'a [u8], Outgoing<'a>)>;

/// # Safety
/// What the message points to is valid as long as `'a`.
unsafe fn one_of<'a>(msgs: &Array<keepq_msg_in>, index: usize) -> Part<'a> {
    let msg = msgs.read(index)?;
    // SAFETY: the caller's promise.
    unsafe {
        let topic = text::unchecked(msg.topic, "topic")?;
        let body = text::bytes(msg.body, msg.len, "body")?;
        Ok((topic, Outgoing::read(body, msg.opts)?))
    }
}

/// The messages from `at` on that the engine can send together.
fn run_from(all: &[Part<'_>], at: usize) -> Range<usize> {
    let mut end = at + 1;
    if let Ok((topic, first)) = &all[at] {
        let goes_on = |next: &Part<'_>, n: usize| match next {
            Err(_) => false,
            Ok((t, next)) => {
                let expected = first.seq.and_then(|seq| seq.checked_add(n as u64));
                t == topic && next.producer == first.producer && next.seq == expected
            }
        };
        // A sequence that overflows ends a run of numbered ones.
        let numbered = |next: &Part<'_>| next.as_ref().is_ok_and(|n| n.1.seq.is_some());
        while end < all.len()
            && goes_on(&all[end], end - at)
            && numbered(&all[end]) == first.seq.is_some()
        {
            end += 1;
        }
    }
    at..end
}

fn send_run(entry: &StoreEntry, run: &[Part<'_>]) -> Vec<Result<Sent>> {
    let (topic, first) = match &run[0] {
        Ok(first) => (first.0, &first.1),
        Err(e) => return vec![Err(e.clone())],
    };
    let messages: Vec<OutMessage<'_>> = run
        .iter()
        .filter_map(|part| part.as_ref().ok())
        .map(|(_, out)| out.message.clone())
        .collect();
    let sent = || {
        let topic = entry.topic(topic)?;
        Ok(match first.producer(entry)? {
            None => topic.send_many(&messages),
            Some(producer) => producer.send_many(&topic, first.seq, &messages),
        })
    };
    sent().unwrap_or_else(|e: Error| run.iter().map(|_| Err(e.clone())).collect())
}

/// Opens a named producer: its messages are numbered from 0 over all topics, without gaps, and one
/// sent again with its number (keepq_send_opts.producer, has_producer_seq, producer_seq) is not
/// stored again but answered as a success marked duplicate. So a program that was killed can start
/// over. Every older handle's use of the name, in any process, is refused from now on with
/// KEEPQ_E_PRODUCER_FENCED. next_seq, which may be NULL, gets the number of the next new message.
///
/// A send with a producer that this handle has not opened opens it the same way.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INVALID_NAME, KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_producer_open(
    q: *mut keepq,
    name: *const c_char,
    next_seq: *mut u64,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises a string.
        let name = unsafe { text::required(name, "name") }?;
        let next = entry.open_producer(name)?.next_seq()?;
        // SAFETY: the caller promises a place for the number, or NULL.
        if let Some(next_seq) = unsafe { next_seq.as_mut() } {
            *next_seq = next;
        }
        Ok(KEEPQ_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_that_formatting_gives() {
        let numbers = (0..32).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, 0x9abc_def0 >> bit]);
        for number in numbers.chain([0xffff_ffff, 0x0123_4567, 0x89ab_cdef]) {
            let digits = hexadecimal(number).to_ne_bytes();
            assert_eq!(digits.as_slice(), format!("{number:08x}").as_bytes());
        }
    }
}
