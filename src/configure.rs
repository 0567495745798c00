//! The stored options of a group: reading and changing them.

use std::time::Duration;

use crate::delivery::places::check_group;
use crate::delivery::registry::{self, GroupSettings};
use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::options::{Backoff, Flush, GroupConfig, limits};

/// A change of a group's options. From [`Group::configure`]; nothing changes before `apply`.
#[must_use = "nothing changes before `apply`"]
#[derive(Debug, Clone)]
pub struct Configure {
    group: Group,
    settings: GroupSettings,
}

impl Group {
    /// The group's options, as they are stored.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn config(&self) -> Result<GroupConfig> {
        let (inner, group) = self.place();
        let _call = inner.enter()?;
        let ctl = &inner.log.ctl;
        let tx = ctl.begin_to_read(ctl.patience())?;
        check_group(ctl, group)?;
        let (stored, tags) = registry::stored_options(ctl, group)?;
        drop(tx);
        Ok(stored.public(tags))
    }

    /// Changes options of the group, for all its consumers in every process. Leases and back-offs
    /// that run keep the end they have; the attempts made so far count.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("configure");
    /// # use std::time::Duration;
    /// let store = keepq::Store::open(&dir)?;
    /// let billing = store.group("orders", "billing").open()?;
    /// billing.configure().lease(Duration::from_secs(60)).max_attempts(5).apply()?;
    /// assert_eq!(billing.config()?.max_attempts, 5);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn configure(&self) -> Configure {
        Configure {
            group: self.clone(),
            settings: GroupSettings::default(),
        }
    }
}

impl Configure {
    /// How long a message that is received from now on stays leased (1 ms to 30 days).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease_ms = Some(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Deliveries until a message goes to the dead letters (1 to 1000).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = Some(attempts);
        self
    }

    /// How long a message waits after a failed attempt.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = Some(backoff);
        self
    }

    /// Whether acks are on disk when they return.
    pub fn ack_flush(mut self, flush: Flush) -> Self {
        self.settings.sync_ack = Some(flush == Flush::Sync);
        self
    }

    /// The most messages that are in flight at a time (1 to [`limits::OUTSTANDING`]). What is in
    /// flight above it stays so.
    pub fn max_outstanding(mut self, messages: u32) -> Self {
        self.settings.max_outstanding = Some(messages);
        self
    }

    /// The tags of the messages that the group gets; none = every message. What is in flight
    /// stays, and what was skipped stays skipped: it goes for messages that the group has not
    /// looked at yet.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        self.settings.tags = Some(registry::normal(tags));
        self
    }

    /// Makes the change, durably, and gives the options as they are then. What is not named stays.
    ///
    /// # Errors
    /// `InvalidArgument` for an option out of range; `Full`, `Failed`, `FlushTimeout` (changed, not
    /// yet known to be on disk), `Closed`.
    pub fn apply(self) -> Result<GroupConfig> {
        check_ranges(&self.settings, self.group.name())?;
        let (inner, group) = self.group.place();
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let (stored, end) = registry::configure_group(&inner.log, group, &self.settings, deadline)?;
        if !broken!(ConfigureNotFlushed) && !inner.log.wait_durable(end, deadline)? {
            return Err(inner.log.flush_timeout());
        }
        Ok(stored)
    }
}

/// Refuses options that are out of range.
pub(crate) fn check_ranges(settings: &GroupSettings, name: &str) -> Result<()> {
    let out_of_range = |what: &str, range: &str| {
        Err(Error::new(
            Code::InvalidArgument,
            format!("{what} of group {name} must be {range}"),
        ))
    };
    let longest = u64::try_from(limits::LEASE.as_millis()).unwrap_or(u64::MAX);
    if settings
        .lease_ms
        .is_some_and(|ms| !(1..=longest).contains(&ms))
    {
        return out_of_range("the lease", "1 ms to 30 days");
    }
    if settings
        .max_attempts
        .is_some_and(|n| !(1..=1000).contains(&n))
    {
        return out_of_range("max_attempts", "1 to 1000");
    }
    if settings
        .max_outstanding
        .is_some_and(|n| !(1..=limits::OUTSTANDING).contains(&n))
    {
        return out_of_range("max_outstanding", "1 to 1,048,576");
    }
    if let Some(tags) = &settings.tags {
        check_tags(tags, name)?;
    }
    if let Some(b) = settings.backoff {
        let fits = b.first <= limits::LEASE
            && b.max <= limits::LEASE
            && (1.0..=1000.0).contains(&b.factor)
            && (0.0..=1.0).contains(&b.jitter);
        if !fits {
            return out_of_range(
                "the back-off",
                "first and max up to 30 days, factor 1 to 1000, jitter 0 to 1",
            );
        }
    }
    Ok(())
}

fn check_tags(tags: &[String], name: &str) -> Result<()> {
    let (most, longest) = (limits::TAGS, limits::KEY);
    if tags.len() > most {
        return Err(Error::new(
            Code::LimitExceeded,
            format!("{} tags for group {name}; the limit is {most}", tags.len()),
        ));
    }
    match tags.iter().map(String::len).find(|&len| len > longest) {
        None => Ok(()),
        Some(len) => Err(Error::new(
            Code::LimitExceeded,
            format!("a tag of {len} bytes for group {name}; the limit is {longest}"),
        )),
    }
}
