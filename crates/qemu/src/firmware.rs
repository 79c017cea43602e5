//! Where QEMU's firmware is.
//!
//! QEMU looks for it where it was configured to, or beside its own program; Debian's QEMU 10 does
//! only the former. So one that was unpacked elsewhere, or copied, may find none, and then has to be
//! given a directory.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The firmware of `microvm` without ACPI (QEMU `hw/i386/microvm.c`, `MICROVM_QBOOT_FILENAME`).
const FIRMWARE: &str = "qboot.rom";

/// Where distributions have it.
const USUAL_DIRECTORIES: [&str; 2] = ["/usr/share/qemu", "/usr/local/share/qemu"];

/// The directory to name to the QEMU at `program`; `None` if it finds its firmware by itself, or if
/// there is none, which QEMU then says.
///
/// # Blocking
/// Runs the program, which takes 11 ms.
pub(crate) fn directory(program: &Path) -> Option<PathBuf> {
    if own_directories(program).iter().any(|path| has_it(path)) {
        return None;
    }
    let beside = program.parent()?.join("../share/qemu");
    std::iter::once(beside)
        .chain(USUAL_DIRECTORIES.map(PathBuf::from))
        .find(|path| has_it(path))
}

fn has_it(directory: &Path) -> bool {
    directory.join(FIRMWARE).is_file()
}

/// Where it looks by itself, one directory a line.
fn own_directories(program: &Path) -> Vec<PathBuf> {
    let asked = Command::new(program)
        .args(["-L", "help"])
        .env_clear()
        .stdin(Stdio::null())
        .output();
    let text = asked.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A program in `dir/bin` that looks for firmware in `own`.
    fn program(dir: &Path, own: &Path) -> PathBuf {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join("qemu");
        fs::write(&path, format!("#!/bin/sh\necho '{}'\n", own.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn firmware_beside_a_program_is_named_unless_it_finds_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("share/qemu");
        fs::create_dir_all(&share).unwrap();
        fs::write(share.join(FIRMWARE), b"rom").unwrap();
        let lost = program(dir.path(), Path::new("/nonexistent"));
        let found = directory(&lost).unwrap();
        assert_eq!(found.canonicalize().unwrap(), share.canonicalize().unwrap());
        let knowing = program(dir.path(), &share);
        assert_eq!(directory(&knowing), None);
    }
}
