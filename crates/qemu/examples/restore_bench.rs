//! How long a restore takes, from the call to the guest's first reply: of a plain machine, and of one
//! with a network interface, with a file channel, and with both.
//!
//! ```text
//! cargo run --release -p cofferdam-qemu --example restore_bench -- KERNEL INITRD [RUNS]
//! ```
//! INITRD holds the agent, or any program that answers each message on the agent port.

#![allow(clippy::print_stdout, reason = "a measuring program prints")]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cofferdam_backend::{Backend, MachineSpec, MemoryBacking, SnapshotFiles};
use cofferdam_proto::{CONTROL_STREAM, HostMessage, encode_control};
use cofferdam_qemu::QemuBackend;

/// A boot takes seconds under emulation.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(kernel), Some(initrd)) = (args.next(), args.next()) else {
        bail!("usage: restore_bench KERNEL INITRD [RUNS]");
    };
    let runs = args
        .next()
        .map_or(Ok(21), |runs| runs.to_string_lossy().parse::<usize>())?;
    let dir = tempfile::tempdir()?;
    let backend = QemuBackend::tcg().with_kept_probe(dir.path().join("probe.json"));
    let bench = Bench {
        backend,
        dir: dir.path().to_owned(),
        kernel: kernel.into(),
        initrd: initrd.into(),
    };
    let mut kinds = Vec::new();
    for (name, network, files) in [
        ("plain", false, false),
        ("network", true, false),
        ("files", false, true),
        ("both", true, true),
    ] {
        let spec = bench.spec(name, network, files)?;
        kinds.push((name, bench.capture(&spec).await?, spec));
    }
    let mut rows = vec![<[Vec<f64>; 3]>::default(); kinds.len()];
    // In turn, so that a busy host is busy for all of them.
    for run in 0..runs {
        for ((_, files, spec), rows) in kinds.iter().zip(&mut rows) {
            let times = bench.restore(files, spec, run).await?;
            for (row, time) in rows.iter_mut().zip(times) {
                row.push(time);
            }
        }
    }
    for ((kind, ..), rows) in kinds.iter().zip(&mut rows) {
        for (name, row) in ["restored", "first reply", "killed"].iter().zip(rows) {
            row.sort_by(f64::total_cmp);
            let (median, last) = (row[row.len() / 2], row[row.len() - 1]);
            println!(
                "{kind:8} {name:12} median {median:6.1} ms, least {:6.1}, most {last:6.1}",
                row[0]
            );
        }
    }
    Ok(())
}

struct Bench {
    backend: QemuBackend,
    dir: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Bench {
    fn spec(&self, name: &str, network: bool, files: bool) -> Result<MachineSpec> {
        let run_dir = self.dir.join(name);
        let network =
            network.then(|| serde_json::json!({ "mac": "02:00:00:00:00:01", "mtu": 65520 }));
        Ok(serde_json::from_value(serde_json::json!({
            "network": network,
            "file_channel": files,
            "id": "00".repeat(32),
            "vcpus": 1,
            "memory_mib": 256,
            "kernel": self.kernel,
            "initrd": self.initrd,
            "console_log": self.dir.join(format!("{name}.console")),
            "vmm_log": self.dir.join(format!("{name}.vmm")),
            "run_dir": run_dir,
        }))?)
    }

    async fn capture(&self, spec: &MachineSpec) -> Result<SnapshotFiles> {
        let memory = spec.run_dir.with_extension("memory");
        let state = spec.run_dir.with_extension("state");
        let spec = MachineSpec {
            memory: MemoryBacking::SharedFile(memory.clone()),
            ..spec.clone()
        };
        let began = Instant::now();
        let machine = self.backend.start(&spec).await?;
        exchange(machine.agent_channel()?).context("the guest did not come up")?;
        println!("boot to first reply: {:.0} ms", ms(began));
        let began = Instant::now();
        let files = SnapshotFiles { memory, state };
        machine.pause().await?;
        machine.snapshot(files.clone()).await?;
        println!("capture: {:.1} ms", ms(began));
        machine.kill().await?;
        Ok(files)
    }

    async fn restore(
        &self,
        files: &SnapshotFiles,
        spec: &MachineSpec,
        run: usize,
    ) -> Result<[f64; 3]> {
        let spec = MachineSpec {
            run_dir: self.dir.join(format!("run-{run}")),
            ..spec.clone()
        };
        let began = Instant::now();
        let machine = self.backend.restore(files, &spec).await?;
        let restored = ms(began);
        exchange(machine.agent_channel()?)?;
        let replied = ms(began);
        machine.kill().await?;
        remove(&spec.run_dir)?;
        Ok([restored, replied, ms(began)])
    }
}

/// One message there and one back; a guest that is no agent may answer anything.
fn exchange(mut channel: UnixStream) -> Result<()> {
    channel.set_read_timeout(Some(BOOT_TIMEOUT))?;
    let generation = cofferdam_proto::GENERATION;
    let mut hello = Vec::new();
    encode_control(
        CONTROL_STREAM,
        &HostMessage::Hello { generation },
        &mut hello,
    )?;
    channel.write_all(&hello)?;
    let mut byte = [0];
    channel.read_exact(&mut byte)?;
    Ok(())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn remove(path: &Path) -> Result<()> {
    Ok(std::fs::remove_dir_all(path)?)
}
