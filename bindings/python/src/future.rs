//! The future of an asynchronous send: a `concurrent.futures.Future` to everybody who asks, made of
//! little more than the engine's own.
//!
//! As long as nobody wants to be told, nobody is: the result is the engine's, which is done as soon
//! as the disk is, and nothing of Python runs for it before it is asked for. A future that has
//! callbacks, or whose condition somebody asks for (`concurrent.futures.wait` and `as_completed`
//! do), is *watched*: then the store's thread for results delivers it (`keepq._sends`), as the
//! executor of any other future would, and it is finished when that has been.
//!
//! All state changes under the GIL and without leaving it in between, which is what the lock of
//! another future is for. Once finished it stays so.

use crate::error::OrRaise;
use crate::send::SendResult;
use crate::sends::{self, Sends, Waiting};
use crate::wait;
use engine::{Pending, Sent};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyType};
use pyo3::{PyTraverseError, PyVisit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What a future ends with: a `SendResult`, or an exception.
type Outcome = std::result::Result<Py<SendResult>, Py<PyAny>>;

/// What only those have that somebody wants to be told of.
struct Told {
    /// A `threading.Condition`.
    condition: Py<PyAny>,
    /// Of `concurrent.futures.wait` and `as_completed`.
    waiters: Py<PyList>,
    callbacks: Py<PyList>,
}

/// See the module.
#[pyclass(module = "keepq._keepq", frozen, weakref, name = "_SendFuture")]
pub(crate) struct SendFuture {
    pending: Pending,
    sends: Arc<Sends>,
    /// The store's thread delivers it; it is finished when that was.
    watched: AtomicBool,
    delivered: AtomicBool,
    outcome: OnceLock<Outcome>,
    told: OnceLock<Told>,
    /// In a forked child of the one it was to be delivered in: another condition, as that of the
    /// parent may be held for ever.
    child: OnceLock<Py<PyAny>>,
}

/// Something of `concurrent.futures`.
fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "concurrent.futures", "Future")
}

fn condition(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.import(py, "threading", "Condition")?;
    Ok(class.call0()?.unbind())
}

/// A time-out of `concurrent.futures`: seconds, none for ever, less than none like zero.
fn timeout(seconds: Option<f64>) -> Option<Duration> {
    let time = |s: f64| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX);
    seconds.map(time)
}

impl SendFuture {
    pub(crate) fn new(pending: Pending, sends: Arc<Sends>) -> Self {
        Self {
            pending,
            sends,
            watched: AtomicBool::new(false),
            delivered: AtomicBool::new(false),
            outcome: OnceLock::new(),
            told: OnceLock::new(),
            child: OnceLock::new(),
        }
    }

    /// Has it delivered, even if its result is there already.
    pub(crate) fn watch(slf: &Bound<'_, Self>, waiting: Waiting) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.watched.store(true, Ordering::Release);
        let waiting = match this.sends.enter(waiting) {
            Ok(index) => {
                this.sends.watch(index, &this.pending);
                return Ok(());
            }
            Err(waiting) => waiting,
        };
        // The thread ended, which it does when the store was closed: that settled everything.
        py.detach(|| this.pending.wait(None)).ok();
        let batch = PyList::empty(py);
        batch.append(waiting.settled(py, this.pending.poll().and_then(sends::there))?)?;
        sends::python(py, "deliver_all")?.call1((batch,))?;
        Ok(())
    }

    fn finished(&self) -> bool {
        if self.watched.load(Ordering::Acquire) {
            self.delivered.load(Ordering::Acquire)
        } else {
            self.pending.is_done()
        }
    }

    /// What it ended with. Only when it is finished.
    fn outcome(&self, py: Python<'_>) -> &Outcome {
        if let Some(outcome) = self.outcome.get() {
            return outcome;
        }
        let sent = self.pending.poll().and_then(sends::there);
        self.end_with(py, sent)
    }

    /// Notes what it ends with, unless that was noted; gives what it is.
    pub(crate) fn end_with(&self, py: Python<'_>, sent: engine::Result<Sent>) -> &Outcome {
        let made = sent.or_raise(py);
        let made = made.and_then(|sent| Py::new(py, SendResult::new(&sent)));
        // Making an exception leaves the GIL: nobody may wait here for another thread.
        let _ = self
            .outcome
            .set(made.map_err(|e| e.into_value(py).into_any()));
        self.outcome.get().expect("it was set just now")
    }

    /// Finishes it if nobody is to be told; false: that is done under its condition.
    pub(crate) fn finish_untold(&self) -> bool {
        let untold = self.told.get().is_none();
        if untold {
            self.delivered.store(true, Ordering::Release);
        }
        untold
    }

    /// What somebody asks for who wants to be told: from now on it is watched.
    fn told<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a Told> {
        let (py, this) = (slf.py(), slf.get());
        if this.told.get().is_none() {
            let made = Told {
                condition: condition(py)?,
                waiters: PyList::empty(py).unbind(),
                callbacks: PyList::empty(py).unbind(),
            };
            // Another thread may have made it meanwhile. From here on the GIL is not left.
            if this.told.set(made).is_ok()
                && !this.watched.load(Ordering::Acquire)
                && !this.pending.is_done()
            {
                Self::watch(slf, Waiting::of(slf))?;
            }
        }
        Ok(this.told.get().expect("it was set just now"))
    }

    /// Waits until it is finished; false: not within the time.
    fn wait(slf: &Bound<'_, Self>, timeout: Option<Duration>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if !this.watched.load(Ordering::Acquire) {
            let step = |slice| {
                let over = py.detach(|| !matches!(this.pending.wait(slice), Ok(None)));
                Ok(over.then_some(()))
            };
            if wait::in_slices(py, timeout, step)?.is_none() {
                return Ok(this.finished());
            }
        }
        if this.finished() {
            return Ok(true);
        }
        let seconds = timeout.map(|t| t.as_secs_f64());
        let delivered = sends::python(py, "wait")?.call1((slf, seconds))?;
        delivered.is_truthy()
    }

    fn call(slf: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        sends::python(slf.py(), "call_done")?.call1((slf, callback))?;
        Ok(())
    }
}

#[pymethods]
impl SendFuture {
    /// To `isinstance` it is what it behaves like.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        class(py).cloned()
    }

    /// The SendResult, waited for at most timeout seconds (None = until it comes, which takes at
    /// most the send's own timeout). Raises what became of the send; TimeoutError.
    #[pyo3(signature = (timeout=None))]
    fn result(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<SendResult>> {
        let py = slf.py();
        if !Self::wait(slf, self::timeout(timeout))? {
            return Err(PyTimeoutError::new_err(()));
        }
        match slf.get().outcome(py) {
            Ok(result) => Ok(result.clone_ref(py)),
            Err(exception) => Err(PyErr::from_value(exception.bind(py).clone())),
        }
    }

    /// The exception that result would raise, or None.
    #[pyo3(signature = (timeout=None))]
    fn exception(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        if !Self::wait(slf, self::timeout(timeout))? {
            return Err(PyTimeoutError::new_err(()));
        }
        let outcome = slf.get().outcome(py);
        Ok(outcome.as_ref().err().map(|e| e.clone_ref(py)))
    }

    /// Whether there is a result or an exception.
    fn done(&self) -> bool {
        self.finished()
    }

    /// Whether it is not done.
    fn running(&self) -> bool {
        !self.finished()
    }

    /// False: the message is in the log.
    fn cancel(&self) -> bool {
        false
    }

    /// False.
    fn cancelled(&self) -> bool {
        false
    }

    /// Has fn called with the future when it is done: at once if it is, else on the store's thread
    /// for results. What it raises is logged.
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        if this.finished() {
            return Self::call(slf, r#fn);
        }
        let told = Self::told(slf)?;
        // Whoever delivers it finishes it first and takes the callbacks then.
        if this.finished() {
            return Self::call(slf, r#fn);
        }
        told.callbacks.bind(slf.py()).append(r#fn)
    }

    fn set_running_or_notify_cancel(&self) -> PyResult<bool> {
        Err(PyRuntimeError::new_err("Future in unexpected state"))
    }

    fn set_result(&self, _result: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err(
            "only keepq knows the result of a send",
        ))
    }

    fn set_exception(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err(
            "only keepq knows the result of a send",
        ))
    }

    #[getter]
    fn _state(&self) -> &'static str {
        if self.finished() {
            "FINISHED"
        } else {
            "RUNNING"
        }
    }

    #[getter]
    fn _condition(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        if let Some(condition) = slf.get().child.get() {
            return Ok(condition.clone_ref(py));
        }
        Ok(Self::told(slf)?.condition.clone_ref(py))
    }

    #[getter]
    fn _waiters(slf: &Bound<'_, Self>) -> PyResult<Py<PyList>> {
        Ok(Self::told(slf)?.waiters.clone_ref(slf.py()))
    }

    #[getter]
    fn _done_callbacks(slf: &Bound<'_, Self>) -> PyResult<Py<PyList>> {
        Ok(Self::told(slf)?.callbacks.clone_ref(slf.py()))
    }

    #[getter]
    fn _result(&self, py: Python<'_>) -> Option<Py<SendResult>> {
        let outcome = self.finished().then(|| self.outcome(py))?;
        outcome.as_ref().ok().map(|result| result.clone_ref(py))
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let outcome = self.finished().then(|| self.outcome(py))?;
        outcome
            .as_ref()
            .err()
            .map(|exception| exception.clone_ref(py))
    }

    /// Of `asyncio` from Python 3.14 on: done, cancelled, result, exception.
    #[allow(clippy::type_complexity)] // It is what Python's own gives.
    fn _get_snapshot(
        &self,
        py: Python<'_>,
    ) -> (bool, bool, Option<Py<SendResult>>, Option<Py<PyAny>>) {
        let done = self.finished();
        (done, false, self._result(py), self._exception(py))
    }

    /// Finishes it if nobody is to be told.
    fn _finish_untold(&self) -> bool {
        self.finish_untold()
    }

    /// Finishes it. Its condition is held.
    fn _finish(&self) {
        self.delivered.store(true, Ordering::Release);
    }

    /// In a forked child: ends it, for its result is the parent's, and so are its callbacks.
    fn _abandon(&self, py: Python<'_>, exception: Py<PyAny>) -> PyResult<()> {
        let _ = self.child.set(condition(py)?);
        let _ = self.outcome.set(Err(exception));
        if let Some(told) = self.told.get() {
            for list in [&told.waiters, &told.callbacks] {
                list.bind(py).call_method0("clear")?;
            }
        }
        self.delivered.store(true, Ordering::Release);
        Ok(())
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err("a future cannot be pickled"))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let state = match this.finished().then(|| this.outcome(slf.py())) {
            None => "running".to_owned(),
            Some(Ok(_)) => "finished returned SendResult".to_owned(),
            Some(Err(exception)) => {
                let class = exception.bind(slf.py()).get_type();
                let name = class.name().map(|name| name.to_string());
                format!("finished raised {}", name.unwrap_or_default())
            }
        };
        format!("<Future at {:p} state={state}>", slf.as_ptr())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.outcome.get() {
            Some(Ok(result)) => visit.call(result)?,
            Some(Err(exception)) => visit.call(exception)?,
            None => {}
        }
        if let Some(told) = self.told.get() {
            visit.call(&told.condition)?;
            visit.call(&told.waiters)?;
            visit.call(&told.callbacks)?;
        }
        self.child.get().map_or(Ok(()), |child| visit.call(child))
    }
}

impl Waiting {
    /// Of a future that is to be delivered to those who asked for it, and to no callback of a send.
    pub(crate) fn of(future: &Bound<'_, SendFuture>) -> Self {
        Self {
            future: future.clone().unbind(),
            on_success: None,
            on_exception: None,
        }
    }

    /// What Python delivers: future, on_success, on_exception, result, exception.
    pub(crate) fn settled(
        self,
        py: Python<'_>,
        sent: engine::Result<Sent>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let outcome = self.future.get().end_with(py, sent);
        let result = outcome.as_ref().ok().map(|result| result.clone_ref(py));
        let exception = outcome.as_ref().err().map(|e| e.clone_ref(py));
        let future = self.future.clone_ref(py);
        let settled = (
            future,
            self.on_success,
            self.on_exception,
            result,
            exception,
        );
        Ok(settled.into_pyobject(py)?.into_any())
    }
}
