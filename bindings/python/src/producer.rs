//! Named producers: their messages are numbered, so that none is stored twice.

use crate::args::{FlushMode, Outgoing, Seconds, Timeout, WhenFullArg, outgoing};
use crate::codec::encoded;
use crate::error::OrRaise;
use crate::future::SendFuture;
use crate::send::{SendMany, SendResult};
use crate::sending::{Callbacks, forgotten, sent_by_us, sent_in_order};
use crate::store::Store;
use crate::topic::{Topic, TopicArgs};
use crate::wait::{self, Bounds};
use engine::OutMessage;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use std::sync::{Mutex, PoisonError};

/// A named producer, whose sequences have no gaps. Opening the name again fences this handle. Made
/// by Store.producer. Usable from any thread.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Producer {
    inner: engine::Producer,
    store: Py<Store>,
    /// The topic last sent to by name. Never locked across an engine call.
    last: Mutex<Option<Py<Topic>>>,
}

impl Producer {
    pub(crate) fn new(inner: engine::Producer, store: Py<Store>) -> Self {
        Self {
            inner,
            store,
            last: Mutex::new(None),
        }
    }

    fn topic(&self, topic: &Bound<'_, PyAny>) -> PyResult<Py<Topic>> {
        let py = topic.py();
        if let Ok(topic) = topic.cast::<Topic>() {
            return Ok(topic.clone().unbind());
        }
        let Ok(name) = topic.extract::<PyBackedStr>() else {
            return Err(PyTypeError::new_err("a topic is its name or a keepq.Topic"));
        };
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = last().as_ref().filter(|t| t.get().is_named(&name)) {
            return Ok(topic.clone_ref(py));
        }
        let args = TopicArgs {
            create: true,
            ..TopicArgs::default()
        };
        let topic = Topic::open(self.store.bind(py), name, args)?;
        let topic = Py::new(py, topic)?;
        *last() = Some(topic.clone_ref(py));
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
        signature = (topic, body, *, seq=None, key=None, tag=None, headers=None, order_key=None,
                     flush=None, timeout=Timeout::Default),
        text_signature = "($self, topic, body, *, seq=None, key=None, tag=None, headers=None, \
                          order_key=None, flush=None, timeout=...)"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        seq: Option<u64>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendResult> {
        let topic = self.topic(topic)?;
        let topic = topic.get();
        let (body, headers) = encoded(topic.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(topic.flush),
            timeout: timeout.for_engine(),
            when_full: None,
        };
        // In a forked child the topic would be opened anew, but never this producer.
        let (time, topic) = (topic.time(&out), topic.now());
        let send = |bounds| {
            let out = out.out(bounds);
            let sent = py.detach(|| self.inner.send_within(&topic, seq, &out, wait::SLICE));
            wait::confirmed(py, sent)
        };
        let times = (time, wait::began(py, &out.body.0)?);
        let sent = wait::for_room(py, times, send)?;
        Ok(SendResult::new(&sent))
    }

    /// Sends one message with its number without waiting for the disk: as Topic.send_async.
    #[pyo3(
        signature = (topic, body, *, seq=None, key=None, tag=None, headers=None, order_key=None,
                     flush=None, timeout=Timeout::Default, when_full=None, on_success=None,
                     on_exception=None, _room=None),
        text_signature = "($self, topic, body, *, seq=None, key=None, tag=None, headers=None, \
                          order_key=None, flush=None, timeout=..., when_full='block', \
                          on_success=None, on_exception=None)"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send_async(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        seq: Option<u64>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        flush: Option<FlushMode>,
        timeout: Timeout,
        when_full: Option<WhenFullArg>,
        on_success: Option<Py<PyAny>>,
        on_exception: Option<Py<PyAny>>,
        _room: Option<Seconds>,
    ) -> PyResult<Py<SendFuture>> {
        let topic = self.topic(topic)?;
        let topic = topic.get();
        let (body, headers) = encoded(topic.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(topic.flush),
            timeout: timeout.for_engine(),
            when_full: when_full.map(|w| w.0),
        };
        let callbacks = Callbacks {
            patience: _room.map(|room| room.0),
            on_success,
            on_exception,
        };
        // In a forked child this raises: it is not this producer's.
        topic.start(py, callbacks, &out, false, |topic, bounds| {
            self.inner.send_async(topic, seq, &out.out(bounds))
        })
    }

    /// Sends one message with its number and forgets it: as Topic.send_oneway. A gap and a fenced
    /// handle are counted, too.
    #[pyo3(
        signature = (topic, body, *, seq=None, key=None, tag=None, headers=None, order_key=None,
                     flush=None, timeout=Timeout::Default, when_full=None, _room=None),
        text_signature = "($self, topic, body, *, seq=None, key=None, tag=None, headers=None, \
                          order_key=None, flush=None, timeout=..., when_full='block')"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send_oneway(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        seq: Option<u64>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        flush: Option<FlushMode>,
        timeout: Timeout,
        when_full: Option<WhenFullArg>,
        _room: Option<Seconds>,
    ) -> PyResult<()> {
        let topic = self.topic(topic)?;
        let topic = topic.get();
        let (body, headers) = encoded(topic.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(topic.flush),
            timeout: timeout.for_engine(),
            when_full: when_full.map(|w| w.0),
        };
        let began = wait::began(py, &out.body.0)?;
        let times = (topic.time(&out), _room.map(|room| room.0), began);
        let topic = topic.now();
        let attempt = |bounds| {
            let out = out.out(bounds);
            Ok(py.detach(|| self.inner.try_send_oneway(&topic, seq, &out)))
        };
        forgotten(py, times, attempt, || {
            let out = out.out(Bounds::NONE);
            py.detach(|| self.inner.send_oneway(&topic, seq, &out));
            Ok(())
        })
    }

    /// Sends many messages with consecutive sequences from first on and one flush; None = each with
    /// the next one, so that threads may share the producer: others' may be in between, and a
    /// message that fails takes none. Returns a SendMany, as Topic.send_many.
    #[pyo3(
        signature = (topic, messages, *, first=None, flush=None, timeout=Timeout::Default),
        text_signature = "($self, topic, messages, *, first=None, flush=None, timeout=...)"
    )]
    fn send_many(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        messages: &Bound<'_, PyAny>,
        first: Option<u64>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendMany> {
        let topic = self.topic(topic)?;
        let topic = topic.get();
        let codec = topic.codec;
        let messages = outgoing(messages, codec, flush.map(|f| f.0).or(topic.flush), timeout)?;
        let (time, topic) = (self.store.get().send_timeout(), topic.now());
        let send = |out: &[OutMessage<'_>]| {
            // What is left is the end of all.
            let done = (messages.len() - out.len()) as u64;
            let from = first.map(|first| first.saturating_add(done));
            let send = || sent_by_us(self.inner.send_many_within(&topic, from, out, wait::SLICE));
            py.detach(send).or_raise(py)
        };
        sent_in_order(py, &messages, time, send)
    }

    fn __repr__(&self) -> String {
        format!("<keepq.Producer {:?}>", self.inner.name())
    }
}
