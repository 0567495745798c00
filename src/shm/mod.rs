//! What the processes of a store share: `ctl`, its locks, its members and its waits.
//!
//! - [`consumers`] tells which members have which group open.
//! - [`control`] is the layout of `ctl`: where every word lies and who may write it.
//! - [`id`] is what topics and groups are named by, there and in the log.
//! - [`undo`] is the one way to change shared state: [`Ctl::set`](undo::Tx::set) under lock E.
//! - [`lock`] is the futex lock whose dead owner is found by its OFD byte, never by time.
//! - [`member`] is the table of processes, their reaping and the sweep.
//! - [`pace`] is when a flush leader starts.
//! - [`wake`] is how threads of different processes wait for one another, always bounded.

pub(crate) mod consumers;
pub(crate) mod control;
mod geometry;
pub(crate) mod id;
pub(crate) mod lock;
pub(crate) mod member;
pub(crate) mod pace;
pub(crate) mod undo;
pub(crate) mod wake;

pub(crate) use control::{Geometry, Layout};
pub(crate) use undo::{Ctl, Tx};
