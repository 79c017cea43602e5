//! `demo`: from a bare checkout to a command that runs in a sandbox, cold and from the template.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    args::Args,
    build, packages, process,
    qemu::Qemu,
    workspace::{self, Profile},
};

/// The image's name.
const IMAGE: &str = "cofferdam-demo:latest";

/// What runs in the sandbox.
const SCRIPT: &str = "echo \"Hello from process $$ on $(uname -srm)\"";

/// How long the first template may take. Making one is a cold boot and a snapshot, seconds even
/// under emulation on a busy machine.
const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the verb.
///
/// # Errors
/// When a step of it fails.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    Args::parse(args, &[])?;
    let qemu = Qemu::ensure("running microVMs")?;
    let program = build::build(Profile::Release)?;
    let demo = Demo::new(program, qemu)?;
    demo.load()?;
    println!("\nIn a sandbox for which a machine was booted and made into a template:");
    let cold = demo.sandbox()?;
    print!("  {}", cold.output);
    let warm = demo.forked()?;
    println!("\nIn a sandbox forked from the image's template:");
    print!("  {}", warm.output);
    println!(
        "\ncold {} ms, from the template {} ms, each for the whole `coffer run` command",
        cold.time.as_millis(),
        warm.time.as_millis()
    );
    if let Some(setting) = demo.qemu.setting() {
        println!("\nYour own commands find this QEMU by: export {setting}");
    }
    Ok(())
}

/// The built program with a store of its own, empty at the start: no template, no other image.
struct Demo {
    program: PathBuf,
    directory: PathBuf,
    qemu: Qemu,
}

/// What one sandbox did.
struct Finished {
    output: String,
    timeline: String,
    time: Duration,
}

impl Demo {
    fn new(program: PathBuf, qemu: Qemu) -> Result<Self> {
        let directory = workspace::target().join("demo");
        let home = directory.join("home");
        if home.exists() {
            fs::remove_dir_all(&home)
                .with_context(|| format!("Could not remove `{}`", home.display()))?;
        }
        fs::create_dir_all(&home)
            .with_context(|| format!("Could not make `{}`", home.display()))?;
        Ok(Self {
            program,
            directory,
            qemu,
        })
    }

    fn coffer(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.env("COFFER_HOME", self.directory.join("home"));
        self.qemu.apply(&mut command)?;
        Ok(command)
    }

    /// Makes the image and loads it.
    fn load(&self) -> Result<()> {
        let archive = self.directory.join("image.tar");
        let busybox = packages::busybox(&self.directory)?;
        pack(&busybox, &archive)?;
        process::run(self.coffer()?.args(["load", "-i"]).arg(&archive))
    }

    /// Runs the script in a new sandbox.
    fn sandbox(&self) -> Result<Finished> {
        let start = Instant::now();
        let output = self
            .coffer()?
            .args([
                "run",
                "--timings",
                "--rm",
                IMAGE,
                "--",
                "/bin/sh",
                "-c",
                SCRIPT,
            ])
            .stdin(Stdio::null())
            .output()
            .context("Could not start `coffer run`")?;
        let time = start.elapsed();
        let timeline = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!(
                "`coffer run` failed: {}: {}",
                output.status,
                timeline.trim()
            );
        }
        Ok(Finished {
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            timeline,
            time,
        })
    }

    /// Runs the script until a sandbox came from the image's template, which the first run starts
    /// to make in the background.
    fn forked(&self) -> Result<Finished> {
        let start = Instant::now();
        loop {
            let finished = self.sandbox()?;
            if came_from_template(&finished.timeline) {
                // The first use of a template's files reads them from the disk.
                return self.sandbox();
            }
            if start.elapsed() > TEMPLATE_TIMEOUT {
                bail!(
                    "No template was made within {} s; the last start was: {}",
                    TEMPLATE_TIMEOUT.as_secs(),
                    finished.timeline.trim()
                );
            }
        }
    }
}

/// Stage of a start whose machine was restored with the image's root already mounted, in the time
/// line that `coffer run -v` prints.
const TEMPLATE_STAGE: &str = "image template";

/// Whether a time line tells of a start from the image's template.
fn came_from_template(timeline: &str) -> bool {
    timeline.contains(TEMPLATE_STAGE)
}

/// Writes the image.
fn pack(busybox: &Path, archive: &Path) -> Result<()> {
    let program =
        fs::read(busybox).with_context(|| format!("Could not read `{}`", busybox.display()))?;
    let image = cofferdam_testkit::image::busybox_of(&program).archive(IMAGE);
    fs::write(archive, image).with_context(|| format!("Could not make `{}`", archive.display()))
}
