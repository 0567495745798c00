//! Asynchronous and one-way sends: what is confirmed is on disk, every callback is called exactly
//! once and in order, and nothing that a callback does can block the store.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

#[path = "support/deaths.rs"]
mod deaths;
#[path = "support/members.rs"]
mod members;

#[path = "async_send/callbacks.rs"]
mod callbacks;
#[path = "async_send/closing.rs"]
mod closing;
#[path = "async_send/crashes.rs"]
mod crashes;
#[path = "async_send/faults.rs"]
mod faults;
#[path = "async_send/forks.rs"]
mod forks;
#[path = "async_send/futures.rs"]
mod futures;
#[path = "async_send/room.rs"]
mod room;
#[path = "async_send/within.rs"]
mod within;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use keepq::{Result, Sent, Store, Topic};
use parking_lot::Mutex;

/// Longer than anything here takes: a wait of this length that ends is a failed test.
const PATIENCE: Duration = Duration::from_secs(90);

/// A directory under target/, removed at the end.
struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("async-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> (Store, Topic) {
        self.open_with(|options| options)
    }

    fn open_with(
        &self,
        set: impl FnOnce(keepq::StoreOptions) -> keepq::StoreOptions,
    ) -> (Store, Topic) {
        let patient = Store::options().send_timeout(PATIENCE / 2);
        let store = set(patient).open(&self.0).unwrap();
        let topic = store.topic("t").unwrap();
        (store, topic)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What callbacks were called with, in order.
struct Told<T> {
    tell: Sender<(T, Result<Sent>)>,
    told: Receiver<(T, Result<Sent>)>,
}

impl<T: Send + 'static> Told<T> {
    fn new() -> Self {
        let (tell, told) = channel();
        Self { tell, told }
    }

    fn callback(&self, what: T) -> impl FnOnce(Result<Sent>) + Send + 'static {
        let tell = self.tell.clone();
        move |result| tell.send((what, result)).unwrap()
    }

    /// The next one that comes.
    fn next(&self) -> (T, Result<Sent>) {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    /// Those that were called already and not seen yet.
    fn so_far(&self) -> Vec<(T, Result<Sent>)> {
        self.told.try_iter().collect()
    }
}

/// Holds a callback until it is let go on.
struct Gate {
    open: Sender<()>,
    entered: Receiver<()>,
}

impl Gate {
    /// The gate and a callback that stands in it.
    fn new() -> (Self, impl FnOnce(Result<Sent>) + Send + 'static) {
        let (open, opened) = channel::<()>();
        let (enter, entered) = channel();
        let callback = move |_| {
            enter.send(()).unwrap();
            // An end of the test opens it too.
            let _ = opened.recv();
        };
        (Self { open, entered }, callback)
    }

    fn wait_until_entered(&self) {
        self.entered.recv_timeout(PATIENCE).unwrap();
    }

    fn open(self) {
        self.open.send(()).unwrap();
    }
}

/// Runs something that may block for ever if it is wrong, and fails then.
fn in_time<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = channel();
    let thread = std::thread::spawn(move || {
        let done = what();
        let _ = tell.send(());
        done
    });
    if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = told.recv_timeout(PATIENCE) {
        panic!("it hangs");
    }
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A list that callbacks write into.
fn list<T>() -> Arc<Mutex<Vec<T>>> {
    Arc::new(Mutex::new(Vec::new()))
}
