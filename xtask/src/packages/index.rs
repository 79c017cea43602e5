//! The package index that `apt-get` works with: the machine's own, or one of our own suites.

use std::{
    fs,
    io::{self, IsTerminal, stdin},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Verifies packages of every Debian release; of the package `debian-archive-keyring`.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Runs `apt-get` and `apt-cache` with one package index.
#[derive(Debug)]
pub(crate) struct Index {
    /// Arguments that come first in every call.
    options: Vec<String>,
    /// Whether only root may change it.
    is_shared: bool,
}

impl Index {
    /// The index of the machine's configuration.
    pub(crate) const fn machine() -> Self {
        Self {
            options: Vec::new(),
            is_shared: true,
        }
    }

    /// An index of `suites` of the archive at `mirror`, with all its files in `directory`. The
    /// machine's configuration stays as it is.
    ///
    /// # Errors
    /// When the files cannot be written, or the suites cannot be fetched from the mirror.
    pub(crate) fn private(directory: &Path, mirror: &str, suites: &[String]) -> Result<Self> {
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        let make = || -> io::Result<()> {
            fs::create_dir_all(directory.join("lists/partial"))?;
            fs::create_dir_all(directory.join("cache/archives/partial"))?;
            fs::write(directory.join("sources.list"), sources)
        };
        make().with_context(|| format!("Could not write below `{}`", directory.display()))?;
        let file = |name: &str| directory.join(name).display().to_string();
        let index = Self {
            options: vec![
                format!("-oDir::Etc::sourcelist={}", file("sources.list")),
                "-oDir::Etc::sourceparts=/dev/null".to_owned(),
                format!("-oDir::State::lists={}", file("lists")),
                format!("-oDir::Cache={}", file("cache")),
                "-oAcquire::Languages=none".to_owned(),
                "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
                // The user `_apt` may not write to a directory of ours.
                "-oAPT::Sandbox::User=root".to_owned(),
            ],
            is_shared: false,
        };
        index.update().with_context(|| {
            format!(
                "Could not fetch the suites {} from `{mirror}`",
                suites.join(", ")
            )
        })?;
        Ok(index)
    }

    /// Brings the index up to date.
    ///
    /// # Errors
    /// When apt fails, or for the machine's index when there is neither root nor sudo.
    pub(crate) fn update(&self) -> Result<()> {
        eprintln!("Updating the package index");
        let mut command = if self.is_shared {
            self.apt_get_as_root()?
        } else {
            let mut command = self.apt_get();
            // A suite that cannot be fetched is an error. In the machine's index it may be one
            // that nobody needs.
            command.arg("--error-on=any");
            command
        };
        command.args(["-qq", "update"]);
        process::run_aside(&mut command).context("Could not update the package index")
    }

    /// `apt-get` as the present user.
    pub(crate) fn apt_get(&self) -> Command {
        self.tool("apt-get")
    }

    /// `apt-cache`.
    pub(crate) fn apt_cache(&self) -> Command {
        self.tool("apt-cache")
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        // Its words are read: they must not be translated.
        command.env("LC_ALL", "C").args(&self.options);
        command
    }

    /// `apt-get` as root, by sudo if need be. It never asks questions.
    ///
    /// # Errors
    /// When there is neither root nor sudo.
    pub(crate) fn apt_get_as_root(&self) -> Result<Command> {
        let mut command = as_root("env")?;
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"])
            .args(&self.options);
        Ok(command)
    }
}

/// A program that is started as root, by sudo if need be.
///
/// # Errors
/// When there is neither root nor sudo.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if !process::exists("sudo", "--version") {
        bail!("`{program}` must run as root, and there is no sudo");
    }
    let mut command = Command::new("sudo");
    if !stdin().is_terminal() {
        // Nobody could type a password.
        command.arg("--non-interactive");
    }
    command.arg(program);
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

/// Name of the running Debian release, such as `bookworm`.
///
/// # Errors
/// When this is no Debian-family system.
pub(crate) fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("Could not read `/etc/os-release`")?;
    codename(&text).context("`/etc/os-release` has no `VERSION_CODENAME`")
}

/// Source: os-release(5).
fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Address of the Debian archive that the machine's configuration takes its release from.
///
/// # Errors
/// When it names none.
pub(crate) fn mirror() -> Result<String> {
    let release = release()?;
    let ask = || {
        process::capture(Index::machine().apt_get().args([
            "indextargets",
            "--format",
            "$(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI)",
            "Created-By: Packages",
        ]))
    };
    if let Some(found) = archive(&ask()?, &release) {
        return Ok(found);
    }
    // Without an index, as in a container image, apt lists nothing.
    Index::machine().update()?;
    archive(&ask()?, &release)
        .with_context(|| format!("apt's configuration names no archive with `{release}`"))
}

/// The first archive of `release` in lines of `SUITE CODENAME COMPONENT ADDRESS`.
fn archive(targets: &str, release: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (suite, codename) = (words.next()?, words.next()?);
        let (component, address) = (words.next()?, words.next()?);
        let is_it = (suite == release || codename == release) && component == "main";
        is_it.then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_that_of_the_release_itself() {
        let targets = "nodistro nodistro main https://other.example/\n\
                       bookworm-security bookworm-security main http://mirror.example/security/\n\
                       bookworm bookworm contrib http://contrib.example/debian/\n\
                       stable bookworm main http://mirror.example/debian/\n";
        let found = archive(targets, "bookworm");
        assert_eq!(found.as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(archive(targets, "trixie"), None);
        assert_eq!(archive("\nbookworm\n", "bookworm"), None);
    }

    #[test]
    fn the_release_is_read_with_and_without_quotes() {
        let plain = codename("ID=debian\nVERSION_CODENAME=bookworm\n");
        assert_eq!(plain.as_deref(), Some("bookworm"));
        let quoted = codename("VERSION_CODENAME=\"trixie\"\n");
        assert_eq!(quoted.as_deref(), Some("trixie"));
        assert_eq!(codename("VERSION_CODENAME=\nID=x\n"), None);
    }
}
