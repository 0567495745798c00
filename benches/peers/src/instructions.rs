//! Instructions per operation of keepq, counted by callgrind: they do not depend on what else the
//! machine does, so a regression shows anywhere. The program that is counted is built for it: see
//! the feature `libc-clock`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Res, cannot, children};

pub(crate) const WORKS: [(&str, &str); 4] = [
    ("send", "async send, 128 B"),
    ("batch", "async send in batches, 128 B"),
    ("take", "batch send + receive + ack, 128 B"),
    ("take-batch", "batch send + receive + ack in batches, 128 B"),
];
const FEW: u64 = 5_000;
const MANY: u64 = 25_000;

/// Instructions of one operation: of many runs less those of few, so that opening does not count.
pub(crate) fn count(counted: &Path, kind: &str, dir: &Path) -> Res<f64> {
    let run = |count: u64| -> Res<f64> {
        let place = children::path(&dir.join(format!("{kind}-{count}")));
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(counted)
            .args(["role", "work", kind, &place, &count.to_string()])
            .stdin(Stdio::null());
        let output = valgrind
            .output()
            .map_err(|_| "no valgrind: install the package of that name")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let last = said.lines().rfind(|line| !line.starts_with("=="));
            return Err(format!(
                "the counted process failed: {}",
                last.unwrap_or("?")
            ));
        }
        collected(&said)
    };
    let (few, many) = (run(FEW)?, run(MANY)?);
    Ok((many - few) / (MANY - FEW) as f64)
}

fn collected(said: &str) -> Res<f64> {
    let line = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, count) = line.ok_or("callgrind gave no count")?;
    count
        .trim()
        .parse()
        .map_err(cannot("read callgrind's count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found() {
        assert_eq!(collected("==7== \n==7== Collected : 1234\n"), Ok(1234.0));
        assert!(collected("==7== Events").is_err());
    }
}
