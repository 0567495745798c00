//! Named producers: their messages are numbered, so that none is stored twice.

use crate::args::{Buffer, FlushMode, Headers, Outgoing, Timeout, outgoing};
use crate::error::OrRaise;
use crate::send::{SendMany, SendResult};
use crate::topic::Topic;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use std::sync::{Mutex, PoisonError};

/// A named producer, whose sequences have no gaps. Opening the name again fences this handle. Made
/// by Store.producer.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Producer {
    inner: engine::Producer,
    store: engine::Store,
    /// The topic last sent to by name. Never locked across an engine call.
    last: Mutex<Option<engine::Topic>>,
}

impl Producer {
    pub(crate) fn new(inner: engine::Producer, store: engine::Store) -> Self {
        Self {
            inner,
            store,
            last: Mutex::new(None),
        }
    }

    fn topic(&self, topic: &Bound<'_, PyAny>) -> PyResult<engine::Topic> {
        let py = topic.py();
        if let Ok(topic) = topic.cast::<Topic>() {
            return Ok(topic.get().inner.clone());
        }
        let Ok(name) = topic.extract::<PyBackedStr>() else {
            return Err(PyTypeError::new_err("a topic is its name or a keepq.Topic"));
        };
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = last().as_ref().filter(|t| t.name() == &*name) {
            return Ok(topic.clone());
        }
        let topic = py.detach(|| self.store.topic(&name)).or_raise(py)?;
        *last() = Some(topic.clone());
        Ok(topic)
    }
}

#[pymethods]
impl Producer {
    /// The producer's name.
    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// The sequence the next new message gets, from 0.
    #[getter]
    fn next_seq(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.inner.next_seq()).or_raise(py)
    }

    /// Sends one message to a topic (a name or a Topic). seq is its number from this producer, None
    /// = the next; one sent before is a success with .duplicate, one too high raises ProducerGap.
    #[pyo3(
        signature = (topic, body, *, seq=None, key=None, tag=None, headers=None, flush=None,
                     timeout=Timeout::Default),
        text_signature = "($self, topic, body, *, seq=None, key=None, tag=None, headers=None, \
                          flush=None, timeout=...)"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        body: Buffer,
        seq: Option<u64>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<Headers>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendResult> {
        let topic = self.topic(topic)?;
        let flush = flush.map(|f| f.0);
        let out = Outgoing {
            body,
            key,
            tag,
            headers,
            flush,
            timeout: timeout.for_engine(),
        };
        let sent = py.detach(|| self.inner.send(&topic, seq, &out.out()));
        sent.map(SendResult::new).or_raise(py)
    }

    /// Sends many messages with consecutive sequences from first (None = the next) and one flush.
    /// Returns a SendMany.
    #[pyo3(signature = (topic, messages, *, first=None))]
    fn send_many(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        messages: &Bound<'_, PyAny>,
        first: Option<u64>,
    ) -> PyResult<SendMany> {
        let messages = outgoing(messages)?;
        let topic = self.topic(topic)?;
        let send = || {
            let first = first.map_or_else(|| self.inner.next_seq(), Ok)?;
            let out: Vec<_> = messages.iter().map(Outgoing::out).collect();
            Ok(self.inner.send_many(&topic, first, &out))
        };
        py.detach(send).map(SendMany::new).or_raise(py)
    }

    fn __repr__(&self) -> String {
        format!("<keepq.Producer {:?}>", self.inner.name())
    }
}
