//! Consumer groups: receiving.

use crate::args::Seconds;
use crate::error::{self, OrRaise};
use crate::message::Message;
use crate::{report, wait};
use engine::{Backoff, Code, Delivery, Error, Result, Start};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `start=` of a group: "earliest", "latest" or a sequence.
pub(crate) struct StartArg(pub(crate) Start);

impl<'py> FromPyObject<'_, 'py> for StartArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(seq) = obj.extract::<u64>() {
            return Ok(Self(Start::Sequence(seq)));
        }
        let text = obj.extract::<PyBackedStr>().ok();
        match text.as_deref() {
            Some("earliest") => Ok(Self(Start::Earliest)),
            Some("latest") => Ok(Self(Start::Latest)),
            Some(_) => Err(error::new(
                obj.py(),
                Code::InvalidArgument,
                "start is 'earliest', 'latest' or a sequence (an int from 0)",
            )),
            None => Err(error::new(
                obj.py(),
                Code::NotSupported,
                "start= takes 'earliest', 'latest' or a sequence in this version of keepq",
            )),
        }
    }
}

/// `backoff=` of a group: a `keepq.Backoff`.
pub(crate) struct BackoffArg(pub(crate) Backoff);

impl<'py> FromPyObject<'_, 'py> for BackoffArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = obj.py();
        if obj.is_instance_of::<PyString>() {
            let text = "backoff= takes a keepq.Backoff in this version of keepq";
            return Err(error::new(py, Code::NotSupported, text));
        }
        if !obj.is_instance(CLASS.import(py, "keepq._types", "Backoff")?)? {
            let text = "backoff is a keepq.Backoff";
            return Err(pyo3::exceptions::PyTypeError::new_err(text));
        }
        Ok(Self(Backoff {
            first: obj.getattr("first")?.extract::<Seconds>()?.0,
            factor: obj.getattr("factor")?.extract()?,
            max: obj.getattr("max")?.extract::<Seconds>()?.0,
            jitter: obj.getattr("jitter")?.extract()?,
        }))
    }
}

/// A consumer group: every group gets every message of its topic, its members share them. Made by
/// Store.group. Iterating over it receives for ever, until close().
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Group {
    inner: engine::Group,
    closed: AtomicBool,
}

impl Group {
    pub(crate) fn new(inner: engine::Group) -> Self {
        Self {
            inner,
            closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            let text = format!("the group {:?} was closed", self.inner.name());
            return Err(Error::new(Code::Closed, text));
        }
        Ok(())
    }

    /// Receives one message; None when the time is over.
    fn one(
        &self,
        py: Python<'_>,
        timeout: Option<Duration>,
        detached: bool,
    ) -> PyResult<Option<Message>> {
        self.check_open().or_raise(py)?;
        let step = |slice| {
            if detached {
                Ok(self.inner.receive_detached(1, slice)?.pop())
            } else {
                self.inner.receive(slice)
            }
        };
        let delivery = wait::in_slices(py, timeout, step, || self.check_open())?;
        Ok(delivery.map(Message::new))
    }
}

#[pymethods]
impl Group {
    /// The group's name.
    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// The name of its topic.
    #[getter]
    fn topic(&self) -> &str {
        self.inner.topic()
    }

    /// Receives one message under a lease; raises Empty when timeout seconds are over (None = wait
    /// for ever, 0 = try once). detached=True: the lease does not end with this process, so that
    /// the message can be settled elsewhere by its receipt.
    #[pyo3(signature = (timeout=None, *, detached=false))]
    fn receive(
        &self,
        py: Python<'_>,
        timeout: Option<Seconds>,
        detached: bool,
    ) -> PyResult<Message> {
        self.one(py, timeout.map(|t| t.0), detached)?
            .ok_or_else(|| error::empty(py))
    }

    /// Receives a message that is there now, else returns None.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        self.one(py, Some(Duration::ZERO), false)
    }

    /// Receives up to max messages: waits for the first, takes what else is there. Returns an empty
    /// list when timeout seconds are over (None = wait for ever).
    #[pyo3(signature = (max, timeout=None, *, detached=false))]
    fn receive_batch(
        &self,
        py: Python<'_>,
        max: usize,
        timeout: Option<Seconds>,
        detached: bool,
    ) -> PyResult<Vec<Message>> {
        self.check_open().or_raise(py)?;
        let step = |slice| {
            let got = if detached {
                self.inner.receive_detached(max, slice)
            } else {
                self.inner.receive_batch(max, slice)
            };
            Ok(Some(got?).filter(|all| !all.is_empty()))
        };
        let timeout = timeout.map(|t| t.0);
        let deliveries = wait::in_slices(py, timeout, step, || self.check_open())?;
        let deliveries = deliveries.unwrap_or_default();
        Ok(deliveries.into_iter().map(Message::new).collect())
    }

    /// Acknowledges many messages at once. All are tried; if some cannot be, the first one's error
    /// is raised, with a note that says how many there were.
    fn ack_many(&self, py: Python<'_>, messages: Vec<Py<Message>>) -> PyResult<()> {
        let total = messages.len();
        let deliveries: Vec<&Delivery> = messages.iter().map(|m| m.get().delivery()).collect();
        let results = py.detach(|| self.inner.ack_many(deliveries));
        for (message, result) in messages.iter().zip(&results) {
            message.get().answered(result);
        }
        let failed: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
        let Some(first) = failed.first() else {
            return Ok(());
        };
        let exception = error::to_python(py, first);
        let note = format!("{} of {total} acks failed", failed.len());
        exception.value(py).call_method1("add_note", (note,))?;
        Err(exception)
    }

    /// Counters of the group: a keepq.GroupStats.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = py.detach(|| self.inner.stats()).or_raise(py)?;
        report::group(py, &stats)
    }

    /// How many messages can be received now.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(py.detach(|| self.inner.stats()).or_raise(py)?.ready)
    }

    /// Closes this handle: waits in other threads and iterations end within 0.1 s. Messages already
    /// received stay leased. Closing again does nothing.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        match self.one(py, None, false) {
            // Closing the group is how an iteration ends; a closed store is still an error.
            Err(_) if self.check_open().is_err() => Ok(None),
            result => result,
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        self.close();
    }

    fn __repr__(&self) -> String {
        format!(
            "<keepq.Group {:?} of {:?}>",
            self.inner.name(),
            self.inner.topic()
        )
    }
}
