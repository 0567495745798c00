//! `keepq tail`, `peek` and `get`: messages are read, never claimed.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use keepq::{Browse, Browsed, Code, Store};

use crate::args::{GetArgs, PeekArgs, RecvOutput, TailArgs};
use crate::exit::{DAMAGE, EMPTY, Failure, INTERRUPTED, NOT_FOUND, OK};
use crate::output;
use crate::stop::Stop;

/// How long `tail -f` waits before it looks for new messages again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Opens a store to look at it. Where it cannot be written (a read-only mount, somebody else's
/// files), for reading only.
pub(crate) fn open(path: &Path) -> Result<Store, Failure> {
    match Store::options().create(false).open(path) {
        Ok(store) => Ok(store),
        Err(error) if cannot_write(&error) => Ok(Store::options().read_only(true).open(path)?),
        Err(error) => Err(error.into()),
    }
}

fn cannot_write(error: &keepq::Error) -> bool {
    let denied = |errno| std::io::Error::from_raw_os_error(errno).kind();
    let kind = error.errno().map(denied);
    error.code() == Code::ReadOnly
        || kind == Some(std::io::ErrorKind::PermissionDenied)
        || kind == Some(std::io::ErrorKind::ReadOnlyFilesystem)
}

/// Prints messages as they come, in the form asked for.
struct Printer {
    out: File,
    form: RecvOutput,
    printed: u64,
    damaged: u64,
}

impl Printer {
    fn new(form: RecvOutput) -> Result<Self, Failure> {
        Ok(Self {
            out: output::raw_stdout()?,
            form,
            printed: 0,
            damaged: 0,
        })
    }

    fn print(&mut self, message: &Browsed) -> Result<(), Failure> {
        let mut text = Vec::new();
        match (self.form, &message.content) {
            (RecvOutput::Jsonl, _) => {
                output::browsed_json(&mut text, message);
                text.push(b'\n');
            }
            (RecvOutput::Json, _) => {
                let start: &[u8] = if self.printed == 0 { b"[\n" } else { b",\n" };
                text.extend_from_slice(start);
                output::browsed_json(&mut text, message);
            }
            (RecvOutput::Table, content) => {
                if self.printed == 0 {
                    text.extend_from_slice(output::MESSAGE_HEAD.as_bytes());
                }
                match content {
                    Ok(content) => output::message_row(&mut text, message.seq, None, content),
                    Err(damage) => output::damage_row(&mut text, message.seq, damage),
                }
            }
            (RecvOutput::Raw, Ok(content)) => {
                text.extend_from_slice(content.body());
                text.push(b'\n');
            }
            (RecvOutput::Raw, Err(damage)) => {
                output::note(&format!("sequence {}: {damage}", message.seq));
            }
        }
        self.printed += 1;
        self.damaged += u64::from(message.content.is_err());
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.out.write_all(text).map_err(|e| Failure::stdout(&e))
    }

    /// Prints up to `most` messages.
    fn print_some(&mut self, browse: &mut Browse, most: u64, stop: &Stop) -> Result<(), Failure> {
        let mut left = most;
        while left > 0 && !stop.asked() {
            match browse.next() {
                Some(message) => self.print(&message?)?,
                None => break,
            }
            left -= 1;
        }
        Ok(())
    }

    /// Closes a JSON array, and says how it went.
    fn finish(mut self, stop: &Stop) -> Result<i32, Failure> {
        if self.form == RecvOutput::Json {
            let end: &[u8] = if self.printed == 0 { b"[]\n" } else { b"\n]\n" };
            self.write(end)?;
        }
        Ok(if stop.interrupted() {
            INTERRUPTED
        } else if self.damaged > 0 {
            DAMAGE
        } else if self.printed == 0 && !stop.asked() {
            EMPTY
        } else {
            OK
        })
    }
}

pub(crate) fn tail(path: &Path, args: &TailArgs) -> Result<i32, Failure> {
    let stop = Stop::install()?;
    let store = open(path)?;
    let topic = store.existing_topic(&args.topic)?;
    let mut browse = topic.browse().last(args.number)?;
    let mut printer = Printer::new(args.output)?;
    printer.print_some(&mut browse, u64::MAX, &stop)?;
    while args.follow && !stop.asked() {
        std::thread::sleep(LOOK_AGAIN);
        printer.print_some(&mut browse, u64::MAX, &stop)?;
    }
    let code = printer.finish(&stop)?;
    store.close()?;
    Ok(code)
}

pub(crate) fn peek(path: &Path, args: &PeekArgs) -> Result<i32, Failure> {
    let stop = Stop::install()?;
    let store = open(path)?;
    let topic = store.existing_topic(&args.topic)?;
    let from = match (&args.group, args.from) {
        (_, Some(seq)) => seq,
        (Some(name), None) => {
            let group = store.group(&args.topic, name).create(false).open()?;
            group.stats()?.cursor
        }
        (None, None) => 0,
    };
    let mut browse = topic.browse().from(from);
    if let Some(key) = &args.key {
        browse = browse.key(key);
    }
    let mut printer = Printer::new(args.output)?;
    printer.print_some(&mut browse, args.number, &stop)?;
    let code = printer.finish(&stop)?;
    store.close()?;
    Ok(code)
}

pub(crate) fn get(path: &Path, args: &GetArgs) -> Result<i32, Failure> {
    let id = args.id.parse()?;
    let store = open(path)?;
    let Some(message) = store.find(id)? else {
        let text = format!("no topic of {} keeps a message {id}", path.display());
        return Err(Failure::new(NOT_FOUND, text));
    };
    if let Err(damage) = message.content {
        return Err(damage.into());
    }
    let mut printer = Printer::new(args.output)?;
    printer.print(&message)?;
    let code = printer.finish(&Stop::default())?;
    store.close()?;
    Ok(code)
}
