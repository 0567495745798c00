//! Topics: sending.

use crate::args::{Buffer, FlushMode, Headers, Outgoing, Timeout, outgoing};
use crate::error::{OrRaise, refuse};
use crate::send::{SendMany, SendResult};
use engine::Flush;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// A topic of an open store: messages are sent to it. Made by Store.topic.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Topic {
    pub(crate) inner: engine::Topic,
    /// What sends of this handle do unless they say otherwise.
    flush: Option<Flush>,
}

impl Topic {
    pub(crate) fn new(inner: engine::Topic, flush: Option<Flush>) -> Self {
        Self { inner, flush }
    }
}

#[pymethods]
impl Topic {
    /// The topic's name.
    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// Sends one message and returns a SendResult; without an exception it is as durable as asked.
    ///
    /// body is bytes-like; key and tag are str of at most 255 bytes of UTF-8; headers maps str to
    /// bytes-like. flush="sync": on disk when send returns; "async": in shared memory. timeout in
    /// seconds, None = for ever; left out: as the store was opened with.
    #[pyo3(
        signature = (body, *, key=None, tag=None, headers=None, order_key=None, delay=None,
                     at=None, ttl=None, priority=None, dedup_id=None, flush=None,
                     timeout=Timeout::Default),
        text_signature = "($self, body, *, key=None, tag=None, headers=None, order_key=None, \
                          delay=None, at=None, ttl=None, priority=None, dedup_id=None, \
                          flush=None, timeout=...)"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send(
        &self,
        py: Python<'_>,
        body: Buffer,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<Headers>,
        order_key: Option<&Bound<'_, PyAny>>,
        delay: Option<&Bound<'_, PyAny>>,
        at: Option<&Bound<'_, PyAny>>,
        ttl: Option<&Bound<'_, PyAny>>,
        priority: Option<&Bound<'_, PyAny>>,
        dedup_id: Option<&Bound<'_, PyAny>>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendResult> {
        refuse(
            py,
            &[
                ("order_key", order_key.is_some()),
                ("delay", delay.is_some()),
                ("at", at.is_some()),
                ("ttl", ttl.is_some()),
                ("priority", priority.is_some()),
                ("dedup_id", dedup_id.is_some()),
            ],
        )?;
        let flush = flush.map(|f| f.0).or(self.flush);
        let out = Outgoing {
            body,
            key,
            tag,
            headers,
            flush,
            timeout: timeout.for_engine(),
        };
        let send = || {
            let out = out.out();
            let mut message = self.inner.message(out.body);
            if let Some(key) = out.key {
                message = message.key(key);
            }
            if let Some(tag) = out.tag {
                message = message.tag(tag);
            }
            for (name, value) in out.headers {
                message = message.header(name, value);
            }
            if let Some(flush) = out.flush {
                message = message.flush(flush);
            }
            if let Some(timeout) = out.timeout {
                message = message.timeout(timeout);
            }
            message.send()
        };
        py.detach(send).map(SendResult::new).or_raise(py)
    }

    /// Sends many messages with one flush; not atomic. Each is bytes-like or a keepq.Msg. Returns a
    /// SendMany: .ok are the results of those sent, .failed the (index, exception) of the others.
    fn send_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<SendMany> {
        let mut messages = outgoing(messages)?;
        for message in &mut messages {
            message.flush = message.flush.or(self.flush);
        }
        Ok(SendMany::new(py.detach(|| {
            let out: Vec<_> = messages.iter().map(Outgoing::out).collect();
            self.inner.send_many(&out)
        })))
    }

    /// How many messages of the topic are kept.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let len = py.detach(|| self.inner.len()).or_raise(py)?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// A topic is true, also while nothing is in it.
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        format!("<keepq.Topic {:?}>", self.inner.name())
    }
}
