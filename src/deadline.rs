//! Until when a call may wait.

use std::cell::Cell;
use std::time::Duration;

use crate::inner::Inner;

/// When a call began. It is asked when something has to be waited for: for a call that waits for
/// nothing, the clock costs as much as a tenth of the rest.
pub(crate) struct Begun<'a> {
    inner: &'a Inner,
    /// BOOTTIME ms.
    at: Cell<Option<u64>>,
}

impl<'a> Begun<'a> {
    /// At the first wait.
    #[inline]
    pub(crate) const fn at_first_wait(inner: &'a Inner) -> Self {
        Self {
            inner,
            at: Cell::new(None),
        }
    }

    /// At a time that is known (BOOTTIME ms).
    pub(crate) const fn at(inner: &'a Inner, at: u64) -> Self {
        Self {
            inner,
            at: Cell::new(Some(at)),
        }
    }

    /// The store of the call.
    #[inline]
    pub(crate) const fn inner(&self) -> &'a Inner {
        self.inner
    }

    /// So much later. Overlong times never end.
    #[inline]
    pub(crate) const fn after(&'a self, time: Duration) -> Deadline<'a> {
        Deadline {
            begun: self,
            after: time,
        }
    }
}

/// The end of the time that a call has, or a part of it.
#[derive(Clone, Copy)]
pub(crate) struct Deadline<'a> {
    begun: &'a Begun<'a>,
    after: Duration,
}

impl Deadline<'_> {
    /// When it is (BOOTTIME ms).
    #[inline]
    pub(crate) fn at(self) -> u64 {
        let begun = self.begun.at.get().unwrap_or_else(|| {
            let now = self.begun.inner.now();
            self.begun.at.set(Some(now));
            now
        });
        let after = u64::try_from(self.after.as_millis()).unwrap_or(u64::MAX);
        begun.saturating_add(after)
    }

    /// Whether it comes before another one of the same call.
    #[inline]
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.after < other.after
    }

    /// The earlier one, of the same call.
    #[inline]
    pub(crate) fn or_before(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }
}
