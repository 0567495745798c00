//! Threads of the engine: they take no signals, which belong to the application's own threads.
#![allow(unsafe_code)]

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread in which every signal is blocked, with a stack of so many bytes.
pub(crate) fn spawn_quietly(
    name: &str,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are written by the calls before they are read: `sigfillset` fills `all`,
    // `pthread_sigmask` stores the mask of this thread in `before`. A new thread inherits the mask
    // of its maker, which is restored right after.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let spawned = Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(body);
    // SAFETY: `before` was filled by the call above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
    spawned
}
