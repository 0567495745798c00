//! Deleting topics and groups, and taking all messages out of a topic.

use std::sync::Arc;

use crate::delivery::gone;
use crate::error::{Code, Error, Result};
use crate::format::name;
use crate::group::Group;
use crate::inner::Inner;
use crate::topic::Topic;

impl Topic {
    /// Takes away all messages that the topic has now, for every group: those still to come, and
    /// those that consumers hold, whose leases end with `LeaseLost`. What was sent before the call
    /// is gone, what is sent after it stays; dead letters stay. On disk when it returns.
    ///
    /// Returns how many messages that were which some group had not settled, or, in a topic without
    /// groups, how many there were.
    ///
    /// A message that a filter was still to skip counts, too.
    ///
    /// Counting them takes time in proportion to their number; the purge itself does not.
    ///
    /// # Errors
    /// `NotFound` when the topic was deleted; `InvalidArgument` for one of keepq's own streams (see
    /// [`DeadLetters::purge`](crate::DeadLetters::purge)); those of settling: `Full`, `Failed`,
    /// `FlushTimeout` (done, not yet known to be on disk), `Closed`, `ReadOnly`.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("purge");
    /// # use std::time::Duration;
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// let billing = store.group("orders", "billing").open()?;
    /// orders.send(b"one")?;
    /// orders.send(b"two")?;
    /// assert_eq!(orders.purge()?, 2);
    /// assert!(billing.receive(Duration::ZERO)?.is_none());
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn purge(&self) -> Result<u64> {
        self.check_own("purged; purge the dead letters of its group")?;
        let inner = &self.inner;
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let purged = gone::purge(&inner.log, self.id, deadline);
        let (count, end) = purged.map_err(|e| self.name_it(e))?;
        finish(inner, end, deadline)?;
        Ok(count)
    }

    /// Deletes the topic with its messages, its groups and their dead letters. On disk when it
    /// returns; the space comes back once no snapshot and no other message of the same files needs
    /// it. The name is free: made again, it is a new topic without messages and groups.
    ///
    /// Every handle of the old one and of its groups, in any process, gets `NotFound` from then on,
    /// also a receive that is waiting; leases end; an asynchronous send that is in flight gets
    /// `NotFound`, too.
    ///
    /// # Errors
    /// As [`Topic::purge`].
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("delete");
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic("orders")?;
    /// orders.send(b"hello")?;
    /// orders.delete()?;
    /// assert_eq!(orders.send(b"more").unwrap_err().code(), keepq::Code::NotFound);
    /// assert!(store.topic("orders")?.is_empty()?);
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&self) -> Result<()> {
        self.check_own("deleted; delete its group")?;
        let inner = &self.inner;
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let deleted = gone::delete_topic(&inner.log, self.id, deadline);
        let end = deleted.map_err(|e| self.name_it(e))?;
        finish(inner, end, deadline)
    }

    /// Refuses what is not to be done to keepq's own streams.
    fn check_own(&self, what: &str) -> Result<()> {
        if !name::is_internal(self.name()) {
            return Ok(());
        }
        let text = format!(
            "{} is one of keepq's own streams and cannot be {what}",
            self.name()
        );
        Err(Error::new(Code::InvalidArgument, text))
    }

    pub(crate) fn name_it(&self, error: Error) -> Error {
        if error.code() == Code::NotFound {
            return self.deleted();
        }
        error
    }
}

impl Group {
    /// Deletes the group with its dead letters. On disk when it returns. The messages of its topic
    /// that only this group was still to settle are released; if it was the last one, those that
    /// it never looked at stay, as a topic without groups keeps all that it has. The name is free:
    /// made again, it is a new group.
    ///
    /// Every handle of the old one, in any process, gets `NotFound` from then on, also a receive
    /// that is waiting; leases end.
    ///
    /// # Errors
    /// `NotFound` when it was deleted before; else as [`Topic::purge`].
    pub fn delete(&self) -> Result<()> {
        let (inner, group) = self.place();
        let _call = inner.enter()?;
        let deadline = inner.deadline(Some(inner.options.send_timeout));
        let end = gone::delete_group(&inner.log, group, deadline)?;
        finish(inner, end, deadline)
    }
}

/// Waits for the disk, then frees what the purge or deletion leaves.
fn finish(inner: &Arc<Inner>, end: u64, deadline: u64) -> Result<()> {
    let durable = broken!(DeletionNotFlushed) || inner.log.wait_durable(end, deadline)?;
    gone::finish(&inner.log)?;
    if durable {
        return Ok(());
    }
    Err(inner.log.flush_timeout())
}
