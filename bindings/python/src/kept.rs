//! Engine handles that outlive a fork: the child opens its own at the first use.
//!
//! The engine refuses every call on a handle of the parent (`ForkedHandle`), so nothing has to be
//! asked on the way of a usual call. No lock is held here but under the GIL, and for moments: a
//! thread that forks has the GIL, so the child finds them free.

use crate::error::OrRaise;
use engine::Code;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// An engine handle (cheap to clone) and, in a forked child, the one that took its place.
pub(crate) struct Kept<T> {
    first: T,
    /// How often it was replaced. Zero until a fork.
    replaced: AtomicU64,
    later: Mutex<Option<T>>,
}

impl<T: Clone + Send + Sync> Kept<T> {
    pub(crate) fn new(first: T) -> Self {
        Self {
            first,
            replaced: AtomicU64::new(0),
            later: Mutex::new(None),
        }
    }

    /// The handle as it is now; in a forked child perhaps still that of the parent.
    pub(crate) fn now(&self) -> T {
        self.replacement().unwrap_or_else(|| self.first.clone())
    }

    fn replacement(&self) -> Option<T> {
        if self.replaced.load(Ordering::Acquire) == 0 {
            return None;
        }
        let later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        later.clone()
    }

    /// Puts what `reopen` gives in the place of the handle. Threads that do so at once end up with
    /// the same one.
    pub(crate) fn replace(&self, reopen: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let before = self.replaced.load(Ordering::Acquire);
        let fresh = reopen()?;
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = self.replaced.load(Ordering::Acquire) != before;
        if let Some(theirs) = later.as_ref().filter(|_| theirs) {
            return Ok(theirs.clone());
        }
        *later = Some(fresh.clone());
        self.replaced.fetch_add(1, Ordering::AcqRel);
        Ok(fresh)
    }

    /// Calls the engine without the GIL; in a forked child with a handle of its own, which `reopen`
    /// makes if there is none yet.
    pub(crate) fn call<R: Send>(
        &self,
        py: Python<'_>,
        reopen: impl FnOnce() -> PyResult<T>,
        call: impl Fn(&T) -> engine::Result<R> + Send + Sync,
    ) -> PyResult<R> {
        let result = match self.replacement() {
            None => py.detach(|| call(&self.first)),
            Some(later) => py.detach(|| call(&later)),
        };
        match result {
            Err(e) if e.code() == Code::ForkedHandle => {
                let fresh = self.replace(reopen)?;
                py.detach(|| call(&fresh)).or_raise(py)
            }
            result => result.or_raise(py),
        }
    }
}
