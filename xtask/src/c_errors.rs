//! The errors that `keepq.h` documents for each function against those that the C tests have seen.

use std::collections::BTreeSet;
use std::path::Path;

use crate::header::{self, Function};

type Pairs = BTreeSet<(String, String)>;

/// The errors that are named in the paragraph "Errors:" of each function.
fn documented(functions: &[Function]) -> Pairs {
    let mut pairs = Pairs::new();
    for function in functions {
        let paragraph = function
            .doc
            .split("\n\n")
            .find(|p| p.starts_with("Errors:"));
        let words = paragraph
            .unwrap_or("")
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("KEEPQ_E_")) {
            pairs.insert((function.name.clone(), word.to_owned()));
        }
    }
    pairs
}

/// Each documented error was provoked by a test, and no test met one that is not documented.
pub(crate) fn check(seen: &Path) -> Result<u64, String> {
    let functions = header::functions()?;
    let documented = documented(&functions);
    let text = std::fs::read_to_string(seen).map_err(|e| format!("{}: {e}", seen.display()))?;
    let pair = |line: &str| {
        let (function, code) = line.split_once(' ')?;
        Some((function.to_owned(), code.to_owned()))
    };
    let seen: Pairs = text.lines().filter_map(pair).collect();
    let list = |pairs: Vec<&(String, String)>| {
        let lines: Vec<String> = pairs.iter().map(|(f, e)| format!("\n  {f} {e}")).collect();
        lines.concat()
    };
    let untested: Vec<_> = documented.difference(&seen).collect();
    let unsaid: Vec<_> = seen.difference(&documented).collect();
    if untested.is_empty() && unsaid.is_empty() {
        return Ok(documented.len() as u64);
    }
    Err(format!(
        "documented in include/keepq.h, but no test in tests/c has seen them:{}\n\
         seen by a test, but not documented:{}",
        list(untested),
        list(unsaid)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paragraph_of_errors_is_read() {
        let one = Function {
            name: "keepq_a".into(),
            doc:
                "Not KEEPQ_E_ELSEWHERE.\n\nErrors: KEEPQ_E_ONE (also\nso), KEEPQ_E_TWO; the disk's."
                    .into(),
            parameters: Vec::new(),
        };
        let found = documented(&[one]);
        let expected = [("keepq_a", "KEEPQ_E_ONE"), ("keepq_a", "KEEPQ_E_TWO")];
        let expected = expected.map(|(f, e)| (f.to_owned(), e.to_owned()));
        assert_eq!(found, Pairs::from(expected));
    }
}
