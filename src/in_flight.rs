//! Asynchronous and one-way sends between their append and their result.
//!
//! A send enters the list with the log position that makes it durable. Whoever finds the watermark
//! beyond it settles it, in order of position, so one flush completes many: the completer's thread
//! ([`completer`]), which flushes as long as anything waits; callers of `Pending::wait` and
//! `Store::flush`; in the end `close`. None of them is needed by another.
//!
//! Invariants. A send is in `waiting` or has its result, never both: both change under `state`. A
//! callback is in its `One`, in `due`, or was taken out to be called; `runner` is the one thread
//! that takes out, so they run one at a time and in order. A send counts against the limits until
//! its result is there and its callbacks have returned. Callbacks and wakers run without any lock.
//!
//! Order of locks: a call of the store (`Inner::enter`), then `state`, then the hooks of a `One`.

mod completer;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use completer::Call;
use parking_lot::{Condvar, Mutex};

use crate::attempts::Attempts;
use crate::deadline::Begun;
use crate::delivery::registry;
use crate::error::{Code, Error, Outcome, Result};
use crate::inner::Inner;
use crate::options::{Sent, WhenFull};
use crate::pending::One;
use crate::shm::control::W_DURABLE;
use crate::shm::wake::LOOK;
use crate::sys::Host;

/// The longest that one wait for a flush lasts, in ms: a close waits for it.
const ROUND_MS: u64 = 200;

/// A send that is appended and not settled.
pub(crate) struct Entry {
    /// The topic's id.
    pub(crate) topic: u32,
    /// Durable when the watermark has reached this.
    pub(crate) end: u64,
    /// When it gives up (BOOTTIME ms).
    pub(crate) deadline: u64,
    pub(crate) sent: Sent,
    pub(crate) room: Room,
    /// Whose result it is; `None` for a one-way send.
    pub(crate) one: Option<Arc<One>>,
}

/// What a send takes of the limits. Given back by [`InFlight::give_back`], or with its entry.
#[must_use = "room that is not given back is lost"]
pub(crate) struct Room {
    messages: u64,
    bytes: u64,
}

/// The sends in flight of one open store.
pub(crate) struct InFlight {
    host: Arc<dyn Host>,
    /// The store: not held open by what is in flight.
    inner: Weak<Inner>,
    state: Mutex<State>,
    /// The thread has something to do.
    wanted: Condvar,
    /// There may be room, or the store was closed.
    freed: Condvar,
    /// One-way sends that failed.
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    /// In order of their ends.
    waiting: VecDeque<Entry>,
    /// No deadline of `waiting` is before this.
    earliest: u64,
    due: VecDeque<Call>,
    messages: u64,
    bytes: u64,
    /// Who calls back now.
    runner: Option<ThreadId>,
    stop: bool,
    /// The thread lives and will look at `waiting` and `due` again.
    threaded: bool,
    thread: Option<JoinHandle<()>>,
}

impl State {
    /// The first entry, if it ends at or before this position.
    fn pop_up_to(&mut self, end: u64) -> Option<Entry> {
        if self.waiting.front()?.end > end {
            return None;
        }
        self.waiting.pop_front()
    }

    /// The entries whose time is over; the others stay in order.
    fn take_late(&mut self, now: u64) -> VecDeque<Entry> {
        let all = std::mem::take(&mut self.waiting);
        let (late, left) = all.into_iter().partition(|entry| entry.deadline <= now);
        self.waiting = left;
        let earliest = self.waiting.iter().map(|entry| entry.deadline).min();
        self.earliest = earliest.unwrap_or(u64::MAX);
        late
    }

    fn give_back(&mut self, room: &Room) {
        self.messages = self.messages.saturating_sub(room.messages);
        self.bytes = self.bytes.saturating_sub(room.bytes);
    }
}

impl InFlight {
    pub(crate) fn new(host: Arc<dyn Host>, inner: Weak<Inner>) -> Arc<Self> {
        Arc::new(Self {
            host,
            inner,
            state: Mutex::default(),
            wanted: Condvar::new(),
            freed: Condvar::new(),
            lost: AtomicU64::new(0),
        })
    }

    pub(crate) fn forked(&self) -> bool {
        self.host.forked()
    }

    /// BOOTTIME ms after so much time; `None` never comes.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> u64 {
        let ms = timeout.map_or(u64::MAX, |t| {
            u64::try_from(t.as_millis()).unwrap_or(u64::MAX)
        });
        self.host.boottime_ms().saturating_add(ms)
    }

    /// The time until `deadline`.
    pub(crate) fn left(&self, deadline: u64) -> Duration {
        Duration::from_millis(deadline.saturating_sub(self.host.boottime_ms()))
    }

    /// One-way sends that failed so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A one-way send failed.
    pub(crate) fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes room for a message with so many bytes, waiting for it until `deadline` or not at all.
    /// The caller is in no call of the store, so that waiting here holds up no close.
    pub(crate) fn admit(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        bytes: usize,
        when_full: WhenFull,
        deadline: u64,
    ) -> Result<Room> {
        let room = Room {
            messages: 1,
            bytes: bytes as u64,
        };
        let mut state = self.state.lock();
        self.start(&mut state, inner)?;
        loop {
            // A callback would wait for itself: its own message counts until it returns.
            let calls_back = state.runner == Some(std::thread::current().id());
            if calls_back || fits(&state, inner, &room) {
                state.messages += room.messages;
                state.bytes += room.bytes;
                return Ok(room);
            }
            // Only the flag: a close holds the calls and then needs this lock.
            inner.check_open()?;
            if when_full == WhenFull::Refuse {
                return Err(no_room(Code::Full, &state));
            }
            let left = self.left(deadline);
            if left.is_zero() {
                return Err(no_room(Code::Timeout, &state));
            }
            if state.threaded {
                self.freed.wait_for(&mut state, left.min(LOOK));
                continue;
            }
            let first = state.waiting.front().map(|entry| entry.end);
            drop(state);
            self.make_room(inner, first, deadline);
            state = self.state.lock();
        }
    }

    /// Without a thread, whoever needs room does its work.
    fn make_room(&self, inner: &Arc<Inner>, first: Option<u64>, deadline: u64) {
        match first.map(|_| inner.enter()) {
            Some(Ok(_call)) => self.round(inner, deadline),
            // What counts is being called back on another thread.
            _ => self.host.pause(Duration::from_millis(1)),
        }
        self.call_back(usize::MAX);
    }

    /// Gives back the room of a send that was not appended, or is settled.
    pub(crate) fn give_back(&self, room: &Room) {
        self.state.lock().give_back(room);
        self.freed.notify_all();
    }

    /// Enters a send that was appended.
    pub(crate) fn enter(&self, entry: Entry) {
        let mut state = self.state.lock();
        // Nearly always the last: another thread may have appended later and come here earlier.
        state.earliest = if state.waiting.is_empty() {
            entry.deadline
        } else {
            state.earliest.min(entry.deadline)
        };
        let before = state.waiting.iter().rposition(|e| e.end <= entry.end);
        state.waiting.insert(before.map_or(0, |at| at + 1), entry);
        drop(state);
        self.wanted.notify_one();
    }

    /// Waits for the next flush and settles what it covers. In a call of the store.
    fn round(&self, inner: &Arc<Inner>, deadline: u64) {
        let (first, give_up, last, earliest) = {
            let state = self.state.lock();
            let (Some(first), Some(last)) = (state.waiting.front(), state.waiting.back()) else {
                return;
            };
            (first.end, first.deadline, last.end, state.earliest)
        };
        let until = deadline.min(earliest).min(self.round_end());
        let begun = Begun::at(inner, give_up);
        let mut attempts = Attempts::new(inner, begun.after(Duration::ZERO));
        let waited = attempts.run(|| inner.log.wait_durable(first, until));
        // A failed flush was one of everything published, so of all that waited before it.
        self.settle(inner, waited.err().map(|e| (e, last)));
    }

    fn round_end(&self) -> u64 {
        self.host.boottime_ms().saturating_add(ROUND_MS)
    }

    /// Leads or follows flushes for one send, at most until `deadline`. False: there is nothing to
    /// be done for it here but to sleep.
    pub(crate) fn help(&self, one: &One, deadline: u64) -> bool {
        let Some(inner) = self.inner.upgrade() else {
            return false;
        };
        let helped = match inner.enter() {
            Err(_) => false,
            Ok(_call) => {
                let give_up = deadline.min(one.deadline);
                let until = give_up.min(self.round_end());
                let begun = Begun::at(&inner, give_up);
                let mut attempts = Attempts::new(&inner, begun.after(Duration::ZERO));
                let waited = attempts.run(|| inner.log.wait_durable(one.end, until));
                let failed = waited.err();
                // While the send itself has time left, its failure is not ours to declare.
                let early = deadline < one.deadline;
                if early && failed.as_ref().is_some_and(Error::is_retriable) {
                    false
                } else {
                    self.settle(&inner, failed.map(|e| (e, one.end)));
                    true
                }
            }
        };
        self.call_back_without_thread();
        helped
    }

    /// Settles what is durable already.
    pub(crate) fn look(&self) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        if let Ok(_call) = inner.enter() {
            self.settle(&inner, None);
        }
        self.call_back_without_thread();
    }

    /// Settles what is durable; with `failed` everything up to a position, by that error; and what
    /// has used up its time.
    pub(crate) fn settle(&self, inner: &Inner, failed: Option<(Error, u64)>) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            return;
        }
        let durable = inner.log.ctl.load(W_DURABLE);
        let now = self.host.boottime_ms();
        let failed = failed.map(|(e, end)| (e.with_outcome(Outcome::MaybeStored), end));
        while let Some(mut entry) = state.pop_up_to(durable) {
            entry.sent.durable = true;
            let sent = entry.sent.clone();
            // What its topic took along is nowhere any more.
            let result = match registry::ask_topic(&inner.log.ctl, entry.topic) {
                Err(e) if e.code() == Code::NotFound => Err(e.with_outcome(Outcome::MaybeStored)),
                _ => Ok(sent),
            };
            self.settle_one(&mut state, entry, result);
        }
        if let Some((e, end)) = failed {
            while let Some(entry) = state.pop_up_to(end) {
                self.settle_one(&mut state, entry, Err(e.clone()));
            }
        }
        if state.earliest <= now {
            for entry in state.take_late(now) {
                self.settle_one(&mut state, entry, Err(inner.log.flush_timeout()));
            }
        }
        let to_call = !state.due.is_empty();
        drop(state);
        self.freed.notify_all();
        if to_call {
            self.wanted.notify_one();
        }
    }

    fn settle_one(&self, state: &mut State, entry: Entry, result: Result<Sent>) {
        let Some(one) = entry.one else {
            if result.is_err() {
                self.count_lost();
            }
            state.give_back(&entry.room);
            return;
        };
        let hooks = one.settle(result);
        if hooks.is_empty() {
            state.give_back(&entry.room);
        } else {
            state.due.push_back(Call::new(one, hooks, entry.room));
        }
    }
}

/// Whether there is room. A body over the whole limit goes alone.
fn fits(state: &State, inner: &Inner, room: &Room) -> bool {
    let messages = state.messages + room.messages <= u64::from(inner.options.max_in_flight);
    let bytes = state.bytes + room.bytes <= inner.options.max_in_flight_bytes;
    messages && (bytes || state.bytes == 0)
}

#[cold]
fn no_room(code: Code, state: &State) -> Error {
    Error::new(
        code,
        format!(
            "{} asynchronous sends with {} bytes are in flight, as many as this handle may have; \
             wait for their results, or open the store with a higher max_in_flight",
            state.messages, state.bytes
        ),
    )
}
