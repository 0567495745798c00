//! What the sends of topics and of producers have in common: they wait for room in slices, so that
//! Ctrl-C ends the wait.

use crate::args::Outgoing;
use crate::error::OrRaise;
use crate::future::SendFuture;
use crate::send::SendMany;
use crate::sends::Waiting;
use crate::wait::{self, Bounds};
use engine::{Code, OutMessage, Result, Sent, Within};
use pyo3::prelude::*;
use std::time::Duration;

/// What a program wants to be called with, and how long the call may wait for room.
pub(crate) struct Callbacks {
    /// `None` = as long as the send may take.
    pub(crate) patience: Option<Duration>,
    pub(crate) on_success: Option<Py<PyAny>>,
    pub(crate) on_exception: Option<Py<PyAny>>,
}

impl Callbacks {
    pub(crate) fn is_empty(&self) -> bool {
        self.on_success.is_none() && self.on_exception.is_none()
    }

    pub(crate) fn waiting(self, future: Py<SendFuture>) -> Waiting {
        Waiting {
            future,
            on_success: self.on_success,
            on_exception: self.on_exception,
        }
    }
}

/// Tries a one-way send until there is room; what fails for good is made once more by `give_up`,
/// which counts it.
pub(crate) fn forgotten(
    py: Python<'_>,
    (time, patience, began): (Duration, Option<Duration>, Option<Duration>),
    attempt: impl FnMut(Bounds) -> PyResult<Result<()>>,
    give_up: impl FnOnce() -> PyResult<()>,
) -> PyResult<()> {
    match wait::for_room_or_late(py, (patience.unwrap_or(time), began), attempt)? {
        Ok(()) => Ok(()),
        Err(e) if wait::is_late(&e) && patience.is_some() => Err(e).or_raise(py),
        Err(_) => give_up(),
    }
}

/// Sends many messages, those that there is room for and then, in the time that the first of them
/// says, the others.
pub(crate) fn sent_in_order(
    py: Python<'_>,
    messages: &[Outgoing],
    timeout: Duration,
    send: impl Fn(&[OutMessage<'_>]) -> PyResult<Within<Vec<Result<Sent>>>>,
) -> PyResult<SendMany> {
    let timeout = messages.first().and_then(|m| m.timeout).unwrap_or(timeout);
    let mut done: Vec<Result<Sent>> = Vec::with_capacity(messages.len());
    let attempt = |bounds| {
        let left = &messages[done.len()..];
        let out: Vec<_> = left.iter().map(|message| message.out(bounds)).collect();
        for result in wait::confirmed(py, send(&out)?)? {
            match result {
                // Those behind it were not tried.
                Err(e) if wait::is_late(&e) => return Ok(Err(e)),
                result => done.push(result),
            }
        }
        Ok(Ok(()))
    };
    let began = Some(wait::now(py)?);
    if let Err(late) = wait::for_room_or_late(py, (timeout, began), attempt)? {
        done.resize_with(messages.len(), || Err(late.clone()));
    }
    Ok(SendMany::new(done))
}

/// The results of many sends; an error if they were made by a parent's handle, so by nobody.
pub(crate) fn sent_by_us(sent: Within<Vec<Result<Sent>>>) -> Result<Within<Vec<Result<Sent>>>> {
    match &sent {
        Within::Done(results) => match results.first() {
            Some(Err(e)) if e.code() == Code::ForkedHandle => Err(e.clone()),
            _ => Ok(sent),
        },
        Within::Unconfirmed(_) => Ok(sent),
    }
}
