//! `keepq send`.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use keepq::limits;
use keepq::{Flush, OutMessage, Producer, Sent, Store, Topic};

use crate::args::SendArgs;
use crate::exit::{Failure, INTERRUPTED, OK};
use crate::lines::{self, Batch, Input};
use crate::output;
use crate::stop::{SLICE, Stop};

/// How long the last flush of a resumed load may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run(path: &Path, mut args: SendArgs) -> Result<i32, Failure> {
    let stop = Stop::install()?;
    let body = args.body.take();
    // Standard input is read before the store is made: Ctrl-C at a prompt leaves nothing behind.
    let body = match body {
        _ if args.lines => None,
        Some(body) => Some(body.into_vec()),
        None => match whole_input(&stop)? {
            Some(body) => Some(body),
            None => return Ok(stopped(&stop)),
        },
    };
    let store = Store::options().flush(args.flush.into()).open(path)?;
    let topic = store.topic(&args.topic)?;
    let producer = match &args.producer {
        Some(name) => Some(store.producer(name)?),
        None => None,
    };
    let load = Load {
        store: &store,
        topic: &topic,
        producer: producer.as_ref(),
        args: &args,
    };
    let code = match body {
        Some(body) => load.one(&body)?,
        None => load.lines(&stop)?,
    };
    store.close()?;
    Ok(code)
}

fn stopped(stop: &Stop) -> i32 {
    if stop.interrupted() { INTERRUPTED } else { OK }
}

/// All of standard input, at most one byte more than a body may have; None if asked to stop. Read
/// by a thread, because a signal does not end a read.
fn whole_input(stop: &Stop) -> Result<Option<Vec<u8>>, Failure> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut body = Vec::new();
        let most = u64::try_from(limits::BODY)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let read = io::stdin().lock().take(most).read_to_end(&mut body);
        let _ = sender.send(read.map(|_| body));
    });
    loop {
        match receiver.recv_timeout(SLICE) {
            Ok(read) => {
                let cannot = |e| Failure::failed(format!("cannot read standard input: {e}"));
                return read.map(Some).map_err(cannot);
            }
            Err(RecvTimeoutError::Timeout) if stop.asked() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::failed("the reader of standard input ended"));
            }
        }
    }
}

struct Load<'a> {
    store: &'a Store,
    topic: &'a Topic,
    producer: Option<&'a Producer>,
    args: &'a SendArgs,
}

impl Load<'_> {
    fn message<'m>(&'m self, body: &'m [u8]) -> OutMessage<'m> {
        let headers = &self.args.headers;
        OutMessage {
            body,
            key: self.args.key.as_deref(),
            tag: self.args.tag.as_deref(),
            order_key: self.args.order_key.as_deref(),
            headers: headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_bytes()))
                .collect(),
            flush: Some(self.args.flush.into()),
            ..OutMessage::default()
        }
    }

    fn one(&self, body: &[u8]) -> Result<i32, Failure> {
        let message = self.message(body);
        let sent = match self.producer {
            Some(producer) => producer.send(self.topic, None, &message)?,
            None => {
                let mut results = self.topic.send_many(std::slice::from_ref(&message));
                results
                    .pop()
                    .ok_or_else(|| Failure::failed("a send without a result"))??
            }
        };
        let mut text = Vec::new();
        match self.args.output {
            Some(_) => output::sent_json(&mut text, self.topic.name(), &sent),
            None => text.extend_from_slice(format!("{}\n", sent.id).as_bytes()),
        }
        // The message is stored all the same: a closed output is still said by the exit code.
        output::raw_stdout()?
            .write_all(&text)
            .map_err(|e| Failure::stdout(&e))?;
        Ok(OK)
    }

    fn lines(&self, stop: &Stop) -> Result<i32, Failure> {
        let skip = match self.producer {
            Some(producer) => producer.next_seq()?,
            None => 0,
        };
        let progress = progress_bar();
        let input = lines::read(io::stdin(), skip, limits::BODY);
        let (mut sent, mut skipped) = (0, 0);
        let finished = loop {
            if stop.asked() {
                break false;
            }
            match input.recv_timeout(SLICE) {
                Ok(Input::Lines(batch)) => {
                    sent += self.batch(&batch)?;
                    progress.set_position(sent);
                }
                Ok(Input::Skipped(n)) => skipped = n,
                Ok(Input::Failed(message)) => {
                    progress.finish_and_clear();
                    return Err(Failure::failed(format!(
                        "{message}; {sent} lines were sent"
                    )));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break true,
            }
        };
        progress.finish_and_clear();
        // A killed predecessor may have appended lines whose flush it did not live to see.
        if skipped > 0 && Flush::from(self.args.flush) == Flush::Sync {
            self.flush()?;
        }
        if skipped > 0 {
            output::note(&format!(
                "{skipped} lines had been sent before, {sent} sent now"
            ));
        } else if io::stderr().is_terminal() {
            output::note(&format!("{sent} lines sent"));
        }
        Ok(if finished { OK } else { stopped(stop) })
    }

    fn flush(&self) -> Result<(), Failure> {
        if self.store.flush(Some(FLUSH_TIMEOUT))? {
            return Ok(());
        }
        Err(Failure::new(
            crate::exit::IN_DOUBT,
            "the disk did not confirm the last lines in time",
        ))
    }

    /// Sends a batch with one flush; the number of messages sent.
    fn batch(&self, batch: &Batch) -> Result<u64, Failure> {
        let messages: Vec<_> = batch.lines().map(|line| self.message(line)).collect();
        let results = match self.producer {
            Some(producer) => producer.send_many(self.topic, batch.first, &messages),
            None => self.topic.send_many(&messages),
        };
        let mut text = Vec::new();
        let mut number = batch.first;
        let mut failure = None;
        for result in results {
            number += 1;
            match result {
                Ok(sent) => self.result(&mut text, &sent),
                Err(error) if failure.is_none() => {
                    failure = Some(Failure::from(error).during(&format!("line {number}")));
                }
                Err(_) => {}
            }
        }
        if !text.is_empty() {
            output::raw_stdout()?
                .write_all(&text)
                .map_err(|e| Failure::stdout(&e))?;
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(number - batch.first),
        }
    }

    fn result(&self, text: &mut Vec<u8>, sent: &Sent) {
        if self.args.output.is_some() {
            output::sent_json(text, self.topic.name(), sent);
        }
    }
}

/// A count of lines on standard error, drawn only when that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} lines, {per_sec}") {
        bar.set_style(style);
    }
    bar
}
