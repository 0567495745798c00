//! Repairing a store.

use crate::error::OrRaise;
use crate::report;
use engine::RepairOptions;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Makes a damaged store usable again, which nobody may have open: afterwards it opens, everything
/// that is not damaged is delivered, and what damage took is told to each group by a CorruptError.
/// Returns a keepq.RepairReport.
///
/// Good data is never touched: damaged files are copied to quarantine/ in the store before anything
/// changes, and no file is changed in place. A repair that dies can be started again; a store that
/// needs none is left as it is. dry_run=True: nothing is changed, and the report says what would
/// be. progress(done, total) is called with bytes of each pass over the log; what it raises, Ctrl-C
/// included, is raised when the repair is done.
///
/// Raises Busy while a process has the store open, NotFound, IncompatibleError, Full, StorageError;
/// CorruptError when nothing can be made of what is left.
#[pyfunction]
#[pyo3(signature = (path, *, dry_run=false, progress=None))]
pub(crate) fn repair<'py>(
    py: Python<'py>,
    path: PathBuf,
    dry_run: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let options = RepairOptions { dry_run };
    let mut raised = None;
    let repaired = py.detach(|| {
        // The repair works alone: it holds nothing that a thread with the GIL would wait for.
        let mut told = |done, total| {
            let call = |py: Python<'_>| {
                py.check_signals()?;
                match &progress {
                    Some(progress) => progress.call1(py, (done, total)).map(drop),
                    None => Ok(()),
                }
            };
            if raised.is_none() {
                raised = Python::attach(call).err();
            }
        };
        engine::repair(&path, &options, &mut told)
    });
    let report = repaired.or_raise(py)?;
    match raised {
        Some(error) => Err(error),
        None => report::repair(py, &report),
    }
}
