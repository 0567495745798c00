//! Other processes: this program again, in one of its roles.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Res, cannot};

/// A child that is told lines and answers lines. It is killed when dropped.
pub(crate) struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// This program in a role.
pub(crate) fn command(args: &[&str]) -> Res<Command> {
    let program = std::env::current_exe().map_err(cannot("find this program"))?;
    let mut command = Command::new(program);
    command.arg("role").args(args);
    Ok(command)
}

impl Role {
    pub(crate) fn start(args: &[&str]) -> Res<Self> {
        let mut command = command(args)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot("start a process"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err("a process has no pipes".into());
        };
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    pub(crate) fn tell(&mut self, line: &str) -> Res<()> {
        writeln!(self.input, "{line}").map_err(cannot("talk to a process"))
    }

    /// Its next line. What went wrong with it stands in the error output.
    pub(crate) fn hear(&mut self) -> Res<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        match read.map_err(cannot("listen to a process"))? {
            0 => Err("its process ended; see the error output".into()),
            _ => Ok(line.trim_end().to_string()),
        }
    }

    /// Its next line, which is one number.
    pub(crate) fn hear_number(&mut self) -> Res<f64> {
        let line = self.hear()?;
        line.parse().map_err(|_| format!("a process said {line:?}"))
    }

    /// SIGKILL, and no process any more when it returns.
    pub(crate) fn kill(mut self) -> Res<()> {
        self.end()
    }

    fn end(&mut self) -> Res<()> {
        self.child.kill().map_err(cannot("kill a process"))?;
        self.child.wait().map(drop).map_err(cannot("wait for it"))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.end();
    }
}

/// A path as an argument.
pub(crate) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What the parent says next; None when it is gone.
pub(crate) fn listen() -> Res<Option<String>> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    match read.map_err(cannot("listen"))? {
        0 => Ok(None),
        _ => Ok(Some(line.trim_end().to_string())),
    }
}

/// Says a line to the parent.
pub(crate) fn say(line: impl std::fmt::Display) -> Res<()> {
    let mut out = std::io::stdout();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(cannot("answer"))
}
