//! `soak`: runs the lab's own test again and again, and counts how it ends.
//!
//! Each run is one line of `target/soak/lab-qemu-VERSION.jsonl`, written when it has ended: a soak
//! that was interrupted goes on where it was.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    args::Args,
    lab::{self, Outcome},
    qemu::Qemu,
    workspace,
};

/// Runs without `--runs`.
const RUNS: usize = 100;

/// One run of the lab's test.
#[derive(Debug, Deserialize, Serialize)]
struct Run {
    outcome: Outcome,
    seconds: f64,
    /// Processes that wanted a processor in the minute before the end, proc_loadavg(5): what else
    /// the machine did.
    load: f64,
}

/// Runs the verb: `--runs N` is the count with those that are recorded already, `--qemu VERSION`
/// the lab's QEMU.
///
/// # Errors
/// When an argument is wrong or the lab cannot be started. A run that fails is counted.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let args = Args::parse_with(args, &[], &["--runs", "--qemu"])?;
    let runs = match args.value("--runs") {
        Some(text) => text
            .parse()
            .with_context(|| format!("`{text}` is no count"))?,
        None => RUNS,
    };
    let version = args.value("--qemu").unwrap_or(lab::QEMU);
    let qemu = Qemu::unpacked(&version.parse()?)?;
    let directory = workspace::target().join("soak");
    fs::create_dir_all(&directory)
        .with_context(|| format!("Could not make `{}`", directory.display()))?;
    let path = directory.join(format!("lab-qemu-{}.jsonl", qemu.version()?));
    let mut all = read(&path)?;
    while all.len() < runs {
        let trial = lab::trial(version)?;
        let run = Run {
            outcome: trial.outcome,
            seconds: trial.time.as_secs_f64(),
            load: load()?,
        };
        record(&path, &run)?;
        if run.outcome != Outcome::Passed {
            keep(&path, all.len(), &trial.output)?;
        }
        println!(
            "run {}: {:?} after {:.0} s, load {}",
            all.len() + 1,
            run.outcome,
            run.seconds,
            run.load
        );
        all.push(run);
    }
    println!("QEMU {}: {}", qemu.version()?, summary(&all));
    println!("{}", path.display());
    Ok(())
}

/// The runs that are recorded.
fn read(path: &Path) -> Result<Vec<Run>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let context = || format!("Could not read `{}`", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let runs = text.lines().map(serde_json::from_str);
    runs.collect::<Result<_, _>>().with_context(context)
}

fn record(path: &Path, run: &Run) -> Result<()> {
    let context = || format!("Could not write `{}`", path.display());
    let line = serde_json::to_string(run).with_context(context)? + "\n";
    let file = OpenOptions::new().append(true).create(true).open(path);
    let mut file = file.with_context(context)?;
    file.write_all(line.as_bytes()).with_context(context)
}

/// Keeps what the lab said in a run that did not pass.
fn keep(path: &Path, index: usize, output: &str) -> Result<()> {
    let log: PathBuf = path.with_extension(format!("{}.log", index + 1));
    fs::write(&log, output).with_context(|| format!("Could not write `{}`", log.display()))
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("Could not read `/proc/loadavg`")?;
    match text.split_whitespace().next().map(str::parse) {
        Some(Ok(load)) => Ok(load),
        _ => bail!("`/proc/loadavg` has no number"),
    }
}

fn summary(runs: &[Run]) -> String {
    let count = |outcome| runs.iter().filter(|run| run.outcome == outcome).count();
    let longest = runs.iter().map(|run| run.seconds).fold(0.0, f64::max);
    format!(
        "{} runs: {} passed, {} stopped, {} failed, {} starved by a busy host; the longest took \
         {longest:.0} s",
        runs.len(),
        count(Outcome::Passed),
        count(Outcome::Stopped),
        count(Outcome::Failed),
        count(Outcome::Starved)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_back_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runs.jsonl");
        assert!(read(&path).unwrap().is_empty());
        for outcome in [Outcome::Passed, Outcome::Stopped, Outcome::Passed] {
            let run = Run {
                outcome,
                seconds: 25.0,
                load: 1.5,
            };
            record(&path, &run).unwrap();
        }
        let expected = "3 runs: 2 passed, 1 stopped, 0 failed, 0 starved by a busy host; the \
                        longest took 25 s";
        assert_eq!(summary(&read(&path).unwrap()), expected);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_a_new_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runs.jsonl");
        fs::write(&path, "{\"outcome\":\"Pas").unwrap();
        assert!(read(&path).is_err());
    }
}
