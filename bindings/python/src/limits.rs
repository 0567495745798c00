//! What topics and the store keep at most: options, and changes of them.

use crate::args::{Seconds, WhenFullArg};
use engine::{ConfigureTopic, TopicOptions};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDelta, PyInt, PyTuple};
use std::time::Duration;

/// An option of `configure` that may be left out, which is not the same as None (= none).
#[derive(Clone, Copy)]
pub(crate) enum Change<T> {
    Left,
    To(Option<T>),
}

impl<'a, 'py, T: FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Change<T> {
    type Error = PyErr;

    fn extract(obj: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if obj.is_none() {
            return Ok(Self::To(None));
        }
        obj.extract()
            .map(|to| Self::To(Some(to)))
            .map_err(Into::into)
    }
}

impl<T> Change<T> {
    /// An option of something that is opened, where None is no wish.
    fn wish(given: Option<T>) -> Self {
        given.map_or(Self::Left, |wish| Self::To(Some(wish)))
    }
}

/// `retain=`: a timedelta (an age), an int (bytes), or a tuple of both.
#[derive(Clone, Copy, Default)]
pub(crate) struct Retain {
    age: Option<Duration>,
    bytes: Option<u64>,
}

impl Retain {
    fn one(obj: &Bound<'_, PyAny>) -> PyResult<Self> {
        if obj.is_instance_of::<PyDelta>() {
            let Seconds(age) = obj.extract()?;
            return Ok(Self {
                age: Some(age),
                bytes: None,
            });
        }
        if obj.is_instance_of::<PyInt>() && !obj.is_instance_of::<PyBool>() {
            return Ok(Self {
                age: None,
                bytes: Some(obj.extract()?),
            });
        }
        let text = "retain is a timedelta (how long), an int (how many bytes) or a tuple of both";
        Err(PyTypeError::new_err(text))
    }
}

impl<'py> FromPyObject<'_, 'py> for Retain {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Ok(both) = obj.cast::<PyTuple>() else {
            return Self::one(&obj);
        };
        let (first, second): (Bound<'_, PyAny>, Bound<'_, PyAny>) = both.extract()?;
        match (Self::one(&first)?, Self::one(&second)?) {
            (Self { age: Some(age), .. }, Self { bytes: Some(n), .. }) => Ok(Self {
                age: Some(age),
                bytes: Some(n),
            }),
            _ => Err(PyTypeError::new_err(
                "retain as a tuple is (timedelta, bytes)",
            )),
        }
    }
}

impl<'py> IntoPyObject<'py> for Retain {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        match (self.age, self.bytes) {
            (Some(age), Some(bytes)) => Ok((age, bytes).into_pyobject(py)?.into_any()),
            (Some(age), None) => Ok(age.into_pyobject(py)?.into_any()),
            (None, bytes) => Ok(bytes.into_pyobject(py)?.into_any()),
        }
    }
}

/// Limits of a topic as they were given when it was opened.
#[derive(Clone, Copy, Default)]
pub(crate) struct LimitArgs {
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_messages: Option<u64>,
    pub(crate) when_full: Option<WhenFullArg>,
    pub(crate) retain: Option<Retain>,
}

impl LimitArgs {
    pub(crate) fn any(&self) -> bool {
        self.max_bytes.is_some()
            || self.max_messages.is_some()
            || self.when_full.is_some()
            || self.retain.is_some()
    }

    pub(crate) fn apply(self, options: TopicOptions) -> TopicOptions {
        let changes = Changes {
            max_bytes: Change::wish(self.max_bytes),
            max_messages: Change::wish(self.max_messages),
            when_full: self.when_full,
            retain: Change::wish(self.retain),
        };
        changes.set(options)
    }
}

/// What a topic's limits are to become.
#[derive(Clone, Copy)]
pub(crate) struct Changes {
    pub(crate) max_bytes: Change<u64>,
    pub(crate) max_messages: Change<u64>,
    pub(crate) when_full: Option<WhenFullArg>,
    pub(crate) retain: Change<Retain>,
}

/// What takes them.
pub(crate) trait Limited: Sized {
    fn limit_bytes(self, most: Option<u64>) -> Self;
    fn limit_messages(self, most: Option<u64>) -> Self;
    fn when_full(self, when_full: engine::WhenFull) -> Self;
    fn retain(self, retain: Retain) -> Self;
}

macro_rules! limited {
    ($class:ident) => {
        impl Limited for $class {
            fn limit_bytes(self, most: Option<u64>) -> Self {
                self.max_bytes(most)
            }

            fn limit_messages(self, most: Option<u64>) -> Self {
                self.max_messages(most)
            }

            fn when_full(self, when_full: engine::WhenFull) -> Self {
                $class::when_full(self, when_full)
            }

            // It is one option: naming an age alone says that bytes retain nothing.
            fn retain(self, retain: Retain) -> Self {
                self.retain_age(retain.age).retain_bytes(retain.bytes)
            }
        }
    };
}

limited!(TopicOptions);
limited!(ConfigureTopic);

impl Changes {
    pub(crate) fn set<T: Limited>(self, mut on: T) -> T {
        if let Change::To(most) = self.max_bytes {
            on = on.limit_bytes(most);
        }
        if let Change::To(most) = self.max_messages {
            on = on.limit_messages(most);
        }
        if let Some(WhenFullArg(when_full)) = self.when_full {
            on = on.when_full(when_full);
        }
        if let Change::To(retain) = self.retain {
            on = on.retain(retain.unwrap_or_default());
        }
        on
    }
}
