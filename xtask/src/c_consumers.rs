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
    let mut checks = readme(places, &out)?;
    for linking in ["shared", "static"] {
        let found = by_pkg_config(places, &out, linking)?;
        checks += run_all(places, &out, linking, |name| found.join(name))?;
        let found = by_cmake(places, &out, linking)?;
        checks += run_all(places, &out, linking, |name| found.join(name))?;
    }
    Ok(checks)
}

/// The README's C program, compiled and run as the README says.
fn readme(places: &Places, out: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string("README.md").map_err(|e| format!("README.md: {e}"))?;
    let program = text
        .split("```c\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let program = program.ok_or("README.md has no C program")?;
    let place = out.join("readme");
    std::fs::create_dir_all(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    std::fs::write(place.join("shop.c"), program).map_err(|e| e.to_string())?;
    let mut run = Command::new("sh");
    run.args([
        "-ec",
        "cc -std=c99 shop.c $(pkg-config --cflags --libs keepq) -o shop && ./shop",
    ]);
    run.current_dir(&place);
    run.env("PKG_CONFIG_PATH", places.prefix.join("lib/pkgconfig"));
    run.env("LD_LIBRARY_PATH", places.prefix.join("lib"));
    let printed = output_of(&mut run, "the README's C program")?;
    if printed == "hello\n" {
        return Ok(1);
    }
    Err(format!("the README's C program printed {printed:?}"))
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
