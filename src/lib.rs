//! keepq is a durable message queue in a library.
//!
//! A directory is the queue; any number of processes send to it and consume from it at the same
//! time, and no server runs. A message that was confirmed survives the death of every process and,
//! sent with [`Flush::Sync`], power loss; it is delivered to every group until it is acked, and in
//! the end dead-lettered, never dropped.
//!
//! Start with [`Store::open`]. The words: a *store* is an opened directory; a *topic* a named
//! stream of messages in it; a *group* consumes a topic together; a received message is *leased*
//! until it is *acked*, *nacked* or *rejected*.
//!
//! Features: `tracing` (on by default) logs through the `tracing` crate; `async` gives futures and
//! streams for any executor; `serde` gives `Serialize`, and `Deserialize` where it makes sense, for
//! [`Sent`], [`MessageId`] (16 hexadecimal digits), the settings, counters and reports, and
//! `Serialize` for [`Error`].
//!
//! The layers, each calling only downwards: public handles -> `delivery`, `commitlog` -> `shm` ->
//! `sys` -> `format`. `docs/ARCHITECTURE.md` walks through them.

#[macro_use]
#[path = "sim/switch_macro.rs"]
mod switch_macro;

pub mod error;
pub mod options;

mod attempts;
mod browse;
mod chunked;
mod commitlog;
mod configure;
mod dead_letters;
mod deadline;
mod deletion;
mod delivery;
mod doctor;
mod format;
mod group;
mod group_options;
mod handed;
mod in_flight;
mod inner;
mod keeper;
mod message;
mod open;
mod pending;
mod producer;
mod ready;
mod rebuild;
mod receipt;
#[cfg(feature = "async")]
mod receive_async;
mod repair;
mod reports;
mod send_async;
mod shm;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
#[cfg(feature = "sim")]
mod simulated;
mod store;
mod sys;
mod topic;
mod topic_options;
mod trace;
mod verify;
mod within;

pub use browse::{Browse, Browsed, Content};
pub use configure::Configure;
pub use dead_letters::{BrowseDead, Burial, DeadLetter, DeadLetters};
pub use doctor::{Check, doctor};
pub use error::{Code, Error, Outcome, Result};
pub use group::Group;
pub use group_options::GroupOptions;
pub use handed::Delivery;
pub use message::{Message, OutMessage};
pub use options::{
    Backoff, BackoffKind, Flush, GroupConfig, MessageId, RepairOptions, SendStatus, Sent, Start,
    StoreConfig, StoreOptions, TopicConfig, WhenFull, limits,
};
pub use pending::Pending;
pub use producer::Producer;
pub use ready::Readiness;
pub use receipt::Receipt;
#[cfg(feature = "async")]
pub use receive_async::{Deliveries, Receive};
pub use repair::repair;
pub use reports::{
    Finding, GroupStats, LostMessages, Pin, PinKind, RecoveryReport, RepairReport, StoreStats,
    TopicStats, VerifyReport,
};
#[cfg(feature = "sim")]
#[doc(hidden)]
pub use simulated::repair_simulated;
pub use store::Store;
pub use topic::Topic;
pub use topic_options::{ConfigureStore, ConfigureTopic, TopicOptions};
pub use verify::verify;
pub use within::{Unconfirmed, Within};

/// Version of the on-disk format this library writes; 0 is the draft before format v1.
pub const FORMAT_VERSION: u32 = format::superblock::FORMAT_VERSION;

/// A fresh directory for an example, on a real disk where there is one.
#[doc(hidden)]
#[must_use]
pub fn doc_dir(name: &str) -> std::path::PathBuf {
    let base = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(std::env::temp_dir, |d| {
        std::path::PathBuf::from(d).join("target")
    });
    base.join(format!("keepq-doc-{name}-{}", std::process::id()))
}

/// The README's Rust example is compiled by the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
