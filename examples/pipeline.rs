//! Many sends at once and one flush for all of them:
//! `cargo run --release --example pipeline -- fast.kq`.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keepq::Store;

fn main() -> keepq::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "fast.kq".into());
    let store = Store::open(&path)?;
    let events = store.topic("events")?;
    let confirmed = Arc::new(AtomicU64::new(0));
    for number in 0..10_000_u64 {
        let counter = Arc::clone(&confirmed);
        // It returns when the message is in shared memory; the callback comes when it is on disk.
        let pending = events.message(&number.to_le_bytes()).send_async()?;
        pending.on_done(move |result| {
            if result.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Every callback has returned when `close` returns.
    store.close()?;
    println!("{} messages are on disk", confirmed.load(Ordering::Relaxed));
    Ok(())
}
