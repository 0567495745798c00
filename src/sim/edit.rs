//! Looking at a simulated disk from outside, and damaging it.

use std::sync::Arc;

use super::content::Content;
use super::state::{Body, Map, State};
use super::world::SimWorld;
use crate::sys::Arena;

impl SimWorld {
    /// Every file with its path and content as programs see it now.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.lock();
        let tree = state.names.tree();
        tree.into_iter()
            .filter_map(|(path, ino)| Some((path, state.bytes_of(ino)?)))
            .collect()
    }

    /// One file's content as programs see it now.
    #[must_use]
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.bytes_of(state.find(path).ok()?)
    }

    /// Puts a file there, or replaces its content, durably. Its directory must exist. Shared
    /// memory that is mapped stays what it is for those who mapped it.
    pub fn write_file(&self, path: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let content = Arc::new(Content::durable(state.options.unit, bytes));
        if let Ok(ino) = state.find(path) {
            if let Ok(inode) = state.inode_mut(ino) {
                inode.body = Body::File(content);
            }
            return;
        }
        let slot = state.slot(path).expect("the directory exists");
        let ino = state.make_inode(Body::File(content));
        if let Ok(inode) = state.inode_mut(ino) {
            inode.links = 1;
        }
        state.names.place(slot, ino);
    }

    /// Flips bits of one byte of a file, on the disk and in memory. Returns whether there is such
    /// a byte.
    pub fn corrupt(&self, path: &str, offset: u64, xor: u8) -> bool {
        let mut state = self.lock();
        let Ok(ino) = state.find(path) else {
            return false;
        };
        if !state.stat(ino).is_ok_and(|stat| offset < stat.len) {
            return false;
        }
        match state.inode_mut(ino).map(|inode| &mut inode.body) {
            Ok(Body::File(content)) => {
                Arc::make_mut(content).corrupt(offset, xor);
                true
            }
            Ok(Body::Map(map)) => {
                let Ok(offset) = usize::try_from(offset) else {
                    return false;
                };
                let mut byte = [0];
                map.arena.copy_out(offset, &mut byte) && map.arena.copy_in(offset, &[byte[0] ^ xor])
            }
            _ => false,
        }
    }

    /// Cuts a file off (or extends it with zeros), durably. Returns whether there is such a file.
    pub fn truncate(&self, path: &str, len: usize) -> bool {
        let Some(mut bytes) = self.read_file(path) else {
            return false;
        };
        bytes.resize(len, 0);
        self.write_file(path, &bytes);
        true
    }

    /// Removes a file, durably. Returns whether it was there.
    pub fn remove(&self, path: &str) -> bool {
        let mut state = self.lock();
        let Ok(slot) = state.slot(path) else {
            return false;
        };
        if state.names.get(&slot).is_none() || state.unlink(path).is_err() {
            return false;
        }
        state.names.erase(&slot);
        state.collect();
        true
    }

    /// Others use all of the disk but so many bytes, or give everything back: the disk has no end
    /// then.
    pub fn leave_room(&self, bytes: Option<u64>) {
        let mut state = self.lock();
        state.options.capacity = bytes.map(|bytes| state.used_units() * state.unit() + bytes);
    }

    /// Whether the disk has an end.
    #[must_use]
    pub fn has_an_end(&self) -> bool {
        self.lock().options.capacity.is_some()
    }

    /// Makes the kernel forget its clean pages, so that what a failed sync left in memory only is
    /// gone for readers too.
    pub fn drop_caches(&self) {
        let mut state = self.lock();
        let files: Vec<u64> = state.inodes.keys().copied().collect();
        for ino in files {
            if let Ok(content) = state.content_mut(ino) {
                content.evict();
            }
        }
    }

    /// The shared memory at `path`, as processes map it.
    pub(crate) fn arena(&self, path: &str) -> Option<Arena> {
        let state = self.lock();
        match &state.inode(state.find(path).ok()?).ok()?.body {
            Body::Map(Map { arena, .. }) => Some(arena.clone()),
            _ => None,
        }
    }

    /// Reads one word of the shared memory at `path`.
    #[must_use]
    pub fn map_word(&self, path: &str, offset: usize) -> Option<u64> {
        self.arena(path).map(|arena| arena.load(offset))
    }

    /// Writes one word of the shared memory at `path`; returns whether there is any.
    pub fn set_map_word(&self, path: &str, offset: usize, value: u64) -> bool {
        self.arena(path)
            .map(|arena| arena.store(offset, value))
            .is_some()
    }
}

impl State {
    fn bytes_of(&self, ino: u64) -> Option<Vec<u8>> {
        match &self.inode(ino).ok()?.body {
            Body::File(content) => Some(content.bytes()),
            Body::Map(map) => Some(map.bytes()),
            Body::Dir => None,
        }
    }
}
