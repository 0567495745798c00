//! What the processes of the demonstration do.
//!
//! Each lives until its parent closes its standard input: so none outlives a parent that died.

use std::io::Read as _;
use std::time::Duration;

use keepq::{Backoff, Code, Delivery, Flush, Group, Store};

use super::ledger::{self, Ledger, Line};
use super::{GROUP, TOPIC};
use crate::args::{DemoRoleArgs, FlushArg};
use crate::exit::{Failure, OK};
use crate::stop::Stop;

/// An asynchronous sender would outrun consumers that keep a ledger: it rests after this many.
const BURST: u64 = 8;
const REST: Duration = Duration::from_millis(1);
/// Longer than a disk may take: a send that gives up ends its process, and the demonstration.
const PATIENCE: Duration = Duration::from_secs(60);
/// One message of so many is given back once instead of acknowledged.
const NACK_EVERY: u64 = 17;

/// A flag that is set when standard input ends.
fn until_parent_closes() -> Stop {
    let stop = Stop::default();
    let flag = stop.clone();
    std::thread::spawn(move || {
        // Data or the end: both say that it is over.
        let _ = std::io::stdin().lock().read(&mut [0]);
        flag.ask();
    });
    stop
}

fn open_ledger(args: &DemoRoleArgs) -> Result<Ledger, Failure> {
    Ledger::open(&args.ledger).map_err(|e| cannot_write(&e))
}

fn cannot_write(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write the ledger: {error}"))
}

/// Runs the work of a role; what ends it goes into the ledger too.
fn run(
    args: &DemoRoleArgs,
    work: impl FnOnce(&mut Ledger, &Store) -> Result<(), Failure>,
) -> Result<i32, Failure> {
    let mut ledger = open_ledger(args)?;
    ledger
        .write(&[Line::Opening(ledger::now())])
        .map_err(|e| cannot_write(&e))?;
    let result = Store::options()
        .flush(args.flush.into())
        .send_timeout(PATIENCE)
        .create(false)
        .open(args.dir.join("store"))
        .map_err(Failure::from)
        .and_then(|store| {
            work(&mut ledger, &store)?;
            store.close().map_err(Failure::from)
        });
    match result {
        Ok(()) => Ok(OK),
        Err(failure) => {
            ledger
                .write(&[Line::Error(failure.message.clone())])
                .map_err(|e| cannot_write(&e))?;
            Err(failure)
        }
    }
}

/// The body of message `n`: its number, and bytes that follow from it, of varying length.
pub(super) fn body_of(n: u64) -> String {
    let length = usize::try_from(n % 200).unwrap_or(0);
    format!(
        "{n} {}",
        "abcdefghij".repeat(20).get(..length).unwrap_or_default()
    )
}

/// The number in a body, if the body is exactly what was sent under this number.
fn number_in(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let n = text.split_once(' ')?.0.parse().ok()?;
    (body_of(n) == text).then_some(n)
}

pub(super) fn sender(args: &DemoRoleArgs) -> Result<i32, Failure> {
    let stop = until_parent_closes();
    run(args, |ledger, store| {
        let topic = store.topic(TOPIC)?;
        let mut write = |line| ledger.write(&[line]).map_err(|e| cannot_write(&e));
        let mut n = args.first;
        while !stop.asked() {
            write(Line::Sending(n, ledger::now()))?;
            let sent = topic.send(body_of(n))?;
            write(Line::Confirmed(n, ledger::now(), sent.id.to_string()))?;
            n += 1;
            if args.flush == FlushArg::Async && n.is_multiple_of(BURST) {
                std::thread::sleep(REST);
            }
        }
        Ok(())
    })
}

fn open_group(store: &Store) -> Result<Group, Failure> {
    // Many of its consumers die: neither the attempts nor the back-off may end the demonstration.
    let backoff = Backoff {
        first: Duration::from_millis(10),
        max: Duration::from_millis(100),
        ..Backoff::default()
    };
    Ok(store
        .group(TOPIC, GROUP)
        .max_attempts(1000)
        .backoff(backoff)
        .open()?)
}

pub(super) fn make_group(store: &Store) -> Result<(), Failure> {
    open_group(store).map(drop)
}

pub(super) fn consumer(args: &DemoRoleArgs) -> Result<i32, Failure> {
    let stop = until_parent_closes();
    run(args, |ledger, store| {
        let group = open_group(store)?;
        let mut round = 0;
        while !stop.asked() {
            round += 1;
            // One by one and in batches, as consumers do.
            let most = if round % 4 == 0 { 16 } else { 1 };
            round_of(ledger, &group, most, Duration::from_millis(100))?;
        }
        Ok(())
    })
}

/// Receives until nothing is left, in any state.
pub(super) fn drain(args: &DemoRoleArgs) -> Result<i32, Failure> {
    run(args, |ledger, store| {
        let group = open_group(store)?;
        loop {
            let received = round_of(ledger, &group, 64, Duration::from_millis(100))?;
            let stats = group.stats()?;
            if received == 0 && stats.ready == 0 && stats.in_flight == 0 && stats.delayed == 0 {
                return Ok(());
            }
        }
    })
}

/// One receive and what follows from it; the number of messages received.
fn round_of(
    ledger: &mut Ledger,
    group: &Group,
    most: usize,
    timeout: Duration,
) -> Result<usize, Failure> {
    let mut write = |lines: &[Line]| ledger.write(lines).map_err(|e| cannot_write(&e));
    write(&[Line::Receiving(ledger::now())])?;
    let messages = group.receive_batch(most, timeout)?;
    let mut numbers = Vec::with_capacity(messages.len());
    for message in &messages {
        let n = number_in(message.body()).ok_or_else(|| {
            Failure::failed(format!(
                "message {} was delivered with a wrong body",
                message.id()
            ))
        })?;
        numbers.push(n);
    }
    let now = ledger::now();
    let lines: Vec<_> = numbers.iter().map(|&n| Line::Delivered(n, now)).collect();
    write(&lines)?;
    let count = messages.len();
    let (back, done): (Vec<_>, Vec<_>) = messages
        .into_iter()
        .zip(numbers)
        .partition(|(m, n)| m.attempt() == 1 && n % NACK_EVERY == 0);
    let (done, done_numbers): (Vec<Delivery>, Vec<u64>) = done.into_iter().unzip();
    let mut lines = Vec::with_capacity(count);
    for (result, n) in group.ack_many(done).into_iter().zip(done_numbers) {
        lines.push(match result {
            Ok(()) => Line::Acked(n, ledger::now()),
            Err(e) if e.code() == Code::LeaseLost => Line::LeaseLost(n, ledger::now()),
            Err(e) => return Err(e.into()),
        });
    }
    write(&lines)?;
    for (message, n) in back {
        let given_back = match message.nack(Some(Duration::ZERO)) {
            Ok(()) => Line::Nacked(n, ledger::now()),
            Err(e) if e.code() == Code::LeaseLost => Line::LeaseLost(n, ledger::now()),
            Err(e) => return Err(e.into()),
        };
        write(&[given_back])?;
    }
    Ok(count)
}

/// Makes one confirmed message disappear: the accounts must find out.
pub(super) fn saboteur(args: &DemoRoleArgs) -> Result<i32, Failure> {
    run(args, |ledger, store| {
        let topic = store.topic(TOPIC)?;
        let group = open_group(store)?;
        let body = body_of(args.first);
        let message = topic.message(body.as_bytes()).flush(Flush::Sync);
        let mut write = |line| ledger.write(&[line]).map_err(|e| cannot_write(&e));
        write(Line::Sending(args.first, ledger::now()))?;
        let sent = message.send()?;
        write(Line::Confirmed(
            args.first,
            ledger::now(),
            sent.id.to_string(),
        ))?;
        let mut others = Vec::new();
        loop {
            match group.receive(PATIENCE)? {
                Some(message) if message.id() == sent.id => return Ok(message.ack()?),
                // Kept until the end: given back now, it would be the next to come.
                Some(message) => others.push(message),
                None => return Err(Failure::failed("the message to lose did not come")),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_proves_its_number() {
        for n in [0, 1, 199, 200, 1_000_000_123] {
            assert_eq!(number_in(body_of(n).as_bytes()), Some(n));
        }
        assert_eq!(number_in(b"3 abcd"), None);
        assert_eq!(number_in(b"3 abX"), None);
        assert_eq!(number_in(b"\xff"), None);
    }
}
