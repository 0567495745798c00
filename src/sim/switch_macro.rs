//! The marks that tests leave in the engine. Without the feature `sim` they are `false` or
//! nothing at all, so that a release build holds no trace of them. (`false` comes from a constant
//! function: as a literal, the lints would take the conditions it stands in for mistakes.)

/// Whether a test has switched this protection off: `broken!(NoFdatasync)`.
#[cfg(feature = "sim")]
macro_rules! broken {
    ($name:ident) => {
        $crate::sim::broken($crate::sim::Break::$name)
    };
}

/// Whether a test has switched this protection off: never, in this build.
#[cfg(not(feature = "sim"))]
macro_rules! broken {
    ($name:ident) => {
        $crate::sys::never()
    };
}

/// A place where a simulated process can be killed.
#[cfg(feature = "sim")]
macro_rules! kill_point {
    () => {
        $crate::sim::point()
    };
}

/// A place where a simulated process can be killed: nothing, in this build.
#[cfg(not(feature = "sim"))]
macro_rules! kill_point {
    () => {};
}

/// Whether this thread is unwinding from a simulated kill, so that drop guards do nothing.
#[cfg(feature = "sim")]
macro_rules! killed {
    () => {
        $crate::sim::killed()
    };
}

/// Whether this thread is unwinding from a simulated kill: never, in this build.
#[cfg(not(feature = "sim"))]
macro_rules! killed {
    () => {
        $crate::sys::never()
    };
}
