//! Which places of the engine touch the disk, and at which of them a test made it fail.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;

use parking_lot::Mutex;

/// A primitive of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// Opens an existing file.
    Open,
    /// Makes a file.
    Create,
    /// Writes at a position.
    Pwrite,
    /// Reads at a position.
    Pread,
    /// Makes a file's content durable.
    Fdatasync,
    /// Reserves space.
    Allocate,
    /// Looks up identity and length.
    Stat,
    /// Renames.
    Rename,
    /// Removes a name.
    Unlink,
    /// Makes a directory.
    MakeDir,
    /// Makes a directory's names durable.
    SyncDir,
    /// Lists a directory.
    List,
}

/// One place of the engine that calls one primitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
    /// The primitive (a call like `write_durably` makes several).
    pub kind: CallKind,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {:?}", self.file, self.line, self.kind)
    }
}

static CALLS: Mutex<BTreeMap<Site, u64>> = Mutex::new(BTreeMap::new());
static FAULTS: Mutex<BTreeMap<Site, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// The call that this thread is about to make.
    static CURRENT: Cell<Option<Site>> = const { Cell::new(None) };
    /// How many calls this thread announced.
    static ANNOUNCED: Cell<u64> = const { Cell::new(0) };
}

/// Called by `sys::files` before each primitive: a kill point, and the site of what comes next.
pub(crate) fn disk_call(kind: CallKind, at: &'static Location<'static>) {
    let site = Site {
        file: at.file(),
        line: at.line(),
        kind,
    };
    *CALLS.lock().entry(site).or_insert(0) += 1;
    CURRENT.set(Some(site));
    ANNOUNCED.set(ANNOUNCED.get() + 1);
    super::point();
}

/// How many disk calls this thread is known to have come to. A point hook that finds it changed
/// stands right before such a call: everything that was confirmed since the last one has returned.
#[must_use]
pub fn calls_announced() -> u64 {
    ANNOUNCED.get()
}

/// The site of the disk call that comes next, where [`calls_announced`] says that one does.
#[must_use]
pub fn announced_site() -> Option<Site> {
    CURRENT.get()
}

/// The site of the call that starts now, if the engine announced one of this kind.
pub(super) fn take_current(kind: CallKind) -> Option<Site> {
    CURRENT.take().filter(|site| site.kind == kind)
}

/// Notes that a call from this site was made to fail.
pub(super) fn note_fault(site: Site) {
    *FAULTS.lock().entry(site).or_insert(0) += 1;
}

/// Every place seen so far in this process, with how often it called.
#[must_use]
pub fn call_sites() -> BTreeMap<Site, u64> {
    CALLS.lock().clone()
}

/// Every place at which a fault was injected so far in this process, with how often.
#[must_use]
pub fn fault_sites() -> BTreeMap<Site, u64> {
    FAULTS.lock().clone()
}
