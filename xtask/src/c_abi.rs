//! What binary programs rest on: the exported symbols, and the layout of every struct, against the
//! committed lists; and that the headers can be included alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::c_tests::{Places, output_of};
use crate::header;

const SYMBOLS: &str = "bindings/c/abi/symbols.txt";
const LAYOUT: &str = "bindings/c/abi/layout-64.txt";
const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude"];

/// Compiler, language, standard, header.
const ALONE: [(&str, &str, &str, &str); 5] = [
    ("cc", "c", "c99", "keepq.h"),
    ("cc", "c", "c11", "keepq.h"),
    ("c++", "c++", "c++11", "keepq.h"),
    ("c++", "c++", "c++17", "keepq.h"),
    ("c++", "c++", "c++17", "keepq.hpp"),
];

/// Each header compiles alone, twice included, under the strictest warnings, with every `_INIT`.
pub(crate) fn headers_alone() -> Result<u64, String> {
    let mut checks = 0;
    for (compiler, language, standard, name) in ALONE {
        let mut source = format!("#include <{name}>\n#include <{name}>\n");
        for one in header::all_structs()? {
            if one.fields.first().is_some_and(|field| field == "size") {
                let init = one.name.to_uppercase();
                source += &format!("extern {0} x_{0};\n{0} x_{0} = {init}_INIT;\n", one.name);
            }
        }
        source += "int main(void) { return KEEPQ_CHECK_ABI(); }\n";
        let place = std::env::temp_dir().join(format!("keepq-header-{}", std::process::id()));
        std::fs::write(&place, source).map_err(|e| format!("{}: {e}", place.display()))?;
        let mut compile = Command::new(compiler);
        compile.args(STRICT).arg(format!("-std={standard}"));
        compile.args(["-fsyntax-only", "-x", language]).arg(&place);
        let compiled = output_of(&mut compile, &format!("{name} as {standard}"));
        let _ = std::fs::remove_file(&place);
        compiled?;
        checks += 1;
    }
    Ok(checks)
}

pub(crate) fn check(places: &Places) -> Result<u64, String> {
    let symbols = symbols(&places.prefix.join("lib/libkeepq.so"))?;
    let foreign = symbols.lines().find(|name| !name.starts_with("keepq_"));
    if let Some(name) = foreign {
        return Err(format!("libkeepq.so exports {name}; only keepq_* may be"));
    }
    let mut declared: Vec<_> = header::functions()?.into_iter().map(|f| f.name).collect();
    declared.sort();
    if symbols != lines(&declared) {
        return Err(format!(
            "libkeepq.so exports\n{symbols}and keepq.h declares\n{}",
            lines(&declared)
        ));
    }
    compare(SYMBOLS, &symbols)?;
    let layout = layout(places)?;
    compare(LAYOUT, &layout)?;
    Ok((symbols.lines().count() + layout.lines().count()) as u64)
}

/// Writes the committed lists anew.
pub(crate) fn write(places: &Places) -> Result<(), String> {
    let symbols = symbols(&places.prefix.join("lib/libkeepq.so"))?;
    for (path, text) in [(SYMBOLS, symbols), (LAYOUT, layout(places)?)] {
        std::fs::write(path, text).map_err(|e| format!("cannot write {path}: {e}"))?;
    }
    Ok(())
}

fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

fn compare(path: &str, found: &str) -> Result<(), String> {
    let committed = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    if committed == found {
        return Ok(());
    }
    let differs = |a: &str, b: &str| -> String {
        let only = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line));
        only.map(|line| format!("\n  {line}")).collect()
    };
    Err(format!(
        "the ABI is not what {path} says. Gone:{}\nNew:{}\n\
         Within a minor version only functions, and fields at the end of sized structs, may be \
         added; then run `cargo xtask abi`",
        differs(&committed, found),
        differs(found, &committed)
    ))
}

/// The symbols that the shared library exports, sorted.
fn symbols(library: &Path) -> Result<String, String> {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only", "--format=posix"]);
    let text = output_of(nm.arg(library), "listing symbols")?;
    let mut names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect();
    names.sort();
    Ok(lines(&names))
}

/// Size of each struct, offset and size of each of its fields, as the C compiler sees them.
fn layout(places: &Places) -> Result<String, String> {
    let mut source = String::from("#include <stdio.h>\n#include \"keepq.h\"\nint main(void) {\n");
    for one in header::all_structs()? {
        let name = &one.name;
        source += &format!("    printf(\"{name} %zu\\n\", sizeof({name}));\n");
        for field in &one.fields {
            source += &format!(
                "    printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), \
                 sizeof((({name} *)0)->{field}));\n"
            );
        }
    }
    source += "    return 0;\n}\n";
    let file = places.root.join("layout.c");
    let program: PathBuf = places.root.join("layout");
    std::fs::write(&file, source).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut compile = Command::new("cc");
    compile.args(["-std=c99", "-Iinclude", "-o"]);
    output_of(compile.arg(&program).arg(&file), "compiling layout.c")?;
    output_of(&mut Command::new(&program), "running layout")
}
