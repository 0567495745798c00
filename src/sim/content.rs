//! The content of one simulated file: what programs see now, what is durable, and every version
//! of each unit in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::choice::Chooser;
use super::rng::{fold, fold_bytes};

/// A unit of the disk: written whole, or (if larger than a sector) torn between sectors.
pub(super) type Unit = Arc<[u8]>;

const SECTOR: usize = 512;
/// Versions of a unit or a length remembered since the last sync; of more, the middle is dropped.
const MAX_VERSIONS: usize = 12;
/// Units of removed files remembered, to turn up again in fresh space.
const MAX_GRAVES: usize = 256;

/// What freed space of the disk still holds.
#[derive(Clone, Default)]
pub(super) struct Graves(VecDeque<(u64, Unit)>);

impl Graves {
    fn find(&self, index: u64, detail: usize) -> Option<&Unit> {
        // The unit of the same place in a removed file is the likeliest to look valid.
        let same = self.0.iter().filter(|(at, _)| *at == index);
        let count = same.clone().count();
        if count > 0 {
            return same.map(|(_, unit)| unit).nth(detail % count);
        }
        self.0
            .get(detail % self.0.len().max(1))
            .map(|(_, unit)| unit)
    }
}

/// One file's bytes. Units that are missing in a map read as zeros.
#[derive(Clone)]
pub(super) struct Content {
    unit: usize,
    len: u64,
    durable_len: u64,
    /// Lengths since the last sync, the oldest first; the last is `len`.
    lens: Vec<u64>,
    now: BTreeMap<u64, Unit>,
    durable: BTreeMap<u64, Unit>,
    /// Versions since the last sync, the oldest first; the last is what `now` holds.
    dirty: BTreeMap<u64, Vec<Unit>>,
    /// Units whose writing failed: clean for the kernel, on the device or not.
    failed: BTreeMap<u64, Unit>,
    /// Units `[0, reserved)` have their place on the disk, written or not.
    reserved: u64,
    /// How many syncs of this file have failed, for descriptors to compare with.
    pub(super) failures: u64,
}

impl Content {
    pub(super) fn new(unit: usize) -> Self {
        Self {
            unit,
            len: 0,
            durable_len: 0,
            lens: Vec::new(),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            dirty: BTreeMap::new(),
            failed: BTreeMap::new(),
            reserved: 0,
            failures: 0,
        }
    }

    /// A file whose bytes are durable already.
    pub(super) fn durable(unit: usize, bytes: &[u8]) -> Self {
        let mut content = Self::new(unit);
        content.write(bytes, 0);
        content.sync();
        content
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Units that have their place on the disk.
    pub(super) fn allocated(&self) -> u64 {
        self.reserved + self.now.range(self.reserved..).count() as u64
    }

    /// Whether a power cut has nothing to decide.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.failed.is_empty() && self.lens.is_empty()
    }

    /// How many units a cut may lose or keep.
    pub(super) fn dirty_units(&self) -> usize {
        let failed = self
            .failed
            .keys()
            .filter(|index| !self.dirty.contains_key(index))
            .count();
        self.dirty.len() + failed
    }

    pub(super) fn read(&self, out: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = left.min(out.len());
        for (index, in_unit, range) in self.pieces(n, offset) {
            let to = &mut out[range.clone()];
            match self.now.get(&index) {
                Some(unit) => to.copy_from_slice(&unit[in_unit..in_unit + range.len()]),
                None => to.fill(0),
            }
        }
        n
    }

    /// The units touched by `len` bytes at `offset`: (index, start in the unit, range of bytes).
    fn pieces(
        &self,
        len: usize,
        offset: u64,
    ) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> + use<> {
        let unit = self.unit;
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let start = usize::try_from(at % unit as u64).unwrap_or(0);
            let n = (unit - start).min(len - done);
            let range = done..done + n;
            done += n;
            (n > 0).then_some((at / unit as u64, start, range))
        })
    }

    /// How many of `bytes` at `offset` fit if only `free` more units can be allocated.
    pub(super) fn fits(&self, len: usize, offset: u64, mut free: u64) -> usize {
        for (index, _, range) in self.pieces(len, offset) {
            if index < self.reserved || self.now.contains_key(&index) {
                continue;
            }
            if free == 0 {
                return range.start;
            }
            free -= 1;
        }
        len
    }

    /// Units that reserving `[0, len)` would add.
    pub(super) fn missing(&self, len: u64) -> u64 {
        let units = len.div_ceil(self.unit as u64);
        if units <= self.reserved {
            return 0;
        }
        let there = self.now.range(self.reserved..units).count() as u64;
        units - self.reserved - there
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        for (index, in_unit, range) in self.pieces(bytes.len(), offset) {
            let mut unit = match self.now.get(&index) {
                Some(unit) => unit.to_vec(),
                None => vec![0; self.unit],
            };
            unit[in_unit..in_unit + range.len()].copy_from_slice(&bytes[range]);
            let unit: Unit = unit.into();
            self.now.insert(index, Arc::clone(&unit));
            remember(self.dirty.entry(index).or_default(), unit);
        }
        if !bytes.is_empty() {
            self.extend(offset + bytes.len() as u64);
        }
    }

    pub(super) fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len.div_ceil(self.unit as u64));
        self.extend(len);
    }

    fn extend(&mut self, len: u64) {
        if len > self.len {
            self.len = len;
            remember(&mut self.lens, len);
        }
    }

    /// Everything written is durable.
    pub(super) fn sync(&mut self) {
        for (index, mut versions) in std::mem::take(&mut self.dirty) {
            self.failed.remove(&index);
            if let Some(newest) = versions.pop() {
                self.durable.insert(index, newest);
            }
        }
        self.lens.clear();
        self.durable_len = self.len;
    }

    /// The device refuses: the pages are clean from now on, and nobody will write them again
    /// unless they change. Reading still shows them.
    pub(super) fn fail_sync(&mut self) {
        for (index, mut versions) in std::mem::take(&mut self.dirty) {
            if let Some(newest) = versions.pop() {
                self.failed.insert(index, newest);
            }
        }
    }

    /// Pages that are clean leave the cache and are read back from the device.
    pub(super) fn evict(&mut self) {
        for index in std::mem::take(&mut self.failed).into_keys() {
            if self.dirty.contains_key(&index) {
                continue;
            }
            match self.durable.get(&index) {
                Some(unit) => self.now.insert(index, Arc::clone(unit)),
                None => self.now.remove(&index),
            };
        }
    }

    /// What a power cut leaves of the file.
    pub(super) fn cut(&self, choose: &mut Chooser<'_>, graves: Option<&Graves>) -> Self {
        let mut units = self.durable.clone();
        let mut pending: Vec<u64> = self
            .dirty
            .keys()
            .chain(self.failed.keys())
            .copied()
            .collect();
        pending.sort_unstable();
        pending.dedup();
        for index in pending {
            let mut options = self.options(index, choose, graves);
            let taken = choose.pick(options.len());
            match options.swap_remove(taken) {
                Some(unit) => units.insert(index, unit),
                None => units.remove(&index),
            };
        }
        let mut lens = vec![self.len];
        for &len in std::iter::once(&self.durable_len).chain(&self.lens) {
            if !lens.contains(&len) {
                lens.push(len);
            }
        }
        let len = lens[choose.pick(lens.len())];
        let mut after = Self {
            len,
            durable_len: len,
            durable: units,
            ..Self::new(self.unit)
        };
        after.trim();
        after.reserved = self.reserved.min(len.div_ceil(self.unit as u64));
        after
    }

    /// What unit `index` may hold after a cut (`None` is zeros): the newest version, the durable
    /// one, those between, a torn one, and what freed space held. Equal ones count once.
    fn options(
        &self,
        index: u64,
        choose: &mut Chooser<'_>,
        graves: Option<&Graves>,
    ) -> Vec<Option<Unit>> {
        let old = self.durable.get(&index).cloned();
        let mut versions: Vec<&Unit> = self.failed.get(&index).into_iter().collect();
        versions.extend(self.dirty.get(&index).into_iter().flatten());
        let mut options: Vec<Option<Unit>> = Vec::with_capacity(versions.len() + 3);
        let Some(newest) = versions.pop() else {
            return vec![old];
        };
        options.push(Some(Arc::clone(newest)));
        let add = |options: &mut Vec<Option<Unit>>, unit: Option<Unit>| {
            if !options
                .iter()
                .any(|known| self.same(known.as_ref(), unit.as_ref()))
            {
                options.push(unit);
            }
        };
        add(&mut options, old.clone());
        for version in versions {
            add(&mut options, Some(Arc::clone(version)));
        }
        if self.unit > SECTOR {
            let sectors = 1 + choose.detail(self.unit / SECTOR - 1);
            let mut torn = old
                .as_ref()
                .map_or_else(|| vec![0; self.unit], |unit| unit.to_vec());
            torn[..sectors * SECTOR].copy_from_slice(&newest[..sectors * SECTOR]);
            add(&mut options, Some(torn.into()));
        }
        // Space that was reserved first reads as zeros until the write reaches it.
        if let (None, Some(graves), true) = (&old, graves, index >= self.reserved) {
            let detail = choose.detail(MAX_GRAVES);
            if let Some(stale) = graves.find(index, detail) {
                add(&mut options, Some(Arc::clone(stale)));
            }
        }
        options
    }

    fn same(&self, a: Option<&Unit>, b: Option<&Unit>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => a == b,
            (None, None) => true,
            (Some(unit), None) | (None, Some(unit)) => unit.iter().all(|&byte| byte == 0),
        }
    }

    /// Drops what lies beyond the length, and makes the page cache what is durable.
    fn trim(&mut self) {
        let unit = self.unit as u64;
        self.durable.split_off(&self.len.div_ceil(unit));
        let within = usize::try_from(self.len % unit).unwrap_or(0);
        if within != 0 {
            if let Some(last) = self.durable.get_mut(&(self.len / unit)) {
                let mut bytes = last.to_vec();
                bytes[within..].fill(0);
                *last = bytes.into();
            }
        }
        self.now = self.durable.clone();
    }

    /// Changes one durable byte behind everybody's back, as rot or a stray write does.
    pub(super) fn corrupt(&mut self, offset: u64, xor: u8) {
        let index = offset / self.unit as u64;
        let at = usize::try_from(offset % self.unit as u64).unwrap_or(0);
        for units in [&mut self.now, &mut self.durable] {
            let mut bytes = units
                .get(&index)
                .map_or_else(|| vec![0; self.unit], |u| u.to_vec());
            bytes[at] ^= xor;
            units.insert(index, bytes.into());
        }
    }

    /// Its bytes as programs see them.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Leaves its last bytes in freed space.
    pub(super) fn bury(&self, graves: &mut Graves) {
        for (&index, unit) in self.now.iter().chain(&self.durable) {
            if graves.0.len() == MAX_GRAVES {
                graves.0.pop_front();
            }
            graves.0.push_back((index, Arc::clone(unit)));
        }
    }

    /// A hash of what is durable.
    pub(super) fn durable_hash(&self, hash: u64) -> u64 {
        let hash = fold(hash, self.durable_len);
        self.durable
            .iter()
            .filter(|(_, unit)| unit.iter().any(|&byte| byte != 0))
            .fold(hash, |hash, (&index, unit)| {
                fold_bytes(fold(hash, index), unit)
            })
    }
}

fn remember<T>(versions: &mut Vec<T>, newest: T) {
    if versions.len() == MAX_VERSIONS {
        versions.remove(MAX_VERSIONS / 2);
    }
    versions.push(newest);
}
