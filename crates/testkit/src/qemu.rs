//! The QEMU of the tests: the one that `COFFER_QEMU` names, else the one in `PATH`; and programs
//! around it that behave otherwise.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

const NAME: &str = "qemu-system-x86_64";

/// The path of the QEMU program, if there is one.
#[must_use]
pub fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("COFFER_QEMU").filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(NAME))
        .find(|path| path.is_file())
}

/// The path of the QEMU program.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn program() -> PathBuf {
    find().unwrap_or_else(|| panic!("`{NAME}` is not in PATH"))
}

/// A command that runs QEMU, which finds its firmware wherever it was unpacked.
///
/// # Panics
/// When there is no QEMU.
#[must_use]
pub fn command() -> Command {
    let program = program();
    let mut command = Command::new(&program);
    let data = program.parent().map(|parent| parent.join("../share/qemu"));
    if let Some(data) = data.filter(|data| data.join("qboot.rom").is_file()) {
        command.arg("-L").arg(data);
    }
    command
}

/// A copy of QEMU's program below `directory`, which is made. Its firmware is where QEMU's is.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn copied(directory: &Path) -> PathBuf {
    fs::create_dir(directory).expect("the directory is the test's own");
    let path = place(directory);
    fs::copy(program(), &path).expect("the directory is the test's own");
    path
}

/// The path of a program in `directory` that finds QEMU's firmware and modules.
fn place(directory: &Path) -> PathBuf {
    let bin = directory.join("bin");
    fs::create_dir(&bin).expect("the directory is the test's own");
    let qemu = program();
    // Its firmware and its modules; a build without one of them has no such directory.
    for name in ["share", "lib"] {
        let there = qemu.parent().map(|parent| parent.join("..").join(name));
        if let Some(there) = there.and_then(|path| path.canonicalize().ok()) {
            symlink(there, directory.join(name)).expect("the directory is the test's own");
        }
    }
    bin.join(NAME)
}

/// A program in `directory` that runs `script`, which may change its arguments, and then becomes
/// QEMU with them. Its firmware is where QEMU's is.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn wrapped(directory: &Path, script: &str) -> PathBuf {
    let path = place(directory);
    let text = format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", program().display());
    fs::write(&path, text).expect("the directory is the test's own");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is the test's own");
    path
}
