//! Whether the C tests try NULL in every pointer that `keepq.h` takes, and a wrong size in every
//! struct that begins with one. Read from the tests' text: `f(a, NULL)` and `f, CODE, (a, NULL)`.

use std::collections::BTreeSet;

use crate::header::{self, Function, Parameter};

/// Where calls with every kind of bad handle, NULL among them, and with wrong sizes are.
const HANDLES: (&str, &str) = ("tests/c/handles.c", "bad");
const SIZES: (&str, &str) = ("tests/c/sizes.c", "s");
const TESTS: &str = "tests/c";

/// Function and index of an argument.
type Place = (String, usize);

/// Each place where this argument is passed in a call of one of the functions.
fn passed(text: &str, functions: &[Function], wanted: &str) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    for function in functions {
        for (at, _) in text.match_indices(&function.name) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let Some(arguments) = arguments(&text[at + function.name.len()..]) else {
                continue;
            };
            let at = arguments.iter().enumerate();
            let at = at.filter(|(_, argument)| argument.trim_start_matches('&') == wanted);
            found.extend(at.map(|(index, _)| (function.name.clone(), index)));
        }
    }
    found
}

/// The arguments of a call: after the function's name, or after that and an error code.
fn arguments(rest: &str) -> Option<Vec<String>> {
    let rest = rest.trim_start();
    let open = match rest.strip_prefix(',') {
        None => rest,
        Some(code) => code.split_once(',')?.1.trim_start(),
    };
    let (mut depth, mut one, mut all) = (0, String::new(), Vec::new());
    for c in open.strip_prefix('(')?.chars() {
        match c {
            ')' if depth == 0 => {
                all.push(one.trim().to_owned());
                return Some(all);
            }
            ',' if depth == 0 => all.push(std::mem::take(&mut one).trim().to_owned()),
            _ => {
                depth += i32::from(c == '(') - i32::from(c == ')');
                one.push(c);
            }
        }
    }
    None
}

fn read(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn all_tests() -> Result<String, String> {
    let mut text = String::new();
    let entries = std::fs::read_dir(TESTS).map_err(|e| format!("{TESTS}: {e}"))?;
    for entry in entries {
        let path = entry.map_err(|e| format!("{TESTS}: {e}"))?.path();
        if path.extension().is_some_and(|e| e == "c") {
            text += &read(&path)?;
        }
    }
    Ok(text)
}

fn is_handle(parameter: &Parameter) -> bool {
    ["keepq *", "keepq_group *", "keepq_msg *"].contains(&parameter.plain_type().as_str())
}

pub(crate) fn check() -> Result<u64, String> {
    let functions = header::functions()?;
    let sized: BTreeSet<String> = header::all_structs()?
        .into_iter()
        .filter(|s| s.fields.first().is_some_and(|f| f == "size"))
        .map(|s| format!("{} *", s.name))
        .collect();
    let mut nulls = passed(&all_tests()?, &functions, "NULL");
    nulls.extend(passed(&read(HANDLES.0.as_ref())?, &functions, HANDLES.1));
    let sizes = passed(&read(SIZES.0.as_ref())?, &functions, SIZES.1);
    let (mut checks, mut missing) = (0, String::new());
    for function in &functions {
        for (index, parameter) in function.parameters.iter().enumerate() {
            let place = (function.name.clone(), index);
            let of = format!("{} of {}", parameter.name, function.name);
            if parameter.is_pointer() {
                checks += 1;
                if !nulls.contains(&place) {
                    missing += &format!("\n  NULL as {of}");
                }
            }
            if sized.contains(&parameter.plain_type()) && !is_handle(parameter) {
                checks += 1;
                if !sizes.contains(&place) {
                    missing += &format!("\n  a wrong size of {of}");
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(checks);
    }
    Err(format!("no test in {TESTS} passes:{missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_both_ways_to_call_are_found() {
        let functions = ["keepq_a", "keepq_ab"].map(|name| Function {
            name: name.to_owned(),
            doc: String::new(),
            parameters: Vec::new(),
        });
        let text = "REFUSES(keepq_a, KEEPQ_E_X, (q, f(1, NULL), NULL)); OK(keepq_ab(NULL, &s));";
        let places = passed(text, &functions, "NULL");
        let expected = [("keepq_a".to_owned(), 2), ("keepq_ab".to_owned(), 0)];
        assert_eq!(places, BTreeSet::from(expected));
        let sizes = passed(text, &functions, "s");
        assert_eq!(sizes, BTreeSet::from([("keepq_ab".to_owned(), 1)]));
    }
}
