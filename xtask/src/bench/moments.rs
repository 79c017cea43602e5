//! The cases about forks and snapshots. Each names what peers publish of theirs: on other
//! hosts, with hardware virtualisation, so for orientation only.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    bundle::DEBIAN,
    measure::{self, Times},
    outcome::Outcome,
    store::Bench,
};
use crate::process;

/// Writes 40 MB about once a second, over the same 200 MB.
pub(super) const STEADY_WRITER: &str = "n=0; while :; do \
    dd if=/dev/urandom of=$f bs=1M count=40 seek=$((n % 5 * 40)) conv=notrunc 2> /dev/null; \
    n=$((n+1)); sleep 1; done";

/// Writes 4 MB and syncs them, over the same 200 MB, as fast as it can.
pub(super) const SYNC_WRITER: &str = "n=0; while :; do \
    dd if=/dev/zero of=$f bs=1M count=4 seek=$((n % 50 * 4)) conv=notrunc,fsync 2> /dev/null; \
    n=$((n+1)); done";

/// Writes over 1 GiB of memory again and again, a page after the other. It makes its file once it
/// has all of it.
const REWRITER: &str = "x = bytearray(1 << 30)
for i in range(0, 1 << 30, 4096): x[i] = 1
open('/rewriting', 'w').close(); i = 0
while True:
    x[i] = (x[i] + 1) & 255
    i = (i + 4096) % (1 << 30)";

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

    /// And while programs write to its disk?
    pub(super) fn writers_pause(
        &self,
        name: &'static str,
        writers: u32,
        script: &str,
    ) -> Result<Outcome> {
        self.with_sleeper(|id| {
            for writer in 0..writers {
                let script = format!("f=/written-{writer}; {script}");
                process::capture(&mut self.coffer(&["exec", "-d", id, "sh", "-c", &script]))?;
            }
            // They have filled their files once.
            std::thread::sleep(Duration::from_secs(6));
            Ok(Outcome {
                name,
                ours: Times::of(self.pauses(id)?)?,
                peer: None,
                target: "at most 100 ms",
                note: String::new(),
            })
        })
    }

    /// And while a program writes over its memory?
    pub(super) fn rewriter_pause(&self) -> Result<Outcome> {
        const LIMIT: Duration = Duration::from_secs(60);
        self.with_sandbox(&["-m", "1536m"], |id| {
            let rewriter = ["exec", "-d", id, "/usr/bin/python3", "-c", REWRITER];
            process::capture(&mut self.coffer(&rewriter))?;
            let begin = Instant::now();
            let ready = ["exec", id, "test", "-e", "/rewriting"];
            while measure::time(self.coffer(&ready)).is_err() {
                anyhow::ensure!(
                    begin.elapsed() < LIMIT,
                    "Memory was not filled in {LIMIT:?}"
                );
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(Outcome {
                name: "pause of a live capture, 1536 MiB, 1 GiB of it rewritten all the time",
                ours: Times::of(self.pauses(id)?)?,
                peer: None,
                target: "at most 200 ms",
                note: String::new(),
            })
        })
    }

    /// How long does a live sandbox stand still for a fork?
    pub(super) fn fork_pause(&self, name: &'static str, megabytes: u32) -> Result<Outcome> {
        self.with_sleeper(|id| {
            if megabytes > 0 {
                let script = format!("head -c {megabytes}M /dev/urandom > /x");
                process::capture(&mut self.coffer(&["exec", id, "sh", "-c", &script]))?;
            }
            Ok(Outcome {
                name,
                ours: Times::of(self.pauses(id)?)?,
                peer: None,
                target: "at most 100 ms",
                note: "forkd publishes 56 ms at 1.5 GiB, on hardware".to_owned(),
            })
        })
    }

    /// For how long a sandbox is frozen in each of five captures.
    fn pauses(&self, id: &str) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..5 {
            let args = ["snapshot", "create", "--json", id];
            let info: Value = serde_json::from_str(&process::capture(&mut self.coffer(&args))?)?;
            let micros = info["pause_us"]
                .as_u64()
                .context("There is no `pause_us`")?;
            times.push(Duration::from_micros(micros));
            let snapshot = info["id"].as_str().context("The snapshot has no id")?;
            process::capture(&mut self.coffer(&["snapshot", "rm", snapshot]))?;
        }
        Ok(times)
    }

    /// How much memory does an idle fork add to those that are there? What all forks of one
    /// moment have in common is paid once, so this is the difference that more of them make.
    pub(super) fn fork_memory(&self) -> Result<Outcome> {
        const COUNT: usize = 10;
        self.with_sleeper(|id| {
            let fork = || -> Result<(Duration, Vec<String>)> {
                let begin = Instant::now();
                let args = ["fork", "--count", &COUNT.to_string(), "bench-moment"];
                let forks = process::capture(&mut self.coffer(&args))?;
                let took = begin.elapsed();
                // What their start left to do is done.
                std::thread::sleep(Duration::from_secs(2));
                Ok((took, forks.lines().map(str::to_owned).collect()))
            };
            // An idle sandbox is one whose kernel has done what a start leaves it for later: free
            // pages are reported after 2 s, file systems write back after 5.
            std::thread::sleep(Duration::from_secs(8));
            let args = ["snapshot", "create", "--name", "bench-moment", id];
            process::capture(&mut self.coffer(&args))?;
            let (first_took, mut forks) = fork()?;
            let few = self.pss_kib(&forks)?;
            let (second_took, more) = fork()?;
            forks.extend(more);
            let many = self.pss_kib(&forks)?;
            self.remove(&forks)?;
            process::capture(&mut self.coffer(&["snapshot", "rm", "bench-moment"]))?;
            let mean_mib = |kib: u64, forks: usize| mib(kib << 10) / count(forks);
            Ok(Outcome {
                name: "10 forks of an idle sandbox, and the memory that each adds",
                ours: Times::of(vec![first_took, second_took])?,
                peer: None,
                target: "PSS added by an idle fork at most 25 MiB",
                note: format!(
                    "PSS of QEMU and supervisor: each of 10 more adds {:.1} MiB, the mean share \
                     of 20 is {:.1} MiB; forkd publishes 0.12 MiB, on hardware",
                    mean_mib(many.saturating_sub(few), COUNT),
                    mean_mib(many, forks.len())
                ),
            })
        })
    }

    /// What sandboxes' processes use, shared pages by their share.
    fn pss_kib(&self, ids: &[String]) -> Result<u64> {
        ids.iter().try_fold(0, |sum, id| {
            let text = process::capture(&mut self.coffer(&["inspect", id]))?;
            let info: Value = serde_json::from_str(&text)?;
            let pid = |key: &str| info[0][key].as_u64().context("It does not run");
            Ok(sum + pss_kib(pid("machine_pid")?)? + pss_kib(pid("supervisor_pid")?)?)
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

    fn remove<S: AsRef<str>>(&self, ids: &[S]) -> Result<()> {
        let args: Vec<&str> = ["rm", "-f"]
            .into_iter()
            .chain(ids.iter().map(AsRef::as_ref))
            .collect();
        process::capture(&mut self.coffer(&args)).map(drop)
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

fn count(items: usize) -> f64 {
    // Exact: nobody counts 2^52 things here.
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let items = items as f64;
    items
}

fn mib(bytes: u64) -> f64 {
    // Exact: no file here has 2^52 bytes.
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}
