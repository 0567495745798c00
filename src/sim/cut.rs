//! Copies of a machine, and machines after a power cut.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::choice::{Chooser, Rounds, drawn};
use super::content::Content;
use super::names::{Names, ROOT};
use super::rng::fold;
use super::state::{Body, Inode, Map, State, draw_boot_id};
use super::world::SimWorld;

/// What became of shared memory in a power cut: nobody syncs it, so anything may.
const MAP_FATES: usize = 6;
const PAGE: usize = 4096;
/// How long the machine is off.
const OFF_MS: u64 = 5_000;

impl SimWorld {
    /// A copy of the machine with all its memory, in which no process runs.
    #[must_use]
    pub fn fork(&self) -> SimWorld {
        let mut state = self.lock().clone();
        state.alive.clear();
        state.locks.clear();
        state.plan = None;
        for inode in state.inodes.values_mut() {
            let copy = match &inode.body {
                Body::Map(map) => {
                    let images = map.images.clone();
                    Body::Map(Map {
                        images,
                        ..Map::new(&map.bytes())
                    })
                }
                body => body.clone(),
            };
            *inode = Inode {
                body: copy,
                links: inode.links,
                open: 0,
            };
        }
        state.collect();
        SimWorld::of(state)
    }

    /// How many units and directory operations a power cut may lose now.
    #[must_use]
    pub fn dirty_units(&self) -> usize {
        let state = self.lock();
        let units = state.inodes.values().map(|inode| match &inode.body {
            Body::File(content) => content.dirty_units(),
            Body::Map(_) | Body::Dir => 0,
        });
        units.sum::<usize>() + state.names.pending()
    }

    /// The machine after a power cut and a new boot. `choose(n)` answers each question with a
    /// number below `n`: 0 for what is newest, 1 for what was durable, others for what lies
    /// between (older versions, torn ones, stale space). This machine goes on as if nothing had
    /// happened.
    #[must_use]
    pub fn power_cut_with(&self, mut choose: impl FnMut(usize) -> usize) -> SimWorld {
        let state = self.lock();
        let mut choose = Chooser::new(fold(state.options.seed, state.disk_calls), &mut choose);
        SimWorld::of(state.cut(&mut choose))
    }

    /// A power cut whose answers are drawn from `seed`.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> SimWorld {
        self.power_cut_with(drawn(seed))
    }

    /// Visits power cuts at this moment: all of them if there are at most `limit`, else `samples`
    /// drawn ones (among them always "everything survived" and "everything was lost"). Returns
    /// how many were visited, and whether they were all.
    pub fn each_cut(
        &self,
        limit: usize,
        samples: usize,
        seed: u64,
        mut visit: impl FnMut(SimWorld),
    ) -> (usize, bool) {
        if self.count_cuts(limit) <= limit {
            let mut rounds = Rounds::default();
            let mut visited = 0;
            loop {
                visit(self.power_cut_with(|n| rounds.answer(n)));
                visited += 1;
                if !rounds.next_round() {
                    return (visited, true);
                }
            }
        }
        for sample in 0..samples {
            visit(match sample {
                0 => self.power_cut_with(|_| 0),
                1 => self.power_cut_with(|_| 1),
                _ => self.power_cut(fold(seed, sample as u64)),
            });
        }
        (samples, false)
    }

    /// How many different power cuts there are, or any number above `limit`.
    fn count_cuts(&self, limit: usize) -> usize {
        // Questions multiply, whatever the answers, except that a lost name takes later questions
        // with it: an upper bound is enough to decide.
        let mut product = 1_usize;
        let _ = self.power_cut_with(|n| {
            product = product.saturating_mul(n);
            0
        });
        if product <= limit {
            product
        } else {
            limit.saturating_add(1)
        }
    }

    /// A hash of all that is durable (shared memory and LOCK apart).
    #[must_use]
    pub fn image_hash(&self) -> u64 {
        let state = self.lock();
        let tree = state.names.durable_tree();
        tree.iter().fold(0, |hash, (path, ino)| {
            match state.inodes.get(ino).map(|i| &i.body) {
                Some(Body::File(content)) => content.durable_hash(Names::path_hash(hash, path)),
                Some(Body::Dir) => Names::path_hash(hash, path),
                Some(Body::Map(_)) | None => hash,
            }
        })
    }
}

impl State {
    fn cut(&self, choose: &mut Chooser<'_>) -> State {
        let mut after = self.clone();
        after.names = self.names.cut(choose);
        after.alive.clear();
        after.locks.clear();
        after.plan = None;
        after.inodes.clear();
        after.inodes.insert(
            ROOT,
            Inode {
                body: Body::Dir,
                links: 1,
                open: 0,
            },
        );
        let mut dirs = BTreeSet::from([ROOT]);
        let graves = self.options.stale_space.then_some(&self.graves);
        for (path, ino) in after.names.durable_tree() {
            let Some(inode) = self.inodes.get(&ino) else {
                continue;
            };
            let body = match &inode.body {
                Body::File(content) if content.is_clean() => Some(inode.body.clone()),
                Body::File(content) => Some(Body::File(Arc::new(content.cut(choose, graves)))),
                Body::Map(map) => cut_map(map, self.options.unit, choose),
                Body::Dir => {
                    dirs.insert(ino);
                    Some(Body::Dir)
                }
            };
            match body {
                Some(body) => {
                    after.inodes.insert(
                        ino,
                        Inode {
                            body,
                            links: 1,
                            open: 0,
                        },
                    );
                }
                None => {
                    if let Ok(slot) = after.slot(&path) {
                        after.names.erase(&slot);
                    }
                }
            }
        }
        after.names.keep_only(&dirs);
        for inode in self.inodes.values().filter(|inode| inode.links == 0) {
            if let Body::File(content) = &inode.body {
                content.bury(&mut after.graves);
            }
        }
        after.boot_id = draw_boot_id(&mut after.rng);
        after.boottime_ms = 1_000 + after.rng.below(1_000);
        after.realtime_ms = self.realtime_ms + OFF_MS;
        after
    }
}

/// What is left of shared memory; `None` if even its name is gone.
fn cut_map(map: &Map, unit: usize, choose: &mut Chooser<'_>) -> Option<Body> {
    let len = map.arena.len();
    let oldest = || {
        map.images
            .front()
            .map_or_else(|| vec![0; len], |image| image.to_vec())
    };
    let bytes = match choose.detail(MAP_FATES) {
        0 => return None,
        1 => return Some(Body::File(Arc::new(Content::new(unit)))),
        2 => vec![0; len],
        3 => oldest(),
        4 => map.bytes(),
        _ => {
            let (mut mixed, now) = (oldest(), map.bytes());
            for (mixed, now) in mixed.chunks_mut(PAGE).zip(now.chunks(PAGE)) {
                match choose.detail(3) {
                    0 => mixed.copy_from_slice(now),
                    1 => mixed.fill(0),
                    _ => {}
                }
            }
            mixed
        }
    };
    Some(Body::Map(Map::new(&bytes)))
}
