//! Sends a message and consumes it: `cargo run --example hello -- shop.kq`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

fn main() -> keepq::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "hello.kq".into());
    let store = keepq::Store::open(&path)?;

    // On disk when `send` returns.
    let orders = store.topic("orders")?;
    let sent = orders.message(br#"{"id": 1}"#).key("user-42").send()?;
    println!("sent {}", sent.id);

    // Every group gets every message; the members of a group share them.
    let billing = store.group("orders", "billing").open()?;
    while let Some(delivery) = billing.receive(Duration::ZERO)? {
        let body = String::from_utf8_lossy(delivery.body());
        println!("received {body}, attempt {}", delivery.attempt());
        // Only now is it done. Without this it would be delivered again.
        delivery.ack()?;
    }
    store.close()
}
