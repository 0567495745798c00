//! The Python tests: the wheel is built, installed into an environment of its own, and tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{Runner, have};

pub(crate) fn run(runner: &mut Runner) {
    if !Path::new("pyproject.toml").exists() {
        runner.not_run("Python tests", "there is no pyproject.toml");
        return;
    }
    if !have("python3") {
        runner.not_run(
            "Python tests",
            "no python3: apt-get install python3 python3-venv",
        );
        return;
    }
    let venv = runner.target.join("venv");
    let wheels = runner.target.join("wheels-test");
    let python = venv.join("bin/python");
    if !python.exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        if !runner.command("Python environment", 120, &mut make) {
            return;
        }
    }
    let mut tools = Command::new(&python);
    tools.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    tools.args(["maturin>=1.16,<2", "pytest>=8", "mypy>=1.10"]);
    if !runner.command("Python tools", 300, &mut tools) {
        return;
    }
    if wheels.exists() && std::fs::remove_dir_all(&wheels).is_err() {
        runner.not_run("Python tests", "the old wheels cannot be removed");
        return;
    }
    let mut build = Command::new(venv.join("bin/maturin"));
    build
        .args(["build", "--release", "--quiet", "--interpreter"])
        .arg(&python);
    build.arg("--out").arg(&wheels).env("VIRTUAL_ENV", &venv);
    if !runner.command("Python wheel", 900, &mut build) {
        return;
    }
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    install.args([
        "--no-index",
        "--no-deps",
        "--force-reinstall",
        "--find-links",
    ]);
    install.arg(&wheels).arg("keepq");
    if !runner.command("Python install", 120, &mut install) {
        return;
    }
    tests(runner, &python);
    types(runner, &python);
}

fn tests(runner: &mut Runner, python: &Path) {
    let mut test = Command::new(python);
    // Not from the source tree: what was installed is what is tested.
    test.args(["-P", "-m", "pytest", "-q", "tests/python"]);
    test.envs(c_library(runner));
    runner.command("Python tests", 300, &mut test);
}

/// One of the tests loads the C library beside the module.
fn c_library(runner: &Runner) -> Option<(&'static str, PathBuf)> {
    let library = runner.target.join("c/prefix/lib/libkeepq.so");
    library.exists().then_some(("KEEPQ_C_LIBRARY", library))
}

/// What type checkers are told must be what the module is, and what its tests use.
fn types(runner: &mut Runner, python: &Path) {
    let cache = runner.target.join("mypy");
    let mut check = Command::new(python);
    check.args(["-P", "-m", "mypy", "python/keepq", "tests/python"]);
    check.env("MYPY_CACHE_DIR", &cache);
    runner.command("Python types", 300, &mut check);
    let mut stubs = Command::new(python);
    stubs.args(["-P", "-m", "mypy.stubtest", "keepq"]);
    stubs.args(["--allowlist", "tests/python/stubtest.allow"]);
    stubs.env("MYPY_CACHE_DIR", &cache);
    runner.command("Python stubs", 300, &mut stubs);
}
