//! Opening a damaged store to repair it: alone, and from the log, whatever shared memory says.

use super::{CTL, Opening, Place, lock_error, read_super, settle_down};
use crate::commitlog::Log;
use crate::delivery::putback;
use crate::delivery::replay::Model;
use crate::error::{Code, Error, Result};
use crate::format::payload::Gap;
use crate::format::superblock::Super;
use crate::options::{StoreOptions, limits};
use crate::reports::RecoveryReport;
use crate::shm::control::{LAYOUT_VERSION, W_BOOT, W_LAYOUT};
use crate::shm::{Ctl, Geometry, Layout, member};
use crate::sys::{Dir, Env};

/// The store is ours alone, until this is dropped.
pub(crate) struct Alone<'a> {
    _opening: Option<Opening<'a>>,
}

/// What a repair's rebuild came to besides the report of every recovery.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// Messages that are gone.
    pub(crate) gaps: Vec<Gap>,
    /// Topics and groups of which not all is known any more.
    pub(crate) lost: Vec<String>,
}

impl Mended {
    pub(super) fn note(&mut self, model: &Model) {
        self.gaps.clone_from(&model.gaps);
        if let Some(salvage) = &model.salvage {
            self.lost.clone_from(&salvage.lost);
        }
    }
}

fn busy(dir: &Dir, why: &str) -> Error {
    let place = dir.display("");
    let text = format!(
        "{} cannot be repaired now: {why}; close it there first",
        place.display()
    );
    Error::new(Code::Busy, text).at_path(place)
}

/// Makes sure that nobody has the store open or opens it meanwhile. With `look`, nothing is
/// locked, and nobody is kept from opening it.
pub(crate) fn take_alone<'a>(env: &'a Env, dir: &Dir, look: bool) -> Result<Alone<'a>> {
    let host = &*env.host;
    let opened = if look {
        host.open_lock_to_look()
    } else {
        host.open_lock(false)
    };
    match opened {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !look => {
            check_no_member(env, dir)?;
            host.open_lock(true).map_err(|e| lock_error(dir, &e))?;
            dir.sync_dir("")?;
        }
        opened => opened.map_err(|e| lock_error(dir, &e))?,
    }
    let members = u32::try_from(limits::MEMBERS).unwrap_or(1024);
    let in_use = || busy(dir, "a process has it open");
    if look {
        return match member::anybody_alive(host, members)? {
            true => Err(in_use()),
            false => Ok(Alone { _opening: None }),
        };
    }
    let locked = host.try_lock_byte(member::BYTE_OPEN);
    if !locked.map_err(|e| lock_error(dir, &e))? {
        return Err(busy(dir, "a process is opening it"));
    }
    let opening = Opening { host };
    if member::anybody_alive(host, members)? {
        return Err(in_use());
    }
    Ok(Alone {
        _opening: Some(opening),
    })
}

/// Without LOCK nothing tells who lives. Shared memory of this boot names those who had the store
/// open and did not leave it.
fn check_no_member(env: &Env, dir: &Dir) -> Result<()> {
    let Some(superblock) = read_super(dir)? else {
        return Ok(());
    };
    let Ok((arena, _)) = env.host.open_map_to_look(CTL) else {
        return Ok(());
    };
    let layout = Layout::new(geometry(&superblock)?);
    let boot = super::two_words(&env.host.boot_id());
    let ours = arena.len() == layout.size
        && arena.load(W_LAYOUT) == LAYOUT_VERSION
        && [arena.load(W_BOOT), arena.load(W_BOOT + 8)] == boot;
    if !ours {
        return Ok(());
    }
    let ctl = Ctl::new(arena, layout, env.host.clone());
    let Some(slot) = (0..layout.geometry.members).find(|&slot| member::in_use(&ctl, slot)) else {
        return Ok(());
    };
    let text = format!(
        "its LOCK is missing, and process {} had it open; if surely no process uses it any more, \
         make an empty file LOCK there and repair again",
        member::pid(&ctl, slot)
    );
    Err(busy(dir, &text))
}

fn geometry(superblock: &Super) -> Result<Geometry> {
    Geometry::new(
        superblock.ring_size,
        superblock.segment_size,
        superblock.slots,
    )
}

/// Rebuilds the state from the log and becomes a member, while nobody else can.
pub(crate) fn attach_to_mend(
    env: &Env,
    dir: &Dir,
    _alone: &Alone<'_>,
) -> Result<(Log, RecoveryReport, Mended)> {
    let Some(superblock) = read_super(dir)? else {
        let text = format!("there is no store in {}", dir.display("").display());
        return Err(Error::new(Code::NotFound, text).at_path(dir.display("")));
    };
    super::check::check_writable(dir, &superblock)?;
    super::runtime::check(env, dir, &StoreOptions::default())?;
    dir.set_mode(superblock.mode);
    super::runtime::maps(env).set_mode(superblock.mode);
    let place = Place {
        env,
        dir,
        maps: super::runtime::maps(env),
        superblock: &superblock,
        layout: Layout::new(geometry(&superblock)?),
        mended: Some(std::cell::RefCell::default()),
    };
    let mut report = RecoveryReport::default();
    let log = place.cold(true, &mut report)?;
    report.end = log.tail();
    member::join(&log.ctl, &|slot, generation| {
        putback::release_member(&log, (slot, generation), true)
    })?;
    settle_down(&log, &mut report)?;
    let mended = place.mended.map(std::cell::RefCell::into_inner);
    Ok((log, report, mended.unwrap_or_default()))
}
