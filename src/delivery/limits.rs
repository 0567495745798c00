//! The stored options of topics and of the store: limits of what is kept, and what is retained.

use super::kept::{self, enter, is_counted, kept};
use super::places::{live_topics, topic_deleted};
use super::{fetch, registry};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Error, Result};
use crate::format::name;
use crate::format::payload::{Config, Kept, TopicConfig};
use crate::format::record::{Draft, Kind};
use crate::options::{self, StoreConfig, WhenFull};
use crate::shm::control::{G_LIMIT, G_LIMIT_FLAGS, G_TAIL, T_FLAGS, T_NEXT, TOPIC_COUNTING};
use crate::shm::{Ctl, Tx};

/// What a topic is made, opened or changed with. `None` = the default, or as it is; 0 = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_messages: Option<u64>,
    pub(crate) retain_ms: Option<u64>,
    pub(crate) retain_bytes: Option<u64>,
    pub(crate) when_full: Option<WhenFull>,
}

fn flags(when_full: WhenFull) -> u32 {
    match when_full {
        WhenFull::Wait => TopicConfig::BLOCK,
        WhenFull::Refuse => 0,
    }
}

fn when_full(flags: u32) -> WhenFull {
    if flags & TopicConfig::BLOCK == 0 {
        WhenFull::Refuse
    } else {
        WhenFull::Wait
    }
}

impl TopicSettings {
    /// What is asked explicitly, and the rest as it is stored.
    pub(crate) fn over(&self, stored: TopicConfig) -> TopicConfig {
        TopicConfig {
            max_bytes: self.max_bytes.unwrap_or(stored.max_bytes),
            max_messages: self.max_messages.unwrap_or(stored.max_messages),
            retain_ms: self.retain_ms.unwrap_or(stored.retain_ms),
            retain_bytes: self.retain_bytes.unwrap_or(stored.retain_bytes),
            flags: self.when_full.map_or(stored.flags, flags),
        }
    }

    /// Compares what was asked explicitly with what is stored.
    pub(crate) fn check(&self, stored: &TopicConfig, whose: &str) -> Result<()> {
        let number = |n: u64, unit: &str| match n {
            0 => "none".to_owned(),
            n => format!("{n}{unit}"),
        };
        let waits = |flags| match when_full(flags) {
            WhenFull::Refuse => "refuse".to_owned(),
            WhenFull::Wait => "wait".to_owned(),
        };
        let asked = self.over(*stored);
        let pairs = [
            (
                "max_bytes",
                number(asked.max_bytes, ""),
                number(stored.max_bytes, ""),
            ),
            (
                "max_messages",
                number(asked.max_messages, ""),
                number(stored.max_messages, ""),
            ),
            (
                "retain_age",
                number(asked.retain_ms, " ms"),
                number(stored.retain_ms, " ms"),
            ),
            (
                "retain_bytes",
                number(asked.retain_bytes, ""),
                number(stored.retain_bytes, ""),
            ),
            ("when_full", waits(asked.flags), waits(stored.flags)),
        ];
        match pairs.into_iter().find(|(_, asked, stored)| asked != stored) {
            None => Ok(()),
            Some((what, asked, stored)) => Err(Error::new(
                Code::ConfigMismatch,
                format!(
                    "{whose} has {what} {stored}, not {asked}; leave it out, agree, or change it \
                     with configure"
                ),
            )),
        }
    }
}

impl TopicConfig {
    /// As users see them.
    pub(crate) fn public(&self) -> options::TopicConfig {
        let some = |n: u64| (n != 0).then_some(n);
        options::TopicConfig {
            max_bytes: some(self.max_bytes),
            max_messages: some(self.max_messages),
            when_full: when_full(self.flags),
            retain_age: some(self.retain_ms).map(std::time::Duration::from_millis),
            retain_bytes: some(self.retain_bytes),
        }
    }
}

/// Whether a new topic with these options is counted. Lock E is held.
pub(crate) fn is_limited(ctl: &Ctl, options: &TopicConfig) -> bool {
    *options != TopicConfig::default() || ctl.global(G_LIMIT) != 0
}

/// Changes the options of a topic. Returns them, and the LSN that must be durable for it.
pub(crate) fn configure(
    log: &Log,
    topic: u32,
    settings: &TopicSettings,
    deadline: u64,
) -> Result<(TopicConfig, u64)> {
    let ctl = &log.ctl;
    let draft = |options, kept| {
        let config = Config::TopicConfigure {
            id: topic,
            options,
            kept,
        };
        Draft::new(Kind::Config, 0, topic, &[], &[&config.encode()])
    };
    let blank = draft(TopicConfig::default(), Kept::default());
    let need = Need::new(blank.bytes.len(), 0, Purpose::Settle);
    loop {
        let counted = count(log, topic, deadline)?;
        let done = log.transact(need, deadline, |tx| {
            if !ctl.has_topic(topic) {
                return Err(topic_deleted());
            }
            let kept = match counted {
                _ if is_counted(ctl, topic) => kept(ctl, topic),
                Some(below) => match with_new(tx, topic, below) {
                    Some(kept) => kept,
                    None => return Ok(None),
                },
                None => return Ok(None),
            };
            let options = settings.over(kept::options(ctl, topic));
            log.append(tx, &mut draft(options, kept).bytes, 0);
            enter(tx, topic, &options, kept);
            Ok(Some((options, tx.global(G_TAIL))))
        })?;
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

/// What was counted before a sequence, together with what was sent since.
fn with_new(tx: &Tx<'_>, topic: u32, (below, upto): (Kept, u64)) -> Option<Kept> {
    let counting = tx.get(tx.ctl.layout.topic(topic, T_FLAGS)) & TOPIC_COUNTING != 0;
    let since = kept(tx.ctl, topic);
    (counting && since.from == upto).then_some(Kept {
        from: below.from,
        count: below.count + since.count,
        bytes: below.bytes + since.bytes,
    })
}

/// Counts what a topic keeps that is not counted yet, up to the sequence from which on its sends
/// count. `None`: it is counted already.
fn count(log: &Log, topic: u32, deadline: u64) -> Result<Option<(Kept, u64)>> {
    let ctl = &log.ctl;
    let mut tx = ctl.begin(deadline)?;
    if is_counted(ctl, topic) || !ctl.has_topic(topic) {
        return Ok(None);
    }
    let next = tx.get(ctl.layout.topic(topic, T_NEXT));
    kept::begin(&mut tx, topic, next);
    tx.commit();
    let mut below = Kept {
        from: kept::lowest_owed(ctl, topic).min(next),
        ..Kept::default()
    };
    let mut ahead = ReadAhead::default();
    let mut from = below.from;
    while from < next {
        let some = log.candidates(topic, from, 1024)?;
        let Some(&(last, _)) = some.last() else { break };
        for (seq, lsn) in some.into_iter().filter(|(seq, _)| *seq < next) {
            let size = match fetch::size_of(log, topic, seq, lsn, &mut ahead) {
                Err(e) if e.code() == Code::Corrupt => 0,
                size => size?.0,
            };
            below.count += 1;
            below.bytes += size;
        }
        from = last + 1;
    }
    Ok(Some((below, next)))
}

/// What the store's own options are to become. As [`TopicSettings`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoreSettings {
    pub(crate) max_bytes: Option<u64>,
    pub(crate) when_full: Option<WhenFull>,
}

impl StoreSettings {
    /// Compares what was asked explicitly with what is stored.
    pub(crate) fn check(&self, (limit, flags): (u64, u32), store: &str) -> Result<()> {
        let stored = TopicConfig {
            max_bytes: limit,
            flags,
            ..TopicConfig::default()
        };
        let asked = TopicSettings {
            max_bytes: self.max_bytes,
            when_full: self.when_full,
            ..TopicSettings::default()
        };
        asked.check(&stored, &format!("the store {store}"))
    }
}

/// The store's limit and flags.
pub(crate) fn store_options(ctl: &Ctl) -> (u64, u32) {
    let flags = crate::shm::lock::low_half(ctl.global(G_LIMIT_FLAGS));
    (ctl.global(G_LIMIT), flags)
}

/// The store's options as users see them.
pub(crate) fn store_config((limit, flags): (u64, u32)) -> StoreConfig {
    StoreConfig {
        max_bytes: (limit != 0).then_some(limit),
        when_full: when_full(flags),
    }
}

/// Changes the store's options. Returns the LSN that must be durable for it.
pub(crate) fn configure_store(log: &Log, settings: StoreSettings, deadline: u64) -> Result<u64> {
    let ctl = &log.ctl;
    let draft = |max_bytes, flags| {
        let config = Config::StoreConfigure { max_bytes, flags };
        Draft::new(Kind::Config, 0, 0, &[], &[&config.encode()])
    };
    let need = Need::new(draft(0, 0).bytes.len(), 0, Purpose::Settle);
    let uncounted = || {
        let user = |&topic: &u32| {
            !is_counted(ctl, topic)
                && registry::topic_name(ctl, topic).is_ok_and(|n| !name::is_internal(&n))
        };
        live_topics(ctl).find(user)
    };
    loop {
        let (stored, stored_flags) = store_options(ctl);
        let limit = settings.max_bytes.unwrap_or(stored);
        let flags = settings.when_full.map_or(stored_flags, flags);
        // From now on every topic counts what it keeps.
        while let Some(topic) = uncounted().filter(|_| limit != 0) {
            match configure(log, topic, &TopicSettings::default(), deadline) {
                Err(e) if e.code() == Code::NotFound => {}
                done => drop(done?),
            }
        }
        let done = log.transact(need, deadline, |tx| {
            if limit != 0 && uncounted().is_some() || store_options(ctl) != (stored, stored_flags) {
                return Ok(None);
            }
            log.append(tx, &mut draft(limit, flags).bytes, 0);
            enter_store(tx, limit, flags);
            Ok(Some(tx.global(G_TAIL)))
        })?;
        if let Some(end) = done {
            return Ok(end);
        }
    }
}

/// Enters the store's options.
pub(crate) fn enter_store(tx: &mut Tx<'_>, limit: u64, flags: u32) {
    tx.set_global(G_LIMIT, limit);
    tx.set_global(G_LIMIT_FLAGS, u64::from(flags));
}
