//! The C interface of keepq: translates and does nothing else.
//!
//! Every function checks what it is given, calls one function of the engine inside [`error::guard`]
//! (a panic becomes `KEEPQ_E_INTERNAL` instead of crossing into C) and returns a `keepq_rc`.
//! Handles are numbers in a table ([`handle`]), so a wrong one is an error and never a memory
//! access.
//!
//! The doc comments of public items are the text of `include/keepq.h`: they speak to C programmers.

#![allow(unsafe_code, non_camel_case_types)]
// What a caller must hold to is the same for every function, and stated once: at the head of
// keepq.h, by cbindgen.toml.
#![allow(clippy::missing_safety_doc)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod fork;
mod handle;
mod sized;
mod text;
mod topics_at_hand;

// The header follows the order of these, which blank lines keep.
mod store;

mod opts;

mod send;

mod callbacks;

mod group_opts;

mod group;

mod topic_opts;

mod topic;

mod settle;

mod msg;

mod browse;

mod report;

mod repair;

mod error;

pub use browse::*;
pub use callbacks::*;
pub use error::*;
pub use group::*;
pub use group_opts::*;
pub use msg::*;
pub use opts::*;
pub use repair::*;
pub use report::*;
pub use send::*;
pub use settle::*;
pub use store::*;
pub use topic::*;
pub use topic_opts::*;

#[cfg(test)]
mod tests;
