//! A machine for those who only look: whatever is written stays in this process.
//!
//! A store that nobody has open may need a recovery before it can be read. A read-only open does it
//! over these two: [`LookDisk`] reads the real files and keeps what is written, renamed or removed
//! in memory; [`LookHost`] makes shared memory on the heap, takes a copy of an existing `ctl`, and
//! gives every lock to the only one who asks. Nothing of it reaches the store.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Arena, Disk, Env, File, Host, Open, Probe, RuntimeDir, Stat};

/// Inodes of files that are only in memory: no file system counts so far.
const FIRST_INODE: u64 = 1 << 63;

/// Changed files are kept in blocks of this size.
const BLOCK: usize = 4096;

/// What was changed, by path: the file that is there now, or `None` for one that was removed.
#[derive(Default)]
struct Changes {
    files: BTreeMap<String, Option<Arc<Content>>>,
    made: u64,
}

impl Changes {
    fn create(&mut self, path: &str, len: u64, below: Option<Arc<dyn File>>) -> Arc<Content> {
        self.made += 1;
        let content = Arc::new(Content {
            ino: FIRST_INODE + self.made,
            below,
            own: Mutex::new(Own {
                len,
                blocks: BTreeMap::new(),
            }),
        });
        self.files
            .insert(path.to_owned(), Some(Arc::clone(&content)));
        content
    }
}

/// A file that is changed in memory only: the blocks that were written, over a file or zeros.
struct Content {
    ino: u64,
    below: Option<Arc<dyn File>>,
    own: Mutex<Own>,
}

struct Own {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Content {
    fn stat(&self) -> Stat {
        Stat {
            dev: 0,
            ino: self.ino,
            links: 1,
            len: self.own.lock().len,
            allocated: 0,
            is_dir: false,
        }
    }

    /// A block as the file below has it; zeros where it has none.
    fn block_below(&self, number: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; BLOCK].into_boxed_slice();
        if let Some(below) = &self.below {
            let mut done = 0;
            while done < BLOCK {
                let at = number * BLOCK as u64 + done as u64;
                match below.pread(&mut block[done..], at)? {
                    0 => break,
                    n => done += n,
                }
            }
        }
        Ok(block)
    }
}

/// The store in `env` as somebody who only looks at it sees it.
pub(crate) fn looking(env: &Env) -> Env {
    let changes = Arc::new(Mutex::new(Changes::default()));
    let disk = Arc::new(LookDisk {
        below: Arc::clone(&env.disk),
        changes: Arc::clone(&changes),
    });
    Env {
        // Shared memory is on the heap: only its name is asked for.
        runtime: env.runtime.as_ref().map(|runtime| RuntimeDir {
            named: runtime.named.clone(),
            disk: disk.clone(),
        }),
        disk,
        host: Arc::new(LookHost {
            below: Arc::clone(&env.host),
            changes,
        }),
    }
}

struct LookDisk {
    below: Arc<dyn Disk>,
    changes: Arc<Mutex<Changes>>,
}

impl Disk for LookDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn File>> {
        let mut changes = self.changes.lock();
        let known = changes.files.get(path).cloned();
        let content = match (how, known) {
            (Open::Create, Some(Some(_))) => return Err(Errno::EXIST.into()),
            (Open::Create, Some(None)) => changes.create(path, 0, None),
            (Open::Create, None) => match self.below.stat(path) {
                Ok(_) => return Err(Errno::EXIST.into()),
                Err(_) => changes.create(path, 0, None),
            },
            (_, Some(Some(content))) => content,
            (_, Some(None)) => return Err(Errno::NOENT.into()),
            (Open::Read, None) => return self.below.open(path, how),
            (Open::Write, None) => {
                let below = self.below.open(path, Open::Read)?;
                let len = below.stat()?.len;
                changes.create(path, len, Some(below))
            }
        };
        Ok(Arc::new(LookFile(content)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.open(from, Open::Write)?;
        drop(file);
        let mut changes = self.changes.lock();
        let content = changes.files.insert(from.to_owned(), None).flatten();
        changes.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.stat(path)?;
        self.changes.lock().files.insert(path.to_owned(), None);
        Ok(())
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        // Directories that are missing are as good as there: they are not listed.
        match self.below.stat(path) {
            Ok(stat) if !stat.is_dir => Err(Errno::NOTDIR.into()),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let changes = self.changes.lock();
        let within = format!("{path}/");
        let below = match self.below.list(path) {
            // A directory that was made in memory, by a file in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !changes.files.keys().any(|name| name.starts_with(&within)) {
                    return Err(e);
                }
                Vec::new()
            }
            listed => listed?,
        };
        let mut names: std::collections::BTreeSet<String> = below.into_iter().collect();
        for (changed, content) in &changes.files {
            let (dir, name) = changed.rsplit_once('/').unwrap_or(("", changed));
            if dir != path {
                continue;
            }
            match content {
                Some(_) => names.insert(name.to_owned()),
                None => names.remove(name),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn stat(&self, path: &str) -> io::Result<Stat> {
        match self.changes.lock().files.get(path) {
            Some(Some(content)) => Ok(content.stat()),
            Some(None) => Err(Errno::NOENT.into()),
            None => self.below.stat(path),
        }
    }

    fn set_mode(&self, _mode: u32) {}

    fn display(&self, path: &str) -> PathBuf {
        self.below.display(path)
    }
}

/// An open file whose changes are only in memory.
struct LookFile(Arc<Content>);

impl File for LookFile {
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        // A block at a time: the caller goes on.
        let (number, within) = place(offset);
        let len = bytes.len().min(BLOCK - within);
        let end = offset.checked_add(len as u64).ok_or(Errno::FBIG)?;
        let mut own = self.0.own.lock();
        if let std::collections::btree_map::Entry::Vacant(vacant) = own.blocks.entry(number) {
            vacant.insert(self.0.block_below(number)?);
        }
        if let Some(block) = own.blocks.get_mut(&number) {
            block[within..within + len].copy_from_slice(&bytes[..len]);
        }
        own.len = own.len.max(end);
        Ok(len)
    }

    fn pread(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let (number, within) = place(offset);
        let own = self.0.own.lock();
        let left = usize::try_from(own.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = bytes.len().min(BLOCK - within).min(left);
        match own.blocks.get(&number) {
            Some(block) => bytes[..len].copy_from_slice(&block[within..within + len]),
            None => {
                let block = self.0.block_below(number)?;
                bytes[..len].copy_from_slice(&block[within..within + len]);
            }
        }
        Ok(len)
    }

    fn fdatasync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut own = self.0.own.lock();
        own.len = own.len.max(len);
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.0.stat())
    }
}

/// The block of an offset, and the place in it.
#[allow(clippy::cast_possible_truncation)] // below BLOCK
const fn place(offset: u64) -> (u64, usize) {
    (offset / BLOCK as u64, (offset % BLOCK as u64) as usize)
}

struct LookHost {
    below: Arc<dyn Host>,
    changes: Arc<Mutex<Changes>>,
}

impl Host for LookHost {
    fn open_lock(&self, _create: bool) -> io::Result<()> {
        self.below.open_lock_to_look()
    }

    fn open_lock_to_look(&self) -> io::Result<()> {
        self.below.open_lock_to_look()
    }

    fn lock_stat(&self) -> io::Result<Stat> {
        self.below.lock_stat()
    }

    fn try_lock_byte(&self, _byte: u64) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock_byte(&self, _byte: u64) {}

    fn probe_byte(&self, _byte: u64) -> io::Result<Probe> {
        Ok(Probe::Free)
    }

    fn create_map(&self, path: &str, len: u64) -> io::Result<Arena> {
        // Its words are on the heap; of the file only the name and the inode are asked.
        self.changes.lock().create(path, len, None);
        let len = usize::try_from(len).map_err(|_| Errno::FBIG)?;
        Ok(Arena::heap(len))
    }

    fn open_map(&self, path: &str) -> io::Result<(Arena, Stat)> {
        if self.changes.lock().files.contains_key(path) {
            return Err(Errno::NOENT.into());
        }
        let (shared, stat) = self.below.open_map_to_look(path)?;
        let mut bytes = vec![0; shared.len()];
        let own = Arena::heap(shared.len());
        if shared.copy_out(0, &mut bytes) && own.copy_in(0, &bytes) {
            Ok((own, stat))
        } else {
            Err(Errno::INVAL.into())
        }
    }

    fn open_map_to_look(&self, path: &str) -> io::Result<(Arena, Stat)> {
        self.below.open_map_to_look(path)
    }

    fn boottime_ms(&self) -> u64 {
        self.below.boottime_ms()
    }

    fn realtime_ms(&self) -> u64 {
        self.below.realtime_ms()
    }

    fn boot_id(&self) -> [u8; 16] {
        self.below.boot_id()
    }

    fn random(&self) -> u64 {
        self.below.random()
    }

    fn pid(&self) -> u32 {
        self.below.pid()
    }

    fn wait(&self, arena: &Arena, offset: usize, expected: u32, timeout: Duration) {
        self.below.wait(arena, offset, expected, timeout);
    }

    fn wake(&self, arena: &Arena, offset: usize, count: u32) -> usize {
        self.below.wake(arena, offset, count)
    }

    fn pause(&self, time: Duration) {
        self.below.pause(time);
    }

    fn nanos(&self) -> u64 {
        self.below.nanos()
    }

    fn linger(&self, nanos: u64, enough: &dyn Fn() -> bool) {
        self.below.linger(nanos, enough);
    }

    fn forked(&self) -> bool {
        self.below.forked()
    }

    fn has_threads(&self) -> bool {
        false
    }
}
