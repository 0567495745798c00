//! keepq, as anybody would use it: no option that an application would not set.

use std::path::Path;
use std::time::Duration;

use keepq::{Flush, Group, OutMessage, Store, Topic};

use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Keepq;

struct Open {
    topic: Topic,
    group: Group,
}

impl Peer for Keepq {
    fn name(&self) -> &'static str {
        "keepq"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: Some("flush = sync"),
            lazy: Some("flush = async (synced every 10 ms or MiB in the background)"),
            never_syncs: false,
            take: Some("leased, then an ack record in the log, flushed like async sends"),
            waits: true,
            shared: true,
            depth: 10_000_000,
        }
    }

    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>> {
        let flush = match mode {
            Mode::Sync => Flush::Sync,
            Mode::Async => Flush::Async,
        };
        let store = Store::options().flush(flush).open(dir);
        let store = store.map_err(cannot("open the store"))?;
        let topic = store.topic("t").map_err(cannot("open the topic"))?;
        let group = store.group("t", "g").open();
        let group = group.map_err(cannot("open the group"))?;
        Ok(Box::new(Open { topic, group }))
    }
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        self.topic.send(body).map(drop).map_err(cannot("send"))
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        let message = |body| OutMessage {
            body,
            ..OutMessage::default()
        };
        let messages: Vec<_> = bodies.iter().map(|body| message(*body)).collect();
        for result in self.topic.send_many(&messages) {
            result.map_err(cannot("send a batch"))?;
        }
        Ok(())
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        let received = self.group.receive(Duration::ZERO);
        let Some(message) = received.map_err(cannot("receive"))? else {
            return Ok(false);
        };
        check(message.body())?;
        message.ack().map_err(cannot("ack"))?;
        Ok(true)
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let received = self.group.receive_batch(most, Duration::ZERO);
        let messages = received.map_err(cannot("receive a batch"))?;
        for message in &messages {
            check(message.body())?;
        }
        let count = messages.len();
        for result in self.group.ack_many(messages) {
            result.map_err(cannot("ack a batch"))?;
        }
        Ok(count)
    }

    fn wait(&self, then: &mut dyn FnMut() -> Res<()>) -> Res<()> {
        let received = self.group.receive(Duration::MAX);
        let message = received.map_err(cannot("receive"))?;
        then()?;
        match message {
            Some(message) => message.ack().map_err(cannot("ack")),
            None => Err("a wait without end ended without a message".into()),
        }
    }
}
