//! The Rust half of `cargo xtask bench --c`: as `benches/c/door.c`, without the C door.
//!
//! `door STORE send|receive COUNT` prints the nanoseconds for each message.

#![allow(clippy::disallowed_methods, clippy::print_stdout)] // It measures, and says so.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use engine::{Code, Error, Group, Result, Sent, Store, Topic};

const BODY: usize = 200;
const BETWEEN_LOOKS: usize = 64;

fn usage() -> Error {
    Error::new(
        Code::InvalidArgument,
        "usage: door STORE send|receive COUNT",
    )
}

/// Sends all, and is told of each on this thread, as a C program is.
fn send_all(topic: &Topic, count: usize) -> Result<()> {
    let body = [0; BODY];
    let (tell, told): (Sender<Result<Sent>>, Receiver<Result<Sent>>) = channel();
    let is_durable = |one: Result<Sent>| usize::from(one.is_ok_and(|sent| sent.durable));
    let mut durable = 0;
    for n in 0..count {
        let tell = tell.clone();
        topic.send_async(body)?.on_done(move |result| {
            let _ = tell.send(result);
        });
        if n % BETWEEN_LOOKS == 0 {
            durable += told.try_iter().map(is_durable).sum::<usize>();
        }
    }
    while durable < count {
        durable += told.recv().map_or(count, is_durable);
    }
    Ok(())
}

/// Not inlined, so that callgrind can tell what it does.
#[inline(never)]
fn receive_all(group: &Group, count: usize) -> Result<()> {
    let mut bytes = 0;
    for _ in 0..count {
        if let Some(delivery) = group.receive(Duration::MAX)? {
            bytes += delivery.body().len();
            delivery.ack()?;
        }
    }
    assert_eq!(bytes, count * BODY);
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, what, count] = args.as_slice() else {
        return Err(usage());
    };
    let count: usize = count.parse().map_err(|_| usage())?;
    let store = Store::open(path)?;
    let topic = store.topic("t")?;
    let group = store.group("t", "g").open()?;
    let sends = what == "send";
    if !sends {
        send_all(&topic, count)?;
    }
    let begun = Instant::now();
    if sends {
        send_all(&topic, count)?;
    } else {
        receive_all(&group, count)?;
    }
    println!("{:.1}", begun.elapsed().as_secs_f64() * 1e9 / count as f64);
    drop(group);
    store.close()
}
