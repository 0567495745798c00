//! How often each peer asks the disk to sync, counted by strace: who claims to be durable must.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::peer::{Mode, Peer};
use crate::{Res, cannot, children};

const CALLS: &str = "fsync,fdatasync,msync,sync_file_range,syncfs,getpriority";

/// A system call that nobody else makes, between the parts of a trace.
pub(crate) fn mark() -> Res<()> {
    rustix::process::getpriority_process(None)
        .map(drop)
        .map_err(cannot("mark the trace"))
}

/// Whether strace is there and may trace.
pub(crate) fn available() -> Res<()> {
    let tried = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("strace may not trace here".into()),
        Err(_) => Err("no strace: install the package of that name".into()),
    }
}

/// Syncs of so many sends by one thread.
pub(crate) fn count(peer: &dyn Peer, mode: Mode, sends: u64, dir: &Path) -> Res<u64> {
    let log = dir.join("strace");
    let (log_path, place) = (children::path(&log), children::path(&dir.join("store")));
    let sends = sends.to_string();
    let role = ["syncs", peer.name(), &place, mode.name(), &sends];
    let traced = children::command(&role)?;
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-qq",
            "-o",
            &log_path,
            "-e",
            &format!("trace={CALLS}"),
        ])
        .arg(traced.get_program())
        .args(traced.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = strace.status().map_err(cannot("start strace"))?;
    if !status.success() {
        return Err(format!("the traced process failed: {status}"));
    }
    let trace = std::fs::read_to_string(&log).map_err(cannot("read the trace"))?;
    between_marks(&trace)
}

fn between_marks(trace: &str) -> Res<u64> {
    let mut marks = 0;
    let mut syncs = 0;
    for line in trace.lines() {
        if line.contains("getpriority(") {
            marks += 1;
        } else if marks == 1 && !line.contains("resumed>") {
            syncs += 1;
        }
    }
    if marks == 2 {
        Ok(syncs)
    } else {
        Err("the trace is not complete".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_marks_counts() {
        let trace = "7 fsync(3) = 0\n7 getpriority(PRIO_PROCESS, 0) = 20\n\
                     7 fdatasync(4 <unfinished ...>\n8 msync(0x7, 4096, MS_SYNC) = 0\n\
                     7 <... fdatasync resumed>) = 0\n\
                     7 getpriority(PRIO_PROCESS, 0) = 20\n7 fsync(3) = 0\n";
        assert_eq!(between_marks(trace), Ok(2));
        assert!(between_marks("7 fsync(3) = 0\n").is_err());
    }
}
