//! `cargo xtask bench`: builds the comparison with peers (`benches/peers`, a workspace of its own)
//! and runs it. What it writes lies in `target/bench`.
//!
//! A peer that cannot be fetched or built is left out and printed as NOT RUN; the run needs no
//! network once the crates are there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{have, target};

pub(crate) const MANIFEST: &str = "benches/peers/Cargo.toml";
/// The features of benches/peers, one for each peer.
const PEERS: [&str; 8] = [
    "okaywal",
    "raft-engine",
    "walrus-rust",
    "yaque",
    "fjall",
    "heed",
    "rusqlite",
    "honker",
];

/// Builds and runs. `args` go to the program: `--full`, `--only T1,T4`, `--peers yaque,heed`.
pub(crate) fn run(args: &[String]) -> Result<bool, String> {
    let target = target()?;
    let out = target.join("bench");
    let built = target.join("peers");
    fetch();
    let (features, not_run) = buildable(&built);
    build(&built, &features).map_err(|why| format!("cannot build {MANIFEST}: {why}"))?;
    let mut command = Command::new(program(&built));
    command.arg("--out").arg(&out).args(args);
    for reason in &not_run {
        command.args(["--not-run", reason]);
    }
    if have("valgrind") {
        // Without any peer, and with the clock of libc, which valgrind understands.
        let counted = target.join("counted");
        match build(&counted, &["libc-clock"]) {
            Ok(()) => {
                command.arg("--counted").arg(program(&counted));
            }
            Err(why) => println!("xtask: instructions are not counted: {why}"),
        }
    }
    // walrus-rust is told by its environment where to write, and to be quiet.
    command
        .env("WALRUS_DATA_DIR", out.join("stores"))
        .env("WALRUS_QUIET", "1");
    let status = command.status();
    let status = status.map_err(|e| format!("cannot run the comparison: {e}"))?;
    Ok(status.success())
}

fn program(target: &Path) -> PathBuf {
    target.join("release/peers")
}

/// Fetches the crates. Without a network, what lies in cargo's cache has to do.
fn fetch() {
    let mut fetch = Command::new("cargo");
    fetch.args(["fetch", "--locked", "--manifest-path", MANIFEST]);
    match fetch.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => println!(
            "xtask: the crates of the peers cannot be fetched ({}); using those that are in \
             cargo's cache",
            last_error(&output.stderr)
        ),
        Err(e) => println!("xtask: cannot run cargo: {e}"),
    }
}

/// The peers that can be built: all of them if that works, else those that can be built alone;
/// then why the others are not run.
fn buildable(target: &Path) -> (Vec<&'static str>, Vec<String>) {
    println!("xtask: building keepq and {} peers", PEERS.len());
    if build(target, &PEERS).is_ok() {
        return (PEERS.to_vec(), Vec::new());
    }
    let (mut good, mut not_run) = (Vec::new(), Vec::new());
    for peer in PEERS {
        match build(target, &[peer]) {
            Ok(()) => good.push(peer),
            Err(why) => not_run.push(format!("{peer}=it cannot be built: {why}")),
        }
    }
    (good, not_run)
}

/// Builds the program with these peers. The error is one line.
fn build(target: &Path, features: &[&str]) -> Result<(), String> {
    let mut build = Command::new("cargo");
    build
        .args(["build", "--release", "--locked", "--offline", "--quiet"])
        .args(["--manifest-path", MANIFEST, "--no-default-features"])
        .args(["--features", &features.join(",")])
        .arg("--target-dir")
        .arg(target);
    let output = build
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(last_error(&output.stderr))
}

/// The line of cargo's that says most: the last of its causes, or the first error.
fn last_error(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.starts_with("error"));
    let cause = text.split("Caused by:").skip(1).last();
    let cause = cause.and_then(|cause| cause.lines().map(str::trim).find(|l| !l.is_empty()));
    match (error, cause) {
        (Some(error), Some(cause)) => format!("{error}: {cause}"),
        (Some(error), None) => error.to_string(),
        (None, _) => lines()
            .next_back()
            .unwrap_or("no reason was given")
            .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_error_and_its_last_cause() {
        let said = b"error: failed to get `x`\n\nCaused by:\n  one\n\nCaused by:\n  no network\n";
        assert_eq!(last_error(said), "error: failed to get `x`: no network");
        assert_eq!(
            last_error(b"warning: a\nerror[E0001]: b\n"),
            "error[E0001]: b"
        );
        assert_eq!(last_error(b""), "no reason was given");
    }

    #[test]
    fn every_peer_is_a_feature() {
        let manifest = include_str!("../../benches/peers/Cargo.toml");
        for peer in PEERS {
            assert!(manifest.contains(&format!("\"{peer}\"")), "{peer}");
        }
    }
}
