//! What keepq tells the application's log, through the `tracing` crate where that is wanted.

use std::path::Path;

use crate::Error;
use crate::inner::Inner;

/// A store was opened.
pub(crate) fn opened(inner: &Inner) {
    #[cfg(feature = "tracing")]
    {
        let report = &inner.report;
        tracing::debug!(
            path = %inner.path.display(),
            created = report.created,
            joined = report.joined,
            warm = report.warm,
            "store opened"
        );
        for note in &report.notes {
            tracing::warn!(path = %inner.path.display(), "{note}");
        }
    }
    #[cfg(not(feature = "tracing"))]
    let _ = inner;
}

/// A store could not be closed cleanly while it was dropped.
pub(crate) fn close_failed(path: &Path, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(path = %path.display(), "closing the store: {error}");
    #[cfg(not(feature = "tracing"))]
    let _ = (path, error);
}

/// The keeper could not do a part of its work; it tries again.
pub(crate) fn keeper_failed(what: &str, error: &Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!("{what}: {error}");
    #[cfg(not(feature = "tracing"))]
    let _ = (what, error);
}

/// A callback of an asynchronous send panicked; the other callbacks run all the same.
pub(crate) fn callback_panicked() {
    #[cfg(feature = "tracing")]
    tracing::error!("a callback of an asynchronous send panicked");
}
