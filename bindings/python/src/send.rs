//! Results of sends.

use crate::error;
use engine::{SendStatus, Sent};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

/// What became of a message that was sent.
#[pyclass(module = "keepq", frozen, eq)]
#[derive(PartialEq, Clone)]
pub(crate) struct SendResult(Sent);

/// A member of the Python enum `keepq.SendStatus`.
fn status<'py>(py: Python<'py>, status: SendStatus) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS
        .import(py, "keepq._types", "SendStatus")?
        .getattr(status.name())
}

impl SendResult {
    pub(crate) fn new(sent: Sent) -> Self {
        Self(sent)
    }
}

#[pymethods]
impl SendResult {
    /// The message's identity: 16 hexadecimal digits, the same through all its deliveries.
    #[getter]
    fn id(&self) -> String {
        self.0.id.to_string()
    }

    /// Its sequence in the topic, from 0; None for a duplicate whose first result is forgotten.
    #[getter]
    fn seq(&self) -> Option<u64> {
        self.0.seq
    }

    /// How the send ended: a keepq.SendStatus.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        status(py, self.0.status)
    }

    /// Whether the message was on disk when the call returned.
    #[getter]
    fn durable(&self) -> bool {
        self.0.durable
    }

    /// Whether its producer had sent this sequence before: nothing was appended.
    #[getter]
    fn duplicate(&self) -> bool {
        self.0.duplicate
    }

    fn __repr__(&self) -> String {
        let python = |b: bool| if b { "True" } else { "False" };
        format!(
            "SendResult(id='{}', seq={}, status={}, durable={}, duplicate={})",
            self.0.id,
            self.0
                .seq
                .map_or_else(|| "None".to_owned(), |s| s.to_string()),
            self.0.status.name(),
            python(self.0.durable),
            python(self.0.duplicate),
        )
    }
}

/// What became of many messages sent together: some may be stored and others not.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct SendMany(Vec<engine::Result<Sent>>);

impl SendMany {
    pub(crate) fn new(results: Vec<engine::Result<Sent>>) -> Self {
        Self(results)
    }
}

#[pymethods]
impl SendMany {
    /// The results of the messages that were sent, in order: a list of SendResult.
    #[getter]
    fn ok<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let sent = self.0.iter().filter_map(|r| r.as_ref().ok());
        let results: Vec<SendResult> = sent.cloned().map(SendResult).collect();
        PyList::new(py, results)
    }

    /// The others: a list of (index, exception).
    #[getter]
    fn failed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for (index, result) in self.0.iter().enumerate() {
            if let Err(error) = result {
                let exception = error::to_python(py, error).into_value(py);
                let pair: Bound<'_, PyTuple> = (index, exception).into_pyobject(py)?;
                list.append(pair)?;
            }
        }
        Ok(list)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        let ok = self.0.iter().filter(|r| r.is_ok()).count();
        format!("SendMany(ok={ok}, failed={})", self.0.len() - ok)
    }
}
