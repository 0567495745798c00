//! What a forked child must not keep: descriptors of LOCK, and the belief to be its parent.
//!
//! An OFD lock belongs to the open file description, which a child inherits: as long as the child
//! has the descriptor, a dead parent looks alive. So the child closes them before `fork` returns
//! in it. Its handler may only do what a signal handler may, hence a fixed table of atomics and
//! nothing but `fstat` and `close`.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::MmapRaw;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Open LOCK descriptors in one process: as many stores (or handles of one) at a time.
pub(crate) const MAX_HOSTS: usize = 1024;

const EMPTY: RawFd = -1;
static TABLE: [Slot; MAX_HOSTS] = [const { Slot::new() }; MAX_HOSTS];

/// A descriptor and the file it was opened for. Somebody may close it behind our back (a stray
/// `closerange`); its number may then name any file, which is none of ours.
struct Slot {
    fd: AtomicI32,
    dev: AtomicU64,
    ino: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            fd: AtomicI32::new(EMPTY),
            dev: AtomicU64::new(0),
            ino: AtomicU64::new(0),
        }
    }

    /// Whether the descriptor is still open on its file. Allowed in a signal handler.
    fn names_its_file(&self) -> bool {
        let fd = self.fd.load(Ordering::Relaxed);
        if fd < 0 {
            return false;
        }
        // SAFETY: a number that is not open makes fstat fail, which is handled; nothing is kept.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::fs::fstat(fd).is_ok_and(|now| {
            now.st_dev == self.dev.load(Ordering::Relaxed)
                && now.st_ino == self.ino.load(Ordering::Relaxed)
        })
    }

    /// Closes the descriptor if it is still ours, and empties the slot.
    fn close(&self) {
        if self.names_its_file() {
            // SAFETY: opened for this slot, just checked to name the same file still, and closed
            // once only, as the slot is emptied.
            unsafe { libc::close(self.fd.load(Ordering::Relaxed)) };
        }
        self.fd.store(EMPTY, Ordering::Relaxed);
    }
}

/// Held while a descriptor is open but not in the table, or the reverse, and across each fork, so
/// that no child is made in between.
static GATE: AtomicBool = AtomicBool::new(false);
/// Whether the fork that is under way holds the gate.
static FORK_HAS_GATE: AtomicBool = AtomicBool::new(false);
/// How many forks lie between this process and the one that loaded the library.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Passing the gate takes a few system calls; a fork that waited this many turns is inside it
/// itself (from a signal handler) or behind a stopped thread, and goes on without it.
const GATE_TURNS: u32 = 10_000;

unsafe extern "C" {
    /// In glibc's and musl's libc; the `libc` crate does not declare it for Linux.
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}

struct Gate;

impl Gate {
    fn enter() -> Self {
        while GATE.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        Self
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        GATE.store(false, Ordering::Release);
    }
}

unsafe extern "C" fn before_fork() {
    for _ in 0..GATE_TURNS {
        if !GATE.swap(true, Ordering::Acquire) {
            FORK_HAS_GATE.store(true, Ordering::Relaxed);
            return;
        }
        // SAFETY: takes no argument, always allowed, also in a signal handler.
        unsafe { libc::sched_yield() };
    }
}

unsafe extern "C" fn after_fork_in_parent() {
    if FORK_HAS_GATE.swap(false, Ordering::Relaxed) {
        GATE.store(false, Ordering::Release);
    }
}

unsafe extern "C" fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    TABLE.iter().for_each(Slot::close);
    FORK_HAS_GATE.store(false, Ordering::Relaxed);
    GATE.store(false, Ordering::Release);
}

fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<libc::c_int> = OnceLock::new();
    let result = *INSTALLED.get_or_init(|| {
        let child = Some(after_fork_in_child as unsafe extern "C" fn());
        // SAFETY: the three functions live as long as the library and do only what is allowed
        // between fork and exec.
        unsafe { pthread_atfork(Some(before_fork), Some(after_fork_in_parent), child) }
    });
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

/// A descriptor that no forked child keeps.
pub(super) struct ParentOnlyFd {
    slot: &'static Slot,
    forks: u64,
}

impl ParentOnlyFd {
    /// Opens a descriptor with `open` and registers it, so that no fork comes in between.
    pub(super) fn open(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        install()?;
        let _gate = Gate::enter();
        let free = TABLE
            .iter()
            .find(|slot| slot.fd.load(Ordering::Relaxed) == EMPTY);
        let slot = free.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        let fd = open()?;
        let stat = rustix::fs::fstat(&fd)?;
        slot.dev.store(stat.st_dev, Ordering::Relaxed);
        slot.ino.store(stat.st_ino, Ordering::Relaxed);
        slot.fd.store(fd.into_raw_fd(), Ordering::Relaxed);
        Ok(Self {
            slot,
            forks: FORKS.load(Ordering::Relaxed),
        })
    }

    /// The descriptor, or an error if it was closed behind our back or in a forked child.
    pub(super) fn get(&self) -> io::Result<BorrowedFd<'_>> {
        if self.forks != FORKS.load(Ordering::Relaxed) || !self.slot.names_its_file() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: just seen to be open, and closed by this value's drop only.
        Ok(unsafe { BorrowedFd::borrow_raw(self.slot.fd.load(Ordering::Relaxed)) })
    }
}

impl Drop for ParentOnlyFd {
    fn drop(&mut self) {
        // In a forked child the slot is free already, or another host's.
        if self.forks == FORKS.load(Ordering::Relaxed) {
            let _gate = Gate::enter();
            self.slot.close();
        }
    }
}

/// A shared map that forked children do not have. Dropping it in a child unmaps nothing: by then
/// anything else may lie at its address there.
pub(super) struct ParentOnlyMap {
    map: ManuallyDrop<MmapRaw>,
    mark: Arc<ForkMark>,
}

impl ParentOnlyMap {
    pub(super) fn new(map: MmapRaw, mark: &Arc<ForkMark>) -> io::Result<Self> {
        map.advise(memmap2::Advice::DontFork)?;
        Ok(Self {
            map: ManuallyDrop::new(map),
            mark: Arc::clone(mark),
        })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

impl Drop for ParentOnlyMap {
    fn drop(&mut self) {
        if !self.mark.forked() {
            // SAFETY: dropped here only, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.map) };
        }
    }
}

/// Tells whether this process is a forked child of the one that made it.
///
/// A page that the kernel wipes in children covers forks that run no handlers (a raw `clone`);
/// the count of handled forks covers kernels before 4.14, which do not know such pages.
pub(super) struct ForkMark {
    page: *mut AtomicU8,
    wiped: bool,
    forks: u64,
}

// SAFETY: the page is private to this value and touched through an atomic only.
unsafe impl Send for ForkMark {}
// SAFETY: as above.
unsafe impl Sync for ForkMark {}

const MARK_PAGE: usize = 4096;

impl ForkMark {
    pub(super) fn new() -> io::Result<Self> {
        install()?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private anonymous mapping at an address the kernel chooses.
        let page = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), MARK_PAGE, prot, MapFlags::PRIVATE)?
        };
        // SAFETY: the page was just mapped and nothing refers to it yet.
        let advised = unsafe { rustix::mm::madvise(page, MARK_PAGE, Advice::LinuxWipeOnFork) };
        let mark = Self {
            page: page.cast(),
            wiped: advised.is_ok(),
            forks: FORKS.load(Ordering::Relaxed),
        };
        mark.marker().store(1, Ordering::Relaxed);
        Ok(mark)
    }

    fn marker(&self) -> &AtomicU8 {
        // SAFETY: the page stays mapped as long as this value lives (in a child too: its content
        // is wiped there, the mapping is not), and an AtomicU8 has no alignment to keep.
        unsafe { &*self.page }
    }

    pub(super) fn forked(&self) -> bool {
        (self.wiped && self.marker().load(Ordering::Relaxed) == 0)
            || FORKS.load(Ordering::Relaxed) != self.forks
    }
}

impl Drop for ForkMark {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped here only. An error leaves the page mapped.
        let _ = unsafe { rustix::mm::munmap(self.page.cast(), MARK_PAGE) };
    }
}
