//! The simulated machine behind one mutex: inodes, names, locks, clocks and planned faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::content::{Content, Graves};
use super::names::{Names, ROOT, Slot};
use super::rng::Rng;
use super::sites::{self, CallKind};
use super::{Fault, FaultPlan, SimOptions};
use crate::sys::{Arena, Stat};

/// The simulated disk's device number.
const DEVICE: u64 = 0x51;
/// Inodes of files start here; freed ones are used again at once, as ext4 does.
const FIRST_INO: u64 = 11;
/// How many calls a millisecond lasts.
const CALLS_PER_MS: u64 = 16;
/// How many syncs lie between two images of shared memory, kept as what writeback may have left.
const SYNCS_PER_IMAGE: u64 = 64;
const REALTIME_AT_START: u64 = 1_700_000_000_000;

/// What an inode is.
#[derive(Clone)]
pub(super) enum Body {
    File(Arc<Content>),
    Map(Map),
    Dir,
}

/// Shared memory: a file that is written through maps only.
#[derive(Clone)]
pub(super) struct Map {
    pub(super) arena: Arena,
    /// Older contents, the oldest first.
    pub(super) images: VecDeque<Arc<Vec<u8>>>,
}

impl Map {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let arena = Arena::heap(bytes.len());
        let _ = arena.copy_in(0, bytes);
        Self {
            arena,
            images: VecDeque::new(),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.arena.len()];
        let _ = self.arena.copy_out(0, &mut bytes);
        bytes
    }
}

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) links: u64,
    pub(super) open: u64,
}

/// An open file description of LOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) process: u64,
    pub(super) host: u64,
}

/// Everything about the machine.
#[derive(Clone)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) rng: Rng,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) names: Names,
    pub(super) graves: Graves,
    /// (inode of LOCK, byte) and who holds it.
    pub(super) locks: BTreeMap<(u64, u64), Holder>,
    pub(super) alive: BTreeSet<u64>,
    pub(super) next_process: u64,
    pub(super) next_host: u64,
    pub(super) boot_id: [u8; 16],
    pub(super) boottime_ms: u64,
    pub(super) realtime_ms: u64,
    ticks: u64,
    syncs: u64,
    pub(super) disk_calls: u64,
    /// Calls that wake sleepers.
    pub(super) wakes: u64,
    /// The plan and the number of the first call it is for.
    pub(super) plan: Option<(FaultPlan, u64)>,
    pub(super) faults_hit: u64,
}

/// How a call may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    Whole,
    /// Only half of the bytes.
    Short,
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl State {
    pub(super) fn new(options: SimOptions) -> Self {
        let mut rng = Rng::new(options.seed);
        let boot_id = draw_boot_id(&mut rng);
        let root = Inode {
            body: Body::Dir,
            links: 1,
            open: 0,
        };
        Self {
            names: Names::new(options.metadata),
            options,
            rng,
            inodes: BTreeMap::from([(ROOT, root)]),
            graves: Graves::default(),
            locks: BTreeMap::new(),
            alive: BTreeSet::new(),
            next_process: 1,
            next_host: 1,
            boot_id,
            boottime_ms: 1_000_000,
            realtime_ms: REALTIME_AT_START,
            ticks: 0,
            syncs: 0,
            disk_calls: 0,
            wakes: 0,
            plan: None,
            faults_hit: 0,
        }
    }

    /// Time passes while calls are made.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks % CALLS_PER_MS == 0 {
            self.advance(1);
        }
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.boottime_ms += ms;
        self.realtime_ms += ms;
    }

    pub(super) fn check_alive(&self, process: u64) -> io::Result<()> {
        if self.alive.contains(&process) {
            Ok(())
        } else {
            Err(errno(libc::ESHUTDOWN))
        }
    }

    /// Starts a call of the disk: counts it, and fails it if that was planned.
    pub(super) fn begin(&mut self, process: u64, kind: CallKind) -> io::Result<Go> {
        let site = sites::take_current(kind);
        self.check_alive(process)?;
        self.tick();
        self.disk_calls += 1;
        let Some((plan, first)) = &self.plan else {
            return Ok(Go::Whole);
        };
        let due = self.disk_calls == *first || (plan.sticky && self.disk_calls > *first);
        if !due || !plan.error.applies_to(kind) {
            return Ok(Go::Whole);
        }
        self.faults_hit += 1;
        if let Some(site) = site {
            sites::note_fault(site);
        }
        match plan.error {
            Fault::Short => Ok(Go::Short),
            Fault::Errno(number) => Err(errno(number)),
        }
    }

    /// The directory and the name that a path means.
    pub(super) fn slot(&self, path: &str) -> io::Result<Slot> {
        let (dir, name) = match path.rsplit_once('/') {
            None => (ROOT, path),
            Some((dir, name)) => (self.dir(dir)?, name),
        };
        if matches!(name, "" | "." | "..") {
            return Err(errno(libc::EINVAL));
        }
        Ok((dir, name.to_owned()))
    }

    /// The inode a path leads to; `""` is the root.
    pub(super) fn find(&self, path: &str) -> io::Result<u64> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        self.names
            .get(&self.slot(path)?)
            .ok_or_else(|| errno(libc::ENOENT))
    }

    pub(super) fn dir(&self, path: &str) -> io::Result<u64> {
        let ino = self.find(path)?;
        match self.inode(ino)?.body {
            Body::Dir => Ok(ino),
            _ => Err(errno(libc::ENOTDIR)),
        }
    }

    pub(super) fn inode(&self, ino: u64) -> io::Result<&Inode> {
        self.inodes.get(&ino).ok_or_else(|| errno(libc::ESTALE))
    }

    pub(super) fn inode_mut(&mut self, ino: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| errno(libc::ESTALE))
    }

    /// The content of a regular file.
    pub(super) fn content_mut(&mut self, ino: u64) -> io::Result<&mut Content> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(content) => Ok(Arc::make_mut(content)),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    /// An inode without a name.
    pub(super) fn make_inode(&mut self, body: Body) -> u64 {
        let mut ino = FIRST_INO;
        while self.inodes.contains_key(&ino) {
            ino += 1;
        }
        self.inodes.insert(
            ino,
            Inode {
                body,
                links: 0,
                open: 0,
            },
        );
        ino
    }

    /// Makes an inode with a name that must be free; the name is not durable yet.
    pub(super) fn create(&mut self, path: &str, body: Body) -> io::Result<u64> {
        let slot = self.slot(path)?;
        if self.names.get(&slot).is_some() {
            return Err(errno(libc::EEXIST));
        }
        let ino = self.make_inode(body);
        self.names.add(slot, ino);
        self.inode_mut(ino)?.links = 1;
        Ok(ino)
    }

    pub(super) fn unlink(&mut self, path: &str) -> io::Result<()> {
        let slot = self.slot(path)?;
        let ino = self.names.get(&slot).ok_or_else(|| errno(libc::ENOENT))?;
        if matches!(self.inode(ino)?.body, Body::Dir) {
            return Err(errno(libc::EISDIR));
        }
        self.names.remove(slot);
        self.drop_link(ino)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.slot(from)?, self.slot(to)?);
        let ino = self.names.get(&from).ok_or_else(|| errno(libc::ENOENT))?;
        let replaced = self.names.get(&to);
        if replaced == Some(ino) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            if matches!(self.inode(replaced)?.body, Body::Dir) {
                return Err(errno(libc::EISDIR));
            }
        }
        self.names.rename(from, to, ino);
        replaced.map_or(Ok(()), |replaced| self.drop_link(replaced))
    }

    fn drop_link(&mut self, ino: u64) -> io::Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.links = inode.links.saturating_sub(1);
        self.release(ino);
        Ok(())
    }

    pub(super) fn close(&mut self, ino: u64) {
        if let Ok(inode) = self.inode_mut(ino) {
            inode.open = inode.open.saturating_sub(1);
            self.release(ino);
        }
    }

    /// Frees an inode that nothing leads to any more, not even a power cut.
    fn release(&mut self, ino: u64) {
        let Some(inode) = self.inodes.get(&ino) else {
            return;
        };
        if inode.links > 0 || inode.open > 0 {
            return;
        }
        if let Body::File(content) = &inode.body {
            content.bury(&mut self.graves);
        }
        if !self.names.referenced().contains(&ino) {
            self.inodes.remove(&ino);
        }
    }

    /// Frees what only undone operations led to.
    pub(super) fn collect(&mut self) {
        let referenced = self.names.referenced();
        self.inodes.retain(|ino, inode| {
            *ino == ROOT || inode.links > 0 || inode.open > 0 || referenced.contains(ino)
        });
    }

    pub(super) fn sync_dir(&mut self, path: &str) -> io::Result<()> {
        let dir = self.dir(path)?;
        self.names.sync(dir);
        self.collect();
        self.note_sync();
        Ok(())
    }

    /// Now and then writeback leaves an image of shared memory on the disk.
    pub(super) fn note_sync(&mut self) {
        self.syncs += 1;
        if self.syncs % SYNCS_PER_IMAGE != 1 {
            return;
        }
        for inode in self.inodes.values_mut() {
            if let Body::Map(map) = &mut inode.body {
                let image = Arc::new(map.bytes());
                map.images.push_back(image);
                if map.images.len() > 2 {
                    map.images.pop_front();
                }
            }
        }
    }

    /// Units that can still be allocated.
    pub(super) fn free_units(&self) -> u64 {
        let Some(capacity) = self.options.capacity else {
            return u64::MAX;
        };
        (capacity / self.unit()).saturating_sub(self.used_units())
    }

    /// Bytes of a unit.
    pub(super) fn unit(&self) -> u64 {
        self.options.unit as u64
    }

    /// Units that files take.
    pub(super) fn used_units(&self) -> u64 {
        self.inodes
            .values()
            .filter(|inode| inode.links > 0 || inode.open > 0)
            .fold(0, |used, inode| {
                used + match &inode.body {
                    Body::File(content) => content.allocated(),
                    Body::Map(map) => (map.arena.len() as u64).div_ceil(self.unit()),
                    Body::Dir => 0,
                }
            })
    }

    pub(super) fn stat(&self, ino: u64) -> io::Result<Stat> {
        let inode = self.inode(ino)?;
        let unit = self.options.unit as u64;
        let (len, allocated) = match &inode.body {
            Body::File(content) => (content.len(), content.allocated() * unit),
            Body::Map(map) => (map.arena.len() as u64, map.arena.len() as u64),
            Body::Dir => (4096, 4096),
        };
        let is_dir = matches!(inode.body, Body::Dir);
        Ok(Stat {
            dev: DEVICE,
            ino,
            links: inode.links,
            len,
            allocated,
            is_dir,
        })
    }

    /// Ends a process as the kernel does: its locks are free at once.
    pub(super) fn end_process(&mut self, process: u64) {
        self.alive.remove(&process);
        self.locks.retain(|_, holder| holder.process != process);
    }
}

pub(super) fn draw_boot_id(rng: &mut Rng) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    id[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    id
}
