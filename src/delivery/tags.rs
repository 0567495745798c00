//! The tags that a group wants, in shared memory: a list of texts in chained blocks of one pool.
//!
//! The list is kept sorted and without doubles. Everything that changes it holds lock E; whoever
//! keeps a copy compares the version.

use crate::commitlog::Log;
use crate::error::{Code, Error, Result};
use crate::format::payload::{BatchBuilder, Config};
use crate::format::record::{Draft, Kind};
use crate::options::limits;
use crate::shm::control::{G_TAG_FREE, G_TAG_TOP, P_TAGS, P_TAGS_VERSION, TAG_BLOCK};
use crate::shm::lock::low_half;
use crate::shm::{Ctl, Tx};

/// Bytes of text in a block.
const TEXT: usize = TAG_BLOCK - 8;
/// Bytes of the longest list: each tag has its length before it.
const LONGEST: usize = limits::TAGS * (1 + limits::KEY);

/// Sorted, without doubles: the form in which lists are compared and stored.
pub(crate) fn normal(mut tags: Vec<String>) -> Vec<String> {
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// A list as errors show it.
pub(crate) fn shown(tags: &[String]) -> String {
    format!("{tags:?}")
}

/// The record of a change of a group's options: with tags, both in one BATCH.
pub(crate) fn config_draft(
    log: &Log,
    id: u32,
    config: &Config,
    tags: Option<(u32, &[String])>,
) -> Result<Draft> {
    let body = config.encode();
    let Some((version, tags)) = tags else {
        return Ok(Draft::new(Kind::Config, 0, id, &[], &[&body]));
    };
    let tags = Config::GroupTags {
        id,
        version,
        tags: tags.to_vec(),
    }
    .encode();
    let wrong = |bad| Error::new(Code::Internal, format!("the record of tags: {bad}"));
    let mut batch = BatchBuilder::new();
    for body in [&body, &tags] {
        batch
            .push(Kind::Config, 0, id, 0, &[], &[body])
            .map_err(wrong)?;
    }
    let draft = batch.build();
    let most = log.max_record(Kind::Batch);
    if draft.bytes.len() > most {
        return Err(Error::new(
            Code::LimitExceeded,
            format!("tags whose record would be longer than {most} bytes, a quarter of the ring"),
        ));
    }
    Ok(draft)
}

/// The block that a link (+ 1; 0 = none) names, checked.
fn linked(ctl: &Ctl, link: u64) -> Result<Option<u32>> {
    match u32::try_from(link) {
        Ok(0) => Ok(None),
        Ok(n) if n <= ctl.layout.geometry.tag_blocks() => Ok(Some(n - 1)),
        _ => Err(wrong(ctl)),
    }
}

/// What a list is told that makes no sense.
fn wrong(ctl: &Ctl) -> Error {
    if ctl.is_frozen() {
        // Read without the lock, it may be half of a change.
        return ctl.being_repaired();
    }
    ctl.damaged("a list of tags")
}

/// The tags of a group; empty = every message. Lock E is held, or the store is open for reading
/// only.
pub(crate) fn read(ctl: &Ctl, group: u32) -> Result<Vec<String>> {
    let word = ctl.load(ctl.layout.group(group, P_TAGS));
    let wrong = || wrong(ctl);
    let len = low_half(word) as usize;
    if len > LONGEST {
        return Err(wrong());
    }
    let mut bytes = vec![0; len.next_multiple_of(TEXT)];
    let mut next = linked(ctl, word >> 32)?;
    for part in bytes.chunks_exact_mut(TEXT) {
        let block = next.ok_or_else(wrong)?;
        if !ctl.arena.copy_out(ctl.layout.tag_block(block, 8), part) {
            return Err(wrong());
        }
        next = linked(ctl, ctl.load(ctl.layout.tag_block(block, 0)))?;
    }
    let mut rest = &bytes[..len];
    let mut tags = Vec::new();
    while let Some((&len, after)) = rest.split_first() {
        let (text, after) = after.split_at_checked(len.into()).ok_or_else(wrong)?;
        tags.push(String::from_utf8(text.to_vec()).map_err(|_| wrong())?);
        rest = after;
    }
    Ok(tags)
}

/// The version that the next change makes.
pub(crate) fn next_version(ctl: &Ctl, group: u32) -> u32 {
    low_half(ctl.load(ctl.layout.group(group, P_TAGS_VERSION))).wrapping_add(1)
}

/// Stores the tags of a group, in normal form.
pub(crate) fn store(tx: &mut Tx<'_>, group: u32, tags: &[String], version: u32) -> Result<()> {
    let layout = tx.ctl.layout;
    let at = layout.group(group, P_TAGS);
    release(tx, tx.get(at))?;
    let mut bytes = Vec::new();
    for tag in tags {
        // Checked by the options and by the decoder.
        bytes.push(u8::try_from(tag.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(tag.as_bytes());
    }
    let len = bytes.len() as u64;
    bytes.resize(bytes.len().next_multiple_of(TEXT), 0);
    let mut next = 0;
    // From the last on, so that each knows the next.
    for part in bytes.chunks_exact(TEXT).rev() {
        let block = allocate(tx)?;
        tx.set(layout.tag_block(block, 0), next);
        for (i, word) in part.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            tx.set(layout.tag_block(block, 8 + i * 8), word);
        }
        next = u64::from(block) + 1;
    }
    tx.set(at, next << 32 | len);
    tx.set(layout.group(group, P_TAGS_VERSION), u64::from(version));
    Ok(())
}

fn allocate(tx: &mut Tx<'_>) -> Result<u32> {
    if let Some(block) = linked(tx.ctl, tx.global(G_TAG_FREE))? {
        let next = tx.get(tx.ctl.layout.tag_block(block, 0));
        tx.set_global(G_TAG_FREE, next);
        return Ok(block);
    }
    let (top, most) = (tx.global(G_TAG_TOP), tx.ctl.layout.geometry.tag_blocks());
    if top >= u64::from(most) {
        let most = most as usize * TEXT;
        return Err(Error::new(
            Code::LimitExceeded,
            format!(
                "the tags of all groups together take more than the {most} bytes that the store \
                 was made for; use fewer or shorter ones"
            ),
        ));
    }
    tx.set_global(G_TAG_TOP, top + 1);
    Ok(low_half(top))
}

/// Forgets the tags of a group that is deleted.
pub(crate) fn forget(tx: &mut Tx<'_>, group: u32) -> Result<()> {
    let at = tx.ctl.layout.group(group, P_TAGS);
    release(tx, tx.get(at))?;
    tx.set(at, 0);
    Ok(())
}

/// Gives the blocks of a list back.
fn release(tx: &mut Tx<'_>, list: u64) -> Result<()> {
    let mut next = linked(tx.ctl, list >> 32)?;
    for _ in 0..LONGEST.div_ceil(TEXT) {
        let Some(block) = next else { break };
        let at = tx.ctl.layout.tag_block(block, 0);
        next = linked(tx.ctl, tx.get(at))?;
        let free = tx.global(G_TAG_FREE);
        tx.set(at, free);
        tx.set_global(G_TAG_FREE, u64::from(block) + 1);
    }
    Ok(())
}
