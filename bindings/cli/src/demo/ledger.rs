//! The ledgers: what each process of the demonstration did, in its own words.
//!
//! One file per process that ever ran, so that the last line of a killed one says what it was
//! doing. A line is one write to a descriptor opened for appending; a kill may cut the last one off
//! where the kernel goes from one page of the file to the next. A line that is cut off was not
//! written: what it would have announced had not begun, what it would have noted is not known.
//!
//! ```text
//! S n time       about to send message n        R time     about to receive
//! C n time id    its send was confirmed         D n time   message n was delivered
//! A n time       its ack returned               N n time   given back on purpose
//! L n time       its lease had ended            E text     an error ended the process
//! O time         about to open the store
//! ```
//! Times are nanoseconds of the monotonic clock, the same for all processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Appends lines.
pub(super) struct Ledger {
    file: File,
}

impl Ledger {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file })
    }

    pub(super) fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            line.append_to(&mut text);
        }
        self.file.write_all(text.as_bytes())
    }
}

/// Nanoseconds of the monotonic clock.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or(0)
}

/// One line of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Sending(u64, u64),
    Confirmed(u64, u64, String),
    Receiving(u64),
    Opening(u64),
    Delivered(u64, u64),
    Acked(u64, u64),
    Nacked(u64, u64),
    LeaseLost(u64, u64),
    Error(String),
}

impl Line {
    fn append_to(&self, text: &mut String) {
        *text += &match self {
            Self::Sending(n, t) => format!("S {n} {t}\n"),
            Self::Confirmed(n, t, id) => format!("C {n} {t} {id}\n"),
            Self::Receiving(t) => format!("R {t}\n"),
            Self::Opening(t) => format!("O {t}\n"),
            Self::Delivered(n, t) => format!("D {n} {t}\n"),
            Self::Acked(n, t) => format!("A {n} {t}\n"),
            Self::Nacked(n, t) => format!("N {n} {t}\n"),
            Self::LeaseLost(n, t) => format!("L {n} {t}\n"),
            Self::Error(text) => format!("E {}\n", text.replace('\n', " ")),
        };
    }

    fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        if kind == "E" {
            return Some(Self::Error(rest.to_string()));
        }
        let mut words = rest.split(' ');
        let first = words.next()?.parse().ok()?;
        match kind {
            "R" => return Some(Self::Receiving(first)),
            "O" => return Some(Self::Opening(first)),
            _ => {}
        }
        let time = words.next()?.parse().ok()?;
        Some(match kind {
            "S" => Self::Sending(first, time),
            "C" => Self::Confirmed(first, time, words.next()?.to_string()),
            "D" => Self::Delivered(first, time),
            "A" => Self::Acked(first, time),
            "N" => Self::Nacked(first, time),
            "L" => Self::LeaseLost(first, time),
            _ => return None,
        })
    }
}

/// All whole lines of a ledger.
pub(super) fn read(path: &Path) -> io::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    let torn = |line: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: bad line {line:?}", path.display()),
        )
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole
        .lines()
        .map(|line| Line::parse(line).ok_or_else(|| torn(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let dir = std::env::temp_dir().join(format!("keepq-ledger-{}", std::process::id()));
        let lines = vec![
            Line::Sending(7, 1),
            Line::Confirmed(7, 2, "00000000000010c0".into()),
            Line::Opening(0),
            Line::Receiving(3),
            Line::Delivered(7, 4),
            Line::Acked(7, 5),
            Line::Nacked(8, 6),
            Line::LeaseLost(9, 7),
            Line::Error("it is over".into()),
        ];
        Ledger::open(&dir).unwrap().write(&lines).unwrap();
        assert_eq!(read(&dir).unwrap(), lines);
        std::fs::write(&dir, "S 7 1\nC 7").unwrap();
        assert_eq!(read(&dir).unwrap(), [Line::Sending(7, 1)]);
        std::fs::write(&dir, "S 7 1\nC 7\nS 8 2\n").unwrap();
        assert!(read(&dir).is_err());
        std::fs::remove_file(&dir).unwrap();
    }

    #[test]
    fn the_clock_goes_forward() {
        let before = now();
        assert!(before > 0);
        assert!(now() >= before);
    }
}
