//! Receives over a backlog: one by one and in batches, every body checked.

use std::time::Instant;

use keepq::Flush;

use super::{Place, Row, fill, per_second, take_in_batches, take_one_by_one};
use crate::args::BenchArgs;
use crate::exit::Failure;

pub(super) fn receive(place: &Place, args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let store = place.store("receive", Flush::Async)?;
    let topic = store.topic("t")?;
    fill(&topic, args.backlog)?;
    store.flush(None)?;
    // Every group gets every message: each measurement has the whole backlog before it. Both are
    // there before the first ack, because what every group has acked is removed.
    let one = store.group("t", "one").open()?;
    let many = store.group("t", "many").open()?;
    let started = Instant::now();
    take_one_by_one(&one, args.backlog)?;
    let one = per_second(args.backlog, started.elapsed());
    let started = Instant::now();
    take_in_batches(&many, args.backlog)?;
    let many = per_second(args.backlog, started.elapsed());
    store.close()?;
    place.clear("receive")?;
    Ok(vec![
        Row::alone("receive + ack one by one", "1/s", one).noted("at least 2 million"),
        Row::alone("receive + ack in batches", "1/s", many).noted("at least 5 million"),
    ])
}
