//! The project's own commands. `cargo xtask test` runs every suite and ends with a table.

#![allow(clippy::disallowed_methods)] // A tool for developers talks to files and clocks freely.
#![allow(clippy::print_stdout, clippy::print_stderr)] // And to people.

mod bench;
mod bugs;
mod c_abi;
mod c_arguments;
mod c_bench;
mod c_consumers;
mod c_errors;
mod c_tests;
mod examples;
mod header;
mod python;
mod python_bench;
mod runner;
mod suites;
mod symbols;

use std::process::ExitCode;

use runner::Runner;

const HELP: &str = "\
cargo xtask test          every suite: format, lints, Rust, C, Python, documentation, symbols
cargo xtask test c        the C steps of it alone
cargo xtask header        write include/keepq.h from bindings/c
cargo xtask abi           write bindings/c/abi: exported symbols, layout of the structs
cargo xtask bugs [NAME]   every suite must fail when a protection is switched off
cargo xtask bench [--full] [--only T1,T4] [--peers yaque,heed]
                          keepq beside its peers and the raw limits; results in target/bench
cargo xtask bench --c [--count]
                          sends and receives through the C door beside Rust, in one run; --count
                          counts instructions only
cargo xtask bench --python [--only T1,T4,T5,T6,syncs,instr,start] [--peers litequeue]
                          the Python module beside its peers; results in target/bench-python
cargo xtask real-input    the lines of real files through killed senders and receivers
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match run(&command, &rest) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, args: &[String]) -> Result<bool, String> {
    let root = root()?;
    std::env::set_current_dir(&root).map_err(|e| format!("cannot enter the project: {e}"))?;
    match (command, args) {
        ("test", []) => {
            let mut runner = Runner::new()?;
            suites::run(&mut runner)?;
            Ok(runner.report())
        }
        ("test", [only]) if only == "c" => {
            let mut runner = Runner::new()?;
            suites::c(&mut runner);
            Ok(runner.report())
        }
        ("header", []) => header::write().map(|()| true),
        ("abi", []) => c_tests::write_abi().map(|()| true),
        ("bench", [only]) if only == "--c" => c_bench::run(false),
        ("bench", [only, count]) if only == "--c" && count == "--count" => c_bench::run(true),
        ("bench", [first, args @ ..]) if first == "--python" => python_bench::run(args),
        ("bench", args) => bench::run(args),
        ("bugs", names) => bugs::run(names),
        ("real-input", []) => {
            let mut runner = Runner::new()?;
            suites::real_input(&mut runner)?;
            Ok(runner.report())
        }
        ("" | "help" | "--help" | "-h", _) => {
            print!("{HELP}");
            Ok(true)
        }
        _ => Err(format!("unknown command {command:?} or arguments\n{HELP}")),
    }
}

/// The project's directory: this package's parent.
fn root() -> Result<std::path::PathBuf, String> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(
        || env!("CARGO_MANIFEST_DIR").into(),
        std::path::PathBuf::from,
    );
    here.parent()
        .map(Into::into)
        .ok_or_else(|| "the project has no directory".to_string())
}
