//! The one error type of keepq, numbered once for every language.
//!
//! Each error says what went wrong, where (path, position, errno) and what to do about it, whether
//! trying again can help ([`Error::is_retriable`]), and for sends what became of the message
//! ([`Error::outcome`]). "Nothing there" and "timed out waiting for a message" are results, not
//! errors; a lost lease is an error, because work may have been done twice.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::options::SendStatus;

/// The result of every fallible keepq call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What became of a message whose send failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Outcome {
    /// Refused before the append: the message is not in the log and never will be. Safe to send
    /// again.
    NotStored,
    /// Appended, but its durability could not be confirmed: it may or may not survive. Sending it
    /// again may store it twice, unless a named producer numbers it.
    MaybeStored,
    /// Stored as durably as asked; only something after that failed.
    Stored,
}

impl Outcome {
    /// The stable lower-case name: `not_stored`, `maybe_stored` or `stored`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotStored => "not_stored",
            Self::MaybeStored => "maybe_stored",
            Self::Stored => "stored",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, retriable $retriable:literal; )*) => {
        /// The stable number of an error: shown as `KQ-205`, negated in C, a class in Python.
        ///
        /// Numbers are never reused. 1xx opening, 2xx storage, 3xx sending, 4xx consuming,
        /// 5xx arguments, 6xx handles.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code { $( $(#[$doc])* $name = $number, )* }

        impl Code {
            /// Every code, in order of its number.
            pub const ALL: &'static [Code] = &[$( Code::$name, )*];

            /// The name of the code, as in this enum.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Code::$name => stringify!($name), )* }
            }

            /// Whether the same call, made again later, may succeed without any repair.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self { $( Code::$name => $retriable, )* }
            }

            /// The number, 101 to 699.
            #[must_use]
            pub const fn number(self) -> u16 { self as u16 }

            /// The code with this number, if there is one.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Code> {
                Code::ALL.iter().copied().find(|c| c.number() == number)
            }
        }
    };
}

codes! {
    /// The directory exists but is not a keepq store.
    NotAStore = 101, retriable false;
    /// There is no such store, topic, group or message.
    NotFound = 102, retriable false;
    /// Written by a version this library cannot read, or shared memory of another layout is in use.
    Incompatible = 103, retriable false;
    /// A network or memory file system that cannot give the guarantees asked for.
    UnsupportedFilesystem = 104, retriable false;
    /// The store is opened read-only, or the file system is mounted so.
    ReadOnly = 105, retriable false;
    /// Another live process holds what this call needs, for longer than the call may wait.
    Busy = 106, retriable true;
    /// `exist_ok(false)` was asked and the store is there already.
    AlreadyExists = 107, retriable false;
    /// An operating-system call on the store's files failed.
    Storage = 201, retriable false;
    /// No room: the disk, a quota, the file-size limit or a table of the store is full.
    Full = 202, retriable true;
    /// A flush failed and could not be repaired; the store refuses sends and acks until it is
    /// opened again with no other process using it.
    Failed = 203, retriable false;
    /// Stored bytes are damaged; what is around them stays usable.
    Corrupt = 205, retriable false;
    /// A file of the store was deleted, replaced or truncated while the store was open.
    StoreGone = 206, retriable false;
    /// Appended, not yet confirmed on disk when the time was over.
    FlushTimeout = 301, retriable true;
    /// The call's time was over before it could begin its work.
    Timeout = 302, retriable true;
    /// A named producer skipped a sequence number.
    ProducerGap = 303, retriable false;
    /// The producer's name was opened again elsewhere; this handle may send no more.
    ProducerFenced = 304, retriable false;
    /// The lease had ended: the message was or will be delivered to another consumer.
    LeaseLost = 401, retriable false;
    /// The text is not a receipt of this store.
    BadReceipt = 402, retriable false;
    /// A name is empty, too long, or has a character that is not allowed.
    InvalidName = 501, retriable false;
    /// A body, header, batch or table is over its documented limit.
    LimitExceeded = 502, retriable false;
    /// An argument makes no sense here.
    InvalidArgument = 503, retriable false;
    /// An explicit option differs from what the topic, group or store was created with.
    ConfigMismatch = 504, retriable false;
    /// The body does not decode as its content type says.
    Decode = 505, retriable false;
    /// A transaction was used after its end, or aborted.
    Transaction = 506, retriable false;
    /// The handle was closed.
    Closed = 601, retriable false;
    /// The handle came from the parent process, before a fork.
    ForkedHandle = 602, retriable false;
    /// A null, closed or foreign handle was passed to the C interface.
    BadHandle = 603, retriable false;
    /// A defect in keepq: please report it. Nothing confirmed is lost by it.
    Internal = 604, retriable false;
    /// The feature is named by the interface but not part of this version.
    NotSupported = 605, retriable false;
    /// A signal handler asked the wait to stop.
    Interrupted = 606, retriable true;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KQ-{}", self.number())
    }
}

/// An error of any keepq call. See the [module's](self) description.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    code: Code,
    message: String,
    path: Option<PathBuf>,
    position: Option<u64>,
    errno: Option<i32>,
    outcome: Option<Outcome>,
}

/// As a map: `code` (`"KQ-205"`), `name`, `message`, `retriable`, and where they apply `outcome`,
/// `path`, `position` and `errno`, else null.
#[cfg(feature = "serde")]
impl serde::Serialize for Error {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut map = to.serialize_struct("Error", 8)?;
        map.serialize_field("code", &self.code().to_string())?;
        map.serialize_field("name", self.code().name())?;
        map.serialize_field("message", self.message())?;
        map.serialize_field("retriable", &self.is_retriable())?;
        map.serialize_field("outcome", &self.outcome())?;
        let path = self.path().map(|path| path.to_string_lossy());
        map.serialize_field("path", &path)?;
        map.serialize_field("position", &self.position())?;
        map.serialize_field("errno", &self.errno())?;
        map.end()
    }
}

impl Error {
    /// An error with its code and one sentence that says what, where and what to do.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code,
            message: message.into(),
            path: None,
            position: None,
            errno: None,
            outcome: None,
        }))
    }

    /// An operating-system error while doing `what` to `path`. A full disk, a quota and the
    /// file-size limit become [`Code::Full`], a read-only file system [`Code::ReadOnly`].
    pub fn io(what: &str, path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error();
        let path = path.as_ref();
        let (code, advice) = match errno {
            Some(libc::ENOSPC) => (Code::Full, "; free space on this disk"),
            Some(libc::EDQUOT) => (Code::Full, "; free space or raise the quota"),
            Some(libc::EFBIG) => (Code::Full, "; raise the file-size limit (ulimit -f)"),
            Some(libc::EROFS) => (Code::ReadOnly, "; the file system is mounted read-only"),
            Some(libc::EACCES | libc::EPERM) => {
                (Code::Storage, "; check the owner and the permissions")
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                (Code::Storage, "; raise the limit of open files (ulimit -n)")
            }
            _ => (Code::Storage, ""),
        };
        let mut e = Self::new(
            code,
            format!("cannot {what} {}: {error}{advice}", path.display()),
        );
        e.0.path = Some(path.to_path_buf());
        e.0.errno = errno;
        e
    }

    /// The same error, naming the file it is about.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    /// The same error, naming the position (a byte offset in [`Error::path`], else an LSN).
    #[must_use]
    pub fn at_position(mut self, position: u64) -> Self {
        self.0.position = Some(position);
        self
    }

    /// The same error with the operating system's number.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.0.errno = Some(errno);
        self
    }

    /// The same error with what became of the message.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = Some(outcome);
        self
    }

    /// The same error with an outcome, unless it has one already.
    #[must_use]
    pub fn or_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome.get_or_insert(outcome);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence without the code in front.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call, made again later, may succeed without anything being repaired.
    /// After an [`Outcome::MaybeStored`] that means waiting with `flush`, not sending again.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.0.code.is_retriable()
    }

    /// What became of the message, for errors of a send.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome
    }

    /// The status of a send that was appended and not confirmed in time; `None` for every other
    /// error.
    #[must_use]
    pub fn status(&self) -> Option<SendStatus> {
        (self.0.code == Code::FlushTimeout).then_some(SendStatus::FlushDiskTimeout)
    }

    /// The file the error is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in [`Error::path`], or the log position, that the error is about.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// The operating system's error number.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.code)?;
        if let Some(outcome) = self.0.outcome {
            write!(f, " [{outcome}]")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("path", &self.0.path)
            .field("position", &self.0.position)
            .field("errno", &self.0.errno)
            .field("outcome", &self.0.outcome)
            .finish()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ordered_and_found_by_number() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number());
        }
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(100), None);
    }

    #[test]
    fn an_os_error_says_what_where_and_what_to_do() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let e = Error::io("write", "/data/q/log/00000001.0.seg", &full);
        assert_eq!(e.code(), Code::Full);
        assert_eq!(e.errno(), Some(libc::ENOSPC));
        let text = e.to_string();
        assert!(
            text.contains("cannot write /data/q/log/00000001.0.seg"),
            "{text}"
        );
        assert!(text.contains("free space"), "{text}");
        assert!(text.contains("KQ-202"), "{text}");
    }
}
