//! Waits that Ctrl-C can end.

use crate::error::OrRaise;
use engine::{Code, Error, Outcome, Within};
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
pub(crate) fn now(py: Python<'_>) -> PyResult<Duration> {
    static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let monotonic = MONOTONIC.import(py, "time", "monotonic_ns")?;
    Ok(Duration::from_nanos(monotonic.call0()?.extract()?))
}

/// [`now`], before a send whose body may take several records: it waits for its place in the log as
/// long as it may, in one piece.
pub(crate) fn began(py: Python<'_>, body: &[u8]) -> PyResult<Option<Duration>> {
    const SHORT: usize = 4096;
    (body.len() > SHORT).then(|| now(py)).transpose()
}

/// How long one attempt of a send may wait.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// For room below a limit.
    pub(crate) room: Duration,
    /// Over all attempts from this one on; `None`: as the send says.
    pub(crate) all: Option<Duration>,
}

impl Bounds {
    /// No time at all.
    pub(crate) const NONE: Self = Self {
        room: Duration::ZERO,
        all: Some(Duration::ZERO),
    };
}

/// Up to here the time of a send is measured from its very beginning. Of a longer one it does not
/// matter how much of one slice the first attempt took, and reading a clock costs every send.
const MEASURED: Duration = Duration::from_secs(1);

/// Whether the time of the attempt was over before anything was in the log: it may be made again.
pub(crate) fn is_late(error: &Error) -> bool {
    let stored = error
        .outcome()
        .is_some_and(|outcome| outcome != Outcome::NotStored);
    matches!(error.code(), Code::Timeout | Code::Busy) && !stored
}

/// Sends with slices of the time that a send may wait before it is in the log, as long as it ends
/// for want of room. Between them signal handlers run. With the time-out comes when it [`began`].
pub(crate) fn for_room<T>(
    py: Python<'_>,
    times: (Duration, Option<Duration>),
    send: impl FnMut(Bounds) -> PyResult<engine::Result<T>>,
) -> PyResult<T> {
    for_room_or_late(py, times, send)?.or_raise(py)
}

/// As [`for_room`]; gives the engine's error, and what Ctrl-C raises. `began` is [`now`] of before
/// the first attempt, if that may take longer than a slice and be late all the same.
///
/// The first attempt does not wait for room below a limit, so that no clock is needed where there
/// is some.
pub(crate) fn for_room_or_late<T>(
    py: Python<'_>,
    (timeout, began): (Duration, Option<Duration>),
    mut send: impl FnMut(Bounds) -> PyResult<engine::Result<T>>,
) -> PyResult<engine::Result<T>> {
    let mut bounds = Bounds {
        room: Duration::ZERO,
        all: None,
    };
    let mut began = match began {
        None if timeout <= MEASURED => Some(now(py)?),
        began => began,
    };
    loop {
        match send(bounds)? {
            Err(e) if is_late(&e) => {
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

/// Waits in slices for what is in the log to be confirmed. Between them signal handlers run.
pub(crate) fn confirmed<T: Send>(py: Python<'_>, mut now: Within<T>) -> PyResult<T> {
    loop {
        now = match now {
            Within::Done(result) => return Ok(result),
            Within::Unconfirmed(unconfirmed) => {
                py.check_signals()?;
                py.detach(|| unconfirmed.wait(SLICE))
            }
        };
    }
}
