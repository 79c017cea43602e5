//! Debian packages that a verb needs, installed when they are missing.

use std::{
    fs,
    io::{IsTerminal, stdin},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Installs those of `names` that are missing, saying which and for what.
///
/// # Errors
/// When this is no Debian-family system, when there is neither root nor sudo, or when apt fails;
/// each error names the packages to install by hand.
pub(crate) fn ensure(purpose: &str, names: &[&str]) -> Result<()> {
    let missing = missing(names);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !process::exists("apt-get", "--version") {
        bail!("Packages for {purpose} are missing and there is no apt-get; install: {list}");
    }
    println!("Installing packages for {purpose}: {list}");
    if install(&missing).is_ok() {
        return Ok(());
    }
    // The usual cause is a package index that is stale, or absent in a container image.
    update()?;
    install(&missing).with_context(|| {
        format!("Could not install packages for {purpose}; try `apt-get install {list}`")
    })
}

/// Updates the package index.
///
/// # Errors
/// When there is neither root nor sudo, or when apt fails.
pub(crate) fn update() -> Result<()> {
    println!("Updating the package index");
    process::run(apt()?.arg("update")).context("Could not update the package index")
}

fn install(names: &[&str]) -> Result<()> {
    process::run(
        apt()?
            .args(["install", "-y", "--no-install-recommends"])
            .args(names),
    )
}

/// Those of `names` that are not installed.
fn missing<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names
        .iter()
        .copied()
        .filter(|name| {
            process::capture(Command::new("dpkg-query").args([
                "--show",
                "--showformat=${db:Status-Status}",
                name,
            ]))
            .map_or(true, |status| status != "installed")
        })
        .collect()
}

/// The installed version of a package.
///
/// # Errors
/// When it is not installed.
pub(crate) fn version(name: &str) -> Result<String> {
    process::capture(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", name]))
}

/// The files of a package, downloaded and unpacked below `directory` but not installed, unless
/// they are there already.
///
/// # Errors
/// When it cannot be downloaded, or not be unpacked.
pub(crate) fn unpack(name: &str, directory: &Path) -> Result<PathBuf> {
    let whole = directory.join(name);
    if whole.is_dir() {
        return Ok(whole);
    }
    // Only a whole package gets the name, and two of us at once do not meet.
    let staging = directory.join(format!(".tmp-{}-{name}", std::process::id()));
    let context = || format!("Could not unpack the package `{name}`");
    if staging.exists() {
        // A killed process had our number.
        fs::remove_dir_all(&staging).with_context(context)?;
    }
    fs::create_dir(&staging).with_context(context)?;
    println!("Downloading the package {name}");
    let result = download(name, &staging).and_then(|()| {
        let package = the_package(&staging)?;
        process::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(package)
                .arg(staging.join("files")),
        )?;
        match fs::rename(staging.join("files"), &whole) {
            Err(error) if !whole.is_dir() => Err(error).with_context(context),
            _ => Ok(()),
        }
    });
    let removed = fs::remove_dir_all(&staging).with_context(context);
    result.and(removed).map(|()| whole)
}

/// A static busybox, unpacked below `directory`: installed it would put out the ordinary one.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn busybox(directory: &Path) -> Result<PathBuf> {
    let root = unpack("busybox-static", directory)?;
    let found = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let found = found.into_iter().find(|path| path.is_file());
    found.context("The package `busybox-static` has no busybox")
}

fn download(name: &str, directory: &Path) -> Result<()> {
    let get = || {
        process::run(Command::new("apt-get").current_dir(directory).args([
            "-qq",
            "-oAPT::Sandbox::User=root",
            "download",
            name,
        ]))
    };
    if get().is_ok() {
        return Ok(());
    }
    update()?;
    get()
}

/// The one package file in `directory`.
fn the_package(directory: &Path) -> Result<PathBuf> {
    fs::read_dir(directory)
        .with_context(|| format!("Could not read `{}`", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("`apt-get download` left no package")
}

/// `apt-get`, by sudo unless we are root. It never asks questions.
fn apt() -> Result<Command> {
    if is_root()? {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        return Ok(command);
    }
    if !process::exists("sudo", "--version") {
        bail!("Packages can be installed only by root, and there is no sudo");
    }
    let mut command = Command::new("sudo");
    if !stdin().is_terminal() {
        // Nobody could type a password.
        command.arg("--non-interactive");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]);
    Ok(command)
}

/// Whether the effective user is root. Source: proc(5), `Uid:` is real, effective, saved, fs.
fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("Could not read `/proc`")?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    Ok(uid == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_nobody_made_is_missing() {
        assert_eq!(
            missing(&["no-such-package-anywhere"]),
            ["no-such-package-anywhere"]
        );
    }
}
