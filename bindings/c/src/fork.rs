//! What a forked child finds: tables of handles that can be used, and handles that are not its own.
//!
//! Another thread of the parent may be making a table larger at the moment of a fork, and in the
//! child it will never end. So the forking thread takes the locks of the tables before the fork and
//! gives them back on both sides. Calls that other threads are in are counted in the child for
//! ever: what their handles stand for is then not dropped when they are closed there. All other
//! locks of this crate belong to an open store, and no call touches those of one that was opened
//! before a fork (see [`here`]).

use crate::{group, msg, store};
use engine::{Code, Error, Result};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many forks lie between this process and the one that loaded the library.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// A table is made larger in moments. A fork that waited this many turns comes from a signal
/// handler that interrupted one, and goes on without it.
const TURNS: u32 = 10_000;

unsafe extern "C" {
    /// In glibc's and musl's libc; the `libc` crate does not declare it for Linux.
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

/// What the forking thread holds across the fork.
struct Held(UnsafeCell<Vec<Box<dyn Any>>>);

// SAFETY: only the handlers below touch it, and only between taking the tables' locks, of which
// there is one owner, and giving them back on the same thread.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(Vec::new()));

thread_local! {
    /// Whether what is held is held by this thread.
    static MINE: Cell<bool> = const { Cell::new(false) };
}

/// Takes a lock for writing, if it can be had.
pub(crate) fn take<T: 'static>(try_lock: impl Fn() -> Option<T>) -> Option<Box<dyn Any>> {
    for _ in 0..TURNS {
        if let Some(guard) = try_lock() {
            return Some(Box::new(guard));
        }
        std::thread::yield_now();
    }
    None
}

unsafe extern "C" fn before_fork() {
    // Always in this order; no other code holds two of them.
    let guards = [
        store::STORES.lock_for_fork(),
        group::GROUPS.lock_for_fork(),
        msg::MESSAGES.lock_for_fork(),
    ];
    if guards.iter().all(Option::is_some) {
        // SAFETY: this thread holds all the locks; see `Held`.
        let held = unsafe { &mut *HELD.0.get() };
        held.extend(guards.into_iter().flatten());
        MINE.set(true);
    }
}

fn give_back() {
    if !MINE.replace(false) {
        return;
    }
    // SAFETY: this thread took the locks and holds them still.
    let held = unsafe { &mut *HELD.0.get() };
    for guard in std::mem::take(held).into_iter().rev() {
        drop(guard);
    }
}

unsafe extern "C" fn after_fork_in_parent() {
    give_back();
}

unsafe extern "C" fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    give_back();
}

/// Sees to it that forks are noticed. Before the first handle is made.
pub(crate) fn install() -> Result<()> {
    static INSTALLED: OnceLock<c_int> = OnceLock::new();
    let errno = *INSTALLED.get_or_init(|| {
        // SAFETY: the three functions live as long as the library: unloading it takes them out.
        unsafe {
            pthread_atfork(
                Some(before_fork),
                Some(after_fork_in_parent),
                Some(after_fork_in_child),
            )
        }
    });
    if errno == 0 {
        return Ok(());
    }
    Err(Error::new(Code::Storage, "no memory to watch for forks").with_errno(errno))
}

/// The number of this process among those that forked from the first.
pub(crate) fn here() -> usize {
    FORKS.load(Ordering::Relaxed)
}
