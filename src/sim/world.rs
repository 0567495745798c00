//! The simulated machine as tests handle it.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::disk::SimDisk;
use super::host::SimHost;
use super::state::State;
use super::{FaultPlan, SimOptions};
use crate::sys::{Disk, Host};

/// A simulated machine with one disk. Clones are the same machine.
#[derive(Clone)]
pub struct SimWorld {
    state: Arc<Mutex<State>>,
}

/// One process of a [`SimWorld`]. Clones are the same process.
#[derive(Clone)]
pub struct SimProcess {
    world: SimWorld,
    id: u64,
    disk: Arc<SimDisk>,
}

impl SimWorld {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        assert!(
            matches!(options.unit, 512 | 4096),
            "a unit has 512 or 4096 bytes"
        );
        Self::of(State::new(options))
    }

    pub(super) fn of(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Starts a process.
    #[must_use]
    pub fn process(&self) -> SimProcess {
        let id = {
            let mut state = self.lock();
            let id = state.next_process;
            state.next_process += 1;
            state.alive.insert(id);
            id
        };
        let disk = Arc::new(SimDisk {
            world: self.clone(),
            process: id,
        });
        SimProcess {
            world: self.clone(),
            id,
            disk,
        }
    }

    /// Kills every process; the machine and its page cache stay.
    pub fn kill_all(&self) {
        let mut state = self.lock();
        state.alive.clear();
        state.locks.clear();
    }

    /// Plans a fault, replacing the one planned before.
    pub fn plan_fault(&self, plan: FaultPlan) {
        let mut state = self.lock();
        let first = state.disk_calls.saturating_add(plan.nth_call);
        state.plan = Some((plan, first));
    }

    /// Plans no fault any more.
    pub fn clear_fault(&self) {
        self.lock().plan = None;
    }

    /// How many calls were made to fail so far.
    #[must_use]
    pub fn faults_hit(&self) -> u64 {
        self.lock().faults_hit
    }

    /// How many disk calls all processes made so far.
    #[must_use]
    pub fn disk_calls(&self) -> u64 {
        self.lock().disk_calls
    }

    /// System calls so far that wake whoever sleeps.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.lock().wakes
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.lock().advance(ms);
    }

    /// Sets the wall clock (milliseconds since 1970), which may jump either way.
    pub fn set_realtime(&self, ms: u64) {
        self.lock().realtime_ms = ms;
    }

    /// Milliseconds since the boot of the machine, as its processes read them.
    #[must_use]
    pub fn boottime_ms(&self) -> u64 {
        self.lock().boottime_ms
    }
}

impl SimProcess {
    /// Its files.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    /// Everything else it asks of the machine. Each call is a host of its own, with its own open
    /// file description of LOCK, as each copy of the library in one process has.
    pub(crate) fn host(&self) -> Arc<dyn Host> {
        Arc::new(SimHost::new(self.world.clone(), self.id))
    }

    /// Its id, as `Host::pid` tells it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The machine it runs on.
    #[must_use]
    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    /// Ends it as SIGKILL does: its bytes of LOCK are free at once, what it wrote to shared memory
    /// and to the page cache stays. Whatever still uses it gets `ESHUTDOWN`.
    pub fn kill(&self) {
        self.world.lock().end_process(self.id);
    }

    /// Whether it was not killed yet.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.world.lock().alive.contains(&self.id)
    }
}
