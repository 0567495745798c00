//! Who gets which message, and what became of it: topics, groups, leases, settlements.
//!
//! All of it is state in shared memory, changed under lock E, and every change that must outlive
//! the processes is a record of the commit log in the same transaction.
//!
//! - [`registry`] names topics and groups, [`producers`] producers, with what they sent last;
//!   [`topics`] makes topics; [`places`] tells who has which place of the tables, and [`gone`]
//!   takes away what is purged or deleted; [`unnamed`] groups go with their members.
//! - [`kept`] counts what topics keep; [`limits`] are the options that it is counted for.
//! - [`slot`] is the table of outstanding messages with its lists and its timer wheel.
//! - [`claim`] hands messages out under leases; [`fetch`] reads what was handed out.
//! - [`pick`] claims for groups that filter by [`tags`] or keep messages of one key in [`order`].
//! - [`settle`] takes them back: ack, nack, reject, extend; [`putback`] ends leases and runs
//!   back-offs; [`bury`] makes dead letters, [`removed`] knows which of them were purged;
//!   [`coalesced`] keeps acks that a full disk has no room for.
//! - [`snapshot`] writes down what recovery needs; [`replay`] builds the state from the log, with
//!   [`progress`] for each group, and [`salvage`] when no snapshot is whole.
//! - [`live`] knows what of the log is still needed; [`tidy`] gives the rest of the disk back;
//!   [`pins`] tells who keeps how much of it, [`oldest`] since when a group has something to do.

pub(crate) mod bury;
pub(crate) mod claim;
pub(crate) mod coalesced;
pub(crate) mod fetch;
pub(crate) mod gone;
pub(crate) mod kept;
pub(crate) mod limits;
pub(crate) mod live;
pub(crate) mod oldest;
pub(crate) mod order;
pub(crate) mod pick;
pub(crate) mod pins;
pub(crate) mod places;
pub(crate) mod producers;
pub(crate) mod progress;
pub(crate) mod putback;
pub(crate) mod registry;
pub(crate) mod removed;
pub(crate) mod replay;
pub(crate) mod salvage;
pub(crate) mod settle;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod tags;
pub(crate) mod tidy;
pub(crate) mod topics;
pub(crate) mod unnamed;
