//! Waits that Ctrl-C can end.

use pyo3::prelude::*;
use std::time::Duration;

/// The longest the engine waits before signals are looked at.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Calls `step` with slices of the timeout (None = for ever) until it gives something or the time
/// is over. Between slices signal handlers run. A step waits without the GIL.
///
/// A step that gives nothing is taken to have used its slice up, so that no clock is needed.
pub(crate) fn in_slices<T>(
    py: Python<'_>,
    timeout: Option<Duration>,
    mut step: impl FnMut(Duration) -> PyResult<Option<T>>,
) -> PyResult<Option<T>> {
    let mut left = timeout.unwrap_or(Duration::MAX);
    loop {
        let slice = left.min(SLICE);
        if let Some(value) = step(slice)? {
            return Ok(Some(value));
        }
        py.check_signals()?;
        if left != Duration::MAX {
            left -= slice;
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}
