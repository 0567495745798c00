//! Reading a record: from the ring while it is not durable, from its file afterwards, checked.
//!
//! A copy from the ring counts only if `DURABLE` had not passed it when the copy was complete:
//! until then nobody overwrites it. A record that does not check out in the file is looked up
//! again (it may have been resealed or reclaimed meanwhile) and read again through a descriptor
//! opened for the purpose; only what fails that too is damage. An I/O error is an error, not
//! damage.

use std::sync::Arc;

use super::Log;
use super::append::ring_read;
use super::catalog::Segment;
use crate::error::{Code, Error, Result};
use crate::format::Bad;
use crate::format::record::{self, HEADER, Header, MAX_RECORD, Record};
use crate::shm::control::{W_DURABLE, W_PUBLISHED, W_WRITTEN};

/// A record in bytes of its own.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) lsn: u64,
    pub(crate) header: Header,
    bytes: Vec<u8>,
}

impl Stored {
    /// Its extension area.
    pub(crate) fn ext(&self) -> &[u8] {
        &self.bytes[HEADER..self.header.body_start()]
    }

    /// Its body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.header.body_start()..self.header.len as usize]
    }
}

/// Bytes of the log read ahead of need, all of them durable when they were read.
#[derive(Default)]
pub(crate) struct ReadAhead {
    start: u64,
    bytes: Vec<u8>,
    segment: Option<Arc<Segment>>,
    /// How much the last read fetched; grows while reads are sequential.
    window: u64,
}

const SMALLEST_WINDOW: u64 = 16 << 10;
const LARGEST_WINDOW: u64 = 256 << 10;

impl ReadAhead {
    fn get(&self, lsn: u64) -> Option<(&[u8], u64)> {
        let at = usize::try_from(lsn.checked_sub(self.start)?).ok()?;
        let segment = self.segment.as_ref()?;
        Some((
            self.bytes.get(at..).filter(|b| b.len() >= HEADER)?,
            segment.salt,
        ))
    }

    /// The record at `lsn` where it lies, if all of it was read ahead and checks out.
    #[inline]
    pub(crate) fn record(&self, lsn: u64) -> Option<Record<'_>> {
        let (bytes, salt) = self.get(lsn)?;
        record::parse(bytes, lsn, salt).ok()
    }
}

impl Log {
    /// The record at `lsn`, which an index or another record gave.
    pub(crate) fn read(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Stored> {
        if let Some((bytes, salt)) = ahead.get(lsn) {
            if let Ok(stored) = whole(bytes, lsn, salt) {
                return Ok(stored);
            }
        }
        loop {
            let watermark = if broken!(RingCopyCheckedAgainstWritten) {
                W_WRITTEN
            } else {
                W_DURABLE
            };
            if lsn >= self.ctl.load(watermark) {
                match self.read_ring(lsn) {
                    Ok(stored) => return Ok(stored),
                    // Durable by now, so perhaps overwritten: the file has it.
                    Err(_) if lsn < self.ctl.load(W_DURABLE) => continue,
                    Err(e) => return Err(e),
                }
            }
            return self.read_file(lsn, ahead);
        }
    }

    fn read_ring(&self, lsn: u64) -> Result<Stored> {
        let ctl = &self.ctl;
        if lsn >= ctl.load(W_PUBLISHED) {
            return Err(ctl.damaged(&format!("a reference to {lsn:#x}, behind the log's end")));
        }
        let segment = self
            .recent_at(lsn)
            .ok_or_else(|| ctl.damaged(&format!("{lsn:#x} lies in no recent segment")))?;
        let wrong = |bad: Bad| ctl.damaged(&format!("the ring at {lsn:#x}: {bad}"));
        let mut head = [0; HEADER];
        ring_read(ctl, lsn, &mut head);
        let header = self.still_there(lsn, record::parse_header(&head, lsn, segment.salt))?;
        let header = header.map_err(wrong)?;
        let mut bytes = vec![0; header.padded_len()];
        ring_read(ctl, lsn, &mut bytes);
        let checked = record::parse(&bytes, lsn, segment.salt).map(|r| r.header);
        let header = self.still_there(lsn, checked)?.map_err(wrong)?;
        Ok(Stored { lsn, header, bytes })
    }

    /// Passes the result of a ring copy on unless it may have been overwritten.
    fn still_there<T>(&self, lsn: u64, copied: T) -> Result<T> {
        let watermark = if broken!(RingCopyCheckedAgainstWritten) {
            W_WRITTEN
        } else {
            W_DURABLE
        };
        if self.ctl.load(watermark) > lsn {
            return Err(Error::new(Code::Internal, "the ring moved on"));
        }
        Ok(copied)
    }

    fn read_file(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Stored> {
        let first = self.read_segment(lsn, ahead, false);
        match first {
            Ok(stored) => Ok(stored),
            Err(Failure::Io(e)) if e.errno() != Some(libc::ENOENT) => Err(e),
            // Moved, resealed or reclaimed meanwhile? Look again, through a fresh descriptor.
            Err(_) => {
                self.forget_files();
                self.read_segment(lsn, ahead, true)
                    .map_err(|failure| match failure {
                        Failure::Io(e) | Failure::Bad(e) => self.or_gone(e),
                    })
            }
        }
    }

    fn read_segment(
        &self,
        lsn: u64,
        ahead: &mut ReadAhead,
        fresh: bool,
    ) -> Result<Stored, Failure> {
        let Some(segment) = self.segment_at(lsn)? else {
            return Err(Failure::Bad(
                Error::new(
                    Code::Corrupt,
                    format!("no segment of the log holds {lsn:#x}"),
                )
                .at_position(lsn),
            ));
        };
        let durable = self.ctl.load(W_DURABLE);
        let end = segment.piece_end(lsn).min(durable);
        let sequential = ahead.start + ahead.bytes.len() as u64 >= lsn && ahead.start <= lsn;
        ahead.window = if sequential {
            (ahead.window * 2).min(LARGEST_WINDOW)
        } else {
            0
        };
        ahead.window = ahead.window.max(SMALLEST_WINDOW);
        let handle = self.reader(&segment, lsn, fresh)?;
        let salt = segment.salt;
        let mut want = ahead.window.min(end.saturating_sub(lsn));
        ahead.segment = Some(Arc::clone(&segment));
        loop {
            ahead.start = lsn;
            ahead.bytes.resize(usize::try_from(want).unwrap_or(0), 0);
            let read = handle.read_at(&mut ahead.bytes, lsn - segment.base)?;
            ahead.bytes.truncate(read);
            match whole(&ahead.bytes, lsn, salt) {
                Ok(stored) => return Ok(stored),
                Err(Short::Need(len)) if len as u64 > want && len <= MAX_RECORD => {
                    want = len as u64;
                }
                Err(short) => {
                    ahead.bytes.clear();
                    return Err(Failure::Bad(
                        Error::new(
                            Code::Corrupt,
                            format!(
                                "{} is damaged at {}: {short}; run keepq verify",
                                handle.display().display(),
                                lsn - segment.base
                            ),
                        )
                        .at_path(handle.display())
                        .at_position(lsn - segment.base),
                    ));
                }
            }
        }
    }
}

enum Failure {
    Io(Error),
    Bad(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Io(e)
    }
}

#[derive(Debug)]
enum Short {
    Need(usize),
    Bad(Bad),
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Need(len) => write!(f, "the file ends inside a record of {len} bytes"),
            Self::Bad(bad) => bad.fmt(f),
        }
    }
}

/// Takes the record at the start of `bytes`, if all of it is there.
fn whole(bytes: &[u8], lsn: u64, salt: u64) -> Result<Stored, Short> {
    let header = record::parse_header(bytes, lsn, salt).map_err(Short::Bad)?;
    let len = header.padded_len();
    let Some(own) = bytes.get(..len) else {
        return Err(Short::Need(len));
    };
    record::check_payload(&header, own).map_err(Short::Bad)?;
    Ok(Stored {
        lsn,
        header,
        bytes: own.to_vec(),
    })
}
