//! Opening a group, its options, and receiving from it.

use crate::error::{KEEPQ_EMPTY, KEEPQ_OK, guard, guard_value, keepq_rc};
use crate::group_opts::{TagList, keepq_group_opts};
use crate::handle::{Table, Used};
use crate::msg::{self, keepq_msg};
use crate::opts::wait;
use crate::store::{keepq, store};
use crate::{sized, text};
use engine::{Code, Delivery, Error, Group, Readiness, Result};
use parking_lot::Mutex;
use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A consumer group of a topic. Any number of threads may use one handle at the same time.
pub struct keepq_group {
    _never_looked_at: [u8; 0],
}

pub(crate) struct GroupEntry {
    pub(crate) group: Group,
    /// Tells groups apart.
    pub(crate) handle: OnceLock<usize>,
    ready: OnceLock<Readiness>,
    /// Set by keepq_group_close; a receive of another thread looks at it between slices.
    closed: AtomicBool,
    /// Of its store; a wait looks at it between slices, too.
    interrupts: Arc<AtomicU64>,
    /// What keepq_group_config has given out; one for each set of tags that the group had.
    tags: Mutex<Vec<Arc<TagList>>>,
}

pub(crate) static GROUPS: Table<GroupEntry> = Table::new(2, "group", "keepq_group_close");

/// The longest that a receive waits without looking whether its group was closed.
const SLICE: Duration = Duration::from_millis(100);

/// The group behind a handle.
#[inline(always)]
pub(crate) fn entry(g: *const keepq_group) -> Result<Used<'static, GroupEntry>> {
    GROUPS.get(g.addr())
}

/// ======== Groups and receiving ========
///
/// Opens a consumer group; makes topic and group if need be. opts may be NULL. Options are stored
/// when the group is made; a different explicit value later is KEEPQ_E_CONFIG_MISMATCH. On success
/// *out is a handle for keepq_group_close, else NULL.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also an option out
/// of range), KEEPQ_E_INVALID_NAME (topic, group or consumer), KEEPQ_E_LIMIT_EXCEEDED (tags),
/// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_FOUND, KEEPQ_E_CONFIG_MISMATCH; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_open(
    q: *mut keepq,
    topic: *const c_char,
    group: *const c_char,
    opts: *const keepq_group_opts,
    out: *mut *mut keepq_group,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the handle.
        let out = unsafe { text::clear(out, ptr::null_mut()) };
        let entry = store(q)?;
        let out = text::place(out, "out")?;
        // SAFETY: the caller promises strings and the struct.
        let (topic, name, opts) = unsafe {
            (
                text::required(topic, "topic")?,
                text::required(group, "group")?,
                sized::read(opts)?,
            )
        };
        let options = entry.store.group(topic, name);
        // SAFETY: the caller promises the strings that the struct points to.
        let group = unsafe { opts.apply(options) }?.open()?;
        let handle = GROUPS.insert(GroupEntry {
            group,
            handle: OnceLock::new(),
            ready: OnceLock::new(),
            closed: AtomicBool::new(false),
            interrupts: Arc::clone(&entry.interrupts),
            tags: Mutex::default(),
        })?;
        // Nobody else has the handle yet.
        let _ = GROUPS.get(handle)?.handle.set(handle);
        *out = ptr::without_provenance_mut(handle);
        Ok(KEEPQ_OK)
    })
}

/// Closes a group. A receive that waits in another thread returns KEEPQ_E_CLOSED within 0.1 s. The
/// messages received stay valid until they are freed. The group itself stays in the store;
/// keepq_group_delete is what removes it.
///
/// Errors: KEEPQ_E_BAD_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_close(g: *mut keepq_group) -> keepq_rc {
    guard(|| {
        GROUPS
            .remove(g.addr())?
            .closed
            .store(true, Ordering::Release);
        Ok(KEEPQ_OK)
    })
}

/// Deletes the group from the store with its dead letters, durably. Messages that only it was still
/// owed are released. Every handle of it, in any process, gets KEEPQ_E_NOT_FOUND from then on, also
/// a receive that waits and messages that are settled. This handle is still to be closed. The name
/// is free: opened again, it is a new group.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_NOT_FOUND (it was
/// deleted before), KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_delete(g: *mut keepq_group) -> keepq_rc {
    guard(|| {
        entry(g)?.group.delete()?;
        Ok(KEEPQ_OK)
    })
}

/// Changes options of the group for all its consumers in every process, durably: lease_ms,
/// max_attempts, ack_flush, the back-off, tags and max_outstanding; what is 0 stays as it is.
/// Leases and waits that run keep the end they have, and what was skipped for its tag stays
/// skipped. opts may not be NULL.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_LIMIT_EXCEEDED (tags), KEEPQ_E_READ_ONLY; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_configure(
    g: *mut keepq_group,
    opts: *const keepq_group_opts,
) -> keepq_rc {
    guard(|| {
        let entry = entry(g)?;
        if opts.is_null() {
            return Err(text::null("opts"));
        }
        // SAFETY: the caller promises the struct.
        let opts: keepq_group_opts = unsafe { sized::read(opts) }?;
        // SAFETY: the caller promises the strings that it points to.
        unsafe { opts.change(&entry.group) }?.apply()?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with the options the group has now; consumer, broadcast and where it began are not
/// told. tags are valid until keepq_group_close, also after they were changed.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_config(
    g: *mut keepq_group,
    out: *mut keepq_group_opts,
) -> keepq_rc {
    guard(|| {
        let entry = entry(g)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let config = entry.group.config()?;
        // SAFETY: the caller promises the struct.
        unsafe {
            sized::write(
                out,
                &keepq_group_opts::of(&config, &entry.tags(&config.tags)),
            )
        }?;
        Ok(KEEPQ_OK)
    })
}

/// A descriptor for poll, select and epoll: readable when keepq_receive may find a message. Then
/// receive with timeout 0 until KEEPQ_EMPTY, which makes it unreadable again; another consumer may
/// have been faster. The same at every call, valid until keepq_group_close. Wait for it, never read
/// from it and do not close it. It is readable, too, once the store is closed. When it cannot be
/// had: a negative number, the error's.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_STORAGE (no
/// descriptor or thread left).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_fd(g: *mut keepq_group) -> c_int {
    let descriptor = || {
        let entry = entry(g)?;
        let ready = entry.group.readiness()?;
        // The engine gives the same descriptor to all; the first keeps it open.
        let kept = entry.ready.get_or_init(|| ready);
        Ok(kept.as_fd().as_raw_fd())
    };
    guard_value(descriptor, |rc| rc)
}

/// Receives one message under a lease. timeout_ms: -1 = for ever, 0 = try once. Returns
/// KEEPQ_EMPTY, and *out = NULL, when none came. The message is to be settled (keepq_ack,
/// keepq_nack, keepq_reject) and freed (keepq_msg_free). When the lease ends before, it is
/// delivered again; keepq_extend prolongs it.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED; KEEPQ_E_CORRUPT once when messages were lost through
/// damage, receiving goes on afterwards; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_receive(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: *mut *mut keepq_msg,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the handle.
        let out = unsafe { text::clear(out, ptr::null_mut()) };
        let entry = entry(g)?;
        let out = text::place(out, "out")?;
        let mut slices = Slices::new(&entry, wait(timeout_ms)?);
        loop {
            let got = entry.group.receive_batch(1, slices.this)?;
            if let Ok(delivery) = got.try_into() {
                *out = msg::received(&entry, delivery)?;
                return Ok(KEEPQ_OK);
            }
            if !slices.go_on()? {
                return Ok(KEEPQ_EMPTY);
            }
        }
    })
}

/// Receives up to cap messages: waits for the first, takes what else is there. out has room for cap
/// handles, of which *n are set. timeout_ms and the result as for keepq_receive. cap is 1 to 1024.
///
/// Errors: as keepq_receive: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE,
/// KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED;
/// the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_receive_batch(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: *mut *mut keepq_msg,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    // SAFETY: the caller's promises are the same.
    guard(|| unsafe { receive_batch(g, timeout_ms, (out, cap, n), Group::receive_batch) })
}

/// As keepq_receive_batch, with leases that do not end with this process, but only by their time or
/// by being settled, here or elsewhere by receipt. keepq_msg_free does not give such a message
/// back.
///
/// Errors: as keepq_receive_batch: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE,
/// KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED; the
/// disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_receive_detached(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: *mut *mut keepq_msg,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    // SAFETY: the caller's promises are the same.
    guard(|| unsafe { receive_batch(g, timeout_ms, (out, cap, n), Group::receive_detached) })
}

/// The caller's array of handles: where, how many fit, and where their number goes.
pub(crate) type OutMessages = (*mut *mut keepq_msg, usize, *mut usize);

/// # Safety
/// `out` has room for as many handles as it says, and a place for their number.
unsafe fn receive_batch(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: OutMessages,
    receive: impl Fn(&Group, usize, Duration) -> Result<Vec<Delivery>>,
) -> Result<keepq_rc> {
    // SAFETY: the caller's promise.
    unsafe { text::clear(out.2, 0) };
    let entry = entry(g)?;
    msg::check_room(out)?;
    let mut slices = Slices::new(&entry, wait(timeout_ms)?);
    let mut deliveries = receive(&entry.group, out.1, slices.this)?;
    while deliveries.is_empty() && slices.go_on()? {
        deliveries = receive(&entry.group, out.1, slices.this)?;
    }
    let handles = deliveries
        .into_iter()
        .map(|delivery| msg::received(&entry, Box::new([delivery])));
    // SAFETY: checked above.
    unsafe { msg::hand_out(handles, out) }
}

impl GroupEntry {
    /// A list of these tags that lives as long as this: each set is made once.
    fn tags(&self, tags: &[String]) -> Arc<TagList> {
        let mut lists = self.tags.lock();
        if let Some(list) = lists.iter().find(|list| list.is(tags)) {
            return Arc::clone(list);
        }
        let list = Arc::new(TagList::new(tags));
        lists.push(Arc::clone(&list));
        list
    }
}

/// A wait of a receive, cut so that it ends soon after its group was closed by another thread.
struct Slices<'a> {
    group: &'a GroupEntry,
    /// The interrupts when it began.
    interrupts: u64,
    /// How long to wait now.
    this: Duration,
    /// That and all that comes afterwards.
    left: Duration,
}

impl<'a> Slices<'a> {
    #[inline]
    fn new(group: &'a GroupEntry, timeout: Duration) -> Self {
        Self {
            group,
            interrupts: group.interrupts.load(Ordering::Acquire),
            this: timeout.min(SLICE),
            left: timeout,
        }
    }

    /// Whether to wait again; nothing came in this slice.
    fn go_on(&mut self) -> Result<bool> {
        if self.left == self.this {
            return Ok(false);
        }
        if self.group.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                Code::Closed,
                "the group was closed during the receive",
            ));
        }
        if self.group.interrupts.load(Ordering::Acquire) != self.interrupts {
            return Err(Error::new(
                Code::Interrupted,
                "the wait for a message was interrupted",
            ));
        }
        if self.left != Duration::MAX {
            self.left -= self.this;
        }
        self.this = self.left.min(SLICE);
        Ok(true)
    }
}

#[allow(dead_code)]
const fn deliveries_may_change_threads<T: Send>() {}
const _: () = deliveries_may_change_threads::<Delivery>();
