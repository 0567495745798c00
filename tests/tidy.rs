//! The rules of the source that a compiler does not know: imports go down only, unsafe code and
//! system calls stay where they belong, shared words change in few places, files and functions
//! stay short. Each rule names the line to change.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // It reads the source.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
/// Made from files that are short enough; a manual in one piece.
const GENERATED: [&str; 1] = ["include/keepq.h"];
const COLUMNS: usize = 100;

/// Where unsafe code may be. Every block has a SAFETY sentence, which is a lint.
const UNSAFE_PLACES: [&str; 5] = [
    "src/sys/",
    "src/shm/",
    "bindings/c/src/",
    "bindings/cli/src/bench/shared_word.rs",
    "benches/peers/src/peers/heed.rs",
];

/// Where files, clocks and sleeps may be: the seams, the simulator that replaces them, and what
/// is not the engine.
const OUTSIDE_PLACES: [&str; 8] = [
    "src/sys/",
    "src/sim/",
    "bindings/cli/",
    "xtask/",
    "tests/",
    "benches/",
    "bindings/c/src/tests",
    "bindings/c/examples/",
];

/// The rooms of the engine from the bottom up. A file imports from its own room or below; what is
/// not named here is a public handle, the top.
const ROOMS: [&[&str]; 6] = [
    &["error", "options"],
    &["format"],
    &["sys"],
    &["shm"],
    &["commitlog"],
    &["delivery"],
];

/// A source file: its path from the project's root, its text, and the same text with comments,
/// strings and inline unit tests blanked out, line by line.
struct Source {
    path: String,
    text: String,
    code: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for place in [
        "src", "bindings", "xtask", "tests", "benches", "include", "python",
    ] {
        collect(&root().join(place), &mut paths);
    }
    paths.sort();
    let sources: Vec<_> = paths.iter().map(|path| read(path)).collect();
    let rust = sources.iter().filter(|s| s.is_rust()).count();
    assert!(
        rust > 20,
        "only {rust} source files were found: the rules would prove nothing"
    );
    sources
}

fn collect(dir: &Path, to: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "target" {
            collect(&path, to);
        } else if let Some("rs" | "c" | "h" | "hpp" | "py" | "pyi") =
            path.extension().and_then(|extension| extension.to_str())
        {
            to.push(path);
        }
    }
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let path = path
        .strip_prefix(root())
        .unwrap()
        .to_str()
        .unwrap()
        .to_string();
    let mut code: Vec<String> = blanked(&text).lines().map(str::to_string).collect();
    if let Some(tests) = (1..code.len()).find(|&n| {
        code[n].starts_with("mod ") && code[n].ends_with('{') && code[n - 1].contains("cfg(test)")
    }) {
        code.truncate(tests - 1);
    }
    Source { path, text, code }
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// Unit tests in files of their own.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines whose code has one of these words, as `path:line`.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let hit = |line: &str| words.iter().any(|word| line.contains(word));
        let lines = self.code.iter().enumerate().filter(|(_, line)| hit(line));
        lines
            .map(|(n, line)| format!("{}:{}: {}", self.path, n + 1, line.trim()))
            .collect()
    }
}

/// The text with the contents of comments, strings and characters replaced by blanks.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = token_end(&chars, at);
        match end {
            Some(end) => {
                out.extend(
                    chars[at..end]
                        .iter()
                        .map(|&c| if c == '\n' { '\n' } else { ' ' }),
                );
                at = end;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment, string or character that begins here ends; None if none begins here.
fn token_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => Some(find(chars, at, &['\n'])),
        ('/', Some('*')) => Some(find(chars, at + 2, &['*', '/']) + 2),
        ('"', _) => Some(string_end(chars, at)),
        ('r', Some('"' | '#')) if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            if chars.get(at + 1 + hashes) != Some(&'"') {
                return None;
            }
            let mut close = vec!['"'];
            close.extend(std::iter::repeat_n('#', hashes));
            Some(find(chars, at + 2 + hashes, &close) + close.len())
        }
        ('\'', Some('\\')) => Some(find(chars, at + 3, &['\'']) + 1),
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
    .map(|end| end.min(chars.len()))
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut n = at + 1;
    while n < chars.len() && chars[n] != '"' {
        n += if chars[n] == '\\' { 2 } else { 1 };
    }
    n + 1
}

fn find(chars: &[char], from: usize, what: &[char]) -> usize {
    let from = from.min(chars.len());
    let found = chars[from..]
        .windows(what.len())
        .position(|window| window == what);
    found.map_or(chars.len(), |n| from + n)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn files_and_lines_stay_short() {
    let mut offences = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES && !GENERATED.contains(&source.path.as_str()) {
            offences.push(format!(
                "{}: {lines} lines, at most {FILE_LINES}",
                source.path
            ));
        }
        for (n, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS {
                offences.push(format!("{}:{}: {columns} columns", source.path, n + 1));
            }
        }
    }
    assert_none(
        "files have at most 600 lines of at most 100 columns",
        &offences,
    );
}

/// Functions of a file that are too long, as `path:line`.
fn long_functions(path: &str, code: &[String]) -> Vec<String> {
    let mut offences = Vec::new();
    for (start, line) in code.iter().enumerate() {
        let line = line.trim_start();
        let words: Vec<_> = line.split_whitespace().take(6).collect();
        let Some(position) = words.iter().position(|&word| word == "fn") else {
            continue;
        };
        let qualifiers = ["async", "const", "unsafe", "extern"];
        let known = |word: &&str| word.starts_with("pub") || qualifiers.contains(word);
        if !words[..position]
            .iter()
            .all(|word| known(word) || word.trim().is_empty())
        {
            continue;
        }
        let length = block_length(&code[start..]);
        if length > FUNCTION_LINES {
            offences.push(format!("{path}:{}: {length} lines", start + 1));
        }
    }
    offences
}

/// Lines up to the end of the block that begins here; 0 for a declaration without one.
fn block_length(code: &[String]) -> usize {
    let mut depth = 0i32;
    for (n, line) in code.iter().enumerate() {
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return n + 1;
                    }
                }
                ';' if depth == 0 && n == 0 => return 0,
                _ => {}
            }
        }
    }
    0
}

#[test]
fn functions_stay_short() {
    let sources = sources();
    let rust = sources.iter().filter(|source| source.is_rust());
    let offences: Vec<_> = rust
        .flat_map(|s| long_functions(&s.path, &s.code))
        .collect();
    assert_none("a function has at most 70 lines", &offences);
}

#[test]
fn nothing_is_left_undone_or_left_out() {
    let words = ["todo!", "unimplemented!", "#[ignore", "dbg!("];
    let sources = sources();
    let rust = sources.iter().filter(|source| source.is_rust());
    let offences: Vec<_> = rust.flat_map(|source| source.lines_with(&words)).collect();
    assert_none("nothing is a placeholder and no test is ignored", &offences);
    let python: Vec<_> = sources
        .iter()
        .filter(|source| source.path.ends_with(".py"))
        .flat_map(|source| source.lines_with(&["mark.skip", "mark.xfail", "pytest.skip("]))
        .collect();
    assert_none("no Python test is skipped", &python);
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| s.is_rust() && !s.path.starts_with("tests/"))
    {
        if !source.is_in(&UNSAFE_PLACES) {
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            offences.extend(source.lines_with(&words));
        }
    }
    assert_none(
        "unsafe code belongs into src/sys, src/shm and the C library",
        &offences,
    );
}

#[test]
fn files_and_clocks_are_reached_through_the_seams() {
    let words = [
        "std::fs",
        "Instant::now",
        "SystemTime",
        "thread::sleep",
        "File::open",
    ];
    let mut offences = Vec::new();
    for source in sources().iter().filter(|s| s.is_rust() && !s.is_test()) {
        if !source.is_in(&OUTSIDE_PLACES) {
            offences.extend(source.lines_with(&words));
        }
    }
    assert_none(
        "files, clocks and sleeps belong behind the seams in src/sys",
        &offences,
    );
}

#[test]
fn shared_words_change_only_in_shm_and_sys() {
    let mut words = Vec::new();
    for owner in ["arena", "arena()"] {
        for change in ["store", "swap", "cas", "fetch_add"] {
            words.push(format!("{owner}.{change}("));
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut offences = Vec::new();
    for source in sources()
        .iter()
        .filter(|s| s.path.starts_with("src/") && !s.is_test())
    {
        if !source.is_in(&["src/shm/", "src/sys/", "src/sim/"]) {
            offences.extend(source.lines_with(&words));
        }
    }
    assert_none(
        "a shared word changes through src/shm, where a crash is undone",
        &offences,
    );
}

/// The room of a module of the engine, 0 = the lowest.
fn room_of(module: &str) -> usize {
    ROOMS
        .iter()
        .position(|room| room.contains(&module))
        .unwrap_or(ROOMS.len())
}

/// The module of the engine that a file belongs to: `src/sys/at.rs` to `sys`.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    Some(inside.split(['/', '.']).next().unwrap_or(inside))
}

/// Which module declares each public type, for names that are imported from the crate's root.
fn homes(sources: &[Source]) -> HashMap<String, String> {
    let mut homes = HashMap::new();
    for source in sources.iter().filter(|s| s.path.starts_with("src/")) {
        let module = module_of(&source.path).unwrap();
        for line in &source.code {
            let words: Vec<_> = line
                .split(|c: char| !is_word(c))
                .filter(|w| !w.is_empty())
                .collect();
            if let ["pub", "struct" | "enum" | "trait" | "type" | "fn", name, ..] = words[..] {
                homes
                    .entry(name.to_string())
                    .or_insert_with(|| module.to_string());
            }
        }
    }
    homes
}

/// What a file names after `crate::`, single or in braces, one level deep.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let preceded = code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| is_word(c) || c == '$');
        if preceded {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 1;
                let mut word = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        c if depth == 1 && is_word(c) => word.push(c),
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        found.push(std::mem::take(&mut word));
                    } else if depth == 1 && c == ':' {
                        // Only the first name of a path counts; the comma resets.
                        found.push(std::mem::take(&mut word));
                        depth = 1;
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            None => found.push(rest.chars().take_while(|&c| is_word(c)).collect()),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_go_down_only() {
    let sources = sources();
    let homes = homes(&sources);
    let mut offences = Vec::new();
    let mut seen = 0;
    for source in sources
        .iter()
        .filter(|s| s.path.starts_with("src/") && !s.is_test())
    {
        let module = module_of(&source.path).unwrap();
        if ["lib", "sim"].contains(&module) {
            continue;
        }
        for name in imports(&source.code.join("\n")) {
            let is_room = ROOMS.concat().contains(&name.as_str());
            let target = if is_room {
                Some(&name)
            } else {
                homes.get(&name)
            };
            let Some(target) = target.filter(|target| *target != "sim") else {
                continue;
            };
            seen += 1;
            if room_of(target) > room_of(module) {
                offences.push(format!("{}: crate::{name} is in {target}", source.path));
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} imports were seen: the rule would prove nothing"
    );
    assert_none(
        "imports go down: handles, delivery, commitlog, shm, sys, format",
        &offences,
    );
}

#[test]
fn no_place_of_a_machine_is_named() {
    let places = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()];
    let mut paths = Vec::new();
    for place in ["", "docs", ".ci", ".cargo"] {
        for entry in fs::read_dir(root().join(place)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let kind = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            if path.is_file() && ["md", "toml", "", "yml"].contains(&kind) {
                paths.push(path);
            }
        }
    }
    let mut texts: Vec<(String, String)> = sources()
        .into_iter()
        .map(|source| (source.path, source.text))
        .collect();
    texts.extend(paths.iter().map(|path| {
        (
            path.display().to_string(),
            String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned(),
        )
    }));
    let mut offences = Vec::new();
    for (path, text) in texts {
        for place in &places {
            if let Some(at) = text.find(place.as_str()) {
                let line = text[..at].lines().count();
                offences.push(format!("{path}:{line}: {place}"));
            }
        }
    }
    assert_none("the project knows no place of a machine", &offences);
}

/// The cells of the rows of a table, without its first two lines.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.map(|line| cells(line.trim_matches('|'))).collect()
}

#[test]
fn each_cell_of_the_guarantees_names_tests_that_exist() {
    let text = read(&root().join("docs/GUARANTEES.md")).text;
    let parts: Vec<&str> = text.split("| call that returned |").collect();
    let [_, promises, tests] = parts.as_slice() else {
        panic!("the guarantees are two tables, one of promises and one of tests");
    };
    let end = tests.find("| promise |").unwrap();
    let (promises, tests) = (rows(promises), rows(&tests[..end]));
    let sources = sources();
    let exists = |name: &str| {
        let (file, test) = name.split_once(' ').unwrap_or((name, ""));
        let mut homes = sources.iter().filter(|source| {
            source.path == format!("tests/{file}.rs")
                || source.path.starts_with(&format!("tests/{file}/"))
        });
        homes.any(|home| test.is_empty() || home.text.contains(&format!("fn {test}(")))
    };
    let mut offences = Vec::new();
    for row in &promises {
        let tested = tests.iter().find(|tested| tested[0] == row[0]);
        let Some(tested) = tested.filter(|tested| tested.len() == row.len()) else {
            offences.push(format!("{}: its tests are not named", row[0]));
            continue;
        };
        for (promise, cell) in row.iter().zip(tested).skip(1) {
            let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            if named.is_empty() && promise != "-" {
                offences.push(format!("{}: {promise:?} has no test", row[0]));
            }
            let missing = named.into_iter().filter(|name| !exists(name));
            offences.extend(missing.map(|name| format!("{}: no test {name}", row[0])));
        }
    }
    assert!(promises.len() > 5);
    assert_none("every cell of docs/GUARANTEES.md has a test", &offences);
}

#[test]
fn the_rules_see_what_they_look_for() {
    let code = blanked("a /* unsafe { */ \"todo!\" 'x' '\\'' r#\"std::fs\"# b // dbg!(\nc");
    for hidden in ["unsafe", "todo", "std", "dbg"] {
        assert!(!code.contains(hidden), "{code}");
    }
    assert!(
        code.contains('a') && code.contains('b') && code.ends_with('c'),
        "{code}"
    );
    assert_eq!(
        blanked("fn f<'a>(x: &'a str) {}"),
        "fn f<'a>(x: &'a str) {}"
    );

    let mut long = vec!["    pub(crate) fn f() {".to_string()];
    long.extend(std::iter::repeat_n(String::new(), FUNCTION_LINES));
    long.push("    }".to_string());
    assert_eq!(long_functions("x.rs", &long).len(), 1);
    long.drain(1..4);
    assert!(long_functions("x.rs", &long).is_empty());

    assert_eq!(
        imports("use crate::shm::lock; use crate::{sys::Disk, Error};"),
        ["shm", "sys", "Disk", "Error"]
    );
    assert!(room_of("format") < room_of("sys") && room_of("store") > room_of("delivery"));
    assert_eq!(module_of("src/sys/at.rs"), Some("sys"));
    assert_eq!(module_of("src/store.rs"), Some("store"));
}
