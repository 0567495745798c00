//! Which file of the log holds a position: the segments of the store, as this process knows them.
//!
//! Segments that may hold bytes not yet durable are in shared memory ([`super::recent`]); all
//! others are known by their headers on disk. What was read is kept until the words it depends on
//! (active and oldest segment, reseals, rollbacks) change; then the directory is listed again and
//! only new headers are read. After a rollback all are: a roll may have been seen that never was.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{HEADER_SPAN, LOG_DIR, Log};
use crate::error::{Code, Error, Result};
use crate::format::segment::{
    Adoption, HEADER_BLOCK, SegmentHeader, adoption, file_name, parse_file_name,
};
use crate::shm::control::{G_ACTIVE, G_OLDEST, W_RESEALS, W_ROLLBACKS};
use crate::sys::{Handle, Open};

/// What makes a catalog stale when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Key {
    active: u64,
    oldest: u64,
    reseals: u64,
    rollbacks: u64,
}

/// The segments known to this process.
#[derive(Default)]
pub(crate) struct Catalog {
    key: Key,
    by_base: BTreeMap<u64, Arc<Segment>>,
}

/// The file numbers of each segment that has files.
type Files = BTreeMap<u64, Vec<u32>>;

/// A segment on disk.
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) base: u64,
    /// End of its records; `u64::MAX` for the active one.
    pub(crate) end: u64,
    pub(crate) limit: u64,
    pub(crate) salt: u64,
    /// Its files, from the oldest: (authority from this LSN on, file number).
    pub(crate) pieces: Vec<(u64, u32)>,
    handles: Mutex<BTreeMap<u32, Handle>>,
    /// From its sidecar, read once.
    pub(super) contents: OnceLock<Contents>,
}

/// What a sealed segment holds.
pub(super) struct Contents {
    /// Its streams, ascending.
    pub(super) streams: Box<[InSegment]>,
    /// What its links are about.
    pub(super) links: super::links::Brief,
}

/// The messages of a stream in a segment.
pub(crate) struct InSegment {
    pub(crate) stream: u32,
    pub(crate) first: u64,
    /// The sequence after the last.
    pub(crate) end: u64,
    pub(crate) count: u64,
}

impl Segment {
    /// The number of the file that is the authority for `lsn`.
    pub(crate) fn file_for(&self, lsn: u64) -> u32 {
        self.pieces
            .iter()
            .rev()
            .find(|(from, _)| *from <= lsn)
            .map_or(0, |(_, file)| *file)
    }

    /// Where the authority of the file for `lsn` ends.
    pub(crate) fn piece_end(&self, lsn: u64) -> u64 {
        self.pieces
            .iter()
            .map(|(from, _)| *from)
            .find(|from| *from > lsn)
            .unwrap_or(self.end)
    }
}

/// Whether a file was not there.
pub(super) fn is_missing(error: &Error) -> bool {
    error.errno() == Some(libc::ENOENT)
}

impl Log {
    /// The segment whose records include `lsn`, which lies below `durable`.
    pub(crate) fn segment_at(&self, lsn: u64) -> Result<Option<Arc<Segment>>> {
        let mut catalog = self.catalog.lock();
        self.refresh(&mut catalog)?;
        let found = catalog.by_base.range(..=lsn).next_back().map(|(_, s)| s);
        Ok(found
            .filter(|s| lsn >= s.base + HEADER_SPAN && lsn < s.end.min(s.limit))
            .cloned())
    }

    /// The segments from this number on, ascending, but for the active one.
    pub(crate) fn sealed_from(&self, number: u64) -> Result<Vec<Arc<Segment>>> {
        Ok(self.sealed_and_active(number)?.0)
    }

    /// The same, and the number of the segment that was active then: the log may roll on at any
    /// time, and what is active now says nothing about what was listed.
    pub(crate) fn sealed_and_active(&self, number: u64) -> Result<(Vec<Arc<Segment>>, u64)> {
        let mut catalog = self.catalog.lock();
        self.refresh(&mut catalog)?;
        let active = catalog.key.active;
        let sealed = catalog
            .by_base
            .values()
            .filter(|s| s.number >= number && s.number < active);
        Ok((sealed.cloned().collect(), active))
    }

    /// Forgets descriptors and names, so that the next look-up starts afresh.
    pub(crate) fn forget_files(&self) {
        *self.catalog.lock() = Catalog::default();
    }

    /// Closes the descriptors that the segments up to this number were read through: what is open
    /// holds the space of a file that is removed, and this process may not read again for long.
    pub(crate) fn close_files_to(&self, number: u64) {
        let catalog = self.catalog.lock();
        for segment in catalog.by_base.values().filter(|s| s.number <= number) {
            segment.handles.lock().clear();
        }
    }

    fn refresh(&self, catalog: &mut Catalog) -> Result<()> {
        loop {
            // First: what is read after it may be rolled back, which then changes it.
            let rollbacks = self.ctl.load(W_ROLLBACKS);
            let key = Key {
                active: self.ctl.global(G_ACTIVE),
                oldest: self.ctl.global(G_OLDEST),
                reseals: self.ctl.load(W_RESEALS),
                rollbacks,
            };
            if catalog.key == key {
                return Ok(());
            }
            let same = |k: &Key| (k.reseals, k.rollbacks);
            let kept = if same(&catalog.key) == same(&key) {
                std::mem::take(&mut catalog.by_base)
            } else {
                BTreeMap::new()
            };
            match self.list_segments(&key, kept) {
                Ok(found) => {
                    catalog.by_base = found;
                    catalog.key = key;
                }
                // Reclaimed between the listing and the look at its header.
                Err(e) if is_missing(&e) && self.ctl.global(G_OLDEST) != key.oldest => {
                    *catalog = Catalog::default();
                }
                // A roll that was rolled back meanwhile: its segment has no header.
                Err(_) if self.ctl.load(W_ROLLBACKS) != rollbacks => {
                    *catalog = Catalog::default();
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads the directory; what is in `kept` and was sealed then is not read again.
    fn list_segments(
        &self,
        key: &Key,
        kept: BTreeMap<u64, Arc<Segment>>,
    ) -> Result<BTreeMap<u64, Arc<Segment>>> {
        let mut files = Files::new();
        for name in self.dir.list(LOG_DIR)? {
            if let Some(n) = parse_file_name(&name) {
                let number = u64::from(n.number);
                if (key.oldest..=key.active).contains(&number) {
                    files.entry(number).or_default().push(n.file);
                }
            }
        }
        let known: BTreeMap<u64, Arc<Segment>> = kept
            .into_values()
            .filter(|s| s.end != u64::MAX && s.number >= key.oldest)
            .map(|s| (s.number, s))
            .collect();
        let mut found = BTreeMap::new();
        // From the newest down: each one's predecessor ends where its header says.
        let mut next: Option<SegmentHeader> = None;
        for (&number, names) in files.iter().rev() {
            if let Some(segment) = known.get(&number) {
                found.insert(segment.base, Arc::clone(segment));
                next = None;
                continue;
            }
            let (segment, header) = self.describe(number, names, (next.as_ref(), &files))?;
            found.insert(segment.base, Arc::new(segment));
            next = header;
        }
        Ok(found)
    }

    /// Describes a segment from shared memory if it is recent, else from its headers.
    fn describe(
        &self,
        number: u64,
        files: &[u32],
        (next, all): (Option<&SegmentHeader>, &Files),
    ) -> Result<(Segment, Option<SegmentHeader>)> {
        let recent = self.recent(number);
        let header = match recent {
            Some(_) => None,
            None => Some(self.any_header(number, files)?),
        };
        let mut pieces = vec![(0, 0)];
        let mut sorted: Vec<u32> = files.iter().copied().filter(|&f| f != 0).collect();
        sorted.sort_unstable();
        for file in sorted {
            if let Some(h) = self.adopted_header(number, file)? {
                pieces.push((h.continues_at, file));
            }
        }
        let (base, limit, salt, end) = match (&recent, &header) {
            (Some(r), _) => (r.base, r.limit, r.salt, r.end),
            (None, Some(h)) => {
                let end = match next {
                    Some(n) => n.prev_end,
                    None => self.end_before(number + 1, all)?,
                };
                (h.base, h.end(), h.salt, end)
            }
            (None, None) => return Err(self.ctl.damaged("a segment is unknown")),
        };
        let handles = Mutex::new(BTreeMap::new());
        let contents = OnceLock::new();
        Ok((
            Segment {
                number,
                base,
                end,
                limit,
                salt,
                pieces,
                handles,
                contents,
            },
            header,
        ))
    }

    /// Where the log ended before the first segment that is there from this number on.
    fn end_before(&self, number: u64, all: &Files) -> Result<u64> {
        match all.range(number..).next() {
            Some((&next, files)) => Ok(self.any_header(next, files)?.prev_end),
            None => Err(self
                .ctl
                .damaged("the segment after a sealed one is missing")),
        }
    }

    /// The header of a segment: of its first file, or of a continuation that replaces all of it.
    fn any_header(&self, number: u64, files: &[u32]) -> Result<SegmentHeader> {
        let first = self.file_header(number, 0);
        let unknown = |e: &Error| e.code() == Code::Corrupt || e.errno() == Some(libc::ENOENT);
        if first.as_ref().is_err_and(unknown) {
            for &file in files.iter().filter(|&&f| f != 0) {
                if let Some(header) = self.adopted_header(number, file)? {
                    return Ok(header);
                }
            }
        }
        first
    }

    /// The header of a file of the log, checked to belong to this store.
    pub(crate) fn file_header(&self, number: u64, file: u32) -> Result<SegmentHeader> {
        Ok(self.header_block(number, file)?.1)
    }

    fn header_block(&self, number: u64, file: u32) -> Result<([u8; HEADER_BLOCK], SegmentHeader)> {
        let short = u32::try_from(number)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let path = Self::path(&file_name(short, file));
        let handle = self.dir.open(&path, Open::Read)?;
        let mut block = [0; HEADER_BLOCK];
        let read = handle.read_at(&mut block, 0)?;
        let corrupt = |why: String| {
            Error::new(
                Code::Corrupt,
                format!(
                    "the header of {}: {why}; run keepq verify",
                    handle.display().display()
                ),
            )
            .at_path(handle.display())
            .at_position(0)
        };
        let header =
            SegmentHeader::decode(&block[..read]).map_err(|bad| corrupt(bad.to_string()))?;
        if header.uuid != self.uuid || u64::from(header.number) != number || header.file != file {
            return Err(corrupt("it belongs to another file or store".to_owned()));
        }
        Ok((block, header))
    }

    /// The header of a continuation that counts.
    fn adopted_header(&self, number: u64, file: u32) -> Result<Option<SegmentHeader>> {
        match self.header_block(number, file) {
            Ok((block, header)) => {
                Ok((adoption(&block, &header) != Adoption::No).then_some(header))
            }
            Err(e) if e.code() == Code::Corrupt => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A descriptor for reading `lsn`'s file; kept for the next time unless `fresh` is asked for.
    pub(crate) fn reader(&self, segment: &Segment, lsn: u64, fresh: bool) -> Result<Handle> {
        let file = segment.file_for(lsn);
        let mut handles = segment.handles.lock();
        if let Some(handle) = handles.get(&file).filter(|_| !fresh) {
            return Ok(handle.clone());
        }
        let number = u32::try_from(segment.number)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        let handle = self
            .dir
            .open(&Self::path(&file_name(number, file)), Open::Read)?;
        handles.insert(file, handle.clone());
        Ok(handle)
    }
}
