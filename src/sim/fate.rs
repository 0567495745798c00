//! When a simulated process dies: at its n-th kill point, wherever that is.
//!
//! A member of the simulation is a closure run on some thread. Killing it unwinds to the call that
//! started it, without running what the engine's drop guards would do for a panic: they ask
//! `killed!()` and leave everything as it lies, as after SIGKILL.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What a killed member's closure ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed;

/// How long a member may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// The kill points passed so far.
    pub calls: u64,
    /// Dies on reaching this one (the first is 1); `None` lives on.
    pub kill_at: Option<u64>,
}

impl Fate {
    /// Lives on, counting its kill points.
    #[must_use]
    pub fn lives() -> Self {
        Self::default()
    }

    /// Dies at the `point`-th kill point, counted from 1.
    #[must_use]
    pub fn dies_at(point: u64) -> Self {
        Self {
            calls: 0,
            kill_at: Some(point),
        }
    }
}

type Hook = Box<dyn FnMut()>;

thread_local! {
    static FATE: Cell<Option<Fate>> = const { Cell::new(None) };
    static KILLED: Cell<bool> = const { Cell::new(false) };
    static USED: Cell<u64> = const { Cell::new(0) };
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// A kill point. Outside [`run_member`] it only calls the hook.
pub(crate) fn point() {
    if killed() || std::thread::panicking() {
        return;
    }
    HOOK.with(|hook| {
        // Taken out while it runs, so that a kill point inside the hook does not enter it again.
        let taken = hook.borrow_mut().take();
        if let Some(mut call) = taken {
            call();
            hook.borrow_mut().get_or_insert(call);
        }
    });
    let Some(mut fate) = FATE.get() else { return };
    fate.calls += 1;
    FATE.set(Some(fate));
    USED.set(fate.calls);
    if fate.kill_at == Some(fate.calls) {
        KILLED.set(true);
        resume_unwind(Box::new(Killed));
    }
}

/// Whether this thread is unwinding from a simulated kill.
pub(crate) fn killed() -> bool {
    KILLED.get()
}

/// Calls `hook` at every kill point of this thread, so that a scheduler can let another run there.
pub fn set_point_hook(hook: Option<Box<dyn FnMut()>>) {
    // What the old one owned may come to a kill point while it is dropped.
    drop(HOOK.with(|cell| cell.replace(hook)));
}

/// Runs a member until it ends or its fate is met. A real panic goes on to the caller.
///
/// After a kill, everything the closure owned is dropped on the way, with `killed!()` true: the
/// caller still has to tell the world with `SimProcess::kill`.
pub fn run_member<R>(fate: Fate, f: impl FnOnce() -> R) -> Result<R, Killed> {
    let outer = FATE.replace(Some(fate));
    USED.set(fate.calls);
    let result = catch_unwind(AssertUnwindSafe(f));
    FATE.set(outer);
    KILLED.set(false);
    result.map_err(|payload| match payload.downcast::<Killed>() {
        Ok(killed) => *killed,
        Err(payload) => resume_unwind(payload),
    })
}

/// How many kill points the last [`run_member`] of this thread passed (so far).
#[must_use]
pub fn points_used() -> u64 {
    USED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is dropped in life and in death.
    struct Guard<'a>(&'a Cell<u32>, &'a Cell<u32>);

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            let count = if killed() { self.1 } else { self.0 };
            count.set(count.get() + 1);
        }
    }

    fn member(live: &Cell<u32>, dead: &Cell<u32>, reached: &Cell<u32>) {
        let _guard = Guard(live, dead);
        for _ in 0..3 {
            point();
            reached.set(reached.get() + 1);
        }
    }

    #[test]
    fn a_member_dies_at_its_point_and_its_guards_know() {
        let (live, dead) = (Cell::new(0), Cell::new(0));
        for kill_at in 1..=4_u64 {
            let reached = Cell::new(0);
            let end = run_member(Fate::dies_at(kill_at), || member(&live, &dead, &reached));
            assert_eq!(end.is_err(), kill_at <= 3, "point {kill_at}");
            assert_eq!(u64::from(reached.get()), kill_at - 1);
            assert_eq!(points_used(), kill_at.min(3));
            assert!(!killed());
        }
        assert_eq!((live.get(), dead.get()), (1, 3));
    }

    #[test]
    fn a_panic_is_not_taken_for_a_kill() {
        let caught = catch_unwind(|| run_member(Fate::lives(), || panic!("a defect")));
        let payload = caught.expect_err("the panic goes on");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"a defect"));
    }

    #[test]
    fn the_hook_sees_every_point() {
        let seen = std::rc::Rc::new(Cell::new(0));
        let count = std::rc::Rc::clone(&seen);
        set_point_hook(Some(Box::new(move || {
            count.set(count.get() + 1);
            point();
        })));
        let end = run_member(Fate::lives(), || (0..5).for_each(|_| point()));
        set_point_hook(None);
        assert_eq!(end, Ok(()));
        assert_eq!(seen.get(), 5);
    }
}
