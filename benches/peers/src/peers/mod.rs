//! The peers, one file each.

pub(crate) mod keepq;

#[cfg(feature = "fjall")]
pub(crate) mod fjall;
#[cfg(feature = "heed")]
pub(crate) mod heed;
#[cfg(feature = "honker")]
pub(crate) mod honker;
#[cfg(feature = "okaywal")]
pub(crate) mod okaywal;
#[cfg(feature = "raft-engine")]
pub(crate) mod raft_engine;
#[cfg(feature = "rusqlite")]
pub(crate) mod rusqlite;
#[cfg(feature = "walrus-rust")]
pub(crate) mod walrus;
#[cfg(feature = "yaque")]
pub(crate) mod yaque;

/// Locks a mutex whose holder never panics.
#[allow(dead_code, reason = "not every selection of peers needs it")]
fn lock<T>(mutex: &std::sync::Mutex<T>) -> crate::Res<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| "a thread panicked".to_string())
}
