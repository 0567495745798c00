//! Opening a store: `keepq.open`, and once more in a forked child.

use crate::args::{FlushMode, Given, Seconds, Timeout, WhenFullArg};
use crate::codec::Codec;
use crate::error::OrRaise;
use crate::sends::Sends;
use crate::store::{Opened, Store};
use engine::{Result, StoreOptions};
use pyo3::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a send may take where nothing else is said.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// How many asynchronous sends may be in flight where nothing else is said.
const MAX_IN_FLIGHT: u32 = 1024;

/// How the store is opened, here and again.
pub(crate) struct How {
    /// Absolute: a child may have gone elsewhere.
    pub(crate) path: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) send_timeout: Duration,
    max_in_flight: u32,
}

impl How {
    fn open(&self, path: &Path, options: StoreOptions) -> Result<Opened> {
        Ok(Opened {
            store: options.open(path)?,
            sends: Sends::new(self.max_in_flight),
            leases: Arc::default(),
            pid: std::process::id(),
        })
    }

    /// Once more: it is there, and not to be made.
    pub(crate) fn again(&self) -> Result<Opened> {
        let options = self.options.clone().create(false).exist_ok(true);
        self.open(&self.path, options)
    }
}

/// Opens a store: a directory that any number of processes share; makes it if need be.
///
/// create=False: a missing store is NotFound. exist_ok=False: an existing one is AlreadyExists.
/// read_only=True: to look only; no lock is taken and nothing is written, received or settled.
/// flush="sync": a message is on disk when send returns; "async": in shared memory, which survives
/// the death of every process, and on disk within flush_interval seconds. send_timeout: seconds
/// that a send may take over all its attempts (None = for ever); send_retries: how many attempts
/// follow the first after an error that may pass. max_in_flight, max_in_flight_bytes: the most
/// asynchronous sends, and bytes of their bodies, that wait for their results at a time. codec, of
/// topics and groups that name none: "json", "msgpack", "str" or "pickle"; with one, sends take
/// values instead of bytes and Message.value gives them back.
///
/// Fixed when the store is made, ConfigMismatch when another value is given later: mode, permission
/// bits of its files (0o660 with a set-group-id directory shares it within a group); runtime_dir,
/// an absolute path for its shared memory; segment_size and ring_size in bytes; slots, the most
/// messages outstanding. max_bytes is the most bytes of bodies that all topics keep together, and
/// when_full what a send does that it has no room for, as of Store.topic; Store.configure changes
/// these two. allow_unsafe_filesystem=True opens on network, FUSE and memory file
/// systems, without the guarantees those cannot give.
///
/// Raises NotFound, AlreadyExists, IncompatibleError, ConfigMismatch, Busy, CorruptError,
/// StorageError, InvalidArgument.
#[pyfunction]
#[pyo3(
    signature = (path, *, create=true, exist_ok=true, flush=None, mode=None, read_only=false,
                 runtime_dir=None, send_timeout=Timeout::Default, send_retries=None,
                 max_in_flight=None, max_in_flight_bytes=None, flush_interval=None,
                 segment_size=None, ring_size=None, slots=None, allow_unsafe_filesystem=false,
                 codec=None, max_bytes=None, when_full=None),
    text_signature = "(path, *, create=True, exist_ok=True, flush='sync', mode=0o600, \
                      read_only=False, runtime_dir=None, send_timeout=3, send_retries=2, \
                      max_in_flight=1024, max_in_flight_bytes=67108864, flush_interval=0.01, \
                      segment_size=None, ring_size=None, slots=None, \
                      allow_unsafe_filesystem=False, codec=None, max_bytes=None, \
                      when_full=None)"
)]
#[allow(clippy::too_many_arguments)] // They are named ones in Python.
pub(crate) fn open(
    py: Python<'_>,
    path: PathBuf,
    create: bool,
    exist_ok: bool,
    flush: Option<FlushMode>,
    mode: Option<u32>,
    read_only: bool,
    runtime_dir: Option<PathBuf>,
    send_timeout: Timeout,
    send_retries: Option<u32>,
    max_in_flight: Option<u32>,
    max_in_flight_bytes: Option<u64>,
    flush_interval: Option<Seconds>,
    segment_size: Option<u64>,
    ring_size: Option<u64>,
    slots: Option<u32>,
    allow_unsafe_filesystem: bool,
    codec: Option<Codec>,
    max_bytes: Option<u64>,
    when_full: Option<WhenFullArg>,
) -> PyResult<Store> {
    let time = send_timeout.given();
    let Asked { options, given } = Asked::new(py)
        .set("flush", flush, |o, f| o.flush(f.0))?
        // The default is no wish: a store that was made with another mode opens as it is.
        .set("mode", mode, |o, m| if m == 0o600 { o } else { o.mode(m) })?
        .set("read_only", Some(read_only), StoreOptions::read_only)?
        .set("runtime_dir", runtime_dir, StoreOptions::runtime_dir)?
        .set("send_timeout", time, |o, t| {
            o.send_timeout(t.map_or(Duration::MAX, |t| t.0))
        })?
        .set("send_retries", send_retries, StoreOptions::send_retries)?
        .set("max_in_flight", max_in_flight, StoreOptions::max_in_flight)?
        .set(
            "max_in_flight_bytes",
            max_in_flight_bytes,
            StoreOptions::max_in_flight_bytes,
        )?
        .set("flush_interval", flush_interval, |o, t| {
            o.flush_interval(t.0)
        })?
        .set("segment_size", segment_size, StoreOptions::segment_size)?
        .set("ring_size", ring_size, StoreOptions::ring_size)?
        .set("slots", slots, StoreOptions::slots)?
        .set(
            "allow_unsafe_filesystem",
            Some(allow_unsafe_filesystem),
            StoreOptions::allow_unsafe_filesystem,
        )?
        .set("codec", codec, |o, _| o)?;
    let how = How {
        path: std::path::absolute(&path)?,
        options,
        send_timeout: send_timeout.for_engine().unwrap_or(SEND_TIMEOUT),
        max_in_flight: max_in_flight.unwrap_or(MAX_IN_FLIGHT),
    };
    let once = limited(&how, (create, exist_ok), (max_bytes, when_full));
    let opened = py.detach(|| how.open(&path, once)).or_raise(py)?;
    Ok(Store::new((path, how), given.done(), codec, opened))
}

/// With what is for this once: Store.configure may change it before the store is opened again.
fn limited(
    how: &How,
    (create, exist_ok): (bool, bool),
    (max_bytes, when_full): (Option<u64>, Option<WhenFullArg>),
) -> StoreOptions {
    let mut options = how.options.clone().create(create).exist_ok(exist_ok);
    if let Some(most) = max_bytes {
        options = options.max_bytes(most);
    }
    if let Some(WhenFullArg(when_full)) = when_full {
        options = options.when_full(when_full);
    }
    options
}

/// Options of `open` for the engine, and as they were given for pickling.
struct Asked<'py> {
    options: StoreOptions,
    given: Given<'py>,
}

impl<'py> Asked<'py> {
    fn new(py: Python<'py>) -> Self {
        Self {
            options: StoreOptions::default(),
            given: Given::new(py),
        }
    }

    /// Sets an option unless it was left out.
    fn set<T>(
        self,
        name: &str,
        value: Option<T>,
        set: impl FnOnce(StoreOptions, T) -> StoreOptions,
    ) -> PyResult<Self>
    where
        T: Clone + IntoPyObject<'py>,
    {
        let given = self.given.note(name, value.clone())?;
        let options = match value {
            Some(value) => set(self.options, value),
            None => self.options,
        };
        Ok(Self { options, given })
    }
}
