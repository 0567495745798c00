//! Sends the lines of a file so that each is stored once, however often this is killed and started
//! again: `cargo run --example resume -- lines.kq Cargo.toml`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::io::BufRead;

use keepq::{OutMessage, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "lines.kq".into());
    let file = args.next().unwrap_or_else(|| "Cargo.toml".into());
    let store = Store::open(&path)?;
    let lines = store.topic("lines")?;

    // The number of a line is its number as the producer's message: what was sent before is
    // answered as a duplicate and stored no second time.
    let loader = store.producer("loader")?;
    let sent_before = loader.next_seq()?;
    let mut new = 0;
    for (number, line) in std::io::BufReader::new(std::fs::File::open(file)?)
        .split(b'\n')
        .enumerate()
        .skip(usize::try_from(sent_before)?)
    {
        let body = line?;
        let message = OutMessage {
            body: &body,
            ..OutMessage::default()
        };
        let sent = loader.send(&lines, Some(number as u64), &message)?;
        new += u64::from(!sent.duplicate);
    }
    println!("{sent_before} lines were there, {new} are new");
    store.close()?;
    Ok(())
}
