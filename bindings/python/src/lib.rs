//! The native half of the Python package `keepq`: translates and does nothing else.
//!
//! Rules that hold everywhere here: the GIL is released around every engine call, and taken by no
//! thread of the engine; a wait is cut into slices of [`wait::SLICE`] between which signals are
//! looked at, so that Ctrl-C works; no lock of this crate is held while the GIL is waited for; the
//! handles come through [`kept::Kept`], so that a forked child opens its own; exceptions are made
//! by `keepq._errors` from the engine's numbers, because the stable ABI cannot subclass native
//! exceptions.

mod args;
mod browse;
mod codec;
mod error;
mod future;
mod group;
mod keep_alive;
mod kept;
mod limits;
mod message;
mod open;
mod producer;
mod repair;
mod report;
mod send;
mod sending;
mod sends;
mod store;
mod topic;
mod wait;

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command line with these arguments (the first is the program's name) and returns its
/// exit code.
#[pyfunction]
fn cli_main(py: Python<'_>, argv: Vec<OsString>) -> i32 {
    py.detach(|| keepq_cli::run(argv))
}

/// The engine's error codes: number -> (name, retriable).
#[pyfunction]
fn codes() -> std::collections::BTreeMap<u16, (&'static str, bool)> {
    engine::Code::ALL
        .iter()
        .map(|c| (c.number(), (c.name(), c.is_retriable())))
        .collect()
}

/// The native half of keepq; import keepq instead.
#[pymodule]
fn _keepq(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(open::open, module)?)?;
    module.add_function(wrap_pyfunction!(repair::repair, module)?)?;
    module.add_function(wrap_pyfunction!(cli_main, module)?)?;
    module.add_function(wrap_pyfunction!(codes, module)?)?;
    module.add_class::<store::Store>()?;
    module.add_class::<topic::Topic>()?;
    module.add_class::<producer::Producer>()?;
    module.add_class::<group::Group>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<keep_alive::KeepAlive>()?;
    module.add_class::<browse::Browsed>()?;
    module.add_class::<browse::DeadLetter>()?;
    module.add_class::<browse::DeadLetters>()?;
    module.add_class::<browse::Browse>()?;
    module.add_class::<send::SendResult>()?;
    module.add_class::<send::SendMany>()
}
