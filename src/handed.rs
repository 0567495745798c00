//! A message that was handed out, and the ways to settle it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::attempts::Attempts;
use crate::deadline::Begun;
use crate::delivery::claim::Claim;
use crate::delivery::fetch::Fetched;
use crate::delivery::settle::{self, Held, Return};
use crate::error::{Code, Error, Result};
use crate::group::Shared;
use crate::inner::{Inner, Opened};
use crate::options::{Flush, MessageId, limits};
use crate::receipt::Receipt;
use crate::within::{Times, Unconfirmed, Within};

/// A received message under a lease. It is done only when it is acked; dropped unsettled, it is
/// put back at once.
///
/// Settling takes `&self`, so that the content stays readable; a second settlement is `LeaseLost`.
///
/// ```
/// # fn main() -> keepq::Result<()> {
/// # let dir = keepq::doc_dir("delivery");
/// use std::time::Duration;
///
/// let store = keepq::Store::open(&dir)?;
/// let orders = store.topic("orders")?;
/// let billing = store.group("orders", "billing").open()?;
/// for body in ["good", "not now", "nonsense"] {
///     orders.send(body)?;
/// }
/// for delivery in billing.receive_batch(10, Duration::from_secs(1))? {
///     match delivery.body() {
///         b"good" => {
///             delivery.extend(Duration::from_secs(60))?; // The work takes long.
///             delivery.ack()?;
///         }
///         b"not now" => delivery.nack(Some(Duration::from_secs(5)))?,
///         _ => delivery.reject("it cannot be read")?,
///     }
/// }
/// let stats = billing.stats()?;
/// assert_eq!((stats.delayed, stats.dead), (1, 1));
/// # store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok(())
/// # }
/// ```
pub struct Delivery {
    group: Arc<Shared>,
    claim: Claim,
    message: Fetched,
    settled: AtomicBool,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id())
            .field("seq", &self.seq())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

impl Delivery {
    pub(crate) fn new(group: Arc<Shared>, claim: Claim, message: Fetched, keep: bool) -> Self {
        // A detached lease is not put back by a drop: somebody else will settle it.
        Self {
            group,
            claim,
            message,
            settled: AtomicBool::new(keep),
        }
    }

    /// The content.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.message.body
    }

    /// The message's identity.
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId(self.message.id)
    }

    /// Its sequence in the topic.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.claim.seq
    }

    /// The topic it was received from.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.group.topic
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.message.key()
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.message.tag()
    }

    /// Its order key.
    #[must_use]
    pub fn order_key(&self) -> Option<&str> {
        self.message.order_key()
    }

    /// Its headers, in the order they were given.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.message.headers()
    }

    /// Which delivery of this message to this group it is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.claim.attempt
    }

    /// When it was sent, milliseconds since 1970 by the sender's clock.
    #[must_use]
    pub fn sent_at_ms(&self) -> u64 {
        self.message.sent_at_ms
    }

    /// The named producer that sent it, and its number there.
    #[must_use]
    pub fn producer(&self) -> Option<(&str, u64)> {
        self.message.producer()
    }

    /// The name of this delivery, to settle it from elsewhere while the lease lasts.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        let inner = &self.group.inner;
        Receipt {
            store: store_hash(inner),
            incarnation: self.group.incarnation,
            held: self.held(),
        }
    }

    fn held(&self) -> Held {
        self.group.held(&self.claim)
    }

    /// Settles by `settle`; from then on a drop does nothing. When nothing came of it (no room, a
    /// busy lock), the lease still stands and a drop puts the message back.
    pub(crate) fn settle<T>(
        &self,
        settle: impl FnOnce(&Arc<Opened>, &Held) -> Result<T>,
    ) -> Result<T> {
        let inner = &self.group.inner;
        let _call = inner.enter()?;
        let before = self.settled.swap(true, Ordering::AcqRel);
        let result = settle(inner, &self.held());
        if let Err(e) = &result {
            if !ends_lease(e) {
                self.settled.store(before, Ordering::Release);
            }
        }
        result
    }

    /// Says that it was processed: it is not delivered to this group again. Durable as the group
    /// was made (default: survives the death of every process).
    ///
    /// # Errors
    /// `LeaseLost` when the lease had ended: the message was or will be delivered again.
    pub fn ack(&self) -> Result<()> {
        // Asked within the call: a forked child does not have the shared memory.
        self.settle(|inner, held| {
            let flush = settle::ack_flush(&inner.log.ctl, held.group);
            ack_held(inner, held, flush)
        })
    }

    /// As [`Delivery::ack`], as durable as this call asks.
    ///
    /// # Errors
    /// As [`Delivery::ack`]; `FlushTimeout` when it is done but not yet known to be on disk.
    pub fn ack_with(&self, flush: Flush) -> Result<()> {
        self.settle(|inner, held| ack_held(inner, held, flush))
    }

    /// The id of its group.
    pub(crate) fn group_id(&self) -> u32 {
        self.group.id
    }

    /// Puts it back for another attempt: `None` = after the group's back-off,
    /// `Some(Duration::ZERO)` = at once. With no attempt left it becomes a dead letter.
    ///
    /// # Errors
    /// `LeaseLost` when the lease had ended.
    pub fn nack(&self, delay: Option<Duration>) -> Result<()> {
        self.settle(|inner, held| nack_held(inner, held, delay))
    }

    /// Gives it up: it becomes a dead letter now, with this reason (at most 1024 bytes).
    ///
    /// # Errors
    /// `LeaseLost` when the lease had ended; `LimitExceeded` for an overlong reason.
    pub fn reject(&self, reason: &str) -> Result<()> {
        check_reason(reason)?;
        self.settle(|inner, held| reject_held(inner, held, reason))
    }

    /// Makes the lease end `lease` from now (at most 30 days).
    ///
    /// # Errors
    /// `LeaseLost` when the lease had ended.
    pub fn extend(&self, lease: Duration) -> Result<()> {
        let inner = &self.group.inner;
        let _call = inner.enter()?;
        extend_held(inner, &self.held(), lease)
    }

    /// Keeps the lease until it expires, whatever becomes of this process, and gives the receipt to
    /// settle it by.
    #[must_use = "without the receipt the message can only expire"]
    pub fn detach(self) -> Receipt {
        let receipt = self.receipt();
        if let Ok(_call) = self.group.inner.enter() {
            if settle::detach(&self.group.inner.log, &self.held()).is_ok() {
                self.settled.store(true, Ordering::Release);
            }
        }
        receipt
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if killed!() || self.settled.load(Ordering::Acquire) {
            return;
        }
        let inner = &self.group.inner;
        // Closed or forked: whoever closed has released the lease; the parent still holds it.
        if let Ok(_call) = inner.enter() {
            let _ = nack_held(inner, &self.held(), Some(Duration::ZERO));
        }
    }
}

/// Tells receipts of different stores apart.
pub(crate) fn store_hash(inner: &Inner) -> u64 {
    inner
        .log
        .uuid
        .iter()
        .fold(0u64, |h, b| h.rotate_left(5) ^ u64::from(*b))
        .wrapping_mul(0x9e37_79b9)
}

pub(crate) fn settle_deadline(inner: &Inner) -> u64 {
    inner.deadline(Some(inner.options.send_timeout))
}

pub(crate) fn ack_held(inner: &Arc<Inner>, held: &Held, flush: Flush) -> Result<()> {
    let deadline = || settle_deadline(inner);
    let end = settle::ack(&inner.log, held, flush, deadline)?;
    inner.settle_durability(flush, end, deadline).map(|_| ())
}

pub(crate) fn nack_held(inner: &Arc<Inner>, held: &Held, delay: Option<Duration>) -> Result<()> {
    let back = match delay {
        None => Return::Backoff,
        Some(delay) => Return::After(ms(delay)?),
    };
    settle::nack(&inner.log, held, back, settle_deadline(inner))?;
    inner.appended();
    Ok(())
}

pub(crate) fn reject_held(inner: &Arc<Inner>, held: &Held, reason: &str) -> Result<()> {
    let deadline = settle_deadline(inner);
    let end = settle::reject(&inner.log, held, reason, deadline)?;
    let flush = settle::ack_flush(&inner.log.ctl, held.group);
    inner.settle_durability(flush, end, || deadline).map(|_| ())
}

pub(crate) fn extend_held(inner: &Inner, held: &Held, lease: Duration) -> Result<()> {
    settle::extend(&inner.log, held, ms(lease)?, settle_deadline(inner))
}

pub(crate) fn check_reason(reason: &str) -> Result<()> {
    if reason.len() <= limits::REASON {
        return Ok(());
    }
    Err(Error::new(
        Code::LimitExceeded,
        format!(
            "a reason of {} bytes; the limit is {}",
            reason.len(),
            limits::REASON
        ),
    ))
}

fn ms(time: Duration) -> Result<u64> {
    if time > limits::LEASE {
        return Err(Error::new(
            Code::LimitExceeded,
            "a time of more than 30 days",
        ));
    }
    Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a settlement that ended so leaves no lease that a drop could end: otherwise nothing came
/// of it.
fn ends_lease(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::LeaseLost | Code::NotFound | Code::FlushTimeout | Code::Failed
    )
}

/// Acks deliveries of any groups of a store: a record for each group and one flush. One result
/// each. `group` says of which group a delivery must be.
pub(crate) fn ack_groups(
    inner: &Arc<Opened>,
    deliveries: &[&Delivery],
    group: impl Fn(&Delivery) -> u32,
    patience: Duration,
) -> Within<Vec<Result<()>>> {
    let _call = match inner.enter() {
        Ok(call) => call,
        Err(e) => return Within::Done(deliveries.iter().map(|_| Err(e.clone())).collect()),
    };
    let mut results: Vec<Result<()>> = deliveries.iter().map(|_| Ok(())).collect();
    // In the order in which the groups come first.
    let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
    for (i, delivery) in deliveries.iter().enumerate() {
        if !Arc::ptr_eq(&delivery.group.inner, inner) {
            results[i] = Err(Error::new(
                Code::InvalidArgument,
                "the delivery comes from another open of a store; ack it there",
            ));
            continue;
        }
        let of = group(delivery);
        match groups.iter_mut().find(|(id, _)| *id == of) {
            Some((_, members)) => members.push(i),
            None => groups.push((of, vec![i])),
        }
    }
    let begun = Begun::at_first_wait(inner);
    let times = Times::of(&begun, None, patience);
    let deadline = times.deadline.at();
    let (mut sync, mut sync_end): (Vec<usize>, u64) = (Vec::new(), 0);
    for (id, members) in groups {
        let settled_now = |&i: &usize| deliveries[i].settled.swap(true, Ordering::AcqRel);
        let before: Vec<bool> = members.iter().map(settled_now).collect();
        let held: Vec<Held> = members.iter().map(|&i| deliveries[i].held()).collect();
        let flush = settle::ack_flush(&inner.log.ctl, id);
        let is_sync = flush == Flush::Sync;
        let (settled, end) = settle::ack_many(&inner.log, &held, (id, flush), deadline);
        for ((&i, result), before) in members.iter().zip(settled).zip(before) {
            if result.as_ref().is_err_and(|e| !ends_lease(e)) {
                deliveries[i].settled.store(before, Ordering::Release);
            }
            results[i] = result;
            if is_sync {
                sync.push(i);
            }
        }
        if is_sync {
            sync_end = sync_end.max(end);
        }
    }
    let finish = move |durable: Result<()>| {
        if let Err(e) = durable {
            for i in sync {
                if results[i].is_ok() {
                    results[i] = Err(e.clone());
                }
            }
        }
        results
    };
    if sync_end == 0 {
        inner.appended();
        return Within::Done(finish(Ok(())));
    }
    match times.confirm(&mut Attempts::new(inner, times.deadline), inner, sync_end) {
        Ok(false) => Unconfirmed::come_back(inner, (sync_end, times), finish),
        durable => Within::Done(finish(durable.map(drop))),
    }
}
