//! Rules for single Rust files.

use super::{Finding, Source, layers::Table};

/// Lines without tests above which a file should be split.
const SOFT_LINES: usize = 400;

/// Lines without tests above which it must be.
const HARD_LINES: usize = 800;

/// A line that exempts a file of data or generated code from the limits.
const TABLE_MARKER: &str = "// tidy: table";

/// What no file may have, and why. Written in two parts for this file is checked too.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("#[", "ignore"), "a test runs or does not exist"),
    (concat!("to", "do!("), "what is not done is a typed error"),
    (
        concat!("un", "implemented!("),
        "what is not done is a typed error",
    ),
];

/// What no test may have, and why.
const FORBIDDEN_IN_TESTS: &[(&str, &str)] = &[
    (concat!("thread::", "sleep("), "wait for the event"),
    (concat!("time::", "sleep("), "wait for the event"),
];

/// Stands, with the reason, above a line of a test in which time is to pass and is no event in
/// disguise: a moment chosen at random, the pace of a program in the guest.
const TIME_MARKER: &str = "// Time, on purpose: ";

/// How a crate lets itself have unsafe code.
const UNSAFE_ALLOWED: &[&str] = &[
    concat!("allow(", "unsafe_code"),
    concat!("expect(", "unsafe_code"),
];

/// Checks a file; findings only for Rust.
pub(super) fn check(table: &Table, file: &Source) -> Vec<Finding> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !file.text.starts_with("//!") {
        findings.push(Finding::error(&file.path, "does not start with `//!`"));
    }
    findings.extend(check_length(file));
    let mut on_purpose = false;
    for (number, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, number + 1);
        let in_test = number >= first_test_line(file) && !on_purpose;
        on_purpose = line.trim_start().starts_with(TIME_MARKER);
        findings.extend(check_line(table, file, &place, line, in_test));
    }
    findings
}

fn check_length(file: &Source) -> Option<Finding> {
    let lines = first_test_line(file).min(file.text.lines().count());
    if lines <= SOFT_LINES || file.text.lines().any(|line| line == TABLE_MARKER) {
        return None;
    }
    let message = format!("has {lines} lines without tests; split it by story");
    Some(if lines > HARD_LINES {
        Finding::error(&file.path, message)
    } else {
        Finding::warning(&file.path, message)
    })
}

fn check_line(
    table: &Table,
    file: &Source,
    place: &str,
    line: &str,
    in_test: bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tests_only = if in_test { FORBIDDEN_IN_TESTS } else { &[] };
    for (pattern, reason) in FORBIDDEN.iter().chain(tests_only) {
        if line.contains(pattern) {
            findings.push(Finding::error(place, format!("has `{pattern}`: {reason}")));
        }
    }
    if UNSAFE_ALLOWED.iter().any(|pattern| line.contains(pattern))
        && !crate_of(&file.path).is_some_and(|name| table.with_unsafe.iter().any(|one| one == name))
    {
        findings.push(Finding::error(
            place,
            "allows unsafe code, which is for other crates",
        ));
    }
    findings
}

/// Index of the first line that is of tests only: 0 in a `tests` folder, the number of lines in
/// a file without tests.
fn first_test_line(file: &Source) -> usize {
    if file
        .path
        .split('/')
        .any(|part| part == "tests" || part == "tests.rs")
    {
        return 0;
    }
    let mut lines = file.text.lines().enumerate();
    lines
        .find(|(_, line)| line.trim_start().starts_with("#[cfg(test)]"))
        .map_or(usize::MAX, |(number, _)| number)
}

/// The folder name of the crate that `path` is in.
fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let table = Table::parse("unsafe = [\"vm\"]\n[crate]\n[external]\n").unwrap();
        let file = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&table, &file)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_file_starts_with_its_purpose() {
        assert_eq!(messages("crates/net/src/a.rs", "//! What.\n"), [""; 0]);
        assert_eq!(
            messages("crates/net/src/a.rs", "use std::fs;\n"),
            ["does not start with `//!`"]
        );
    }

    #[test]
    fn lines_of_tests_do_not_count() {
        let code = "fn a() {}\n".repeat(SOFT_LINES - 1);
        let tests = format!("#[cfg(test)]\nmod tests {{}}\n{code}");
        assert_eq!(
            messages("crates/net/src/a.rs", &format!("//! W.\n{code}{tests}")),
            [""; 0]
        );
        assert_eq!(
            messages("crates/net/src/a.rs", &format!("//! W.\n{code}{code}")).len(),
            1
        );
    }

    #[test]
    fn a_table_may_be_long() {
        let code = "fn a() {}\n".repeat(HARD_LINES * 2);
        let text = format!("//! What.\n{TABLE_MARKER}\n{code}");
        assert_eq!(messages("crates/net/src/a.rs", &text), [""; 0]);
    }

    #[test]
    fn tests_that_sleep_are_found_and_code_that_sleeps_is_not() {
        let pause = FORBIDDEN_IN_TESTS[0].0;
        let code = format!("//! What.\nfn a() {{ {pause}x) }}\n");
        assert_eq!(messages("crates/net/src/a.rs", &code), [""; 0]);
        assert_eq!(messages("crates/net/tests/a.rs", &code).len(), 1);
        let meant = format!("//! What.\n// Time, on purpose: a moment.\n{pause}x);\n{pause}y);\n");
        assert_eq!(messages("crates/net/tests/a.rs", &meant).len(), 1);
        let tests = format!("//! What.\n#[cfg(test)]\nmod tests {{ {pause}x) }}\n");
        assert_eq!(messages("crates/net/src/a.rs", &tests).len(), 1);
    }

    #[test]
    fn each_forbidden_pattern_is_found() {
        for (pattern, _) in FORBIDDEN {
            assert_eq!(
                messages("crates/net/src/a.rs", &format!("//! What.\n{pattern}\n")).len(),
                1
            );
        }
    }

    #[test]
    fn only_some_crates_allow_unsafe_code() {
        let text = format!("//! What.\n#![{})]\n", UNSAFE_ALLOWED[0]);
        assert_eq!(messages("crates/vm/src/lib.rs", &text), [""; 0]);
        assert_eq!(messages("crates/net/src/lib.rs", &text).len(), 1);
        assert_eq!(messages("xtask/src/main.rs", &text).len(), 1);
    }
}
