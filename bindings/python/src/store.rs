//! Opening and using a store.

use crate::args::{FlushMode, Seconds, WhenFullArg};
use crate::browse::Browsed;
use crate::codec::Codec;
use crate::error::{OrRaise, new};
use crate::group::{BackoffArg, BroadcastArg, Group, GroupArgs, StartArg, acked};
use crate::keep_alive::Leases;
use crate::kept::Kept;
use crate::limits::{Change, LimitArgs, Retain};
use crate::message::Message;
use crate::open::How;
use crate::producer::Producer;
use crate::sends::{self, Sends};
use crate::topic::{Topic, TopicArgs};
use crate::{report, wait};
use engine::{Code, Delivery, MessageId, Receipt, Result, Within};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyTuple};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The store as this process has it open. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) store: engine::Store,
    pub(crate) sends: Arc<Sends>,
    pub(crate) leases: Arc<Leases>,
    /// The process that opened it.
    pub(crate) pid: u32,
}

impl Opened {
    fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }
}

/// An open store: a directory that any number of processes share. Made by keepq.open. Usable from
/// any thread. In a forked child the store, its topics and its groups are opened anew at their
/// first use. Pickled, they are their path and options, and are opened where they are unpickled.
#[pyclass(module = "keepq", frozen, weakref)]
pub(crate) struct Store {
    path: PathBuf,
    how: How,
    given: Py<PyDict>,
    pub(crate) codec: Option<Codec>,
    /// There until it is dropped.
    kept: Option<Kept<Opened>>,
    closed: AtomicBool,
}

impl Store {
    pub(crate) fn new(
        (path, how): (PathBuf, How),
        given: Py<PyDict>,
        codec: Option<Codec>,
        opened: Opened,
    ) -> Self {
        Self {
            path,
            how,
            given,
            codec,
            kept: Some(Kept::new(opened)),
            closed: AtomicBool::new(false),
        }
    }

    fn kept(&self) -> &Kept<Opened> {
        self.kept.as_ref().expect("only drop takes it")
    }

    /// Calls the engine on this store, in a forked child on its own.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(&Opened) -> Result<R> + Send + Sync,
    ) -> PyResult<R> {
        self.kept().call(py, || self.again(py), call)
    }

    /// The store as this process has it open.
    pub(crate) fn current(&self, py: Python<'_>) -> PyResult<Opened> {
        let opened = self.kept().now();
        if opened.is_ours() {
            return Ok(opened);
        }
        self.kept().replace(|| self.again(py))
    }

    /// Opens the store for a forked child.
    fn again(&self, py: Python<'_>) -> PyResult<Opened> {
        if self.closed.load(Ordering::Acquire) {
            let text = format!("the store {} was closed", self.path.display());
            return Err(new(py, Code::Closed, text));
        }
        py.detach(|| self.how.again()).or_raise(py)
    }

    /// How long a send may take.
    pub(crate) fn send_timeout(&self) -> Duration {
        self.how.send_timeout
    }

    /// Settles by receipt.
    fn settle(
        &self,
        py: Python<'_>,
        receipt: &str,
        settle: impl Fn(&engine::Store, &Receipt) -> Result<()> + Send + Sync,
    ) -> PyResult<()> {
        let receipt: Receipt = receipt.parse::<Receipt>().or_raise(py)?;
        self.call(py, |opened| settle(&opened.store, &receipt))
    }
}

impl Store {
    /// Settles by receipt, with a wait for the disk that Ctrl-C can end.
    fn settle_within(
        &self,
        py: Python<'_>,
        receipt: &str,
        settle: impl Fn(&engine::Store, &Receipt) -> Within<Result<()>> + Send + Sync,
    ) -> PyResult<()> {
        let receipt: Receipt = receipt.parse::<Receipt>().or_raise(py)?;
        let settled = self.call(py, |opened| match settle(&opened.store, &receipt) {
            Within::Done(Err(e)) => Err(e),
            settled => Ok(settled),
        });
        wait::confirmed(py, settled?)?.or_raise(py)
    }
}

#[pymethods]
impl Store {
    /// The store's directory, as it was given.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.path.as_path().into_pyobject(py).map(Bound::into_any)
    }

    /// What opening found and did: a keepq.RecoveryReport.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        report::recovery(py, self.kept().now().store.recovery())
    }

    /// A topic, made if it is new. flush is what sends of this handle do unless they say otherwise,
    /// codec what they encode values with (see keepq.open). create=False: a missing one is
    /// NotFound. Raises InvalidName.
    ///
    /// Stored when the topic is made, ConfigMismatch when another value is given later (configure
    /// changes them): max_bytes (of bodies) and max_messages, the most that the topic keeps, which
    /// is what some group has not settled or what is retained, and everything without groups.
    /// when_full: a send that a limit has no room for raises Full ("raise", the default) or waits
    /// within its timeout, then raises Timeout ("block").
    /// retain: what is kept although every group
    /// has settled it: a timedelta = so long after it was sent, an int = so many bytes of the last
    /// messages, a tuple of both = what either asks for. Nothing that is kept is dropped for a
    /// limit.
    #[pyo3(signature = (name, *, flush=None, codec=None, create=true, retain=None,
                        max_bytes=None, max_messages=None, when_full=None))]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn topic(
        slf: Bound<'_, Self>,
        name: PyBackedStr,
        flush: Option<FlushMode>,
        codec: Option<Codec>,
        create: bool,
        retain: Option<Retain>,
        max_bytes: Option<u64>,
        max_messages: Option<u64>,
        when_full: Option<WhenFullArg>,
    ) -> PyResult<Topic> {
        let limits = LimitArgs {
            max_bytes,
            max_messages,
            when_full,
            retain,
        };
        let args = TopicArgs {
            flush,
            codec,
            create,
            limits,
        };
        Topic::open(&slf, name, args)
    }

    /// A consumer group of a topic; both are made if need be.
    ///
    /// lease: seconds a message stays with its receiver (30). max_attempts: deliveries before it
    /// becomes a dead letter (16). ack_flush: "async" (acks survive every process) or "sync" (power
    /// cuts too). backoff: a keepq.Backoff or "rocketmq" (16 levels, 10 s to 2 h). start, where a
    /// new group begins: "earliest", "latest", a sequence, or an aware datetime (the first sent
    /// then or later). Options are stored when it is made; another value later is ConfigMismatch.
    ///
    /// tags: it gets the messages with one of these tags only, the others count as settled (at most
    /// 16; none = every message). ordered=True: one message of each order_key is in flight at a
    /// time, in the order in which they were sent; fixed when the group is made. broadcast="name":
    /// this consumer gets every message and has a position, options and dead letters of its own;
    /// True: another one at each call, which ends with this object and its messages, its store or
    /// its process; a forked child is another. max_outstanding: the most in flight, waiting or not.
    ///
    /// create=False: what is missing is NotFound. codec decodes Message.value where the message
    /// does not say what it is (see keepq.open); it belongs to this handle.
    #[pyo3(signature = (topic, name, *, lease=None, max_attempts=None, ack_flush=None,
                        backoff=None, start=None, codec=None, create=true, tags=None,
                        ordered=None, broadcast=None, max_outstanding=None))]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn group(
        slf: Bound<'_, Self>,
        topic: PyBackedStr,
        name: PyBackedStr,
        lease: Option<Seconds>,
        max_attempts: Option<u32>,
        ack_flush: Option<FlushMode>,
        backoff: Option<BackoffArg>,
        start: Option<StartArg>,
        codec: Option<Codec>,
        create: bool,
        tags: Option<Vec<String>>,
        ordered: Option<bool>,
        broadcast: Option<BroadcastArg>,
        max_outstanding: Option<u32>,
    ) -> PyResult<Group> {
        let args = GroupArgs {
            lease,
            max_attempts,
            ack_flush,
            backoff,
            start,
            create,
            tags,
            ordered,
            broadcast,
            max_outstanding,
            codec,
        };
        Group::open(slf, topic, name, args)
    }

    /// A named producer, made if it is new; its older handles are fenced. It is not for forked
    /// children: there it raises ForkedHandle, and a new one fences the parent's.
    fn producer(slf: Bound<'_, Self>, name: PyBackedStr) -> PyResult<Producer> {
        let py = slf.py();
        let producer = slf.get().call(py, |opened| opened.store.producer(&name))?;
        Ok(Producer::new(producer, slf.unbind()))
    }

    /// Waits until everything sent and acked before is on disk and the callbacks of the
    /// asynchronous sends before it have returned; raises Full while a full disk has no room for
    /// acks, Timeout when timeout seconds are over first (None = wait for ever). Within a callback
    /// it does not wait for callbacks.
    #[pyo3(signature = (timeout=None))]
    fn flush(&self, py: Python<'_>, timeout: Option<Seconds>) -> PyResult<()> {
        let timeout = timeout.map(|t| t.0);
        let late = || {
            let text = "the flush took longer than its timeout; call flush again";
            new(py, Code::Timeout, text)
        };
        let opened = self.current(py)?;
        let step = |slice: Duration| {
            let flushed = py.detach(|| opened.store.flush(Some(slice)));
            Ok(flushed.or_raise(py)?.then_some(()))
        };
        wait::in_slices(py, timeout, step)?.ok_or_else(late)?;
        opened
            .sends
            .drain(py, timeout)?
            .then_some(())
            .ok_or_else(late)
    }

    /// The store's own options as they are stored: a keepq.StoreConfig.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = self.call(py, |opened| opened.store.config())?;
        report::store_config(py, &config)
    }

    /// Changes the store's own options, for every process, and returns them as they are then: a
    /// keepq.StoreConfig. max_bytes=None: no limit; what is left out stays. On disk when it
    /// returns.
    #[pyo3(
        signature = (*, max_bytes=Change::Left, when_full=None),
        text_signature = "($self, *, max_bytes=..., when_full=None)"
    )]
    fn configure<'py>(
        &self,
        py: Python<'py>,
        max_bytes: Change<u64>,
        when_full: Option<WhenFullArg>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let config = self.call(py, |opened| {
            let mut change = opened.store.configure();
            if let Change::To(most) = max_bytes {
                change = change.max_bytes(most);
            }
            if let Some(WhenFullArg(when_full)) = when_full {
                change = change.when_full(when_full);
            }
            change.apply()
        })?;
        report::store_config(py, &config)
    }

    /// Counters of the store, its topics and groups: a keepq.StoreStats.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.call(py, |opened| opened.store.stats())?;
        report::store(py, &stats)
    }

    /// Reads and checks every file of the store: a keepq.VerifyReport.
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let found = self.call(py, |opened| opened.store.verify())?;
        report::verify(py, &found)
    }

    /// The message with this id, read without being claimed: a keepq.Browsed; None if no topic
    /// keeps it.
    fn find(&self, py: Python<'_>, id: PyBackedStr) -> PyResult<Option<Browsed>> {
        let id: MessageId = id.parse::<MessageId>().or_raise(py)?;
        let found = self.call(py, |opened| opened.store.find(id))?;
        Ok(found.map(Browsed::new))
    }

    /// Acknowledges a message by its receipt, also one received by another process. Raises
    /// LeaseLost when the lease has ended, InvalidArgument for what is no receipt of this store.
    fn ack(&self, py: Python<'_>, receipt: PyBackedStr) -> PyResult<()> {
        self.settle_within(py, &receipt, |store, receipt| {
            store.ack_within(receipt, wait::SLICE)
        })
    }

    /// Acknowledges many messages at once, of any groups of this store, as Group.ack_many.
    fn ack_many(&self, py: Python<'_>, messages: Vec<Py<Message>>) -> PyResult<()> {
        let deliveries: Vec<&Delivery> = messages.iter().map(|m| m.get().delivery()).collect();
        // The messages are those of the process that received them, and so is what acks them.
        let store = self.kept().now().store;
        let results = py.detach(|| store.ack_many_within(deliveries, wait::SLICE));
        acked(py, &messages, results)
    }

    /// Gives a message back by its receipt: None = after the group's back-off, 0 = at once.
    #[pyo3(signature = (receipt, delay=None))]
    fn nack(&self, py: Python<'_>, receipt: PyBackedStr, delay: Option<Seconds>) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| {
            store.nack(receipt, delay.map(|d| d.0))
        })
    }

    /// Makes a message a dead letter by its receipt. reason: at most 1,024 bytes of UTF-8.
    fn reject(&self, py: Python<'_>, receipt: PyBackedStr, reason: PyBackedStr) -> PyResult<()> {
        self.settle_within(py, &receipt, |store, receipt| {
            store.reject_within(receipt, &reason, wait::SLICE)
        })
    }

    /// Keeps a message for so many seconds from now on, by its receipt.
    fn extend(&self, py: Python<'_>, receipt: PyBackedStr, lease: Seconds) -> PyResult<()> {
        self.settle(py, &receipt, |store, receipt| {
            store.extend(receipt, lease.0)
        })
    }

    /// Flushes and closes: every asynchronous send has its result and its callbacks have returned
    /// when this does (called by a callback, it does not wait for them). Messages held by this
    /// process are given back. Everything made from this store raises Closed from now on. Closing
    /// again does nothing.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.closed.store(true, Ordering::Release);
        let opened = self.kept().now();
        if !opened.is_ours() {
            // What a parent has open is not for its child to close.
            return Ok(());
        }
        let close = || {
            opened.leases.stop();
            opened.store.close()
        };
        let closed = match py.detach(close) {
            Err(error) if error.code() == Code::Closed => Ok(()),
            result => result,
        };
        opened.sends.stop();
        opened.sends.drain(py, None)?;
        closed.or_raise(py)
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

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let again = py.import("keepq._handles")?.getattr("store")?;
        let path = self.how.path.as_path();
        (again, (path, self.given.clone_ref(py))).into_pyobject(py)
    }

    fn __repr__(&self) -> String {
        let closed = if self.closed.load(Ordering::Acquire) {
            ", closed"
        } else {
            ""
        };
        format!("<keepq.Store {:?}{closed}>", self.path)
    }

    /// The seconds that a send may take; None = for ever.
    #[getter]
    fn _send_timeout(&self) -> Option<f64> {
        let time = self.how.send_timeout;
        (time != Duration::MAX).then_some(time.as_secs_f64())
    }

    /// In a forked child: the error for, and the futures of, what the parent sends.
    fn _forked<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let futures = self.kept().now().sends.abandon();
        (sends::forked(py).into_value(py), futures).into_pyobject(py)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let opened = kept.now();
        let ours = opened.is_ours();
        let (sends, leases) = (Arc::clone(&opened.sends), Arc::clone(&opened.leases));
        // The last handle closes the store, which takes its time: not under the GIL, if there is
        // still one.
        Python::try_attach(|py| {
            py.detach(|| {
                if ours {
                    leases.stop();
                }
                drop(opened);
                drop(kept);
                if ours {
                    sends.stop();
                }
            });
        });
    }
}
