//! The Rust examples, run as their first lines say.

use std::path::Path;
use std::process::Command;

/// Name, and what each run of it on the same store must print.
const EXAMPLES: [(&str, &[&str]); 4] = [
    ("hello", &[r#"received {"id": 1}, attempt 1"#]),
    ("worker", &["2 dead letters"]),
    ("resume", &["0 lines were there", " 0 are new"]),
    ("pipeline", &["10000 messages are on disk"]),
];

/// Runs them all; how many runs there were.
pub(crate) fn check(target: &Path) -> Result<u64, String> {
    let stores = target.join("example-stores");
    let _ = std::fs::remove_dir_all(&stores);
    std::fs::create_dir_all(&stores).map_err(|e| format!("{}: {e}", stores.display()))?;
    let mut runs = 0;
    for (name, prints) in EXAMPLES {
        for expected in prints {
            let printed = run(name, &stores.join(format!("{name}.kq")))?;
            if !printed.contains(expected) {
                return Err(format!("{name} printed {printed:?}, expected {expected:?}"));
            }
            runs += 1;
        }
    }
    std::fs::remove_dir_all(&stores).map_err(|e| format!("{}: {e}", stores.display()))?;
    Ok(runs)
}

fn run(name: &str, store: &Path) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--example", name, "--"]);
    let output = command.arg(store).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} ended with {}: {said}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
