//! Programs outside of this tree that find the installed library by pkg-config and by CMake, shared
//! and static; among them the C examples, which must print what they should.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::c_tests::{Places, define, output_of};

/// Name, and what each run of it on the same store must print.
const EXAMPLES: [(&str, &[&str]); 4] = [
    ("hello", &["received hello, attempt 1"]),
    ("worker", &["10 done, 1 given up"]),
    ("async_sender", &["10000 messages are on disk"]),
    (
        "resume",
        &["1000 lines, 1000 of them new", "1000 lines, 0 of them new"],
    ),
];

pub(crate) fn check(places: &Places) -> Result<u64, String> {
    let out = places.root.join("consumers");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let mut checks = 0;
    for linking in ["shared", "static"] {
        let found = by_pkg_config(places, &out, linking)?;
        checks += run_all(places, &out, linking, |name| found.join(name))?;
        let found = by_cmake(places, &out, linking)?;
        checks += run_all(places, &out, linking, |name| found.join(name))?;
    }
    Ok(checks)
}

/// The prefix, moved: nothing in it may name the place where it was made.
fn moved(places: &Places, out: &Path, linking: &str) -> Result<PathBuf, String> {
    let to = out.join(format!("moved-{linking}"));
    let mut copy = Command::new("cp");
    output_of(
        copy.arg("-a").arg(&places.prefix).arg(&to),
        "copying the prefix",
    )?;
    Ok(to)
}

/// Compiles each example with the flags that pkg-config gives.
fn by_pkg_config(places: &Places, out: &Path, linking: &str) -> Result<PathBuf, String> {
    let prefix = moved(places, out, linking)?;
    let mut ask = Command::new("pkg-config");
    ask.args(["--cflags", "--libs"])
        .args((linking == "static").then_some("--static"));
    ask.arg("keepq")
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let mut flags = output_of(&mut ask, "pkg-config")?;
    if linking == "static" {
        // A linker that has the choice takes the shared one.
        flags = flags.replace("-lkeepq", "-l:libkeepq.a");
    }
    let programs = out.join(format!("pkg-config-{linking}"));
    std::fs::create_dir_all(&programs).map_err(|e| format!("{}: {e}", programs.display()))?;
    for (name, _) in EXAMPLES {
        let mut compile = Command::new("cc");
        compile.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        compile
            .arg(format!("examples/c/{name}.c"))
            .arg("-o")
            .arg(programs.join(name));
        compile.args(flags.split_whitespace());
        if linking == "shared" {
            compile.arg(format!("-Wl,-rpath,{}", prefix.join("lib").display()));
        }
        output_of(
            &mut compile,
            &format!("compiling {name} ({linking}) by pkg-config"),
        )?;
    }
    Ok(programs)
}

/// Builds the examples' own CMake project.
fn by_cmake(places: &Places, out: &Path, linking: &str) -> Result<PathBuf, String> {
    let programs = out.join(format!("cmake-{linking}"));
    let mut configure = Command::new("cmake");
    configure.args(["-S", "examples/c", "-B"]).arg(&programs);
    configure.arg(define("CMAKE_PREFIX_PATH", &places.prefix));
    let target = if linking == "static" {
        "keepq::static"
    } else {
        "keepq::keepq"
    };
    configure.arg(format!("-DKEEPQ_TARGET={target}"));
    output_of(&mut configure, "configuring the examples")?;
    let mut build = Command::new("cmake");
    output_of(build.arg("--build").arg(&programs), "building the examples")?;
    Ok(programs)
}

fn run_all(
    places: &Places,
    out: &Path,
    linking: &str,
    program: impl Fn(&str) -> PathBuf,
) -> Result<u64, String> {
    let mut checks = 0;
    for (name, prints) in EXAMPLES {
        let program = program(name);
        needs(&program, linking)?;
        let store = out.join(format!("{name}.kq"));
        for expected in prints {
            let mut run = Command::new("timeout");
            run.args(["--kill-after=5", "60"]).arg(&program).arg(&store);
            run.current_dir(&places.root);
            let printed = output_of(&mut run, &format!("running {}", program.display()))?;
            if !printed.contains(expected) {
                let program = program.display();
                return Err(format!(
                    "{program} printed {printed:?}, expected {expected:?}"
                ));
            }
            checks += 1;
        }
        std::fs::remove_dir_all(&store).map_err(|e| format!("{}: {e}", store.display()))?;
    }
    Ok(checks)
}

/// Whether the program asks for the library as it should: by its soname, or not at all.
fn needs(program: &Path, linking: &str) -> Result<(), String> {
    let mut read = Command::new("readelf");
    let text = output_of(read.arg("-d").arg(program), "readelf")?;
    let soname = text.contains("[libkeepq.so.0.") || text.contains("[libkeepq.so.1");
    if soname == (linking == "shared") && !text.contains("[libkeepq.so]") {
        return Ok(());
    }
    Err(format!(
        "{} is not linked {linking}:\n{text}",
        program.display()
    ))
}
