//! Receipts used twice, too late, elsewhere, or made up; waits that are interrupted.

use std::sync::mpsc::channel;
use std::time::Duration;

use keepq::{Code, Receipt, Store};

use crate::children::{PATIENCE, Place};
use crate::filled;

const NOW: Duration = Duration::ZERO;

/// Every way to settle by this receipt is refused so.
fn refused(store: &Store, receipt: &Receipt, code: Code) {
    let results = [
        store.ack(receipt),
        store.nack(receipt, Some(NOW)),
        store.reject(receipt, "no"),
        store.extend(receipt, Duration::from_secs(60)),
    ];
    for result in results {
        let e = result.unwrap_err();
        assert_eq!(e.code(), code, "{receipt}: {e}");
    }
}

#[test]
fn a_receipt_fits_once() {
    let place = Place::new("receipt-twice");
    filled(&place.store(), 6);
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").max_attempts(16).open().unwrap();
    let take = || group.receive(NOW).unwrap().unwrap();
    let (a, n, r) = (take(), take(), take());
    type End<'a> = (Receipt, &'a dyn Fn(&Receipt));
    let ends: [End<'_>; 3] = [
        (a.receipt(), &|receipt| store.ack(receipt).unwrap()),
        (n.receipt(), &|receipt| {
            store.nack(receipt, Some(NOW)).unwrap()
        }),
        (r.receipt(), &|receipt| store.reject(receipt, "no").unwrap()),
    ];
    for (receipt, end) in &ends {
        end(receipt);
        refused(&store, receipt, Code::LeaseLost);
    }
    for delivery in [&a, &n, &r] {
        assert_eq!(delivery.ack().unwrap_err().code(), Code::LeaseLost);
    }
    // What was nacked comes again under another receipt, which the old one does not fit.
    let again = take();
    assert_eq!((again.seq(), again.attempt()), (n.seq(), 2));
    assert_ne!(again.receipt(), n.receipt());
    refused(&store, &n.receipt(), Code::LeaseLost);
    again.ack().unwrap();
    let left: Vec<u64> = std::iter::from_fn(|| {
        let delivery = group.receive(NOW).unwrap()?;
        delivery.ack().unwrap();
        Some(delivery.seq())
    })
    .collect();
    assert_eq!(left, [3, 4, 5]);
    assert_eq!(group.stats().unwrap().dead, 1);
}

#[test]
fn a_receipt_that_comes_too_late_changes_nothing() {
    let place = Place::new("receipt-late");
    filled(&place.store(), 1);
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "short").lease(Duration::from_millis(50));
    let backoff = keepq::Backoff {
        first: NOW,
        ..keepq::Backoff::default()
    };
    let group = group.backoff(backoff).open().unwrap();
    let first = group.receive(NOW).unwrap().unwrap();
    // The second one lasts, however slow the machine is.
    group.configure().lease(10 * PATIENCE).apply().unwrap();
    let second = group.receive(PATIENCE).unwrap().unwrap();
    assert_eq!((second.seq(), second.attempt()), (first.seq(), 2));
    refused(&store, &first.receipt(), Code::LeaseLost);
    second.extend(PATIENCE).unwrap();
    assert_eq!(group.stats().unwrap().in_flight, 1);
    second.ack().unwrap();
    refused(&store, &first.receipt(), Code::LeaseLost);
}

#[test]
fn a_made_up_receipt_fits_nothing() {
    let place = Place::new("receipt-made-up");
    filled(&place.store(), 3);
    filled(&place.file("other"), 1);
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    let held = group.receive(NOW).unwrap().unwrap();
    let good = held.receipt().to_string();
    for text in [
        "",
        "kq1",
        "receipt",
        "kq1-1-2-3-4-5-6-7",
        &good[..good.len() - 2],
    ] {
        if let Ok(receipt) = text.parse::<Receipt>() {
            refused(&store, &receipt, Code::LeaseLost);
        }
    }
    let parts: Vec<&str> = good.split('-').collect();
    let changed = |at: usize, value: &str| {
        let mut parts = parts.clone();
        parts[at] = value;
        parts.join("-").parse::<Receipt>().unwrap()
    };
    refused(&store, &changed(1, "1234"), Code::BadReceipt);
    refused(&store, &changed(2, "1234"), Code::LeaseLost);
    refused(&store, &changed(3, "ffffffff"), Code::BadReceipt);
    refused(&store, &changed(4, "ffffffff"), Code::LeaseLost);
    refused(&store, &changed(4, "2"), Code::LeaseLost);
    refused(&store, &changed(5, "ffffffff"), Code::LeaseLost);
    refused(&store, &changed(6, "ffffffffffffffff"), Code::LeaseLost);
    let other = Store::open(place.file("other")).unwrap();
    refused(&other, &held.receipt(), Code::BadReceipt);
    // After all that the true one still fits.
    store.ack(&good.parse().unwrap()).unwrap();
}

#[test]
fn a_receipt_from_before_a_rebuild_fits_nothing() {
    let place = Place::new("receipt-rebuilt");
    filled(&place.store(), 3);
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    let old = group.receive_detached(1, NOW).unwrap().remove(0).receipt();
    store.close().unwrap();
    std::fs::remove_file(place.store().join("ctl")).unwrap();
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    let again = group.receive(NOW).unwrap().unwrap();
    assert_eq!(again.seq(), 0);
    refused(&store, &old, Code::LeaseLost);
    again.ack().unwrap();
}

#[test]
fn a_waiting_receive_is_interrupted_and_the_next_one_waits_again() {
    let place = Place::new("interrupt");
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    let (done, ended) = channel();
    let waiter = group.clone();
    let thread = std::thread::spawn(move || {
        done.send(waiter.receive(Duration::MAX)).unwrap();
        done.send(waiter.receive(PATIENCE)).unwrap();
    });
    // It may not have begun to wait when the first interrupt comes.
    let interrupted = loop {
        store.interrupt();
        if let Ok(result) = ended.recv_timeout(Duration::from_millis(5)) {
            break result;
        }
    };
    assert_eq!(interrupted.unwrap_err().code(), Code::Interrupted);
    store.topic("t").unwrap().send(b"x").unwrap();
    let got = match ended.recv_timeout(PATIENCE).unwrap() {
        Ok(got) => got,
        // The last interrupt of the loop above may have met the second wait.
        Err(e) => {
            assert_eq!(e.code(), Code::Interrupted);
            group.receive(PATIENCE).unwrap()
        }
    };
    got.unwrap().ack().unwrap();
    thread.join().unwrap();
}

#[test]
fn closing_ends_a_wait() {
    let place = Place::new("close-wait");
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    let waiter = group.clone();
    let thread = std::thread::spawn(move || waiter.receive(Duration::MAX));
    store.close().unwrap();
    assert_eq!(thread.join().unwrap().unwrap_err().code(), Code::Closed);
    assert_eq!(group.receive(NOW).unwrap_err().code(), Code::Closed);
}
