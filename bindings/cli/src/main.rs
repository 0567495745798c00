//! The `keepq` program: everything is in the library, so that the Python wheel ships it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = keepq_cli::run(std::env::args_os());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
