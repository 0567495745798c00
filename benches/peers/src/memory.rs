//! Memory and written bytes of this process, as the kernel counts them.

use crate::{Res, cannot};

/// Anonymous and shared memory in MiB. keepq's control file is shared memory too, although its
/// pages are file pages on a disk file system: they are added from the list of mappings.
pub(crate) fn mebibytes() -> Res<f64> {
    let status = read("/proc/self/status")?;
    let anonymous = field(&status, "RssAnon:") + field(&status, "RssShmem:");
    Ok((anonymous + control_pages(&read("/proc/self/smaps")?)) / 1024.0)
}

/// Bytes that this process has caused to be written to storage so far.
pub(crate) fn written() -> Res<f64> {
    Ok(field(&read("/proc/self/io")?, "write_bytes:"))
}

fn read(path: &str) -> Res<String> {
    std::fs::read_to_string(path).map_err(cannot("read the kernel's figures"))
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// KiB resident of mappings of files named `ctl`.
fn control_pages(maps: &str) -> f64 {
    let mut inside = false;
    let mut sum = 0.0;
    for line in maps.lines() {
        // A mapping begins with its addresses; the lines after it have a name and a colon.
        let first = line.split_whitespace().next();
        if first.is_some_and(|word| !word.ends_with(':')) {
            inside = line.ends_with("/ctl");
        } else if inside {
            sum += field(line, "Rss:");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        let maps = "7f00-7f01 rw-s 00000000 08:01 12 /q/ctl\nSize: 16384 kB\nRss: 300 kB\n\
                    7f02-7f03 rw-p 00000000 00:00 0\nRss: 50 kB\n";
        assert!((control_pages(maps) - 300.0).abs() < 1e-9);
        assert!(mebibytes().unwrap() > 0.0);
        assert!((field("write_bytes: 12\n", "write_bytes:") - 12.0).abs() < 1e-9);
    }
}
