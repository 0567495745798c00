//! Engine errors as Python exceptions.

use engine::{Code, Error};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The exception for an engine error, made by the one table in `keepq._errors`.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        let code = error.code();
        MAKE.import(py, "keepq._errors", "from_engine")?.call1((
            code.number(),
            code.name(),
            error.message(),
            error.is_retriable(),
            error.outcome().map(|o| o.name()),
            error.path(),
            error.position(),
            error.errno(),
        ))
    };
    make().map_or_else(|e| e, PyErr::from_value)
}

/// An exception of this door's own making.
pub(crate) fn new(py: Python<'_>, code: Code, message: impl Into<String>) -> PyErr {
    to_python(py, &Error::new(code, message))
}

/// `keepq.Empty`: the outcome of a receive that is no engine error.
pub(crate) fn empty(py: Python<'_>) -> PyErr {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        let class = EMPTY.import(py, "keepq._errors", "Empty")?;
        class.call1(("no message came within the time",))
    };
    make().map_or_else(|e| e, PyErr::from_value)
}

/// Results of the engine, on their way to Python.
pub(crate) trait OrRaise<T> {
    /// The value, or the exception for the error.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for engine::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, &error))
    }
}

/// Refuses options that the interface names but this version lacks: none is ignored silently.
pub(crate) fn refuse(py: Python<'_>, options: &[(&str, bool)]) -> PyResult<()> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((name, _)) => {
            let text = format!("{name}= is not part of this version of keepq");
            Err(new(py, Code::NotSupported, text))
        }
    }
}
