//! The program and a place for stores, for the tests of the command line.

#![allow(dead_code)] // Each test file uses a part of this.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No test of this program waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of one test, on a real disk; removed at its end unless the test failed.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!(
            "{name}-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// The program with this place's store.
    pub(crate) fn keepq(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepq"));
        command
            .args(args)
            .env("KEEPQ_STORE", self.store())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Done::from(self.keepq(args).output().unwrap())
    }

    /// Runs it with this on standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.keepq(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Done::from(output)
    }

    /// What `recv` prints as jsonl for a group until nothing comes.
    pub(crate) fn receive_all(&self, topic: &str, group: &str) -> Vec<Value> {
        let done = self.run(&["recv", topic, "-g", group, "--wait", "0"]);
        assert!([0, 3].contains(&done.code), "{done:?}");
        done.json_lines()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.dir).unwrap();
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }
}

/// Waits for a child, at most as long as a test may take; it is killed when the time is over.
pub(crate) fn wait(mut child: Child) -> i32 {
    let id = child.id();
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait()));
    match receiver.recv_timeout(PATIENCE) {
        Ok(status) => status.unwrap().code().unwrap_or(-1),
        Err(_) => {
            assert!(id > 1);
            Command::new("kill")
                .args(["-KILL", &id.to_string()])
                .status()
                .unwrap();
            panic!("a process does not end");
        }
    }
}

/// SIGKILL, to a child of this process only.
pub(crate) fn kill(child: &mut Child) {
    assert!(child.id() > 1);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Sends a signal by name to a child of this process that has not ended.
pub(crate) fn signal(child: &Child, name: &str) {
    assert!(child.id() > 1);
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Waits until a child has taken the signals that were sent to it.
pub(crate) fn taken(child: &Child) {
    let path = format!("/proc/{}/status", child.id());
    let until = Instant::now() + PATIENCE;
    let is_pending = |line: &str| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"));
        mask.is_some_and(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
    };
    while std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .any(is_pending)
    {
        assert!(Instant::now() < until, "a signal is not taken");
        std::thread::sleep(Duration::from_millis(1));
    }
}
