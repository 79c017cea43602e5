//! Programs of the tests' own that run in guests: one source file each, made static by `rustc`.
//!
//! They are no part of the workspace and use the standard library alone, so that no image has to
//! bring a library for them.

use std::{fs, path::Path, process::Command};

/// The program that `source` is, ready for any x86-64 Linux.
pub(crate) fn compile(source: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [path, program] = ["program.rs", "program"].map(|name| dir.path().join(name));
    fs::write(&path, source).unwrap();
    let output = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args(["--edition", "2024", "--crate-name", "program", "-O"])
        .args(["-C", "target-feature=+crt-static"])
        .args(["-C", "relocation-model=static"])
        .args(["-C", "strip=symbols", "-C", "panic=abort", "-o"])
        .args([&program, &path])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    fs::read(program).unwrap()
}
