//! A QEMU of a version that is asked for, unpacked from Debian's packages below `target/qemu/`.
//!
//! No QEMU package is installed or removed, and apt's configuration stays as it is: the packages
//! come through a package index of our own. QEMU finds its data beside its program. Only libraries
//! that the machine lacks are installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::version::{PACKAGE, Series, libraries, newest, parts, suite, versions};
use crate::{
    packages::{self, Index, Plan},
    process, workspace,
};

/// The program below an unpacked QEMU's directory.
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";

/// The path of an unpacked QEMU's program; unpacks it unless one of the series is there.
///
/// # Errors
/// When no suite has the version, when the packages cannot be fetched, or when the program does
/// not start.
pub(super) fn unpacked(series: &Series) -> Result<PathBuf> {
    let directory = workspace::target().join("qemu");
    let context = || {
        format!(
            "Could not unpack QEMU {series} below `{}`",
            directory.display()
        )
    };
    fs::create_dir_all(&directory).with_context(context)?;
    if let Some(program) = find(&directory, series).with_context(context)? {
        return Ok(program);
    }
    // Of two processes at once the second waits, and finds what the first has made.
    let lock = File::open(&directory).with_context(context)?;
    lock.lock().with_context(context)?;
    if let Some(program) = find(&directory, series).with_context(context)? {
        return Ok(program);
    }
    let staging = directory.join(".staging");
    if staging.exists() {
        // Left by a process that was killed.
        fs::remove_dir_all(&staging).with_context(context)?;
    }
    fs::create_dir(&staging).with_context(context)?;
    let made = make(series, &staging).with_context(context);
    let published = made.and_then(|(root, version)| {
        let whole = directory.join(version);
        fs::rename(root, &whole).with_context(context)?;
        Ok(whole.join(PROGRAM))
    });
    let removed = fs::remove_dir_all(&staging).with_context(context);
    let program = published?;
    removed.map(|()| program)
}

/// The program of the newest unpacked QEMU of the series.
fn find(directory: &Path, series: &Series) -> Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    let newest = newest(names, series);
    Ok(newest.map(|name| directory.join(name).join(PROGRAM)))
}

/// Unpacks QEMU in `staging` and returns its root, with a program that starts, and its version.
fn make(series: &Series, staging: &Path) -> Result<(PathBuf, String)> {
    if !Path::new(packages::KEYRING).is_file() {
        packages::ensure("verifying packages", &["debian-archive-keyring"])?;
    }
    let release = packages::release()?;
    let suites = [release.clone(), format!("{release}-backports")];
    let index = Index::private(&staging.join("index"), &packages::mirror()?, &suites)?;
    let madison = process::capture(index.apt_cache().args(["madison", PACKAGE]))?;
    let Some(suite) = suite(&madison, series) else {
        bail!(
            "The suites {} have no QEMU {series}, only {}",
            suites.join(" and "),
            versions(&madison).join(" and ")
        );
    };
    let wanted = parts(&resolve(&index, &suite, staging)?);
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    let files = staging.join("packages");
    fs::create_dir(&files)?;
    packages::download(&index, &wanted, &files)?;
    let root = staging.join("root");
    packages::extract(&files, &root)?;
    let program = root.join(PROGRAM);
    let libraries = missing_libraries(&program)?;
    if !libraries.is_empty() {
        let purpose = format!("QEMU {series}, which needs {}", libraries.join(", "));
        packages::satisfy(&index, &purpose, &dependencies(&files)?)?;
    }
    let version = check(series, &program)?;
    Ok((root, version))
}

/// What an installation from `suite` on a machine without any package would install: the versions
/// that belong together.
fn resolve(index: &Index, suite: &str, staging: &Path) -> Result<Plan> {
    let status = staging.join("status");
    File::create(&status)?;
    let output = process::capture(
        index
            .apt_get()
            .arg(format!("-oDir::State::status={}", status.display()))
            .args(["--simulate", "-q", "--no-install-recommends"])
            .args(["--target-release", suite, "install", PACKAGE]),
    )?;
    Ok(Plan::parse(&output))
}

/// The libraries that the unpacked packages depend on, as one list.
fn dependencies(files: &Path) -> Result<String> {
    let mut all = Vec::new();
    for file in packages::package_files(files)? {
        let depends = process::capture(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(file)
                .arg("Depends"),
        )?;
        all.extend(libraries(&depends).into_iter().map(str::to_owned));
    }
    Ok(all.join(", "))
}

/// The shared libraries that the loader does not find.
fn missing_libraries(program: &Path) -> Result<Vec<String>> {
    let answer = process::capture(Command::new("ldd").arg(program))?;
    Ok(not_found(&answer).map(str::to_owned).collect())
}

/// Source: ldd(1), `NAME => not found`.
fn not_found(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines()
        .filter_map(|line| line.trim().strip_suffix(" => not found"))
}

/// Starts the program: all its libraries are found, and its version is of the series.
fn check(series: &Series, program: &Path) -> Result<String> {
    let answer = process::capture(Command::new(program).arg("--version"))?;
    match reported(&answer) {
        Some(version) if series.has(version) => Ok(version.to_owned()),
        _ => bail!("The program of QEMU {series} says that it is `{answer}`"),
    }
}

/// The version in the answer to `--version`: `QEMU emulator version 7.2.22 (Debian …)`.
pub(super) fn reported(answer: &str) -> Option<&str> {
    let (_, rest) = answer.lines().next()?.split_once(" version ")?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let ldd = "\tlinux-vdso.so.1 (0x1)\n\tlibfdt.so.1 => not found\n\
                   \tlibc.so.6 => /lib/libc.so.6 (0x3)\n\tlibaio.so.1 => not found\n";
        assert!(not_found(ldd).eq(["libfdt.so.1", "libaio.so.1"]));
    }

    #[test]
    fn the_version_is_read_from_the_programs_answer() {
        let answer = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)";
        assert_eq!(reported(answer), Some("10.0.2"));
        assert_eq!(reported("no such thing"), None);
    }
}
