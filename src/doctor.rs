//! Examining the place of a store: what could keep its promises from holding here.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::open::read_super;
use crate::shm::member;
use crate::sys::{Dir, Env, Host, Probe, RealDisk, RealHost, describe_filesystem, file_size_limit};

/// One examination and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// What was examined.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, one sentence.
    pub detail: String,
}

fn check(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
    Check {
        name,
        ok,
        detail: detail.into(),
    }
}

/// Examines the place of a store: file system, files, locks, limits, members. Changes nothing.
///
/// # Errors
/// When the directory cannot be opened.
pub fn doctor(path: impl AsRef<Path>) -> Result<Vec<Check>> {
    let path = path.as_ref();
    let disk =
        RealDisk::open_dir(path, 0o600).map_err(|e| Error::io("open the directory", path, &e))?;
    let fs = describe_filesystem(&disk)?;
    let mut checks = vec![check(
        "file system",
        !fs.refused,
        format!("{}: {}", fs.name, fs.detail),
    )];
    let host = RealHost::new(&disk).map_err(|e| Error::io("examine", path, &e))?;
    let env = Env {
        disk: Arc::new(disk),
        host: Arc::new(host),
        runtime: None,
    };
    let dir = Dir::new(env.disk.clone());
    checks.push(match read_super(&dir) {
        Ok(Some(s)) => check(
            "store",
            true,
            format!(
                "format {}, made for {} slots",
                crate::FORMAT_VERSION,
                s.slots
            ),
        ),
        Ok(None) => check("store", false, "there is no SUPER: not a store"),
        Err(e) => check("store", false, e.to_string()),
    });
    match file_size_limit() {
        None => checks.push(check("file-size limit", true, "none")),
        Some(limit) => checks.push(check(
            "file-size limit",
            limit >= 1 << 30,
            format!("{limit} bytes (ulimit -f); a store needs 1 GiB to grow freely"),
        )),
    }
    checks.push(lock_check(&*env.host));
    Ok(checks)
}

fn lock_check(host: &dyn Host) -> Check {
    if let Err(e) = host.open_lock(false) {
        return check("locks", false, format!("LOCK cannot be opened: {e}"));
    }
    let members = u32::try_from(crate::limits::MEMBERS).unwrap_or(0);
    let alive = (0..members)
        .filter(|&slot| matches!(host.probe_byte(member::byte(slot)), Ok(Probe::Held)))
        .count();
    match host.probe_byte(member::BYTE_OPEN) {
        Ok(Probe::Free) => check(
            "locks",
            true,
            format!("{alive} processes have the store open"),
        ),
        Ok(Probe::Held) => check("locks", true, "a process is opening the store just now"),
        Err(e) => check("locks", false, format!("locks do not work here: {e}")),
    }
}
