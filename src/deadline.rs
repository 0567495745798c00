//! Until when a call may wait.

use std::cell::Cell;
use std::time::Duration;

use crate::inner::Inner;

/// The end of a call's time. The clock is read when something has to be waited for: for a call that
/// waits for nothing that costs as much as a tenth of the rest.
pub(crate) struct Deadline<'a> {
    inner: &'a Inner,
    timeout: Option<Duration>,
    /// BOOTTIME ms.
    at: Cell<Option<u64>>,
}

impl<'a> Deadline<'a> {
    /// So much time from the first wait on; `None` and overlong times never end.
    #[inline]
    pub(crate) const fn after(inner: &'a Inner, timeout: Option<Duration>) -> Self {
        Self {
            inner,
            timeout,
            at: Cell::new(None),
        }
    }

    /// A time that is known (BOOTTIME ms).
    pub(crate) const fn at_time(inner: &'a Inner, at: u64) -> Self {
        Self {
            inner,
            timeout: None,
            at: Cell::new(Some(at)),
        }
    }

    /// When it is (BOOTTIME ms).
    #[inline]
    pub(crate) fn at(&self) -> u64 {
        if let Some(at) = self.at.get() {
            return at;
        }
        let at = self.inner.deadline(self.timeout);
        self.at.set(Some(at));
        at
    }
}
