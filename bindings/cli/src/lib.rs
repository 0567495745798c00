//! The keepq command line.
//!
//! [`run`] is the whole program: the `keepq` binary and the `keepq` command of the Python wheel
//! both call it. It translates arguments into calls of the engine and results into text and exit
//! codes; what a queue means is decided in the engine alone.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 empty or timed out, 4 not found, 5 damage found, 6 busy,
//! 7 in doubt (the message may or may not be stored), 130 Ctrl-C.

#![allow(clippy::disallowed_methods)] // A program talks to its own files, clocks and children.

mod args;
mod bench;
mod check;
mod demo;
mod dlq;
mod exec;
mod exit;
mod lines;
mod look;
mod output;
mod recv;
mod send;
mod settle;
mod stats;
mod stop;
mod topics;

use std::ffi::OsString;
use std::io::Write as _;

use args::{Args, Command};
use clap::{Args as _, CommandFactory as _, Parser as _};
use exit::{Failure, USAGE};

/// Runs the program with these arguments (the first is the program's name, as in
/// [`std::env::args_os`]) and returns its exit code. Reads standard input and writes standard
/// output and error.
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args = match Args::try_parse_from(without_separator(args)) {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { exit::OK };
            return match error.print() {
                Ok(()) => code,
                Err(_) => exit::FAILED,
            };
        }
    };
    match dispatch(args) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                // Nothing can be done when standard error is gone too: the code still tells.
                let _ = writeln!(anstream::stderr(), "keepq: {}", failure.message);
            }
            failure.code
        }
    }
}

/// `cargo demo -- --sabotage` arrives as `demo -- --sabotage`: cargo's alias has its own `--`.
fn without_separator(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|a| a == "demo") && args.get(2).is_some_and(|a| a == "--") {
        args.remove(2);
    }
    args
}

fn completions(shell: clap_complete::Shell) -> Result<i32, Failure> {
    let mut script = Vec::new();
    let whole = Args::command();
    // What only this program itself calls is left out.
    let shown = whole.get_subcommands().filter(|c| !c.is_hide_set());
    let command = clap::Command::new("keepq").subcommands(shown.cloned());
    let mut command = args::StorePlace::augment_args(command);
    clap_complete::generate(shell, &mut command, "keepq", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(exit::OK)
}

fn dispatch(args: Args) -> Result<i32, Failure> {
    let place = args.store;
    match args.command {
        Command::Send(a) => send::run(&place.path()?, a),
        Command::Recv(a) => recv::run(&place.path()?, &a),
        Command::Tail(a) => look::tail(&place.path()?, &a),
        Command::Peek(a) => look::peek(&place.path()?, &a),
        Command::Get(a) => look::get(&place.path()?, &a),
        Command::Dlq(a) => dlq::run(&place.path()?, &a),
        Command::Completions(a) => completions(a.shell),
        Command::Ack(a) => settle::ack(&place.path()?, &a),
        Command::Nack(a) => settle::nack(&place.path()?, &a),
        Command::Reject(a) => settle::reject(&place.path()?, &a),
        Command::Extend(a) => settle::extend(&place.path()?, &a),
        Command::Stats(a) => stats::stats(&place.path()?, &a),
        Command::Topics(a) => stats::topics(&place.path()?, &a),
        Command::Groups(a) => stats::groups(&place.path()?, &a),
        Command::Verify(a) => check::verify(&place.path()?, &a),
        Command::Repair(a) => check::repair(&place.path()?, &a),
        Command::Doctor(a) => check::doctor(&place.path()?, &a),
        Command::Bench(a) => bench::run(&a),
        Command::Demo(a) => demo::run(&a),
        Command::DemoRole(a) => demo::role(&a),
        Command::BenchRole(a) => bench::role(&a),
    }
}
