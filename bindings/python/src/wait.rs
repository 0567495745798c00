//! Waits that Ctrl-C can end.

use crate::error::OrRaise;
use engine::Code;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
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

/// Python's clock for such times.
fn now(py: Python<'_>) -> PyResult<Duration> {
    static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let monotonic = MONOTONIC.import(py, "time", "monotonic_ns")?;
    Ok(Duration::from_nanos(monotonic.call0()?.extract()?))
}

/// How long one attempt of a send may wait.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// For room.
    pub(crate) room: Duration,
    /// In all; `None`: as the send says.
    pub(crate) all: Option<Duration>,
}

impl Bounds {
    /// No time at all.
    pub(crate) const NONE: Self = Self {
        room: Duration::ZERO,
        all: Some(Duration::ZERO),
    };
}

/// Sends with slices of the time that a send may wait for room, as long as it ends for want of
/// room. Between them signal handlers run.
pub(crate) fn for_room<T>(
    py: Python<'_>,
    timeout: Duration,
    send: impl FnMut(Bounds) -> PyResult<engine::Result<T>>,
) -> PyResult<T> {
    for_room_or_late(py, timeout, send)?.or_raise(py)
}

/// As [`for_room`]; gives the engine's error, and what Ctrl-C raises.
///
/// The first attempt waits for none, so that no clock is needed where there is some.
pub(crate) fn for_room_or_late<T>(
    py: Python<'_>,
    timeout: Duration,
    mut send: impl FnMut(Bounds) -> PyResult<engine::Result<T>>,
) -> PyResult<engine::Result<T>> {
    let mut bounds = Bounds {
        room: Duration::ZERO,
        all: None,
    };
    let mut began = None;
    loop {
        match send(bounds)? {
            Err(e) if e.code() == Code::Timeout => {
                py.check_signals()?;
                // An attempt may take less than its slice, or more where the disk does not keep up.
                let now = now(py)?;
                let took = now.saturating_sub(*began.get_or_insert(now));
                let left = timeout.saturating_sub(took);
                if left.is_zero() {
                    return Ok(Err(e));
                }
                bounds = Bounds {
                    room: left.min(SLICE),
                    all: Some(left),
                };
            }
            result => return Ok(result),
        }
    }
}
