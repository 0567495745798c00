//! Shared memory in a directory of its own (`runtime_dir`).
//!
//! RUNTIME in the store names that directory and, by its incarnation, the one shared memory that
//! counts. The same path can be another place for another container, or hold what an earlier life
//! left: memory of any other incarnation is never joined or taken over.

use std::path::Path;
use std::sync::Arc;

use super::{RUNTIME, read_super};
use crate::error::{Code, Error, Result};
use crate::format::runtime::{MAX_PATH, RUNTIME_SIZE, Runtime};
use crate::options::{StoreOptions, made_with};
use crate::sys::{Dir, Env, RealDisk, check_filesystem};

/// What RUNTIME says; `None`: shared memory lies in the store.
fn read(dir: &Dir) -> Result<Option<Runtime>> {
    let bytes = match dir.read_small(RUNTIME, RUNTIME_SIZE) {
        Ok(bytes) => bytes,
        Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let path = dir.display(RUNTIME);
    Runtime::decode(&bytes).map(Some).map_err(|bad| {
        Error::new(
            Code::Corrupt,
            format!(
                "{} is damaged: {bad}. Put it back from a copy; if surely no process uses the \
                 store, remove it: shared memory is then made in the store itself",
                path.display()
            ),
        )
        .at_path(path)
    })
}

fn mismatch(dir: &Dir, stored: Option<&str>, asked: &str) -> Error {
    let stored = stored.unwrap_or("its own directory");
    Error::new(
        Code::ConfigMismatch,
        format!(
            "{} was made with shared memory in {stored}, not in {asked}; leave runtime_dir out or \
             agree",
            dir.display("").display()
        ),
    )
}

/// The directory that was asked for, as it is stored.
fn asked(options: &StoreOptions) -> Result<Option<&str>> {
    let Some(path) = &options.runtime_dir else {
        return Ok(None);
    };
    let fits = |text: &&str| path.is_absolute() && text.len() <= MAX_PATH;
    match path.to_str().filter(fits) {
        Some(text) => Ok(Some(text)),
        None => Err(Error::new(
            Code::InvalidArgument,
            format!("runtime_dir must be an absolute path of UTF-8, at most {MAX_PATH} bytes"),
        )),
    }
}

/// Opens the directory for the shared memory of the store of `disk`, if it has one of its own.
pub(crate) fn place_of_maps(
    disk: &RealDisk,
    options: &StoreOptions,
) -> Result<Option<(String, RealDisk)>> {
    let asked = asked(options)?;
    let dir = Dir::new(Arc::new(disk.clone()));
    // Of an attempt to make a store that died, nothing counts.
    let superblock = read_super(&dir)?;
    let known = match superblock {
        Some(_) => read(&dir)?.map(|runtime| runtime.dir),
        None => asked.map(str::to_owned),
    };
    let Some(named) = known else {
        return Ok(None);
    };
    let identity = disk.identity();
    let (dev, ino) = identity.map_err(|e| Error::io("look up", dir.display(""), &e))?;
    // Copies of a store have inodes of their own.
    let place = Path::new(&named).join(format!("keepq-{dev:x}-{ino:x}"));
    let made = superblock.map(|superblock| superblock.mode);
    let mode = made.or(options.mode).unwrap_or(made_with::MODE);
    let opened = if options.read_only {
        RealDisk::open_dir(&place, mode)
    } else {
        RealDisk::create_dir(&place, mode)
    };
    let maps = match opened {
        Ok(maps) => maps,
        // Nobody has it open, or it is not to be seen from here: there is no shared memory.
        Err(_) if options.read_only => return Ok(Some((named, disk.clone()))),
        Err(e) => {
            let what = "make shared memory (runtime_dir) in";
            return Err(Error::io(what, &place, &e));
        }
    };
    let ours = maps.same_owner(disk);
    if !ours.map_err(|e| Error::io("look up", &place, &e))? {
        // If it was made just now, it must not be in the owner's way.
        RealDisk::remove_empty_dir(&place);
        let text = format!(
            "{} belongs to another user than the store; name another runtime_dir",
            place.display()
        );
        return Err(Error::new(Code::InvalidArgument, text).at_path(place));
    }
    if !options.allow_unsafe_filesystem && !options.read_only {
        check_filesystem(&maps, false)?;
    }
    Ok(Some((named, maps)))
}

/// The directory of shared memory.
pub(super) fn maps(env: &Env) -> Dir {
    match &env.runtime {
        Some(runtime) => Dir::new(Arc::clone(&runtime.disk)),
        None => Dir::new(Arc::clone(&env.disk)),
    }
}

/// Refuses another directory than the store was made with. Byte 0 is held, or nothing is written.
pub(super) fn check(env: &Env, dir: &Dir, options: &StoreOptions) -> Result<()> {
    let stored = read(dir)?.map(|runtime| runtime.dir);
    if let Some(asked) = asked(options)? {
        if stored.as_deref() != Some(asked) {
            return Err(mismatch(dir, stored.as_deref(), asked));
        }
    }
    if env.runtime.as_ref().map(|runtime| &runtime.named) != stored.as_ref() {
        // Made by somebody else since this open began.
        let text = format!(
            "{} is being made by another process; open it again",
            dir.display("").display()
        );
        return Err(Error::new(Code::Busy, text));
    }
    Ok(())
}

/// Whether shared memory of this incarnation is the one that counts.
pub(super) fn is_named(dir: &Dir, incarnation: u64) -> Result<bool> {
    let named = read(dir)?.is_none_or(|runtime| runtime.nonce == incarnation);
    Ok(named || broken!(RuntimeNonceNotChecked))
}

/// Names the shared memory that counts from now on, durably, before anybody can take it.
pub(super) fn name(env: &Env, dir: &Dir, nonce: u64) -> Result<()> {
    let Some(runtime) = &env.runtime else {
        return Ok(());
    };
    let named = runtime.named.clone();
    dir.write_durably(RUNTIME, &Runtime { dir: named, nonce }.encode())
}

/// Says where the shared memory of a store will lie that is being made: what an attempt that died
/// said of it does not count.
pub(super) fn begin(env: &Env, dir: &Dir) -> Result<()> {
    dir.unlink_if_there(RUNTIME)?;
    name(env, dir, 0)
}
