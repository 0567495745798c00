//! Return codes and the last error of a thread.

use crate::sized::{self, SizedStruct};
use engine::{Code, Error, Outcome, Result};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// What a call returns: 0 = done; positive = nothing went wrong but there is nothing to report;
/// negative = the number of an error, see keepq_last_error.
pub type keepq_rc = i32;

/// Done.
pub const KEEPQ_OK: keepq_rc = 0;
/// No message came within the time.
pub const KEEPQ_EMPTY: keepq_rc = 1;
/// The time was over before the work was.
pub const KEEPQ_TIMEOUT: keepq_rc = 2;

/// The directory exists but is not a keepq store.
pub const KEEPQ_E_NOT_A_STORE: keepq_rc = -101;
/// There is no such store, topic, group or message.
pub const KEEPQ_E_NOT_FOUND: keepq_rc = -102;
/// Made by a version this library cannot work with, or a header that does not fit the library.
pub const KEEPQ_E_INCOMPATIBLE: keepq_rc = -103;
/// A network or memory file system that cannot give the guarantees asked for.
pub const KEEPQ_E_UNSUPPORTED_FILESYSTEM: keepq_rc = -104;
/// The store is opened read-only, or the file system is mounted so.
pub const KEEPQ_E_READ_ONLY: keepq_rc = -105;
/// Another live process holds what this call needs. Retriable.
pub const KEEPQ_E_BUSY: keepq_rc = -106;
/// exist_ok = 0 was asked and the store is there already.
pub const KEEPQ_E_ALREADY_EXISTS: keepq_rc = -107;
/// An operating-system call on the store's files failed.
pub const KEEPQ_E_STORAGE: keepq_rc = -201;
/// The disk, a quota, the file-size limit or a table of the store is full. Retriable.
pub const KEEPQ_E_FULL: keepq_rc = -202;
/// A flush failed and could not be repaired: no sends and acks until all processes have closed the
/// store.
pub const KEEPQ_E_FAILED: keepq_rc = -203;
/// Stored bytes are damaged.
pub const KEEPQ_E_CORRUPT: keepq_rc = -205;
/// A file of the store was deleted, replaced or truncated while it was open.
pub const KEEPQ_E_STORE_GONE: keepq_rc = -206;
/// Appended, not yet confirmed on disk when the time was over: wait with keepq_flush. Retriable.
pub const KEEPQ_E_FLUSH_TIMEOUT: keepq_rc = -301;
/// The time was over before the call could begin its work. Retriable.
pub const KEEPQ_E_TIMEOUT: keepq_rc = -302;
/// A named producer skipped a sequence number.
pub const KEEPQ_E_PRODUCER_GAP: keepq_rc = -303;
/// The producer's name was opened again elsewhere.
pub const KEEPQ_E_PRODUCER_FENCED: keepq_rc = -304;
/// The lease had ended: the message was or will be delivered again, or is settled already.
pub const KEEPQ_E_LEASE_LOST: keepq_rc = -401;
/// The text is not a receipt of this store.
pub const KEEPQ_E_BAD_RECEIPT: keepq_rc = -402;
/// A name is empty, too long, or has a character that is not allowed.
pub const KEEPQ_E_INVALID_NAME: keepq_rc = -501;
/// A body, header, batch or table is over its documented limit.
pub const KEEPQ_E_LIMIT_EXCEEDED: keepq_rc = -502;
/// An argument makes no sense: NULL where it may not be, a size not set, an unknown value.
pub const KEEPQ_E_INVALID_ARGUMENT: keepq_rc = -503;
/// An explicit option differs from what the store, topic or group was made with.
pub const KEEPQ_E_CONFIG_MISMATCH: keepq_rc = -504;
/// The body does not decode as its content type says.
pub const KEEPQ_E_DECODE: keepq_rc = -505;
/// A transaction was used after its end, or aborted.
pub const KEEPQ_E_TRANSACTION: keepq_rc = -506;
/// The store was closed.
pub const KEEPQ_E_CLOSED: keepq_rc = -601;
/// The handle came from the parent process, before a fork: open the store again in the child.
pub const KEEPQ_E_FORKED_HANDLE: keepq_rc = -602;
/// The handle is NULL, closed, freed or of another kind.
pub const KEEPQ_E_BAD_HANDLE: keepq_rc = -603;
/// A defect in keepq: please report it.
pub const KEEPQ_E_INTERNAL: keepq_rc = -604;
/// The feature is named by the interface but not part of this version.
pub const KEEPQ_E_NOT_SUPPORTED: keepq_rc = -605;
/// The wait was asked to stop. Retriable.
pub const KEEPQ_E_INTERRUPTED: keepq_rc = -606;

/// Does not apply: not an error of a send.
pub const KEEPQ_OUTCOME_NONE: i32 = 0;
/// Refused before the append: the message is not in the log. Safe to send again.
pub const KEEPQ_OUTCOME_NOT_STORED: i32 = 1;
/// Appended, but not confirmed durable: it may or may not survive. Sending again may store it
/// twice.
pub const KEEPQ_OUTCOME_MAYBE_STORED: i32 = 2;
/// Stored as durably as asked.
pub const KEEPQ_OUTCOME_STORED: i32 = 3;

/// What is known about an error. Start it with KEEPQ_ERROR_INFO_INIT. The strings belong to the
/// library and last until the next keepq call of this thread that fails.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_error_info {
    /// sizeof(keepq_error_info).
    pub size: usize,
    /// The error, negative; 0 if no call of this thread has failed yet.
    pub rc: keepq_rc,
    /// The operating system's errno; 0 if none.
    pub os_errno: i32,
    /// One of KEEPQ_OUTCOME_*.
    pub outcome: i32,
    /// 1 if the same call, made again later, may succeed without anything being repaired.
    pub retriable: i32,
    /// The byte offset in path, or the log position; -1 if none.
    pub position: i64,
    /// The stable name, like "LeaseLost"; never NULL.
    pub name: *const c_char,
    /// One sentence that says what, where and what to do; never NULL.
    pub message: *const c_char,
    /// The file the error is about; NULL if none.
    pub path: *const c_char,
}

// SAFETY: repr(C), size first; integers and raw pointers.
unsafe impl SizedStruct for keepq_error_info {
    const NAME: &'static str = "keepq_error_info";
    const INIT: Self = Self {
        size: size_of::<Self>(),
        rc: KEEPQ_OK,
        os_errno: 0,
        outcome: KEEPQ_OUTCOME_NONE,
        retriable: 0,
        position: -1,
        name: c"".as_ptr(),
        message: c"".as_ptr(),
        path: ptr::null(),
    };
}

/// Told of a send that failed. error and its strings last until it returns.
pub type keepq_err_cb =
    Option<unsafe extern "C" fn(user: *mut c_void, error: *const keepq_error_info)>;

/// An error with the strings that C reads of it.
pub(crate) struct ErrorInfo {
    error: Error,
    name: CString,
    message: CString,
    path: Option<CString>,
}

thread_local! {
    static LAST: RefCell<Option<ErrorInfo>> = const { RefCell::new(None) };
}

/// The number of an engine error in C.
pub(crate) fn rc_of(code: Code) -> keepq_rc {
    -keepq_rc::from(code.number())
}

/// An engine outcome in C.
pub(crate) fn outcome_of(outcome: Option<Outcome>) -> i32 {
    match outcome {
        Some(Outcome::NotStored) => KEEPQ_OUTCOME_NOT_STORED,
        Some(Outcome::MaybeStored) => KEEPQ_OUTCOME_MAYBE_STORED,
        Some(Outcome::Stored) => KEEPQ_OUTCOME_STORED,
        _ => KEEPQ_OUTCOME_NONE,
    }
}

/// Bytes as a C string; what stands behind a NUL byte cannot be shown.
pub(crate) fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// Notes an error as this thread's last one and gives its number.
pub(crate) fn report(error: Error) -> keepq_rc {
    let rc = rc_of(error.code());
    let last = ErrorInfo::new(error);
    // A thread that is ending has no last error any more; the number still tells.
    let _ = LAST.try_with(|cell| cell.replace(Some(last)));
    rc
}

/// Runs a call: errors are noted, and a panic is an error too.
pub(crate) fn guard(call: impl FnOnce() -> Result<keepq_rc>) -> keepq_rc {
    guard_value(call, |error| error)
}

/// Runs a call that returns a value of its own; `failed` makes it from the error's number.
pub(crate) fn guard_value<T>(
    call: impl FnOnce() -> Result<T>,
    failed: impl FnOnce(keepq_rc) -> T,
) -> T {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => failed(report(error)),
        Err(panic) => {
            let what = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            let text = format!("keepq met a defect of its own: {what}; please report it");
            failed(report(Error::new(Code::Internal, text)))
        }
    }
}

/// ======== Errors ========
///
/// Fills out with the last error of this thread. A call that succeeds leaves it as it was.
///
/// Errors: KEEPQ_E_INVALID_ARGUMENT, which is not noted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_last_error(out: *mut keepq_error_info) -> keepq_rc {
    // Not through `guard`: a wrong struct must not replace the error that is asked for.
    let info = of_last(keepq_error_info::INIT, ErrorInfo::fields);
    if out.is_null() {
        return KEEPQ_E_INVALID_ARGUMENT;
    }
    // SAFETY: the caller promises the struct.
    unsafe { sized::write(out, &info) }.map_or_else(|e| rc_of(e.code()), |()| KEEPQ_OK)
}

/// Something of this thread's last error. A thread that is ending has none any more.
fn of_last<T>(none: T, get: impl FnOnce(&ErrorInfo) -> T) -> T {
    let found = LAST.try_with(|last| last.try_borrow().ok()?.as_ref().map(get));
    found.ok().flatten().unwrap_or(none)
}

impl ErrorInfo {
    pub(crate) fn new(error: Error) -> Self {
        Self {
            name: c_string(error.code().name().as_bytes()),
            message: c_string(error.to_string().as_bytes()),
            path: error.path().map(|p| c_string(p.as_os_str().as_bytes())),
            error,
        }
    }

    /// They point into this.
    pub(crate) fn fields(&self) -> keepq_error_info {
        let error = &self.error;
        keepq_error_info {
            rc: rc_of(error.code()),
            os_errno: error.errno().unwrap_or(0),
            outcome: outcome_of(error.outcome()),
            retriable: i32::from(error.is_retriable()),
            position: error
                .position()
                .and_then(|p| i64::try_from(p).ok())
                .unwrap_or(-1),
            name: self.name.as_ptr(),
            message: self.message.as_ptr(),
            path: self.path.as_ref().map_or(ptr::null(), |p| p.as_ptr()),
            ..keepq_error_info::INIT
        }
    }
}

/// The message of this thread's last error; "" if there was none. It lasts until the next keepq
/// call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn keepq_last_message() -> *const c_char {
    of_last(c"".as_ptr(), |last| last.message.as_ptr())
}

/// What a return code means, in a few words. Never NULL; the string lasts for ever.
#[unsafe(no_mangle)]
pub extern "C" fn keepq_strerror(rc: keepq_rc) -> *const c_char {
    let fixed: &CStr = match rc {
        KEEPQ_OK => c"done",
        KEEPQ_EMPTY => c"no message",
        KEEPQ_TIMEOUT => c"timed out",
        _ => match Code::ALL.iter().position(|code| rc_of(*code) == rc) {
            // Each ends with a NUL.
            Some(index) => return TEXTS[index].as_ptr().cast(),
            None => c"not a keepq return code",
        },
    };
    fixed.as_ptr()
}

const TEXT: usize = 40;

/// "NotFound (KQ-102)" of each code, and a NUL. There when the program starts: a signal handler may
/// ask for it, and nothing can be made in one.
static TEXTS: [[u8; TEXT]; Code::ALL.len()] = {
    let mut all = [[0; TEXT]; Code::ALL.len()];
    let mut index = 0;
    while index < all.len() {
        all[index] = text_of(Code::ALL[index]);
        index += 1;
    }
    all
};

const fn text_of(code: Code) -> [u8; TEXT] {
    let number = code.number();
    let digits = [
        b'0' + (number / 100 % 10).to_le_bytes()[0],
        b'0' + (number / 10 % 10).to_le_bytes()[0],
        b'0' + (number % 10).to_le_bytes()[0],
    ];
    let parts = [code.name().as_bytes(), b" (KQ-", &digits, b")"];
    let mut text = [0; TEXT];
    let (mut length, mut part) = (0, 0);
    while part < parts.len() {
        let mut at = 0;
        while at < parts[part].len() {
            text[length] = parts[part][at];
            length += 1;
            at += 1;
        }
        part += 1;
    }
    assert!(length < TEXT, "there is room for the NUL");
    text
}
