//! The cases: each a question that a user would ask.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

use super::{
    bundle::DEBIAN,
    measure::{self, Times},
    moments::{STEADY_WRITER, SYNC_WRITER},
    outcome::{Outcome, outcome},
    pools::{PYTHON, TRUE},
    store::Bench,
};
use crate::{process, qemu::Qemu};

/// Measures everything.
///
/// # Errors
/// When a command fails.
pub(crate) fn run_all(
    program: &Path,
    qemu: &Qemu,
    dir: &Path,
    runs: usize,
) -> Result<Vec<Outcome>> {
    let bench = Bench::new(program, qemu, dir, runs)?;
    let mut outcomes = vec![
        told(bench.load()?),
        told(bench.first_run()?),
        told(bench.run()?),
        told(bench.python()?),
        told(bench.exec()?),
        told(bench.first_exec()?),
        told(bench.exec_stdout()?),
        told(bench.fork_to_exec()?),
        told(bench.pool("run --rm /bin/true from a plain pool", &[], TRUE)?),
        told(bench.pool(
            "run --rm /bin/true from a pool warmed with it",
            &["--exec", "true"],
            TRUE,
        )?),
        told(bench.pool(
            "run --rm python3 -c 'print(1)' from a plain pool of an image that starts python3",
            &["--entrypoint", "/usr/bin/python3"],
            PYTHON,
        )?),
        told(bench.pool(
            "run --rm python3 -c 'print(1)' from a pool warmed with it",
            &["--exec", "python3 -c 'print(1)'"],
            PYTHON,
        )?),
        told(bench.forks_at_once()?),
        told(bench.fork_pause("pause of a live capture, 512 MiB, idle", 0)?),
        told(bench.fork_pause(
            "pause of a live capture, 512 MiB, a 200 MiB file just written",
            200,
        )?),
        told(bench.fork_pause(
            "pause of a live capture, 512 MiB, a 380 MiB file just written",
            380,
        )?),
        told(bench.writers_pause(
            "pause of a live capture, one writer of 40 MB/s",
            1,
            STEADY_WRITER,
        )?),
        told(bench.writers_pause(
            "pause of a live capture, three writers with fsync",
            3,
            SYNC_WRITER,
        )?),
        told(bench.rewriter_pause()?),
        told(bench.fork_memory()?),
        told(bench.snapshot_file()?),
    ];
    outcomes.extend(network(&bench)?);
    let _ = fs::remove_dir_all(&bench.home);
    Ok(outcomes)
}

/// Measures the network alone.
///
/// # Errors
/// When a command fails.
pub(crate) fn run_network(
    program: &Path,
    qemu: &Qemu,
    dir: &Path,
    runs: usize,
) -> Result<Vec<Outcome>> {
    let bench = Bench::new(program, qemu, dir, runs)?;
    let archive = bench.inputs.archive.display().to_string();
    process::capture(&mut bench.coffer(&["load", "-i", &archive]))?;
    let outcomes = network(&bench)?;
    let _ = fs::remove_dir_all(&bench.home);
    Ok(outcomes)
}

fn network(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![
        told(bench.start_with_network()?),
        told(bench.fork_with_network()?),
    ];
    outcomes.extend(bench.network_beside_peers()?.into_iter().map(told));
    Ok(outcomes)
}

/// Prints what was measured, so that a case that fails does not lose those before it.
fn told(outcome: Outcome) -> Outcome {
    let peer = outcome.peer.as_ref();
    let ratio = peer.map_or(String::new(), |(name, _, ratio)| {
        format!(", {ratio:.2} of {name}")
    });
    println!(
        "{}: {:.0} ms ({:.0}-{:.0}){ratio}",
        outcome.name,
        outcome.ours.median_ms(),
        outcome.ours.min_ms(),
        outcome.ours.max_ms()
    );
    outcome
}

impl Bench<'_> {
    /// How long does it take to take in an image of 200 MB?
    fn load(&self) -> Result<Outcome> {
        let archive = self.inputs.archive.display().to_string();
        let reference = format!("{}:debian", self.inputs.layout.display());
        let unpacked = self.dir.join("unpacked");
        let pair = measure::pair(
            3,
            || {
                let _ = fs::remove_dir_all(&self.home);
                Ok(self.coffer(&["load", "-i", &archive]))
            },
            || {
                let _ = fs::remove_dir_all(&unpacked);
                let mut umoci = Command::new("umoci");
                umoci.args(["unpack", "--image", &reference]).arg(&unpacked);
                Ok(umoci)
            },
        )?;
        let _ = fs::remove_dir_all(&unpacked);
        Ok(outcome(
            "load a 200 MB Debian image",
            pair,
            "umoci unpack",
            "at most half of umoci",
        ))
    }

    /// How long is the first run of an image that was loaded a moment ago?
    fn first_run(&self) -> Result<Outcome> {
        // The base template belongs to the host, not to the image: it is there.
        measure::time(self.coffer(&["run", "--rm", DEBIAN, "--", "/bin/true"]))?;
        let archive = self.inputs.archive.display().to_string();
        let mut times = Vec::new();
        for _ in 0..5 {
            self.drop_image_templates()?;
            process::capture(&mut self.coffer(&["rmi", "-f", DEBIAN]))?;
            process::capture(&mut self.coffer(&["load", "-i", &archive]))?;
            times.push(measure::time(self.coffer(&[
                "run",
                "--rm",
                DEBIAN,
                "--",
                "/bin/true",
            ]))?);
        }
        Ok(Outcome {
            name: "first run of a fresh image, /bin/true",
            ours: Times::of(times)?,
            peer: None,
            target: "at most 1000 ms",
            note: String::new(),
        })
    }

    /// How long does a command take in a fresh sandbox?
    fn run(&self) -> Result<Outcome> {
        self.wait_for_image_template()?;
        let pair = measure::pair(
            self.runs,
            || Ok(self.coffer(&["run", "--rm", DEBIAN, "--", "/bin/true"])),
            || self.runsc(&["/bin/true"]),
        )?;
        let target = "at most 150 ms, not slower than runsc";
        Ok(outcome("run --rm /bin/true", pair, "runsc ptrace", target))
    }

    /// And one that does something?
    fn python(&self) -> Result<Outcome> {
        let mut ours = vec!["run", "--rm", DEBIAN, "--"];
        ours.extend(PYTHON);
        let pair = measure::pair(5, || Ok(self.coffer(&ours)), || self.runsc(PYTHON))?;
        Ok(outcome(
            "run --rm python3 -c 'print(1)'",
            pair,
            "runsc ptrace",
            "reported",
        ))
    }

    /// How long does one more command take in a running sandbox?
    fn exec(&self) -> Result<Outcome> {
        self.with_sleeper(|id| {
            for _ in 0..5 {
                measure::time(self.coffer(&["exec", id, "/bin/true"]))?;
            }
            let ours = measure::alone(self.runs * 2, || {
                Ok(self.coffer(&["exec", id, "/bin/true"]))
            })?;
            Ok(Outcome {
                name: "exec /bin/true",
                ours,
                peer: None,
                target: "at most 20 ms",
                note: String::new(),
            })
        })
    }

    /// And the first one after a start?
    fn first_exec(&self) -> Result<Outcome> {
        let times = (0..self.runs).map(|_| {
            self.with_sleeper(|id| measure::time(self.coffer(&["exec", id, "/bin/true"])))
        });
        Ok(Outcome {
            name: "first exec /bin/true after a start",
            ours: Times::of(times.collect::<Result<_>>()?)?,
            peer: None,
            target: "near the later ones",
            note: String::new(),
        })
    }

    /// How fast does output come out, and does the supervisor's memory stay flat?
    fn exec_stdout(&self) -> Result<Outcome> {
        const MEGABYTES: u32 = 256;
        self.with_sleeper(|id| {
            let supervisor = self.supervisor(id)?;
            let before = resident_kib(supervisor)?;
            let script = format!("head -c {MEGABYTES}M /dev/zero");
            let mut times = Vec::new();
            for _ in 0..3 {
                let mut command = self.coffer(&["exec", id, "sh", "-c", &script]);
                let begin = Instant::now();
                let status = command
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()?;
                anyhow::ensure!(status.success(), "exec failed: {status}");
                times.push(begin.elapsed());
            }
            let growth = resident_kib(supervisor)?.saturating_sub(before);
            let ours = Times::of(times)?;
            let rate = f64::from(MEGABYTES) / (ours.median_ms() / 1000.0);
            Ok(Outcome {
                name: "exec, 256 MiB of output",
                ours,
                peer: None,
                target: "reported; supervisor memory flat",
                note: format!("{rate:.0} MiB/s; supervisor grew by {growth} KiB"),
            })
        })
    }

    fn supervisor(&self, id: &str) -> Result<u64> {
        let text = process::capture(&mut self.coffer(&["inspect", id]))?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value[0]["supervisor_pid"]
            .as_u64()
            .context("The sandbox has no supervisor")
    }
}

/// Resident memory of a process. Source: proc_pid_status(5), `VmRSS`.
fn resident_kib(pid: u64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .context("The supervisor has ended")
}
