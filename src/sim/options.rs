//! How a simulated machine is set up, and what is planned to go wrong on it.

use super::names::MetadataModel;
use super::sites::CallKind;

/// The machine to simulate.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Size of the disk's units in bytes: 512 (written whole) or 4096 (may be torn between
    /// sectors of 512).
    pub unit: usize,
    /// Bytes that files can take together; `None` is no limit.
    pub capacity: Option<u64>,
    /// In which order directory operations survive.
    pub metadata: MetadataModel,
    /// Whether a write that was lost may leave bytes of removed files in its place, where nothing
    /// had been written before. Space that was only reserved always reads as zeros.
    pub stale_space: bool,
    /// Whether a failed sync is told once for the whole file, to whoever asks first, instead of
    /// once to everybody who has it open (Linux before 4.13).
    pub told_once: bool,
    /// Whether members are threads that run at the same time. Who waits then lets real time pass,
    /// a millisecond for each that passes here: a thread that the real machine does not run would
    /// else look stopped to the others within moments.
    pub threads: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            unit: 4096,
            capacity: None,
            metadata: MetadataModel::Unordered,
            stale_space: true,
            told_once: false,
            threads: false,
        }
    }
}

/// What a call is made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this errno, where that errno can come from such a call. `EINTR` never comes
    /// through the seam (it is retried below), so it changes nothing.
    Errno(i32),
    /// A write or read takes only half of the bytes.
    Short,
}

impl Fault {
    /// Whether a call of this kind can end so.
    #[must_use]
    pub fn applies_to(self, kind: CallKind) -> bool {
        use CallKind as K;
        match self {
            Self::Short => matches!(kind, K::Pwrite | K::Pread),
            Self::Errno(libc::EINTR) => false,
            Self::Errno(libc::EFBIG) => matches!(kind, K::Pwrite | K::Allocate),
            Self::Errno(libc::ENOSPC | libc::EDQUOT) => matches!(
                kind,
                K::Create | K::Pwrite | K::Allocate | K::Fdatasync | K::Rename | K::MakeDir
            ),
            Self::Errno(libc::EROFS) => matches!(
                kind,
                K::Create | K::Pwrite | K::Allocate | K::Rename | K::Unlink | K::MakeDir
            ),
            Self::Errno(libc::EMFILE | libc::ENFILE) => {
                matches!(kind, K::Open | K::Create | K::List | K::SyncDir)
            }
            Self::Errno(libc::EACCES | libc::EPERM) => matches!(
                kind,
                K::Open | K::Create | K::Rename | K::Unlink | K::MakeDir | K::List | K::SyncDir
            ),
            Self::Errno(_) => true,
        }
    }
}

/// One planned fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// Which call from now on, counted from 1 over all processes.
    pub nth_call: u64,
    /// What happens to it.
    pub error: Fault,
    /// Whether it happens to all later calls too.
    pub sticky: bool,
}
