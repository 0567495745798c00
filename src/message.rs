//! What is sent: a message and its limits.

use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::options::{Flush, Sent, WhenFull, limits};
use crate::topic::Topic;

/// What is sent. All borrowed; see [`limits`] for the sizes.
#[derive(Debug, Clone, Default)]
pub struct OutMessage<'a> {
    /// The content, at most [`limits::BODY`] bytes.
    pub body: &'a [u8],
    /// A key to find the message by, at most 255 bytes.
    pub key: Option<&'a str>,
    /// A label consumers can tell messages apart by, at most 255 bytes.
    pub tag: Option<&'a str>,
    /// Messages with equal order keys are delivered one after the other in groups made with
    /// [`ordered`](crate::GroupOptions::ordered); at most 255 bytes.
    pub order_key: Option<&'a str>,
    /// Names and values, at most 48 KiB together.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// When the send is confirmed; `None` = as the store was opened.
    pub flush: Option<Flush>,
    /// The time the send may take over all its attempts; `None` = as the store was opened (3 s).
    pub timeout: Option<Duration>,
    /// What an asynchronous or one-way send does while too many are in flight; `None` = wait.
    pub when_full: Option<WhenFull>,
    /// The part of the time that may go by without room: below a limit of the topic or the store
    /// that makes senders wait, or among the sends in flight. Then `Timeout`, and nothing is
    /// stored; zero = do not wait for room. `None` = all of the time.
    pub room_timeout: Option<Duration>,
    /// The part of the time that may go by before the message is in the log. Then `Timeout`, or
    /// `Busy` if another process holds the log, and nothing is stored. A message of several records
    /// (over 256 KiB, or a quarter of a smaller ring) may take all of the time. `None` = all of it.
    pub append_timeout: Option<Duration>,
}

impl OutMessage<'_> {
    /// Whether there is nothing to it but a body.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.key.is_none()
            && self.tag.is_none()
            && self.order_key.is_none()
            && self.headers.is_empty()
    }
}

/// A message being made: `topic.message(b"x").key("k").send()`.
#[must_use = "nothing is sent before `send`"]
#[derive(Debug, Clone)]
pub struct Message<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) out: OutMessage<'a>,
}

impl<'a> Message<'a> {
    /// A key to find the message by, at most 255 bytes.
    pub fn key(mut self, key: &'a str) -> Self {
        self.out.key = Some(key);
        self
    }

    /// A label consumers can tell messages apart by, at most 255 bytes.
    pub fn tag(mut self, tag: &'a str) -> Self {
        self.out.tag = Some(tag);
        self
    }

    /// Messages with equal order keys are delivered one after the other, in the order in which they
    /// were sent, in groups made with [`ordered`](crate::GroupOptions::ordered); at most 255 bytes.
    pub fn order_key(mut self, key: &'a str) -> Self {
        self.out.order_key = Some(key);
        self
    }

    /// Adds a header. All together may have 48 KiB.
    pub fn header(mut self, name: &'a str, value: &'a [u8]) -> Self {
        self.out.headers.push((name, value));
        self
    }

    /// When the send is confirmed.
    pub fn flush(mut self, flush: Flush) -> Self {
        self.out.flush = Some(flush);
        self
    }

    /// The time the send may take over all its attempts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.out.timeout = Some(timeout);
        self
    }

    /// The part of that time that may go by without room, which a limit or too many sends in
    /// flight leave none of; zero = do not wait for room. Then `Timeout`, and nothing is stored.
    ///
    /// ```
    /// # fn main() -> keepq::Result<()> {
    /// # let dir = keepq::doc_dir("room-timeout");
    /// # use keepq::{Code, Outcome, WhenFull};
    /// # use std::time::Duration;
    /// let store = keepq::Store::open(&dir)?;
    /// let orders = store.topic_with("orders").max_messages(1).when_full(WhenFull::Wait).open()?;
    /// orders.send(b"one")?;
    /// let refused = orders.message(b"two").room_timeout(Duration::ZERO).send().unwrap_err();
    /// assert_eq!((refused.code(), refused.outcome()), (Code::Timeout, Some(Outcome::NotStored)));
    /// # store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    pub fn room_timeout(mut self, timeout: Duration) -> Self {
        self.out.room_timeout = Some(timeout);
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// As [`Topic::send`].
    pub fn send(self) -> Result<Sent> {
        self.topic.send_message(&self.out)
    }
}

pub(crate) fn over_limit(message: String) -> Error {
    Error::new(Code::LimitExceeded, message)
}

/// Refuses a message that is over a limit.
pub(crate) fn check_limits(message: &OutMessage<'_>) -> Result<()> {
    let (len, most) = (message.body.len(), limits::BODY);
    if len > most {
        return Err(over_limit(format!(
            "a body of {len} bytes; the limit is {most}"
        )));
    }
    let texts = [
        ("key", message.key),
        ("tag", message.tag),
        ("order key", message.order_key),
    ];
    for (what, text) in texts {
        let (len, most) = (text.map_or(0, str::len), limits::KEY);
        if len > most {
            return Err(over_limit(format!(
                "a {what} of {len} bytes; the limit is {most}"
            )));
        }
    }
    if message.headers.is_empty() {
        return Ok(());
    }
    let count = message.headers.len();
    if count > limits::HEADER_COUNT {
        return Err(over_limit(format!(
            "{count} headers; the limit is {}",
            limits::HEADER_COUNT
        )));
    }
    let bytes: usize = message.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if bytes > limits::HEADERS {
        return Err(over_limit(format!(
            "headers of {bytes} bytes; the limit is {} for all together",
            limits::HEADERS
        )));
    }
    if let Some((name, _)) = message
        .headers
        .iter()
        .find(|(n, _)| n.is_empty() || n.len() > 255)
    {
        return Err(over_limit(format!(
            "a header name of {} bytes; it must have 1 to 255",
            name.len()
        )));
    }
    Ok(())
}
