//! `keepq ack`, `nack`, `reject`, `extend`: settling a delivery by its receipt, from anywhere.

use std::path::Path;

use keepq::{Receipt, Store};

use crate::args::{AckArgs, ExtendArgs, NackArgs, RejectArgs};
use crate::exit::{Failure, OK};

fn settle(
    path: &Path,
    receipt: &str,
    how: impl FnOnce(&Store, &Receipt) -> keepq::Result<()>,
) -> Result<i32, Failure> {
    // A text that is no receipt is a mistake in the command, whatever the store holds.
    let receipt: Receipt = receipt.parse()?;
    let store = Store::options().create(false).open(path)?;
    how(&store, &receipt)?;
    store.close()?;
    Ok(OK)
}

pub(crate) fn ack(path: &Path, args: &AckArgs) -> Result<i32, Failure> {
    settle(path, &args.receipt, Store::ack)
}

pub(crate) fn nack(path: &Path, args: &NackArgs) -> Result<i32, Failure> {
    settle(path, &args.receipt, |store, receipt| {
        store.nack(receipt, args.delay)
    })
}

pub(crate) fn reject(path: &Path, args: &RejectArgs) -> Result<i32, Failure> {
    settle(path, &args.receipt, |store, receipt| {
        store.reject(receipt, &args.reason)
    })
}

pub(crate) fn extend(path: &Path, args: &ExtendArgs) -> Result<i32, Failure> {
    settle(path, &args.receipt, |store, receipt| {
        store.extend(receipt, args.lease)
    })
}
