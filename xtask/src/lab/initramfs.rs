//! What runs in the lab before the command: modules, mounts, and then the command itself.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::kernel::Module;
use crate::{cpio::Archive, qemu::Qemu, workspace};

/// PID 1.
const INIT: &[u8] = include_bytes!("init.sh");

/// Directories that are mounted on.
const DIRECTORIES: &[&str] = &[
    "dev", "proc", "sys", "host", "layer", "root", "modules", "bin",
];

/// Variables of ours that the command gets too: who it is, and where cargo's things are.
const ENVIRONMENT: &[&str] = &[
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "HOME",
    "LANG",
    "PATH",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
];

/// The archive that boots into `command`, a shell script.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn pack(busybox: &Path, modules: &[Module], command: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    archive.char_device("dev/console", 5, 1)?;
    archive.executable("init", INIT)?;
    archive.executable("bin/busybox", &read(busybox)?)?;
    let mut load = Vec::new();
    for (index, module) in modules.iter().enumerate() {
        let name = format!("modules/{index}.ko");
        archive.executable(&name, &read(&module.path)?)?;
        load.extend_from_slice(format!("insmod /{name} {}\n", module.parameters).as_bytes());
    }
    archive.executable("load-modules", &load)?;
    archive.executable("command", command)?;
    archive.finish()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Could not read `{}`", path.display()))
}

/// Variables that the command gets: ours, with `qemu` for what it starts.
///
/// # Errors
/// When the path of QEMU cannot stand in `PATH`.
pub(super) fn environment(qemu: &Qemu) -> Result<Vec<(OsString, OsString)>> {
    let mut command = Command::new("env");
    let ours = ENVIRONMENT.iter();
    command.envs(ours.filter_map(|name| Some((name, env::var_os(name)?))));
    qemu.apply(&mut command)?;
    let set = command.get_envs();
    Ok(set
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect())
}

/// A shell script that becomes the command, in our directory and with this environment.
pub(super) fn script(environment: &[(OsString, OsString)], command: &[OsString]) -> Vec<u8> {
    let mut text = b"cd ".to_vec();
    text.extend(quoted(workspace::root().as_os_str()));
    text.extend_from_slice(b" && exec env -i COFFER_HOME=/scratch/coffer TMPDIR=/scratch/tmp");
    for (name, value) in environment {
        let mut word = name.clone();
        word.push("=");
        word.push(value);
        text.push(b' ');
        text.extend(quoted(&word));
    }
    for word in command {
        text.push(b' ');
        text.extend(quoted(word));
    }
    text.push(b'\n');
    text
}

/// A word as a shell reads it back. Source: POSIX shell, 2.2.2 Single-Quotes.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_shell_reads_words_back_as_they_were() {
        let words = ["a b", "it's", "$(x)", "", "\\", "new\nline"].map(OsString::from);
        let mut text = b"printf '%s|'".to_vec();
        for word in &words {
            text.push(b' ');
            text.extend(quoted(word));
        }
        let output = Command::new("sh")
            .arg("-c")
            .arg(OsString::from_vec(text))
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"a b|it's|$(x)||\\|new\nline|");
    }
}
