//! `build`: the agent, the initramfs around it, the kernel, and the program that embeds them.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    args::Args,
    cpio::Archive,
    kernel, process,
    workspace::{self, Profile},
};

/// The agent's target: the guest is what the host is, with the C library inside.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// No dynamic loader and no relocations: the guest has no libraries, and an emulated guest would
/// pay for each relocation at every boot.
const AGENT_RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Directories that the agent mounts things on.
const DIRECTORIES: &[&str] = &["dev", "proc", "sys", "run", "newroot"];

/// Runs the verb.
///
/// # Errors
/// When a part does not build.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse(args, &["--release"])?;
    let program = build(Profile::from_flag(args.has("--release")))?;
    println!("Built `{}`", program.display());
    Ok(())
}

/// Builds everything for `profile` and returns the path of `coffer`.
///
/// # Errors
/// When a part does not build.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let initramfs = initramfs()?;
    kernel::ensure(&[profile])?;
    let mut cargo = workspace::cargo(&["build", "--package", "cofferdam-cli"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    process::run(cargo.env("COFFER_INITRAMFS", &initramfs))?;
    Ok(profile.dir().join("coffer"))
}

/// Builds the agent and the initramfs, and returns the latter's absolute path.
///
/// # Errors
/// When the agent does not build or the file cannot be written.
pub(crate) fn initramfs() -> Result<PathBuf> {
    process::run(
        workspace::cargo(&[
            "build",
            "--package",
            "cofferdam-agent",
            "--profile",
            "agent",
        ])
        .args(["--target", AGENT_TARGET])
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            AGENT_RUSTFLAGS,
        ),
    )?;
    let target = workspace::target();
    let agent = target.join(AGENT_TARGET).join("agent/cofferdam-agent");
    let archive = pack(&agent)?;
    let path = target.join("guest/initramfs.cpio");
    // An unchanged file keeps its date, so that cargo does not rebuild what embeds it.
    if fs::read(&path).is_ok_and(|old| old == archive) {
        return Ok(path);
    }
    fs::create_dir_all(target.join("guest")).context("Could not make `target/guest`")?;
    fs::write(&path, archive).with_context(|| format!("Could not write `{}`", path.display()))?;
    Ok(path)
}

fn pack(agent: &Path) -> Result<Vec<u8>> {
    let program =
        fs::read(agent).with_context(|| format!("Could not read `{}`", agent.display()))?;
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    // The kernel opens it as the init process's standard streams. Source: devices.txt.
    archive.char_device("dev/console", 5, 1)?;
    archive.executable("init", &program)?;
    archive.finish()
}
