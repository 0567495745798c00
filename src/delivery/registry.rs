//! Topics and groups by name.
//!
//! An id names a place in a table of shared memory (see [`crate::shm::id`]) and stands in the log's
//! records; it is never given to another name. Creating one is a CONFIG record in the same
//! transaction.

pub(crate) use super::places::{ask_group, ask_topic, live_groups, live_topics};
use super::places::{check_group, new_id, topic_deleted, use_place};
pub(crate) use super::tags::normal;
use super::{fetch, kept, tags};
use crate::commitlog::Log;
use crate::commitlog::append::{Need, Purpose};
use crate::commitlog::read::ReadAhead;
use crate::error::{Code, Error, Result};
use crate::format::payload::{Config, GroupConfig};
use crate::options::{Backoff, BackoffKind};
use crate::shm::control::{
    G_GROUPS, G_TOPICS, LIMIT_WORDS, P_BACKOFF_FIRST, P_BACKOFF_MAX, P_BACKOFF_SHAPE, P_CURSOR,
    P_DEAD, P_DEAD_TOPIC, P_FLAGS, P_GENERATION, P_HASH, P_LEASE_MS, P_LOST, P_LOST_COUNT,
    P_MAX_ATTEMPTS, P_MAX_OUTSTANDING, P_NAME, P_NAME_LEN, P_NEXT, P_PURGED, P_START, P_STATE,
    P_TOPIC, REGIONS, T_FIRST, T_FLAGS, T_GROUP, T_HASH, T_INDEX, T_INDEX_SIZE, T_NAME, T_NAME_LEN,
    T_NEXT, T_STATE,
};
use crate::shm::id::{Life, place_of, state_word};
use crate::shm::{Ctl, Tx, consumers};

/// The hash names are found by. Not part of the disk format.
pub(crate) fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Reads a name out of shared memory; `None` if it is not one.
pub(crate) fn read_name(ctl: &Ctl, at: usize, len_at: usize) -> Option<String> {
    let len = usize::try_from(ctl.load(len_at))
        .ok()
        .filter(|&len| len <= 255)?;
    let mut bytes = vec![0; len];
    ctl.arena.copy_out(at, &mut bytes).then_some(())?;
    String::from_utf8(bytes).ok()
}

pub(crate) fn write_name(tx: &mut Tx<'_>, at: usize, len_at: usize, name: &str) {
    tx.set(len_at, name.len() as u64);
    for (i, chunk) in name.as_bytes().chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        tx.set(at + i * 8, u64::from_le_bytes(word));
    }
}

/// The number of entries of a table, bounded by its size.
pub(crate) fn table_len(ctl: &Ctl, count: usize, most: u32) -> u32 {
    u32::try_from(ctl.global(count)).unwrap_or(most).min(most)
}

/// Number of places of topics that were ever used.
pub(crate) fn topics(ctl: &Ctl) -> u32 {
    table_len(ctl, G_TOPICS, ctl.layout.geometry.topics)
}

/// Number of places of groups that were ever used.
pub(crate) fn groups(ctl: &Ctl) -> u32 {
    table_len(ctl, G_GROUPS, ctl.layout.geometry.groups)
}

/// The name of a topic.
pub(crate) fn topic_name(ctl: &Ctl, id: u32) -> Result<String> {
    read_name(
        ctl,
        ctl.layout.topic(id, T_NAME),
        ctl.layout.topic(id, T_NAME_LEN),
    )
    .ok_or_else(|| ctl.damaged("a topic's name"))
}

/// The name of a group.
pub(crate) fn group_name(ctl: &Ctl, id: u32) -> Result<String> {
    read_name(
        ctl,
        ctl.layout.group(id, P_NAME),
        ctl.layout.group(id, P_NAME_LEN),
    )
    .ok_or_else(|| ctl.damaged("a group's name"))
}

/// Finds a topic. Lock E is held, or the caller may miss one that is being made.
pub(crate) fn find_topic(ctl: &Ctl, name: &str) -> Option<u32> {
    let hash = hash_name(name);
    live_topics(ctl).find(|&id| {
        ctl.load(ctl.layout.topic(id, T_HASH)) == hash
            && topic_name(ctl, id).is_ok_and(|n| n == name)
    })
}

/// Finds a group of a topic. Lock E is held.
pub(crate) fn find_group(ctl: &Ctl, topic: u32, name: &str) -> Option<u32> {
    let hash = hash_name(name);
    live_groups(ctl).find(|&id| {
        ctl.load(ctl.layout.group(id, P_TOPIC)) == u64::from(topic)
            && ctl.load(ctl.layout.group(id, P_HASH)) == hash
            && group_name(ctl, id).is_ok_and(|n| n == name)
    })
}

/// A table of the store is full.
pub(super) fn too_many(what: &str, most: u32, advice: &str) -> Error {
    Error::new(
        Code::LimitExceeded,
        format!("the store has {most} {what}, the most it was made for; {advice}"),
    )
}

/// Enters a topic into its table.
pub(crate) fn enter_topic(tx: &mut Tx<'_>, id: u32, name: &str, flags: u64, first: u64, next: u64) {
    let layout = tx.ctl.layout;
    let at = |word| layout.topic(id, word);
    // What the last topic at this place had in the index is not this one's. First: whoever reads
    // the index without the lock looks at the state afterwards.
    for region in 0..REGIONS {
        tx.set(at(T_INDEX + region * T_INDEX_SIZE), 0);
    }
    for word in LIMIT_WORDS {
        tx.set(at(word), 0);
    }
    tx.set(at(T_GROUP), 0);
    write_name(tx, at(T_NAME), at(T_NAME_LEN), name);
    tx.set(at(T_HASH), hash_name(name));
    tx.set(at(T_FLAGS), flags);
    tx.set(at(T_FIRST), first);
    tx.set(at(T_NEXT), next);
    tx.set(at(T_STATE), state_word(id, Life::Live));
    use_place(tx, G_TOPICS, id);
}

/// What a group is made or opened with. `None` = the default, or whatever it was made with.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupSettings {
    pub(crate) lease_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) sync_ack: Option<bool>,
    pub(crate) max_outstanding: Option<u32>,
    /// In normal form.
    pub(crate) tags: Option<Vec<String>>,
    pub(crate) ordered: Option<bool>,
    /// The group is one consumer of its own.
    pub(crate) broadcast: bool,
    /// It ends with the member that makes it.
    pub(crate) unnamed: bool,
    pub(crate) start: crate::options::Start,
}

/// Flag of a group: acks are durable when they return.
pub(crate) const GROUP_SYNC_ACK: u64 = 1;

impl GroupSettings {
    /// The stored form, with the defaults filled in.
    fn config(&self, slots: u32) -> GroupConfig {
        let mut config = GroupConfig {
            lease_ms: 30_000,
            max_attempts: 16,
            max_outstanding: slots / 2,
            ..GroupConfig::default()
        };
        config.set_backoff(Backoff::default());
        self.over(config)
    }

    /// What is asked explicitly, and the rest as it is stored.
    fn over(&self, mut stored: GroupConfig) -> GroupConfig {
        if let Some(lease) = self.lease_ms {
            stored.lease_ms = lease;
        }
        if let Some(attempts) = self.max_attempts {
            stored.max_attempts = attempts;
        }
        if let Some(backoff) = self.backoff {
            stored.set_backoff(backoff);
        }
        if let Some(sync) = self.sync_ack {
            stored.flags = stored.flags & !GroupConfig::SYNC_ACK | u32::from(sync);
        }
        if let Some(most) = self.max_outstanding {
            stored.max_outstanding = most;
        }
        if self.broadcast {
            stored.flags |= GroupConfig::BROADCAST;
        }
        if self.unnamed {
            stored.flags |= GroupConfig::BROADCAST | GroupConfig::UNNAMED;
        }
        if let Some(ordered) = self.ordered {
            let flag = GroupConfig::ORDERED;
            stored.flags = stored.flags & !flag | if ordered { flag } else { 0 };
        }
        stored
    }

    /// Compares what was asked explicitly with what is stored.
    fn check(
        &self,
        (stored, tags): &(GroupConfig, Vec<String>),
        slots: u32,
        who: &str,
    ) -> Result<()> {
        if self.unnamed {
            let text = format!("{who} is another consumer's, by chance; try again");
            return Err(Error::new(Code::Busy, text));
        }
        let asked = self.config(slots);
        let differ = |what: &str, asked: String, stored: String| {
            if asked == stored {
                return Ok(());
            }
            Err(Error::new(
                Code::ConfigMismatch,
                format!(
                    "{who} has {what} {stored}, not {asked}; leave it out, agree, or change it \
                     with configure"
                ),
            ))
        };
        if self.lease_ms.is_some() {
            let text = |c: &GroupConfig| format!("{} ms", c.lease_ms);
            differ("a lease of", text(&asked), text(stored))?;
        }
        if self.max_attempts.is_some() {
            differ(
                "max_attempts",
                asked.max_attempts.to_string(),
                stored.max_attempts.to_string(),
            )?;
        }
        if self.sync_ack.is_some() {
            let text = |c: &GroupConfig| if c.flags & 1 == 1 { "sync" } else { "async" }.to_owned();
            differ("ack_flush", text(&asked), text(stored))?;
        }
        if let Some(asked) = &self.tags {
            differ("tags", tags::shown(asked), tags::shown(tags))?;
        }
        if self.ordered.is_some() {
            let text = |c: &GroupConfig| (c.flags & GroupConfig::ORDERED != 0).to_string();
            differ("ordered", text(&asked), text(stored))?;
        }
        if self.max_outstanding.is_some() {
            let text = |c: &GroupConfig| c.max_outstanding.to_string();
            differ("max_outstanding", text(&asked), text(stored))?;
        }
        if self.backoff.is_some() {
            differ(
                "a back-off of",
                asked.shown_backoff(),
                stored.shown_backoff(),
            )?;
        }
        Ok(())
    }
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn thousandths(x: f64) -> u32 {
    // Checked by the options: 1 to 1000 and 0 to 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let n = (x * 1000.0).round().clamp(0.0, 1_000_000.0) as u32;
    n
}

impl GroupConfig {
    fn set_backoff(&mut self, asked: Backoff) {
        let (flag, backoff) = match asked.kind {
            BackoffKind::Exponential => (0, asked),
            BackoffKind::Rocketmq => (Self::ROCKETMQ, Backoff::rocketmq()),
        };
        self.flags = self.flags & !Self::ROCKETMQ | flag;
        self.backoff_first_ms = ms(backoff.first);
        self.backoff_factor_milli = thousandths(backoff.factor);
        self.backoff_max_ms = ms(backoff.max);
        self.backoff_jitter_milli = thousandths(backoff.jitter);
    }

    fn backoff(&self) -> Backoff {
        if self.flags & Self::ROCKETMQ != 0 {
            return Backoff::rocketmq();
        }
        let time = std::time::Duration::from_millis;
        Backoff {
            first: time(self.backoff_first_ms),
            factor: f64::from(self.backoff_factor_milli) / 1000.0,
            max: time(self.backoff_max_ms),
            jitter: f64::from(self.backoff_jitter_milli) / 1000.0,
            kind: BackoffKind::Exponential,
        }
    }

    fn shown_backoff(&self) -> String {
        if self.flags & Self::ROCKETMQ != 0 {
            return "rocketmq".to_owned();
        }
        format!(
            "first={}ms factor={}/1000 max={}ms jitter={}/1000",
            self.backoff_first_ms,
            self.backoff_factor_milli,
            self.backoff_max_ms,
            self.backoff_jitter_milli
        )
    }

    /// As users see it.
    pub(crate) fn public(&self, tags: Vec<String>) -> crate::options::GroupConfig {
        use crate::options::Flush;
        crate::options::GroupConfig {
            lease: std::time::Duration::from_millis(self.lease_ms),
            max_attempts: self.max_attempts,
            backoff: self.backoff(),
            ack_flush: if self.flags & Self::SYNC_ACK == 0 {
                Flush::Async
            } else {
                Flush::Sync
            },
            max_outstanding: self.max_outstanding,
            tags,
            ordered: self.flags & Self::ORDERED != 0,
        }
    }
}

/// Changes the options of a group. Returns them, and the LSN that must be durable for it.
pub(crate) fn configure_group(
    log: &Log,
    id: u32,
    settings: &GroupSettings,
    deadline: u64,
) -> Result<(crate::options::GroupConfig, u64)> {
    let asked = settings.tags.as_deref();
    let draft = |options, version| {
        let config = Config::GroupConfigure { id, options };
        tags::config_draft(log, id, &config, asked.map(|tags| (version, tags)))
    };
    let most = draft(GroupConfig::default(), 0)?.bytes.len();
    let need = Need::new(most, 0, Purpose::Settle);
    log.transact(need, deadline, |tx| {
        check_group(tx.ctl, id)?;
        let config = settings.over(group_config(tx.ctl, id));
        let version = tags::next_version(tx.ctl, id);
        let mut draft = draft(config, version)?;
        let lsn = log.append(tx, &mut draft.bytes, 0);
        set_config(tx, id, &config);
        if let Some(asked) = asked {
            tags::store(tx, id, asked, version)?;
        }
        let config = config.public(tags::read(tx.ctl, id)?);
        Ok((config, lsn + draft.bytes.len() as u64))
    })
}

/// The stored configuration of a group.
pub(crate) fn group_config(ctl: &Ctl, id: u32) -> GroupConfig {
    let word = |word| ctl.load(ctl.layout.group(id, word));
    let low = crate::shm::lock::low_half;
    GroupConfig {
        lease_ms: word(P_LEASE_MS),
        max_attempts: low(word(P_MAX_ATTEMPTS)),
        backoff_first_ms: word(P_BACKOFF_FIRST),
        backoff_factor_milli: low(word(P_BACKOFF_SHAPE) >> 32),
        backoff_max_ms: word(P_BACKOFF_MAX),
        backoff_jitter_milli: low(word(P_BACKOFF_SHAPE)),
        flags: low(word(P_FLAGS)),
        max_outstanding: low(word(P_MAX_OUTSTANDING)),
    }
}

/// The stored options of a group, its tags with them. Lock E is held.
pub(crate) fn stored_options(ctl: &Ctl, id: u32) -> Result<(GroupConfig, Vec<String>)> {
    Ok((group_config(ctl, id), tags::read(ctl, id)?))
}

/// A group to be opened.
pub(crate) struct GroupWanted<'a> {
    pub(crate) topic: u32,
    pub(crate) topic_name: &'a str,
    pub(crate) name: &'a str,
    pub(crate) settings: &'a GroupSettings,
    /// Whether it is made if it is not there.
    pub(crate) create: bool,
}

/// Opens a group, making it if wanted.
pub(crate) fn open_group(log: &Log, wanted: &GroupWanted<'_>, deadline: u64) -> Result<u32> {
    let ctl = &log.ctl;
    let slots = ctl.layout.geometry.slots;
    let who = format!("group {} of topic {}", wanted.name, wanted.topic_name);
    // A table that is full of groups whose slots are not swept yet would have no place.
    super::gone::finish(log)?;
    let tx = ctl.begin_to_read(deadline)?;
    let found = find_group(ctl, wanted.topic, wanted.name);
    let stored = found.map(|id| stored_options(ctl, id)).transpose()?;
    drop(tx);
    if let (Some(id), Some(stored)) = (found, stored) {
        wanted.settings.check(&stored, slots, &who)?;
        return Ok(id);
    }
    if !wanted.create {
        return Err(Error::new(Code::NotFound, format!("there is no {who}")));
    }
    // It begins with what is kept now.
    while kept::refresh(log, wanted.topic)? {}
    let config = wanted.settings.config(slots);
    let at_time = match wanted.settings.start {
        crate::options::Start::Time(time) => Some(sent_from(log, wanted.topic, time)?),
        _ => None,
    };
    let filter = wanted.settings.tags.as_deref().filter(|t| !t.is_empty());
    let draft = |id, start_seq| {
        let config = Config::GroupCreate {
            id,
            topic: wanted.topic,
            name: wanted.name.to_owned(),
            options: config,
            start_seq,
        };
        tags::config_draft(log, id, &config, filter.map(|tags| (1, tags)))
    };
    let need = Need::new(draft(0, 0)?.bytes.len(), 0, Purpose::Send);
    log.transact(need, deadline, |tx| {
        if let Some(id) = find_group(ctl, wanted.topic, wanted.name) {
            // Made by somebody else meanwhile.
            wanted
                .settings
                .check(&stored_options(ctl, id)?, slots, &who)?;
            return Ok(id);
        }
        if !ctl.has_topic(wanted.topic) {
            return Err(topic_deleted());
        }
        let most = ctl.layout.geometry.groups;
        let state_of = |place| tx.get(ctl.layout.group(place, P_STATE));
        let Some(id) = new_id(groups(ctl), most, state_of) else {
            return Err(too_many("groups", most, "delete some"));
        };
        let start = start_of(tx, wanted, at_time);
        log.append(tx, &mut draft(id, start)?.bytes, 0);
        enter_group(tx, id, wanted.topic, wanted.name, &config, start);
        consumers::enter(tx, id, ctl.me());
        if let Some(tags) = filter {
            tags::store(tx, id, tags, 1)?;
        }
        Ok(id)
    })
}

/// The sequence that a new group begins with. `at_time`: that of a time asked for.
fn start_of(tx: &Tx<'_>, wanted: &GroupWanted<'_>, at_time: Option<u64>) -> u64 {
    use crate::options::Start;
    let ctl = tx.ctl;
    let word = |word| tx.get(ctl.layout.topic(wanted.topic, word));
    let (mut first, next) = (word(T_FIRST), word(T_NEXT));
    if kept::is_counted(ctl, wanted.topic) {
        // What is counted off is not kept, even if it is still there.
        first = first.max(kept::kept(ctl, wanted.topic).from).min(next);
    }
    match wanted.settings.start {
        Start::Earliest => first,
        Start::Latest => next,
        Start::Sequence(seq) => seq.clamp(first, next),
        Start::Time(_) => at_time.unwrap_or(next).clamp(first, next),
    }
}

/// Enters a group into its table and into the list of its topic.
pub(crate) fn enter_group(
    tx: &mut Tx<'_>,
    id: u32,
    topic: u32,
    name: &str,
    config: &GroupConfig,
    cursor: u64,
) {
    let layout = tx.ctl.layout;
    let at = |word| layout.group(id, word);
    write_name(tx, at(P_NAME), at(P_NAME_LEN), name);
    // The lists and counters of the last group at this place are empty: see `gone`.
    for word in [P_DEAD, P_DEAD_TOPIC, P_LOST, P_LOST_COUNT, P_PURGED] {
        tx.set(at(word), 0);
    }
    consumers::begin(tx, id);
    tx.set(at(P_HASH), hash_name(name));
    tx.set(at(P_TOPIC), u64::from(topic));
    tx.set(at(P_CURSOR), cursor);
    tx.set(at(P_START), cursor);
    tx.set(at(P_GENERATION), 1);
    set_config(tx, id, config);
    let list = layout.topic(topic, T_GROUP);
    tx.set(at(P_NEXT), tx.get(list));
    tx.set(list, u64::from(place_of(id)) + 1);
    tx.set(at(P_STATE), state_word(id, Life::Live));
    use_place(tx, G_GROUPS, id);
}

/// The sequence of the first message of a topic that was sent at this time or later; where the
/// topic ended, if there was none.
fn sent_from(log: &Log, topic: u32, wanted: u64) -> Result<u64> {
    let end = log.ctl.load(log.ctl.layout.topic(topic, T_NEXT));
    let mut ahead = ReadAhead::default();
    let mut from = 0;
    loop {
        let some = log.candidates(topic, from, 512)?;
        let Some(&(last, _)) = some.last() else {
            return Ok(end);
        };
        for (seq, lsn) in some {
            match fetch::time_of(log, topic, seq, lsn, &mut ahead) {
                Ok(sent) if sent >= wanted => return Ok(seq),
                // When a damaged message was sent is not known.
                Err(e) if e.code() != Code::Corrupt => return Err(e),
                _ => {}
            }
        }
        from = last + 1;
    }
}

fn set_config(tx: &mut Tx<'_>, id: u32, config: &GroupConfig) {
    let layout = tx.ctl.layout;
    let at = |word| layout.group(id, word);
    tx.set(at(P_LEASE_MS), config.lease_ms);
    tx.set(at(P_MAX_ATTEMPTS), u64::from(config.max_attempts));
    tx.set(at(P_BACKOFF_FIRST), config.backoff_first_ms);
    let shape =
        u64::from(config.backoff_factor_milli) << 32 | u64::from(config.backoff_jitter_milli);
    tx.set(at(P_BACKOFF_SHAPE), shape);
    tx.set(at(P_BACKOFF_MAX), config.backoff_max_ms);
    tx.set(at(P_FLAGS), u64::from(config.flags));
    tx.set(at(P_MAX_OUTSTANDING), u64::from(config.max_outstanding));
}
