//! Tests that cannot run everywhere: without root, a tool or a mount they are skipped.
//!
//! `cargo xtask test` sets `COFFER_REQUIRE=all`, and then a skip is a failure. With another value
//! it counts them by the file that `COFFER_SKIPS` names: runners show no output of a test that
//! passes.

use std::{fs::File, io::Write as _};

/// Whether every test has to run.
const REQUIRE: &str = "COFFER_REQUIRE";

/// A file that gets a line for each skip.
const SKIPS: &str = "COFFER_SKIPS";

/// Says that the test of this thread is skipped and why; the test then returns.
///
/// # Panics
/// When every test has to run.
#[allow(clippy::print_stdout, reason = "a skipped test says why")]
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let require = std::env::var_os(REQUIRE);
    assert!(
        require.is_none_or(|what| what != "all"),
        "{test} cannot run: {reason} ({REQUIRE} is `all`)"
    );
    let line = format!("SKIP {test}: {reason}");
    println!("{line}");
    if let Some(path) = std::env::var_os(SKIPS) {
        let mut file = File::options().append(true).create(true).open(path);
        let file = file.as_mut().expect("the file of skips is writable");
        // One write is one line, also beside other tests.
        let line = format!("{line}\n");
        file.write_all(line.as_bytes())
            .expect("the file of skips is writable");
    }
}
