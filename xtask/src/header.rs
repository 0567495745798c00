//! `include/keepq.h`, generated from the C library's source and committed.

use std::path::Path;

const HEADER: &str = "include/keepq.h";
const LIBRARY: &str = "bindings/c";
const CONFIG: &str = "bindings/c/cbindgen.toml";

fn generate() -> Result<Vec<u8>, String> {
    let config = cbindgen::Config::from_file(CONFIG)?;
    let bindings = cbindgen::Builder::new()
        .with_crate(LIBRARY)
        .with_config(config)
        .generate()
        .map_err(|e| format!("cannot read {LIBRARY}: {e}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    Ok(text)
}

pub(crate) fn write() -> Result<(), String> {
    std::fs::write(HEADER, generate()?).map_err(|e| format!("cannot write {HEADER}: {e}"))
}

/// Whether the committed header is what the source says.
pub(crate) fn check() -> Result<u64, String> {
    let committed = std::fs::read(HEADER).map_err(|e| format!("cannot read {HEADER}: {e}"))?;
    if committed == generate()? {
        return Ok(1);
    }
    Err(format!(
        "{HEADER} is not what {LIBRARY} says: run `cargo xtask header`"
    ))
}

/// Whether there is a C library yet that a header could come from.
pub(crate) fn exists() -> bool {
    Path::new(CONFIG).exists()
}
