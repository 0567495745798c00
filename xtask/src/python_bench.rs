//! `cargo xtask bench --python`: the Python module beside its peers, in one run. The wheel and the
//! peers of `benches/python/requirements.txt` go into an environment of their own; what they come
//! to lies in `target/bench-python`.
//!
//! A peer that cannot be installed is left out and printed as NOT RUN; once all is installed, a run
//! needs no network.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runner::{have, target};

const BENCH: &str = "benches/python/bench.py";
const REQUIREMENTS: &str = "benches/python/requirements.txt";

/// Builds, installs and runs. `args` go to the program: `--only T1,T4`, `--peers litequeue`,
/// `--rounds 7`.
pub(crate) fn run(args: &[String]) -> Result<bool, String> {
    if !have("python3") {
        return Err("no python3: apt-get install python3 python3-venv".to_string());
    }
    let target = target()?;
    let out = target.join("bench-python");
    let python = environment(&out.join("venv"))?;
    quietly(pip(&python).arg("maturin>=1.16,<2"))?;
    println!("xtask: building the wheel");
    let wheel = build(&python, &out.join("wheels"), None)?;
    quietly(
        pip(&python)
            .args(["--no-deps", "--force-reinstall"])
            .arg(&wheel),
    )?;
    let mut bench = Command::new(&python);
    bench
        .arg(BENCH)
        .arg("--out")
        .arg(&out)
        .arg("--wheel")
        .arg(&wheel);
    for reason in peers(&python)? {
        bench.args(["--not-run", &reason]);
    }
    if wants(args, "instr") && have("valgrind") {
        let counted = counted(&python, &out, &target.join("counted-python"));
        let counted = counted.unwrap_or_else(|why| PathBuf::from(format!("not counted: {why}")));
        bench.arg("--counted").arg(counted);
    }
    bench.args(args).env("PYTHONDONTWRITEBYTECODE", "1");
    let status = bench.status();
    let status = status.map_err(|e| format!("cannot run the comparison: {e}"))?;
    Ok(status.success())
}

/// Whether a work is asked for.
fn wants(args: &[String], work: &str) -> bool {
    let only = args.iter().position(|arg| arg == "--only");
    let only = only.and_then(|at| args.get(at + 1));
    only.is_none_or(|list| list.split(',').any(|name| name.eq_ignore_ascii_case(work)))
}

/// Makes the environment, if it is not there yet; gives its interpreter.
fn environment(venv: &Path) -> Result<PathBuf, String> {
    let python = venv.join("bin/python");
    if quietly(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(venv);
        quietly(&mut make)?;
    }
    Ok(python)
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet"]);
    pip.arg("--disable-pip-version-check");
    pip
}

/// Builds a release wheel into an empty directory; with `counted` one whose clock valgrind
/// understands, of a build of its own.
fn build(python: &Path, wheels: &Path, counted: Option<&Path>) -> Result<PathBuf, String> {
    if wheels.exists() {
        std::fs::remove_dir_all(wheels).map_err(|e| format!("cannot empty the wheels: {e}"))?;
    }
    let mut build = Command::new(python.with_file_name("maturin"));
    build.args(["build", "--release", "--quiet", "--interpreter"]);
    build.arg(python).arg("--out").arg(wheels);
    if let Some(venv) = python.parent().and_then(Path::parent) {
        build.env("VIRTUAL_ENV", venv);
    }
    if let Some(target) = counted {
        // Valgrind hides the page that rustix takes the clock from.
        build
            .env("RUSTFLAGS", "--cfg=rustix_use_libc")
            .env("CARGO_TARGET_DIR", target);
    }
    quietly(&mut build)?;
    let made = std::fs::read_dir(wheels).map_err(|e| format!("no wheel: {e}"))?;
    let mut made = made.flatten().map(|entry| entry.path());
    let wheel = made.find(|path| path.extension().is_some_and(|kind| kind == "whl"));
    wheel.ok_or_else(|| format!("there is no wheel in {}", wheels.display()))
}

/// Where the wheel is unpacked whose instructions are counted.
fn counted(python: &Path, out: &Path, target: &Path) -> Result<PathBuf, String> {
    println!("xtask: building the wheel whose instructions are counted");
    let wheel = build(python, &out.join("counted-wheels"), Some(target))?;
    let place = out.join("counted");
    let mut install = pip(python);
    install.args(["--no-deps", "--upgrade", "--target"]);
    quietly(install.arg(&place).arg(&wheel))?;
    Ok(place)
}

/// Installs the peers: all at once if that works, else one by one; gives why some are missing.
fn peers(python: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(REQUIREMENTS);
    let text = text.map_err(|e| format!("cannot read {REQUIREMENTS}: {e}"))?;
    let lines = requirements(&text);
    println!("xtask: installing {} peers", lines.len());
    let all = quietly(pip(python).args(["-r", REQUIREMENTS]));
    if all.is_ok() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for line in lines {
        if let Err(why) = quietly(pip(python).arg(line)) {
            let name = line.split("==").next().unwrap_or(line);
            missing.push(format!("{name}=it cannot be installed: {why}"));
        }
    }
    Ok(missing)
}

fn requirements(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Runs a command; what it says is shown in one line, and only if it fails.
fn quietly(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failure(&output.stderr).unwrap_or_else(|| format!("{program} failed without a word")))
}

/// The first line that calls itself an error, else the last one.
fn failure(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.to_lowercase().starts_with("error"));
    error.or_else(|| lines().next_back()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_is_wanted_by_name_or_when_all_are() {
        let args = |line: &str| -> Vec<String> { line.split(' ').map(str::to_string).collect() };
        assert!(wants(&args("--rounds 3"), "instr"));
        assert!(wants(&args("--only T1,INSTR"), "instr"));
        assert!(!wants(&args("--only T1 --rounds 3"), "instr"));
    }

    #[test]
    fn the_reason_is_the_error() {
        let said = b"Looking\nERROR: no such version\nHint: another\n";
        assert_eq!(failure(said).as_deref(), Some("ERROR: no such version"));
        assert_eq!(failure(b"a\nb\n\n").as_deref(), Some("b"));
        assert_eq!(failure(b""), None);
    }

    #[test]
    fn every_peer_is_pinned() {
        let text = include_str!("../../benches/python/requirements.txt");
        let lines = requirements(text);
        assert!(!lines.is_empty());
        for line in lines {
            assert!(line.contains("=="), "{line}");
        }
    }
}
