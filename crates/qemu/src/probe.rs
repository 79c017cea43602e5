//! Which QEMU is here.
//!
//! Asking the program costs 11 ms, nearly all of it dynamic linking, so the answer is kept in a
//! file beside the identity of the program that gave it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cofferdam_backend::{Error, ErrorKind, Result};
use cofferdam_base::{env_vars, fs as files};
use serde::{Deserialize, Serialize};

use crate::firmware;

/// The program's name; its directories are those of `PATH`, then the usual ones.
const PROGRAM: &str = "qemu-system-x86_64";
const USUAL_DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// The first version whose `microvm` machine, JSON devices and socket options are the ones used.
const OLDEST: Version = Version { major: 7, minor: 2 };

/// The kept answer is a few hundred bytes.
const KEPT_LIMIT: u64 = 4096;

/// A QEMU version; the third number never changes what is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) major: u16,
    pub(crate) minor: u16,
}

/// A QEMU that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
    /// As printed, with the distribution's suffix.
    pub(crate) version_text: String,
    /// Device, inode, size, modification time: another program has another one.
    pub(crate) identity: String,
    /// Where its firmware is, if it has to be named.
    pub(crate) firmware: Option<PathBuf>,
}

impl Program {
    /// Finds the program; `kept` is where its answers are kept between processes.
    pub(crate) fn find(asked: Option<&Path>, kept: Option<&Path>) -> Result<Self> {
        let path = match asked {
            Some(path) => path.to_owned(),
            None => look_up().ok_or_else(missing)?,
        };
        let identity = identity(&path)?;
        if let Some(program) = kept.and_then(|kept| recall(kept, &path, &identity)) {
            return Ok(program);
        }
        let program = ask(path, identity)?;
        if let Some(kept) = kept {
            // Keeping it only saves time, so a failure to keep it harms nothing.
            let _ = files::publish_json(kept, &program, false);
        }
        Ok(program)
    }
}

/// The command that installs QEMU on Debian's family, where the package split is known.
pub(crate) const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";

fn missing() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("`{PROGRAM}` is not installed"),
    )
    .hint(format!(
        "Install it: `{INSTALL}`, or name one with `COFFER_QEMU`"
    ))
}

fn look_up() -> Option<PathBuf> {
    let path = env_vars::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(USUAL_DIRECTORIES.map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(PROGRAM))
        .find(|candidate| candidate.is_file())
}

fn identity(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).map_err(|error| {
        Error::new(
            ErrorKind::Unavailable,
            format!("`{}` cannot be examined", path.display()),
        )
        .because(error)
        .hint("`COFFER_QEMU` names the QEMU program to use")
    })?;
    Ok(format!(
        "{}-{}-{}-{}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

fn recall(kept: &Path, path: &Path, identity: &str) -> Option<Program> {
    let program: Program = files::read_json(kept, KEPT_LIMIT).ok()?;
    (program.path == path && program.identity == identity).then_some(program)
}

fn ask(path: PathBuf, identity: String) -> Result<Program> {
    let unusable = |what: String| Error::new(ErrorKind::Unavailable, what);
    // `-sandbox` is refused, before `-version` is seen, by a QEMU built without seccomp.
    let output = Command::new(&path)
        .args(["-sandbox", "on", "-version"])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| unusable(format!("`{}` cannot be run", path.display())).because(error))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(unusable(format!(
            "`{}` does not run here: {}",
            path.display(),
            stderr.lines().next_back().unwrap_or("no message").trim()
        ))
        .hint("Install a QEMU built with seccomp support, as distributions do"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (version, version_text) = parse_version(&text)
        .ok_or_else(|| unusable(format!("`{}` does not tell a QEMU version", path.display())))?;
    if version < OLDEST {
        return Err(unusable(format!(
            "QEMU `{version_text}` is too old; {}.{} is the oldest that works",
            OLDEST.major, OLDEST.minor
        ))
        .hint(format!("Install a newer one: `{INSTALL}`")));
    }
    Ok(Program {
        firmware: firmware::directory(&path),
        path,
        version,
        version_text,
        identity,
    })
}

/// Reads `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
fn parse_version(text: &str) -> Option<(Version, String)> {
    let full = text.lines().next()?.split("version ").nth(1)?.trim();
    let mut numbers = full.split(['.', ' ']).map(str::parse);
    let version = Version {
        major: numbers.next()?.ok()?,
        minor: numbers.next()?.ok()?,
    };
    Some((version, full.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, version: &str) -> PathBuf {
        let path = dir.join("qemu");
        let script = format!(
            "#!/bin/sh\ncase $* in *-version) echo run >>{}/runs; echo '{version}';; esac\n",
            dir.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        let (version, text) = parse_version(debian).unwrap();
        assert_eq!((version.major, version.minor), (7, 2));
        assert_eq!(text, "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)");
        let (version, _) = parse_version("QEMU emulator version 10.0.2").unwrap();
        assert_eq!((version.major, version.minor), (10, 0));
        assert!(parse_version("something else").is_none());
    }

    #[test]
    fn an_old_qemu_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "QEMU emulator version 6.2.0");
        let error = Program::find(Some(&path), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("6.2.0"));
    }

    #[test]
    fn a_kept_answer_serves_until_the_program_changes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept.json");
        let runs = || fs::read_to_string(dir.path().join("runs")).unwrap().len() / 4;
        let path = program(dir.path(), "QEMU emulator version 8.0.0");
        Program::find(Some(&path), Some(&kept)).unwrap();
        Program::find(Some(&path), Some(&kept)).unwrap();
        assert_eq!(runs(), 1);
        program(dir.path(), "QEMU emulator version 9.10.0");
        let found = Program::find(Some(&path), Some(&kept)).unwrap();
        assert_eq!((found.version.major, runs()), (9, 2));
    }

    #[test]
    fn a_missing_program_is_unavailable() {
        let error = Program::find(Some(Path::new("/nonexistent/qemu")), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
