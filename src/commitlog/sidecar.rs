//! The index of a sealed segment: written once from shared memory, rebuilt from the log if lost.
//!
//! A sidecar holds nothing that the segment does not: it is written without fsync, checked by its
//! own CRCs and against the segment's header, and made again by a scan when it is missing, damaged
//! or describes another end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::append::region_of;
use super::catalog::{Contents, InSegment, Segment};
use super::links::Brief;
use super::{HEADER_SPAN, Log};
use crate::error::{Error, Result};
use crate::format::message::Meta;
use crate::format::payload::{self, Release};
use crate::format::record::{Kind, Record};
use crate::format::segment::sidecar_name;
use crate::format::sidecar::{Sidecar, SidecarBuilder, SidecarHeader};
use crate::shm::control::{
    BLOCK_ENTRIES, G_TOPICS, R_END, T_INDEX, T_INDEX_SIZE, T_STATE, W_DURABLE, X_MIN_REF, X_NUMBER,
};
use crate::shm::id::id_in;
use crate::sys::Open;

/// How many sidecars are kept in memory (about 1 MiB each for full segments).
const KEPT: usize = 6;
/// No sidecar is larger: four bytes for each 16 of the largest segment, and some.
const LARGEST: usize = 320 << 20;

/// Sidecars in use, the most recently used last.
#[derive(Default)]
pub(crate) struct Cache {
    kept: VecDeque<Arc<Sidecar>>,
}

impl Log {
    /// The index of a sealed segment.
    pub(crate) fn sidecar(&self, segment: &Arc<Segment>) -> Result<Arc<Sidecar>> {
        let same = |s: &Sidecar| {
            u64::from(s.header.number) == segment.number
                && s.header.base == segment.base
                && s.header.end == segment.end
                && s.header.salt == segment.salt
                && s.header.uuid == self.uuid
        };
        let mut cache = self.sidecars.lock();
        if let Some(at) = cache.kept.iter().position(|s| same(s)) {
            if let Some(found) = cache.kept.remove(at) {
                cache.kept.push_back(Arc::clone(&found));
                return Ok(found);
            }
        }
        let loaded = match self.load_sidecar(segment)? {
            Some(sidecar) if same(&sidecar) => sidecar,
            _ => self.rebuild_sidecar(segment)?,
        };
        let loaded = Arc::new(loaded);
        cache.kept.push_back(Arc::clone(&loaded));
        if cache.kept.len() > KEPT {
            cache.kept.pop_front();
        }
        Ok(loaded)
    }

    /// The sealed segments below number `below` that have messages of the topic from `from` on.
    pub(super) fn sealed_with(
        &self,
        topic: u32,
        from: u64,
        below: u64,
    ) -> Result<Vec<Arc<Segment>>> {
        let mut found = self.sealed_from(0)?;
        found.retain(|s| s.number < below);
        // Sequences ascend with segments: everything before the first that reaches `from` is done.
        for (at, segment) in found.iter().enumerate() {
            let streams = &self.contents(segment)?.streams;
            let found_at = streams.binary_search_by_key(&topic, |s| s.stream);
            if found_at.is_ok_and(|i| streams[i].end > from) {
                return Ok(found.split_off(at));
            }
        }
        Ok(Vec::new())
    }

    /// The streams of a sealed segment, ascending.
    pub(crate) fn streams<'s>(&self, segment: &'s Arc<Segment>) -> Result<&'s [InSegment]> {
        Ok(&self.contents(segment)?.streams)
    }

    /// What a sealed segment holds, in brief.
    pub(super) fn contents<'s>(&self, segment: &'s Arc<Segment>) -> Result<&'s Contents> {
        if let Some(contents) = segment.contents.get() {
            return Ok(contents);
        }
        let sidecar = self.sidecar(segment)?;
        let streams = sidecar
            .streams()
            .filter_map(|stream| {
                Some(InSegment {
                    stream,
                    first: sidecar.first_seq(stream)?,
                    end: sidecar.end_seq(stream)?,
                    count: sidecar.count(stream),
                })
            })
            .collect();
        let links = Brief::of(&sidecar.links);
        Ok(segment.contents.get_or_init(|| Contents { streams, links }))
    }

    fn load_sidecar(&self, segment: &Segment) -> Result<Option<Sidecar>> {
        let path = self.sidecar_path(segment.number)?;
        match self.dir.read_small(&path, LARGEST) {
            Ok(bytes) => Ok(Sidecar::parse(&bytes).ok()),
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) if e.code() == crate::Code::Corrupt => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn sidecar_path(&self, number: u64) -> Result<String> {
        let number = u32::try_from(number)
            .map_err(|_| self.ctl.damaged("a segment's number is impossible"))?;
        Ok(Self::path(&sidecar_name(number)))
    }

    /// Builds the index by reading the whole segment, and stores it for others if that works.
    ///
    /// Only of one that is durable to its end: what is still in the ring would be missing from the
    /// index for ever, and those messages would count as settled.
    fn rebuild_sidecar(&self, segment: &Arc<Segment>) -> Result<Sidecar> {
        if segment.end > self.ctl.load(W_DURABLE) {
            return Err(Error::new(
                crate::Code::Internal,
                format!(
                    "segment {} is to be indexed before it is durable",
                    segment.number
                ),
            )
            .at_position(segment.base));
        }
        let mut builder = self.builder(segment);
        let mut problem = None;
        let mut end = segment.base + HEADER_SPAN;
        self.scan_segment(segment, &mut |lsn, record| {
            if lsn > end {
                builder.note_hole(end, lsn);
            }
            end = lsn + record.header.padded_len() as u64;
            if let Err(bad) = index_record(&mut builder, lsn, record) {
                problem.get_or_insert((lsn, bad));
            }
        })?;
        if let Some((lsn, bad)) = problem {
            return Err(Error::new(
                crate::Code::Corrupt,
                format!(
                    "the index of segment {} cannot be built: {bad}",
                    segment.number
                ),
            )
            .at_position(lsn));
        }
        let bytes = builder.finish();
        let parsed = Sidecar::parse(&bytes).map_err(|bad| {
            let text = format!(
                "the index of segment {} ({:#x} to {:#x}): {bad}",
                segment.number, segment.base, segment.end
            );
            Error::new(crate::Code::Internal, text)
        })?;
        // Only a convenience for the next reader: failing to keep it is no error.
        let _ = self.store_sidecar(segment.number, &bytes);
        Ok(parsed)
    }

    /// Makes the index file of a sealed segment again if it is missing or broken. Returns whether
    /// it was.
    pub(crate) fn restore_sidecar(&self, segment: &Arc<Segment>) -> Result<bool> {
        let same = |s: &Sidecar| {
            u64::from(s.header.number) == segment.number
                && s.header.base == segment.base
                && s.header.end == segment.end
                && s.header.salt == segment.salt
                && s.header.uuid == self.uuid
        };
        if self.load_sidecar(segment)?.is_some_and(|s| same(&s)) {
            return Ok(false);
        }
        self.rebuild_sidecar(segment)?;
        Ok(true)
    }

    fn builder(&self, segment: &Segment) -> SidecarBuilder {
        SidecarBuilder::new(SidecarHeader {
            number: u32::try_from(segment.number).unwrap_or(0),
            uuid: self.uuid,
            base: segment.base,
            end: segment.end,
            salt: segment.salt,
            min_ref: u64::MAX,
            min_time: u64::MAX,
            max_time: 0,
        })
    }

    fn store_sidecar(&self, number: u64, bytes: &[u8]) -> Result<()> {
        let path = self.sidecar_path(number)?;
        let temporary = format!("{path}.{:016x}", self.ctl.host.random());
        let handle = self.dir.open(&temporary, Open::Create)?;
        let written = handle.write_all_at(bytes, 0);
        let result = written.and_then(|()| self.dir.rename(&temporary, &path));
        if result.is_err() {
            let _ = self.dir.unlink_if_there(&temporary);
        }
        result
    }

    /// Writes the sidecar of the sealed segment that still occupies an index region, once it is
    /// durable, and frees the region. The maintenance byte is held. Returns whether one was freed.
    pub(crate) fn write_pending_sidecar(&self, active: u64) -> Result<bool> {
        let ctl = &self.ctl;
        let other = 1 - region_of(active);
        let number = ctl.load(ctl.layout.region(other, X_NUMBER));
        if number == 0 || number >= active {
            return Ok(false);
        }
        let end = ctl.load(ctl.layout.recent(number, R_END));
        if end == 0 || end > ctl.load(W_DURABLE) {
            return Ok(false);
        }
        let Some(segment) = self
            .sealed_from(number)?
            .into_iter()
            .find(|s| s.number == number)
        else {
            return Err(self.ctl.damaged("a sealed segment is not listed"));
        };
        let bytes = self.sidecar_from_control(&segment, other)?;
        if self.store_sidecar(number, &bytes).is_err() {
            // A full disk: the index is rebuilt from the segment when it is needed.
            self.dir.unlink_if_there(&self.sidecar_path(number)?)?;
        }
        let mut tx = ctl.begin(ctl.patience())?;
        if tx.get(ctl.layout.region(other, X_NUMBER)) == number {
            tx.set(ctl.layout.region(other, X_NUMBER), 0);
        }
        tx.commit();
        crate::shm::wake::room_made(ctl);
        Ok(true)
    }

    /// The sealed region's content does not change any more, so it is read without the lock.
    fn sidecar_from_control(&self, segment: &Arc<Segment>, region: usize) -> Result<Vec<u8>> {
        let ctl = &self.ctl;
        let mut builder = self.builder(segment);
        builder.header_mut().min_ref = ctl.load(ctl.layout.region(region, X_MIN_REF));
        let mut entries = Vec::new();
        let topics = u32::try_from(ctl.global(G_TOPICS)).unwrap_or(0);
        for place in 0..topics.min(ctl.layout.geometry.topics) {
            // A topic that was deleted meanwhile needs no index, and another may have its place.
            let state = ctl.layout.topic(place, T_STATE);
            let topic = id_in(ctl.load(state));
            let at = |word: usize| {
                ctl.layout
                    .topic(topic, T_INDEX + region * T_INDEX_SIZE + word * 8)
            };
            if ctl.load(at(0)) != segment.number {
                continue;
            }
            let (first, count) = (ctl.load(at(1)), ctl.load(at(2)));
            let mut walk = super::index::Walk::new(ctl, region, ctl.load(at(3)));
            let before = entries.len();
            for i in 0..count.min(u64::from(ctl.layout.geometry.blocks) * BLOCK_ENTRIES) {
                let Some(offset) = walk.next(ctl) else { break };
                entries.push((segment.base + offset, topic, first + i));
            }
            if ctl.load(at(0)) != segment.number || id_in(ctl.load(state)) != topic {
                entries.truncate(before);
            } else if ((entries.len() - before) as u64) < count {
                return Err(ctl.damaged("an index chain ends early"));
            }
        }
        *builder.links_mut() = self.links_of(segment)?;
        entries.sort_unstable();
        for (lsn, topic, seq) in entries {
            if lsn < segment.base + HEADER_SPAN || lsn >= segment.end {
                return Err(ctl.damaged("an index entry lies outside its segment"));
            }
            builder
                .push(topic, seq, lsn)
                .map_err(|bad| ctl.damaged(&format!("an index: {bad}")))?;
        }
        Ok(builder.finish())
    }
}

/// Adds what a record contributes to the index of its segment.
pub(crate) fn index_record(
    builder: &mut SidecarBuilder,
    lsn: u64,
    record: &Record<'_>,
) -> Result<(), crate::format::Bad> {
    let header = &record.header;
    if !broken!(MovedNotIndexed) {
        builder.links_mut().add(lsn, record)?;
    }
    match header.kind()? {
        Some(Kind::Msg) => {
            note_message(builder, record.ext)?;
            builder.push(header.stream, header.seq, lsn)
        }
        Some(Kind::Release) => {
            note_release(builder, record.body)?;
            builder.push(header.stream, header.seq, lsn)
        }
        Some(Kind::Batch) => {
            for sub in payload::iter(record.body) {
                let sub = sub?;
                match sub.kind()? {
                    Some(Kind::Msg) => note_message(builder, sub.ext)?,
                    Some(Kind::Release) => note_release(builder, sub.body)?,
                    _ => continue,
                }
                builder.push(sub.stream, sub.seq, lsn)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn note_message(builder: &mut SidecarBuilder, ext: &[u8]) -> Result<(), crate::format::Bad> {
    let meta = Meta::decode(ext)?;
    let header = builder.header_mut();
    header.min_time = header.min_time.min(meta.sent_at_ms);
    header.max_time = header.max_time.max(meta.sent_at_ms);
    if let Some(chunks) = meta.chunks {
        header.min_ref = header.min_ref.min(chunks.first_lsn);
    }
    Ok(())
}

fn note_release(builder: &mut SidecarBuilder, body: &[u8]) -> Result<(), crate::format::Bad> {
    let origin = Release::decode(body)?.origin_lsn;
    let header = builder.header_mut();
    header.min_ref = header.min_ref.min(origin);
    Ok(())
}
