//! A simulated machine, for tests only: disks that lose what was not synced, processes that die
//! anywhere, faults at any call, and switches that take one protection away.
//!
//! Compiled with the feature `sim`. Nothing of it is in a release build.
//!
//! A test makes a [`SimWorld`], starts processes in it, runs each as a member with a [`Fate`], and
//! at any moment looks at what a power cut would leave ([`SimWorld::each_cut`]). Everything follows
//! from seeds as long as one thread runs at a time; with real threads all of it still works, in an
//! order that the seeds do not decide.

mod breaks;
mod choice;
mod content;
mod cut;
mod disk;
mod edit;
mod fate;
mod full;
mod host;
mod names;
mod options;
mod rng;
mod sites;
mod state;
mod world;

#[cfg(test)]
mod tests;

pub(crate) use breaks::broken;
pub use breaks::{Break, set_broken};
pub use fate::{Fate, Killed, points_used, run_member, set_point_hook};
pub(crate) use fate::{killed, point};
pub(crate) use full::check_room;
pub use full::{full_while_there_is, is_full};
pub use names::MetadataModel;
pub use options::{Fault, FaultPlan, SimOptions};
pub use rng::Rng;
pub(crate) use sites::disk_call;
pub use sites::{CallKind, Site, announced_site, call_sites, calls_announced, fault_sites};
pub use world::{SimProcess, SimWorld};
