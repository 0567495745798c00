//! Consumer groups: receiving.

use crate::args::{self, FlushMode, Given, Seconds};
use crate::browse::DeadLetters;
use crate::codec::Codec;
use crate::error;
use crate::kept::Kept;
use crate::message::Message;
use crate::store::Store;
use crate::{report, wait};
use engine::{
    Backoff, BackoffKind, Code, Delivery, Error, GroupOptions, Readiness, Result, Start, Within,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDateTime, PyList, PyString, PyTuple};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// `start=` of a group: "earliest", "latest", a sequence or an aware datetime.
#[derive(Clone, Copy)]
pub(crate) struct StartArg(pub(crate) Start);

impl<'py> FromPyObject<'_, 'py> for StartArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if obj.is_instance_of::<PyDateTime>() {
            return Ok(Self(Start::Time(args::time(&obj)?)));
        }
        if let Ok(seq) = obj.extract::<u64>() {
            return Ok(Self(Start::Sequence(seq)));
        }
        let text = obj.extract::<PyBackedStr>().ok();
        match text.as_deref() {
            Some("earliest") => Ok(Self(Start::Earliest)),
            Some("latest") => Ok(Self(Start::Latest)),
            _ => Err(error::new(
                obj.py(),
                Code::InvalidArgument,
                "start is 'earliest', 'latest', a sequence (an int from 0) or an aware datetime",
            )),
        }
    }
}

impl<'py> IntoPyObject<'py> for StartArg {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(match self.0 {
            Start::Latest => "latest".into_pyobject(py)?.into_any(),
            Start::Sequence(seq) => seq.into_pyobject(py)?.into_any(),
            Start::Time(ms) => args::datetime(py, ms)?.into_any(),
            _ => "earliest".into_pyobject(py)?.into_any(),
        })
    }
}

/// `backoff=` of a group: a `keepq.Backoff` or "rocketmq".
#[derive(Clone, Copy)]
pub(crate) struct BackoffArg(pub(crate) Backoff);

impl<'py> FromPyObject<'_, 'py> for BackoffArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = obj.py();
        let text = "backoff is a keepq.Backoff or \"rocketmq\"";
        if obj.is_instance_of::<PyString>() {
            return match &*obj.extract::<PyBackedStr>()? {
                "rocketmq" => Ok(Self(Backoff::rocketmq())),
                _ => Err(error::new(py, Code::InvalidArgument, text)),
            };
        }
        if !obj.is_instance(backoff_class(py)?)? {
            return Err(pyo3::exceptions::PyTypeError::new_err(text));
        }
        Ok(Self(Backoff {
            first: obj.getattr("first")?.extract::<Seconds>()?.0,
            factor: obj.getattr("factor")?.extract()?,
            max: obj.getattr("max")?.extract::<Seconds>()?.0,
            jitter: obj.getattr("jitter")?.extract()?,
            ..Backoff::default()
        }))
    }
}

impl<'py> IntoPyObject<'py> for BackoffArg {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let Backoff {
            first,
            factor,
            max,
            jitter,
            kind,
        } = self.0;
        if kind == BackoffKind::Rocketmq {
            return Ok("rocketmq".into_pyobject(py)?.into_any());
        }
        backoff_class(py)?.call1((Seconds(first), factor, Seconds(max), jitter))
    }
}

fn backoff_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "keepq._types", "Backoff")
}

/// `broadcast=` of a group: the name of the consumer that has it for itself, or True for one
/// without a name.
#[derive(Clone)]
pub(crate) enum BroadcastArg {
    No,
    Named(String),
    Unnamed,
}

impl<'py> FromPyObject<'_, 'py> for BroadcastArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match obj.cast::<PyBool>() {
            Ok(wanted) if wanted.is_true() => Ok(Self::Unnamed),
            Ok(_) => Ok(Self::No),
            Err(_) => Ok(Self::Named(obj.extract()?)),
        }
    }
}

impl<'py> IntoPyObject<'py> for BroadcastArg {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(match self {
            Self::Named(consumer) => consumer.into_pyobject(py)?.into_any(),
            other => {
                let unnamed = matches!(other, Self::Unnamed);
                unnamed.into_pyobject(py)?.to_owned().into_any()
            }
        })
    }
}

/// The options of a group as they were given.
pub(crate) struct GroupArgs {
    pub(crate) lease: Option<Seconds>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) ack_flush: Option<FlushMode>,
    pub(crate) backoff: Option<BackoffArg>,
    pub(crate) start: Option<StartArg>,
    pub(crate) create: bool,
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) ordered: Option<bool>,
    pub(crate) broadcast: Option<BroadcastArg>,
    pub(crate) max_outstanding: Option<u32>,
    /// Of the handle; the group knows nothing of it.
    pub(crate) codec: Option<Codec>,
}

impl GroupArgs {
    /// Whose the group is.
    fn consumer(&self, options: GroupOptions) -> GroupOptions {
        match &self.broadcast {
            Some(BroadcastArg::Named(consumer)) => options.broadcast(consumer),
            Some(BroadcastArg::Unnamed) => options.broadcast_unnamed(),
            Some(BroadcastArg::No) | None => options,
        }
    }

    fn apply(&self, mut options: GroupOptions) -> GroupOptions {
        options = options.create(self.create);
        if let Some(Seconds(lease)) = self.lease {
            options = options.lease(lease);
        }
        if let Some(n) = self.max_attempts {
            options = options.max_attempts(n);
        }
        if let Some(FlushMode(flush)) = self.ack_flush {
            options = options.ack_flush(flush);
        }
        if let Some(BackoffArg(backoff)) = self.backoff {
            options = options.backoff(backoff);
        }
        if let Some(StartArg(start)) = self.start {
            options = options.start(start);
        }
        if let Some(tags) = &self.tags {
            options = options.tags(tags.iter().cloned());
        }
        if let Some(ordered) = self.ordered {
            options = options.ordered(ordered);
        }
        if let Some(n) = self.max_outstanding {
            options = options.max_outstanding(n);
        }
        self.consumer(options)
    }
}

/// A group as this process has it open. Cheap to clone.
#[derive(Clone)]
struct Opened {
    group: engine::Group,
    /// Made when somebody asks for its descriptor.
    ready: Arc<OnceLock<Readiness>>,
}

impl Opened {
    fn new(group: engine::Group) -> Self {
        Self {
            group,
            ready: Arc::default(),
        }
    }
}

/// A consumer group: every group gets every message of its topic, its members share them. Made by
/// Store.group. Usable from any thread. Iterating over it receives for ever, until close().
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Group {
    /// There until it is dropped.
    kept: Option<Kept<Opened>>,
    store: Py<Store>,
    topic: PyBackedStr,
    name: PyBackedStr,
    /// The engine's name for it, which says the consumer of a broadcast group, too.
    full_name: String,
    args: GroupArgs,
    closed: AtomicBool,
}

impl Group {
    pub(crate) fn open(
        store: Bound<'_, Store>,
        topic: PyBackedStr,
        name: PyBackedStr,
        args: GroupArgs,
    ) -> PyResult<Self> {
        let opened = store.get().call(store.py(), |opened| {
            let options = args.apply(opened.store.group(&topic, &name));
            options.open().map(Opened::new)
        })?;
        let full_name = opened.group.name().to_owned();
        Ok(Self {
            kept: Some(Kept::new(opened)),
            store: store.unbind(),
            topic,
            name,
            full_name,
            args,
            closed: AtomicBool::new(false),
        })
    }

    fn kept(&self) -> &Kept<Opened> {
        self.kept.as_ref().expect("only drop takes it")
    }

    pub(crate) fn store(&self) -> &Py<Store> {
        &self.store
    }

    /// What its messages are decoded by where they do not say.
    pub(crate) fn codec(&self) -> Option<Codec> {
        self.args.codec.or(self.store.get().codec)
    }

    /// Opens the group for a forked child, with the options it has by now. A consumer without a
    /// name is the parent's; the child is another one.
    fn again(&self, py: Python<'_>) -> PyResult<Opened> {
        self.store.get().call(py, |opened| {
            let options = opened.store.group(&self.topic, &self.name);
            let options = match self.args.broadcast {
                Some(BroadcastArg::Unnamed) => self.args.apply(options),
                _ => self.args.consumer(options.create(false)),
            };
            options.open().map(Opened::new)
        })
    }

    /// Calls the engine on this group, in a forked child on its own.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(&engine::Group) -> Result<R> + Send + Sync,
    ) -> PyResult<R> {
        self.kept().call(py, || self.again(py), |o| call(&o.group))
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            let text = format!("the group {:?} was closed", self.full_name);
            return Err(error::new(py, Code::Closed, text));
        }
        Ok(())
    }

    /// Receives what there is, or waits for it; nothing when the time is over.
    fn receive_up_to(
        &self,
        py: Python<'_>,
        max: usize,
        timeout: Option<Duration>,
        detached: bool,
    ) -> PyResult<Vec<Delivery>> {
        let step = |slice| {
            self.check_open(py)?;
            let got = self.call(py, |group| {
                if detached {
                    group.receive_detached(max, slice)
                } else {
                    group.receive_batch(max, slice)
                }
            })?;
            Ok(Some(got).filter(|all| !all.is_empty()))
        };
        Ok(wait::in_slices(py, timeout, step)?.unwrap_or_default())
    }

    /// Receives one message; None when the time is over.
    fn one(
        slf: &Bound<'_, Self>,
        timeout: Option<Duration>,
        detached: bool,
    ) -> PyResult<Option<Message>> {
        let (py, this) = (slf.py(), slf.get());
        let got = if detached {
            this.receive_up_to(py, 1, timeout, detached)?.pop()
        } else {
            let step = |slice| {
                this.check_open(py)?;
                this.call(py, |group| group.receive(slice))
            };
            wait::in_slices(py, timeout, step)?
        };
        Ok(got.map(|delivery| Message::new(delivery, slf.clone().unbind())))
    }
}

#[pymethods]
impl Group {
    /// The group's name; of a broadcast group its name and its consumer's, "group%consumer". Of a
    /// consumer without a name that of its first process: a forked child has another one.
    #[getter]
    pub(crate) fn name(&self) -> &str {
        &self.full_name
    }

    /// The name of its topic.
    #[getter]
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// Receives one message under a lease; raises Empty when timeout seconds are over (None = wait
    /// for ever, 0 = try once). detached=True: the lease does not end with this process, so that
    /// the message can be settled elsewhere by its receipt. Raises CorruptError once when messages
    /// were lost through damage, and goes on afterwards; Closed; StorageError.
    #[pyo3(signature = (timeout=None, *, detached=false))]
    fn receive(
        slf: &Bound<'_, Self>,
        timeout: Option<Seconds>,
        detached: bool,
    ) -> PyResult<Message> {
        let got = Self::one(slf, timeout.map(|t| t.0), detached)?;
        got.ok_or_else(|| error::empty(slf.py()))
    }

    /// Receives a message that is there now, else returns None. It never waits for a message, so an
    /// event loop may call it when fileno() is readable: there is no moment in which a message is
    /// taken and not yet returned.
    #[pyo3(signature = (*, detached=false))]
    fn poll(slf: &Bound<'_, Self>, detached: bool) -> PyResult<Option<Message>> {
        Self::one(slf, Some(Duration::ZERO), detached)
    }

    /// Receives up to max messages (1 to 1,024): waits for the first, takes what else is there.
    /// Returns an empty list when timeout seconds are over (None = wait for ever, 0 = try once).
    /// Raises what receive does, LimitExceeded.
    #[pyo3(signature = (max, timeout=None, *, detached=false))]
    fn receive_batch<'py>(
        slf: &Bound<'py, Self>,
        max: usize,
        timeout: Option<Seconds>,
        detached: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = timeout.map(|t| t.0);
        let got = slf.get().receive_up_to(slf.py(), max, timeout, detached)?;
        // Each goes from the engine's list into its object: deliveries are large.
        let message = |delivery| Message::new(delivery, slf.clone().unbind());
        PyList::new(slf.py(), got.into_iter().map(message))
    }

    /// A descriptor for event loops, the same at every call: readable when poll() may find a
    /// message, and when the store was closed. Call poll() until it returns None, which makes it
    /// unreadable again; do not read from it or close it. It is valid as long as this object lives.
    /// A forked child asks again and gets its own.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check_open(py)?;
        let descriptor = |opened: &Opened| -> Result<i32> {
            if let Some(ready) = opened.ready.get() {
                // Asked for in the parent, too: its descriptor is not the child's.
                opened.group.stats()?;
                return Ok(ready.as_fd().as_raw_fd());
            }
            let made = opened.group.readiness()?;
            Ok(opened.ready.get_or_init(|| made).as_fd().as_raw_fd())
        };
        self.kept().call(py, || self.again(py), descriptor)
    }

    /// Acknowledges many messages at once. All are tried; if some cannot be, the first one's error
    /// is raised, with a note that says how many there were.
    fn ack_many(&self, py: Python<'_>, messages: Vec<Py<Message>>) -> PyResult<()> {
        let deliveries: Vec<&Delivery> = messages.iter().map(|m| m.get().delivery()).collect();
        // The messages are those of the process that received them, and so is what acks them.
        let group = self.kept().now().group;
        let results = py.detach(|| group.ack_many_within(deliveries, wait::SLICE));
        acked(py, &messages, results)
    }

    /// Counters of the group: a keepq.GroupStats.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = self.call(py, engine::Group::stats)?;
        report::group(py, &stats)
    }

    /// How many messages can be received now.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.call(py, engine::Group::stats)?.ready)
    }

    /// The dead letters of this group: a keepq.DeadLetters.
    #[getter]
    fn dlq(slf: Py<Self>) -> DeadLetters {
        DeadLetters::new(slf)
    }

    /// The group's options as they are stored: a keepq.GroupConfig.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = self.call(py, engine::Group::config)?;
        report::group_config(py, &config)
    }

    /// Changes options of the group, for all its consumers in every process, and returns them all
    /// as they are then: a keepq.GroupConfig. What is not named stays; leases and back-offs that
    /// run keep the end they have; tags ([] = every message) go for messages that the group has not
    /// looked at yet. On disk when it returns.
    #[pyo3(signature = (*, lease=None, max_attempts=None, ack_flush=None, backoff=None, tags=None,
                        max_outstanding=None))]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn configure<'py>(
        &self,
        py: Python<'py>,
        lease: Option<Seconds>,
        max_attempts: Option<u32>,
        ack_flush: Option<FlushMode>,
        backoff: Option<BackoffArg>,
        tags: Option<Vec<String>>,
        max_outstanding: Option<u32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let config = self.call(py, |group| {
            let mut change = group.configure();
            if let Some(Seconds(lease)) = lease {
                change = change.lease(lease);
            }
            if let Some(n) = max_attempts {
                change = change.max_attempts(n);
            }
            if let Some(FlushMode(flush)) = ack_flush {
                change = change.ack_flush(flush);
            }
            if let Some(BackoffArg(backoff)) = backoff {
                change = change.backoff(backoff);
            }
            if let Some(tags) = &tags {
                change = change.tags(tags.iter().cloned());
            }
            if let Some(n) = max_outstanding {
                change = change.max_outstanding(n);
            }
            change.apply()
        })?;
        report::group_config(py, &config)
    }

    /// Deletes the group with its dead letters; on disk when it returns. Messages that only it was
    /// still owed are released. Every handle of it, in any process, raises NotFound from then on,
    /// also a receive that waits; leases end. The name is free for a new group.
    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, engine::Group::delete)
    }

    /// Closes this handle: waits in other threads and iterations end within 0.1 s. Messages already
    /// received stay leased. Closing again does nothing.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Message>> {
        match Self::one(slf, None, false) {
            // Closing the group is how an iteration ends; a closed store is still an error.
            Err(_) if slf.get().closed.load(Ordering::Acquire) => Ok(None),
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

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let again = py.import("keepq._handles")?.getattr("group")?;
        let options = Given::new(py)
            .note("lease", self.args.lease)?
            .note("max_attempts", self.args.max_attempts)?
            .note("ack_flush", self.args.ack_flush)?
            .note("backoff", self.args.backoff)?
            .note("start", self.args.start)?
            .note("tags", self.args.tags.as_ref())?
            .note("ordered", self.args.ordered)?
            .note("broadcast", self.args.broadcast.clone())?
            .note("max_outstanding", self.args.max_outstanding)?
            .note("codec", self.args.codec)?;
        let names = (self.topic.clone_ref(py), self.name.clone_ref(py));
        let store = self.store.clone_ref(py);
        (again, (store, names.0, names.1, options.done())).into_pyobject(py)
    }

    fn __repr__(&self) -> String {
        let closed = if self.closed.load(Ordering::Acquire) {
            ", closed"
        } else {
            ""
        };
        format!(
            "<keepq.Group {:?} of {:?}{closed}>",
            self.full_name, &*self.topic
        )
    }
}

/// Notes what became of many acks; the first one's error, if there is one, is the exception.
pub(crate) fn acked(
    py: Python<'_>,
    messages: &[Py<Message>],
    results: Within<Vec<Result<()>>>,
) -> PyResult<()> {
    let results = wait::confirmed(py, results).inspect_err(|_| {
        messages
            .iter()
            .for_each(|message| message.get().note_settled())
    })?;
    for (message, result) in messages.iter().zip(&results) {
        message.get().answered(result);
    }
    let failed: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    let Some(first) = failed.first() else {
        return Ok(());
    };
    let exception = error::to_python(py, first);
    let note = format!("{} of {} acks failed", failed.len(), messages.len());
    exception.value(py).call_method1("add_note", (note,))?;
    Err(exception)
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        // It may wait for the thread behind its descriptor: not under the GIL, if there is still
        // one.
        Python::try_attach(|py| py.detach(|| drop(kept)));
    }
}
