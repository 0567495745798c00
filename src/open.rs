//! Opening a store: making it, joining those that have it open, or recovering it alone.
//!
//! All of it under byte 0 of LOCK. With somebody alive, shared memory is taken as it is. Alone, it
//! is taken over if it is of this boot, this directory and this layout, its sum is right (after
//! undoing what a death left unfinished) and every record in the ring checks out: a *warm* attach.
//! Otherwise the state is rebuilt from the log: a *cold* one. Shared memory is marked ready last,
//! so a death in the middle only means starting over.

use crate::commitlog::append::ring_read;
use crate::commitlog::recover::Recovery;
use crate::commitlog::scan::RingImage;
use crate::commitlog::{HEADER_SPAN, LOG_DIR, Log};
use crate::delivery::{putback, unnamed};
use crate::error::{Code, Error, Result};
use crate::format::record::{self};
use crate::format::segment::{self, SegmentHeader, file_name};
use crate::format::superblock::{SUPER, SUPER_SIZE, Super, SuperError};
use crate::options::{Flush, StoreOptions, made_with};
use crate::rebuild;
use crate::reports::RecoveryReport;
use crate::shm::control::{
    FLUSH_FAILED, FLUSH_RESEALING, G_ACTIVE, G_OLDEST, G_SETTLED, LAYOUT_VERSION, MAGIC, W_BOOT,
    W_CTL_INO, W_DAMAGED, W_DIR_DEV, W_DIR_INO, W_DURABLE, W_FLUSH_STATE, W_GEOMETRY_HASH,
    W_INCARNATION, W_LAYOUT, W_LOCK_INO, W_MAGIC, W_PUBLISHED, W_READY, W_RING_AT, W_RING_SIZE,
    W_SIZE, W_SUM, W_UUID,
};
use crate::shm::{Ctl, Geometry, Layout, member, undo};
use crate::sys::{Arena, Dir, Env, Host, Open, Stat};

mod check;
mod look;
mod mend;
mod runtime;

use check::{check_place, check_unused};
pub(crate) use look::{LookedAt, attach_to_look};
pub(crate) use mend::{Alone, Mended, attach_to_mend, take_alone};
pub(crate) use runtime::place_of_maps;

const CTL: &str = "ctl";
/// Shared memory that is being rebuilt.
const CTL_NEW: &str = "ctl.new";
const LOCK: &str = "LOCK";
/// Where shared memory lies, if not here.
const RUNTIME: &str = "RUNTIME";
/// Size of the first segment of a store: an empty store stays small.
pub(crate) const FIRST_SEGMENT: u64 = 1 << 20;

/// Byte 0 of LOCK, given back when dropped.
struct Opening<'a> {
    host: &'a dyn Host,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !killed!() {
            self.host.unlock_byte(member::BYTE_OPEN);
        }
    }
}

/// Opens the store in the directory of `env` and becomes a member of it.
pub(crate) fn attach(env: &Env, options: &StoreOptions) -> Result<(Log, RecoveryReport)> {
    let dir = Dir::new(env.disk.clone());
    let known = read_super(&dir)?;
    check_place(&dir, known.as_ref(), options)?;
    let host = &*env.host;
    host.open_lock(known.is_none())
        .map_err(|e| lock_error(&dir, &e))?;
    let opening = lock_opening(host, &dir)?;
    let mut report = RecoveryReport::default();
    let superblock = match read_super(&dir)? {
        Some(superblock) => superblock,
        None => {
            report.created = true;
            create(&dir, env, options)?
        }
    };
    runtime::check(env, &dir, options)?;
    if !report.created {
        check::check_existing(&dir, &superblock, options)?;
    }
    // Whoever makes a file of it: all of them are as the store was made.
    dir.set_mode(superblock.mode);
    runtime::maps(env).set_mode(superblock.mode);
    let geometry = Geometry::new(
        superblock.ring_size,
        superblock.segment_size,
        superblock.slots,
    )?;
    let place = Place {
        env,
        dir: &dir,
        maps: runtime::maps(env),
        superblock: &superblock,
        layout: Layout::new(geometry),
        mended: None,
    };
    let prewrite = options.flush == Flush::Sync;
    let log = if member::anybody_alive(host, geometry.members)? {
        report.joined = true;
        place.join(prewrite)?
    } else {
        match place.warm(prewrite)? {
            Ok(log) => {
                report.warm = true;
                log
            }
            Err(why) => {
                if !report.created {
                    report.notes.push(why);
                }
                place.cold(prewrite, &mut report).inspect_err(|_| {
                    // A full disk has better use for its room.
                    let _ = place.maps.unlink_if_there(CTL_NEW);
                })?
            }
        }
    };
    report.end = log.tail();
    member::join(&log.ctl, &|slot, generation| {
        putback::release_member(&log, (slot, generation), true)
    })?;
    if !report.joined {
        settle_down(&log, &mut report)?;
    }
    drop(opening);
    if unnamed::is_any(&log.ctl) && !broken!(OrphansKeptByOpen) {
        end_unnamed(&log);
    }
    Ok((log, report))
}

/// Ends broadcast consumers without a name whose members died, after a recovery all there are: who
/// opens the store for a moment has no keeper that would. Where it fails, it is left to somebody
/// who has one.
fn end_unnamed(log: &Log) {
    let swept = member::sweep(&log.ctl, &|slot, generation| {
        putback::release_member(log, (slot, generation), true)
    });
    if let Err(e) = swept.and_then(|_| unnamed::end_orphans(log)) {
        crate::trace::keeper_failed("ending broadcast consumers", &e);
    }
}

/// Alone after a take-over: releases what the dead held and makes durable what they left.
fn settle_down(log: &Log, report: &mut RecoveryReport) -> Result<()> {
    member::sweep(&log.ctl, &|slot, generation| {
        putback::release_member(log, (slot, generation), true)
    })?;
    if log.ctl.load(W_FLUSH_STATE) == FLUSH_FAILED {
        // Nobody else is alive: what failed is written to a new file, never in place.
        log.ctl.publish(W_FLUSH_STATE, FLUSH_RESEALING);
    }
    member::repair_flush(&log.ctl);
    if let Err(e) = log.flush_now(log.ctl.patience()) {
        report.notes.push(format!(
            "what was not yet on disk could not be written: {e}"
        ));
        return Ok(());
    }
    // What is reclaimed was announced in the log, and the log is durable now.
    log.remove_below(log.ctl.global(G_OLDEST))
}

fn lock_error(dir: &Dir, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::new(
            Code::StoreGone,
            format!(
                "{} is missing: it tells which processes use the store. If surely none does, make \
                 an empty file of that name",
                dir.display(LOCK).display()
            ),
        )
        .at_path(dir.display(LOCK));
    }
    Error::io("open", dir.display(LOCK), error)
}

/// Takes byte 0. Somebody may be recovering a large store, so this waits long before it gives up.
fn lock_opening<'a>(host: &'a dyn Host, dir: &Dir) -> Result<Opening<'a>> {
    let until = host.boottime_ms() + 60_000;
    let mut pause = std::time::Duration::from_millis(1);
    loop {
        match host.try_lock_byte(member::BYTE_OPEN) {
            Ok(true) => return Ok(Opening { host }),
            Ok(false) if host.boottime_ms() >= until => {
                return Err(Error::new(
                    Code::Busy,
                    format!(
                        "another process has been opening {} for a minute; is it stopped?",
                        dir.display("").display()
                    ),
                ));
            }
            Ok(false) => {
                host.pause(pause);
                pause = (pause * 2).min(std::time::Duration::from_millis(20));
            }
            Err(e) => return Err(lock_error(dir, &e)),
        }
    }
}

/// Reads SUPER; `None` if there is none.
pub(crate) fn read_super(dir: &Dir) -> Result<Option<Super>> {
    let bytes = match dir.read_small(SUPER, SUPER_SIZE) {
        Ok(bytes) => bytes,
        Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let path = dir.display(SUPER);
    Super::decode(&bytes).map(Some).map_err(|e| {
        let code = match e {
            SuperError::NotKeepq => Code::NotAStore,
            SuperError::Damaged(_) => Code::Corrupt,
            _ => Code::Incompatible,
        };
        Error::new(code, format!("{}: {e}", path.display())).at_path(path)
    })
}

/// Makes a new store. SUPER comes last: with it, the first segment is there.
fn create(dir: &Dir, env: &Env, options: &StoreOptions) -> Result<Super> {
    let host = &*env.host;
    check_unused(dir)?;
    let geometry = Geometry::new(
        options.ring_size.unwrap_or(made_with::RING_SIZE),
        options.segment_size.unwrap_or(made_with::SEGMENT_SIZE),
        options.slots.unwrap_or(made_with::SLOTS),
    )?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&host.random().to_le_bytes());
    uuid[8..].copy_from_slice(&host.random().to_le_bytes());
    let superblock = Super {
        incompat: 0,
        ro_compat: 0,
        compat: 0,
        uuid,
        segment_size: geometry.segment,
        ring_size: geometry.ring,
        slots: geometry.slots,
        mode: options.mode.unwrap_or(made_with::MODE),
        created_ms: host.realtime_ms(),
    };
    dir.make_dir(LOG_DIR)?;
    let path = Log::path(&file_name(1, 0));
    for name in dir.list(LOG_DIR)? {
        // What an attempt that died left behind.
        dir.unlink_if_there(&Log::path(&name))?;
    }
    let size = FIRST_SEGMENT.min(geometry.segment);
    let handle = dir.open(&path, Open::Create)?;
    handle.allocate(size)?;
    handle.write_all_at(&vec![0; usize::try_from(size).unwrap_or(0)], 0)?;
    let header = first_header(&superblock, size, host);
    handle.write_all_at(&header.encode(), 0)?;
    handle.sync()?;
    dir.sync_dir(LOG_DIR)?;
    dir.sync_dir("")?;
    runtime::begin(env, dir)?;
    dir.write_durably(SUPER, &superblock.encode())?;
    Ok(superblock)
}

fn first_header(superblock: &Super, size: u64, host: &dyn Host) -> SegmentHeader {
    SegmentHeader {
        number: 1,
        file: 0,
        epoch: 1,
        base: 0,
        size,
        salt: host.random(),
        uuid: superblock.uuid,
        prev_end: 0,
        snap_lsn: 0,
        continues_at: 0,
        created_ms: host.realtime_ms(),
        flags: 0,
        oldest: 1,
        algorithm: segment::CRC32,
        version: segment::VERSION,
    }
}

/// A store's directory under the opening lock.
struct Place<'a> {
    env: &'a Env,
    dir: &'a Dir,
    /// Where shared memory lies: the store's directory or one of its own.
    maps: Dir,
    superblock: &'a Super,
    layout: Layout,
    /// A repair: what it comes to.
    mended: Option<std::cell::RefCell<Mended>>,
}

/// Words that say whose shared memory it is.
struct Identity {
    boot: [u64; 2],
    uuid: [u64; 2],
    dir: Stat,
    lock: Stat,
}

fn two_words(bytes: &[u8; 16]) -> [u64; 2] {
    let mut halves = [[0; 8]; 2];
    halves[0].copy_from_slice(&bytes[..8]);
    halves[1].copy_from_slice(&bytes[8..]);
    halves.map(u64::from_le_bytes)
}

impl Place<'_> {
    fn identity(&self) -> Result<Identity> {
        let lock = self
            .env
            .host
            .lock_stat()
            .map_err(|e| lock_error(self.dir, &e))?;
        Ok(Identity {
            boot: two_words(&self.env.host.boot_id()),
            uuid: two_words(&self.superblock.uuid),
            dir: self.dir.stat("")?,
            lock,
        })
    }

    fn map(&self) -> Result<Option<(Arena, Stat)>> {
        match self.env.host.open_map(CTL) {
            Ok(mapped) => Ok(Some(mapped)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Ok(None),
            Err(e) => Err(Error::io("map", self.maps.display(CTL), &e)),
        }
    }

    /// Why this shared memory is not that of the store as it is now.
    fn misfit(&self, arena: &Arena, stat: &Stat) -> Result<Option<String>> {
        let id = self.identity()?;
        let pair = |at| [arena.load(at), arena.load(at + 8)];
        let size = self.layout.size as u64;
        let why = if arena.load(W_MAGIC) != MAGIC || arena.load(W_READY) != 1 {
            "shared memory was never finished or is overwritten"
        } else if arena.load(W_LAYOUT) != LAYOUT_VERSION
            || arena.load(W_GEOMETRY_HASH) != self.layout.hash()
            || arena.load(W_SIZE) != size
            || stat.len != size
        {
            "shared memory has another layout"
        } else if pair(W_BOOT) != id.boot {
            "the machine was started again"
        } else if pair(W_UUID) != id.uuid {
            "shared memory belongs to another store"
        } else if arena.load(W_DIR_INO) != id.dir.ino
            || arena.load(W_DIR_DEV) != id.dir.dev
            || arena.load(W_CTL_INO) != stat.ino
            || arena.load(W_LOCK_INO) != id.lock.ino
        {
            "the directory was copied or restored"
        } else if !runtime::is_named(self.dir, arena.load(W_INCARNATION))? {
            "shared memory is not the one that RUNTIME names"
        } else {
            return Ok(None);
        };
        Ok(Some(why.to_owned()))
    }

    fn log(&self, arena: Arena, prewrite: bool) -> Log {
        let ctl = Ctl::new(arena, self.layout, self.env.host.clone());
        Log::new(ctl, self.dir.clone(), self.superblock.uuid, prewrite)
    }

    /// Takes the shared memory that others are using.
    fn join(&self, prewrite: bool) -> Result<Log> {
        let refuse = |why: String| {
            Error::new(
                Code::Incompatible,
                format!(
                    "{} is in use by other processes, but {why}; close it there first, or use the \
                     same version of keepq on the same machine",
                    self.dir.display("").display()
                ),
            )
        };
        let Some((arena, stat)) = self.map()? else {
            return Err(refuse("its shared memory (ctl) is missing".to_owned()));
        };
        match self.misfit(&arena, &stat)? {
            None => Ok(self.log(arena, prewrite)),
            Some(why) => Err(refuse(why)),
        }
    }

    /// Takes over the shared memory of the dead, or says why that cannot be.
    fn warm(&self, prewrite: bool) -> Result<Result<Log, String>> {
        let Some((arena, stat)) = self.map()? else {
            return Ok(Err("shared memory (ctl) is missing".to_owned()));
        };
        if let Some(why) = self.misfit(&arena, &stat)? {
            return Ok(Err(why));
        }
        let log = self.log(arena, prewrite);
        undo::recover_alone(&log.ctl);
        if log.ctl.load(W_DAMAGED) != 0 {
            return Ok(Err("shared memory was found damaged".to_owned()));
        }
        if !broken!(StateSumNotChecked) && undo::state_sum(&log.ctl) != log.ctl.load(W_SUM) {
            return Ok(Err("the sum over shared memory is wrong".to_owned()));
        }
        let word = |word| log.ctl.global(word);
        if log.has_holes(word(G_OLDEST), word(G_ACTIVE))? {
            return Ok(Err("a segment file of the log is missing".to_owned()));
        }
        // It is no part of the sum.
        log.ctl.set_unnoted(word(G_SETTLED) != 0);
        Ok(check_ring(&log).map(|()| log))
    }

    /// Rebuilds the state from the log.
    fn cold(&self, prewrite: bool, report: &mut RecoveryReport) -> Result<Log> {
        // Whoever made the store may have failed or died after SUPER got its name and before that
        // name was durable.
        self.dir.sync_dir("")?;
        let ring = self.salvage()?;
        let mut recovery = Recovery::open(self.dir, &self.superblock.uuid, ring)?;
        let jump = self.layout.geometry.ring / 48;
        let (mut model, mut found) = match rebuild::replay(&mut recovery, jump) {
            Err(e) if self.mended.is_some() && rebuild::is_no_start(&e) => {
                rebuild::salvage(&mut recovery, jump)?
            }
            replayed => replayed?,
        };
        if found.last == 0 {
            return Err(Error::new(
                Code::Corrupt,
                format!(
                    "{} holds no readable segment of the log; they were deleted or damaged",
                    self.dir.display(LOG_DIR).display()
                ),
            )
            .at_path(self.dir.display(LOG_DIR)));
        }
        // The old shared memory stays until the new one is whole: its ring may hold what is
        // nowhere else, and this process may be killed.
        self.maps.unlink_if_there(CTL_NEW)?;
        let size = self.layout.size as u64;
        let arena = self
            .env
            .host
            .create_map(CTL_NEW, size)
            .map_err(|e| Error::io("create", self.maps.display(CTL), &e))?;
        let stat = self.maps.stat(CTL_NEW)?;
        let log = self.log(arena, prewrite);
        log.ctl.set_me(0);
        self.init_identity(&log, &stat)?;
        if report.created {
            rebuild::start_created(&log, &recovery)?;
        } else {
            recovery.secure_end(&log, &found)?;
            rebuild::start_epoch(&log, &recovery, &found, &model)?;
            // The new segment first: only then does what does not belong to the log go away, and
            // only then can the segments be listed for the indexes that `install` reads.
            log.flush_now(log.ctl.patience())?;
            recovery.tidy(&log, &found, log.ctl.global(G_ACTIVE))?;
            if !broken!(SequencesNotJumped) {
                model.jump();
            }
            model.install(&log)?;
            rebuild::note_holes(&log, &mut recovery, &mut found, &mut model)?;
            rebuild::note_missing(&log, &mut model)?;
            rebuild::note_loss(&log, &found, &model)?;
            log.flush_now(log.ctl.patience())?;
        }
        rebuild::describe(report, &found, &model, &recovery);
        if let Some(mended) = &self.mended {
            mended.borrow_mut().note(&model);
        }
        runtime::name(self.env, self.dir, log.ctl.load(W_INCARNATION))?;
        undo::init(&log.ctl, W_READY, 1);
        self.maps.rename(CTL_NEW, CTL)?;
        Ok(log)
    }

    /// A copy of what the ring of this boot still holds, if its frozen words make sense.
    fn salvage(&self) -> Result<Option<RingImage>> {
        let Some((arena, _)) = self.map()? else {
            return Ok(None);
        };
        let id = self.identity()?;
        let pair = |at| [arena.load(at), arena.load(at + 8)];
        let fits = arena.load(W_MAGIC) == MAGIC
            && pair(W_BOOT) == id.boot
            && pair(W_UUID) == id.uuid
            && arena.load(W_RING_SIZE) == self.layout.geometry.ring
            && arena.load(W_RING_AT) == self.layout.ring as u64
            && arena.len() == self.layout.size;
        if !fits {
            return Ok(None);
        }
        let ctl = Ctl::new(arena, self.layout, self.env.host.clone());
        let (durable, published) = (ctl.load(W_DURABLE), ctl.load(W_PUBLISHED));
        Ok(RingImage::copy(&ctl, durable, published))
    }

    fn init_identity(&self, log: &Log, stat: &Stat) -> Result<()> {
        let id = self.identity()?;
        let words = [
            (W_MAGIC, MAGIC),
            (W_LAYOUT, LAYOUT_VERSION),
            (W_SIZE, self.layout.size as u64),
            (W_BOOT, id.boot[0]),
            (W_BOOT + 8, id.boot[1]),
            (W_UUID, id.uuid[0]),
            (W_UUID + 8, id.uuid[1]),
            (W_INCARNATION, self.env.host.random() | 1),
            (W_RING_AT, self.layout.ring as u64),
            (W_RING_SIZE, self.layout.geometry.ring),
            (W_DIR_DEV, id.dir.dev),
            (W_DIR_INO, id.dir.ino),
            (W_CTL_INO, stat.ino),
            (W_LOCK_INO, id.lock.ino),
            (W_GEOMETRY_HASH, self.layout.hash()),
        ];
        for (at, value) in words {
            undo::init(&log.ctl, at, value);
        }
        Ok(())
    }
}

/// Every record that is not durable must be whole in the ring.
fn check_ring(log: &Log) -> Result<(), String> {
    let ctl = &log.ctl;
    let published = ctl.load(W_PUBLISHED);
    let mut lsn = ctl.load(W_DURABLE);
    if lsn > published || published - lsn > ctl.layout.geometry.ring {
        return Err("the watermarks in shared memory make no sense".to_owned());
    }
    let mut bytes = Vec::new();
    while lsn < published {
        let Some(segment) = log.recent_at(lsn) else {
            // The gap behind a sealed segment.
            let next = log.recent_between(lsn, published).first().map(|s| s.base);
            match next {
                Some(base) if base > lsn => lsn = base,
                _ => return Err(format!("position {lsn:#x} lies in no segment")),
            }
            continue;
        };
        if lsn == segment.base {
            lsn += HEADER_SPAN;
            continue;
        }
        let left = usize::try_from(published - lsn)
            .unwrap_or(0)
            .min(record::MAX_RECORD);
        bytes.resize(left.min(4096), 0);
        ring_read(ctl, lsn, &mut bytes);
        let wrong = |bad| format!("the ring at {lsn:#x}: {bad}");
        let len = record::parse_header(&bytes, lsn, segment.salt)
            .map_err(wrong)?
            .padded_len()
            .min(left);
        if len > bytes.len() {
            bytes.resize(len, 0);
            ring_read(ctl, lsn, &mut bytes);
        }
        let parsed = record::parse(&bytes[..len], lsn, segment.salt).map_err(wrong)?;
        lsn += parsed.header.padded_len() as u64;
    }
    Ok(())
}
