//! `qemu`: which QEMU the other verbs run, and any of Debian's unpacked below `target/qemu/`.
//!
//! | file | holds |
//! |---|---|
//! | `version` | the decisions: which package, install or unpack |
//! | `unpack` | downloading and unpacking |

mod unpack;
mod version;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::version::Series;
use self::version::{PACKAGE, Way, way};
use crate::{packages, process};

/// Names the QEMU that `coffer` runs.
const VARIABLE: &str = "COFFER_QEMU";

/// The program's name.
const NAME: &str = "qemu-system-x86_64";

/// Runs the verb: prints the path of the QEMU of the version that is its argument.
///
/// # Errors
/// When the argument is no version, or the QEMU cannot be had.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let [version] = args else {
        bail!("One version is needed: `cargo xtask qemu 10` or `cargo xtask qemu 7.2`");
    };
    let version = version.to_str().context("A version is ASCII")?;
    println!("{}", Qemu::unpacked(&version.parse()?)?.program.display());
    Ok(())
}

/// A QEMU that other programs are started with.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    /// Whether `coffer` finds it without being configured.
    is_usual: bool,
}

impl Qemu {
    /// The one that is configured (`COFFER_QEMU`) or installed; else it is installed, or unpacked
    /// where an installation would remove or downgrade other parts of QEMU.
    ///
    /// # Errors
    /// When there is none and none can be had without removing a package; the error has the
    /// command that installs it.
    pub(crate) fn ensure(purpose: &str) -> Result<Self> {
        if let Some(qemu) = Self::usual() {
            return Ok(qemu);
        }
        let plan = packages::plan(purpose, &[PACKAGE])?;
        match way(&plan) {
            Way::Install => {
                packages::ensure(purpose, &[PACKAGE])?;
                Self::installed().with_context(|| format!("`{PACKAGE}` has no `{NAME}` in `PATH`"))
            }
            Way::Unpack(series) => {
                let lost: Vec<_> = plan.losses().map(|lost| lost.name.as_str()).collect();
                eprintln!(
                    "To install {PACKAGE} would remove {}: QEMU {series} is unpacked instead",
                    lost.join(", ")
                );
                Self::unpacked(&series).with_context(|| by_hand(&lost))
            }
            Way::Refuse(names) => {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                bail!(by_hand(&names))
            }
        }
    }

    /// One of Debian's, below `target/qemu/`.
    ///
    /// # Errors
    /// When it cannot be downloaded or does not start.
    pub(crate) fn unpacked(series: &Series) -> Result<Self> {
        Ok(Self {
            program: unpack::unpacked(series)?,
            is_usual: false,
        })
    }

    /// The one that `COFFER_QEMU` names, if it names one.
    pub(crate) fn configured() -> Option<Self> {
        Some(Self {
            program: configured()?,
            is_usual: false,
        })
    }

    /// The one that `coffer` would find: configured or installed.
    pub(crate) fn usual() -> Option<Self> {
        Self::configured().or_else(Self::installed)
    }

    fn installed() -> Option<Self> {
        Some(Self {
            program: in_path(Path::new(NAME))?,
            is_usual: true,
        })
    }

    /// The program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Arguments that name the firmware beside the program: Debian's QEMU 10 looks only where an
    /// installation has it.
    pub(crate) fn firmware(&self) -> Vec<OsString> {
        let beside = |name: &str| Some(self.program.parent()?.join("../share").join(name));
        ["qemu", "seabios"]
            .into_iter()
            .filter_map(beside)
            .filter(|directory| directory.is_dir())
            .flat_map(|directory| ["-L".into(), directory.into()])
            .collect()
    }

    /// What a user must set so that `coffer` runs it, if anything.
    pub(crate) fn setting(&self) -> Option<String> {
        (!self.is_usual).then(|| format!("{VARIABLE}={}", self.program.display()))
    }

    /// Makes `command`, and what it starts, run this QEMU.
    ///
    /// # Errors
    /// When its directory's name cannot stand in `PATH`.
    pub(crate) fn apply<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        if let Some(directory) = self.program.parent() {
            process::prepend_path(command, directory)?;
        }
        self.name_to(command);
        Ok(command)
    }

    /// Makes `coffer` run this QEMU.
    pub(crate) fn name_to(&self, coffer: &mut Command) {
        coffer.env(VARIABLE, &self.program);
    }

    /// What it says of itself, in one line.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn version(&self) -> Result<String> {
        let answer = process::capture(Command::new(&self.program).arg("--version"))?;
        let version = unpack::reported(&answer).unwrap_or(&answer);
        Ok(version.to_owned())
    }
}

/// The path in `COFFER_QEMU`; an empty value counts as unset.
fn configured() -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(VARIABLE).filter(|value| !value.is_empty())?);
    // Other programs are started in other directories.
    Some(std::path::absolute(&value).unwrap_or(value))
}

fn in_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

fn by_hand(lost: &[&str]) -> String {
    format!(
        "There is no QEMU, and to install it would remove or downgrade {}; if you agree to that, \
         run `apt-get install --no-install-recommends {PACKAGE}`",
        lost.join(", ")
    )
}
