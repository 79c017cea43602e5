//! Debian packages that a verb needs: installed, or unpacked below `target/`.
//!
//! Invariant: no installed package is removed or downgraded. An installation is simulated first
//! ([`plan`]), and one that would do so is refused with the command that does it; apt itself runs
//! with `--no-remove`, and without `--allow-downgrades` it refuses downgrades.

mod index;
mod plan;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::{
    index::{Index, KEYRING, as_root, mirror, release},
    plan::{Package, Plan},
};
use crate::process;

/// Installs those of `names` that are missing, and prints which and for what.
///
/// # Errors
/// When this is no Debian-family system, when there is neither root nor sudo, when another package
/// would be removed or downgraded, or when apt fails; each error names the packages to install.
pub(crate) fn ensure(purpose: &str, names: &[&str]) -> Result<()> {
    let missing = missing(names);
    if missing.is_empty() {
        return Ok(());
    }
    let request = Request::install(&missing);
    let plan = simulate(purpose, &request)?;
    if let Some(refusal) = refusal(purpose, &request, &plan) {
        bail!(refusal);
    }
    install(&Index::machine(), purpose, &request)
}

/// What an installation by [`ensure`] of all of `names` would change.
///
/// # Errors
/// When apt is missing or cannot install them.
pub(crate) fn plan(purpose: &str, names: &[&str]) -> Result<Plan> {
    simulate(purpose, &Request::install(names))
}

/// Installs what is missing of `dependencies`, which are written as in a package's `Depends`.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn satisfy(index: &Index, purpose: &str, dependencies: &str) -> Result<()> {
    let request = Request::satisfy(dependencies);
    let plan = request.simulate(index)?;
    if let Some(refusal) = refusal(purpose, &request, &plan) {
        bail!(refusal);
    }
    if plan.installed.is_empty() {
        return Ok(());
    }
    install(index, purpose, &request)
}

/// What apt is asked for: the words of its command.
#[derive(Debug)]
struct Request {
    words: Vec<String>,
}

impl Request {
    fn install(names: &[&str]) -> Self {
        let words = ["install", "--no-install-recommends"].iter().chain(names);
        Self {
            words: words.map(|word| (*word).to_owned()).collect(),
        }
    }

    fn satisfy(dependencies: &str) -> Self {
        let words = ["satisfy", "--no-install-recommends", dependencies];
        Self {
            words: words.map(str::to_owned).into(),
        }
    }

    fn simulate(&self, index: &Index) -> Result<Plan> {
        let mut command = index.apt_get();
        command.args(["--simulate", "-q"]).args(&self.words);
        Ok(Plan::parse(&process::capture(&mut command)?))
    }

    /// The command as one types it.
    fn command(&self) -> String {
        let quote = |word: &String| {
            if word.contains(' ') {
                format!("'{word}'")
            } else {
                word.clone()
            }
        };
        let words: Vec<_> = self.words.iter().map(quote).collect();
        format!("apt-get {}", words.join(" "))
    }
}

/// Simulates a request to the machine's index, which may be stale, or absent in a container image.
fn simulate(purpose: &str, request: &Request) -> Result<Plan> {
    if !process::exists("apt-get", "--version") {
        let words = request.words.join(" ");
        bail!("Packages for {purpose} are missing and there is no apt-get: {words}");
    }
    let index = Index::machine();
    if let Ok(plan) = request.simulate(&index) {
        return Ok(plan);
    }
    index.update()?;
    request
        .simulate(&index)
        .with_context(|| format!("Could not install packages for {purpose}"))
}

/// Why a plan is not carried out, if it is not.
fn refusal(purpose: &str, request: &Request, plan: &Plan) -> Option<String> {
    let lost: Vec<_> = plan.losses().map(|lost| lost.name.as_str()).collect();
    if lost.is_empty() {
        return None;
    }
    Some(format!(
        "Installing packages for {purpose} would remove or downgrade {}, so nothing was changed; \
         if you agree to that, run `{}`",
        lost.join(", "),
        request.command()
    ))
}

fn install(index: &Index, purpose: &str, request: &Request) -> Result<()> {
    let list = request.words.get(2..).unwrap_or_default().join(" ");
    eprintln!("Installing packages for {purpose}: {list}");
    let run = || {
        let mut command = index.apt_get_as_root()?;
        command
            .args(["-qq", "--yes", "--no-remove"])
            .args(&request.words);
        process::run_aside(&mut command)
    };
    if run().is_ok() {
        return Ok(());
    }
    // The index names files that the mirror no longer has.
    index.update()?;
    run().with_context(|| {
        format!(
            "Could not install packages for {purpose}; try `{}`",
            request.command()
        )
    })
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
    fs::create_dir_all(&staging).with_context(context)?;
    let index = Index::machine();
    let result = download(&index, &[name], &staging)
        .or_else(|_| {
            index.update()?;
            download(&index, &[name], &staging)
        })
        .and_then(|()| extract(&staging, &staging.join("files")))
        .and_then(|()| match fs::rename(staging.join("files"), &whole) {
            Err(error) if !whole.is_dir() => Err(error).with_context(context),
            _ => Ok(()),
        });
    let removed = fs::remove_dir_all(&staging).with_context(context);
    result.and(removed).map(|()| whole)
}

/// A static busybox, unpacked below `directory`: to install it would remove the package `busybox`.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn busybox(directory: &Path) -> Result<PathBuf> {
    let root = unpack("busybox-static", directory)?;
    let found = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let found = found.into_iter().find(|path| path.is_file());
    found.context("The package `busybox-static` has no busybox")
}

/// Downloads packages into `directory`; each is a name, or `NAME=VERSION`.
///
/// # Errors
/// When the index has no such package, or the mirror does not answer.
pub(crate) fn download(index: &Index, packages: &[&str], directory: &Path) -> Result<()> {
    eprintln!("Downloading {}", packages.join(" "));
    let mut command = index.apt_get();
    command
        .current_dir(directory)
        .args(["-qq", "-oAPT::Sandbox::User=root", "download"])
        .args(packages);
    process::run_aside(&mut command)
}

/// Unpacks every package file in `directory` into `root`.
///
/// # Errors
/// When there is none, or one cannot be unpacked.
pub(crate) fn extract(directory: &Path, root: &Path) -> Result<()> {
    let files = package_files(directory)?;
    if files.is_empty() {
        bail!("`apt-get download` left no package");
    }
    for file in files {
        process::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(root),
        )?;
    }
    Ok(())
}

/// The package files in `directory`.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn package_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("Could not read `{}`", directory.display()))?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
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

    #[test]
    fn a_plan_that_removes_a_package_is_refused_with_the_command_that_does_it() {
        let plan = Plan::parse(include_str!("recorded/busybox-removed.txt"));
        let request = Request::install(&["busybox-static"]);
        let text = refusal("the tests", &request, &plan).unwrap();
        let expected = "Installing packages for the tests would remove or downgrade busybox, so \
                        nothing was changed; if you agree to that, run `apt-get install \
                        --no-install-recommends busybox-static`";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_plan_that_only_adds_and_upgrades_is_carried_out() {
        let plan = Plan::parse(include_str!("recorded/mesa-upgrade.txt"));
        let request = Request::install(&["libgbm1"]);
        assert_eq!(refusal("the tests", &request, &plan), None);
    }

    #[test]
    fn a_command_is_quoted_where_it_must_be() {
        let request = Request::satisfy("libaio1 (>= 0.3.93), libfdt1");
        let expected = "apt-get satisfy --no-install-recommends 'libaio1 (>= 0.3.93), libfdt1'";
        assert_eq!(request.command(), expected);
    }
}
