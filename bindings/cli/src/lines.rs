//! Lines of an input as batches of messages, read ahead by a thread in bounded memory.
//!
//! A line is what stands before `\n`, whatever its bytes: a carriage return and invalid UTF-8 are
//! kept, an empty line is a line. Bytes after the last `\n` are a line too, if there are any.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// A batch is handed on when it has this many bytes, or sooner when the sender is idle.
const BATCH_BYTES: usize = 1 << 20;
/// Most lines in a batch: one line is one entry of the arguments of a send.
const BATCH_LINES: usize = 8192;
const READ_AHEAD: usize = 256 << 10;

/// Some consecutive lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The number of its first line, from 0.
    pub(crate) first: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    fn starting_at(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }
}

/// What the reading thread reports.
#[derive(Debug)]
pub(crate) enum Input {
    Lines(Batch),
    /// Lines passed over because they were sent before: those below `skip`.
    Skipped(u64),
    Failed(String),
}

/// Starts reading. Lines below `skip` are only counted; no line may exceed `limit` bytes. The
/// channel closes at the end of the input.
pub(crate) fn read(input: impl Read + Send + 'static, skip: u64, limit: usize) -> Receiver<Input> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut reader = Reader {
            input: BufReader::with_capacity(READ_AHEAD, input),
            limit,
        };
        if let Err(message) = reader.run(skip, &sender) {
            // Nobody listens when the sender has given up already.
            let _ = sender.send(Input::Failed(message));
        }
    });
    receiver
}

struct Reader<R> {
    input: BufReader<R>,
    limit: usize,
}

impl<R: Read> Reader<R> {
    fn run(&mut self, skip: u64, out: &SyncSender<Input>) -> Result<(), String> {
        let mut number = 0;
        let mut ignored = Vec::new();
        while number < skip && self.line(number, &mut ignored)? {
            ignored.clear();
            number += 1;
        }
        if number > 0 && out.send(Input::Skipped(number)).is_err() {
            return Ok(());
        }
        let mut batch = Batch::starting_at(number);
        loop {
            // Before a read that may wait, whatever is complete goes on its way.
            let must_wait = self.input.buffer().is_empty();
            let full = batch.bytes.len() >= BATCH_BYTES || batch.len() >= BATCH_LINES;
            if batch.len() > 0 && (must_wait || full) {
                match out.try_send(Input::Lines(std::mem::take(&mut batch))) {
                    Ok(()) => batch = Batch::starting_at(number),
                    // The sender is busy: gather on, unless this batch is full.
                    Err(TrySendError::Full(Input::Lines(back))) if !full => batch = back,
                    Err(TrySendError::Full(input)) => {
                        if out.send(input).is_err() {
                            return Ok(());
                        }
                        batch = Batch::starting_at(number);
                    }
                    Err(TrySendError::Disconnected(_)) => return Ok(()),
                }
            }
            if !self.line(number, &mut batch.bytes)? {
                break;
            }
            batch.ends.push(batch.bytes.len());
            number += 1;
        }
        if batch.len() > 0 {
            let _ = out.send(Input::Lines(batch));
        }
        Ok(())
    }

    /// Appends the next line to `to`; false at the end of the input.
    fn line(&mut self, number: u64, to: &mut Vec<u8>) -> Result<bool, String> {
        let start = to.len();
        let most = u64::try_from(self.limit)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let read = (&mut self.input)
            .take(most)
            .read_until(b'\n', to)
            .map_err(|e: io::Error| {
                format!("cannot read line {}: {e}", number.saturating_add(1))
            })?;
        if to.last() == Some(&b'\n') && to.len() > start {
            to.pop();
        }
        if to.len() - start > self.limit {
            return Err(format!(
                "line {} is longer than the {} bytes a message may have",
                number.saturating_add(1),
                self.limit
            ));
        }
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &'static [u8], skip: u64, limit: usize) -> (Vec<Vec<u8>>, u64, Option<String>) {
        let (mut lines, mut skipped, mut failed) = (Vec::new(), 0, None);
        for input in read(input, skip, limit) {
            match input {
                Input::Lines(batch) => {
                    assert_eq!(batch.first, skipped + lines.len() as u64);
                    lines.extend(batch.lines().map(<[u8]>::to_vec));
                }
                Input::Skipped(n) => skipped = n,
                Input::Failed(message) => failed = Some(message),
            }
        }
        (lines, skipped, failed)
    }

    #[test]
    fn a_line_is_what_stands_before_the_newline() {
        let (lines, ..) = all(b"a\r\n\n\xff\xfe\nend", 0, 100);
        assert_eq!(lines, [&b"a\r"[..], b"", b"\xff\xfe", b"end"]);
        assert_eq!(all(b"a\n", 0, 100).0, [b"a"]);
        assert_eq!(all(b"\n\n", 0, 100).0, [b"", b""]);
        assert!(all(b"", 0, 100).0.is_empty());
    }

    #[test]
    fn lines_sent_before_are_skipped() {
        assert_eq!(all(b"a\nb\nc\n", 2, 100), (vec![b"c".to_vec()], 2, None));
        assert_eq!(all(b"a\nb\n", 9, 100), (vec![], 2, None));
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_past_it_fails() {
        assert_eq!(
            all(b"ok\n1234\n", 0, 4),
            (vec![b"ok".to_vec(), b"1234".to_vec()], 0, None)
        );
        assert_eq!(all(b"1234", 0, 4).0, [b"1234"]);
        let (_, _, failed) = all(b"ok\n12345\n", 0, 4);
        assert!(failed.unwrap().contains("line 2"));
        assert!(all(b"12345", 0, 4).2.is_some());
    }

    #[test]
    fn many_lines_come_in_order_in_bounded_batches() {
        let mut text = Vec::new();
        for n in 0..50_000 {
            text.extend_from_slice(format!("line {n}\n").as_bytes());
        }
        let mut next = 0u64;
        for input in read(io::Cursor::new(text), 0, 100) {
            let Input::Lines(batch) = input else {
                panic!("{input:?}")
            };
            assert_eq!(batch.first, next);
            assert!(batch.len() <= BATCH_LINES);
            for line in batch.lines() {
                assert_eq!(line, format!("line {next}").as_bytes());
                next += 1;
            }
        }
        assert_eq!(next, 50_000);
    }
}
