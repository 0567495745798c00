//! Files of a damaged store that are put right before its log is read: copies first, then whatever
//! can be known for sure.
//!
//! Nothing is changed in place. A file that is put right is written anew beside the old one and
//! takes its name at once, so that a death leaves one or the other.

use crate::commitlog::recover::QUARANTINE;
use crate::commitlog::{LOG_DIR, Log};
use crate::error::{Code, Result};
use crate::format::segment::{HEADER_BLOCK, Name, SegmentHeader, file_name, parse_file_name};
use crate::format::superblock::{SUPER, SUPER_SIZE, Super};
use crate::format::{crc, segment};
use crate::sys::{Dir, Handle, Open};

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// Ending of a segment file in quarantine that is to go to its own place.
const MISPLACED: &str = ".misplaced";
const TEMPORARY: &str = ".tmp";

/// The names in quarantine.
pub(super) fn quarantined(dir: &Dir) -> Result<Vec<String>> {
    match dir.list(QUARANTINE) {
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        listed => listed,
    }
}

/// Whether an earlier repair died before it had put everything in its place.
pub(super) fn is_unfinished(dir: &Dir) -> Result<bool> {
    let names = quarantined(dir)?;
    let unfinished = |name: &String| name.ends_with(MISPLACED) || name.ends_with(TEMPORARY);
    Ok(names.iter().any(unfinished))
}

fn make_quarantine(dir: &Dir) -> Result<()> {
    dir.make_dir(QUARANTINE)?;
    // What is put into a directory whose own name a power cut takes would be lost.
    dir.sync_dir("")
}

/// Passes the bytes of a file on, in order.
fn read_through(file: &Handle, visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let len = file.stat()?.len;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < len {
        let got = file.read_at(&mut piece, at)?;
        if got == 0 {
            break;
        }
        visit(at, &piece[..got])?;
        at += got as u64;
    }
    Ok(())
}

/// Keeps a copy of a file as it is, unless one is kept already. False: there is no such file.
pub(super) fn keep_copy(dir: &Dir, path: &str) -> Result<bool> {
    let Some(stat) = dir.try_stat(path)? else {
        return Ok(false);
    };
    let file = dir.open(path, Open::Read)?;
    let mut sum = 0_u32;
    read_through(&file, &mut |_, bytes| {
        sum = crc(&[&sum.to_le_bytes(), bytes]);
        Ok(())
    })?;
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let target = format!("{QUARANTINE}/{name}.{sum:08x}");
    if dir
        .try_stat(&target)?
        .is_some_and(|kept| kept.len == stat.len)
    {
        return Ok(true);
    }
    make_quarantine(dir)?;
    write_copy(dir, &file, &format!("{target}{TEMPORARY}"), None)?;
    dir.rename(&format!("{target}{TEMPORARY}"), &target)?;
    dir.sync_dir(QUARANTINE)?;
    Ok(true)
}

/// Writes a durable copy of a file, with other first bytes if they are given.
fn write_copy(dir: &Dir, file: &Handle, target: &str, first: Option<&[u8]>) -> Result<()> {
    dir.unlink_if_there(target)?;
    let copy = dir.open(target, Open::Create)?;
    read_through(file, &mut |at, bytes| copy.write_all_at(bytes, at))?;
    if let Some(first) = first {
        copy.write_all_at(first, 0)?;
    }
    copy.sync()
}

/// Removes what attempts that died have left.
pub(super) fn remove_temporary(dir: &Dir, actions: &mut Vec<String>) -> Result<()> {
    for name in quarantined(dir)?.iter().filter(|n| n.ends_with(TEMPORARY)) {
        dir.unlink_if_there(&format!("{QUARANTINE}/{name}"))?;
    }
    for name in TEMPORARIES {
        if dir.unlink_if_there(name)? {
            actions.push(format!("{name}: a leftover; removed"));
        }
    }
    Ok(())
}

/// Temporary files beside the log.
const TEMPORARIES: [&str; 3] = ["ctl.new", "SUPER.tmp", "RUNTIME.tmp"];

/// Whether there is a temporary file beside the log.
pub(super) fn has_temporary(dir: &Dir) -> Result<bool> {
    for name in TEMPORARIES {
        if dir.try_stat(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes with one bit changed so that `fits`; `None` if there is no such bit.
fn one_bit_off(bytes: &[u8], fits: &dyn Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            if fits(&bytes) {
                return Some(bytes);
            }
            bytes[at] ^= 1 << bit;
        }
    }
    None
}

/// Puts SUPER right if a single bit of it is wrong. Returns what was done.
pub(super) fn mend_super(dir: &Dir, dry_run: bool) -> Result<Option<String>> {
    let damaged = match crate::open::read_super(dir) {
        Err(e) if matches!(e.code(), Code::Corrupt | Code::NotAStore) => e,
        Err(e) => return Err(e),
        Ok(_) => return Ok(None),
    };
    let bytes = dir.read_small(SUPER, SUPER_SIZE)?;
    let uuids = uuids(dir)?;
    let fits = |bytes: &[u8]| Super::decode(bytes).is_ok_and(|s| uuids.contains(&s.uuid));
    let Some(mended) = one_bit_off(&bytes, &fits) else {
        return Err(damaged);
    };
    if !dry_run {
        keep_copy(dir, SUPER)?;
        dir.write_durably(SUPER, &mended)?;
    }
    Ok(Some("SUPER: a bit of it was wrong; put right".to_owned()))
}

/// The identities that the segments name.
fn uuids(dir: &Dir) -> Result<Vec<[u8; 16]>> {
    let mut found = Vec::new();
    for name in dir.list(LOG_DIR)? {
        if parse_file_name(&name).is_some() {
            let block = header_block(dir, &name)?;
            found.extend(SegmentHeader::decode(&block).ok().map(|h| h.uuid));
        }
    }
    Ok(found)
}

fn header_block(dir: &Dir, name: &str) -> Result<Vec<u8>> {
    let file = dir.open(&Log::path(name), Open::Read)?;
    let mut block = vec![0; HEADER_BLOCK];
    let got = file.read_at(&mut block, 0)?;
    block.truncate(got);
    Ok(block)
}

/// Segment files that stand under another's name: their names, and their own.
pub(super) fn misplaced(dir: &Dir, uuid: &[u8; 16]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for name in dir.list(LOG_DIR)? {
        if parse_file_name(&name).is_none() {
            continue;
        }
        let Ok(header) = SegmentHeader::decode(&header_block(dir, &name)?) else {
            continue;
        };
        let own = file_name(header.number, header.file);
        if header.uuid == *uuid && own != name {
            found.push((name, own));
        }
    }
    Ok(found)
}

/// Puts segment files that stand under another's name in their own places.
pub(super) fn mend_names(dir: &Dir, uuid: &[u8; 16], actions: &mut Vec<String>) -> Result<()> {
    for (name, own) in misplaced(dir, uuid)? {
        make_quarantine(dir)?;
        let aside = format!("{QUARANTINE}/{own}{MISPLACED}");
        if dir.try_stat(&aside)?.is_none() {
            dir.rename(&Log::path(&name), &aside)?;
            // Known to be there before its old name is free for another.
            dir.sync_dir(QUARANTINE)?;
            dir.sync_dir(LOG_DIR)?;
            actions.push(format!("log/{name}: it is {own}; given its name back"));
        }
    }
    for name in quarantined(dir)? {
        let Some(own) = name.strip_suffix(MISPLACED) else {
            continue;
        };
        let aside = format!("{QUARANTINE}/{name}");
        let taken = match dir.try_stat(&Log::path(own))? {
            None => false,
            Some(_) => header_block(dir, own)?.iter().any(|&b| b != 0),
        };
        let target = if !taken {
            // What has no header is no segment, but kept all the same.
            keep_copy(dir, &Log::path(own))?;
            Log::path(own)
        } else {
            // The right one is there: this is a copy, or an older one.
            format!("{QUARANTINE}/{own}.surplus")
        };
        dir.rename(&aside, &target)?;
        dir.sync_dir(LOG_DIR)?;
        dir.sync_dir(QUARANTINE)?;
    }
    Ok(())
}

/// Puts the headers of segment files right, where a single bit is wrong or another file of the
/// segment says what they were.
pub(super) fn mend_headers(dir: &Dir, uuid: &[u8; 16], actions: &mut Vec<String>) -> Result<()> {
    let (sources, left) = crate::commitlog::scan::open_segments(dir, uuid)?;
    for source in sources.values() {
        if source.pieces.iter().all(|(_, file, _)| *file != 0) {
            make_first_file(dir, &source.header)?;
            let name = file_name(source.header.number, 0);
            actions.push(format!(
                "log/{name}: it is missing; made anew, without content"
            ));
        }
    }
    for (name, _) in &left.damaged {
        let Some(own) = parse_file_name(name) else {
            continue;
        };
        let block = header_block(dir, name)?;
        let fits = |bytes: &[u8]| {
            SegmentHeader::decode(bytes)
                .is_ok_and(|h| (h.uuid, h.number, h.file) == (*uuid, own.number, own.file))
        };
        let mended = match one_bit_off(&block, &fits) {
            Some(block) => Some(block),
            None => from_continuation(dir, uuid, own)?,
        };
        let Some(mended) = mended else { continue };
        let path = Log::path(name);
        let temporary = Log::path(&segment::prepared_name(own.number, own.file));
        let file = dir.open(&path, Open::Read)?;
        write_copy(dir, &file, &temporary, Some(&mended))?;
        dir.rename(&temporary, &path)?;
        dir.sync_dir(LOG_DIR)?;
        actions.push(format!("log/{name}: its header was damaged; put right"));
    }
    Ok(())
}

/// Makes the first file of a segment of which only continuations are left: what it held is lost.
fn make_first_file(dir: &Dir, of: &SegmentHeader) -> Result<()> {
    let header = SegmentHeader {
        file: 0,
        continues_at: 0,
        ..*of
    };
    let temporary = Log::path(&segment::prepared_name(of.number, 0));
    dir.unlink_if_there(&temporary)?;
    let file = dir.open(&temporary, Open::Create)?;
    file.allocate(of.size)?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync()?;
    dir.rename(&temporary, &Log::path(&file_name(of.number, 0)))?;
    dir.sync_dir(LOG_DIR)
}

/// The header of a segment's first file, as a continuation of it knows it.
fn from_continuation(dir: &Dir, uuid: &[u8; 16], own: Name) -> Result<Option<Vec<u8>>> {
    if own.file != 0 {
        return Ok(None);
    }
    for name in dir.list(LOG_DIR)? {
        if !parse_file_name(&name).is_some_and(|n| n.number == own.number && n.file != 0) {
            continue;
        }
        let Ok(header) = SegmentHeader::decode(&header_block(dir, &name)?) else {
            continue;
        };
        if header.uuid == *uuid && header.number == own.number {
            let first = SegmentHeader {
                file: 0,
                continues_at: 0,
                ..header
            };
            return Ok(Some(first.encode().to_vec()));
        }
    }
    Ok(None)
}
