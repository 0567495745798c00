//! The processes of the demonstration, as its parent sees them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;

use super::account::{Life, inside_a_call};
use super::ledger::{self, Line};
use crate::args::{DemoRole, FlushArg};
use crate::exit::Failure;

/// Who takes part.
pub(super) const CAST: [(DemoRole, FlushArg); 5] = [
    (DemoRole::Sender, FlushArg::Sync),
    (DemoRole::Sender, FlushArg::Async),
    (DemoRole::Consumer, FlushArg::Sync),
    (DemoRole::Consumer, FlushArg::Sync),
    (DemoRole::Consumer, FlushArg::Sync),
];
/// Each sender numbers its messages from a multiple of this.
const NUMBERS: u64 = 1_000_000_000;

/// A process that runs.
struct Actor {
    child: Child,
    ledger: PathBuf,
}

/// All processes, those of the past included.
pub(super) struct Stage<'a> {
    dir: &'a Path,
    actors: [Option<Actor>; CAST.len()],
    /// The number of the next message of each role.
    next: [u64; CAST.len()],
    /// The ledgers of those that ended, and whether they were killed.
    past: Vec<(PathBuf, bool)>,
    kills_inside: u64,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for actor in self.actors.iter_mut().flatten() {
            // Whatever ended the demonstration, its processes end with it.
            let _ = actor.child.kill();
            let _ = actor.child.wait();
        }
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        let next = std::array::from_fn(first_number);
        Self {
            dir,
            actors: Default::default(),
            next,
            past: Vec::new(),
            kills_inside: 0,
        }
    }

    pub(super) fn start_all(&mut self) -> Result<(), Failure> {
        (0..CAST.len()).try_for_each(|role| self.start(role))
    }

    pub(super) fn kills(&self) -> u64 {
        self.past.iter().filter(|(_, killed)| *killed).count() as u64
    }

    /// How many kills fell inside a call of the engine.
    pub(super) fn kills_inside(&self) -> u64 {
        self.kills_inside
    }

    /// Whether a process has written its first line, or has ended, of which its kill will tell.
    pub(super) fn has_begun(&mut self, role: usize) -> bool {
        let Some(actor) = &mut self.actors[role] else {
            return true;
        };
        let written = std::fs::metadata(&actor.ledger).is_ok_and(|ledger| ledger.len() > 0);
        written || !matches!(actor.child.try_wait(), Ok(None))
    }

    pub(super) fn start(&mut self, role: usize) -> Result<(), Failure> {
        let (kind, flush) = CAST[role];
        let ledger = self.dir.join(format!("{role}-{}.ledger", self.past.len()));
        let child = self.spawn(kind, flush, &ledger, self.next[role])?;
        self.actors[role] = Some(Actor { child, ledger });
        Ok(())
    }

    fn spawn(
        &self,
        role: DemoRole,
        flush: FlushArg,
        ledger: &Path,
        first: u64,
    ) -> Result<Child, Failure> {
        let mut command = this_program()?;
        command.args(["demo-role", &name(&role), "--flush", &name(&flush)]);
        command.args(["--first", &first.to_string()]);
        command
            .arg("--dir")
            .arg(self.dir)
            .arg("--ledger")
            .arg(ledger);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command
            .spawn()
            .map_err(|e| Failure::failed(format!("cannot start a process: {e}")))
    }

    /// SIGKILL, to a child of this process that has not been waited for: never anybody else.
    pub(super) fn kill(&mut self, role: usize) -> Result<(), Failure> {
        let Some(mut actor) = self.actors[role].take() else {
            return Err(Failure::failed("a process to kill is not there"));
        };
        let cannot = |e| Failure::failed(format!("cannot kill a process: {e}"));
        if let Some(status) = actor.child.try_wait().map_err(cannot)? {
            return Err(ended_badly(status, &actor.ledger));
        }
        if actor.child.id() <= 1 {
            return Err(Failure::failed("a child without a number of its own"));
        }
        actor.child.kill().map_err(cannot)?;
        let status = actor.child.wait().map_err(cannot)?;
        if status.code().is_some() {
            // It ended in the same moment, by itself: nothing but a failure ends it.
            return Err(ended_badly(status, &actor.ledger));
        }
        let lines = read_if_there(&actor.ledger)?;
        if let Some(last) = lines.iter().rev().find_map(number_sent) {
            self.next[role] = last + 1;
        }
        self.kills_inside += u64::from(inside_a_call(&lines));
        self.past.push((actor.ledger, true));
        Ok(())
    }

    /// Ends everybody by closing their inputs, then drains.
    pub(super) fn end(&mut self, sabotage: bool) -> Result<(), Failure> {
        for actor in self.actors.iter_mut().flatten() {
            drop(actor.child.stdin.take());
        }
        for role in 0..CAST.len() {
            if let Some(actor) = self.actors[role].take() {
                self.finish(actor)?;
            }
        }
        self.scene(DemoRole::Drain, 0)?;
        if sabotage {
            self.scene(DemoRole::Saboteur, first_number(CAST.len()))?;
            self.scene(DemoRole::Drain, 1)?;
        }
        Ok(())
    }

    /// One process, alone, to its end.
    fn scene(&mut self, role: DemoRole, first: u64) -> Result<(), Failure> {
        let ledger = self.dir.join(format!("{}-{first}.ledger", name(&role)));
        let child = self.spawn(role, FlushArg::Sync, &ledger, first)?;
        self.finish(Actor { child, ledger })
    }

    fn finish(&mut self, mut actor: Actor) -> Result<(), Failure> {
        let cannot = |e| Failure::failed(format!("cannot wait for a process: {e}"));
        let status = actor.child.wait().map_err(cannot)?;
        if !status.success() {
            return Err(ended_badly(status, &actor.ledger));
        }
        self.past.push((actor.ledger, false));
        Ok(())
    }

    pub(super) fn lives(&self) -> Result<Vec<Life>, Failure> {
        let mut lives = Vec::with_capacity(self.past.len());
        for (path, killed) in &self.past {
            lives.push(Life {
                lines: read_if_there(path)?,
                killed: *killed,
            });
        }
        Ok(lives)
    }
}

/// This program again: the binary, or the interpreter with the module.
pub(crate) fn this_program() -> Result<Command, Failure> {
    let cannot = |e| Failure::failed(format!("cannot find this program: {e}"));
    let program = std::env::current_exe().map_err(cannot)?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    if !name.starts_with("python") {
        return Ok(Command::new(program));
    }
    // As it was called: the file behind a virtual environment's link does not know its packages.
    let words = std::fs::read("/proc/self/cmdline").map_err(cannot)?;
    let called = words.split(|&b| b == 0).next().unwrap_or_default();
    let mut command = Command::new(OsStr::from_bytes(called));
    command.args(["-m", "keepq"]);
    Ok(command)
}

fn first_number(role: usize) -> u64 {
    (role as u64 + 1) * NUMBERS
}

fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|v| v.get_name().to_string())
        .unwrap_or_default()
}

fn number_sent(line: &Line) -> Option<u64> {
    match line {
        Line::Sending(n, _) => Some(*n),
        _ => None,
    }
}

fn ended_badly(status: std::process::ExitStatus, ledger: &Path) -> Failure {
    let why = match ledger::read(ledger).unwrap_or_default().pop() {
        Some(Line::Error(text)) => text,
        _ => "its ledger does not say why".to_string(),
    };
    Failure::failed(format!("a process ended by itself, {status}: {why}"))
}

/// A process that was killed early has no ledger yet.
fn read_if_there(path: &Path) -> Result<Vec<Line>, Failure> {
    match ledger::read(path) {
        Ok(lines) => Ok(lines),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Failure::failed(format!("cannot read a ledger: {e}"))),
    }
}
