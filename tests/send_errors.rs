//! Every error of a send: whether trying again can help, what became of the message, and whether it
//! was appended, as docs/GUARANTEES.md has it, row by row.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![allow(unsafe_code)] // It forks.

#[path = "support/members.rs"]
mod members;
#[path = "send_errors/scenes.rs"]
mod scenes;
#[path = "send_errors/strikes.rs"]
mod strikes;

use keepq::{Code, Error};

/// What a send ended with, and whether the topic had one message more afterwards.
pub(crate) struct Seen {
    pub(crate) error: Error,
    pub(crate) appended: bool,
}

/// A row of the table: code and circumstances, and the scene that makes them.
type Scene = (&'static str, &'static str, fn() -> Seen);

#[test]
fn every_error_of_a_send_is_as_documented() {
    let rows = rows();
    let documented: Vec<(&str, &str)> = rows.iter().map(|row| (&*row[0], &*row[1])).collect();
    let played: Vec<(&str, &str)> = scenes::ALL.iter().map(|s| (s.0, s.1)).collect();
    assert_eq!(
        documented, played,
        "docs/GUARANTEES.md and the scenes differ"
    );
    for (row, (code, when, scene)) in rows.iter().zip(scenes::ALL) {
        let Seen { error, appended } = scene();
        let text = format!("{code}, {when}: {error}");
        assert_eq!(error.code().name(), *code, "{text}");
        let yes = |said: bool| if said { "yes" } else { "no" };
        assert_eq!(row[2], yes(error.is_retriable()), "retriable: {text}");
        let outcome = error.outcome().map(|outcome| outcome.name());
        assert_eq!(Some(&*row[3]), outcome, "outcome: {text}");
        assert_eq!(row[4], yes(appended), "appended: {text}");
        let late = (error.code() == Code::FlushTimeout).then_some("FLUSH_DISK_TIMEOUT");
        assert_eq!(error.status().map(|status| status.name()), late, "{text}");
    }
}

/// The rows of the table under the heading "Errors of a send", cell by cell, without backquotes
/// around the code.
fn rows() -> Vec<Vec<String>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/GUARANTEES.md")).unwrap();
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with("Errors of a send"));
    let table = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = table
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .map(|mut cells: Vec<String>| {
            cells[0] = cells[0].trim_matches('`').to_owned();
            cells
        })
        .collect();
    assert!(
        rows.len() > 15 && rows.iter().all(|row| row.len() == 5),
        "{rows:?}"
    );
    rows
}
