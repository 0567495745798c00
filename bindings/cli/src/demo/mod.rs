//! `keepq demo`: senders and consumers are killed at random moments; then every message is
//! accounted for.
//!
//! The parent starts this program again as two senders and three consumers on one new store. Each
//! of them writes what it does into a ledger of its own outside the store. The parent kills them
//! with SIGKILL at moments a seed chooses and starts them again; then a last consumer drains what
//! is left, and the ledgers are compared. The one line of output:
//!
//! `sent=N confirmed=N delivered=N duplicates=N kills=N lost=0`
//!
//! A message is *lost* if its send was confirmed and no ledger shows it acknowledged, nor in the
//! hands of a consumer that was killed while acknowledging it.

mod account;
mod ledger;
mod parent;
mod roles;
mod stage;

use crate::args::{DemoArgs, DemoRole, DemoRoleArgs};
use crate::exit::{FAILED, Failure, OK};
use crate::output;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

pub(crate) use stage::this_program;

pub(crate) fn run(args: &DemoArgs) -> Result<i32, Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => format!("target/demo-{}", std::process::id()).into(),
    };
    let result = parent::run(args, &dir)?;
    output::print(&format!("{}\n", result.line()))?;
    let mut problems = result.problems;
    if result.lost > 0 {
        problems.push(format!("{} confirmed messages were lost", result.lost));
    }
    if problems.is_empty() {
        let removed = std::fs::remove_dir_all(&dir);
        removed.map_err(|e| Failure::failed(format!("cannot remove {}: {e}", dir.display())))?;
        return Ok(OK);
    }
    for problem in problems.iter().take(20) {
        output::note(problem);
    }
    output::note(&format!("store and ledgers are kept in {}", dir.display()));
    Ok(FAILED)
}

/// One of the processes that the parent starts.
pub(crate) fn role(args: &DemoRoleArgs) -> Result<i32, Failure> {
    match args.role {
        DemoRole::Sender => roles::sender(args),
        DemoRole::Consumer => roles::consumer(args),
        DemoRole::Drain => roles::drain(args),
        DemoRole::Saboteur => roles::saboteur(args),
    }
}
