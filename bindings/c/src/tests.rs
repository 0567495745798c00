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
        assert!(text(rc).contains(code.name()), "{}", text(rc));
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
