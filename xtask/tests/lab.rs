//! The lab: a sandbox by KVM runs and is forked in it, and it leaves nothing.
//!
//! Off unless `COFFER_LAB_TEST` is set; CONTRIBUTING.md says why.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a test that is switched off says so")]

use std::{env, ffi::OsString, fs, path::Path, process::Command};

#[test]
fn a_sandbox_runs_and_forks_by_kvm_in_the_lab_and_the_lab_leaves_nothing() {
    if env::var_os("COFFER_LAB_TEST").is_none() {
        println!("SKIP: `COFFER_LAB_TEST` is not set");
        return;
    }
    let before = machines();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "--check"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("\nstatus 137\n"), "{text}");
    assert_eq!(machines(), before, "the lab left files");
}

/// Directories of labs that run, or were killed.
fn machines() -> Vec<OsString> {
    let lab = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("lab");
    let entries = fs::read_dir(lab).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("machine-"))
        .collect()
}
