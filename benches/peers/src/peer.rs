//! What is compared: anything that can take messages and hand them out again.

use std::path::Path;

use crate::Res;

/// When a send returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The message is on disk.
    Sync,
    /// The message survives the death of the process, if the peer promises even that.
    Async,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }

    pub(crate) fn parse(name: &str) -> Res<Self> {
        match name {
            "sync" => Ok(Self::Sync),
            "async" => Ok(Self::Async),
            _ => Err(format!("no such mode: {name}")),
        }
    }
}

/// What a peer can do, and how it was set up. All of it is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Settings for sends that are on disk when they return; None if it has none.
    pub(crate) sync: Option<&'static str>,
    /// Settings for sends that need not be; None if it has none.
    pub(crate) lazy: Option<&'static str>,
    /// In the second case it never syncs by itself.
    pub(crate) never_syncs: bool,
    /// What "receive + ack" means for it; None if it hands nothing out.
    pub(crate) take: Option<&'static str>,
    /// A consumer can sleep until a message of another process comes.
    pub(crate) waits: bool,
    /// Several processes can send at a time.
    pub(crate) shared: bool,
    /// The deepest backlog that is tried: more would take too long or too much memory.
    pub(crate) depth: u64,
}

/// Called with each body that comes out, in the order they were sent.
pub(crate) type Check<'a> = &'a mut dyn FnMut(&[u8]) -> Res<()>;

/// One of the things compared.
pub(crate) trait Peer: Sync {
    fn name(&self) -> &'static str;
    fn facts(&self) -> Facts;
    /// Opens a queue in this directory, which is made if it is not there.
    fn open(&self, dir: &Path, mode: Mode) -> Res<Box<dyn Queue>>;
}

/// An open queue.
pub(crate) trait Queue: Send + Sync {
    /// Sends one message. Each of several threads has a lane of its own; what is received are the
    /// messages of lane 0.
    fn send(&self, lane: usize, body: &[u8]) -> Res<()>;
    /// Sends many at once on lane 0.
    fn send_batch(&self, bodies: &[&[u8]]) -> Res<()>;
    /// Receives one and settles it after the check. False: there was none.
    fn take(&self, check: Check<'_>) -> Res<bool> {
        let _ = check;
        Err("it hands nothing out".into())
    }
    /// The same with up to `most` at once. How many there were.
    fn take_batch(&self, most: usize, check: Check<'_>) -> Res<usize> {
        let _ = (most, check);
        Err("it hands nothing out".into())
    }
    /// Sleeps until there is a message, calls `then`, and settles the message.
    fn wait(&self, then: &mut dyn FnMut() -> Res<()>) -> Res<()> {
        let _ = then;
        Err("it cannot wait for another process".into())
    }
}

/// Every peer that was built, keepq first.
#[allow(unused_mut, reason = "not every selection of peers adds to it")]
pub(crate) fn all() -> Vec<&'static dyn Peer> {
    let mut all: Vec<&'static dyn Peer> = vec![&crate::peers::keepq::Keepq];
    #[cfg(feature = "okaywal")]
    all.push(&crate::peers::okaywal::Okaywal);
    #[cfg(feature = "raft-engine")]
    all.push(&crate::peers::raft_engine::RaftEngine);
    #[cfg(feature = "walrus-rust")]
    all.push(&crate::peers::walrus::Walrus);
    #[cfg(feature = "yaque")]
    all.push(&crate::peers::yaque::Yaque);
    #[cfg(feature = "fjall")]
    all.push(&crate::peers::fjall::Fjall);
    #[cfg(feature = "heed")]
    all.push(&crate::peers::heed::Heed);
    #[cfg(feature = "rusqlite")]
    all.push(&crate::peers::rusqlite::Rusqlite);
    #[cfg(feature = "honker")]
    all.push(&crate::peers::honker::Honker);
    all
}

/// Peers that were not built.
pub(crate) fn left_out() -> Vec<&'static str> {
    let built = [
        ("okaywal", cfg!(feature = "okaywal")),
        ("raft-engine", cfg!(feature = "raft-engine")),
        ("walrus-rust", cfg!(feature = "walrus-rust")),
        ("yaque", cfg!(feature = "yaque")),
        ("fjall", cfg!(feature = "fjall")),
        ("heed", cfg!(feature = "heed")),
        ("rusqlite", cfg!(feature = "rusqlite")),
        ("honker", cfg!(feature = "honker")),
    ];
    let out = built.iter().filter(|(_, built)| !built);
    out.map(|(name, _)| *name).collect()
}

/// The peer with this name.
pub(crate) fn named(name: &str) -> Res<&'static dyn Peer> {
    let found = all().into_iter().find(|peer| peer.name() == name);
    found.ok_or_else(|| format!("no such peer, or it was not built: {name}"))
}
