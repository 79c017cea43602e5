//! The store that the benchmarks use, and the commands that every case starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::bundle::{self, DEBIAN, Inputs};
use crate::{process, qemu::Qemu};

/// A store of the benchmarks' own.
pub(super) struct Bench<'a> {
    pub(super) program: &'a Path,
    pub(super) qemu: &'a Qemu,
    pub(super) home: PathBuf,
    pub(super) dir: &'a Path,
    pub(super) runs: usize,
    pub(super) inputs: Inputs,
}

impl<'a> Bench<'a> {
    /// An empty store, and the images.
    pub(super) fn new(
        program: &'a Path,
        qemu: &'a Qemu,
        dir: &'a Path,
        runs: usize,
    ) -> Result<Self> {
        let inputs = bundle::make(dir)?;
        let home = dir.join("home");
        let _ = fs::remove_dir_all(&home);
        Ok(Self {
            program,
            qemu,
            home,
            dir,
            runs,
            inputs,
        })
    }
}

impl Bench<'_> {
    pub(super) fn dir(&self) -> &Path {
        self.dir
    }

    pub(super) fn coffer(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.args(args).env("COFFER_HOME", &self.home);
        self.qemu.name_to(&mut command);
        command
    }

    pub(super) fn runsc(&self, command: &[&str]) -> Result<Command> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        bundle::set_command(&self.inputs.bundle, command)?;
        let id = format!(
            "bench-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let mut runsc = Command::new("runsc");
        runsc
            .arg("--root")
            .arg(self.dir.join("runsc"))
            .args(["--platform=ptrace", "--network=none", "run", "--bundle"])
            .arg(&self.inputs.bundle)
            .arg(id);
        Ok(runsc)
    }

    pub(super) fn with_sleeper<T>(&self, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        self.with_sandbox(&[], work)
    }

    /// One that is run with `flags`.
    pub(super) fn with_sandbox<T>(
        &self,
        flags: &[&str],
        work: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let args: Vec<&str> = ["run", "-d"]
            .into_iter()
            .chain(flags.iter().copied())
            .chain([DEBIAN, "sleep", "100000"])
            .collect();
        let id = process::capture(&mut self.coffer(&args))?;
        let result = work(&id);
        process::capture(&mut self.coffer(&["rm", "-f", &id]))?;
        result
    }

    /// Image templates have an upper disk; the base template has not.
    fn image_templates(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.home.join("templates"))?;
        Ok(entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.join("upper.ext4").is_file() && path.join("manifest.json").is_file()
            })
            .collect())
    }

    /// Out of the store first: a machine that ends may still write into its template's directory.
    pub(super) fn drop_image_templates(&self) -> Result<()> {
        let away = self.dir.join("dropped");
        self.image_templates()?.iter().try_for_each(|path| {
            fs::rename(path, &away)?;
            Ok(fs::remove_dir_all(&away)?)
        })
    }

    /// The first run has a template made in the background.
    pub(super) fn wait_for_image_template(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        while self.image_templates()?.is_empty() {
            anyhow::ensure!(
                begin.elapsed() < LIMIT,
                "No image template was made in {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
