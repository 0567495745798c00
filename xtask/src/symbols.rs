//! A release must not hold the simulator or the switches that break protections.

use std::path::Path;

/// What a binary holds if the simulator was compiled in: the module's name as both manglings
/// spell it, and the variable that chooses a switch.
const MARKS: [&[u8]; 2] = [b"5keepq3sim", b"KEEPQ_BREAK"];

fn marks_in(path: &Path) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let found = |mark: &&&[u8]| bytes.windows(mark.len()).any(|window| window == **mark);
    Ok(MARKS
        .iter()
        .filter(found)
        .map(|m| String::from_utf8_lossy(m).into_owned())
        .collect())
}

/// Looks into the release files; the debug program, built for the tests with the simulator, shows
/// that the marks would be seen.
pub(crate) fn check(target: &Path, files: &[&str]) -> Result<u64, String> {
    let control = target.join("debug/keepq");
    if marks_in(&control)?.is_empty() {
        return Err(format!(
            "{} was built with the simulator and shows no mark of it: this check sees nothing",
            control.display()
        ));
    }
    let mut bad = Vec::new();
    for file in files {
        for mark in marks_in(&target.join("release").join(file))? {
            bad.push(format!("release/{file} holds {mark:?}"));
        }
    }
    if bad.is_empty() {
        Ok(files.len() as u64)
    } else {
        Err(bad.join("\n"))
    }
}
