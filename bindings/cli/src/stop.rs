//! Ctrl-C and SIGTERM: asked once, the program finishes what it holds and ends; asked twice by
//! Ctrl-C, it ends at once (which loses nothing: what is not acknowledged is delivered again).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::{Failure, INTERRUPTED};

/// How long a wait may last before it looks at the flags again.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Whether somebody asked the program to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    interrupt: Arc<AtomicBool>,
    terminate: Arc<AtomicBool>,
}

impl Stop {
    /// Takes both signals over.
    pub(crate) fn install() -> Result<Self, Failure> {
        let stop = Self::default();
        let io = |e: std::io::Error| Failure::failed(format!("cannot handle signals: {e}"));
        // Registered before the flag is set by the first signal: only the second one ends here.
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&stop.interrupt))
            .map_err(io)?;
        flag::register(SIGINT, Arc::clone(&stop.interrupt)).map_err(io)?;
        flag::register(SIGTERM, Arc::clone(&stop.terminate)).map_err(io)?;
        Ok(stop)
    }

    pub(crate) fn asked(&self) -> bool {
        self.interrupted() || self.terminate.load(Ordering::Relaxed)
    }

    /// Whether it was Ctrl-C, which has an exit code of its own.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// Asks from inside, as SIGTERM does.
    pub(crate) fn ask(&self) {
        self.terminate.store(true, Ordering::Relaxed);
    }
}
