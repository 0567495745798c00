//! Codecs of handles. What they do is Python's: `keepq._codecs`, loaded by the first use.

use crate::args::{Buffer, Headers};
use engine::Delivery;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString};

/// The names there are.
const NAMES: [&str; 4] = ["json", "msgpack", "str", "pickle"];

/// `codec=` of a handle.
#[derive(Clone, Copy)]
pub(crate) struct Codec(&'static str);

/// A function of `keepq._codecs`.
fn python<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let import = || PyResult::Ok(py.import("keepq._codecs")?.into_any().unbind());
    MODULE.get_or_try_init(py, import)?.bind(py).getattr(name)
}

impl<'py> FromPyObject<'_, 'py> for Codec {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // It knows which there are and says so, and looks for the package that one may need.
        let found = python(obj.py(), "lookup")?.call1((obj,))?;
        let name: PyBackedStr = found.getattr("name")?.extract()?;
        let known = NAMES.iter().find(|known| **known == &*name);
        Ok(Self(known.expect("both lists are one")))
    }
}

impl<'py> IntoPyObject<'py> for Codec {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyString::new(py, self.0))
    }
}

/// The body and headers to send: by a codec from a value, without one as they are.
pub(crate) fn encoded(
    codec: Option<Codec>,
    body: &Bound<'_, PyAny>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Buffer, Option<Headers>)> {
    match codec {
        None => Ok((
            body.extract()?,
            headers.map(PyAnyMethods::extract).transpose()?,
        )),
        Some(Codec(name)) => python(body.py(), "encode")?
            .call1((name, body, headers))?
            .extract(),
    }
}

/// The value of a message that a handle with this codec received.
pub(crate) fn decoded(
    py: Python<'_>,
    codec: Option<Codec>,
    body: &Py<PyBytes>,
    headers: Bound<'_, PyDict>,
    delivery: &Delivery,
) -> PyResult<Py<PyAny>> {
    let what = format!(
        "the message {} of {:?}, seq {},",
        delivery.id(),
        delivery.topic(),
        delivery.seq()
    );
    decoded_as(py, codec, body, headers, &what)
}

/// The value of a message, which errors call this.
pub(crate) fn decoded_as(
    py: Python<'_>,
    codec: Option<Codec>,
    body: &Py<PyBytes>,
    headers: Bound<'_, PyDict>,
    what: &str,
) -> PyResult<Py<PyAny>> {
    let value = python(py, "value")?.call1((codec, body, headers, what))?;
    Ok(value.unbind())
}
