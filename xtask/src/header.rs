//! `include/keepq.h`, generated from the C library's source and committed.

pub(crate) const HEADER: &str = "include/keepq.h";
const LIBRARY: &str = "bindings/c";
const CONFIG: &str = "bindings/c/cbindgen.toml";

fn generate() -> Result<Vec<u8>, String> {
    let config = cbindgen::Config::from_file(CONFIG)?;
    let bindings = cbindgen::Builder::new()
        .with_crate(LIBRARY)
        .with_config(config)
        .generate()
        .map_err(|e| format!("cannot read {LIBRARY}: {e}"))?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    Ok(text)
}

pub(crate) fn write() -> Result<(), String> {
    std::fs::write(HEADER, generate()?).map_err(|e| format!("cannot write {HEADER}: {e}"))
}

/// Whether the committed header is what the source says, and has a macro for each sized struct.
pub(crate) fn check() -> Result<u64, String> {
    let committed = std::fs::read(HEADER).map_err(|e| format!("cannot read {HEADER}: {e}"))?;
    if committed != generate()? {
        return Err(format!(
            "{HEADER} is not what {LIBRARY} says: run `cargo xtask header`"
        ));
    }
    let text = String::from_utf8_lossy(&committed);
    let sized = structs(&text);
    let sized = sized
        .iter()
        .filter(|s| s.fields.first().is_some_and(|f| f == "size"));
    let mut checks = 1;
    for one in sized {
        let name = one.name.to_uppercase();
        if !text.contains(&format!("#define {name}_INIT ")) {
            return Err(format!("{HEADER} has no {name}_INIT"));
        }
        checks += 1;
    }
    Ok(checks)
}

/// A function that the header declares.
pub(crate) struct Function {
    pub(crate) name: String,
    /// Its comment, without the slashes.
    pub(crate) doc: String,
    pub(crate) parameters: Vec<Parameter>,
}

/// A parameter of a function: `const char *topic`.
#[derive(Debug, PartialEq)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    declared: String,
}

impl Parameter {
    /// Its type without `const` and `struct`: `keepq_sent *`.
    pub(crate) fn plain_type(&self) -> String {
        let words = self.declared.split(' ');
        let plain: Vec<&str> = words.filter(|w| *w != "const" && *w != "struct").collect();
        plain.join(" ")
    }

    pub(crate) fn is_pointer(&self) -> bool {
        self.declared.contains('*')
    }
}

/// A struct that the header defines.
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<String>,
}

fn text() -> Result<String, String> {
    std::fs::read_to_string(HEADER).map_err(|e| format!("cannot read {HEADER}: {e}"))
}

/// The functions of the committed header.
pub(crate) fn functions() -> Result<Vec<Function>, String> {
    let found = functions_in(&text()?);
    if found.len() < 20 {
        return Err(format!("{HEADER} shows only {} functions", found.len()));
    }
    Ok(found)
}

/// The structs of the committed header.
pub(crate) fn all_structs() -> Result<Vec<Struct>, String> {
    let found = structs(&text()?);
    if found.len() < 5 {
        return Err(format!("{HEADER} shows only {} structs", found.len()));
    }
    Ok(found)
}

fn functions_in(text: &str) -> Vec<Function> {
    let (mut found, mut doc) = (Vec::new(), Vec::new());
    for (line, rest) in text.lines().zip(rests(text)) {
        if let Some(comment) = line.strip_prefix("//") {
            doc.push(comment.trim_start().to_owned());
            continue;
        }
        if let Some(name) = declared(line) {
            found.push(Function {
                name,
                doc: doc.join("\n"),
                parameters: parameters(rest),
            });
        }
        doc.clear();
    }
    found
}

/// For each line, the text from its beginning on.
fn rests(text: &str) -> impl Iterator<Item = &str> {
    let begins = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
    begins.map(move |at| &text[at..])
}

/// The parameters of the function whose declaration begins here.
fn parameters(declaration: &str) -> Vec<Parameter> {
    let inside = declaration.split_once('(').map_or("", |(_, rest)| rest);
    let inside = inside.split_once(");").map_or("", |(inside, _)| inside);
    let parameters = inside.split(',').filter_map(|one| {
        let words: Vec<&str> = one.split_whitespace().collect();
        let text = words.join(" ");
        let at = text.rfind([' ', '*'])? + 1;
        Some(Parameter {
            name: text[at..].to_owned(),
            declared: text[..at].trim_end().to_owned(),
        })
    });
    parameters.collect()
}

/// The name of the function whose declaration begins here.
fn declared(line: &str) -> Option<String> {
    let (before, _) = line.split_once('(')?;
    let starts_here = !line.starts_with([' ', '#', '/', '*']) && !line.starts_with("typedef");
    let name = before.rsplit([' ', '*']).next()?;
    (starts_here && name.starts_with("keepq_")).then(|| name.to_owned())
}

fn structs(text: &str) -> Vec<Struct> {
    let (mut found, mut open) = (Vec::new(), None::<Struct>);
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("typedef struct ") {
            open = rest.strip_suffix(" {").map(|name| Struct {
                name: name.to_owned(),
                fields: Vec::new(),
            });
        } else if line.starts_with('}') {
            found.extend(open.take());
        } else if let (Some(one), Some(field)) = (&mut open, line.strip_suffix(';')) {
            let name = field.split('[').next().unwrap_or(field);
            let name = name.rsplit([' ', '*']).next().unwrap_or(name);
            one.fields.push(name.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_and_their_comments_are_found() {
        let text = "// Of another.\ntypedef int x;\n\n// One.\n//\n// Errors: KEEPQ_E_X.\n\
                    keepq_rc keepq_a(int a,\n                 int b);\n\
                    const char *keepq_b(void);\n";
        let found = functions_in(text);
        let names: Vec<_> = found.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["keepq_a", "keepq_b"]);
        assert_eq!(found[0].doc, "One.\n\nErrors: KEEPQ_E_X.");
        assert_eq!(found[1].doc, "");
        assert_eq!(found[0].parameters.len(), 2);
        let text = "keepq_rc keepq_c(const struct keepq_msg *m,\n    keepq_sent *out, int n);\n";
        let found = functions_in(text);
        let types: Vec<_> = found[0]
            .parameters
            .iter()
            .map(Parameter::plain_type)
            .collect();
        assert_eq!(types, ["keepq_msg *", "keepq_sent *", "int"]);
        assert_eq!(found[0].parameters[1].name, "out");
        assert!(found[0].parameters[1].is_pointer() && !found[0].parameters[2].is_pointer());
    }

    #[test]
    fn structs_and_their_fields_are_found() {
        let text = "typedef struct keepq keepq;\ntypedef struct a {\n    // It.\n    size_t size;\n\
                    const char *const *tags;\n    char id[24];\n} a;\n";
        let found = structs(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "a");
        assert_eq!(found[0].fields, ["size", "tags", "id"]);
    }
}
