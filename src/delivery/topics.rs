//! Making topics.

use super::kept;
use super::limits::{self, TopicSettings};
use super::places::{check_group, new_id};
use super::registry::{enter_topic, find_topic, too_many, topics};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::error::{Code, Error, Result};
use crate::format::payload::{BatchBuilder, Config, Kept, TopicConfig};
use crate::format::record::{Draft, Kind};
use crate::shm::Ctl;
use crate::shm::control::{P_DEAD_TOPIC, T_NEXT, T_STATE, W_PUBLISHED};

/// Makes a topic, unless it is there.  What makes it is durable when this
/// returns, also where sends are not: a topic that a power cut took and that was made again would
/// use its sequences a second time.
pub(crate) fn create(log: &Log, wanted: &TopicWanted<'_>, deadline: u64) -> Result<u32> {
    let id = find_or_make(log, wanted, deadline)?;
    let unused = log.ctl.load(log.ctl.layout.topic(id, T_NEXT)) == 0;
    let made_by = log.ctl.load(W_PUBLISHED);
    if unused && !log.wait_durable(made_by, deadline)? {
        return Err(log.flush_timeout());
    }
    Ok(id)
}

/// A topic to be made, unless it is there.
pub(crate) struct TopicWanted<'a> {
    pub(crate) name: &'a str,
    /// [`TOPIC_SYNC`](crate::shm::control::TOPIC_SYNC).
    pub(crate) flags: u64,
    pub(crate) settings: TopicSettings,
    /// It is for the dead letters of this group.
    pub(crate) dead_of: Option<u32>,
}

impl TopicWanted<'_> {
    /// The record that makes it, with its options if it has any.
    fn draft(&self, id: u32, options: Option<TopicConfig>) -> Result<Draft> {
        let create = Config::TopicCreate {
            id,
            name: self.name.to_owned(),
            flags: u32::try_from(self.flags).unwrap_or(0),
            first_seq: 0,
        };
        let Some(options) = options else {
            return Ok(Draft::new(Kind::Config, 0, id, &[], &[&create.encode()]));
        };
        let kept = Kept::default();
        let configure = Config::TopicConfigure { id, options, kept };
        let mut batch = BatchBuilder::new();
        for config in [create, configure] {
            batch
                .push(Kind::Config, 0, id, 0, &[], &[&config.encode()])
                .map_err(|bad| Error::new(Code::Internal, format!("a topic's record: {bad}")))?;
        }
        Ok(batch.build())
    }

    /// Refuses a topic that is there with other options than were asked for.
    fn check(&self, ctl: &Ctl, id: u32) -> Result<()> {
        let whose = format!("topic {}", self.name);
        self.settings.check(&kept::options(ctl, id), &whose)
    }
}

fn find_or_make(log: &Log, wanted: &TopicWanted<'_>, deadline: u64) -> Result<u32> {
    let (name, dead_of) = (wanted.name, wanted.dead_of);
    if dead_of.is_none() {
        let tx = log.ctl.begin(deadline)?;
        if let Some(id) = find_topic(&log.ctl, name) {
            wanted.check(&log.ctl, id)?;
            return Ok(id);
        }
        drop(tx);
    }
    // Dead letters must find a place on a full disk, too, and wait for none in vain.
    let purpose = if crate::format::name::is_internal(name) {
        Purpose::Coalesce
    } else {
        Purpose::Send
    };
    let largest = wanted.draft(0, Some(TopicConfig::default()))?;
    let need = Need::new(largest.bytes.len(), 0, purpose);
    let ctl = &log.ctl;
    log.transact(need, deadline, |tx| {
        if let Some(group) = dead_of {
            check_group(ctl, group)?;
        }
        let id = match find_topic(ctl, name) {
            Some(id) => {
                wanted.check(ctl, id)?;
                id
            }
            None => {
                let most = ctl.layout.geometry.topics;
                let state_of = |place| tx.get(ctl.layout.topic(place, T_STATE));
                let Some(id) = new_id(topics(ctl), most, state_of) else {
                    let what = "topics, dead-letter streams included";
                    return Err(too_many(what, most, "delete some"));
                };
                let options = wanted.settings.over(TopicConfig::default());
                let limited = dead_of.is_none() && limits::is_limited(ctl, &options);
                let options = limited.then_some(options);
                log.append(tx, &mut wanted.draft(id, options)?.bytes, 0);
                enter_topic(tx, id, name, wanted.flags, 0, 0);
                if let Some(options) = options {
                    kept::enter(tx, id, &options, Kept::default());
                }
                id
            }
        };
        if let Some(group) = dead_of {
            tx.set(ctl.layout.group(group, P_DEAD_TOPIC), u64::from(id) + 1);
        }
        Ok(id)
    })
}
