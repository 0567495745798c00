//! Reading a record: from the ring while it is not durable, from its file afterwards, checked.
//!
//! A copy from the ring counts only if `DURABLE` had not passed it when the copy was complete:
//! until then nobody overwrites it. A record is asked for by the position it was first written at;
//! if it is not there any more, or not whole, a copy that was moved forward is read instead.
//!
//! What does not check out is looked up again: under lock E, so that no roll is half done and
//! nothing is being rolled back, and read again through descriptors opened for the purpose. Only if
//! all that while no segment came or went, was replaced or rolled back, it is damage. An I/O error
//! is an error, not damage.

use std::sync::Arc;

use super::Log;
use super::append::ring_read;
use super::catalog::Segment;
use crate::error::{Code, Error, Result};
use crate::format::Bad;
use crate::format::payload::Moved;
use crate::format::record::{self, HEADER, Header, Kind, MAX_RECORD, Record};
use crate::shm::control::{
    G_ACTIVE, G_OLDEST, W_DURABLE, W_PUBLISHED, W_RESEALS, W_ROLLBACKS, W_WRITTEN,
};

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

    /// All of it, padding included.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record where it lies.
    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            header: self.header,
            ext: self.ext(),
            body: self.body(),
        }
    }

    /// The record that this MOVED record carries a copy of.
    fn carried(&self, original: u64) -> Result<Stored, Bad> {
        if self.header.kind()? != Some(Kind::Moved) {
            return Err(Bad::Kind);
        }
        let moved = Moved::decode(self.body())?;
        let header = record::parse_carried(moved.record)?.header;
        if moved.original_lsn != original {
            return Err(Bad::Value);
        }
        let bytes = moved.record.get(..header.padded_len()).ok_or(Bad::Length)?;
        Ok(Stored {
            lsn: original,
            header,
            bytes: bytes.to_vec(),
        })
    }
}

/// What the place of a record depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    active: u64,
    oldest: u64,
    reseals: u64,
    rollbacks: u64,
}

/// How often a record is looked up again while segments come and go.
const TRIES: u32 = 200;

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
    /// The record whose original LSN an index or another record gave, wherever it lies now.
    pub(crate) fn read(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Stored> {
        if let Some((bytes, salt)) = ahead.get(lsn) {
            if let Ok(stored) = whole(bytes, lsn, salt) {
                return Ok(stored);
            }
        }
        match self.read_or_copy(lsn, ahead, false) {
            Ok(stored) => Ok(stored),
            Err(Failure::Io(e)) if e.errno() != Some(libc::ENOENT) => Err(e),
            Err(Failure::Io(e) | Failure::Bad(e)) => self.read_again(lsn, ahead, e),
        }
    }

    /// The record that stands at `lsn` itself, not a copy of one that once stood there.
    pub(crate) fn read_here(&self, lsn: u64, ahead: &mut ReadAhead) -> Result<Stored> {
        let read = self.read_in_place(lsn, ahead, false);
        let read = read.or_else(|_| {
            self.forget_files();
            self.read_in_place(lsn, ahead, true)
        });
        read.map_err(|(Failure::Io(e) | Failure::Bad(e))| self.or_gone(e))
    }

    /// Moved, resealed or reclaimed meanwhile, or a roll that never was? Looks again until a
    /// failure is one of a log that stood still.
    #[cold]
    fn read_again(&self, lsn: u64, ahead: &mut ReadAhead, first: Error) -> Result<Stored> {
        let mut error = first;
        if broken!(DamageAtFirstSight) {
            return Err(self.or_gone(error));
        }
        for _ in 0..TRIES {
            // Whoever is in the middle of a roll comes to its end, or is rolled back.
            let settled = self.ctl.begin_to_read(self.ctl.patience())?;
            let before = self.places();
            drop(settled);
            self.forget_files();
            match self.read_or_copy(lsn, ahead, true) {
                Ok(stored) => return Ok(stored),
                Err(Failure::Io(e)) if e.errno() != Some(libc::ENOENT) => return Err(e),
                Err(Failure::Io(e) | Failure::Bad(e)) => error = e,
            }
            if self.places() == before && before.rollbacks % 2 == 0 {
                return Err(self.or_gone(error));
            }
        }
        Err(Error::new(
            Code::Busy,
            format!("the log changes faster than {lsn:#x} can be read; try again ({error})"),
        ))
    }

    fn places(&self) -> Places {
        Places {
            rollbacks: self.ctl.load(W_ROLLBACKS),
            active: self.ctl.global(G_ACTIVE),
            oldest: self.ctl.global(G_OLDEST),
            reseals: self.ctl.load(W_RESEALS),
        }
    }

    fn read_or_copy(
        &self,
        lsn: u64,
        ahead: &mut ReadAhead,
        fresh: bool,
    ) -> Result<Stored, Failure> {
        let failure = match self.read_in_place(lsn, ahead, fresh) {
            Err(Failure::Io(e)) if e.errno() != Some(libc::ENOENT) => return Err(e.into()),
            Err(failure) => failure,
            Ok(stored) => return Ok(stored),
        };
        let Some(at) = self.copy_of(lsn, 0)? else {
            return Err(failure);
        };
        let carrier = self.read_in_place(at, ahead, fresh)?;
        carrier.carried(lsn).map_err(|bad| {
            Failure::Bad(
                Error::new(
                    Code::Corrupt,
                    format!("the record at {at:#x} is no copy of that at {lsn:#x}: {bad}"),
                )
                .at_path(self.dir.display(super::LOG_DIR))
                .at_position(at),
            )
        })
    }

    fn read_in_place(
        &self,
        lsn: u64,
        ahead: &mut ReadAhead,
        fresh: bool,
    ) -> Result<Stored, Failure> {
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
                    Err(e) => return Err(e.into()),
                }
            }
            return self.read_segment(lsn, ahead, fresh);
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
