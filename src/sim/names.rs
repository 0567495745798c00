//! The directories of a simulated disk: the names as they are now, those that are durable, and
//! the operations in between, each of which a power cut may keep or lose.

use std::collections::{BTreeMap, BTreeSet};

use super::choice::Chooser;
use super::rng::{fold, fold_bytes};

/// The root directory's inode.
pub(super) const ROOT: u64 = 2;

/// In which order a power cut may keep what was done to directories since their last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetadataModel {
    /// Each operation on its own, except that a name's own history stays in order.
    #[default]
    Unordered,
    /// The first so-and-so many of all of them, as a journal does.
    Ordered,
}

/// A name in a directory.
pub(super) type Slot = (u64, String);

#[derive(Clone, Debug)]
enum Change {
    Add(Slot, u64),
    Remove(Slot),
    Move(Slot, Slot, u64),
}

#[derive(Clone, Debug)]
struct Op {
    change: Change,
    /// Directories that must still be synced until it is durable.
    unsynced: Vec<u64>,
}

impl Op {
    fn slots(&self) -> Vec<&Slot> {
        match &self.change {
            Change::Add(slot, _) | Change::Remove(slot) => vec![slot],
            Change::Move(from, to, _) => vec![from, to],
        }
    }

    fn apply(&self, names: &mut BTreeMap<Slot, u64>) {
        match &self.change {
            Change::Add(slot, ino) => {
                names.insert(slot.clone(), *ino);
            }
            Change::Remove(slot) => {
                names.remove(slot);
            }
            Change::Move(from, to, ino) => {
                names.remove(from);
                names.insert(to.clone(), *ino);
            }
        }
    }
}

/// All names of a disk.
#[derive(Clone, Default)]
pub(super) struct Names {
    model: MetadataModel,
    now: BTreeMap<Slot, u64>,
    durable: BTreeMap<Slot, u64>,
    pending: Vec<Op>,
}

impl Names {
    pub(super) fn new(model: MetadataModel) -> Self {
        Self {
            model,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<u64> {
        self.now.get(slot).copied()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The names in one directory, sorted.
    pub(super) fn list(&self, dir: u64) -> impl Iterator<Item = (&str, u64)> {
        let from = (dir, String::new());
        let in_dir = self
            .now
            .range(from..)
            .take_while(move |((at, _), _)| *at == dir);
        in_dir.map(|((_, name), &ino)| (name.as_str(), ino))
    }

    fn push(&mut self, change: Change) {
        let mut op = Op {
            change,
            unsynced: Vec::new(),
        };
        let mut dirs: Vec<u64> = op.slots().iter().map(|(dir, _)| *dir).collect();
        dirs.dedup();
        op.unsynced = dirs;
        op.apply(&mut self.now);
        self.pending.push(op);
    }

    pub(super) fn add(&mut self, slot: Slot, ino: u64) {
        self.push(Change::Add(slot, ino));
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.push(Change::Remove(slot));
    }

    pub(super) fn rename(&mut self, from: Slot, to: Slot, ino: u64) {
        self.push(Change::Move(from, to, ino));
    }

    /// Puts a name there durably, outside all models (for tests that prepare a disk).
    pub(super) fn place(&mut self, slot: Slot, ino: u64) {
        self.sync_all();
        self.now.insert(slot.clone(), ino);
        self.durable.insert(slot, ino);
    }

    /// Takes a name away durably.
    pub(super) fn erase(&mut self, slot: &Slot) {
        self.sync_all();
        self.now.remove(slot);
        self.durable.remove(slot);
    }

    fn sync_all(&mut self) {
        for op in std::mem::take(&mut self.pending) {
            op.apply(&mut self.durable);
        }
    }

    /// Makes a directory's names durable. Moving a file between two directories is durable once
    /// both are synced, which is more than POSIX promises for one of them.
    pub(super) fn sync(&mut self, dir: u64) {
        let touched = |op: &Op| op.unsynced.contains(&dir);
        let last = self.pending.iter().rposition(touched);
        for op in &mut self.pending {
            op.unsynced.retain(|&at| at != dir);
        }
        let Some(last) = last else { return };
        let mut done = vec![false; self.pending.len()];
        match self.model {
            MetadataModel::Ordered => done[..=last].fill(true),
            MetadataModel::Unordered => {
                // Backwards, so that a durable change brings along what its names went through.
                let mut needed: BTreeSet<Slot> = BTreeSet::new();
                for (op, done) in self.pending.iter().zip(&mut done).rev() {
                    let slots = op.slots();
                    if op.unsynced.is_empty() || slots.iter().any(|slot| needed.contains(slot)) {
                        *done = true;
                        needed.extend(slots.into_iter().cloned());
                    }
                }
            }
        }
        let ops = std::mem::take(&mut self.pending);
        for (op, done) in ops.into_iter().zip(done) {
            if done {
                op.apply(&mut self.durable);
            } else {
                self.pending.push(op);
            }
        }
    }

    /// The names after a power cut.
    pub(super) fn cut(&self, choose: &mut Chooser<'_>) -> Self {
        let mut names = self.durable.clone();
        match self.model {
            MetadataModel::Ordered => {
                let all = self.pending.len();
                let kept = match choose.pick(all + 1) {
                    0 => all,
                    answer => answer - 1,
                };
                self.pending[..kept]
                    .iter()
                    .for_each(|op| op.apply(&mut names));
            }
            MetadataModel::Unordered => {
                let mut lost: BTreeSet<&Slot> = BTreeSet::new();
                for op in &self.pending {
                    let slots = op.slots();
                    let blocked = slots.iter().any(|slot| lost.contains(slot));
                    if !blocked && choose.pick(2) == 0 {
                        op.apply(&mut names);
                    } else {
                        lost.extend(slots);
                    }
                }
            }
        }
        Self {
            model: self.model,
            now: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }

    /// Inodes that some name, now or after a cut, may still lead to.
    pub(super) fn referenced(&self) -> BTreeSet<u64> {
        let pending = self.pending.iter().filter_map(|op| match &op.change {
            Change::Add(_, ino) | Change::Move(_, _, ino) => Some(*ino),
            Change::Remove(_) => None,
        });
        self.now
            .values()
            .chain(self.durable.values())
            .copied()
            .chain(pending)
            .collect()
    }

    /// The durable names that can be reached from the root, with their paths.
    pub(super) fn durable_tree(&self) -> Vec<(String, u64)> {
        tree(&self.durable)
    }

    /// The names that can be reached from the root now, with their paths.
    pub(super) fn tree(&self) -> Vec<(String, u64)> {
        tree(&self.now)
    }

    /// Forgets the names below directories that a cut took away.
    pub(super) fn keep_only(&mut self, dirs: &BTreeSet<u64>) {
        self.now.retain(|(dir, _), _| dirs.contains(dir));
        self.durable.retain(|(dir, _), _| dirs.contains(dir));
    }

    /// A hash of one path and its inode's place in the tree.
    pub(super) fn path_hash(hash: u64, path: &str) -> u64 {
        fold(fold_bytes(hash, path.as_bytes()), 1)
    }
}

fn tree(names: &BTreeMap<Slot, u64>) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![(String::new(), ROOT)];
    while let Some((prefix, dir)) = dirs.pop() {
        let in_dir = names
            .range((dir, String::new())..)
            .take_while(|((at, _), _)| *at == dir);
        for ((_, name), &ino) in in_dir {
            let path = format!("{prefix}{name}");
            // A file has no names below it, so following every inode finds the directories.
            dirs.push((format!("{path}/"), ino));
            found.push((path, ino));
        }
    }
    found.sort();
    found
}
