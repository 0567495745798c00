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
use crate::inner::{Inner, Opened};
use crate::options::Flush;
use crate::receipt::Receipt;
use crate::store::Store;

/// How durable the acks of a group are.
fn flush_of(inner: &Inner, held: &Held) -> Flush {
    if settle::acks_are_sync(&inner.log.ctl, held.group) {
        Flush::Sync
    } else {
        Flush::Async
    }
}

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
    settled(inner, (flush_of(inner, held), end), patience)
}

impl Delivery {
    /// Says that it was processed, as [`Delivery::ack_with`] does (`None`: as [`Delivery::ack`]),
    /// but comes back after about `patience` with what is still to be confirmed; see
    /// [`Topic::send_within`](crate::Topic::send_within). It is acked for everybody then; what is
    /// waited for is that the ack survives a power cut.
    pub fn ack_within(&self, flush: Option<Flush>, patience: Duration) -> Within<Result<()>> {
        let acked = self.settle(|inner, held| {
            let flush = flush.unwrap_or_else(|| flush_of(inner, held));
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
            let flush = flush_of(&self.inner, held);
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
        let deliveries: Vec<D> = deliveries.into_iter().collect();
        let borrowed: Vec<&Delivery> = deliveries.iter().map(Borrow::borrow).collect();
        ack_groups(&self.inner, &borrowed, Delivery::group_id, patience)
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
        let deliveries: Vec<D> = deliveries.into_iter().collect();
        let borrowed: Vec<&Delivery> = deliveries.iter().map(Borrow::borrow).collect();
        crate::handed::ack_many(self.shared(), &borrowed, patience)
    }
}
