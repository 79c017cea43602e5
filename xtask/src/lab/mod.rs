//! `lab`: runs a command in a machine whose KVM works, on any x86-64 host with Debian 12.
//!
//! The machine is QEMU's full emulation of an AMD processor with its virtualisation, Debian's
//! generic kernel and that kernel's `kvm-amd`. It sees the host's files as far as its caller may
//! read them, `/dev` and `/run` excepted. What it writes goes to memory, or to a disk at
//! `/scratch`, and is gone when the command ends.
//!
//! | file | holds |
//! |---|---|
//! | `kernel` | Debian's kernel and the modules that the lab needs of it |
//! | `initramfs` | what runs before the command |
//! | `machine` | QEMU's arguments, and how a command's status comes back |
//! | `trial` | the lab's own test |
//!
//! A guest within the lab costs what emulation costs, and each of its exits many times that: the
//! lab tells whether something works, never how fast it is.

mod initramfs;
mod kernel;
mod machine;
mod trial;

use std::{error::Error, ffi::OsString, fmt, fs};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::trial::{Outcome, run as trial};
use crate::{args::Args, packages, qemu::Qemu, workspace};
use kernel::Kernel;
use machine::Lab;

/// Packages with programs that the lab is made of.
const PACKAGES: &[&str] = &["e2fsprogs", "kmod"];

/// The lab's QEMU, unless another version is asked for.
pub(crate) const QEMU: &str = "10";

/// Trials of [`check`] that a busy host may starve, with the last one.
const TRIALS: u32 = 3;

/// A command that ran in the lab and failed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandFailed {
    /// As a shell has it: 128 + n for signal n.
    pub(crate) status: u8,
}

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The command ended with status {}", self.status)
    }
}

impl Error for CommandFailed {}

/// Runs the verb: the words after `--` are the command, run as root in the repository with
/// nothing on its standard input. Both its outputs come out of our standard output. With `--check`
/// the command is the lab's own test.
///
/// # Errors
/// [`CommandFailed`] when it fails. Others when there is no command, when a part of the lab cannot
/// be had, or when the machine ends before the command did.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse_with(args, &["--check"], &["--qemu"])?;
    let version = args.value("--qemu").unwrap_or(QEMU);
    if args.has("--check") {
        return check(version);
    }
    if args.rest.is_empty() {
        bail!("No command was given; the lab is `cargo xtask lab -- COMMAND [ARGUMENT]…`");
    }
    packages::ensure("the lab", PACKAGES)?;
    let qemu = Qemu::unpacked(&version.parse()?)?;
    let directory = workspace::target().join("lab");
    fs::create_dir_all(&directory)
        .with_context(|| format!("Could not make `{}`", directory.display()))?;
    let kernel = Kernel::ensure(&directory)?;
    let busybox = packages::busybox(&directory)?;
    let environment = initramfs::environment(&Qemu::usual().unwrap_or_else(|| qemu.clone()))?;
    let command = initramfs::script(&environment, &args.rest);
    let initramfs = initramfs::pack(&busybox, &kernel.modules()?, &command)?;
    match Lab::new(&directory, &kernel.image, &initramfs)?.run(&qemu)? {
        0 => Ok(()),
        status => Err(CommandFailed { status }.into()),
    }
}

/// Runs the lab's own test: a sandbox by KVM runs and is forked in the lab, and the lab leaves no file.
/// A trial that a busy host starves says nothing, so another follows, [`TRIALS`] at most.
///
/// # Errors
/// When the lab cannot be started, when the test fails or does not end, and when each trial was
/// starved.
pub(crate) fn check(version: &str) -> Result<()> {
    let before = machines();
    for number in 1..=TRIALS {
        let trial = trial(version)?;
        let seconds = trial.time.as_secs();
        match trial.outcome {
            Outcome::Passed => {
                println!("The lab's test passed on QEMU {version} in {seconds} s");
                // A lab that was killed has left some, and the next one removes them.
                let is_clean = machines().iter().all(|name| before.contains(name));
                ensure!(is_clean, "The lab left files");
                return Ok(());
            }
            Outcome::Starved if number < TRIALS => {
                println!("This busy host starved the lab for {seconds} s; it runs once more");
            }
            outcome => {
                print!("{}", trial.output);
                bail!("The lab's test ended so: {outcome:?}");
            }
        }
    }
    Ok(())
}

/// Directories of labs that run, or were killed.
fn machines() -> Vec<OsString> {
    let entries = fs::read_dir(workspace::target().join("lab"));
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("machine-"))
        .collect()
}
