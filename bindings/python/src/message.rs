//! A received message.

use crate::args::{self, FlushMode, Seconds};
use crate::codec;
use crate::error::OrRaise;
use crate::group::Group;
use crate::keep_alive::KeepAlive;
use crate::wait::{self, SLICE};
use engine::{Code, Delivery, Error, Result, Within};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDateTime, PyDict};
use std::sync::atomic::{AtomicBool, Ordering};

/// A received message under a lease. Settle it with ack(), nack() or reject(), or use it in a with
/// statement: leaving it well acks, an exception nacks. One that is dropped unsettled is given back
/// at once.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Message {
    /// There until it is dropped.
    delivery: Option<Delivery>,
    /// Received by this; it knows the store and the codec.
    group: Py<Group>,
    body: PyOnceLock<Py<PyBytes>>,
    value: PyOnceLock<Py<PyAny>>,
    /// Whether a settlement was answered: leaving a with block then does nothing more.
    settled: AtomicBool,
}

/// What the exceptions that end a `with` block ask for.
enum Ending {
    Ack,
    Nack,
    Retry(Option<Seconds>),
    Reject(PyBackedStr),
}

impl Message {
    pub(crate) fn new(delivery: Delivery, group: Py<Group>) -> Self {
        Self {
            delivery: Some(delivery),
            group,
            body: PyOnceLock::new(),
            value: PyOnceLock::new(),
            settled: AtomicBool::new(false),
        }
    }

    pub(crate) fn delivery(&self) -> &Delivery {
        self.delivery.as_ref().expect("only drop takes it")
    }

    /// Notes the engine's answer to a settlement. After other errors than these the program, or
    /// the end of its with block, may try again.
    pub(crate) fn answered(&self, result: &Result<()>) {
        let code = result.as_ref().err().map(Error::code);
        if matches!(code, None | Some(Code::LeaseLost | Code::FlushTimeout)) {
            self.settled.store(true, Ordering::Release);
        }
    }

    /// Notes that it is settled for everybody, though the wait for the disk was ended.
    pub(crate) fn note_settled(&self) {
        self.settled.store(true, Ordering::Release);
    }

    fn settle(
        &self,
        py: Python<'_>,
        settle: impl FnOnce(&Delivery) -> Result<()> + Send,
    ) -> PyResult<()> {
        let result = py.detach(|| settle(self.delivery()));
        self.answered(&result);
        result.or_raise(py)
    }

    /// Settles with a wait for the disk, if that is asked for, that Ctrl-C can end.
    fn settle_within(
        &self,
        py: Python<'_>,
        settle: impl FnOnce(&Delivery) -> Within<Result<()>> + Send,
    ) -> PyResult<()> {
        let settled = py.detach(|| settle(self.delivery()));
        let result = wait::confirmed(py, settled).inspect_err(|_| self.note_settled())?;
        self.answered(&result);
        result.or_raise(py)
    }

    fn ending(py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<Ending> {
        static RETRY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static REJECT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if exception.is_none() {
            Ok(Ending::Ack)
        } else if exception.is_instance(RETRY.import(py, "keepq._errors", "Retry")?)? {
            Ok(Ending::Retry(exception.getattr("delay")?.extract()?))
        } else if exception.is_instance(REJECT.import(py, "keepq._errors", "Reject")?)? {
            Ok(Ending::Reject(exception.getattr("reason")?.extract()?))
        } else {
            Ok(Ending::Nack)
        }
    }
}

impl Message {
    /// Leaves a with block: settles what the block did not.
    pub(crate) fn leave(&self, py: Python<'_>, exc: &Bound<'_, PyAny>) -> PyResult<bool> {
        let ending = Self::ending(py, exc)?;
        let handled = matches!(ending, Ending::Retry(_) | Ending::Reject(_));
        if self.settled.load(Ordering::Acquire) {
            return Ok(handled);
        }
        match ending {
            Ending::Ack => self.settle_within(py, |d| d.ack_within(None, SLICE)),
            Ending::Retry(delay) => self.settle(py, |d| d.nack(delay.map(|d| d.0))),
            Ending::Reject(reason) => self.settle_within(py, |d| d.reject_within(&reason, SLICE)),
            Ending::Nack => {
                // The exception on its way is what matters; an unsettled lease ends by itself.
                let _ = self.settle(py, |d| d.nack(None));
                return Ok(false);
            }
        }?;
        Ok(handled)
    }
}

#[pymethods]
impl Message {
    /// The body.
    #[getter]
    fn body(&self, py: Python<'_>) -> Py<PyBytes> {
        if let Some(body) = self.body.get(py) {
            return body.clone_ref(py);
        }
        // get_or_init would let go of the GIL and take it again, for nothing: this cannot wait.
        let body = PyBytes::new(py, self.delivery().body()).unbind();
        let _ = self.body.set(py, body.clone_ref(py));
        body
    }

    /// The value of the body: decoded by the message's content-type header, else by the codec of
    /// the handle that received it; the body itself if there is neither. Decoded once. Raises
    /// DecodeError when it is not what it should be; the message stays, unsettled.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let decode = || {
            let (body, headers) = (self.body(py), self.headers(py)?);
            codec::decoded(
                py,
                self.group.get().codec(),
                &body,
                headers,
                self.delivery(),
            )
        };
        let value = self.value.get_or_try_init(py, decode)?;
        Ok(value.clone_ref(py))
    }

    /// The identity: 16 hexadecimal digits, the same through all deliveries.
    #[getter]
    fn id(&self) -> String {
        self.delivery().id().to_string()
    }

    /// The sequence in the topic, from 0.
    #[getter]
    fn seq(&self) -> u64 {
        self.delivery().seq()
    }

    /// The topic's name.
    #[getter]
    fn topic(&self) -> &str {
        self.delivery().topic()
    }

    /// The key, or None.
    #[getter]
    fn key(&self) -> Option<&str> {
        self.delivery().key()
    }

    /// The tag, or None.
    #[getter]
    fn tag(&self) -> Option<&str> {
        self.delivery().tag()
    }

    /// The order key, or None.
    #[getter]
    fn order_key(&self) -> Option<&str> {
        self.delivery().order_key()
    }

    /// The headers: a dict of str to bytes.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in self.delivery().headers() {
            dict.set_item(name, PyBytes::new(py, value))?;
        }
        Ok(dict)
    }

    /// Which delivery of the message this is, from 1.
    #[getter]
    fn attempt(&self) -> u32 {
        self.delivery().attempt()
    }

    /// When it was sent: an aware datetime in UTC.
    #[getter]
    fn sent_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        args::datetime(py, self.delivery().sent_at_ms())
    }

    /// The name of the producer that sent it, or None.
    #[getter]
    fn producer(&self) -> Option<&str> {
        self.delivery().producer().map(|(name, _)| name)
    }

    /// Its sequence from that producer, or None.
    #[getter]
    fn producer_seq(&self) -> Option<u64> {
        self.delivery().producer().map(|(_, seq)| seq)
    }

    /// The receipt: a str with which any process can settle this delivery.
    #[getter]
    fn receipt(&self) -> String {
        self.delivery().receipt().to_string()
    }

    /// Done: the group does not get it again. flush="sync" makes the ack survive a power cut.
    /// Raises LeaseLost when the lease had ended. After Ctrl-C during the wait for the disk it is
    /// acked; a power cut soon after may undo that.
    #[pyo3(signature = (*, flush=None))]
    fn ack(&self, py: Python<'_>, flush: Option<FlushMode>) -> PyResult<()> {
        let flush = flush.map(|f| f.0);
        self.settle_within(py, |delivery| delivery.ack_within(flush, SLICE))
    }

    /// Not done: it is delivered again after delay seconds; None = after the group's back-off, 0 =
    /// at once.
    #[pyo3(signature = (delay=None))]
    fn nack(&self, py: Python<'_>, delay: Option<Seconds>) -> PyResult<()> {
        self.settle(py, |delivery| delivery.nack(delay.map(|d| d.0)))
    }

    /// Never again: it becomes a dead letter of the group, with this reason.
    fn reject(&self, py: Python<'_>, reason: PyBackedStr) -> PyResult<()> {
        self.settle_within(py, |delivery| delivery.reject_within(&reason, SLICE))
    }

    /// Keeps it for so many seconds from now on.
    fn extend(&self, py: Python<'_>, lease: Seconds) -> PyResult<()> {
        py.detach(|| self.delivery().extend(lease.0)).or_raise(py)
    }

    /// For a with statement that extends the lease again and again until it is left, and settles
    /// the message as `with msg:` does: `with msg.keep_alive() as msg:`. lease: the seconds it is
    /// extended by, at the latest when a third of them is over; None = the group's. A lease that is
    /// lost all the same is not kept any longer, and the settlement at the end raises LeaseLost.
    #[pyo3(signature = (lease=None))]
    fn keep_alive(slf: &Bound<'_, Self>, lease: Option<Seconds>) -> PyResult<KeepAlive> {
        let py = slf.py();
        let group = slf.get().group.get();
        let lease = match lease {
            Some(Seconds(lease)) => lease,
            None => group.call(py, engine::Group::config)?.lease,
        };
        let opened = group.store().get().current(py)?;
        let message = slf.clone().unbind();
        Ok(KeepAlive::new(message, opened.leases, opened.store, lease))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Settles what the block did not: ack, or nack after an exception. keepq.Retry and
    /// keepq.Reject do what they say, and go no further.
    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        self.leave(py, exc)
    }

    fn __repr__(&self) -> String {
        let d = self.delivery();
        format!(
            "<keepq.Message {} of {:?}, seq {}, attempt {}>",
            d.id(),
            d.topic(),
            d.seq(),
            d.attempt()
        )
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let Some(delivery) = self.delivery.take() else {
            return;
        };
        if !self.settled.load(Ordering::Acquire) {
            // Giving it back is an engine call: not under the GIL, if there is still one.
            Python::try_attach(|py| py.detach(|| drop(delivery)));
        }
    }
}
