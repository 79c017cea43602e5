//! The program under test with a store of its own, and the image of the judges.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use cofferdam_testkit::image::ImageBuilder;

use crate::{
    build, process,
    qemu::Qemu,
    workspace::{self, Profile},
};

/// Name of the image.
pub(super) const IMAGE: &str = "judges:net";

/// Packages of the image.
const PACKAGES: &str = "ca-certificates,curl,git,nginx-light,npm,openssh-client,openssh-server,\
                        postgresql,python3-pip,python3-websockets";

/// Names a program that is built already, as the tests have it.
const PROGRAM: &str = "COFFER_PROGRAM";

/// Seconds after which a command counts as failed.
const LIMIT: &str = "600";

/// What judges work with.
#[derive(Debug)]
pub(super) struct Host {
    program: PathBuf,
    qemu: Qemu,
    /// Of this run alone: it goes at the end.
    directory: PathBuf,
}

impl Host {
    /// Builds the program unless `COFFER_PROGRAM` names one, and puts the image into a new store.
    ///
    /// # Errors
    /// When one of these cannot be made.
    pub(super) fn new() -> Result<Self> {
        let qemu = Qemu::ensure("the judges")?;
        let program = match env::var_os(PROGRAM) {
            Some(program) => program.into(),
            None => build::build(Profile::Release)?,
        };
        let image = image()?;
        let directory = workspace::target().join("judges");
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("Could not remove `{}`", directory.display()))?;
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("Could not make `{}`", directory.display()))?;
        let host = Self {
            program,
            qemu,
            directory,
        };
        let image = image.display().to_string();
        process::capture(&mut host.coffer(&["load", "-q", "-i", &image])?)?;
        Ok(host)
    }

    /// `coffer` with this store. It is killed after ten minutes.
    ///
    /// # Errors
    /// When QEMU's directory cannot stand in `PATH`.
    pub(super) fn coffer(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LIMIT]).arg(&self.program);
        command
            .args(args)
            .env("COFFER_HOME", self.directory.join("home"));
        self.qemu.apply(&mut command)?;
        Ok(command)
    }

    /// An empty directory of one judge.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn directory(&self, judge: &str) -> Result<PathBuf> {
        let directory = self.directory.join(judge);
        fs::create_dir(&directory)
            .with_context(|| format!("Could not make `{}`", directory.display()))?;
        Ok(directory)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A judge that failed has removed its sandboxes too, so nothing uses the store.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The image's archive. Another list of packages makes a new one.
fn image() -> Result<PathBuf> {
    let roots = workspace::target().join("roots");
    fs::create_dir_all(&roots).with_context(|| format!("Could not make `{}`", roots.display()))?;
    let archive = roots.join("judges.tar");
    let list = roots.join("judges.packages");
    if archive.is_file() && fs::read_to_string(&list).is_ok_and(|made| made == PACKAGES) {
        return Ok(archive);
    }
    println!("Making a Debian image for the judges");
    let layer = roots.join("judges-layer.tar");
    bootstrap(&layer)?;
    let bytes =
        fs::read(&layer).with_context(|| format!("Could not read `{}`", layer.display()))?;
    fs::remove_file(&layer)?;
    let partial = roots.join("judges-partial.tar");
    fs::write(
        &partial,
        ImageBuilder::new().tar_layer(bytes).archive(IMAGE),
    )?;
    fs::rename(&partial, &archive)?;
    fs::write(&list, PACKAGES)?;
    Ok(archive)
}

fn bootstrap(layer: &Path) -> Result<()> {
    let mut command = crate::packages::as_root("mmdebstrap")?;
    command
        .args([
            "--quiet",
            "--variant=minbase",
            "--aptopt=Acquire::Retries \"5\"",
        ])
        .args(
            ["man", "doc", "locale"].map(|of| format!("--dpkgopt=path-exclude=/usr/share/{of}/*")),
        )
        .arg(format!("--include={PACKAGES}"))
        .arg("bookworm")
        .arg(layer);
    process::run_aside(&mut command)
}
