//! A read-only open: no lock is taken, nothing is written, nothing is delivered.
//!
//! With somebody alive, shared memory is mapped for reading, and the store is seen as it changes.
//! Otherwise it is recovered in this process's own memory, over [`looking`]: what is seen then is
//! the store as it was when it was opened. Either way the state is frozen: no transaction begins.

use super::check::{check_options, check_place};
use super::{CTL, Place, attach, lock_error, read_super};
use crate::commitlog::Log;
use crate::error::{Code, Error, Result};
use crate::options::{Flush, StoreOptions};
use crate::reports::RecoveryReport;
use crate::shm::{Geometry, Layout, member};
use crate::sys::{Dir, Env, looking};

/// How often it is looked again, when the store changes hands meanwhile.
const TRIES: u32 = 20;

/// The shared memory of others that is looked at.
pub(crate) struct LookedAt {
    maps: Dir,
    ino: u64,
}

impl LookedAt {
    /// Whether it is still the store's.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let now = self.maps.try_stat(CTL)?;
        Ok(now.is_some_and(|stat| stat.ino == self.ino))
    }
}

/// Opens the store in the directory of `env` for reading.
pub(crate) fn attach_to_look(
    env: &Env,
    options: &StoreOptions,
) -> Result<(Log, RecoveryReport, Option<LookedAt>)> {
    let dir = Dir::new(env.disk.clone());
    let known = read_super(&dir)?;
    let options = StoreOptions {
        create: false,
        exist_ok: true,
        flush: Flush::Async,
        ..options.clone()
    };
    check_place(&dir, known.as_ref(), &options)?;
    if let Some(stored) = &known {
        check_options(&dir, stored, &options)?;
    }
    let Some(superblock) = known else {
        let place = dir.display("");
        let text = format!("there is no store in {}", place.display());
        return Err(Error::new(Code::NotFound, text).at_path(place));
    };
    super::runtime::check(env, &dir, &options)?;
    env.host
        .open_lock_to_look()
        .map_err(|e| lock_error(&dir, &e))?;
    let geometry = Geometry::new(
        superblock.ring_size,
        superblock.segment_size,
        superblock.slots,
    )?;
    // An index that has to be made again stays in memory too.
    let own = looking(env);
    let own_dir = Dir::new(own.disk.clone());
    let place = Place {
        env: &own,
        dir: &own_dir,
        maps: super::runtime::maps(env),
        superblock: &superblock,
        layout: Layout::new(geometry),
        mended: None,
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let found = if member::anybody_alive(&*env.host, geometry.members)? {
            place.join_to_look()
        } else {
            // Over a fresh memory each time.
            let alone = attach(&looking(env), &options);
            alone.map(|(log, report)| (log, report, None))
        };
        match found {
            Ok((log, report, ctl)) => {
                log.ctl.freeze();
                return Ok((log, report, ctl));
            }
            // Somebody may just be recovering it, or leaving.
            Err(e) if tries >= TRIES || e.code() == Code::NotFound => return Err(e),
            Err(_) => env.host.pause(std::time::Duration::from_millis(50)),
        }
    }
}

impl Place<'_> {
    /// Maps the shared memory that others are using.
    fn join_to_look(&self) -> Result<(Log, RecoveryReport, Option<LookedAt>)> {
        let refuse = |why: String| {
            let place = self.dir.display("");
            let text = format!(
                "{} is in use by other processes, but {why}; try again, or use the same version \
                 of keepq on the same machine",
                place.display()
            );
            Error::new(Code::Incompatible, text).at_path(place)
        };
        let mapped = self.env.host.open_map_to_look(CTL);
        let (arena, stat) = mapped.map_err(|e| refuse(format!("its ctl: {e}")))?;
        if let Some(why) = self.misfit(&arena, &stat)? {
            return Err(refuse(why));
        }
        let log = self.log(arena, false);
        let report = RecoveryReport {
            joined: true,
            end: log.tail(),
            ..RecoveryReport::default()
        };
        let at = LookedAt {
            maps: self.maps.clone(),
            ino: stat.ino,
        };
        Ok((log, report, Some(at)))
    }
}
