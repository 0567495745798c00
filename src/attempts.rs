//! Trying a send again: a few times, soon, and never so that it could be stored twice.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Code, Error, Result};
use crate::inner::Inner;

/// The wait before the second attempt. The keeper looks after a full disk every 50 ms.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The attempts of one send, its append and its wait for the disk together.
pub(crate) struct Attempts<'a> {
    inner: &'a Inner,
    deadline: Deadline<'a>,
    left: u32,
    wait: Duration,
}

impl<'a> Attempts<'a> {
    /// As many attempts as the store was opened with, until `deadline`.
    #[inline]
    pub(crate) fn new(inner: &'a Inner, deadline: Deadline<'a>) -> Self {
        Self {
            inner,
            deadline,
            left: inner.options.send_retries,
            wait: FIRST_WAIT,
        }
    }

    /// Calls `call` until it succeeds, fails for good, or the attempts are used up.
    #[inline]
    pub(crate) fn run<T>(&mut self, mut call: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(e) if self.again(&e) => {}
                done => return done,
            }
        }
    }

    /// Whether to try again after this error; waits before it says so.
    #[cold]
    fn again(&mut self, error: &Error) -> bool {
        // What waited for its time to end has waited long enough.
        let over = self.left == 0 || error.code() == Code::Timeout;
        if over || !error.is_retriable() || self.inner.is_closed() {
            return false;
        }
        let time_left = Duration::from_millis(self.deadline.at().saturating_sub(self.inner.now()));
        if time_left <= self.wait {
            return false;
        }
        self.left -= 1;
        self.inner.log.ctl.host.pause(self.wait);
        self.wait = self.wait.saturating_mul(2);
        !self.inner.is_closed()
    }
}
