//! Opening a group and receiving from it.

use crate::error::{KEEPQ_EMPTY, KEEPQ_OK, guard, keepq_rc};
use crate::handle::Table;
use crate::msg::{self, keepq_msg};
use crate::opts::{keepq_group_opts, wait};
use crate::store::{keepq, store};
use crate::{sized, text};
use engine::{Code, Delivery, Error, Group, Result};
use std::ffi::c_char;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A consumer group of a topic. Any number of threads may use one handle at the same time.
pub struct keepq_group {
    _never_looked_at: [u8; 0],
}

struct GroupEntry {
    group: Group,
    /// Set by keepq_group_close; a receive of another thread looks at it between slices.
    closed: AtomicBool,
}

static GROUPS: Table<GroupEntry> = Table::new(2, "group", "keepq_group_close");

/// A wait is cut into slices, so that it ends soon after its group was closed by another thread.
const SLICE: Duration = Duration::from_millis(100);

/// Opens a consumer group; makes topic and group if need be. opts may be NULL. Options are stored
/// when the group is made; a different explicit value later is KEEPQ_E_CONFIG_MISMATCH. On success
/// *out is a handle for keepq_group_close, else NULL.
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
        let out = unsafe { out.as_mut() }.ok_or_else(|| text::null("out"))?;
        *out = ptr::null_mut();
        let entry = store(q)?;
        // SAFETY: the caller promises strings and the struct.
        let (topic, name, opts) = unsafe {
            (
                text::required(topic, "topic")?,
                text::required(group, "group")?,
                sized::read(opts)?,
            )
        };
        let options: keepq_group_opts = opts;
        let group = options.apply(entry.store.group(topic, name))?.open()?;
        let handle = GROUPS.insert(GroupEntry {
            group,
            closed: AtomicBool::new(false),
        })?;
        *out = ptr::without_provenance_mut(handle);
        Ok(KEEPQ_OK)
    })
}

/// Closes a group. A receive that waits in another thread returns KEEPQ_E_CLOSED within 0.1 s. The
/// messages received stay valid until they are freed.
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

/// Receives one message under a lease. timeout_ms: -1 = for ever, 0 = try once. Returns
/// KEEPQ_EMPTY, and *out = NULL, when none came. The message is to be settled (keepq_ack,
/// keepq_nack, keepq_reject) and freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_receive(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: *mut *mut keepq_msg,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the handle.
        let out = unsafe { out.as_mut() }.ok_or_else(|| text::null("out"))?;
        *out = ptr::null_mut();
        let entry = GROUPS.get(g.addr())?;
        let receive = |slice| entry.group.receive(slice);
        match entry.in_slices(wait(timeout_ms)?, receive, Option::is_none)? {
            None => Ok(KEEPQ_EMPTY),
            Some(delivery) => {
                *out = msg::open(delivery)?;
                Ok(KEEPQ_OK)
            }
        }
    })
}

/// Receives up to cap messages: waits for the first, takes what else is there. out has room for cap
/// handles, of which *n are set. timeout_ms and the result as for keepq_receive. cap is at most
/// 1024.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_receive_batch(
    g: *mut keepq_group,
    timeout_ms: i64,
    out: *mut *mut keepq_msg,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a place for the count.
        let n = unsafe { n.as_mut() }.ok_or_else(|| text::null("n"))?;
        *n = 0;
        if out.is_null() {
            return Err(text::null("out"));
        }
        if cap == 0 {
            return Err(Error::new(
                Code::InvalidArgument,
                "cap is 0: no room for a message",
            ));
        }
        let entry = GROUPS.get(g.addr())?;
        let receive = |slice| entry.group.receive_batch(cap, slice);
        let deliveries = entry.in_slices(wait(timeout_ms)?, receive, Vec::is_empty)?;
        // Should the handles run out, those given so far are freed again: all or nothing.
        let mut handles = msg::Opened::with_capacity(deliveries.len());
        for delivery in deliveries.into_iter().take(cap) {
            handles.push(msg::open(delivery)?);
        }
        for (index, handle) in handles.into_all().into_iter().enumerate() {
            // SAFETY: the caller promises room for `cap` handles, and there are no more.
            unsafe { out.add(index).write(handle) };
            *n = index + 1;
        }
        Ok(if *n == 0 { KEEPQ_EMPTY } else { KEEPQ_OK })
    })
}

impl GroupEntry {
    /// Calls `receive` with slices of the timeout until it gives something that is not `empty`.
    fn in_slices<T>(
        &self,
        timeout: Duration,
        receive: impl Fn(Duration) -> Result<T>,
        empty: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let mut left = timeout;
        loop {
            let slice = left.min(SLICE);
            let got = receive(slice)?;
            if !empty(&got) || left == slice {
                return Ok(got);
            }
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::new(
                    Code::Closed,
                    "the group was closed during the receive",
                ));
            }
            if left != Duration::MAX {
                left -= slice;
            }
        }
    }
}

#[allow(dead_code)]
const fn deliveries_may_change_threads<T: Send>() {}
const _: () = deliveries_may_change_threads::<Delivery>();
