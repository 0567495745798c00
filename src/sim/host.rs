//! The simulated machine as one process sees it: locks, clocks and shared memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::content::Content;
use super::point;
use super::sites::CallKind;
use super::state::{Body, Holder, Map, errno};
use super::world::SimWorld;
use crate::sys::{Arena, Host, LOCK_LEN, Probe, Stat};

const MIN_MAP: u64 = 4096;

/// [`Host`] over a [`SimWorld`].
pub(super) struct SimHost {
    world: SimWorld,
    process: u64,
    /// Each host opens LOCK for itself, as each copy of the library in a process does.
    holder: Holder,
    /// LOCK once opened.
    lock: Mutex<Option<Stat>>,
}

impl SimHost {
    pub(super) fn new(world: SimWorld, process: u64) -> Self {
        let host = {
            let mut state = world.lock();
            state.next_host += 1;
            state.next_host
        };
        Self {
            world,
            process,
            holder: Holder { process, host },
            lock: Mutex::new(None),
        }
    }

    fn lock_ino(&self) -> io::Result<u64> {
        Ok(self.lock_stat()?.ino)
    }

    /// Lets time pass for somebody who waits, at most so much.
    #[allow(clippy::disallowed_methods)] // Real time, for the other threads.
    fn let_pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis())
            .unwrap_or(u64::MAX)
            .clamp(1, 1000);
        let mut state = self.world.lock();
        let threads = state.options.threads;
        state.advance(if threads { 1 } else { ms });
        drop(state);
        if threads {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            std::thread::yield_now();
        }
    }
}

fn too_short() -> io::Error {
    let text = "it is shorter than any shared memory of a store";
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Host for SimHost {
    fn open_lock(&self, create: bool) -> io::Result<()> {
        point();
        let mut lock = self.lock.lock();
        if lock.is_some() {
            return Ok(());
        }
        let mut state = self.world.lock();
        state.begin(
            self.process,
            if create {
                CallKind::Create
            } else {
                CallKind::Open
            },
        )?;
        let ino = match state.find("LOCK") {
            Err(e) if create && e.raw_os_error() == Some(libc::ENOENT) => {
                let content = Arc::new(Content::new(state.options.unit));
                let ino = state.create("LOCK", Body::File(content))?;
                let content = state.content_mut(ino)?;
                content.reserve(LOCK_LEN);
                content.sync();
                ino
            }
            result => result?,
        };
        // Held open, so that its inode is not used again while this process may ask about it.
        state.inode_mut(ino)?.open += 1;
        *lock = Some(state.stat(ino)?);
        Ok(())
    }

    fn open_lock_to_look(&self) -> io::Result<()> {
        self.open_lock(false)
    }

    fn lock_stat(&self) -> io::Result<Stat> {
        self.lock.lock().ok_or_else(|| errno(libc::EBADF))
    }

    fn try_lock_byte(&self, byte: u64) -> io::Result<bool> {
        point();
        let ino = self.lock_ino()?;
        let mut state = self.world.lock();
        state.check_alive(self.process)?;
        Ok(*state.locks.entry((ino, byte)).or_insert(self.holder) == self.holder)
    }

    fn unlock_byte(&self, byte: u64) {
        point();
        let Ok(ino) = self.lock_ino() else { return };
        let mut state = self.world.lock();
        if state.locks.get(&(ino, byte)) == Some(&self.holder) {
            state.locks.remove(&(ino, byte));
        }
    }

    fn probe_byte(&self, byte: u64) -> io::Result<Probe> {
        point();
        let ino = self.lock_ino()?;
        let state = self.world.lock();
        match state.locks.get(&(ino, byte)) {
            Some(&holder) if holder != self.holder => Ok(Probe::Held),
            _ => Ok(Probe::Free),
        }
    }

    fn create_map(&self, path: &str, len: u64) -> io::Result<Arena> {
        point();
        if len < MIN_MAP || len % 8 != 0 {
            return Err(errno(libc::EINVAL));
        }
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Create)?;
        if len.div_ceil(state.options.unit as u64) > state.free_units() {
            return Err(errno(libc::ENOSPC));
        }
        let map = Map::new(&vec![
            0;
            usize::try_from(len).map_err(|_| errno(libc::EFBIG))?
        ]);
        let arena = map.arena.clone();
        state.create(path, Body::Map(map))?;
        Ok(arena)
    }

    fn open_map(&self, path: &str) -> io::Result<(Arena, Stat)> {
        point();
        let mut state = self.world.lock();
        state.begin(self.process, CallKind::Open)?;
        let ino = state.find(path)?;
        let stat = state.stat(ino)?;
        let inode = state.inode_mut(ino)?;
        match &inode.body {
            Body::Dir => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is a directory",
                ));
            }
            _ if stat.len < MIN_MAP => return Err(too_short()),
            Body::File(content) => inode.body = Body::Map(Map::new(&content.bytes())),
            Body::Map(_) => {}
        }
        let Body::Map(map) = &inode.body else {
            return Err(errno(libc::EINVAL));
        };
        Ok((map.arena.clone(), stat))
    }

    fn open_map_to_look(&self, path: &str) -> io::Result<(Arena, Stat)> {
        let (arena, stat) = self.open_map(path)?;
        // A map keeps its inode, so that its number is not used again.
        self.world.lock().inode_mut(stat.ino)?.open += 1;
        Ok((arena.read_only(), stat))
    }

    fn boottime_ms(&self) -> u64 {
        let mut state = self.world.lock();
        state.tick();
        state.boottime_ms
    }

    fn realtime_ms(&self) -> u64 {
        let mut state = self.world.lock();
        state.tick();
        state.realtime_ms
    }

    fn boot_id(&self) -> [u8; 16] {
        self.world.lock().boot_id
    }

    fn random(&self) -> u64 {
        self.world.lock().rng.next_u64()
    }

    fn pid(&self) -> u32 {
        u32::try_from(self.process).unwrap_or(u32::MAX)
    }

    fn wait(&self, arena: &Arena, offset: usize, expected: u32, timeout: Duration) {
        point();
        let word = arena.load(offset & !7).to_le_bytes();
        let half = offset & 4;
        if word[half..half + 4] != expected.to_le_bytes() {
            return;
        }
        // Nobody sleeps in the simulation: time passes instead, and the caller looks again.
        self.let_pass(timeout);
    }

    fn wake(&self, _arena: &Arena, _offset: usize, _count: u32) -> usize {
        point();
        self.world.lock().wakes += 1;
        0
    }

    fn pause(&self, time: Duration) {
        point();
        self.let_pass(time);
    }

    fn nanos(&self) -> u64 {
        // Nothing takes time here that is worth measuring, and so nobody lingers.
        0
    }

    fn linger(&self, _nanos: u64, _enough: &dyn Fn() -> bool) {}

    fn forked(&self) -> bool {
        false
    }

    fn has_threads(&self) -> bool {
        false
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        // The descriptor closes, and with the open file description its locks end.
        let mut state = self.world.lock();
        let gone = self.holder;
        state.locks.retain(|_, holder| *holder != gone);
        if let Some(stat) = self.lock.get_mut().take() {
            state.close(stat.ino);
        }
    }
}
