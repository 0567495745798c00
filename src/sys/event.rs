//! A descriptor that event loops can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

/// An eventfd: readable once [`Event::signal`] was called, until [`Event::clear`] is.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    /// One that is not readable yet. It is closed by `exec` and never blocks.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Makes it readable.
    pub(crate) fn signal(&self) {
        // It fails only when the counter is at its end, and then it is readable.
        while write(&self.0, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Makes it unreadable.
    pub(crate) fn clear(&self) {
        // It fails only when it is not readable.
        while read(&self.0, &mut [0; 8]) == Err(Errno::INTR) {}
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
