//! The cases about forks, snapshots and pools. Each names what peers publish of theirs: on other
//! hosts, with hardware virtualisation, so for orientation only.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    bundle::DEBIAN,
    cases::{Bench, Outcome, outcome},
    measure::{self, Times},
};
use crate::process;

/// Standbys of the pools that are measured.
const POOL_SIZE: u64 = 3;

impl Bench<'_> {
    /// How long is it from a fork of the image's template to the first reply of a command in it?
    pub(super) fn fork_to_exec(&self) -> Result<Outcome> {
        let mut times = Vec::new();
        for _ in 0..=self.runs {
            let begin = Instant::now();
            let id = process::capture(&mut self.coffer(&["run", "-d", DEBIAN, "sleep", "1000"]))?;
            process::capture(&mut self.coffer(&["exec", &id, "/bin/true"]))?;
            times.push(begin.elapsed());
            process::capture(&mut self.coffer(&["rm", "-f", &id]))?;
        }
        // The first is not counted.
        times.remove(0);
        Ok(Outcome {
            name: "fork of the image's template to the first exec's reply, two commands",
            ours: Times::of(times)?,
            peer: None,
            target: "at most 150 ms",
            note: "Mitos publishes 104 ms, forkd 61, on hardware".to_owned(),
        })
    }

    /// How long does a command take that claims a standby?
    pub(super) fn pool_run(&self) -> Result<Outcome> {
        self.with_pool("true", || {
            let pair = measure::pair(
                self.runs,
                || {
                    self.wait_for_pool()?;
                    Ok(self.coffer(&["run", "--rm", DEBIAN, "--", "/bin/true"]))
                },
                || self.runsc(&["/bin/true"]),
            )?;
            Ok(Outcome {
                note: "vm0 publishes 22 ms for a parked machine, on hardware".to_owned(),
                ..outcome(
                    "run --rm /bin/true from a pool",
                    pair,
                    "runsc ptrace",
                    "at most 60 ms",
                )
            })
        })
    }

    /// And one that does something?
    pub(super) fn pool_python(&self) -> Result<Outcome> {
        let command = ["/usr/bin/python3", "-c", "print(1)"];
        let mut ours = vec!["run", "--rm", DEBIAN, "--"];
        ours.extend(command);
        self.with_pool("python3 -c 'print(1)'", || {
            let pair = measure::pair(
                self.runs,
                || {
                    self.wait_for_pool()?;
                    Ok(self.coffer(&ours))
                },
                || self.runsc(&command),
            )?;
            Ok(outcome(
                "run --rm python3 -c 'print(1)' from a pool",
                pair,
                "runsc ptrace",
                "not slower than runsc",
            ))
        })
    }

    /// How long do twenty forks of a live sandbox take, all together?
    pub(super) fn forks_at_once(&self) -> Result<Outcome> {
        const COUNT: usize = 20;
        self.with_sleeper(|id| {
            let mut times = Vec::new();
            for _ in 0..3 {
                let begin = Instant::now();
                let args = ["fork", "--count", &COUNT.to_string(), id];
                let forks = process::capture(&mut self.coffer(&args))?;
                times.push(begin.elapsed());
                let forks: Vec<&str> = forks.lines().collect();
                anyhow::ensure!(forks.len() == COUNT, "{} forks came up", forks.len());
                self.remove(&forks)?;
            }
            Ok(Outcome {
                name: "20 forks of a live sandbox at once",
                ours: Times::of(times)?,
                peer: None,
                target: "at most 2000 ms",
                note: "forkd publishes 101 ms for 100 on 20 processors".to_owned(),
            })
        })
    }

    /// How long does a live sandbox stand still for a fork?
    pub(super) fn fork_pause(&self, megabytes: u32) -> Result<Outcome> {
        self.with_sleeper(|id| {
            if megabytes > 0 {
                let script = format!("head -c {megabytes}M /dev/urandom > /x");
                process::capture(&mut self.coffer(&["exec", id, "sh", "-c", &script]))?;
            }
            let mut times = Vec::new();
            for _ in 0..5 {
                let args = ["snapshot", "create", "--json", id];
                let info: Value =
                    serde_json::from_str(&process::capture(&mut self.coffer(&args))?)?;
                let micros = info["pause_us"].as_u64().context("No pause was told")?;
                times.push(Duration::from_micros(micros));
                let snapshot = info["id"].as_str().context("The snapshot has no id")?;
                process::capture(&mut self.coffer(&["snapshot", "rm", snapshot]))?;
            }
            Ok(Outcome {
                name: if megabytes == 0 {
                    "pause of a live capture, 512 MiB, idle"
                } else {
                    "pause of a live capture, 512 MiB, a 200 MiB file just written"
                },
                ours: Times::of(times)?,
                peer: None,
                target: "at most 100 ms",
                note: "forkd publishes 56 ms at 1.5 GiB, on hardware".to_owned(),
            })
        })
    }

    /// How much memory does an idle fork add?
    pub(super) fn fork_memory(&self) -> Result<Outcome> {
        const COUNT: usize = 8;
        self.with_sleeper(|id| {
            let begin = Instant::now();
            let args = ["fork", "--count", &COUNT.to_string(), id];
            let forks = process::capture(&mut self.coffer(&args))?;
            let took = begin.elapsed();
            let forks: Vec<&str> = forks.lines().collect();
            // All of them settle for as long, and then only tick.
            std::thread::sleep(Duration::from_secs(2));
            let mut kib = Vec::new();
            for fork in &forks {
                let text = process::capture(&mut self.coffer(&["inspect", fork]))?;
                let info: Value = serde_json::from_str(&text)?;
                let pid = |key: &str| info[0][key].as_u64().context("It does not run");
                kib.push(pss_kib(pid("machine_pid")?)? + pss_kib(pid("supervisor_pid")?)?);
            }
            self.remove(&forks)?;
            kib.sort_unstable();
            let median = kib.get(kib.len() / 2).copied().unwrap_or_default();
            Ok(Outcome {
                name: "8 forks, and the memory that an idle one adds",
                ours: Times::of(vec![took])?,
                peer: None,
                target: "PSS of a fork at most 25 MiB",
                note: format!(
                    "PSS of QEMU and supervisor {:.1} MiB; forkd publishes 0.12 MiB, on hardware",
                    mib(median << 10)
                ),
            })
        })
    }

    /// How large is the file of an idle sandbox's snapshot?
    pub(super) fn snapshot_file(&self) -> Result<Outcome> {
        self.with_sleeper(|id| {
            let snapshot = process::capture(&mut self.coffer(&["snapshot", "create", id]))?;
            let file = self.dir().join("snapshot.coffer");
            let path = file.display().to_string();
            let args = ["snapshot", "export", "-o", &path, &snapshot];
            let times = measure::alone(3, || Ok(self.coffer(&args)))?;
            let bytes = fs::metadata(&file)?.len();
            fs::remove_file(&file)?;
            process::capture(&mut self.coffer(&["snapshot", "rm", &snapshot]))?;
            Ok(Outcome {
                name: "snapshot export of an idle 512 MiB Debian sandbox",
                ours: times,
                peer: None,
                target: "at most 60 MiB",
                note: format!("{:.1} MiB", mib(bytes)),
            })
        })
    }

    fn remove(&self, ids: &[&str]) -> Result<()> {
        let args: Vec<&str> = ["rm", "-f"]
            .into_iter()
            .chain(ids.iter().copied())
            .collect();
        process::capture(&mut self.coffer(&args)).map(drop)
    }

    fn with_pool<T>(&self, warm_up: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let size = POOL_SIZE.to_string();
        let args = [
            "pool", "create", "--name", "bench", "--size", &size, "--exec", warm_up, DEBIAN,
        ];
        process::capture(&mut self.coffer(&args))?;
        let result = work();
        process::capture(&mut self.coffer(&["pool", "rm", "bench"]))?;
        result
    }

    /// A claimed standby is replaced in the background; what is measured is a full pool.
    fn wait_for_pool(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        loop {
            let text = process::capture(&mut self.coffer(&["pool", "list", "--json"]))?;
            let pools: Value = serde_json::from_str(&text)?;
            if pools[0]["ready"].as_u64() == Some(POOL_SIZE) {
                return Ok(());
            }
            anyhow::ensure!(
                begin.elapsed() < LIMIT,
                "The pool was not full in {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process's share of the memory that it uses with others. Source: proc_pid_smaps(5),
/// `smaps_rollup`.
fn pss_kib(pid: u64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = text.lines().find_map(|line| {
        let value = line.strip_prefix("Pss:")?.trim();
        value.strip_suffix("kB")?.trim().parse().ok()
    });
    pss.context("The process has ended")
}

fn mib(bytes: u64) -> f64 {
    // Exact: no file here has 2^52 bytes.
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}
