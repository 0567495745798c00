//! Topics: sending.

use crate::args::{FlushMode, Given, Outgoing, Seconds, Timeout, WhenFullArg, outgoing};
use crate::browse::Browse;
use crate::codec::{Codec, encoded};
use crate::error::{self, OrRaise, refuse};
use crate::future::SendFuture;
use crate::group::StartArg;
use crate::kept::Kept;
use crate::limits::{Change, Changes, LimitArgs, Retain};
use crate::report;
use crate::send::{SendMany, SendResult};
use crate::sending::{Callbacks, forgotten, sent_by_us, sent_in_order};
use crate::sends::Sends;
use crate::store::{self, Store};
use crate::wait::{self, Bounds};
use engine::{Code, Flush, OutMessage, Pending, Result, Start, WhenFull, Within};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyTuple;
use std::sync::Arc;
use std::time::Duration;

/// An option of a send that a later version of keepq has.
type Later<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// A topic as this process has it open. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) topic: engine::Topic,
    sends: Arc<Sends>,
    /// The process that opened it.
    pid: u32,
}

impl Opened {
    fn new(topic: engine::Topic, store: &store::Opened) -> Self {
        Self {
            topic,
            sends: Arc::clone(&store.sends),
            pid: store.pid,
        }
    }
}

/// A topic of an open store: messages are sent to it. Made by Store.topic. Usable from any thread.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct Topic {
    kept: Kept<Opened>,
    store: Py<Store>,
    name: PyBackedStr,
    /// What sends of this handle do unless they say otherwise.
    pub(crate) flush: Option<Flush>,
    pub(crate) codec: Option<Codec>,
    limits: LimitArgs,
}

/// The options of a topic as they were given.
#[derive(Default)]
pub(crate) struct TopicArgs {
    pub(crate) flush: Option<FlushMode>,
    pub(crate) codec: Option<Codec>,
    pub(crate) create: bool,
    pub(crate) limits: LimitArgs,
}

/// Refuses options of later versions: none is ignored silently.
fn refuse_later(py: Python<'_>, given: [Later<'_, '_>; 5]) -> PyResult<()> {
    const NAMES: [&str; 5] = ["delay", "at", "ttl", "priority", "dedup_id"];
    match given.iter().position(Option::is_some) {
        None => Ok(()),
        Some(at) => refuse(py, &[(NAMES[at], true)]),
    }
}

impl Topic {
    pub(crate) fn open(
        store: &Bound<'_, Store>,
        name: PyBackedStr,
        args: TopicArgs,
    ) -> PyResult<Self> {
        let opened = store.get().call(store.py(), |opened| {
            let mut topic = if args.create {
                None
            } else {
                Some(opened.store.existing_topic(&name)?)
            };
            // Options are compared with those of a topic that is there, too.
            if args.create || args.limits.any() {
                let options = args.limits.apply(opened.store.topic_with(&name));
                topic = Some(options.open()?);
            }
            let topic = topic.map_or_else(|| opened.store.existing_topic(&name), Ok)?;
            Ok(Opened::new(topic, opened))
        })?;
        Ok(Self {
            kept: Kept::new(opened),
            store: store.clone().unbind(),
            name,
            flush: args.flush.map(|f| f.0),
            codec: args.codec.or(store.get().codec),
            limits: args.limits,
        })
    }

    /// Opens the topic for a forked child.
    fn again(&self, py: Python<'_>) -> PyResult<Opened> {
        self.store.get().call(py, |opened| {
            let topic = opened.store.existing_topic(&self.name)?;
            Ok(Opened::new(topic, opened))
        })
    }

    /// Calls the engine on this topic, in a forked child on its own.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(&engine::Topic) -> Result<R> + Send + Sync,
    ) -> PyResult<R> {
        self.kept.call(py, || self.again(py), |o| call(&o.topic))
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        *self.name == *name
    }

    /// The engine's handle as it is now; in a forked child perhaps still that of the parent.
    pub(crate) fn now(&self) -> engine::Topic {
        self.kept.now().topic
    }

    /// The time that a send may take.
    pub(crate) fn time(&self, out: &Outgoing) -> Duration {
        out.timeout.unwrap_or(self.store.get().send_timeout())
    }

    /// Sends and forgets; with `patience`, what finds no room in that time is told of.
    fn send_and_forget(
        &self,
        py: Python<'_>,
        out: &Outgoing,
        patience: Option<Duration>,
    ) -> PyResult<()> {
        let time = self.time(out);
        let attempt = |bounds| {
            self.call(py, |topic| match topic.try_send_oneway(&out.out(bounds)) {
                Err(e) if e.code() == Code::ForkedHandle => Err(e),
                result => Ok(result),
            })
        };
        let began = wait::began(py, &out.body.0)?;
        forgotten(py, (time, patience, began), attempt, || {
            self.call(py, |topic| {
                topic.send_message_oneway(&out.out(Bounds::NONE));
                Ok(())
            })
        })
    }

    /// Sends without waiting for the disk: `start` makes the send, with a topic of this process if
    /// it can be `reopened` in a forked child. Gives its future.
    pub(crate) fn start(
        &self,
        py: Python<'_>,
        callbacks: Callbacks,
        out: &Outgoing,
        reopened: bool,
        start: impl Fn(&engine::Topic, Bounds) -> Result<Pending> + Send + Sync,
    ) -> PyResult<Py<SendFuture>> {
        let mut opened = self.kept.now();
        let timeout = self.time(out);
        let time = callbacks.patience.unwrap_or(timeout);
        loop {
            if !callbacks.is_empty() || opened.sends.is_full() {
                let mut ours = opened.pid == std::process::id();
                if !ours && reopened {
                    opened = self.kept.replace(|| self.again(py))?;
                    ours = true;
                }
                // A thread that only the parent has may hold the locks of its sends for ever.
                if ours {
                    let refuse = out.when_full == Some(WhenFull::Refuse);
                    opened.sends.room(py, refuse, timeout)?;
                }
            }
            if !opened.sends.is_started() && opened.pid == std::process::id() {
                opened.sends.start(self.store.bind(py))?;
            }
            let attempt = |bounds| Ok(py.detach(|| start(&opened.topic, bounds)));
            let times = (time, wait::began(py, &out.body.0)?);
            match wait::for_room_or_late(py, times, attempt)? {
                Ok(pending) => return Self::promise(py, callbacks, opened.sends, pending),
                Err(e) if e.code() == Code::ForkedHandle && reopened => {
                    opened = self.kept.replace(|| self.again(py))?;
                }
                Err(e) => return Err(e).or_raise(py),
            }
        }
    }

    /// The future of a send.
    fn promise(
        py: Python<'_>,
        callbacks: Callbacks,
        sends: Arc<Sends>,
        pending: Pending,
    ) -> PyResult<Py<SendFuture>> {
        let future = Bound::new(py, SendFuture::new(pending, sends))?;
        if !callbacks.is_empty() {
            SendFuture::watch(&future, callbacks.waiting(future.clone().unbind()))?;
        }
        Ok(future.unbind())
    }
}

#[pymethods]
impl Topic {
    /// The topic's name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Sends one message and returns a SendResult; without an exception it is as durable as asked.
    ///
    /// body is bytes-like (with a codec: what that encodes), at most 16 MiB; key and tag are str of
    /// at most 255 bytes of UTF-8; order_key (as long) orders messages in groups with ordered=True,
    /// which have one of each in flight at a time; headers maps str to bytes-like, at most
    /// 48 KiB in all.
    /// flush="sync": on disk when send returns; "async": in shared memory. timeout in seconds over
    /// all attempts, None = for ever; left out: as the store was opened with.
    ///
    /// Raises SendError (appended, not confirmed in time: wait with flush, do not send again),
    /// Timeout, Full, LimitExceeded, StorageError, Closed; .outcome says what became of it. After
    /// Ctrl-C during the wait, or what else a signal handler raises, the message is in the log and
    /// goes to disk by itself, or it was not stored: which of the two is not told.
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
        body: &Bound<'_, PyAny>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        delay: Later<'_, '_>,
        at: Later<'_, '_>,
        ttl: Later<'_, '_>,
        priority: Later<'_, '_>,
        dedup_id: Later<'_, '_>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendResult> {
        refuse_later(py, [delay, at, ttl, priority, dedup_id])?;
        let (body, headers) = encoded(self.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(self.flush),
            timeout: timeout.for_engine(),
            when_full: None,
        };
        let send = |bounds| {
            let sent = self.call(py, |topic| {
                match topic.send_within(&out.out(bounds), wait::SLICE) {
                    Within::Done(Err(e)) if !wait::is_late(&e) => Err(e),
                    sent => Ok(sent),
                }
            });
            wait::confirmed(py, sent?)
        };
        let times = (self.time(&out), wait::began(py, &out.body.0)?);
        let sent = wait::for_room(py, times, send)?;
        Ok(SendResult::new(&sent))
    }

    /// Sends one message without waiting for the disk: it is in the log when this returns, and the
    /// concurrent.futures.Future gets the SendResult once it is as durable as asked, or the error.
    ///
    /// on_success(result), on_exception(error) and what is added to the future are called on one
    /// thread of the store, one after the other; what they raise is logged. They may send and
    /// close; they must not wait for other results. While max_in_flight sends wait for their
    /// results or callbacks it waits for room, at most timeout; when_full="raise": it raises Full.
    /// The future cannot be cancelled. In a forked child it ends with ForkedHandle.
    ///
    /// Takes and raises what send does; an error after the append is the future's.
    #[pyo3(
        signature = (body, *, key=None, tag=None, headers=None, order_key=None, delay=None,
                     at=None, ttl=None, priority=None, dedup_id=None, flush=None,
                     timeout=Timeout::Default, when_full=None, on_success=None,
                     on_exception=None, _room=None),
        text_signature = "($self, body, *, key=None, tag=None, headers=None, order_key=None, \
                          delay=None, at=None, ttl=None, priority=None, dedup_id=None, \
                          flush=None, timeout=..., when_full='block', on_success=None, \
                          on_exception=None)"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send_async(
        &self,
        py: Python<'_>,
        body: &Bound<'_, PyAny>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        delay: Later<'_, '_>,
        at: Later<'_, '_>,
        ttl: Later<'_, '_>,
        priority: Later<'_, '_>,
        dedup_id: Later<'_, '_>,
        flush: Option<FlushMode>,
        timeout: Timeout,
        when_full: Option<WhenFullArg>,
        on_success: Option<Py<PyAny>>,
        on_exception: Option<Py<PyAny>>,
        _room: Option<Seconds>,
    ) -> PyResult<Py<SendFuture>> {
        refuse_later(py, [delay, at, ttl, priority, dedup_id])?;
        let (body, headers) = encoded(self.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(self.flush),
            timeout: timeout.for_engine(),
            when_full: when_full.map(|w| w.0),
        };
        let callbacks = Callbacks {
            patience: _room.map(|room| room.0),
            on_success,
            on_exception,
        };
        let start = |topic: &engine::Topic, bounds| topic.send_message_async(&out.out(bounds));
        self.start(py, callbacks, &out, true, start)
    }

    /// Sends one message and forgets it: it is in the log when this returns. A failure is told to
    /// nobody, but counted in StoreStats.oneway_failed; only a wrong argument is raised.
    #[pyo3(
        signature = (body, *, key=None, tag=None, headers=None, order_key=None, delay=None,
                     at=None, ttl=None, priority=None, dedup_id=None, flush=None,
                     timeout=Timeout::Default, when_full=None, _room=None),
        text_signature = "($self, body, *, key=None, tag=None, headers=None, order_key=None, \
                          delay=None, at=None, ttl=None, priority=None, dedup_id=None, \
                          flush=None, timeout=..., when_full='block')"
    )]
    #[allow(clippy::too_many_arguments)] // They are named ones in Python.
    fn send_oneway(
        &self,
        py: Python<'_>,
        body: &Bound<'_, PyAny>,
        key: Option<PyBackedStr>,
        tag: Option<PyBackedStr>,
        headers: Option<&Bound<'_, PyAny>>,
        order_key: Option<PyBackedStr>,
        delay: Later<'_, '_>,
        at: Later<'_, '_>,
        ttl: Later<'_, '_>,
        priority: Later<'_, '_>,
        dedup_id: Later<'_, '_>,
        flush: Option<FlushMode>,
        timeout: Timeout,
        when_full: Option<WhenFullArg>,
        _room: Option<Seconds>,
    ) -> PyResult<()> {
        refuse_later(py, [delay, at, ttl, priority, dedup_id])?;
        let (body, headers) = encoded(self.codec, body, headers)?;
        let out = Outgoing {
            body,
            key,
            tag,
            order_key,
            headers,
            flush: flush.map(|f| f.0).or(self.flush),
            timeout: timeout.for_engine(),
            when_full: when_full.map(|w| w.0),
        };
        self.send_and_forget(py, &out, _room.map(|room| room.0))
    }

    /// Sends many messages with one flush; not atomic. Each is bytes-like or a keepq.Msg. flush and
    /// timeout (for all together) are those of messages that say nothing. Returns a SendMany: .ok
    /// are the results of those sent, .failed the (index, exception) of the others. After Ctrl-C
    /// those in the log go to disk by themselves, from the first up to one that is not told.
    #[pyo3(
        signature = (messages, *, flush=None, timeout=Timeout::Default),
        text_signature = "($self, messages, *, flush=None, timeout=...)"
    )]
    fn send_many(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        flush: Option<FlushMode>,
        timeout: Timeout,
    ) -> PyResult<SendMany> {
        let messages = outgoing(
            messages,
            self.codec,
            flush.map(|f| f.0).or(self.flush),
            timeout,
        )?;
        let send = |out: &[OutMessage<'_>]| {
            self.call(py, |topic| {
                sent_by_us(topic.send_many_within(out, wait::SLICE))
            })
        };
        sent_in_order(py, &messages, self.store.get().send_timeout(), send)
    }

    /// Looks at the messages that are kept, the earliest first, without claiming them: an iterator
    /// of keepq.Browsed, of at most limit. start: "earliest" or a sequence; last=n begins with the
    /// last n instead.
    #[pyo3(signature = (*, start=None, last=None, limit=None, key=None))]
    fn browse(
        slf: &Bound<'_, Self>,
        start: Option<StartArg>,
        last: Option<u64>,
        limit: Option<u64>,
        key: Later<'_, '_>,
    ) -> PyResult<Browse> {
        let py = slf.py();
        refuse(py, &[("key", key.is_some())])?;
        let from = match (start.map(|s| s.0), last) {
            (Some(_), Some(_)) => Err("browse takes start or last, not both"),
            (None | Some(Start::Earliest), _) => Ok(0),
            (Some(Start::Sequence(seq)), _) => Ok(seq),
            (Some(_), _) => Err("browse starts at 'earliest' or a sequence (an int from 0)"),
        };
        let from = from.map_err(|text| error::new(py, Code::InvalidArgument, text))?;
        let walk = slf.get().call(py, |topic| {
            topic.bounds()?;
            match last {
                Some(n) => topic.browse().last(n),
                None => Ok(topic.browse().from(from)),
            }
        })?;
        Ok(Browse::of_topic(walk, slf.clone().unbind(), limit))
    }

    /// The topic's options as they are stored: a keepq.TopicConfig.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let config = self.call(py, engine::Topic::config)?;
        report::topic_config(py, &config)
    }

    /// Changes options of the topic, for every process, and returns them all as they are then: a
    /// keepq.TopicConfig. They are those of Store.topic; None = no limit, nothing retained; what is
    /// left out stays. A limit below what is kept takes nothing away. On disk when it returns.
    #[pyo3(
        signature = (*, max_bytes=Change::Left, max_messages=Change::Left, when_full=None,
                     retain=Change::Left),
        text_signature = "($self, *, max_bytes=..., max_messages=..., when_full=None, retain=...)"
    )]
    fn configure<'py>(
        &self,
        py: Python<'py>,
        max_bytes: Change<u64>,
        max_messages: Change<u64>,
        when_full: Option<WhenFullArg>,
        retain: Change<Retain>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let changes = Changes {
            max_bytes,
            max_messages,
            when_full,
            retain,
        };
        let config = self.call(py, |topic| changes.set(topic.configure()).apply())?;
        report::topic_config(py, &config)
    }

    /// Takes away all messages that the topic has now, for every group: those still to come and
    /// those that consumers hold, whose leases end with LeaseLost. Dead letters stay, and so does
    /// what is sent after the call. On disk when it returns. Returns how many of them some group
    /// had not settled; in a topic without groups, how many there were.
    fn purge(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, engine::Topic::purge)
    }

    /// Deletes the topic with its messages, its groups and their dead letters; on disk when it
    /// returns. Every handle of it and of its groups, in any process, raises NotFound from then on.
    /// The name is free for a new topic.
    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, engine::Topic::delete)
    }

    /// How many messages of the topic are kept. Sequences that a recovery after the loss of shared
    /// memory left out count, too, until what was sent before it is gone.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let len = self.call(py, engine::Topic::len)?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// A topic is true, also while nothing is in it.
    fn __bool__(&self) -> bool {
        true
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let again = py.import("keepq._handles")?.getattr("topic")?;
        let options = Given::new(py)
            .note("flush", self.flush.map(FlushMode))?
            .note("codec", self.codec)?
            .note("max_bytes", self.limits.max_bytes)?
            .note("max_messages", self.limits.max_messages)?
            .note("when_full", self.limits.when_full)?
            .note("retain", self.limits.retain)?;
        let store = self.store.clone_ref(py);
        (again, (store, self.name.clone_ref(py), options.done())).into_pyobject(py)
    }

    fn __repr__(&self) -> String {
        format!("<keepq.Topic {:?}>", &*self.name)
    }
}
