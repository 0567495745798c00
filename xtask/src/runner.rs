//! Runs steps with a time limit each, keeps their output in files and prints a table at the end.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How much of a failed step's output is shown; all of it is in the file.
const SHOWN_LINES: usize = 80;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Passed,
    Failed(String),
    /// The machine lacks something: what, and how to get it.
    NotRun(String),
}

struct Row {
    name: String,
    ended: Ended,
    passed: u64,
    failed: u64,
    took: Duration,
}

pub(crate) struct Runner {
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
    logs: PathBuf,
    rows: Vec<Row>,
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    std::path::absolute(&target).map_err(|e| format!("no target: {e}"))
}

impl Runner {
    pub(crate) fn new() -> Result<Self, String> {
        let target = target()?;
        let logs = target.join("xtask");
        std::fs::create_dir_all(&logs)
            .map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
        Ok(Self {
            target,
            logs,
            rows: Vec::new(),
        })
    }

    /// Runs one command as a step. Its tests are counted from what it prints. True if it passed.
    pub(crate) fn command(&mut self, name: &str, seconds: u64, command: &mut Command) -> bool {
        println!("xtask: {name}");
        let started = Instant::now();
        let log = self
            .logs
            .join(format!("{}.log", name.replace([' ', '/'], "-")));
        let ended = match run_logged(command, &log, Duration::from_secs(seconds)) {
            Ok(status) if status.success() => Ended::Passed,
            Ok(status) => Ended::Failed(status.to_string()),
            Err(message) => Ended::Failed(message),
        };
        let output = std::fs::read(&log).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        if matches!(ended, Ended::Failed(_)) {
            show_end(name, &output, &log);
        }
        let (passed, failed) = count_tests(&output);
        let good = ended == Ended::Passed;
        self.rows.push(Row {
            name: name.into(),
            ended,
            passed,
            failed,
            took: started.elapsed(),
        });
        good
    }

    /// A step done by a function of this program; it returns how many checks it made.
    pub(crate) fn function(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<u64, String>,
    ) -> bool {
        println!("xtask: {name}");
        let started = Instant::now();
        let (ended, passed, failed) = match work() {
            Ok(checks) => (Ended::Passed, checks, 0),
            Err(message) => {
                eprintln!("--- {name}\n{message}");
                (Ended::Failed("see above".into()), 0, 1)
            }
        };
        let good = ended == Ended::Passed;
        self.rows.push(Row {
            name: name.into(),
            ended,
            passed,
            failed,
            took: started.elapsed(),
        });
        good
    }

    /// Notes that a step cannot run on this machine.
    pub(crate) fn not_run(&mut self, name: &str, reason: &str) {
        println!("xtask: {name}: NOT RUN, {reason}");
        self.rows.push(Row {
            name: name.into(),
            ended: Ended::NotRun(reason.into()),
            passed: 0,
            failed: 0,
            took: Duration::ZERO,
        });
    }

    /// Prints the table; whether no step failed.
    pub(crate) fn report(&self) -> bool {
        println!(
            "\n{:<26} {:<8} {:>7} {:>7} {:>8}",
            "step", "result", "passed", "failed", "s"
        );
        for row in &self.rows {
            let (result, why) = match &row.ended {
                Ended::Passed => ("ok", ""),
                Ended::Failed(why) => ("FAILED", why.as_str()),
                Ended::NotRun(why) => ("NOT RUN", why.as_str()),
            };
            let took = row.took.as_secs_f64();
            let name = &row.name;
            println!(
                "{name:<26} {result:<8} {:>7} {:>7} {took:>8.1} {why}",
                row.passed, row.failed
            );
        }
        let passed: u64 = self.rows.iter().map(|row| row.passed).sum();
        let failed: u64 = self.rows.iter().map(|row| row.failed).sum();
        let bad = |row: &&Row| matches!(row.ended, Ended::Failed(_));
        let bad_steps = self.rows.iter().filter(bad).count() as u64;
        // A step that failed without naming a test still counts.
        println!("{passed} passed, {} failed", failed.max(bad_steps));
        bad_steps == 0
    }
}

fn show_end(name: &str, output: &str, log: &Path) {
    let lines: Vec<_> = output.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    eprintln!("--- {name}, the end of {}", log.display());
    for line in &lines[from..] {
        eprintln!("{line}");
    }
    eprintln!("---");
}

/// Runs a command with both outputs in a file. It gets a process group of its own, so that what
/// it started can be ended with it when its time is over.
pub(crate) fn run_logged(
    command: &mut Command,
    log: &Path,
    limit: Duration,
) -> Result<ExitStatus, String> {
    let file = File::create(log).map_err(|e| format!("cannot make {}: {e}", log.display()))?;
    let both = file
        .try_clone()
        .map_err(|e| format!("cannot share {}: {e}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(both)
        .process_group(0);
    let child = command
        .spawn()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    wait(child, limit)
}

fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus, String> {
    let group = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Nobody listens once the time was over.
        let _ = sender.send(child.wait());
    });
    match receiver.recv_timeout(limit) {
        Ok(status) => status.map_err(|e| format!("cannot wait: {e}")),
        Err(_) => {
            if group > 1 {
                let target = format!("-{group}");
                let _ = Command::new("kill").args(["-KILL", "--", &target]).status();
            }
            let _ = receiver.recv_timeout(Duration::from_secs(10));
            Err(format!("not done after {} s", limit.as_secs()))
        }
    }
}

/// Passed and failed tests, from the summaries of nextest, cargo test, pytest and cmocka.
pub(crate) fn count_tests(output: &str) -> (u64, u64) {
    let (mut passed, mut failed) = (0, 0);
    for line in output.lines() {
        let summary = line.contains("tests run:")
            || line.contains("test run:")
            || line.starts_with("test result:")
            || (line.contains(" in ") && (line.contains(" passed") || line.contains(" failed")));
        if summary {
            passed += number_before(line, " passed");
            failed += number_before(line, " failed");
            failed += number_before(line, " timed out") + number_before(line, " error");
        } else if line.contains("[  PASSED  ]") {
            passed += number_before(line, " test(s)");
        } else if line.contains("[  FAILED  ]") {
            failed += number_before(line, " test(s)");
        }
    }
    (passed, failed)
}

fn number_before(line: &str, word: &str) -> u64 {
    let Some(at) = line.find(word) else { return 0 };
    let before = &line[..at];
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    before[before.len() - digits..].parse().unwrap_or(0)
}

/// Whether a program can be started.
pub(crate) fn have(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let nextest = "     Summary [   0.1s] 13 tests run: 11 passed, 2 failed, 0 skipped";
        assert_eq!(count_tests(nextest), (11, 2));
        let cargo = "test result: ok. 7 passed; 0 failed; 0 ignored\n\
                     test result: FAILED. 1 passed; 3 failed; 0 ignored";
        assert_eq!(count_tests(cargo), (8, 3));
        assert_eq!(
            count_tests("==== 1 failed, 20 passed in 0.45s ===="),
            (20, 1)
        );
        assert_eq!(count_tests("20 passed in 0.45s"), (20, 0));
        let cmocka = "1: [  PASSED  ] 3 test(s).\n2: [  PASSED  ] 1 test(s).\n\
                      2: [  FAILED  ] handles: 2 test(s), listed below:\n2: [  FAILED  ] a_test\n\
                      50% tests passed, 1 tests failed out of 2";
        assert_eq!(count_tests(cmocka), (4, 2));
        assert_eq!(count_tests("nothing of the kind"), (0, 0));
    }

    #[test]
    fn a_command_over_its_time_is_ended() {
        let log = std::env::temp_dir().join(format!("xtask-runner-{}", std::process::id()));
        let ended = run_logged(
            Command::new("sh").args(["-c", "cat /dev/zero > /dev/null"]),
            &log,
            Duration::from_millis(200),
        );
        assert!(ended.unwrap_err().contains("not done"));
        let good = run_logged(&mut Command::new("true"), &log, Duration::from_secs(20));
        assert!(good.unwrap().success());
        std::fs::remove_file(&log).unwrap();
    }
}
