//! The hop: from a send in one process to the return of a receive that was blocked in another,
//! beside a bare futex wake-up between the same two processes. One way is half a round trip.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keepq::{Flush, Group, Store};

use super::shared_word::SharedWords;
use super::{Place, Row, cannot, median, path_of};
use crate::args::BenchArgs;
use crate::demo::this_program;
use crate::exit::{Failure, OK};

const ROUNDS: u64 = 1_000;
/// Between rounds, so that the other side has gone to sleep.
const REST: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(10);

const PING: usize = 0;
const PONG: usize = 1;

pub(super) fn hop(place: &Place, args: &BenchArgs) -> Result<Vec<Row>, Failure> {
    let store = place.store("hop", Flush::Async)?;
    let rounds = ROUNDS * u64::from(args.pairs);
    store.topic("ping")?;
    let back = store.group("pong", "parent").open()?;
    let words = SharedWords::open(&place.dir.join("words")).map_err(|e| cannot("map", &e))?;
    let mut children = [
        start("hop", &path_of(place, "hop"), rounds)?,
        start("ping", &place.dir.join("words"), rounds)?,
    ];
    let result = measure(&store, &back, &words, args.pairs);
    for child in &mut children {
        if result.is_err() {
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|e| cannot("wait for the other process", &e))?;
        if result.is_ok() && !status.success() {
            return Err(Failure::failed(format!(
                "the other process failed: {status}"
            )));
        }
    }
    let pairs = result?;
    store.close()?;
    place.clear("hop")?;
    let row = Row::pairs("hop between two processes, p50", "us", &pairs);
    Ok(vec![row.noted("raw = bare futex; at most 1.3")])
}

fn start(role: &str, place: &Path, rounds: u64) -> Result<Child, Failure> {
    let mut command = this_program()?;
    command
        .args(["bench-role", role])
        .arg(place)
        .arg(rounds.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .spawn()
        .map_err(|e| cannot("start the other process", &e))
}

fn measure(
    store: &Store,
    back: &Group,
    words: &SharedWords,
    pairs: u32,
) -> Result<Vec<(f64, f64)>, Failure> {
    let ping = store.topic("ping")?;
    let mut turn = 0;
    let mut results = Vec::new();
    for _ in 0..pairs {
        let keepq = half_round_trips(|| {
            ping.send(b"ping")?;
            back.receive(PATIENCE)?.ok_or_else(silent)
        })?;
        let raw = half_round_trips(|| {
            turn += 1;
            words.post(PING, turn).map_err(|e| cannot("wake", &e))?;
            words.wait_for(PONG, turn).map_err(|e| cannot("wait", &e))
        })?;
        results.push((keepq, raw));
    }
    Ok(results)
}

/// Median of half a round trip, in microseconds. What a trip returns is dropped or settled after
/// the clock was read.
fn half_round_trips<T: Settle>(
    mut trip: impl FnMut() -> Result<T, Failure>,
) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(usize::try_from(ROUNDS).unwrap_or(0));
    for _ in 0..ROUNDS {
        std::thread::sleep(REST);
        let started = Instant::now();
        let result = trip()?;
        times.push(started.elapsed().as_secs_f64() * 1e6 / 2.0);
        result.settle()?;
    }
    Ok(median(times.into_iter()))
}

/// What is left to do after a trip.
trait Settle {
    fn settle(self) -> Result<(), Failure>;
}

impl Settle for () {
    fn settle(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Settle for keepq::Delivery {
    fn settle(self) -> Result<(), Failure> {
        Ok(self.ack()?)
    }
}

fn silent() -> Failure {
    Failure::failed("the other process does not answer")
}

/// The other side of the bare futex.
pub(super) fn answer_words(path: &Path, rounds: u64) -> Result<i32, Failure> {
    let words = SharedWords::open(path).map_err(|e| cannot("map", &e))?;
    for turn in 1..=u32::try_from(rounds).unwrap_or(u32::MAX) {
        // The parent measures keepq between its turns: this may take a while.
        while words.wait_for(PING, turn).is_err() {
            if std::os::unix::process::parent_id() <= 1 {
                return Err(silent());
            }
        }
        words.post(PONG, turn).map_err(|e| cannot("wake", &e))?;
    }
    Ok(OK)
}

/// The other side of keepq.
pub(super) fn answer_messages(path: &Path, rounds: u64) -> Result<i32, Failure> {
    let store = Store::options()
        .create(false)
        .flush(Flush::Async)
        .open(path)?;
    let pong = store.topic("pong")?;
    let group = store.group("ping", "child").open()?;
    for _ in 0..rounds {
        let message = loop {
            match group.receive(PATIENCE)? {
                Some(message) => break message,
                None if std::os::unix::process::parent_id() <= 1 => return Err(silent()),
                None => {}
            }
        };
        pong.send(b"pong")?;
        message.ack()?;
    }
    store.close()?;
    Ok(OK)
}
