//! The tarball of `cargo xtask dist` in a bare Debian 13.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

#[test]
fn the_tarball_works_in_a_bare_debian_13_as_an_ordinary_user() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["dist", "--check", "--no-build"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    // The user, the release, and what a sandbox printed.
    for line in ["1000", "debian 13", "from process 1", "status 3", "written"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
