//! Values instead of bytes: the codecs of `keepq._codecs`, for handles that name one.

use crate::args::{Buffer, Headers};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

/// The name of a handle's codec, which was looked up.
pub(crate) struct Codec(Py<PyString>);

/// A body and headers, ready to be sent.
pub(crate) type Encoded = (Buffer, Option<Headers>);

fn codecs<'py>(py: Python<'py>, function: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let import = || PyResult::Ok(py.import("keepq._codecs")?.into_any().unbind());
    MODULE
        .get_or_try_init(py, import)?
        .bind(py)
        .getattr(function)
}

impl Codec {
    /// The codec that a handle names, else that of the store; refused if there is no such one.
    pub(crate) fn of(
        name: Option<&Bound<'_, PyAny>>,
        store: Option<&Self>,
    ) -> PyResult<Option<Self>> {
        let Some(name) = name else {
            return Ok(store.map(|s| Python::attach(|py| s.clone_ref(py))));
        };
        codecs(name.py(), "lookup")?.call1((name,))?;
        Ok(Some(Self(name.cast::<PyString>()?.clone().unbind())))
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self(self.0.clone_ref(py))
    }

    pub(crate) fn name<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.0.bind(py).clone()
    }
}

/// What is sent for a value: with a codec what it makes of it, else bytes as they are.
pub(crate) fn encoded(
    codec: Option<&Codec>,
    value: &Bound<'_, PyAny>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<Encoded> {
    let Some(codec) = codec else {
        return Ok((
            value.extract()?,
            headers.map(PyAnyMethods::extract).transpose()?,
        ));
    };
    let py = value.py();
    let made = codecs(py, "encode")?.call1((codec.name(py), value, headers))?;
    made.extract()
}

/// The value of a message, which has body and headers.
pub(crate) fn decoded<'py>(
    message: &Bound<'py, PyAny>,
    codec: Option<&Codec>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = message.py();
    let name = codec.map(|codec| codec.name(py));
    let (body, headers) = (message.getattr("body")?, message.getattr("headers")?);
    codecs(py, "value")?.call1((name, body, headers, message.repr()?))
}
