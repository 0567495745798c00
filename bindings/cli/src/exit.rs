//! Exit codes, and the one error type of the program: a code and a sentence.

use keepq::{Code, Outcome};

pub(crate) const OK: i32 = 0;
pub(crate) const FAILED: i32 = 1;
pub(crate) const USAGE: i32 = 2;
pub(crate) const EMPTY: i32 = 3;
pub(crate) const NOT_FOUND: i32 = 4;
pub(crate) const DAMAGE: i32 = 5;
pub(crate) const BUSY: i32 = 6;
pub(crate) const IN_DOUBT: i32 = 7;
pub(crate) const INTERRUPTED: i32 = 130;

/// Why the program ends unsuccessfully.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    /// For standard error; empty = say nothing.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// A failed write to standard output. Nobody can read a sentence about a closed pipe's other
    /// end being gone, but everything else (a full disk) must be said.
    pub(crate) fn stdout(error: &std::io::Error) -> Self {
        Self::failed(format!("cannot write to standard output: {error}"))
    }

    /// The same failure, saying first what was being done.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl From<keepq::Error> for Failure {
    fn from(error: keepq::Error) -> Self {
        Self {
            code: code_of(&error),
            message: error.to_string(),
        }
    }
}

/// The exit code that belongs to an engine error.
fn code_of(error: &keepq::Error) -> i32 {
    if error.outcome() == Some(Outcome::MaybeStored) {
        return IN_DOUBT;
    }
    match error.code() {
        Code::NotFound | Code::NotAStore => NOT_FOUND,
        Code::Corrupt => DAMAGE,
        Code::Busy => BUSY,
        Code::FlushTimeout => IN_DOUBT,
        Code::Timeout => EMPTY,
        Code::Interrupted => INTERRUPTED,
        Code::InvalidName | Code::InvalidArgument | Code::BadReceipt => USAGE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfirmed_append_is_in_doubt_whatever_the_error() {
        let e = keepq::Error::new(Code::Storage, "x").with_outcome(Outcome::MaybeStored);
        assert_eq!(Failure::from(e).code, IN_DOUBT);
        let e = keepq::Error::new(Code::Storage, "x").with_outcome(Outcome::NotStored);
        assert_eq!(Failure::from(e).code, FAILED);
    }

    #[test]
    fn codes_have_the_documented_exit_codes() {
        let of = |code| Failure::from(keepq::Error::new(code, "x")).code;
        assert_eq!(of(Code::NotFound), 4);
        assert_eq!(of(Code::Corrupt), 5);
        assert_eq!(of(Code::Busy), 6);
        assert_eq!(of(Code::FlushTimeout), 7);
        assert_eq!(of(Code::InvalidName), 2);
        assert_eq!(of(Code::Full), 1);
    }
}
