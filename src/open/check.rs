//! What an open refuses before it changes anything: directories that are something else, stores
//! that lost their SUPER, stores of newer libraries.

use super::{CTL, CTL_NEW, SUPER};
use crate::commitlog::{HEADER_SPAN, LOG_DIR, Log};
use crate::error::{Code, Error, Result};
use crate::format::record;
use crate::format::segment::{self, file_name};
use crate::format::superblock::Super;
use crate::options::StoreOptions;
use crate::sys::{Dir, Open};

/// Refuses a directory that is something else.
pub(super) fn check_place(
    dir: &Dir,
    superblock: Option<&Super>,
    options: &StoreOptions,
) -> Result<()> {
    if let Some(superblock) = superblock {
        if options.read_only {
            return Ok(());
        }
        return check_writable(dir, superblock);
    }
    let ours = [
        "LOCK",
        "log",
        CTL,
        CTL_NEW,
        // Another process may have made the store since it was looked for.
        SUPER,
        "SUPER.tmp",
        super::RUNTIME,
        "RUNTIME.tmp",
        "quarantine",
        "lost+found",
    ];
    let foreign: Vec<String> = dir
        .list("")?
        .into_iter()
        .filter(|name| !ours.contains(&name.as_str()))
        .collect();
    let foreign = match foreign.into_iter().next() {
        Some(name) => Some(name),
        None => foreign_in_log(dir)?,
    };
    if let Some(name) = foreign {
        return Err(Error::new(
            Code::NotAStore,
            format!(
                "{} is not a keepq store: it has no SUPER but {name}; name another directory",
                dir.display("").display()
            ),
        )
        .at_path(dir.display("")));
    }
    if !options.create {
        return Err(Error::new(
            Code::NotFound,
            format!("there is no store in {}", dir.display("").display()),
        )
        .at_path(dir.display("")));
    }
    Ok(())
}

/// Refuses a store that is there already, where that was asked for or other options were.
pub(super) fn check_existing(dir: &Dir, stored: &Super, options: &StoreOptions) -> Result<()> {
    if !options.exist_ok {
        return Err(Error::new(
            Code::AlreadyExists,
            format!(
                "{} is a store already; open it with exist_ok",
                dir.display("").display()
            ),
        ));
    }
    check_options(dir, stored, options)
}

/// Refuses options that differ from what the store was made with.
pub(super) fn check_options(dir: &Dir, stored: &Super, options: &StoreOptions) -> Result<()> {
    let octal = |mode: u32| format!("{mode:#o}");
    let pairs = [
        ("the mode", options.mode.map(octal), octal(stored.mode)),
        (
            "segment_size",
            options.segment_size.map(|n| n.to_string()),
            stored.segment_size.to_string(),
        ),
        (
            "ring_size",
            options.ring_size.map(|n| n.to_string()),
            stored.ring_size.to_string(),
        ),
        (
            "slots",
            options.slots.map(|n| n.to_string()),
            stored.slots.to_string(),
        ),
    ];
    for (what, asked, stored) in pairs {
        if let Some(asked) = asked.filter(|asked| *asked != stored) {
            return Err(Error::new(
                Code::ConfigMismatch,
                format!(
                    "{} was made with {what} {stored}, not {asked}; leave it out or agree",
                    dir.display("").display()
                ),
            ));
        }
    }
    Ok(())
}

/// A name in the directory `log` that keepq never makes: then it is somebody else's.
fn foreign_in_log(dir: &Dir) -> Result<Option<String>> {
    let names = match dir.list(LOG_DIR) {
        Ok(names) => names,
        Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let ours = |name: &str| {
        segment::parse_file_name(name).is_some()
            || segment::parse_sidecar_name(name).is_some()
            || name.ends_with(".pre")
            || name.contains(".idx.")
    };
    let foreign = names.into_iter().find(|name| !ours(name));
    Ok(foreign.map(|name| format!("{LOG_DIR}/{name}")))
}

/// A store that lost its SUPER must not be made anew over its messages: an attempt to make one
/// that died leaves nothing but an empty first segment. Byte 0 is held.
pub(super) fn check_unused(dir: &Dir) -> Result<()> {
    let first = file_name(1, 0);
    let mut used = dir.try_stat(CTL)?.map(|_| CTL.to_owned());
    let names = match dir.list(LOG_DIR) {
        Ok(names) => names,
        Err(e) if e.errno() == Some(libc::ENOENT) => Vec::new(),
        Err(e) => return Err(e),
    };
    for name in names {
        let path = Log::path(&name);
        let mut record = [0; record::HEADER];
        let unused = name == first && {
            dir.open(&path, Open::Read)?
                .read_at(&mut record, HEADER_SPAN)?;
            record.iter().all(|&b| b == 0)
        };
        if !unused {
            used.get_or_insert(path);
        }
    }
    let Some(used) = used else { return Ok(()) };
    Err(Error::new(
        Code::Corrupt,
        format!(
            "{} is missing, but {used} is there: this was a store. Put its SUPER back from a \
             copy, or name another directory for a new store",
            dir.display(SUPER).display()
        ),
    )
    .at_path(dir.display(SUPER)))
}

/// Refuses a store with features that this library cannot keep up when it writes.
pub(super) fn check_writable(dir: &Dir, superblock: &Super) -> Result<()> {
    if superblock.is_writable() {
        return Ok(());
    }
    let path = dir.display(SUPER);
    let what = "uses features that only a newer library can write; use that one";
    let text = format!("the store of {} {what}", path.display());
    Err(Error::new(Code::Incompatible, text).at_path(path))
}
