//! Looking at messages without receiving them: of a topic, and the dead letters of a group.

use crate::args;
use crate::codec;
use crate::error::{self, OrRaise};
use crate::group::Group;
use crate::topic::Topic;
use engine::{Burial, Code, Content, MessageId, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDateTime, PyDict};
use std::sync::Mutex;

/// A message as it is kept, read without being claimed. Made by Topic.browse and Store.find.
///
/// What damage has taken raises CorruptError when it is asked for; see damage.
#[pyclass(module = "keepq", frozen, subclass)]
pub(crate) struct Browsed {
    topic: String,
    seq: u64,
    content: Result<Content>,
    body: PyOnceLock<Py<PyBytes>>,
}

impl Browsed {
    pub(crate) fn new(found: engine::Browsed) -> Self {
        Self {
            topic: found.topic.to_string(),
            seq: found.seq,
            content: found.content,
            body: PyOnceLock::new(),
        }
    }

    fn content(&self, py: Python<'_>) -> PyResult<&Content> {
        self.content.as_ref().map_err(|e| error::to_python(py, e))
    }
}

#[pymethods]
impl Browsed {
    /// The body.
    #[getter]
    fn body(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        let content = self.content(py)?;
        let make = || PyBytes::new(py, content.body()).unbind();
        Ok(self.body.get_or_init(py, make).clone_ref(py))
    }

    /// The body decoded by its content type (see keepq.open, codec); the body itself if it has
    /// none. Raises DecodeError.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (body, headers) = (self.body(py)?, self.headers(py)?);
        let what = format!("the message of {:?}, seq {},", self.topic, self.seq);
        codec::decoded_as(py, None, &body, headers, &what)
    }

    /// The identity: 16 hexadecimal digits.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.content(py)?.id().to_string())
    }

    /// The sequence in the topic, from 0; of a dead letter, among the group's dead letters.
    #[getter]
    fn seq(&self) -> u64 {
        self.seq
    }

    /// The name of the topic it was sent to.
    #[getter]
    fn topic(&self) -> &str {
        &self.topic
    }

    /// The key, or None.
    #[getter]
    fn key(&self, py: Python<'_>) -> PyResult<Option<&str>> {
        Ok(self.content(py)?.key())
    }

    /// The tag, or None.
    #[getter]
    fn tag(&self, py: Python<'_>) -> PyResult<Option<&str>> {
        Ok(self.content(py)?.tag())
    }

    /// The order key, or None.
    #[getter]
    fn order_key(&self, py: Python<'_>) -> PyResult<Option<&str>> {
        Ok(self.content(py)?.order_key())
    }

    /// The headers: a dict of str to bytes.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in self.content(py)?.headers() {
            dict.set_item(name, PyBytes::new(py, value))?;
        }
        Ok(dict)
    }

    /// When it was sent: an aware datetime in UTC.
    #[getter]
    fn sent_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        args::datetime(py, self.content(py)?.sent_at_ms())
    }

    /// The name of the producer that sent it, or None.
    #[getter]
    fn producer(&self, py: Python<'_>) -> PyResult<Option<&str>> {
        Ok(self.content(py)?.producer().map(|(name, _)| name))
    }

    /// Its sequence from that producer, or None.
    #[getter]
    fn producer_seq(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        Ok(self.content(py)?.producer().map(|(_, seq)| seq))
    }

    /// None; a CorruptError when damage has taken the message.
    #[getter]
    fn damage(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let error = self.content.as_ref().err()?;
        Some(error::to_python(py, error).into_value(py).into_any())
    }

    fn __repr__(&self) -> String {
        match &self.content {
            Ok(content) => format!(
                "<keepq.Browsed {} of {:?}, seq {}>",
                content.id(),
                self.topic,
                self.seq
            ),
            Err(_) => format!(
                "<keepq.Browsed of {:?}, seq {}, damaged>",
                self.topic, self.seq
            ),
        }
    }
}

/// A message that was given up for a group. Made by DeadLetters.
///
/// What damage has taken raises CorruptError when it is asked for; see damage.
#[pyclass(module = "keepq", frozen, extends = Browsed)]
pub(crate) struct DeadLetter {
    burial: Result<Burial>,
}

impl DeadLetter {
    fn create(py: Python<'_>, group: &Group, letter: engine::DeadLetter) -> PyResult<Py<Self>> {
        let topic = letter.burial.as_ref().map(|b| b.topic.clone());
        let base = Browsed {
            topic: topic.unwrap_or_else(|_| group.topic().to_owned()),
            seq: letter.seq,
            content: letter.content,
            body: PyOnceLock::new(),
        };
        let burial = letter.burial;
        Py::new(
            py,
            PyClassInitializer::from(base).add_subclass(Self { burial }),
        )
    }

    fn burial(&self, py: Python<'_>) -> PyResult<&Burial> {
        self.burial.as_ref().map_err(|e| error::to_python(py, e))
    }
}

#[pymethods]
impl DeadLetter {
    /// The sequence it had in its topic.
    #[getter]
    fn topic_seq(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.burial(py)?.topic_seq)
    }

    /// How often it had been delivered.
    #[getter]
    fn attempts(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.burial(py)?.attempts)
    }

    /// Why it was given up: the reason of the reject, or that no attempt was left.
    #[getter]
    fn reason(&self, py: Python<'_>) -> PyResult<&str> {
        Ok(&self.burial(py)?.reason)
    }

    /// Whether a consumer rejected it; else its attempts were used up.
    #[getter]
    fn rejected(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.burial(py)?.rejected)
    }

    /// When it was given up: an aware datetime in UTC.
    #[getter]
    fn dead_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        args::datetime(py, self.burial(py)?.dead_at_ms)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let base = slf.as_super().get();
        let id = base.content.as_ref().map(|c| c.id().to_string());
        let id = id.unwrap_or_else(|_| "(damaged)".to_owned());
        match &slf.get().burial {
            Ok(burial) => format!(
                "<keepq.DeadLetter {id} of {:?}, seq {}, attempts {}, reason {:?}>",
                base.topic, base.seq, burial.attempts, burial.reason
            ),
            Err(_) => format!(
                "<keepq.DeadLetter {id} of {:?}, seq {}>",
                base.topic, base.seq
            ),
        }
    }
}

/// What is walked along.
enum Walk {
    // What it was made from outlives it, so that dropping it never closes the store.
    Topic {
        walk: engine::Browse,
        _topic: Py<Topic>,
    },
    Dead(engine::BrowseDead, Py<Group>),
}

/// What a walk came to.
enum Found {
    Message(engine::Browsed),
    Letter(engine::DeadLetter),
}

impl Walk {
    fn next(&mut self) -> Option<Result<Found>> {
        match self {
            Self::Topic { walk, .. } => walk.next().map(|found| found.map(Found::Message)),
            Self::Dead(walk, _) => walk.next().map(|found| found.map(Found::Letter)),
        }
    }
}

/// An iterator over messages that are read without being claimed, in order of their sequence. For
/// one thread at a time. When it has ended, asking again goes on with what came since.
#[pyclass(module = "keepq", frozen, generic)]
pub(crate) struct Browse {
    walk: Mutex<Walk>,
    left: Mutex<u64>,
}

impl Browse {
    pub(crate) fn of_topic(walk: engine::Browse, topic: Py<Topic>, limit: Option<u64>) -> Self {
        let _topic = topic;
        Self::new(Walk::Topic { walk, _topic }, limit)
    }

    fn new(walk: Walk, limit: Option<u64>) -> Self {
        Self {
            walk: Mutex::new(walk),
            left: Mutex::new(limit.unwrap_or(u64::MAX)),
        }
    }
}

#[pymethods]
impl Browse {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let (Ok(mut walk), Ok(mut left)) = (self.walk.try_lock(), self.left.try_lock()) else {
            let text = "another thread is using this browse; let each thread make its own";
            return Err(error::new(py, Code::InvalidArgument, text));
        };
        if *left == 0 {
            return Ok(None);
        }
        let found = {
            let walk = &mut *walk;
            py.detach(|| walk.next())
        };
        let Some(found) = found.transpose().or_raise(py)? else {
            return Ok(None);
        };
        if *left != u64::MAX {
            *left -= 1;
        }
        let item = match (found, &*walk) {
            (Found::Letter(letter), Walk::Dead(_, group)) => {
                DeadLetter::create(py, group.get(), letter)?.into_any()
            }
            (Found::Message(message), _) => Py::new(py, Browsed::new(message))?.into_any(),
            (Found::Letter(_), Walk::Topic { .. }) => return Ok(None),
        };
        Ok(Some(item))
    }
}

/// The dead letters of a group: messages that were rejected, or whose attempts were used up. They
/// are kept until they are purged. Looking at them claims nothing. Made by Group.dlq.
#[pyclass(module = "keepq", frozen)]
pub(crate) struct DeadLetters {
    group: Py<Group>,
}

impl DeadLetters {
    pub(crate) fn new(group: Py<Group>) -> Self {
        Self { group }
    }

    fn call<R: Send>(
        &self,
        py: Python<'_>,
        call: impl Fn(engine::DeadLetters) -> Result<R> + Send + Sync,
    ) -> PyResult<R> {
        self.group
            .get()
            .call(py, |group| call(group.dead_letters()))
    }
}

#[pymethods]
impl DeadLetters {
    /// Looks at them, the earliest first: an iterator of keepq.DeadLetter, of at most limit, from
    /// this sequence among them on.
    #[pyo3(signature = (limit=None, *, start=0))]
    fn browse(&self, py: Python<'_>, limit: Option<u64>, start: u64) -> PyResult<Browse> {
        let walk = self.call(py, |letters| {
            letters.len()?;
            Ok(letters.browse().from(start))
        })?;
        let group = self.group.clone_ref(py);
        Ok(Browse::new(Walk::Dead(walk, group), limit))
    }

    /// The one with this message id, or None. Looks through all of them.
    fn get(&self, py: Python<'_>, id: PyBackedStr) -> PyResult<Option<Py<DeadLetter>>> {
        let id: MessageId = id.parse::<MessageId>().or_raise(py)?;
        let letter = self.call(py, |letters| letters.get(id))?;
        let create = |letter| DeadLetter::create(py, self.group.get(), letter);
        letter.map(create).transpose()
    }

    /// Removes all that there are when it is called, or the given one: a keepq.DeadLetter or a
    /// message id. Returns how many it removed. On disk when it returns.
    #[pyo3(signature = (which=None))]
    fn purge(&self, py: Python<'_>, which: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let Some(which) = which else {
            return self.call(py, |letters| letters.purge());
        };
        let seq = if let Ok(letter) = which.cast::<Browsed>() {
            Some(letter.get().seq)
        } else {
            let id: MessageId = which
                .extract::<PyBackedStr>()?
                .parse::<MessageId>()
                .or_raise(py)?;
            self.call(py, |letters| Ok(letters.get(id)?.map(|l| l.seq)))?
        };
        let Some(seq) = seq else { return Ok(0) };
        Ok(u64::from(self.call(py, |letters| letters.purge_one(seq))?))
    }

    fn __iter__(&self, py: Python<'_>) -> PyResult<Browse> {
        self.browse(py, None, 0)
    }

    /// How many there are.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let len = self.call(py, |letters| letters.len())?;
        Ok(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// It is true, also while there are none.
    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self) -> String {
        let group = self.group.get();
        format!(
            "<keepq.DeadLetters of {:?} of {:?}>",
            group.name(),
            group.topic()
        )
    }
}
