//! yaque 0.6: a queue in plain files. It never syncs, and has one sender and one receiver.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use yaque::recovery::{unlock_for_receiving, unlock_for_sending};
use yaque::{Receiver, Sender, TryRecvError};

use super::lock;
use crate::peer::{Check, Facts, Mode, Peer, Queue};
use crate::{Res, cannot};

pub(crate) struct Yaque;

/// The two halves, opened when they are first needed: each locks the directory for itself.
struct Open {
    dir: PathBuf,
    sender: Mutex<Option<Sender>>,
    receiver: Mutex<Option<Receiver>>,
}

impl Peer for Yaque {
    fn name(&self) -> &'static str {
        "yaque"
    }

    fn facts(&self) -> Facts {
        Facts {
            sync: None,
            lazy: Some("defaults: segments of 4 MiB"),
            never_syncs: true,
            take: Some("committed in memory; the position is written every 250 messages"),
            waits: true,
            shared: false,
            depth: 1_000_000,
        }
    }

    fn open(&self, dir: &Path, _mode: Mode) -> Res<Box<dyn Queue>> {
        Ok(Box::new(Open {
            dir: dir.to_path_buf(),
            sender: Mutex::new(None),
            receiver: Mutex::new(None),
        }))
    }
}

impl Open {
    fn sending<T>(&self, work: impl FnOnce(&mut Sender) -> Res<T>) -> Res<T> {
        let mut sender = lock(&self.sender)?;
        if sender.is_none() {
            unlock_for_sending(&self.dir).map_err(cannot("unlock"))?;
            *sender = Some(Sender::open(&self.dir).map_err(cannot("open the sender"))?);
        }
        work(sender.as_mut().ok_or("no sender")?)
    }

    fn receiving<T>(&self, work: impl FnOnce(&mut Receiver) -> Res<T>) -> Res<T> {
        let mut receiver = lock(&self.receiver)?;
        if receiver.is_none() {
            // A killed process leaves its lock file behind.
            unlock_for_receiving(&self.dir).map_err(cannot("unlock"))?;
            *receiver = Some(Receiver::open(&self.dir).map_err(cannot("open the receiver"))?);
        }
        work(receiver.as_mut().ok_or("no receiver")?)
    }
}

impl Queue for Open {
    fn send(&self, _lane: usize, body: &[u8]) -> Res<()> {
        self.sending(|sender| sender.try_send(body).map_err(cannot("send")))
    }

    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()> {
        self.sending(|sender| {
            let sent = sender.try_send_batch(bodies.iter().copied());
            sent.map_err(|_| "cannot send a batch".to_string())
        })
    }

    fn take(&self, check: Check<'_>) -> Res<bool> {
        self.receiving(|receiver| match receiver.try_recv() {
            Ok(message) => {
                check(&message)?;
                message.commit().map_err(cannot("commit"))?;
                Ok(true)
            }
            Err(TryRecvError::QueueEmpty) => Ok(false),
            Err(TryRecvError::Io(error)) => Err(cannot("receive")(error)),
        })
    }

    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        self.receiving(|receiver| match receiver.try_recv_batch_up_to(most) {
            Ok(messages) => {
                for message in messages.iter() {
                    check(message)?;
                }
                let count = messages.len();
                messages.commit().map_err(cannot("commit"))?;
                Ok(count)
            }
            Err(TryRecvError::QueueEmpty) => Ok(0),
            Err(TryRecvError::Io(error)) => Err(cannot("receive a batch")(error)),
        })
    }

    fn wait(&self, then: &mut dyn FnMut() -> Res<()>) -> Res<()> {
        self.receiving(|receiver| {
            let received = futures_executor::block_on(receiver.recv());
            let message = received.map_err(cannot("receive"))?;
            then()?;
            message.commit().map_err(cannot("commit"))
        })
    }
}
