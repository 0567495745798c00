//! Waits that Ctrl-C can end.

use pyo3::prelude::*;
use std::time::Duration;

/// The longest the engine waits before signals are looked at.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Calls `step` without the GIL, with slices of the timeout (None = for ever), until it gives
/// something or the time is over. Between slices signal handlers run, and `check` may end the wait.
///
/// A step that gives nothing is taken to have used its slice up, so that no clock is needed.
pub(crate) fn in_slices<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    step: impl Fn(Duration) -> engine::Result<Option<T>> + Send + Sync,
    check: impl Fn() -> engine::Result<()>,
) -> PyResult<Option<T>> {
    use crate::error::OrRaise;
    let mut left = timeout.unwrap_or(Duration::MAX);
    loop {
        let slice = left.min(SLICE);
        if let Some(value) = py.detach(|| step(slice)).or_raise(py)? {
            return Ok(Some(value));
        }
        py.check_signals()?;
        check().or_raise(py)?;
        if left != Duration::MAX {
            left -= slice;
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}
