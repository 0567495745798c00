//! Arguments: durations, bytes, headers, flush modes, messages.

use crate::codec::{Codec, encoded};
use crate::error;
use crate::wait::{Bounds, SLICE};
use engine::{Code, Flush, OutMessage, WhenFull};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{
    PyBool, PyBytes, PyDateTime, PyDelta, PyDict, PyFloat, PyInt, PyMapping, PyString, PyTzInfo,
};
use std::time::Duration;

/// A duration: seconds as int or float, or a timedelta.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let number = obj.is_instance_of::<PyInt>() || obj.is_instance_of::<PyFloat>();
        let seconds: f64 = if number && !obj.is_instance_of::<PyBool>() {
            obj.extract()?
        } else if obj.is_instance_of::<PyDelta>() {
            obj.call_method0("total_seconds")?.extract()?
        } else {
            let kind = obj.get_type().name()?;
            let text = format!("a duration is seconds (int, float) or a timedelta, not {kind}");
            return Err(PyTypeError::new_err(text));
        };
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| {
            PyValueError::new_err(format!(
                "{seconds} is not a duration: 0 s or more, and finite"
            ))
        })
    }
}

/// A timeout that may be left out, which is not the same as None (for ever).
#[derive(Clone, Copy)]
pub(crate) enum Timeout {
    /// As the store was opened with.
    Default,
    /// None = for ever.
    Given(Option<Duration>),
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let given: Option<Seconds> = obj.extract()?;
        Ok(Self::Given(given.map(|s| s.0)))
    }
}

impl Timeout {
    /// As it was given, if it was.
    pub(crate) fn given(self) -> Option<Option<Seconds>> {
        match self {
            Self::Default => None,
            Self::Given(timeout) => Some(timeout.map(Seconds)),
        }
    }

    /// For the engine, to which the longest duration is for ever.
    pub(crate) fn for_engine(self) -> Option<Duration> {
        match self {
            Self::Default => None,
            Self::Given(timeout) => Some(timeout.unwrap_or(Duration::MAX)),
        }
    }
}

/// `"sync"` or `"async"`.
#[derive(Clone, Copy)]
pub(crate) struct FlushMode(pub(crate) Flush);

impl<'py> FromPyObject<'_, 'py> for FlushMode {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match &*obj.extract::<PyBackedStr>()? {
            "sync" => Ok(Self(Flush::Sync)),
            "async" => Ok(Self(Flush::Async)),
            other => {
                let text = format!("flush is 'sync' or 'async', not {other:?}");
                Err(error::new(obj.py(), Code::InvalidArgument, text))
            }
        }
    }
}

/// The bytes of anything that gives its buffer. Bytes themselves are not copied.
pub(crate) struct Buffer(pub(crate) PyBackedBytes);

impl<'py> FromPyObject<'_, 'py> for Buffer {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = obj.cast::<PyBytes>() {
            return Ok(Self(bytes.to_owned().into()));
        }
        if obj.is_instance_of::<PyString>() {
            let text = "a body is bytes-like, not str; encode it first";
            return Err(PyTypeError::new_err(text));
        }
        // bytes() takes lists and numbers as well: only what is a buffer may get there.
        PyUntypedBuffer::get(&obj)?.release(obj.py());
        let copy = obj.py().get_type::<PyBytes>().call1((obj,))?;
        Ok(Self(copy.cast_into::<PyBytes>()?.into()))
    }
}

/// Headers: a mapping of str to bytes-like.
pub(crate) struct Headers(Vec<(PyBackedStr, Buffer)>);

impl<'py> FromPyObject<'_, 'py> for Headers {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let mapping = obj.cast::<PyMapping>()?;
        let items: Vec<(PyBackedStr, Buffer)> = mapping
            .items()?
            .iter()
            .map(|item| item.extract())
            .collect::<PyResult<_>>()?;
        Ok(Self(items))
    }
}

/// A message to be sent, held together while the engine reads it.
pub(crate) struct Outgoing {
    pub(crate) body: Buffer,
    pub(crate) key: Option<PyBackedStr>,
    pub(crate) tag: Option<PyBackedStr>,
    pub(crate) order_key: Option<PyBackedStr>,
    pub(crate) headers: Option<Headers>,
    pub(crate) flush: Option<Flush>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) when_full: Option<WhenFull>,
}

impl Outgoing {
    /// A body with nothing but headers.
    fn plain(
        codec: Option<Codec>,
        body: &Bound<'_, PyAny>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (body, headers) = encoded(codec, body, headers)?;
        Ok(Self {
            body,
            key: None,
            tag: None,
            order_key: None,
            headers,
            flush: None,
            timeout: None,
            when_full: None,
        })
    }

    /// What the engine takes, borrowed from this, for one attempt.
    pub(crate) fn out(&self, bounds: Bounds) -> OutMessage<'_> {
        let headers = self.headers.iter().flat_map(|h| &h.0);
        OutMessage {
            body: &self.body.0,
            key: self.key.as_deref(),
            tag: self.tag.as_deref(),
            order_key: self.order_key.as_deref(),
            headers: headers.map(|(name, value)| (&**name, &*value.0)).collect(),
            flush: self.flush,
            timeout: bounds.all.or(self.timeout),
            when_full: self.when_full,
            room_timeout: Some(bounds.room),
            append_timeout: Some(SLICE),
        }
    }

    /// An item of `send_many`: a body, or a `keepq.Msg`.
    fn from_item(item: &Bound<'_, PyAny>, codec: Option<Codec>) -> PyResult<Self> {
        let py = item.py();
        // Most are bytes, which are told apart without asking Python.
        if item.is_exact_instance_of::<PyBytes>() || !item.is_instance(msg_class(py)?)? {
            return Self::plain(codec, item, None);
        }
        for name in ["delay", "at", "ttl", "priority", "dedup_id"] {
            error::refuse(py, &[(name, !item.getattr(name)?.is_none())])?;
        }
        let flush: Option<FlushMode> = item.getattr("flush")?.extract()?;
        let timeout: Option<Seconds> = item.getattr("timeout")?.extract()?;
        let headers: Option<Bound<'_, PyAny>> = item.getattr("headers")?.extract()?;
        Ok(Self {
            key: item.getattr("key")?.extract()?,
            tag: item.getattr("tag")?.extract()?,
            order_key: item.getattr("order_key")?.extract()?,
            flush: flush.map(|f| f.0),
            timeout: timeout.map(|s| s.0),
            ..Self::plain(codec, &item.getattr("body")?, headers.as_ref())?
        })
    }
}

fn msg_class<'py>(py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
    static MSG: pyo3::sync::PyOnceLock<Py<PyAny>> = pyo3::sync::PyOnceLock::new();
    MSG.import(py, "keepq._types", "Msg")
}

/// All items of `send_many`; what is wrong with one is found before any is sent. What a message
/// does not say itself is `flush` and `timeout`.
pub(crate) fn outgoing(
    items: &Bound<'_, PyAny>,
    codec: Option<Codec>,
    flush: Option<Flush>,
    timeout: Timeout,
) -> PyResult<Vec<Outgoing>> {
    if items.is_instance_of::<PyBytes>() || items.is_instance_of::<PyString>() {
        let text = "send_many takes an iterable of messages, not one; use send";
        return Err(PyTypeError::new_err(text));
    }
    let make = |item: PyResult<Bound<'_, PyAny>>| {
        let mut message = Outgoing::from_item(&item?, codec)?;
        message.flush = message.flush.or(flush);
        message.timeout = message.timeout.or(timeout.for_engine());
        Ok(message)
    };
    items.try_iter()?.map(make).collect()
}

/// What a send does while there is no room: `"block"` or `"raise"`.
#[derive(Clone, Copy)]
pub(crate) struct WhenFullArg(pub(crate) WhenFull);

impl<'py> FromPyObject<'_, 'py> for WhenFullArg {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match &*obj.extract::<PyBackedStr>()? {
            "block" => Ok(Self(WhenFull::Wait)),
            "raise" => Ok(Self(WhenFull::Refuse)),
            other => {
                let text = format!("when_full is 'block' or 'raise', not {other:?}");
                Err(error::new(obj.py(), Code::InvalidArgument, text))
            }
        }
    }
}

/// Options as they were given, by name, for pickling.
pub(crate) struct Given<'py>(Bound<'py, PyDict>);

impl<'py> Given<'py> {
    pub(crate) fn new(py: Python<'py>) -> Self {
        Self(PyDict::new(py))
    }

    /// Notes an option unless it was left out.
    pub(crate) fn note<T>(self, name: &str, value: Option<T>) -> PyResult<Self>
    where
        T: IntoPyObject<'py>,
    {
        if let Some(value) = value {
            self.0.set_item(name, value)?;
        }
        Ok(self)
    }

    pub(crate) fn done(self) -> Py<PyDict> {
        self.0.unbind()
    }
}

impl<'py> IntoPyObject<'py> for Seconds {
    type Target = PyFloat;
    type Output = Bound<'py, PyFloat>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyFloat::new(py, self.0.as_secs_f64()))
    }
}

impl<'py> IntoPyObject<'py> for FlushMode {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyString::new(py, self.name()))
    }
}

impl<'py> IntoPyObject<'py> for WhenFullArg {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        let name = match self.0 {
            WhenFull::Refuse => "raise",
            _ => "block",
        };
        Ok(PyString::new(py, name))
    }
}

impl FlushMode {
    fn name(self) -> &'static str {
        match self.0 {
            Flush::Async => "async",
            _ => "sync",
        }
    }
}

/// Milliseconds since 1970 of an aware datetime.
pub(crate) fn time(obj: &Bound<'_, PyAny>) -> PyResult<u64> {
    let refused = |text: &str| Err(error::new(obj.py(), Code::InvalidArgument, text));
    if obj.call_method0("utcoffset")?.is_none() {
        return refused("a datetime without a time zone names no moment: give it one (tzinfo=...)");
    }
    let seconds: f64 = obj.call_method0("timestamp")?.extract()?;
    if seconds < 0.0 {
        return refused("a datetime from 1970 on");
    }
    // datetime ends with the year 9999.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((seconds * 1000.0).ceil() as u64)
}

/// An aware datetime in UTC.
pub(crate) fn datetime(py: Python<'_>, ms: u64) -> PyResult<Bound<'_, PyDateTime>> {
    // Exact: a float holds the milliseconds of the next 200,000 years, and datetime rounds to
    // microseconds.
    #[allow(clippy::cast_precision_loss)]
    let seconds = ms as f64 / 1000.0;
    PyDateTime::from_timestamp(py, seconds, Some(&*PyTzInfo::utc(py)?))
}
