//! What this program does as a child of itself. Arguments: the role, the peer, the directory, and
//! what the role needs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bodies::Bodies;
use crate::children::{listen, say};
use crate::peer::{Mode, Queue, named};
use crate::rounds::{rate, rate_of_threads};
use crate::shared_words::SharedWords;
use crate::targets::t6::{PING, PONG};
use crate::{Res, cannot, memory};

/// Messages of one batch call.
pub(crate) const BATCH: u64 = 256;

pub(crate) fn play(args: &[String]) -> Res<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["senders", peer, dir, threads, size] => {
            senders(peer, dir, number(threads)?, number(size)?)
        }
        ["echo", peer, dir] => echo(peer, Path::new(dir)),
        ["words", path] => words(Path::new(path)),
        ["fill", peer, dir, count, size] => fill_and_stay(peer, dir, number(count)?, number(size)?),
        ["first", peer, dir] => first(peer, dir),
        ["growth", peer, deep, shallow, depth, sample] => growth(
            [
                open(peer, deep, Mode::Async)?,
                open(peer, shallow, Mode::Async)?,
            ],
            number(depth)?,
            number(sample)?,
        ),
        ["written", peer, dir, count, size] => written(peer, dir, number(count)?, number(size)?),
        ["syncs", peer, dir, mode, count] => syncs(peer, dir, Mode::parse(mode)?, number(count)?),
        ["work", kind, dir, count] => work(kind, dir, number(count)?),
        _ => Err(format!("no such role: {args:?}")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Res<T> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn open(peer: &str, dir: &str, mode: Mode) -> Res<Box<dyn Queue>> {
    named(peer)?.open(Path::new(dir), mode)
}

/// Sends so many messages in batches.
pub(crate) fn fill(queue: &dyn Queue, bodies: &Bodies, from: u64, count: u64) -> Res<()> {
    let end = from + count;
    let mut at = from;
    while at < end {
        let now = BATCH.min(end - at);
        let batch: Vec<&[u8]> = (at..at + now).map(|n| bodies.get(n)).collect();
        queue.send_batch(&batch)?;
        at += now;
    }
    Ok(())
}

/// Synchronous senders; each line is a number of milliseconds to send for, answered by a rate.
fn senders(peer: &str, dir: &str, threads: usize, size: usize) -> Res<()> {
    let queue = open(peer, dir, Mode::Sync)?;
    let bodies = Bodies::new(size);
    say("ready")?;
    while let Some(line) = listen()? {
        let slot = Duration::from_millis(number(&line)?);
        let rate = rate_of_threads(slot, threads, |lane, n| queue.send(lane, bodies.get(n)))?;
        say(rate)?;
    }
    Ok(())
}

/// Answers every message of `ping` by one of `pong`.
fn echo(peer: &str, dir: &Path) -> Res<()> {
    let peer = named(peer)?;
    let ping = peer.open(&dir.join("ping"), Mode::Async)?;
    let pong = peer.open(&dir.join("pong"), Mode::Async)?;
    say("ready")?;
    loop {
        ping.wait(&mut || pong.send(0, b"pong"))?;
    }
}

/// Answers every turn of a shared word.
fn words(path: &Path) -> Res<()> {
    let words = SharedWords::open(path).map_err(cannot("map"))?;
    say("ready")?;
    let mut turn = 0;
    loop {
        turn += 1;
        // Between the parent's turns this may take long; it kills us in the end.
        while words.wait_for(PING, turn).is_err() {}
        words.post(PONG, turn).map_err(cannot("wake"))?;
    }
}

/// Fills a queue and stays until it is killed.
fn fill_and_stay(peer: &str, dir: &str, count: u64, size: usize) -> Res<()> {
    let queue = open(peer, dir, Mode::Async)?;
    fill(&*queue, &Bodies::new(size), 0, count)?;
    say("ready")?;
    listen().map(drop)
}

/// Opens a queue and takes a message; says how long both took in milliseconds, and stays.
fn first(peer: &str, dir: &str) -> Res<()> {
    let started = Instant::now();
    let queue = open(peer, dir, Mode::Async)?;
    let taken = queue.take(&mut |_| Ok(()))?;
    let took = started.elapsed();
    if !taken {
        return Err("there was no message".into());
    }
    say(took.as_secs_f64() * 1e3)?;
    listen().map(drop)
}

/// Memory with `depth` messages waiting, then rates at that depth and at `sample`, in turn, for as
/// long as the parent asks.
fn growth([deep, shallow]: [Box<dyn Queue>; 2], depth: u64, sample: u64) -> Res<()> {
    let bodies = Bodies::new(128);
    fill(&*deep, &bodies, 0, depth)?;
    fill(&*shallow, &bodies, 0, sample)?;
    say(memory::mebibytes()?)?;
    while let Some(_again) = listen()? {
        let mut line = Vec::new();
        for queue in [&deep, &shallow] {
            line.extend(rates(&**queue, &bodies, sample)?);
        }
        let line: Vec<String> = line.iter().map(f64::to_string).collect();
        say(line.join(" "))?;
    }
    Ok(())
}

/// Sends one by one, takes one by one, takes in batches; the depth is the same afterwards.
fn rates(queue: &dyn Queue, bodies: &Bodies, sample: u64) -> Res<[f64; 3]> {
    let per_second = |started: Instant| sample as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    for n in 0..sample {
        queue.send(0, bodies.get(n))?;
    }
    let sent = per_second(started);
    let started = Instant::now();
    take_all(queue, sample)?;
    let one = per_second(started);
    fill(queue, bodies, 0, sample)?;
    let started = Instant::now();
    take_all_in_batches(queue, sample)?;
    Ok([sent, one, per_second(started)])
}

fn take_all(queue: &dyn Queue, count: u64) -> Res<()> {
    for _ in 0..count {
        if !queue.take(&mut |_| Ok(()))? {
            return Err("a message that was sent did not come".into());
        }
    }
    Ok(())
}

fn take_all_in_batches(queue: &dyn Queue, count: u64) -> Res<()> {
    let mut left = count;
    while left > 0 {
        let most = usize::try_from(left.min(BATCH)).map_err(cannot("count"))?;
        match queue.take_batch(most, &mut |_| Ok(()))? {
            0 => return Err("a message that was sent did not come".into()),
            // A peer that counts bytes may give more than was asked for.
            got => left = left.saturating_sub(got as u64),
        }
    }
    Ok(())
}

/// Bytes written to storage by sends, by acks one by one and by acks in batches, a line each.
fn written(peer: &str, dir: &str, count: u64, size: usize) -> Res<()> {
    let bodies = Bodies::new(size);
    let store = Path::new(dir);
    let mut queue = named(peer)?.open(store, Mode::Async)?;
    let mut before = memory::written()?;
    for step in 0..3 {
        match step {
            0 => (0..2 * count).try_for_each(|n| queue.send(0, bodies.get(n)))?,
            1 => take_all(&*queue, count)?,
            _ => take_all_in_batches(&*queue, count)?,
        }
        // Closing flushes what is still to be written.
        drop(queue);
        let now = memory::written()?;
        say(now - before)?;
        queue = named(peer)?.open(store, Mode::Async)?;
        before = memory::written()?;
    }
    Ok(())
}

/// Sends for `strace` to watch.
fn syncs(peer: &str, dir: &str, mode: Mode, count: u64) -> Res<()> {
    let queue = open(peer, dir, mode)?;
    let bodies = Bodies::new(128);
    // The marker tells what opening did from what sending did.
    crate::syncs::mark()?;
    (0..count).try_for_each(|n| queue.send(0, bodies.get(n)))?;
    crate::syncs::mark()
}

/// keepq's operations for `callgrind` to count.
fn work(kind: &str, dir: &str, count: u64) -> Res<()> {
    let queue = open("keepq", dir, Mode::Async)?;
    let bodies = Bodies::new(128);
    match kind {
        "send" => (0..count).try_for_each(|n| queue.send(0, bodies.get(n))),
        "batch" => fill(&*queue, &bodies, 0, count),
        "take" => fill(&*queue, &bodies, 0, count).and_then(|()| take_all(&*queue, count)),
        "take-batch" => {
            fill(&*queue, &bodies, 0, count)?;
            take_all_in_batches(&*queue, count)
        }
        _ => Err(format!("no such work: {kind}")),
    }
}

/// A backlog that is taken from, turn by turn.
pub(crate) struct Backlog<'a> {
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) bodies: &'a Bodies,
    pub(crate) depth: u64,
    /// The number of the next message.
    pub(crate) next: u64,
}

impl Backlog<'_> {
    /// Rate of takes until `most` are done or the slot is over; every body is checked.
    pub(crate) fn take(&mut self, slot: Duration, most: u64, batch: bool) -> Res<f64> {
        let first = self.next;
        let end = self.depth.min(first + most);
        let started = Instant::now();
        while self.next < end && started.elapsed() < slot {
            // A few between two looks at the clock.
            for _ in 0..16 {
                if self.next < end {
                    self.take_once(if batch { BATCH.min(end - self.next) } else { 1 })?;
                }
            }
        }
        Ok((self.next - first) as f64 / started.elapsed().as_secs_f64())
    }

    fn take_once(&mut self, most: u64) -> Res<()> {
        let next = &mut self.next;
        let bodies = self.bodies;
        let mut check = |body: &[u8]| {
            bodies.check(*next, body)?;
            *next += 1;
            Ok(())
        };
        let got = match usize::try_from(most) {
            Ok(most) if most > 1 => self.queue.take_batch(most, &mut check)?,
            _ => usize::from(self.queue.take(&mut check)?),
        };
        if got == 0 {
            return Err("a message that was sent did not come".into());
        }
        Ok(())
    }
}

/// Rate of sends on one lane during a slot, one by one or in batches.
pub(crate) fn send_rate(
    queue: &dyn Queue,
    bodies: &Bodies,
    slot: Duration,
    batch: u64,
) -> Res<f64> {
    if batch > 1 {
        return rate(slot, batch, |n| fill(queue, bodies, n, batch));
    }
    rate(slot, 16, |n| {
        (n..n + 16).try_for_each(|n| queue.send(0, bodies.get(n)))
    })
}
