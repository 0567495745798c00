//! Settlements that come back before they are known to be on disk.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use super::{Times, Unconfirmed, Within};
use crate::attempts::Attempts;
use crate::deadline::Begun;
use crate::delivery::settle::{self, Held};
use crate::error::Result;
use crate::group::Group;
use crate::handed::{Delivery, ack_groups, check_reason, settle_deadline};
use crate::inner::Opened;
use crate::options::Flush;
use crate::receipt::Receipt;
use crate::store::Store;

/// Waits for a settlement that is in the log up to `end`.
fn settled(
    inner: &Arc<Opened>,
    (flush, end): (Flush, u64),
    patience: Duration,
) -> Result<Within<Result<()>>> {
    if flush == Flush::Async {
        inner.appended();
        return Ok(Within::Done(Ok(())));
    }
    let begun = Begun::at_first_wait(inner);
    let times = Times::of(&begun, None, patience);
    if times.confirm(&mut Attempts::new(inner, times.deadline), inner, end)? {
        return Ok(Within::Done(Ok(())));
    }
    Ok(Unconfirmed::come_back(inner, (end, times), |durable| {
        durable
    }))
}

fn ack(
    inner: &Arc<Opened>,
    held: &Held,
    flush: Flush,
    patience: Duration,
) -> Result<Within<Result<()>>> {
    let end = settle::ack(&inner.log, held, flush, || settle_deadline(inner))?;
    settled(inner, (flush, end), patience)
}

fn reject(
    inner: &Arc<Opened>,
    held: &Held,
    reason: &str,
    patience: Duration,
) -> Result<Within<Result<()>>> {
    let end = settle::reject(&inner.log, held, reason, settle_deadline(inner))?;
    settled(
        inner,
        (settle::ack_flush(&inner.log.ctl, held.group), end),
        patience,
    )
}

fn ack_many<D: Borrow<Delivery>>(
    inner: &Arc<Opened>,
    deliveries: impl IntoIterator<Item = D>,
    group: impl Fn(&Delivery) -> u32,
    patience: Duration,
) -> Within<Vec<Result<()>>> {
    let deliveries: Vec<D> = deliveries.into_iter().collect();
    let borrowed: Vec<&Delivery> = deliveries.iter().map(Borrow::borrow).collect();
    ack_groups(inner, &borrowed, group, patience)
}

impl Delivery {
    /// Says that it was processed, as [`Delivery::ack_with`] does (`None`: as [`Delivery::ack`]),
    /// but comes back after about `patience` with what is still to be confirmed; see
    /// [`Topic::send_within`](crate::Topic::send_within). It is acked for everybody then; what is
    /// waited for is that the ack survives a power cut.
    pub fn ack_within(&self, flush: Option<Flush>, patience: Duration) -> Within<Result<()>> {
        let acked = self.settle(|inner, held| {
            let flush = flush.unwrap_or_else(|| settle::ack_flush(&inner.log.ctl, held.group));
            ack(inner, held, flush, patience)
        });
        acked.unwrap_or_else(|e| Within::Done(Err(e)))
    }

    /// Gives it up as [`Delivery::reject`] does, but comes back as [`Delivery::ack_within`] does.
    pub fn reject_within(&self, reason: &str, patience: Duration) -> Within<Result<()>> {
        let rejected = check_reason(reason)
            .and_then(|()| self.settle(|inner, held| reject(inner, held, reason, patience)));
        rejected.unwrap_or_else(|e| Within::Done(Err(e)))
    }
}

impl Store {
    /// Acks by receipt as [`Store::ack`] does, but comes back as [`Delivery::ack_within`] does.
    pub fn ack_within(&self, receipt: &Receipt, patience: Duration) -> Within<Result<()>> {
        self.settle_within(receipt, |held| {
            let flush = settle::ack_flush(&self.inner.log.ctl, held.group);
            ack(&self.inner, held, flush, patience)
        })
    }

    /// Gives a message up by receipt as [`Store::reject`] does, but comes back as
    /// [`Delivery::ack_within`] does.
    pub fn reject_within(
        &self,
        receipt: &Receipt,
        reason: &str,
        patience: Duration,
    ) -> Within<Result<()>> {
        self.settle_within(receipt, |held| {
            check_reason(reason)?;
            reject(&self.inner, held, reason, patience)
        })
    }

    fn settle_within(
        &self,
        receipt: &Receipt,
        settle: impl FnOnce(&Held) -> Result<Within<Result<()>>>,
    ) -> Within<Result<()>> {
        let settled = self.inner.enter().and_then(|_call| {
            let held = self.held(receipt)?;
            settle(&held)
        });
        settled.unwrap_or_else(|e| Within::Done(Err(e)))
    }

    /// Acks many deliveries as [`Store::ack_many`] does, but comes back as
    /// [`Delivery::ack_within`] does.
    pub fn ack_many_within<D: Borrow<Delivery>>(
        &self,
        deliveries: impl IntoIterator<Item = D>,
        patience: Duration,
    ) -> Within<Vec<Result<()>>> {
        ack_many(&self.inner, deliveries, Delivery::group_id, patience)
    }
}

impl Group {
    /// Acks many deliveries as [`Group::ack_many`] does, but comes back as
    /// [`Delivery::ack_within`] does.
    pub fn ack_many_within<D: Borrow<Delivery>>(
        &self,
        deliveries: impl IntoIterator<Item = D>,
        patience: Duration,
    ) -> Within<Vec<Result<()>>> {
        let (inner, group) = self.place();
        ack_many(inner, deliveries, |_| group, patience)
    }
}
