//! `cargo xtask test`: the steps and their order, the quick ones first.

use std::process::Command;

use crate::runner::{Runner, have};
use crate::{bench, bugs, c_tests, examples, header, python, symbols};

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    command
}

/// The Python module has symbols only an interpreter can resolve: it has no test program.
pub(crate) const NOT_PYTHON: [&str; 3] = ["--workspace", "--exclude", "keepq-python"];

pub(crate) fn run(runner: &mut Runner) -> Result<(), String> {
    runner.command("format", 300, &mut cargo(&["fmt", "--all", "--check"]));
    let peers = ["fmt", "--check", "--manifest-path", bench::MANIFEST];
    runner.command("format of the peers", 300, &mut cargo(&peers));
    lints(runner);
    if rust_tests(runner) {
        switches(runner);
    }
    let mut doc_tests = cargo(&["test", "--doc"]);
    runner.command("documentation tests", 600, doc_tests.args(NOT_PYTHON));
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    runner.command(
        "documentation",
        600,
        docs.env("RUSTDOCFLAGS", "-D warnings"),
    );
    let target = runner.target.clone();
    runner.function("Rust examples", || examples::check(&target));
    c(runner);
    release(runner);
    python::run(runner);
    Ok(())
}

/// The C library, from its header to its examples.
pub(crate) fn c(runner: &mut Runner) {
    runner.function("C header", header::check);
    c_tests::run(runner);
}

fn lints(runner: &mut Runner) {
    if !have("cargo-clippy") {
        runner.not_run("lints", "no clippy: rustup component add clippy");
        return;
    }
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    runner.command("lints", 900, &mut cargo(&args));
    // The tests switch the simulator on: what is released is compiled without it.
    let args = [
        "clippy", "-p", "keepq", "--lib", "--quiet", "--", "-D", "warnings",
    ];
    runner.command("lints as released", 300, &mut cargo(&args));
}

fn rust_tests(runner: &mut Runner) -> bool {
    let mut tests = if have("cargo-nextest") {
        cargo(&["nextest", "run", "--no-fail-fast", "--status-level", "fail"])
    } else {
        cargo(&["test", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    runner.command("Rust tests", 1500, tests.args(NOT_PYTHON))
}

/// The suites must fail with each protection switched off.
fn switches(runner: &mut Runner) {
    if have("cargo-nextest") {
        runner.function("switched-off protections", bugs::after_the_suites);
    } else {
        let why = "no nextest: cargo install --locked cargo-nextest";
        runner.not_run("switched-off protections", why);
    }
}

fn release(runner: &mut Runner) {
    let mut build = cargo(&["build", "--release", "-p", "keepq-c", "-p", "keepq-cli"]);
    if runner.command("release build", 900, &mut build) {
        let target = runner.target.clone();
        let files = ["keepq", "libkeepq.so"];
        runner.function("release symbols", || symbols::check(&target, &files));
    }
}

/// The lines of real files, sent and received by processes that are killed.
pub(crate) fn real_input(runner: &mut Runner) -> Result<(), String> {
    let args = [
        "test",
        "--release",
        "-p",
        "keepq-cli",
        "--test",
        "real_input",
        "--",
    ];
    runner.command("real input", 900, cargo(&args).arg("--nocapture"));
    Ok(())
}
