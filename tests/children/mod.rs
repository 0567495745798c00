//! Child processes for tests: the test binary run again in another role, and a place to work in.
//!
//! A test that needs processes begins with `if let Some(role) = children::role() { .. }`: its
//! children run the same test, find a role in their environment, and end with their process. They
//! report by lines on standard output that begin with `@`, and can be told lines in return.
//!
//! Signals go only to processes that were started here and have not been waited for yet.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

const ROLE: &str = "KEEPQ_TEST_ROLE";
const PREFIX: &str = "KEEPQ_TEST_";
/// Longer than anything takes that works, on a machine busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The role this process was started in, if a test started it.
pub fn role() -> Option<String> {
    let role = std::env::var(ROLE).ok()?;
    // Some roles never end by themselves: they must not outlive a test that was killed.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    Some(role)
}

/// A value the parent passed under this name.
pub fn arg(name: &str) -> String {
    let name = format!("{PREFIX}{name}");
    std::env::var(&name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A number the parent passed under this name.
pub fn number(name: &str) -> u64 {
    arg(name).parse().unwrap()
}

/// In a child: tells the parent something.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // The test harness may have left a line unfinished.
    out.write_all(format!("\n@{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// In a child: waits for a line of the parent. Ends this process when the parent is gone.
pub fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(3);
    }
    line.trim_end().to_owned()
}

/// A fresh directory on a real disk, removed at the end unless the test failed.
pub struct Place(PathBuf);

impl Place {
    pub fn new(name: &str) -> Self {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        let path = all.join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where the store goes.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// A path outside of the store.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept to be looked at: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What a child did.
#[derive(Debug)]
pub enum Event {
    /// It said this.
    Line(String),
    /// Its standard output was closed: it ended, or is about to.
    End,
}

/// How a child is started.
pub struct Start<'a> {
    pub test: &'a str,
    pub role: &'a str,
    pub vars: &'a [(&'a str, String)],
    /// A program and arguments that run the child, such as `unshare --pid --fork`.
    pub through: &'a [&'a str],
}

/// A child that runs this test in another role. Killed when dropped.
pub struct Child {
    process: std::process::Child,
    stdin: Option<std::process::ChildStdin>,
    status: Option<ExitStatus>,
    heard: Receiver<(usize, Event)>,
    pub role: String,
}

impl Child {
    /// Starts a child.
    pub fn start(test: &str, role: &str, vars: &[(&str, String)]) -> Self {
        let start = Start {
            test,
            role,
            vars,
            through: &[],
        };
        Self::start_with(&start, |_| {})
    }

    /// Starts a child after a last change to its command.
    pub fn start_with(start: &Start<'_>, change: impl FnOnce(&mut Command)) -> Self {
        let (sender, heard) = channel();
        Self::start_reporting(start, (0, sender), heard, change)
    }

    /// Starts a child whose events go, with a number, to a channel shared with others.
    pub fn start_numbered(start: &Start<'_>, number: usize, to: &Sender<(usize, Event)>) -> Self {
        let (_, unused) = channel();
        Self::start_reporting(start, (number, to.clone()), unused, |_| {})
    }

    fn start_reporting(
        start: &Start<'_>,
        (number, to): (usize, Sender<(usize, Event)>),
        heard: Receiver<(usize, Event)>,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut command = match start.through {
            [] => Command::new(exe),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(exe);
                command
            }
        };
        command
            .args([start.test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, start.role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (name, value) in start.vars {
            command.env(format!("{PREFIX}{name}"), value);
        }
        change(&mut command);
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix('@') {
                    let _ = to.send((number, Event::Line(said.to_owned())));
                }
            }
            let _ = to.send((number, Event::End));
        });
        Self {
            stdin: process.stdin.take(),
            process,
            status: None,
            heard,
            role: start.role.to_owned(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal, if the child has not been waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        assert!(pid.as_raw_nonzero().get() > 1, "only ever a child");
        if self.status.is_none() {
            rustix::process::kill_process(pid, signal).unwrap();
        }
    }

    /// Waits until it ended and says how.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.process.wait().unwrap();
        *self.status.insert(status)
    }

    pub fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Tells the child a line.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// What the child says next, if it says something in time.
    pub fn hear_within(&self, time: Duration) -> Option<String> {
        match self.heard.recv_timeout(time) {
            Ok((_, Event::Line(line))) => Some(line),
            Ok((_, Event::End)) => panic!("child {} ended", self.role),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("child {} is gone", self.role),
        }
    }

    /// What the child says next, `None` if it ended without a word.
    pub fn hear_or_end(&self) -> Option<String> {
        match self.heard.recv_timeout(PATIENCE) {
            Ok((_, Event::Line(line))) => Some(line),
            Ok((_, Event::End)) => None,
            Err(_) => panic!("child {} says nothing", self.role),
        }
    }

    /// What the child says next; it must say something.
    pub fn hear(&self) -> String {
        self.hear_within(PATIENCE)
            .unwrap_or_else(|| panic!("child {} says nothing", self.role))
    }

    /// Waits for a line that begins so, and returns the rest of it.
    pub fn expect(&self, beginning: &str) -> String {
        let line = self.hear();
        match line.strip_prefix(beginning) {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("child {} said {line:?}, not {beginning:?}", self.role),
        }
    }

    /// Waits until it ends by itself, and well.
    pub fn finish(mut self) {
        self.stdin = None;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok((_, Event::Line(_))) => {}
                Ok((_, Event::End)) => break,
                Err(_) => panic!("child {} does not end", self.role),
            }
        }
        let status = self.wait();
        assert!(status.success(), "child {}: {status}", self.role);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Fails the whole test program when a test takes too long, saying what was going on.
pub struct Watchdog(Sender<()>);

impl Watchdog {
    pub fn new(what: &'static str, limit: Duration) -> Self {
        let (alive, ended) = channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{what} did not end within {limit:?}");
                std::process::exit(101);
            }
        });
        Self(alive)
    }
}

/// Says that something cannot be tested on this machine, and why.
pub fn not_run(what: &str, why: &str) {
    eprintln!("NOT RUN {what}: {why}");
}
