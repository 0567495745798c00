//! The Python tests: the wheel is built once, installed into an environment for each CPython there
//! is, and tested there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{Runner, have};

/// The oldest Python that the wheel is for, as `python3.N`, and one past the newest looked for.
const MINORS: std::ops::Range<u32> = 11..20;
/// What says whether an interpreter can load the wheel: CPython, not free-threaded.
const KIND: &str = "import sys, sysconfig; print(sys.implementation.name, sys.version_info[1], \
                    sysconfig.get_config_var('Py_GIL_DISABLED') or 0)";

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
    let Some(python) = environment(runner, "Python", Path::new("python3"), &venv(runner, None))
    else {
        return;
    };
    let mut tools = pip(&python);
    tools.args(["maturin>=1.16,<2", "pytest>=8", "mypy>=1.10"]);
    tools.args(["hypothesis>=6", "msgpack>=1", "uvloop>=0.19"]);
    if !runner.command("Python tools", 300, &mut tools) || !build(runner, &python) {
        return;
    }
    if !test(runner, "Python", &python) {
        return;
    }
    types(runner, &python);
    let first = minor(&python);
    for (minor, other) in others() {
        if Some(minor) == first {
            continue;
        }
        let name = format!("Python 3.{minor}");
        let place = venv(runner, Some(minor));
        let Some(python) = environment(runner, &name, &other, &place) else {
            continue;
        };
        let mut tools = pip(&python);
        tools.args(["pytest>=8", "hypothesis>=6", "msgpack>=1"]);
        if runner.command(&format!("{name} tools"), 300, &mut tools) {
            test(runner, &name, &python);
        }
    }
}

/// Where the environment of an interpreter is; `None`: of `python3`.
fn venv(runner: &Runner, minor: Option<u32>) -> PathBuf {
    let name = minor.map_or("venv".into(), |minor| format!("venv-3.{minor}"));
    runner.target.join(name)
}

/// Makes an environment, if it is not there yet; gives its interpreter.
fn environment(runner: &mut Runner, name: &str, python: &Path, venv: &Path) -> Option<PathBuf> {
    let made = venv.join("bin/python");
    if minor(&made).is_none() {
        let mut make = Command::new(python);
        make.args(["-m", "venv", "--clear"]).arg(venv);
        if !runner.command(&format!("{name} environment"), 120, &mut make) {
            return None;
        }
    }
    Some(made)
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    let quietly = ["install", "--quiet", "--disable-pip-version-check"];
    pip.args(["-m", "pip"]).args(quietly);
    pip
}

fn wheels(runner: &Runner) -> PathBuf {
    runner.target.join("wheels-test")
}

fn build(runner: &mut Runner, python: &Path) -> bool {
    let wheels = wheels(runner);
    if wheels.exists() && std::fs::remove_dir_all(&wheels).is_err() {
        runner.not_run("Python tests", "the old wheels cannot be removed");
        return false;
    }
    let mut build = Command::new(python.with_file_name("maturin"));
    build
        .args(["build", "--release", "--quiet", "--interpreter"])
        .arg(python);
    build.arg("--out").arg(&wheels);
    if let Some(venv) = python.parent().and_then(Path::parent) {
        build.env("VIRTUAL_ENV", venv);
    }
    runner.command("Python wheel", 900, &mut build)
}

/// Installs the wheel and runs the tests.
fn test(runner: &mut Runner, name: &str, python: &Path) -> bool {
    let mut install = pip(python);
    install.args([
        "--no-index",
        "--no-deps",
        "--force-reinstall",
        "--find-links",
    ]);
    install.arg(wheels(runner)).arg("keepq");
    if !runner.command(&format!("{name} install"), 120, &mut install) {
        return false;
    }
    let mut test = Command::new(python);
    // Not from the source tree: what was installed is what is tested.
    test.args(["-P", "-m", "pytest", "-q", "tests/python"])
        .envs(c_library(runner));
    runner.command(&format!("{name} tests"), 900, &mut test);
    true
}

/// One of the tests loads the C library beside the module.
fn c_library(runner: &Runner) -> Option<(&'static str, PathBuf)> {
    let library = runner.target.join("c/prefix/lib/libkeepq.so");
    library.exists().then_some(("KEEPQ_C_LIBRARY", library))
}

/// The minor version of a CPython that can load the wheel.
fn minor(python: &Path) -> Option<u32> {
    let said = Command::new(python)
        .args(["-I", "-c", KIND])
        .output()
        .ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let mut words = said.split_whitespace();
    let (name, minor, free) = (words.next()?, words.next()?, words.next()?);
    let minor = minor.parse().ok().filter(|minor| MINORS.contains(minor));
    minor.filter(|_| name == "cpython" && free == "0")
}

/// Every other CPython found: in the path, and those of pyenv.
fn others() -> Vec<(u32, PathBuf)> {
    let mut places: Vec<PathBuf> = MINORS.map(|n| format!("python3.{n}").into()).collect();
    let home = std::env::var_os("HOME").unwrap_or_default();
    let root = std::env::var_os("PYENV_ROOT").unwrap_or(Path::new(&home).join(".pyenv").into());
    let versions = std::fs::read_dir(Path::new(&root).join("versions"));
    for entry in versions.into_iter().flatten().flatten() {
        places.push(entry.path().join("bin/python3"));
    }
    let mut found = Vec::new();
    for place in places {
        let known = |minor: &u32| found.iter().all(|(other, _)| other != minor);
        if let Some(minor) = minor(&place).filter(known) {
            found.push((minor, place));
        }
    }
    found.sort();
    found
}

/// What type checkers are told must be what the module is, and what its tests and examples use.
fn types(runner: &mut Runner, python: &Path) {
    let cache = runner.target.join("mypy");
    let mut check = Command::new(python);
    check.args([
        "-P",
        "-m",
        "mypy",
        "python/keepq",
        "tests/python",
        "examples/python",
    ]);
    check.env("MYPY_CACHE_DIR", &cache);
    runner.command("Python types", 300, &mut check);
    let mut stubs = Command::new(python);
    stubs.args(["-P", "-m", "mypy.stubtest", "keepq"]);
    stubs.args(["--allowlist", "tests/python/stubtest.allow"]);
    stubs.env("MYPY_CACHE_DIR", &cache);
    runner.command("Python stubs", 300, &mut stubs);
}
