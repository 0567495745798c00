//! Opening and using a store.

use crate::args::{FlushMode, Seconds, Timeout};
use crate::error::{OrRaise, new, refuse};
use crate::group::{self, Group};
use crate::producer::Producer;
use crate::topic::Topic;
use crate::{report, wait};
use engine::{Code, Receipt, Result, StoreOptions};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use std::path::PathBuf;
use std::time::Duration;

/// An open store: a directory that any number of processes share. Made by keepq.open.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Store {
    inner: engine::Store,
}

/// Opens a store: a directory that any number of processes share; makes it if need be.
///
/// create=False: a missing store is NotFound. exist_ok=False: an existing one is AlreadyExists.
/// flush="sync": a message is on disk when send returns; "async": in shared memory, which survives
/// the death of every process, and on disk within flush_interval seconds. send_timeout in seconds,
/// None = for ever. mode: permission bits of a new store's files. segment_size, ring_size (bytes)
/// and slots are fixed when the store is made. allow_unsafe_filesystem=True opens on network, FUSE
/// and memory file systems, without the guarantees those cannot give.
#[pyfunction]
#[pyo3(
    signature = (path, *, create=true, exist_ok=true, flush=None, mode=0o600, read_only=false,
                 send_timeout=Timeout::Default, flush_interval=None, segment_size=None,
                 ring_size=None, slots=None, allow_unsafe_filesystem=false),
    text_signature = "(path, *, create=True, exist_ok=True, flush='sync', mode=0o600, \
                      read_only=False, send_timeout=3, flush_interval=0.01, segment_size=None, \
                      ring_size=None, slots=None, allow_unsafe_filesystem=False)"
)]
#[allow(clippy::too_many_arguments)] // They are named ones in Python.
pub(crate) fn open(
    py: Python<'_>,
    path: PathBuf,
    create: bool,
    exist_ok: bool,
    flush: Option<FlushMode>,
    mode: u32,
    read_only: bool,
    send_timeout: Timeout,
    flush_interval: Option<Seconds>,
    segment_size: Option<u64>,
    ring_size: Option<u64>,
    slots: Option<u32>,
    allow_unsafe_filesystem: bool,
) -> PyResult<Store> {
    refuse(py, &[("read_only", read_only)])?;
    let mut options = StoreOptions::default()
        .create(create)
        .exist_ok(exist_ok)
        .allow_unsafe_filesystem(allow_unsafe_filesystem);
    if mode != 0o600 {
        // The default is no wish: a store that was made with another mode opens as it is.
        options = options.mode(mode);
    }
    if let Some(FlushMode(flush)) = flush {
        options = options.flush(flush);
    }
    if let Some(timeout) = send_timeout.for_engine() {
        options = options.send_timeout(timeout);
    }
    if let Some(Seconds(interval)) = flush_interval {
        options = options.flush_interval(interval);
    }
    if let Some(size) = segment_size {
        options = options.segment_size(size);
    }
    if let Some(size) = ring_size {
        options = options.ring_size(size);
    }
    if let Some(slots) = slots {
        options = options.slots(slots);
    }
    let inner = py.detach(|| options.open(path)).or_raise(py)?;
    Ok(Store { inner })
}

impl Store {
    /// Settles by receipt.
    fn settle(
        &self,
        py: Python<'_>,
        receipt: &str,
        settle: impl FnOnce(&engine::Store, &Receipt) -> Result<()> + Send,
    ) -> PyResult<()> {
        let receipt: Receipt = receipt.parse::<Receipt>().or_raise(py)?;
        py.detach(|| settle(&self.inner, &receipt)).or_raise(py)
    }
}

#[pymethods]
impl Store {
    /// The store's directory.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.inner
            .path()
            .to_path_buf()
            .into_pyobject(py)
            .map(Bound::into_any)
    }

    /// What opening found and did: a keepq.RecoveryReport.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        report::recovery(py, self.inner.recovery())
    }

    /// A topic, made if it is new. flush is what sends of this handle do unless they say otherwise.
    #[pyo3(signature = (name, *, flush=None, retain=None, max_bytes=None, max_messages=None,
                        when_full=None))]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn topic(
        &self,
        py: Python<'_>,
        name: PyBackedStr,
        flush: Option<FlushMode>,
        retain: Option<&Bound<'_, PyAny>>,
        max_bytes: Option<&Bound<'_, PyAny>>,
        max_messages: Option<&Bound<'_, PyAny>>,
        when_full: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Topic> {
        refuse(
            py,
            &[
                ("retain", retain.is_some()),
                ("max_bytes", max_bytes.is_some()),
                ("max_messages", max_messages.is_some()),
                ("when_full", when_full.is_some()),
            ],
        )?;
        let topic = py.detach(|| self.inner.topic(&name)).or_raise(py)?;
        Ok(Topic::new(topic, flush.map(|f| f.0)))
    }

    /// A consumer group of a topic; both are made if need be.
    ///
    /// lease: seconds a message stays with its receiver (30). max_attempts: deliveries before it
    /// becomes a dead letter (16). ack_flush: "async" (acks survive every process) or "sync" (power
    /// cuts too). backoff: a keepq.Backoff. start: "earliest", "latest" or a sequence. Options are
    /// stored when the group is made; a different explicit value later raises ConfigMismatch.
    /// create=False: what is missing is NotFound.
    #[pyo3(signature = (topic, name, *, lease=None, max_attempts=None, ack_flush=None,
                        backoff=None, start=None, create=true, tags=None, ordered=None,
                        broadcast=None, max_outstanding=None))]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn group(
        &self,
        py: Python<'_>,
        topic: PyBackedStr,
        name: PyBackedStr,
        lease: Option<Seconds>,
        max_attempts: Option<u32>,
        ack_flush: Option<FlushMode>,
        backoff: Option<group::BackoffArg>,
        start: Option<group::StartArg>,
        create: bool,
        tags: Option<&Bound<'_, PyAny>>,
        ordered: Option<&Bound<'_, PyAny>>,
        broadcast: Option<&Bound<'_, PyAny>>,
        max_outstanding: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Group> {
        refuse(
            py,
            &[
                ("tags", tags.is_some()),
                ("ordered", ordered.is_some()),
                ("broadcast", broadcast.is_some()),
                ("max_outstanding", max_outstanding.is_some()),
            ],
        )?;
        let open = || {
            let mut options = self.inner.group(&topic, &name).create(create);
            if let Some(Seconds(lease)) = lease {
                options = options.lease(lease);
            }
            if let Some(n) = max_attempts {
                options = options.max_attempts(n);
            }
            if let Some(FlushMode(flush)) = ack_flush {
                options = options.ack_flush(flush);
            }
            if let Some(backoff) = backoff {
                options = options.backoff(backoff.0);
            }
            if let Some(start) = start {
                options = options.start(start.0);
            }
            options.open()
        };
        py.detach(open).map(Group::new).or_raise(py)
    }

    /// A named producer, made if it is new; its older handles are fenced.
    fn producer(&self, py: Python<'_>, name: PyBackedStr) -> PyResult<Producer> {
        let producer = py.detach(|| self.inner.producer(&name)).or_raise(py)?;
        Ok(Producer::new(producer, self.inner.clone()))
    }

    /// Waits until everything sent before is on disk; raises Timeout when timeout seconds are over
    /// first (None = wait for ever).
    #[pyo3(signature = (timeout=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<()> {
        let step = |slice: Duration| Ok(self.inner.flush(Some(slice))?.then_some(()));
        wait::in_slices(py, timeout.map(|t| t.0), step, || Ok(()))?.ok_or_else(|| {
            new(
                py,
                Code::Timeout,
                "the flush took longer than its timeout; call flush again",
            )
        })
    }

    /// Counters of the store, its topics and groups: a keepq.StoreStats.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = py.detach(|| self.inner.stats()).or_raise(py)?;
        report::store(py, &stats)
    }

    /// Reads and checks every file of the store: a keepq.VerifyReport.
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let found = py.detach(|| self.inner.verify()).or_raise(py)?;
        report::verify(py, &found)
    }

    /// Acknowledges a message by its receipt, also one received by another process.
    fn ack(&self, py: Python<'_>, receipt: PyBackedStr) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| store.ack(receipt))
    }

    /// Gives a message back by its receipt: None = after the group's back-off, 0 = at once.
    #[pyo3(signature = (receipt, delay=None))]
    fn nack(&self, py: Python<'_>, receipt: PyBackedStr, delay: Option<Seconds>) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| {
            store.nack(receipt, delay.map(|d| d.0))
        })
    }

    /// Makes a message a dead letter by its receipt.
    fn reject(&self, py: Python<'_>, receipt: PyBackedStr, reason: PyBackedStr) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| {
            store.reject(receipt, &reason)
        })
    }

    /// Keeps a message for so many seconds from now on, by its receipt.
    fn extend(&self, py: Python<'_>, receipt: PyBackedStr, lease: Seconds) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| {
            store.extend(receipt, lease.0)
        })
    }

    /// Flushes and closes. Everything made from this store raises Closed from now on. Closing again
    /// does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match py.detach(|| self.inner.close()) {
            Err(error) if error.code() == Code::Closed => Ok(()),
            result => result.or_raise(py),
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: &Bound<'_, PyAny>,
        _exc: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<keepq.Store {:?}>", self.inner.path())
    }
}
