//! A worker that retries what fails and gives up in the end:
//! `cargo run --example worker -- work.kq`.
//!
//! Start as many as you like, in any number of processes; kill any of them at any time.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use keepq::{Backoff, Delivery, Store};

/// The work: even numbers succeed, odd ones fail, words are refused.
fn work(delivery: &Delivery) -> Result<(), String> {
    let text = String::from_utf8_lossy(delivery.body());
    match text.parse::<u64>() {
        Ok(number) if number % 2 == 0 => Ok(()),
        Ok(number) => Err(format!("{number} is odd")),
        Err(_) => Err(format!("{text} is no number")),
    }
}

fn main() -> keepq::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "work.kq".into());
    let store = Store::open(&path)?;
    let numbers = store.topic("numbers")?;
    for body in ["2", "3", "4", "five"] {
        numbers.send(body)?;
    }

    // A message is delivered three times, 10 and 20 ms apart; then it is a dead letter.
    let backoff = Backoff {
        first: Duration::from_millis(10),
        factor: 2.0,
        max: Duration::from_secs(1),
        jitter: 0.0,
        ..Backoff::default()
    };
    let group = store.group("numbers", "checkers");
    let group = group.max_attempts(3).backoff(backoff).open()?;
    while let Some(delivery) = group.receive(Duration::from_millis(500))? {
        match work(&delivery) {
            Ok(()) => delivery.ack()?,
            Err(why) if why.ends_with("no number") => delivery.reject(&why)?,
            // After the group's back-off.
            Err(_) => delivery.nack(None)?,
        }
    }
    let stats = group.stats()?;
    println!("{} dead letters", stats.dead);
    store.close()
}
