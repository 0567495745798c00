//! The C tests: every `tests/c/*.c` is a program that returns 0.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{Runner, have};

const FLAGS: [&str; 8] = [
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Werror",
    "-O1",
    "-g",
    "-Iinclude",
];

pub(crate) fn run(runner: &mut Runner) {
    let Some(compiler) = ["cc", "gcc", "clang"].into_iter().find(|c| have(c)) else {
        runner.not_run("C tests", "no C compiler: apt-get install gcc");
        return;
    };
    let tests = programs();
    if tests.is_empty() {
        runner.not_run("C tests", "there are no programs in tests/c");
        return;
    }
    let out = runner.target.join("c-tests");
    // `cargo test` builds no C library: this does.
    let mut build = Command::new("cargo");
    build.args(["build", "-p", "keepq-c"]);
    if !runner.command("C library", 600, &mut build) {
        return;
    }
    let libraries = runner.target.join("debug");
    runner.function("C tests", || {
        std::fs::create_dir_all(&out).map_err(|e| format!("cannot make a directory: {e}"))?;
        let mut failures = Vec::new();
        for test in &tests {
            if let Err(message) = one(compiler, test, &libraries, &out) {
                failures.push(message);
            }
        }
        let passed = (tests.len() - failures.len()) as u64;
        if failures.is_empty() {
            Ok(passed)
        } else {
            Err(failures.join("\n"))
        }
    });
}

fn programs() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("tests/c").into_iter().flatten().flatten();
    let mut programs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    programs.sort();
    programs
}

/// Compiles, links and runs one program in a directory of its own.
fn one(compiler: &str, test: &Path, libraries: &Path, out: &Path) -> Result<(), String> {
    let name = test
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let program = out.join(&name);
    let mut compile = Command::new(compiler);
    compile.args(FLAGS).arg(test).arg("-o").arg(&program);
    compile
        .arg("-L")
        .arg(libraries)
        .args(["-lkeepq", "-lpthread"]);
    output_of(&mut compile, &format!("{}: compiling", test.display()))?;
    let place = out.join(format!("{name}.work"));
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(|e| format!("cannot remove {place:?}: {e}"))?;
    }
    std::fs::create_dir_all(&place).map_err(|e| format!("cannot make {place:?}: {e}"))?;
    let mut run = Command::new("timeout");
    run.args(["--kill-after=5", "60"]).arg(&program).arg(&place);
    run.env("LD_LIBRARY_PATH", libraries).current_dir(&place);
    output_of(&mut run, &format!("{}: running", test.display()))
}

fn output_of(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{what}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Err(format!("{what}: {}\n{out}{error}", output.status))
}
