//! `keepq recv`: claim, write, acknowledge, in this order.
//!
//! A message is acknowledged only after its output is with the descriptor. A kill at any moment
//! therefore leads to a second delivery at worst, never to a message nobody saw.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use keepq::{Code, Delivery, Group, Store};

use crate::args::{RecvArgs, RecvOutput};
use crate::exec::Exec;
use crate::exit::{EMPTY, FAILED, Failure, INTERRUPTED, OK};
use crate::output;
use crate::stop::{SLICE, Stop};

/// Most messages claimed at a time; less when they are large.
const BATCH: usize = 256;
/// About how many bytes of bodies are held at a time (a single body may be larger).
const BATCH_BYTES: usize = 1 << 20;

pub(crate) fn run(path: &Path, args: &RecvArgs) -> Result<i32, Failure> {
    let stop = Stop::install()?;
    let store = Store::options().create(false).open(path)?;
    let mut options = store.group(&args.topic, &args.group).create_topic(false);
    if let Some(consumer) = &args.consumer {
        options = options.broadcast(consumer);
    }
    if args.broadcast {
        options = options.broadcast_unnamed();
    }
    if !args.tags.is_empty() {
        options = options.tags(args.tags.iter());
    }
    if args.ordered {
        options = options.ordered(true);
    }
    let group = options.open()?;
    let exec = match &args.exec {
        None => None,
        Some(command) => Some(Exec {
            command,
            store: path,
            group: &args.group,
            lease: group.config()?.lease,
        }),
    };
    let mut receiver = Receiver {
        exec,
        group: &group,
        args,
        out: output::raw_stdout()?,
        delivered: 0,
        lost_leases: 0,
        batch: 1,
    };
    let result = receiver.run(&stop);
    let (delivered, lost) = (receiver.delivered, receiver.lost_leases);
    // What was received but not settled has been dropped by now: others get it at once.
    drop(receiver);
    let closed = store.close();
    result?;
    closed?;
    if stop.interrupted() {
        return Ok(INTERRUPTED);
    }
    if lost > 0 {
        output::note(&format!(
            "{lost} leases ended before the output was taken: these messages come again"
        ));
        return Ok(FAILED);
    }
    let by_signal = stop.asked();
    Ok(if delivered == 0 && !by_signal {
        EMPTY
    } else {
        OK
    })
}

struct Receiver<'a> {
    exec: Option<Exec<'a>>,
    group: &'a Group,
    args: &'a RecvArgs,
    out: File,
    delivered: u64,
    lost_leases: u64,
    batch: usize,
}

impl Receiver<'_> {
    fn run(&mut self, stop: &Stop) -> Result<(), Failure> {
        let mut idle_since = Instant::now();
        while !stop.asked() && self.wanted() > 0 {
            let left = self
                .args
                .wait
                .map(|wait| wait.saturating_sub(idle_since.elapsed()));
            let messages = self.receive(left.unwrap_or(SLICE).min(SLICE))?;
            if messages.is_empty() {
                if left.is_some_and(|left| left <= SLICE) && self.idle_for(idle_since) {
                    break;
                }
                continue;
            }
            if self.exec.is_some() {
                self.run_command(&messages)?;
            } else {
                self.hand_on(messages)?;
            }
            idle_since = Instant::now();
        }
        self.finish()
    }

    fn idle_for(&self, since: Instant) -> bool {
        self.args.wait.is_some_and(|wait| since.elapsed() >= wait)
    }

    /// Runs the command for each message. What is left when it cannot be run is dropped, and so put
    /// back.
    fn run_command(&mut self, messages: &[Delivery]) -> Result<(), Failure> {
        for message in messages {
            let Some(exec) = &self.exec else { break };
            let settled = exec.run(message)?;
            self.lost_leases += u64::from(!settled);
            self.delivered += 1;
        }
        Ok(())
    }

    /// How many more messages to claim now.
    fn wanted(&self) -> usize {
        match self.args.number {
            Some(n) => {
                let left = n.saturating_sub(self.delivered);
                self.batch.min(usize::try_from(left).unwrap_or(usize::MAX))
            }
            None => self.batch,
        }
    }

    fn receive(&self, timeout: Duration) -> Result<Vec<Delivery>, Failure> {
        let received = if self.args.no_ack {
            self.group.receive_detached(self.wanted(), timeout)
        } else {
            self.group.receive_batch(self.wanted(), timeout)
        };
        match received {
            Ok(messages) => Ok(messages),
            Err(error) if error.code() == Code::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the messages and settles them: acknowledged if the write succeeded, else given back.
    fn hand_on(&mut self, messages: Vec<Delivery>) -> Result<(), Failure> {
        let mut text = Vec::new();
        let mut bytes = 0;
        for (n, message) in messages.iter().enumerate() {
            bytes += message.body().len();
            let first = self.delivered == 0 && n == 0;
            format(&mut text, self.args.output, message, first);
        }
        if let Err(error) = self.out.write_all(&text).and_then(|()| self.out.flush()) {
            for message in messages {
                // It goes back by itself when this process ends, if it cannot be told now.
                let _ = message.nack(Some(Duration::ZERO));
            }
            return Err(Failure::stdout(&error));
        }
        self.batch = next_batch(self.batch, messages.len(), bytes);
        self.delivered += messages.len() as u64;
        if self.args.no_ack {
            for message in messages {
                // The receipt is in the output.
                let _ = message.detach();
            }
            return Ok(());
        }
        for result in self.group.ack_many(messages) {
            match result {
                Ok(()) => {}
                Err(error) if error.code() == Code::LeaseLost => self.lost_leases += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Closes a JSON array.
    fn finish(&mut self) -> Result<(), Failure> {
        if self.args.output == RecvOutput::Json && self.exec.is_none() {
            let end = if self.delivered == 0 { "[]\n" } else { "\n]\n" };
            self.out
                .write_all(end.as_bytes())
                .map_err(|e| Failure::stdout(&e))?;
        }
        Ok(())
    }
}

fn format(text: &mut Vec<u8>, form: RecvOutput, message: &Delivery, first: bool) {
    match form {
        RecvOutput::Jsonl => {
            output::message_json(text, message);
            text.push(b'\n');
        }
        RecvOutput::Raw => {
            text.extend_from_slice(message.body());
            text.push(b'\n');
        }
        RecvOutput::Json => {
            text.extend_from_slice(if first { b"[\n" } else { b",\n" });
            output::message_json(text, message);
        }
        RecvOutput::Table => {
            if first {
                text.extend_from_slice(output::MESSAGE_HEAD.as_bytes());
            }
            output::message_row(text, message.seq(), Some(message.attempt()), message);
        }
    }
}

/// Doubles the batch while it is filled with few bytes, and shrinks it for large bodies.
fn next_batch(batch: usize, got: usize, bytes: usize) -> usize {
    let fitting = BATCH_BYTES / (bytes / got.max(1)).max(1);
    let grown = if got >= batch { batch * 2 } else { batch };
    grown.min(fitting).clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_grows_while_it_is_full_and_its_bodies_are_small() {
        assert_eq!(next_batch(1, 1, 10), 2);
        assert_eq!(next_batch(200, 200, 2000), BATCH);
        assert_eq!(next_batch(64, 3, 30), 64);
        assert_eq!(next_batch(64, 64, 64 << 20), 1);
        assert_eq!(next_batch(1, 1, 16 << 20), 1);
        assert_eq!(next_batch(1, 1, 0), 2);
    }
}
