//! Reading the log from its files, record by record, whatever state they are in.
//!
//! Used by recovery, by `verify` and to rebuild an index. Nothing here needs shared memory, and
//! nothing read is believed before its checksums hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::append::ring_read;
use super::catalog::Segment;
use super::{HEADER_SPAN, LOG_DIR, Log};
use crate::error::{Error, Result};
use crate::format::Bad;
use crate::format::record::{self, ALIGN, HEADER, Kind, MAX_RECORD, Record};
use crate::format::segment::{
    Adoption, HEADER_BLOCK, SegmentHeader, adoption, file_name, parse_file_name,
};
use crate::shm::Ctl;
use crate::sys::{Dir, Handle, Open};

const WINDOW: usize = 1 << 20;

/// Bytes of the log that may be newer than the files: a copy of the tail ring.
pub(crate) struct RingImage {
    /// First LSN the image holds.
    pub(crate) from: u64,
    pub(crate) bytes: Vec<u8>,
}

impl RingImage {
    /// Copies what the ring holds of `[durable, published)`.
    pub(crate) fn copy(ctl: &Ctl, durable: u64, published: u64) -> Option<Self> {
        let ring = ctl.layout.geometry.ring;
        let from = durable.max(published.saturating_sub(ring));
        let len = usize::try_from(published.checked_sub(from)?).ok()?;
        let mut bytes = vec![0; len];
        ring_read(ctl, from, &mut bytes);
        Some(Self { from, bytes })
    }

    /// The image's bytes from `lsn` on.
    pub(crate) fn at(&self, lsn: u64) -> Option<&[u8]> {
        let at = usize::try_from(lsn.checked_sub(self.from)?).ok()?;
        self.bytes.get(at..).filter(|b| !b.is_empty())
    }
}

/// A segment as its files show it.
pub(crate) struct Source {
    pub(crate) number: u64,
    pub(crate) header: SegmentHeader,
    /// Its files, from the oldest: authority from this LSN on, file number, descriptor.
    pub(crate) pieces: Vec<(u64, u32, Handle)>,
    window: Window,
}

#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

/// What stands in the log directory besides good segments.
#[derive(Default)]
pub(crate) struct Leftovers {
    /// Files whose header was never written: prepared and not used, or cut before their first
    /// flush.
    pub(crate) blank: Vec<String>,
    /// Continuations that were never adopted.
    pub(crate) unadopted: Vec<String>,
    /// Files with a header that is damaged, and why.
    pub(crate) damaged: Vec<(String, Bad)>,
    /// Temporary files of a preparation or of a sidecar.
    pub(crate) temporary: Vec<String>,
    /// Names that keepq never makes.
    pub(crate) foreign: Vec<String>,
    /// Highest number of any segment file.
    pub(crate) highest: u64,
}

/// Opens every segment in the log directory, by number.
pub(crate) fn open_segments(
    dir: &Dir,
    uuid: &[u8; 16],
) -> Result<(BTreeMap<u64, Source>, Leftovers)> {
    let mut left = Leftovers::default();
    let mut files: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for name in dir.list(LOG_DIR)? {
        if let Some(n) = parse_file_name(&name) {
            left.highest = left.highest.max(u64::from(n.number));
            files.entry(u64::from(n.number)).or_default().push(n.file);
        } else if name.ends_with(".pre") || name.contains(".idx.") {
            left.temporary.push(name);
        } else if !name.ends_with(".idx") {
            left.foreign.push(name);
        }
    }
    let mut sources = BTreeMap::new();
    for (number, mut names) in files {
        names.sort_unstable();
        if let Some(source) = open_segment(dir, uuid, number, &names, &mut left)? {
            sources.insert(number, source);
        }
    }
    Ok((sources, left))
}

fn open_segment(
    dir: &Dir,
    uuid: &[u8; 16],
    number: u64,
    files: &[u32],
    left: &mut Leftovers,
) -> Result<Option<Source>> {
    let mut source: Option<Source> = None;
    // A first file with a damaged header: a continuation knows what the header said.
    let mut headless = None;
    for &file in files {
        let name = file_name(u32::try_from(number).unwrap_or(u32::MAX), file);
        let handle = dir.open(&Log::path(&name), Open::Read)?;
        let mut block = [0; HEADER_BLOCK];
        let read = handle.read_at(&mut block, 0)?;
        let header = match SegmentHeader::decode(&block[..read]) {
            Ok(header) if header.uuid == *uuid && u64::from(header.number) == number => header,
            Ok(_) => {
                left.damaged.push((name, Bad::Value));
                continue;
            }
            Err(Bad::Zero) => {
                left.blank.push(name);
                continue;
            }
            // A file that ends before its header does was never finished.
            Err(Bad::Length) if read == 0 => {
                left.blank.push(name);
                continue;
            }
            Err(bad) => {
                left.damaged.push((name, bad));
                if file == 0 {
                    headless = Some((0, 0, handle));
                }
                continue;
            }
        };
        // The block is written only when all else in the file is synced, so a damaged one still
        // says that the file was about to count: what it holds is whole.
        let counts = file == 0 || adoption(&block, &header) != Adoption::No;
        if !counts {
            left.unadopted.push(name);
            continue;
        }
        let from = if file == 0 { 0 } else { header.continues_at };
        match &mut source {
            Some(source) => source.pieces.push((from, file, handle)),
            None => {
                let mut pieces: Vec<_> = headless.take().into_iter().collect();
                pieces.push((from, file, handle));
                source = Some(Source {
                    number,
                    header,
                    pieces,
                    window: Window::default(),
                });
            }
        }
    }
    Ok(source)
}

impl Source {
    /// A segment whose header is known but whose files hold nothing yet.
    pub(crate) fn without_file(number: u64, header: SegmentHeader) -> Self {
        Self {
            number,
            header,
            pieces: Vec::new(),
            window: Window::default(),
        }
    }

    /// First LSN of its records.
    pub(crate) fn first(&self) -> u64 {
        self.header.base + HEADER_SPAN
    }

    /// First LSN behind its file.
    pub(crate) fn limit(&self) -> u64 {
        self.header.end()
    }

    /// The file that is the authority for `lsn`, and where that ends.
    pub(crate) fn piece(&self, lsn: u64) -> Option<(u32, &Handle, u64)> {
        let at = self.pieces.iter().rposition(|(from, _, _)| *from <= lsn)?;
        let end = self
            .pieces
            .get(at + 1)
            .map_or(self.limit(), |(from, _, _)| *from);
        self.pieces
            .get(at)
            .map(|(_, file, handle)| (*file, handle, end))
    }

    /// The bytes of the log at `lsn`, at least `want` of them unless the segment ends before.
    fn bytes_at(&mut self, lsn: u64, want: usize) -> Result<&[u8]> {
        let have = |w: &Window| {
            let at = usize::try_from(lsn.checked_sub(w.start)?).ok()?;
            let missing = self.limit().saturating_sub(w.start + w.bytes.len() as u64);
            let long_enough = w.bytes.len().checked_sub(at)? >= want || missing == 0;
            long_enough.then_some(at)
        };
        if let Some(at) = have(&self.window) {
            return Ok(&self.window.bytes[at..]);
        }
        let mut bytes = std::mem::take(&mut self.window.bytes);
        let span = (self.limit().saturating_sub(lsn)).min(WINDOW.max(want) as u64);
        bytes.clear();
        bytes.resize(usize::try_from(span).unwrap_or(0), 0);
        let mut at = lsn;
        while at < lsn + span {
            let Some((_, handle, end)) = self.piece(at) else {
                // Its first file is gone; what a continuation holds comes behind this place.
                match self.pieces.first() {
                    Some((from, _, _)) => at = *from,
                    None => break,
                }
                continue;
            };
            let from = usize::try_from(at - lsn).unwrap_or(0);
            let to = usize::try_from(end.min(lsn + span) - lsn).unwrap_or(0);
            // What a shorter file does not hold stays zero: nothing was written there.
            handle.read_at(&mut bytes[from..to], at - self.header.base)?;
            at = lsn + to as u64;
        }
        self.window = Window { start: lsn, bytes };
        Ok(&self.window.bytes)
    }

    /// The record at `lsn`, or why there is none. The outer error is an I/O error.
    pub(crate) fn record(&mut self, lsn: u64) -> Result<Result<Record<'_>, Bad>> {
        if lsn + HEADER as u64 > self.limit() {
            return Ok(Err(Bad::Zero));
        }
        let salt = self.header.salt;
        let len = match record::parse_header(self.bytes_at(lsn, HEADER)?, lsn, salt) {
            Ok(header) => header.padded_len(),
            Err(bad) => return Ok(Err(bad)),
        };
        if len > MAX_RECORD || lsn + len as u64 > self.limit() {
            return Ok(Err(Bad::Length));
        }
        Ok(record::parse(self.bytes_at(lsn, len)?, lsn, salt))
    }

    /// The first LSN at or after `from` where a record with valid checksums stands.
    pub(crate) fn find_record(&mut self, from: u64) -> Result<Option<u64>> {
        let mut lsn = from.next_multiple_of(ALIGN as u64);
        while lsn < self.limit() {
            let bytes = self.bytes_at(lsn, HEADER)?;
            // Zeros are passed over quickly: most of a segment's rest is zero.
            let zeros = bytes.iter().take_while(|&&b| b == 0).count();
            if zeros >= bytes.len() {
                lsn += (bytes.len() & !(ALIGN - 1)).max(ALIGN) as u64;
                continue;
            }
            lsn += (zeros & !(ALIGN - 1)) as u64;
            // Whole records of zeros were passed; this one starts with something.
            if self.record(lsn)?.is_ok() {
                return Ok(Some(lsn));
            }
            lsn += ALIGN as u64;
        }
        Ok(None)
    }

    /// Whether everything from `lsn` to the end of the file is zero; else where it is not.
    pub(crate) fn first_nonzero(&mut self, from: u64) -> Result<Option<u64>> {
        let mut lsn = from;
        while lsn < self.limit() {
            let bytes = self.bytes_at(lsn, 1)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if let Some(at) = bytes.iter().position(|&b| b != 0) {
                return Ok(Some(lsn + at as u64));
            }
            lsn += bytes.len() as u64;
        }
        Ok(None)
    }

    /// The log's bytes `[from, to)`.
    pub(crate) fn copy(&mut self, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = from;
        while at < to {
            let bytes = self.bytes_at(at, 1)?;
            let take = bytes.len().min(usize::try_from(to - at).unwrap_or(0));
            if take == 0 {
                break;
            }
            out.extend_from_slice(&bytes[..take]);
            at += take as u64;
        }
        Ok(out)
    }
}

impl Log {
    /// Reads the records of a sealed segment in order. Damaged ones are passed over: whoever needs
    /// them gets the error when reading them.
    pub(crate) fn scan_segment(
        &self,
        segment: &Arc<Segment>,
        visit: &mut dyn FnMut(u64, &Record<'_>),
    ) -> Result<()> {
        let mut left = Leftovers::default();
        let files: Vec<u32> = segment.pieces.iter().map(|(_, file)| *file).collect();
        let source = open_segment(&self.dir, &self.uuid, segment.number, &files, &mut left)?;
        let Some(mut source) = source else {
            let why = left
                .damaged
                .first()
                .map_or("its header is missing".to_owned(), |(_, bad)| {
                    format!("its header: {bad}")
                });
            return Err(Error::new(
                crate::Code::Corrupt,
                format!(
                    "segment {} of the log cannot be read: {why}",
                    segment.number
                ),
            )
            .at_path(self.dir.display(LOG_DIR)));
        };
        let mut lsn = source.first();
        while lsn < segment.end {
            let step = match source.record(lsn)? {
                Ok(record) => {
                    visit(lsn, &record);
                    if record.header.kind == Kind::Seal as u8 {
                        return Ok(());
                    }
                    Some(record.header.padded_len() as u64)
                }
                Err(_) => None,
            };
            lsn = match step {
                Some(len) => lsn + len,
                None => match source.find_record(lsn + ALIGN as u64)? {
                    Some(next) => next,
                    None => return Ok(()),
                },
            };
        }
        Ok(())
    }
}
