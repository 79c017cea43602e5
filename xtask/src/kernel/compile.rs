//! Configuring and building an unpacked kernel source.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::config::Fragments;
use crate::process;

/// Lines that such a build prints, within a few per cent; for the progress display only.
const EXPECTED_STEPS: usize = 1560;

/// Time between progress lines when nobody watches a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Time between updates of the progress line on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);

/// How much of a failed build's log the error quotes.
const LOG_TAIL_LINES: usize = 20;

/// The compiler's name and version.
///
/// # Errors
/// When it does not run.
pub(crate) fn compiler() -> Result<String> {
    let text = process::capture(Command::new("gcc").arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Writes `tree/.config` from tinyconfig and the fragments, and checks it.
///
/// # Errors
/// When Kconfig fails or an option of the fragments has no effect.
pub(crate) fn configure(tree: &Path, fragments: &Fragments) -> Result<()> {
    let config = tree.join(".config");
    process::capture(make(tree).args(["--silent", "tinyconfig"]))?;
    let mut text = read(&config)?;
    // A later line wins; Kconfig warns of it on standard error, which is not shown.
    text.push_str(&fragments.text());
    fs::write(&config, text).with_context(|| format!("Could not write `{}`", config.display()))?;
    process::capture(make(tree).args(["--silent", "olddefconfig"]))?;
    fragments.verify(&read(&config)?)
}

/// Builds `vmlinux`, strips it, and returns its path. What make prints goes to `log`.
///
/// # Errors
/// When the build fails; the error quotes the end of the log.
pub(crate) fn build(tree: &Path, log: &Path) -> Result<PathBuf> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut child = make(tree)
        .args([&format!("-j{jobs}"), "vmlinux"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(open_log(log)?))
        .spawn()
        .context("Could not start `make`")?;
    follow(&mut child, log)?;
    let status = child.wait().context("Could not wait for `make`")?;
    if !status.success() {
        bail!(
            "The kernel build failed ({status}); the end of `{}`:\n{}",
            log.display(),
            tail(&read(log)?)
        );
    }
    let stripped = tree.join("vmlinux.stripped");
    process::run(
        Command::new("strip")
            .arg("--strip-all")
            .arg("-o")
            .arg(&stripped)
            .arg(tree.join("vmlinux")),
    )?;
    Ok(stripped)
}

/// Copies make's output to the log and shows how far it is.
fn follow(child: &mut Child, log: &Path) -> Result<()> {
    let Some(output) = child.stdout.take() else {
        return Ok(());
    };
    let mut log = open_log(log)?;
    let mut progress = Progress::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("Could not read the output of `make`")?;
        writeln!(log, "{line}").context("Could not write the build log")?;
        progress.step();
    }
    progress.finish();
    Ok(())
}

fn open_log(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("Could not open `{}`", path.display()))
}

/// `make` in `tree`, with all that could differ between two builds of one source held fixed.
/// Source: kernel Documentation/kbuild/reproducible-builds.rst.
fn make(tree: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .current_dir(tree)
        .env("LC_ALL", "C")
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "cofferdam")
        .env("KBUILD_BUILD_HOST", "cofferdam")
        .env("KBUILD_BUILD_VERSION", "1")
        // Of a make or cargo that runs us.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .env_remove("CFLAGS")
        .env_remove("LDFLAGS");
    command
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("Could not read `{}`", path.display()))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// The build's progress: one line redrawn on a terminal, a line now and then elsewhere.
struct Progress {
    start: Instant,
    shown: Instant,
    steps: usize,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            shown: now,
            steps: 0,
            terminal: stderr().is_terminal(),
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        let interval = if self.terminal {
            TERMINAL_INTERVAL
        } else {
            PLAIN_INTERVAL
        };
        if self.shown.elapsed() >= interval {
            self.shown = Instant::now();
            self.show();
        }
    }

    fn show(&self) {
        let text = format!(
            "Building the kernel: {:2} % ({} objects, {} s)",
            percent(self.steps),
            self.steps,
            self.start.elapsed().as_secs()
        );
        if self.terminal {
            eprint!("\r{text}");
        } else {
            eprintln!("{text}");
        }
    }

    fn finish(&self) {
        if self.terminal {
            self.show();
            eprintln!();
        }
    }
}

/// How far `steps` are, never claiming the end before it has come.
fn percent(steps: usize) -> usize {
    (steps * 100 / EXPECTED_STEPS).min(99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_claims_the_end() {
        assert_eq!(percent(0), 0);
        assert_eq!(percent(EXPECTED_STEPS / 2), 50);
        assert_eq!(percent(EXPECTED_STEPS * 2), 99);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let text: String = (0..50).map(|line| format!("{line}\n")).collect();
        assert!(tail(&text).starts_with("30\n"));
        assert_eq!(tail("one"), "one");
    }
}
