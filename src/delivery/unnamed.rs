//! Broadcast consumers without a name: groups that end with the member which has them open.
//!
//! Such a group has a flag, and from the transaction on that makes it its member is among its
//! consumers ([`consumers`]). It has no other, because nobody else can name it. The member leaves
//! it when the last handle of it is dropped or when it closes the store; if it dies, whoever cleans
//! up after it takes it off the consumers of every group. A group of this kind without a consumer
//! is an orphan, and stays one. It is deleted as every group is: by who left it, by the keeper of
//! any process, or by the next open. Not while a dead member is cleaned up after: that appends
//! nothing.
//!
//! A cold recovery finds no consumers of any group. So what the log still knows of these groups, be
//! it that a power cut took the record of a deletion, is deleted by the open that recovers.

use super::{gone, registry};
use crate::commitlog::Log;
use crate::error::{Code, Result};
use crate::format::payload::GroupConfig;
use crate::shm::control::P_FLAGS;
use crate::shm::{Ctl, consumers};

/// Whether a group ends with its member.
fn is_unnamed(ctl: &Ctl, group: u32) -> bool {
    ctl.load(ctl.layout.group(group, P_FLAGS)) & u64::from(GroupConfig::UNNAMED) != 0
}

/// Whether a group has a name that only those have. A word of shared memory that is wrong must not
/// delete any other for good.
pub(crate) fn has_such_a_name(ctl: &Ctl, group: u32) -> bool {
    registry::group_name(ctl, group).is_ok_and(|name| {
        name.rsplit_once("%%").is_some_and(|(_, number)| {
            number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit())
        })
    })
}

/// Whether a group in use ends with its member, and that has left it. Exact under lock E.
pub(crate) fn is_orphan(ctl: &Ctl, group: u32) -> bool {
    if !is_unnamed(ctl, group) || !ctl.has_group(group) {
        return false;
    }
    if broken!(LivingConsumerEnded) {
        return !consumers::is_one(ctl, group, ctl.me());
    }
    consumers::count(ctl, group) == 0
}

/// Whether there is any group that ends with its member.
pub(crate) fn is_any(ctl: &Ctl) -> bool {
    registry::live_groups(ctl).any(|group| is_unnamed(ctl, group))
}

/// Notes that this member has a group open.
pub(crate) fn enter(log: &Log, group: u32) -> Result<()> {
    let ctl = &log.ctl;
    if !consumers::is_one(ctl, group, ctl.me()) {
        let mut tx = ctl.begin(ctl.patience())?;
        super::places::check_group(ctl, group)?;
        consumers::enter(&mut tx, group, ctl.me());
        tx.commit();
    }
    Ok(())
}

/// Notes that this member has a group open no more.
pub(crate) fn leave(log: &Log, group: u32) -> Result<()> {
    let ctl = &log.ctl;
    let mut tx = ctl.begin(ctl.patience())?;
    consumers::leave(&mut tx, group, ctl.me());
    tx.commit();
    Ok(())
}

/// Ends those of this member, which closes.
pub(crate) fn end_own(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    let is_own = |&group: &u32| is_unnamed(ctl, group) && consumers::is_one(ctl, group, ctl.me());
    let own: Vec<u32> = registry::live_groups(ctl).filter(is_own).collect();
    for group in own {
        leave(log, group)?;
    }
    end_orphans(log)
}

/// Deletes the orphans. Found without the lock, checked under it.
pub(crate) fn end_orphans(log: &Log) -> Result<()> {
    let ctl = &log.ctl;
    if ctl.is_frozen() || log.check_usable().is_err() {
        return Ok(());
    }
    let is_one = |&group: &u32| is_orphan(ctl, group);
    let orphans: Vec<u32> = registry::live_groups(ctl).filter(is_one).collect();
    let mut failed = Ok(());
    for &group in &orphans {
        match gone::delete_orphan(log, group, ctl.patience()) {
            Ok(_) => {}
            // Somebody else was faster.
            Err(e) if e.code() == Code::NotFound => {}
            Err(e) => failed = Err(e),
        }
    }
    if orphans.is_empty() {
        return Ok(());
    }
    gone::finish(log).and(failed)
}
