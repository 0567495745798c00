//! The C library as C programs meet it: installed into an empty prefix, and used from there by the
//! tests (`tests/c`, plain, under sanitizers and under valgrind) and the examples.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{Runner, have, target};
use crate::{c_abi, c_arguments, c_consumers, c_errors};

const PACKAGES: &str = "apt-get install gcc g++ cmake libcmocka-dev pkg-config";
const SANITIZE: &str = "-fsanitize=address,undefined -fno-sanitize-recover=all \
                        -fno-omit-frame-pointer";

/// Where things are built and installed.
pub(crate) struct Places {
    /// Everything of these steps.
    pub(crate) root: PathBuf,
    /// What was installed.
    pub(crate) prefix: PathBuf,
    /// Where cargo puts what it builds.
    cargo: PathBuf,
}

impl Places {
    pub(crate) fn new(root: &Path, cargo: &Path) -> Self {
        let root = root.to_path_buf();
        let prefix = root.join("prefix");
        let cargo = cargo.to_path_buf();
        Self {
            root,
            prefix,
            cargo,
        }
    }

    /// The errors that the tests have seen, one a line.
    fn seen(&self) -> PathBuf {
        self.root.join("errors-seen")
    }
}

pub(crate) fn run(runner: &mut Runner) {
    if let Some(missing) = missing() {
        runner.not_run("C library", &format!("no {missing}: {PACKAGES}"));
        return;
    }
    let places = Places::new(&runner.target.join("c"), &runner.target);
    if !runner.function("C library", || install(&places, "dev")) {
        return;
    }
    runner.function("C and C++ headers", c_abi::headers_alone);
    runner.function("C arguments", c_arguments::check);
    runner.function("C symbols and sizes", || c_abi::check(&places));
    plain(runner, &places);
    sanitized(runner, &places);
    memcheck(runner, &places);
    runner.function("C consumers", || c_consumers::check(&places));
}

/// Writes the committed lists of the ABI anew.
pub(crate) fn write_abi() -> Result<(), String> {
    let target = target()?;
    let places = Places::new(&target.join("c"), &target);
    install(&places, "dev")?;
    c_abi::write(&places)
}

/// What these steps need and the machine does not have.
fn missing() -> Option<&'static str> {
    let programs = ["cc", "c++", "cmake", "ctest", "pkg-config", "nm"];
    if let Some(program) = programs.into_iter().find(|program| !have(program)) {
        return Some(program);
    }
    let mut look = Command::new("sh");
    look.args([
        "-c",
        "printf '#include <stdarg.h>\\n#include <stddef.h>\\n#include <setjmp.h>\\n\
         #include <stdint.h>\\n#include <cmocka.h>\\n' | cc -E -x c - >/dev/null 2>&1",
    ]);
    let found = look.status().is_ok_and(|status| status.success());
    (!found).then_some("cmocka.h")
}

/// Builds with cargo and installs with CMake into an empty prefix, as the README says.
pub(crate) fn install(places: &Places, profile: &str) -> Result<u64, String> {
    if places.prefix.exists() {
        std::fs::remove_dir_all(&places.prefix)
            .map_err(|e| format!("cannot empty {}: {e}", places.prefix.display()))?;
    }
    let build = places.root.join("build");
    let mut configure = Command::new("cmake");
    configure.args(["-S", "bindings/c", "-B"]).arg(&build);
    configure.arg(define("CMAKE_INSTALL_PREFIX", &places.prefix));
    configure.arg(define("KEEPQ_CARGO_TARGET", &places.cargo));
    configure.arg(format!("-DKEEPQ_PROFILE={profile}"));
    output_of(&mut configure, "configuring")?;
    output_of(Command::new("cmake").arg("--build").arg(&build), "building")?;
    let mut install = Command::new("cmake");
    output_of(install.arg("--install").arg(&build), "installing")?;
    Ok(1)
}

pub(crate) fn define(name: &str, value: &Path) -> String {
    format!("-D{name}={}", value.display())
}

/// Builds the test programs in a directory of their own.
fn build_tests(places: &Places, name: &str, options: &[String]) -> Result<PathBuf, String> {
    let build = places.root.join(name);
    let mut configure = Command::new("cmake");
    configure.args(["-S", "tests/c", "-B"]).arg(&build);
    configure.arg(define("CMAKE_PREFIX_PATH", &places.prefix));
    output_of(configure.args(options), "configuring the tests")?;
    let mut make = Command::new("cmake");
    make.arg("--build").arg(&build).args(["--parallel", "2"]);
    output_of(&mut make, "building the tests")?;
    Ok(build)
}

/// Runs the test programs; the runner counts what they print.
fn ctest(build: &Path) -> Command {
    let mut test = Command::new("ctest");
    test.arg("--test-dir").arg(build).args(["-V", "-j", "2"]);
    test
}

fn plain(runner: &mut Runner, places: &Places) {
    let Some(build) = built(runner, places, "tests", &[]) else {
        return;
    };
    // What was seen in an earlier run proves nothing.
    let _ = std::fs::remove_file(places.seen());
    let mut test = ctest(&build);
    test.env("KEEPQ_ERRORS_SEEN", places.seen());
    if runner.command("C tests", 600, &mut test) {
        runner.function("C errors", || c_errors::check(&places.seen()));
    }
}

fn sanitized(runner: &mut Runner, places: &Places) {
    let options = [
        format!("-DCMAKE_C_FLAGS={SANITIZE}"),
        format!("-DCMAKE_CXX_FLAGS={SANITIZE}"),
    ];
    if let Some(build) = built(runner, places, "sanitized", &options) {
        let mut test = ctest(&build);
        test.env("UBSAN_OPTIONS", "print_stacktrace=1");
        // Slower, and there is less that a million would show here.
        test.env("KEEPQ_CALLS", "200000");
        runner.command("C tests, sanitizers", 600, &mut test);
    }
}

fn memcheck(runner: &mut Runner, places: &Places) {
    if !have("valgrind") {
        let how = "no valgrind: apt-get install valgrind";
        runner.not_run("C tests, valgrind", how);
        return;
    }
    let options = ["-DKEEPQ_MEMCHECK=ON".to_owned()];
    if let Some(build) = built(runner, places, "memcheck", &options) {
        runner.command("C tests, valgrind", 1200, &mut ctest(&build));
    }
}

/// The directory of the built tests; None was told to the runner.
fn built(runner: &mut Runner, places: &Places, name: &str, options: &[String]) -> Option<PathBuf> {
    let mut build = None;
    runner.function(&format!("C tests, built ({name})"), || {
        build = Some(build_tests(places, name, options)?);
        Ok(0)
    });
    build
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn output_of(command: &mut Command, what: &str) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{what}: {e}"))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}\n{out}{error}", output.status))
}
