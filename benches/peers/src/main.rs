//! keepq beside its peers and the raw limits of the machine, in one run.
//!
//! Machines drift, so what counts is a ratio: all entrants of a measurement take turns, several
//! rounds, and the median of the rounds' ratios is reported. `cargo xtask bench` starts it.
//!
//! One trait ([`peer::Peer`]), one file per peer, one file per target.

mod bodies;
mod chart;
mod children;
mod dir;
mod instructions;
mod memory;
mod peer;
mod peers;
mod raw;
mod report;
mod roles;
mod rounds;
mod run;
// The same two counters as in `keepq bench`.
#[path = "../../../bindings/cli/src/bench/shared_word.rs"]
mod shared_words;
mod syncs;
mod targets;

use std::process::ExitCode;

/// An error is a sentence for whoever reads the report.
pub(crate) type Res<T> = Result<T, String>;

/// Turns an error into a sentence that says what was tried.
pub(crate) fn cannot<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("role") => roles::play(&args[1..]),
        _ => run::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("peers: {message}");
            ExitCode::FAILURE
        }
    }
}
