//! `cargo xtask bugs`: for each protection that can be switched off, the ordinary suites must
//! fail without it. `tests/bugs.txt` names the switches, one a line, and after a colon, if need
//! be, the nextest filter of the suites that are meant to notice.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::runner::{count_tests, have, run_logged};
use crate::suites::NOT_PYTHON;

const LIST: &str = "tests/bugs.txt";
/// Seconds are enough for each; a busy machine gets more.
const LIMIT: Duration = Duration::from_secs(240);
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// A switch and the filter of its suites.
#[derive(Debug, PartialEq, Eq)]
struct Switch {
    name: String,
    filter: Option<String>,
}

pub(crate) fn run(names: &[String]) -> Result<bool, String> {
    if !have("cargo-nextest") {
        return Err("the switches need nextest: cargo install --locked cargo-nextest".to_string());
    }
    let text = std::fs::read_to_string(LIST).map_err(|e| format!("cannot read {LIST}: {e}"))?;
    let mut switches = parse(&text);
    let source = source_of_switches()?;
    if let Some(unknown) = switches.iter().find(|s| !source.contains(&camel(&s.name))) {
        return Err(format!(
            "{LIST} names {:?}, which is no switch",
            unknown.name
        ));
    }
    if let Some(name) = names
        .iter()
        .find(|name| !switches.iter().any(|s| &s.name == *name))
    {
        return Err(format!("{LIST} does not name {name:?}"));
    }
    switches.retain(|s| names.is_empty() || names.contains(&s.name));
    if switches.is_empty() {
        return Err(format!("{LIST} names no switch"));
    }
    let log = std::env::temp_dir().join(format!("keepq-bugs-{}.log", std::process::id()));
    let caught = all(&switches, &log);
    let _ = std::fs::remove_file(&log);
    caught
}

/// Every switch, after the suites have passed without any: a step of `cargo xtask test`.
pub(crate) fn after_the_suites() -> Result<u64, String> {
    let text = std::fs::read_to_string(LIST).map_err(|e| format!("cannot read {LIST}: {e}"))?;
    let switches = parse(&text);
    let log = std::env::temp_dir().join(format!("keepq-bugs-{}.log", std::process::id()));
    build(&log)?;
    let missed = each(&switches, &log);
    let _ = std::fs::remove_file(&log);
    match missed {
        missed if missed.is_empty() => Ok(switches.len() as u64),
        missed => Err(format!("not caught: {}", missed.join(", "))),
    }
}

/// First without any switch: a suite that fails anyway would seem to catch everything.
fn all(switches: &[Switch], log: &Path) -> Result<bool, String> {
    build(log)?;
    let clean = run_logged(&mut suites(None, None), log, BUILD_LIMIT)?;
    if !clean.success() {
        return Err(format!(
            "the suites fail without any switch:\n{}",
            end_of(log)
        ));
    }
    let missed = each(switches, log);
    println!("{} switches, {} missed", switches.len(), missed.len());
    Ok(missed.is_empty())
}

/// Compiling is no part of a switch's time.
fn build(log: &Path) -> Result<(), String> {
    let built = run_logged(nextest(None, None).arg("--no-run"), log, BUILD_LIMIT)?;
    if built.success() {
        return Ok(());
    }
    Err(format!("the suites do not compile:\n{}", end_of(log)))
}

/// Runs each switch's suites; the names of those that nothing caught.
fn each(switches: &[Switch], log: &Path) -> Vec<String> {
    let mut missed = Vec::new();
    for switch in switches {
        let started = Instant::now();
        let mut command = suites(Some(&switch.name), switch.filter.as_deref());
        let result = run_logged(&mut command, log, LIMIT);
        let output = std::fs::read_to_string(log).unwrap_or_default();
        let (_, failed) = count_tests(&output);
        let verdict = match result {
            // A failure without a failed test is a mistake of the run, not a catch.
            Ok(status) if !status.success() && failed > 0 => "caught",
            Ok(status) if status.success() => "MISSED: the suites pass",
            Ok(_) => "MISSED: no test failed, but the run did",
            Err(_) => "MISSED: not found in time",
        };
        println!(
            "{:<32} {verdict} ({:.1} s)",
            switch.name,
            started.elapsed().as_secs_f64()
        );
        if verdict != "caught" {
            missed.push(switch.name.clone());
        }
    }
    missed
}

/// A run that stops at its first failure.
fn suites(switch: Option<&str>, filter: Option<&str>) -> Command {
    let mut command = nextest(switch, filter);
    command.args(["--fail-fast", "--status-level", "fail"]);
    command
}

fn nextest(switch: Option<&str>, filter: Option<&str>) -> Command {
    let mut command = Command::new("cargo");
    command.args(["nextest", "run"]);
    // The same packages as in the ordinary run, so that nothing is compiled again.
    command.args(NOT_PYTHON);
    let engine = match filter {
        Some(filter) => format!("package(keepq) & ({filter})"),
        None => "package(keepq)".to_owned(),
    };
    command.args(["-E", &engine]);
    if let Some(name) = switch {
        command.env("KEEPQ_BREAK", name);
    }
    command
}

fn parse(text: &str) -> Vec<Switch> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| match line.split_once(':') {
            Some((name, filter)) => Switch {
                name: name.trim().into(),
                filter: Some(filter.trim().into()),
            },
            None => Switch {
                name: line.into(),
                filter: None,
            },
        })
        .collect()
}

/// `no_dir_sync` is `NoDirSync` in the source.
fn camel(name: &str) -> String {
    let upper = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|c| c.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect::<String>()
    };
    name.split('_').map(upper).collect()
}

/// The text of the simulator, where the switches are declared.
fn source_of_switches() -> Result<String, String> {
    let mut text = String::new();
    let entries = std::fs::read_dir("src/sim").map_err(|e| format!("cannot read src/sim: {e}"))?;
    for entry in entries.flatten() {
        text += &std::fs::read_to_string(entry.path()).unwrap_or_default();
    }
    Ok(text)
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let list = parse("# why\n\nno_fdatasync\nwake_lost: test(wake)\n");
        assert_eq!(list.len(), 2);
        assert_eq!(
            list[0],
            Switch {
                name: "no_fdatasync".into(),
                filter: None
            }
        );
        assert_eq!(list[1].filter.as_deref(), Some("test(wake)"));
        assert_eq!(camel("no_dir_sync"), "NoDirSync");
    }
}
