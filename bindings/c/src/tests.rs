//! The header against the engine's tables and this crate's constants.

use crate::*;
use engine::Code;
use std::ffi::CStr;

const HEADER: &str = include_str!("../../../include/keepq.h");

fn define(name: &str) -> Option<&'static str> {
    HEADER.lines().find_map(|line| {
        let (found, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        (found == name).then_some(value.trim())
    })
}

/// `NotAStore` -> `KEEPQ_E_NOT_A_STORE`.
fn constant(code: Code) -> String {
    let mut name = String::from("KEEPQ_E");
    for c in code.name().chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[test]
fn the_header_has_every_error_code_of_the_engine_and_no_other() {
    for &code in Code::ALL {
        let name = constant(code);
        assert_eq!(
            define(&name),
            Some(format!("-{}", code.number()).as_str()),
            "{name}"
        );
    }
    let defined = HEADER
        .lines()
        .filter(|l| l.starts_with("#define KEEPQ_E_"))
        .count();
    assert_eq!(defined, Code::ALL.len());
}

#[test]
fn the_header_has_the_version_of_the_package() {
    assert_eq!(
        define("KEEPQ_VERSION_MAJOR"),
        Some(env!("CARGO_PKG_VERSION_MAJOR"))
    );
    assert_eq!(
        define("KEEPQ_VERSION_MINOR"),
        Some(env!("CARGO_PKG_VERSION_MINOR"))
    );
    assert_eq!(
        define("KEEPQ_VERSION_PATCH"),
        Some(env!("CARGO_PKG_VERSION_PATCH"))
    );
}

#[test]
fn every_code_has_a_text_of_its_own() {
    let text = |rc| {
        // SAFETY: keepq_strerror gives a string that lasts for ever.
        unsafe { CStr::from_ptr(keepq_strerror(rc)) }
            .to_str()
            .unwrap()
    };
    for &code in Code::ALL {
        let rc = error::rc_of(code);
        assert_eq!(text(rc), format!("{} ({code})", code.name()));
    }
    assert_eq!(text(0), "done");
    assert_eq!(text(-1), "not a keepq return code");
    assert_eq!(text(i32::MIN), "not a keepq return code");
}

#[test]
fn a_panic_becomes_an_internal_error_with_its_words() {
    let rc = error::guard(|| panic!("on purpose"));
    assert_eq!(rc, KEEPQ_E_INTERNAL);
    // SAFETY: the string lasts until this thread's next failing call.
    let text = unsafe { CStr::from_ptr(keepq_last_message()) }
        .to_str()
        .unwrap();
    assert!(text.contains("on purpose"), "{text}");
}

/// The files of the functions that are exported.
const SOURCES: &[(&str, &str)] = &[
    ("browse", include_str!("browse.rs")),
    ("callbacks", include_str!("callbacks.rs")),
    ("error", include_str!("error.rs")),
    ("group", include_str!("group.rs")),
    ("msg", include_str!("msg.rs")),
    ("repair", include_str!("repair.rs")),
    ("report", include_str!("report.rs")),
    ("send", include_str!("send.rs")),
    ("settle", include_str!("settle.rs")),
    ("store", include_str!("store.rs")),
    ("topic", include_str!("topic.rs")),
];

/// These change nothing and have nothing that could panic.
const UNGUARDED: &[&str] = &[
    "keepq_last_error",
    "keepq_last_message",
    "keepq_strerror",
    "keepq_version",
];

#[test]
fn no_panic_of_any_function_comes_to_c() {
    let mut guarded = Vec::new();
    for (file, source) in SOURCES {
        for part in source.split("extern \"C\" fn ").skip(1) {
            let name = part.split('(').next().unwrap();
            if !name.starts_with("keepq_") {
                continue;
            }
            let body = part.split_once('{').unwrap().1;
            let body = body.split("\n}\n").next().unwrap();
            let is_guarded = ["guard(", "guard_value(", "read(m,"]
                .iter()
                .any(|call| body.contains(call));
            assert_eq!(
                is_guarded,
                !UNGUARDED.contains(&name),
                "{name} of {file}.rs"
            );
            guarded.push(name);
        }
    }
    // Each function that the header declares was looked at.
    let declared = HEADER
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']));
    let declared = declared
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("keepq_"));
    for name in declared {
        assert!(guarded.contains(&name), "{name} is in no file of SOURCES");
    }
}
