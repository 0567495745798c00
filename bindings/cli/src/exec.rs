//! `keepq recv --exec`: a command for each message. Its exit code settles the message.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use keepq::{Code, Delivery};

use crate::exit::Failure;
use crate::output;

/// The command could not do it now: again after the group's back-off.
const RETRY: i32 = 75;
/// The message makes no sense: to the dead letters.
const REJECT: i32 = 65;

/// What a command is run with besides the message.
pub(crate) struct Exec<'a> {
    pub(crate) command: &'a str,
    pub(crate) store: &'a Path,
    pub(crate) group: &'a str,
    /// How long a lease of the group lasts; it is extended while the command runs.
    pub(crate) lease: Duration,
}

impl Exec<'_> {
    /// Runs the command and settles the message by how it ended. False: the lease had ended.
    pub(crate) fn run(&self, message: &Delivery) -> Result<bool, Failure> {
        let status = self.wait(message)?;
        let settled = match status.code() {
            Some(0) => message.ack(),
            Some(RETRY) => message.nack(None),
            Some(REJECT) => message.reject("the command exited with 65"),
            _ => {
                let id = message.id();
                output::note(&format!(
                    "message {id} comes again: the command ended with {status}"
                ));
                message.nack(None)
            }
        };
        match settled {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Code::LeaseLost => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs the command to its end, keeping the lease alive.
    fn wait(&self, message: &Delivery) -> Result<ExitStatus, Failure> {
        let mut command = self.prepare(message);
        let mut child = command.spawn().map_err(|e| {
            // Dropped unsettled, the message is put back at once.
            Failure::failed(format!("cannot run sh for --exec: {e}"))
        })?;
        let stdin = child.stdin.take();
        let (sender, ended) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // The command need not read it all.
                    let _ = stdin.write_all(message.body());
                }
            });
            scope.spawn(move || sender.send(child.wait()));
            loop {
                match ended.recv_timeout(self.lease / 3) {
                    Ok(status) => {
                        return status.map_err(|e| {
                            Failure::failed(format!("cannot wait for the command: {e}"))
                        });
                    }
                    // A lease that has ended all the same is found when the message is settled.
                    Err(RecvTimeoutError::Timeout) => drop(message.extend(self.lease)),
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Failure::failed("cannot wait for the command"));
                    }
                }
            }
        })
    }

    fn prepare(&self, message: &Delivery) -> Command {
        let mut headers = Vec::new();
        output::headers(&mut headers, message);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(self.command)
            .stdin(Stdio::piped())
            .env("KEEPQ_STORE", self.store)
            .env("KEEPQ_TOPIC", message.topic())
            .env("KEEPQ_GROUP", self.group)
            .env("KEEPQ_ID", message.id().to_string())
            .env("KEEPQ_SEQ", message.seq().to_string())
            .env("KEEPQ_ATTEMPT", message.attempt().to_string())
            .env("KEEPQ_SENT_AT_MS", message.sent_at_ms().to_string())
            .env("KEEPQ_RECEIPT", message.receipt().to_string())
            .env("KEEPQ_HEADERS", String::from_utf8_lossy(&headers).as_ref());
        for (name, value) in [("KEEPQ_KEY", message.key()), ("KEEPQ_TAG", message.tag())] {
            match value.filter(|v| !v.contains('\0')) {
                Some(value) => command.env(name, value),
                // Not what this program itself was started with.
                None => command.env_remove(name),
            };
        }
        command
    }
}
