//! `cargo xtask bench --c`: the C door beside the engine, in one run. Both programs do the same, in
//! turns; what counts is the median of the ratios. The instructions of each are counted, too: of a
//! send those of all threads, which other work on the machine changes a little, as the engine's
//! threads do some things by the clock; of a receive and its ack those of the thread that does it.
//! `--count` counts only.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::c_tests::{Places, install, output_of};
use crate::runner::{have, target};

const ROUNDS: usize = 7;
const MESSAGES: u64 = 50_000;
/// Instructions are counted for so many, and for so many more: the difference has no start-up.
const COUNTED: [u64; 2] = [1_000, 6_000];
/// How often, in turns; what counts is the median.
const COUNTS: usize = 3;

/// The two programs, C first.
type Pair = [(&'static str, PathBuf); 2];

pub(crate) fn run(count_only: bool) -> Result<bool, String> {
    let target = target()?;
    let places = Places::new(&target.join("c-bench"), &target);
    install(&places, "release")?;
    let programs = build(&places, &target)?;
    println!("ns a message, the median of {ROUNDS} rounds in turns; instructions a message");
    println!(
        "{:<8} {:>8} {:>8} {:>8} {:>10} {:>10} {:>8}",
        "", "C ns", "Rust ns", "Rust/C", "C instr", "Rust instr", "Rust/C"
    );
    for what in ["send", "receive"] {
        if count_only {
            print!("{what:<8} {:>26}", "");
        } else {
            let (c, rust, ratio) = measure(&places, &programs, what)?;
            print!("{what:<8} {c:>8.0} {rust:>8.0} {ratio:>8.3}");
        }
        if have("valgrind") {
            let (c, rust, ratio) = count(&places, &programs, what)?;
            println!(" {c:>10.0} {rust:>10.0} {ratio:>8.3}");
        } else {
            println!("  not counted: apt-get install valgrind");
        }
    }
    Ok(true)
}

fn build(places: &Places, target: &Path) -> Result<Pair, String> {
    let c = places.root.join("door");
    let mut compile = Command::new("cc");
    compile.args([
        "-std=c99",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "benches/c/door.c",
    ]);
    compile
        .arg("-o")
        .arg(&c)
        .arg(format!("-I{}", places.prefix.join("include").display()));
    compile
        .arg(format!("-L{}", places.prefix.join("lib").display()))
        .arg("-lkeepq");
    compile.arg(format!(
        "-Wl,-rpath,{}",
        places.prefix.join("lib").display()
    ));
    output_of(&mut compile, "compiling benches/c/door.c")?;
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "keepq-c",
        "--example",
        "door",
    ]);
    output_of(&mut cargo, "building the Rust half")?;
    Ok([("C", c), ("Rust", target.join("release/examples/door"))])
}

/// One run on a fresh store; what it printed.
fn one(places: &Places, command: &mut Command, what: &str, count: u64) -> Result<f64, String> {
    let store = places.root.join("store.kq");
    let _ = std::fs::remove_dir_all(&store);
    command.arg(&store).arg(what).arg(count.to_string());
    let printed = output_of(command, "running door")?;
    let _ = std::fs::remove_dir_all(&store);
    printed
        .trim()
        .parse()
        .map_err(|e| format!("door printed {printed:?}: {e}"))
}

/// The medians of C's and Rust's times, and of their ratio.
fn measure(places: &Places, programs: &Pair, what: &str) -> Result<(f64, f64, f64), String> {
    let (mut c, mut rust, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut times = [0.0; 2];
        for (time, (_, program)) in times.iter_mut().zip(programs) {
            *time = one(places, &mut Command::new(program), what, MESSAGES)?;
        }
        // The first round warms up.
        if round > 0 {
            c.push(times[0]);
            rust.push(times[1]);
            ratios.push(times[1] / times[0]);
        }
    }
    Ok((median(c), median(rust), median(ratios)))
}

/// The medians of C's and Rust's instructions, and of their ratio.
fn count(places: &Places, programs: &Pair, what: &str) -> Result<(f64, f64, f64), String> {
    let (mut c, mut rust, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..COUNTS {
        let in_c = instructions(places, &programs[0].1, what)?;
        let in_rust = instructions(places, &programs[1].1, what)?;
        c.push(in_c);
        rust.push(in_rust);
        ratios.push(in_rust / in_c);
    }
    Ok((median(c), median(rust), median(ratios)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Instructions for each message, as callgrind counts them.
fn instructions(places: &Places, program: &Path, what: &str) -> Result<f64, String> {
    let mut counts = [0.0; 2];
    for (count, messages) in counts.iter_mut().zip(COUNTED) {
        let out = places.root.join("callgrind.out");
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--quiet"]);
        if what == "receive" {
            // What is received was sent before, which is not to be counted.
            command.arg("--toggle-collect=*receive_all*");
        }
        command
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(program);
        one(places, &mut command, what, messages)?;
        let text = std::fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let totals = totals.and_then(|n| n.trim().parse().ok());
        *count = totals.ok_or("callgrind gave no totals")?;
    }
    let messages = f64::from(u32::try_from(COUNTED[1] - COUNTED[0]).unwrap_or(1));
    Ok((counts[1] - counts[0]) / messages)
}
