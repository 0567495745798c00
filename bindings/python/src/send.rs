//! Results of sends.

use crate::error::{self, OrRaise};
use engine::{MessageId, SendStatus, Sent};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

/// What became of a message that was sent. It can be pickled and hashed.
#[pyclass(module = "keepq", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash, Clone)]
pub(crate) struct SendResult {
    id: MessageId,
    seq: Option<u64>,
    status: SendStatus,
    durable: bool,
    duplicate: bool,
}

/// A member of the Python enum `keepq.SendStatus`.
fn status<'py>(py: Python<'py>, status: SendStatus) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS
        .import(py, "keepq._types", "SendStatus")?
        .getattr(status.name())
}

impl SendResult {
    pub(crate) fn new(sent: &Sent) -> Self {
        Self {
            id: sent.id,
            seq: sent.seq,
            status: sent.status,
            durable: sent.durable,
            duplicate: sent.duplicate,
        }
    }
}

#[pymethods]
impl SendResult {
    #[new]
    #[pyo3(signature = (id, seq, status, durable, duplicate))]
    fn make(
        py: Python<'_>,
        id: PyBackedStr,
        seq: Option<u64>,
        status: &Bound<'_, PyAny>,
        durable: bool,
        duplicate: bool,
    ) -> PyResult<Self> {
        let name: PyBackedStr = status.getattr("name")?.extract()?;
        let known = [SendStatus::SendOk, SendStatus::FlushDiskTimeout];
        let Some(status) = known.into_iter().find(|known| known.name() == &*name) else {
            return Err(PyValueError::new_err("a status is a keepq.SendStatus"));
        };
        Ok(Self {
            id: id.parse::<MessageId>().or_raise(py)?,
            seq,
            status,
            durable,
            duplicate,
        })
    }

    /// The message's identity: 16 hexadecimal digits, the same through all its deliveries.
    #[getter]
    fn id(&self) -> String {
        self.id.to_string()
    }

    /// Its sequence in the topic, from 0; None for a duplicate whose first result is forgotten.
    #[getter]
    fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// How the send ended: a keepq.SendStatus.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        status(py, self.status)
    }

    /// Whether the message was on disk when the call returned.
    #[getter]
    fn durable(&self) -> bool {
        self.durable
    }

    /// Whether its producer had sent this sequence before: nothing was appended.
    #[getter]
    fn duplicate(&self) -> bool {
        self.duplicate
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, this) = (slf.py(), slf.get());
        let status = status(py, this.status)?;
        let fields = (this.id(), this.seq, status, this.durable, this.duplicate);
        (slf.get_type(), fields).into_pyobject(py)
    }

    fn __repr__(&self) -> String {
        let python = |b: bool| if b { "True" } else { "False" };
        format!(
            "SendResult(id='{}', seq={}, status={}, durable={}, duplicate={})",
            self.id,
            self.seq
                .map_or_else(|| "None".to_owned(), |s| s.to_string()),
            self.status.name(),
            python(self.durable),
            python(self.duplicate),
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
        let results: Vec<SendResult> = sent.map(SendResult::new).collect();
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
