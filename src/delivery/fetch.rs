//! Reading a message that was claimed: through batches, releases and chunks, to its body.

use crate::commitlog::Log;
use crate::commitlog::read::{ReadAhead, Stored};
use crate::error::{Code, Error, Result};
use crate::format::Bad;
use crate::format::message::{Meta, only_sent_at};
use crate::format::payload::{self, Release};
use crate::format::record::Kind;
use crate::options::limits;

/// A message as the log holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Its identity: the LSN of its first record.
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) sent_at_ms: u64,
    /// What few messages have, elsewhere: whoever moves a message about moves the less.
    more: Option<Box<More>>,
}

/// What a message may have besides its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct More {
    key: Option<String>,
    tag: Option<String>,
    order_key: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    producer: Option<(String, u64)>,
}

impl Fetched {
    pub(crate) fn key(&self) -> Option<&str> {
        self.more.as_ref()?.key.as_deref()
    }

    pub(crate) fn tag(&self) -> Option<&str> {
        self.more.as_ref()?.tag.as_deref()
    }

    pub(crate) fn order_key(&self) -> Option<&str> {
        self.more.as_ref()?.order_key.as_deref()
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = self.more.iter().flat_map(|more| &more.headers);
        headers.map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    pub(crate) fn producer(&self) -> Option<(&str, u64)> {
        let producer = self.more.as_ref()?.producer.as_ref();
        producer.map(|(name, seq)| (name.as_str(), *seq))
    }
}

/// One part of a record: a record of its own, or one inside a batch.
struct Part<'a> {
    kind: Kind,
    lsn: u64,
    ext: &'a [u8],
    body: &'a [u8],
}

/// Reads the message with this sequence of this stream, which the index places at `lsn`.
pub(crate) fn fetch(
    log: &Log,
    stream: u32,
    seq: u64,
    lsn: u64,
    ahead: &mut ReadAhead,
) -> Result<Fetched> {
    if let Some(fetched) = at_hand(stream, seq, lsn, ahead) {
        return Ok(fetched);
    }
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    if part.kind != Kind::Release {
        return message(log, &part, ahead);
    }
    released(log, lsn, release_of(log, lsn, &part)?)
}

/// The common case, with one copy of the body and none of the record: a message in one record that
/// was read ahead. Anything else, damage included, takes the long way.
#[inline]
fn at_hand(stream: u32, seq: u64, lsn: u64, ahead: &ReadAhead) -> Option<Fetched> {
    let record = ahead.record(lsn)?;
    let header = record.header;
    if header.kind() != Ok(Some(Kind::Msg)) || header.stream != stream || header.seq != seq {
        return None;
    }
    if let Some(sent_at_ms) = only_sent_at(record.ext) {
        return Some(Fetched {
            id: lsn,
            body: record.body.to_vec(),
            sent_at_ms,
            more: None,
        });
    }
    let meta = Meta::decode(record.ext).ok()?;
    if meta.chunks.is_some() {
        return None;
    }
    Some(fetched(lsn, record.body.to_vec(), &meta))
}

/// Reads the place that a dead letter has in its stream: where it comes from, and why.
pub(crate) fn fetch_release(
    log: &Log,
    stream: u32,
    seq: u64,
    lsn: u64,
    ahead: &mut ReadAhead,
) -> Result<Release> {
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    if part.kind != Kind::Release {
        return Err(wrong(log, lsn, Bad::Kind));
    }
    release_of(log, lsn, &part)
}

/// When a message was sent, or a dead letter was given up.
pub(crate) fn time_of(
    log: &Log,
    stream: u32,
    seq: u64,
    lsn: u64,
    ahead: &mut ReadAhead,
) -> Result<u64> {
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    if part.kind == Kind::Release {
        return Ok(release_of(log, lsn, &part)?.dead_at_ms);
    }
    let meta = Meta::decode(part.ext).map_err(|bad| wrong(log, part.lsn, bad))?;
    Ok(meta.sent_at_ms)
}

/// Whether a message has this key. Its body is not put together.
pub(crate) fn has_key(
    log: &Log,
    stream: u32,
    (seq, lsn): (u64, u64),
    key: &str,
    ahead: &mut ReadAhead,
) -> Result<bool> {
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    if part.kind == Kind::Release {
        let message = released(log, lsn, release_of(log, lsn, &part)?)?;
        return Ok(message.key() == Some(key));
    }
    let meta = Meta::decode(part.ext).map_err(|bad| wrong(log, part.lsn, bad))?;
    Ok(meta.key == Some(key))
}

/// The bytes of a message's body, and when it was sent.
pub(crate) fn size_of(
    log: &Log,
    stream: u32,
    seq: u64,
    lsn: u64,
    ahead: &mut ReadAhead,
) -> Result<(u64, u64)> {
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    let meta = Meta::decode(part.ext).map_err(|bad| wrong(log, part.lsn, bad))?;
    let bytes = body_len(&meta, part.body);
    Ok((bytes, meta.sent_at_ms))
}

/// The bytes of a message's body, also if it lies in chunks.
pub(crate) fn body_len(meta: &Meta<'_>, body: &[u8]) -> u64 {
    meta.chunks.map_or(body.len() as u64, |c| c.body_len)
}

fn release_of(log: &Log, lsn: u64, part: &Part<'_>) -> Result<Release> {
    let release = Release::decode(part.body).map_err(|bad| wrong(log, lsn, bad))?;
    if release.origin_lsn >= lsn {
        return Err(wrong(log, lsn, Bad::Value));
    }
    Ok(release)
}

/// What `take` makes of a message without its body. The message has this sequence of this stream,
/// and the index places it at the LSN.
pub(crate) fn with_meta<T>(
    log: &Log,
    (stream, seq, lsn): (u32, u64, u64),
    ahead: &mut ReadAhead,
    take: impl Fn(&Meta<'_>) -> T,
) -> Result<T> {
    if let Some(record) = ahead.record(lsn) {
        let header = record.header;
        if header.kind() == Ok(Some(Kind::Msg)) && header.stream == stream && header.seq == seq {
            if let Ok(meta) = Meta::decode(record.ext) {
                return Ok(take(&meta));
            }
        }
    }
    let of_part = |part: &Part<'_>| {
        let meta = Meta::decode(part.ext).map_err(|bad| wrong(log, part.lsn, bad))?;
        Ok(take(&meta))
    };
    let stored = log.read(lsn, ahead)?;
    let part = find_part(&stored, stream, seq).map_err(|bad| wrong(log, lsn, bad))?;
    if part.kind != Kind::Release {
        return of_part(&part);
    }
    origin(log, lsn, release_of(log, lsn, &part)?, |part, _| {
        of_part(part)
    })
}

/// Reads the message that the RELEASE at `lsn` gives a place.
pub(crate) fn released(log: &Log, lsn: u64, release: Release) -> Result<Fetched> {
    origin(log, lsn, release, |part, ahead| message(log, part, ahead))
}

/// What `take` makes of the message that the RELEASE at `lsn` gives a place.
fn origin<T>(
    log: &Log,
    lsn: u64,
    release: Release,
    take: impl Fn(&Part<'_>, &mut ReadAhead) -> Result<T>,
) -> Result<T> {
    // The origin may itself be a release (a dead letter that was released again): bounded steps.
    let mut next = release;
    for _ in 0..16 {
        let mut elsewhere = ReadAhead::default();
        let at = next.origin_lsn;
        let stored = log.read(at, &mut elsewhere)?;
        let part = find_part(&stored, next.source_stream, next.source_seq)
            .map_err(|bad| wrong(log, at, bad))?;
        if part.kind != Kind::Release {
            return take(&part, &mut elsewhere);
        }
        next = Release::decode(part.body).map_err(|bad| wrong(log, at, bad))?;
        if next.origin_lsn >= at {
            return Err(wrong(log, at, Bad::Value));
        }
    }
    Err(wrong(log, lsn, Bad::Value))
}

fn wrong(log: &Log, lsn: u64, bad: Bad) -> Error {
    Error::new(
        Code::Corrupt,
        format!("the record at {lsn:#x} of the log is not the message it should be: {bad}"),
    )
    .at_path(log.dir.display(crate::commitlog::LOG_DIR))
    .at_position(lsn)
}

/// Finds the part that has this place in this stream.
fn find_part(stored: &Stored, stream: u32, seq: u64) -> Result<Part<'_>, Bad> {
    let header = &stored.header;
    match header.kind()? {
        Some(kind @ (Kind::Msg | Kind::Release)) => {
            if header.stream != stream || header.seq != seq {
                return Err(Bad::Value);
            }
            Ok(Part {
                kind,
                lsn: stored.lsn,
                ext: stored.ext(),
                body: stored.body(),
            })
        }
        Some(Kind::Batch) => {
            for sub in payload::iter(stored.body()) {
                let sub = sub?;
                let Some(kind @ (Kind::Msg | Kind::Release)) = sub.kind()? else {
                    continue;
                };
                if sub.stream == stream && sub.seq == seq {
                    let lsn = stored.lsn + sub.offset as u64;
                    return Ok(Part {
                        kind,
                        lsn,
                        ext: sub.ext,
                        body: sub.body,
                    });
                }
            }
            Err(Bad::Value)
        }
        _ => Err(Bad::Kind),
    }
}

fn message(log: &Log, part: &Part<'_>, ahead: &mut ReadAhead) -> Result<Fetched> {
    let meta = Meta::decode(part.ext).map_err(|bad| wrong(log, part.lsn, bad))?;
    let (id, body) = match meta.chunks {
        None => (part.lsn, part.body.to_vec()),
        Some(chunks) => {
            let len = usize::try_from(chunks.body_len).unwrap_or(usize::MAX);
            let count = chunks.count as usize;
            if len > 4 * limits::BODY || part.body.len() != count * 8 {
                return Err(wrong(log, part.lsn, Bad::Length));
            }
            (chunks.first_lsn, assemble(log, part, len, ahead)?)
        }
    };
    Ok(fetched(id, body, &meta))
}

fn fetched(id: u64, body: Vec<u8>, meta: &Meta<'_>) -> Fetched {
    let header = |(name, value): &(&str, &[u8])| ((*name).to_owned(), value.to_vec());
    let more = More {
        key: meta.key.map(str::to_owned),
        tag: meta.tag.map(str::to_owned),
        order_key: meta.order_key.map(str::to_owned),
        headers: meta.headers.iter().map(header).collect(),
        producer: meta.producer.map(|(name, seq)| (name.to_owned(), seq)),
    };
    Fetched {
        id,
        body,
        sent_at_ms: meta.sent_at_ms,
        more: (more != More::default()).then(|| Box::new(more)),
    }
}

/// Joins the chunks whose LSNs the message's record lists.
fn assemble(log: &Log, part: &Part<'_>, len: usize, ahead: &mut ReadAhead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    for word in part.body.chunks_exact(8) {
        let lsn = u64::from_le_bytes(word.try_into().unwrap_or_default());
        if lsn >= part.lsn {
            return Err(wrong(log, part.lsn, Bad::Value));
        }
        let chunk = log.read(lsn, ahead)?;
        if chunk.header.kind().ok().flatten() != Some(Kind::Chunk)
            || body.len() + chunk.body().len() > len
        {
            return Err(wrong(log, lsn, Bad::Value));
        }
        body.extend_from_slice(chunk.body());
    }
    if body.len() != len {
        return Err(wrong(log, part.lsn, Bad::Length));
    }
    Ok(body)
}
