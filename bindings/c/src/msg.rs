//! A message: what can be read from it, and freeing it.
//!
//! What the engine gave stays readable after it is settled; only what C wants to end with a NUL
//! byte is copied, when it is asked for.

use crate::error::{KEEPQ_EMPTY, KEEPQ_OK, c_string, guard, guard_value, keepq_rc};
use crate::group::{GroupEntry, OutMessages};
use crate::handle::{Table, Used};
use crate::opts::keepq_header;
use crate::send::KEEPQ_NO_SEQ;
use crate::text;
use engine::{Browsed, Code, Content, DeadLetter, Delivery, Error, Group, Result};
use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

/// A message that was received, or looked at by keepq_browse or keepq_dlq_browse. It belongs to one
/// thread at a time.
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

/// Where a message comes from.
enum Origin {
    Received(Received),
    Browsed(Box<Browsed>),
    Dead(Box<DeadLetter>),
}

/// A message under a lease.
pub(crate) struct Received {
    /// As the engine gave it: moving a delivery costs more than looking for its handle.
    delivery: Box<[Delivery; 1]>,
    pub(crate) group: Group,
    /// The handle by which it was received.
    pub(crate) by: usize,
}

impl Received {
    pub(crate) fn delivery(&self) -> &Delivery {
        &self.delivery[0]
    }
}

pub(crate) struct MsgEntry {
    origin: Origin,
    /// Most are never asked for any.
    texts: OnceLock<Box<Texts>>,
}

/// What was asked for of a message as C strings.
#[derive(Default)]
struct Texts {
    id: OnceLock<CString>,
    topic: OnceLock<CString>,
    key: OnceLock<CString>,
    tag: OnceLock<CString>,
    order_key: OnceLock<CString>,
    receipt: OnceLock<CString>,
    producer: OnceLock<CString>,
    reason: OnceLock<CString>,
    headers: OnceLock<Vec<CString>>,
}

pub(crate) static MESSAGES: Table<MsgEntry> = Table::new(3, "message", "keepq_msg_free");

/// Takes a value apart by where the message comes from: `$d` a delivery, `$c` the content of one
/// that was looked at, `None` where damage took it.
macro_rules! either {
    ($entry:expr, $d:ident => $received:expr, $c:ident => $content:expr) => {
        match &$entry.origin {
            Origin::Received(received) => {
                let $d = received.delivery();
                $received
            }
            other => other.content().and_then(|$c| $content),
        }
    };
}

impl Origin {
    /// Of one that was looked at.
    fn content(&self) -> Option<&Content> {
        match self {
            Self::Received(_) => None,
            Self::Browsed(browsed) => browsed.content.as_ref().ok(),
            Self::Dead(letter) => letter.content.as_ref().ok(),
        }
    }
}

/// The place's string, made by the first who asks.
fn kept(place: &OnceLock<CString>, make: impl FnOnce() -> String) -> *const c_char {
    place.get_or_init(|| c_string(make().as_bytes())).as_ptr()
}

impl MsgEntry {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            texts: OnceLock::new(),
        }
    }

    fn texts(&self) -> &Texts {
        self.texts.get_or_init(Box::default)
    }

    /// The lease, for settling.
    pub(crate) fn received(&self) -> Result<&Received> {
        match &self.origin {
            Origin::Received(received) => Ok(received),
            Origin::Browsed(_) | Origin::Dead(_) => Err(Error::new(
                Code::InvalidArgument,
                "the message was looked at, not received: there is no lease to settle",
            )),
        }
    }

    pub(crate) fn dead(&self) -> Result<&DeadLetter> {
        match &self.origin {
            Origin::Dead(letter) => Ok(letter),
            Origin::Received(_) | Origin::Browsed(_) => Err(Error::new(
                Code::InvalidArgument,
                "the message is no dead letter: keepq_dlq_browse gives those",
            )),
        }
    }

    /// A C string of the burial, kept with the message.
    pub(crate) fn dead_texts(&self) -> (*const c_char, *const c_char) {
        let Origin::Dead(letter) = &self.origin else {
            return (c"".as_ptr(), c"".as_ptr());
        };
        let Ok(burial) = &letter.burial else {
            return (c"".as_ptr(), c"".as_ptr());
        };
        let texts = self.texts();
        (
            kept(&texts.topic, || burial.topic.clone()),
            kept(&texts.reason, || burial.reason.clone()),
        )
    }

    fn body(&self) -> Option<&[u8]> {
        either!(self, d => Some(d.body()), c => Some(c.body()))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let with = |(n, _): &(&str, &[u8])| *n == name;
        let found = either!(self, d => d.headers().find(with), c => c.headers().find(with));
        found.map(|(_, value)| value)
    }

    fn header_at(&self, index: usize) -> Option<keepq_header> {
        let value = either!(self, d => d.headers().nth(index), c => c.headers().nth(index))?.1;
        let names = self.texts().headers.get_or_init(|| {
            let name = |(name, _): (&str, &[u8])| c_string(name.as_bytes());
            let names: Option<Vec<_>> = either!(
                self,
                d => Some(d.headers().map(name).collect()),
                c => Some(c.headers().map(name).collect())
            );
            names.unwrap_or_default()
        });
        Some(keepq_header {
            name: names.get(index)?.as_ptr(),
            value: value.as_ptr().cast(),
            len: value.len(),
        })
    }

    fn producer(&self) -> Option<(&str, u64)> {
        either!(self, d => d.producer(), c => c.producer())
    }

    /// What became of its content.
    fn check(&self) -> Result<()> {
        match &self.origin {
            Origin::Received(_) => Ok(()),
            Origin::Browsed(browsed) => browsed.content.as_ref().map(drop).map_err(Error::clone),
            Origin::Dead(letter) => {
                letter.content.as_ref().map_err(Error::clone)?;
                letter.burial.as_ref().map(drop).map_err(Error::clone)
            }
        }
    }
}

#[inline(always)]
fn insert(origin: Origin) -> Result<*mut keepq_msg> {
    Ok(ptr::without_provenance_mut(
        MESSAGES.insert(MsgEntry::new(origin))?,
    ))
}

/// A handle for a delivery. When it cannot be had, the delivery is given back at once.
#[inline(always)]
pub(crate) fn received(group: &GroupEntry, delivery: Box<[Delivery; 1]>) -> Result<*mut keepq_msg> {
    insert(Origin::Received(Received {
        delivery,
        group: group.group.clone(),
        by: group.handle.get().copied().unwrap_or(0),
    }))
}

/// A handle for a message that was looked at.
pub(crate) fn browsed(message: Browsed) -> Result<*mut keepq_msg> {
    insert(Origin::Browsed(Box::new(message)))
}

/// A handle for a dead letter that was looked at.
pub(crate) fn dead(letter: DeadLetter) -> Result<*mut keepq_msg> {
    insert(Origin::Dead(Box::new(letter)))
}

/// The message behind a handle.
#[inline(always)]
pub(crate) fn entry(m: *const keepq_msg) -> Result<Used<'static, MsgEntry>> {
    MESSAGES.get(m.addr())
}

/// Whether messages can be handed out there.
pub(crate) fn check_room((out, cap, n): OutMessages) -> Result<()> {
    if n.is_null() {
        return Err(text::null("n"));
    }
    if out.is_null() {
        return Err(text::null("out"));
    }
    if cap == 0 {
        let text = "cap is 0: no room for a message";
        return Err(Error::new(Code::InvalidArgument, text));
    }
    Ok(())
}

/// Hands out all the handles or none: should they run out, those given so far are freed again.
///
/// # Safety
/// `out` has room for as many handles as it says and a place for their number.
pub(crate) unsafe fn hand_out(
    handles: impl Iterator<Item = Result<*mut keepq_msg>>,
    (out, cap, n): OutMessages,
) -> Result<keepq_rc> {
    let mut opened = Opened(Vec::new());
    for handle in handles.take(cap) {
        opened.0.push(handle?);
    }
    let handles = std::mem::take(&mut opened.0);
    for (index, handle) in handles.iter().enumerate() {
        // SAFETY: the caller promises room for `cap` handles, and there are no more.
        unsafe { out.add(index).write(*handle) };
    }
    // SAFETY: the caller promises a place for the number.
    unsafe { n.write(handles.len()) };
    Ok(if handles.is_empty() {
        KEEPQ_EMPTY
    } else {
        KEEPQ_OK
    })
}

/// Handles that are freed again unless the whole batch of them is handed out.
struct Opened(Vec<*mut keepq_msg>);

impl Drop for Opened {
    fn drop(&mut self) {
        for handle in &self.0 {
            // Each was opened by us and given to nobody: removing cannot fail.
            let _ = MESSAGES.remove(handle.addr());
        }
    }
}

fn bytes_of(bytes: Option<&[u8]>) -> keepq_bytes {
    bytes.map_or(NO_BYTES, |bytes| keepq_bytes {
        ptr: bytes.as_ptr().cast(),
        len: bytes.len(),
    })
}

/// Reads something from a message. What pointers in it point to lives in the table until the
/// message is freed.
fn read<T>(m: *const keepq_msg, none: T, get: impl FnOnce(&MsgEntry) -> T) -> T {
    guard_value(|| Ok(get(&*entry(m)?)), |_| none)
}

/// ======== Messages ========
///
/// What these give belongs to the message and is valid until keepq_msg_free, also after it was
/// settled and after its group and store were closed. Of a handle that is not a message they give
/// NULL (or what is said), and keepq_last_error tells why.
///
/// The body. ptr is NULL when m is not a message, or damage has taken it (see keepq_msg_check).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_body(m: *const keepq_msg) -> keepq_bytes {
    read(m, NO_BYTES, |e| bytes_of(e.body()))
}

/// The identity: 16 hexadecimal digits, the same through all attempts and as a dead letter. NULL if
/// damage has taken it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_id(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        let id = either!(e, d => Some(d.id()), c => Some(c.id()));
        id.map_or(ptr::null(), |id| kept(&e.texts().id, || id.to_string()))
    })
}

/// The sequence in the topic, from 0; of a dead letter that among the dead letters of its group.
/// KEEPQ_NO_SEQ when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_seq(m: *const keepq_msg) -> u64 {
    read(m, KEEPQ_NO_SEQ, |e| match &e.origin {
        Origin::Received(received) => received.delivery().seq(),
        Origin::Browsed(browsed) => browsed.seq,
        Origin::Dead(letter) => letter.seq,
    })
}

/// The topic's name; of a dead letter that of the topic it was sent to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_topic(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| match &e.origin {
        Origin::Received(received) => {
            kept(&e.texts().topic, || received.delivery().topic().to_owned())
        }
        Origin::Browsed(browsed) => kept(&e.texts().topic, || browsed.topic.as_ref().to_owned()),
        Origin::Dead(_) => e.dead_texts().0,
    })
}

/// The key; NULL if it has none. A key with a NUL byte in it, as other languages can send it, ends
/// there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_key(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        let key = either!(e, d => d.key(), c => c.key());
        key.map_or(ptr::null(), |key| kept(&e.texts().key, || key.to_owned()))
    })
}

/// The tag; NULL if it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_tag(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        let tag = either!(e, d => d.tag(), c => c.tag());
        tag.map_or(ptr::null(), |tag| kept(&e.texts().tag, || tag.to_owned()))
    })
}

/// The order key; NULL if it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_order_key(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        let key = either!(e, d => d.order_key(), c => c.order_key());
        key.map_or(ptr::null(), |key| {
            kept(&e.texts().order_key, || key.to_owned())
        })
    })
}

/// The value of the header with this name; ptr is NULL if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_header(m: *const keepq_msg, name: *const c_char) -> keepq_bytes {
    let find = || {
        let entry = entry(m)?;
        // SAFETY: the caller promises a string.
        let name = unsafe { text::required(name, "name") }?;
        Ok(bytes_of(entry.header(name)))
    };
    guard_value(find, |_| NO_BYTES)
}

/// The header with this index, in the order they were sent. KEEPQ_EMPTY beyond the last.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_header_at(
    m: *const keepq_msg,
    index: usize,
    out: *mut keepq_header,
) -> keepq_rc {
    guard(|| {
        let entry = entry(m)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let Some(header) = entry.header_at(index) else {
            return Ok(KEEPQ_EMPTY);
        };
        // SAFETY: the caller promises a place for it.
        unsafe { out.write(header) };
        Ok(KEEPQ_OK)
    })
}

/// Which delivery of the message this is, from 1; of a dead letter how often it was delivered; 0
/// when m is not a message or was browsed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_attempt(m: *const keepq_msg) -> u32 {
    read(m, 0, |e| match &e.origin {
        Origin::Received(received) => received.delivery().attempt(),
        Origin::Browsed(_) => 0,
        Origin::Dead(letter) => letter.burial.as_ref().map_or(0, |b| b.attempts),
    })
}

/// When it was sent, ms since 1970 UTC by the sender's clock; -1 when m is not a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_sent_at_ms(m: *const keepq_msg) -> i64 {
    read(m, -1, |e| {
        let at = either!(e, d => Some(d.sent_at_ms()), c => Some(c.sent_at_ms()));
        at.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX))
    })
}

/// The named producer that sent it; NULL if none did.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_producer(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| {
        e.producer().map_or(ptr::null(), |(name, _)| {
            kept(&e.texts().producer, || name.to_owned())
        })
    })
}

/// The message's number from its named producer; KEEPQ_NO_SEQ if none sent it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_producer_seq(m: *const keepq_msg) -> u64 {
    read(m, KEEPQ_NO_SEQ, |e| {
        e.producer().map_or(KEEPQ_NO_SEQ, |(_, seq)| seq)
    })
}

/// The receipt: text without spaces, at most 200 bytes, with which any process can settle this
/// delivery. NULL for a message that was looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_receipt(m: *const keepq_msg) -> *const c_char {
    read(m, ptr::null(), |e| match &e.origin {
        Origin::Received(received) => kept(&e.texts().receipt, || {
            received.delivery().receipt().to_string()
        }),
        Origin::Browsed(_) | Origin::Dead(_) => ptr::null(),
    })
}

/// Whether everything of a message can be read: KEEPQ_E_CORRUPT when damage has taken its content
/// or, of a dead letter, the note of what became of it. What is received is always whole.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CORRUPT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_check(m: *const keepq_msg) -> keepq_rc {
    guard(|| entry(m)?.check().map(|()| KEEPQ_OK))
}

/// Frees a message and everything read from it. One that was received and is not settled is given
/// back at once, as by keepq_nack(m, 0).
///
/// Errors: KEEPQ_E_BAD_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_msg_free(m: *mut keepq_msg) -> keepq_rc {
    guard(|| {
        MESSAGES.remove(m.addr())?;
        Ok(KEEPQ_OK)
    })
}
