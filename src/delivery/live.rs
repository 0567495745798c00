//! The lowest log position that anybody still needs, for reclaim.

use super::registry;
use super::slot::{Owner, State};
use super::{gone, kept};
use crate::commitlog::Log;
use crate::error::{Code, Result};
use crate::shm::control::{
    G_SLOT_TOP, P_CURSOR, S_HEAD, S_LSN, S_OWNER, S_SEQ, T_FIRST, T_GROUP, T_NEXT, W_ROLLBACKS,
};

/// The lowest LSN that anybody needs: of any outstanding message, of the first unread message of
/// any group or of a topic without groups, of a pin; and where the log ended when it was found.
///
/// Read without the lock, in an order that is safe: the log's end first. What is claimed later
/// lies at or above a cursor that was read; what is settled later only makes it too low. What was
/// read may have been half a transaction, whose owner dies and which is rolled back: so all who
/// held the lock meanwhile are waited for, and if any was rolled back, it is read again.
pub(crate) fn lowest_live(log: &Log) -> Result<(u64, u64)> {
    let ctl = &log.ctl;
    loop {
        let rollbacks = ctl.load(W_ROLLBACKS);
        let (lowest, as_of) = read_lowest(log)?;
        let lowest = lowest.min(log.lowest_pin());
        let tx = ctl.begin(ctl.patience())?;
        let unchanged = ctl.load(W_ROLLBACKS) == rollbacks && rollbacks % 2 == 0;
        drop(tx);
        if unchanged || broken!(ReclaimOnHalfRead) {
            return Ok((lowest, as_of));
        }
    }
}

fn read_lowest(log: &Log) -> Result<(u64, u64)> {
    let ctl = &log.ctl;
    let as_of = log.tail();
    let mut lowest = as_of;
    for topic in registry::live_topics(ctl) {
        let word = |w| ctl.load(ctl.layout.topic(topic, w));
        let from = match lowest_cursor(log, topic) {
            Some(cursor) => cursor,
            // Without a group, everything is kept.
            None => word(T_FIRST),
        };
        // What is counted as kept is needed until the log knows that it is counted off.
        let from = from.min(kept::logged_from(ctl, topic).unwrap_or(from));
        if from < word(T_NEXT) {
            let first = match log.candidates(topic, from, 1) {
                // Deleted meanwhile.
                Err(e) if e.code() == Code::NotFound => continue,
                found => found?,
            };
            if let Some((_, lsn)) = first.first() {
                lowest = lowest.min(*lsn);
            }
        }
    }
    let top = crate::shm::lock::low_half(ctl.global(G_SLOT_TOP)).min(ctl.layout.geometry.slots);
    for slot in 0..top {
        let word = |w| ctl.load(ctl.layout.slot(slot, w));
        // What is purged or deleted needs nothing, also while its slot is not freed yet.
        let group = Owner::unpack(word(S_OWNER)).group;
        let needs = word(S_HEAD) & 0xff != State::Free as u64;
        if needs && !gone::is_void(ctl, group, word(S_SEQ)) {
            lowest = lowest.min(word(S_LSN));
        }
    }
    Ok((lowest, as_of))
}

fn lowest_cursor(log: &Log, topic: u32) -> Option<u64> {
    let ctl = &log.ctl;
    let has_groups = ctl.load(ctl.layout.topic(topic, T_GROUP)) != 0;
    has_groups.then_some(())?;
    registry::live_groups(ctl)
        .filter(|&g| {
            ctl.load(ctl.layout.group(g, crate::shm::control::P_TOPIC)) == u64::from(topic)
        })
        .map(|g| ctl.load(ctl.layout.group(g, P_CURSOR)))
        .min()
}

/// Moves the first kept sequence of every topic past what lies below `lsn`, before those segments
/// go: groups made from now on start behind them.
pub(crate) fn advance_first(log: &Log, lsn: u64) -> Result<()> {
    let ctl = &log.ctl;
    for topic in registry::live_topics(ctl) {
        let at = ctl.layout.topic(topic, T_FIRST);
        let (mut first, next) = (ctl.load(at), ctl.load(ctl.layout.topic(topic, T_NEXT)));
        let before = first;
        while first < next {
            let some = match log.candidates(topic, first, 512) {
                // Deleted meanwhile.
                Err(e) if e.code() == Code::NotFound => break,
                found => found?,
            };
            let Some(&(last, last_lsn)) = some.last() else {
                break;
            };
            if last_lsn < lsn {
                first = last + 1;
                continue;
            }
            let kept = some
                .iter()
                .find(|(_, at)| *at >= lsn)
                .map_or(first, |(seq, _)| *seq);
            first = kept;
            break;
        }
        if first > before {
            let mut tx = ctl.begin(ctl.patience())?;
            if ctl.has_topic(topic) && tx.get(at) < first {
                tx.set(at, first);
            }
            tx.commit();
        }
    }
    Ok(())
}

/// Number of segments and bytes of all files of the log.
pub(crate) fn disk_use(log: &Log) -> Result<(u64, u64)> {
    let mut numbers = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for name in log.dir.list(crate::commitlog::LOG_DIR)? {
        if let Some(stat) = log.dir.try_stat(&Log::path(&name))? {
            bytes += stat.allocated;
        }
        if let Some(n) = crate::format::segment::parse_file_name(&name) {
            numbers.insert(n.number);
        }
    }
    Ok((numbers.len() as u64, bytes))
}
