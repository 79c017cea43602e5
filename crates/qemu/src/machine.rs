//! The machine: what can be done with a QEMU that runs.
//!
//! Locks: `agent`, `network`, `files`, `run_dir` and `usage` are each held for a few instructions and never across an await.

use std::{
    io,
    ops::Range,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cofferdam_backend::{
    BoxFuture, Capture, CapturePlan, DiskFailure, Error, ErrorKind, LogKind, Machine, MachineExit,
    MachineMetrics, MachineSpec, MachineStatus, Result, SnapshotFiles, log_files,
};
use cofferdam_types::{SandboxId, Signal};
use tokio::time::timeout;

use crate::{
    capture::{self, QemuCapture},
    control,
    controlled::{CaptureLock, Controlled, Origin, WritableDisk},
    process::Process,
    qmp::Qmp,
    record::{ProcessStat, Record},
    snapshot::{MemoryFile, Shape},
    spawn::Spawned,
};

/// A machine run by QEMU.
#[derive(Debug)]
pub(crate) struct QemuMachine {
    id: SandboxId,
    process: Arc<Process>,
    console_log: PathBuf,
    vmm_log: PathBuf,
    usage: Mutex<Usage>,
    /// What only the process that started the machine has.
    owned: Option<OwnedParts>,
}

#[derive(Debug)]
struct OwnedParts {
    agent: Mutex<Option<UnixStream>>,
    network: Mutex<Option<UnixStream>>,
    files: Mutex<Option<UnixStream>>,
    /// Where its record is.
    run_dir: Mutex<PathBuf>,
    /// Captures hold it too; it keeps no machine alive.
    controlled: Arc<Controlled>,
    /// Whether holes that it punches into its disks are made.
    discards: bool,
}

/// Processor time at the last look.
#[derive(Debug)]
struct Usage {
    at: Instant,
    cpu_time_ms: u64,
}

impl QemuMachine {
    /// A machine that this process started.
    pub(crate) fn started(
        spawned: Spawned,
        spec: &MachineSpec,
        shape: Shape,
        origin: Origin,
    ) -> Result<Self> {
        let process = Arc::new(spawned.process);
        let controlled = Controlled {
            process: Arc::clone(&process),
            qmp: spawned.qmp,
            shape,
            origin,
            disks: WritableDisk::all(spec)?,
            captures: CaptureLock::default(),
        };
        Ok(Self {
            id: spec.id,
            process,
            console_log: spec.console_log.clone(),
            vmm_log: spec.vmm_log.clone(),
            usage: Mutex::new(Usage {
                at: spawned.started,
                cpu_time_ms: 0,
            }),
            owned: Some(OwnedParts {
                agent: Mutex::new(Some(spawned.agent)),
                network: Mutex::new(spawned.network),
                files: Mutex::new(spawned.files),
                run_dir: Mutex::new(spec.run_dir.clone()),
                controlled: Arc::new(controlled),
                discards: spawned.makes_holes,
            }),
        })
    }

    /// A machine that another process started and still owns.
    pub(crate) fn attached(record: Record, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            id: record.id,
            process: Arc::new(Process::stranger(record.pid, pidfd)?),
            console_log: record.console_log,
            vmm_log: record.vmm_log,
            usage: Mutex::new(Usage {
                at: Instant::now(),
                cpu_time_ms: cpu_time_ms(&ProcessStat::read(record.pid)?),
            }),
            owned: None,
        })
    }

    pub(crate) fn qmp(&self) -> Result<&Qmp> {
        self.controlled().map(|controlled| &controlled.qmp)
    }

    fn owned(&self) -> Result<&OwnedParts> {
        self.owned.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::WrongState,
                "The machine is controlled by the process that started it",
            )
        })
    }

    fn controlled(&self) -> Result<&Arc<Controlled>> {
        self.owned().map(|owned| &owned.controlled)
    }

    async fn set_running(&self, run: bool) -> Result<()> {
        let controlled = self.controlled()?;
        controlled.alive()?;
        controlled
            .or_gone(control::set_running(&controlled.qmp, run).await)
            .await
    }

    async fn capture(&self, files: SnapshotFiles) -> Result<()> {
        let controlled = self.controlled()?;
        controlled.alive()?;
        if self.status() != MachineStatus::Paused {
            let what = "Only a paused machine can be captured";
            return Err(Error::new(ErrorKind::WrongState, what).hint("Pause it first"));
        }
        let _turn = controlled.captures.take_turn().await?;
        let memory = match &controlled.origin {
            Origin::Shared(path) if *path == files.memory => MemoryFile::Present,
            Origin::Shared(path) => {
                let what = format!("The machine's memory is the file `{}`", path.display());
                return Err(Error::new(ErrorKind::InvalidSpec, what)
                    .hint("Name that file as the snapshot's memory"));
            }
            Origin::Booted | Origin::Restored { .. } => MemoryFile::Write,
        };
        controlled.write_stream(files, memory, || ()).await
    }

    async fn end(&self, signal: rustix::process::Signal) -> Result<()> {
        self.process.signal(signal).map_err(|error| {
            Error::new(ErrorKind::Io, "The machine cannot be signalled").because(error)
        })
    }

    /// What QEMU printed last, for the errors of a failed start.
    pub(crate) fn last_words(&self) -> String {
        let lines = log_files::tail(&self.vmm_log, 3).unwrap_or_default();
        lines.join("; ")
    }
}

impl Machine for QemuMachine {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn status(&self) -> MachineStatus {
        // Its control channel may end a moment later.
        if self.process.exit().is_some() {
            return MachineStatus::Exited;
        }
        match &self.owned {
            Some(owned) => owned.controlled.status(),
            // Of another process's machine no more is known.
            None => MachineStatus::Running,
        }
    }

    fn wait(&self) -> BoxFuture<'_, MachineExit> {
        Box::pin(self.process.wait())
    }

    fn exit_status(&self) -> Option<MachineExit> {
        self.process.exit()
    }

    fn stop(&self, signal: Signal, limit: Duration) -> BoxFuture<'_, Result<MachineExit>> {
        Box::pin(async move {
            let number = i32::from(signal.number());
            let named = rustix::process::Signal::from_named_raw(number).ok_or_else(|| {
                let what = format!("The signal `{signal}` cannot be sent to a machine");
                Error::new(ErrorKind::InvalidSpec, what).hint("Use TERM, INT or KILL")
            })?;
            self.end(named).await?;
            match timeout(limit, self.process.wait()).await {
                Ok(exit) => Ok(exit),
                Err(_) => self.kill().await,
            }
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<MachineExit>> {
        Box::pin(async move {
            self.end(rustix::process::Signal::KILL).await?;
            Ok(self.process.wait().await)
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.set_running(false))
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.set_running(true))
    }

    fn snapshot(&self, files: SnapshotFiles) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.capture(files))
    }

    fn begin_capture(&self, plan: CapturePlan) -> BoxFuture<'_, Result<Box<dyn Capture>>> {
        Box::pin(async move {
            let controlled = Arc::clone(self.controlled()?);
            // On a task of its own: what it has set up in QEMU is taken down in order even if nobody
            // waits for it any more.
            let begun = tokio::spawn(QemuCapture::begin(controlled, plan)).await;
            let capture = begun.map_err(|error| {
                Error::new(ErrorKind::Io, "The capture was cut off").because(error)
            })??;
            Ok(Box::new(capture) as Box<dyn Capture>)
        })
    }

    fn agent_channel(&self) -> Result<UnixStream> {
        let taken = "The agent channel has been taken already";
        take(&self.owned()?.agent, taken)
    }

    fn file_channel(&self) -> Result<UnixStream> {
        let taken = "There is no file channel that can be taken";
        take(&self.owned()?.files, taken)
    }

    fn network_channel(&self) -> Result<UnixStream> {
        let taken = "There is no network interface whose channel can be taken";
        take(&self.owned()?.network, taken)
    }

    fn touched_memory(&self) -> BoxFuture<'_, Result<Option<Vec<Range<u64>>>>> {
        Box::pin(async move { capture::touched(self.controlled()?).await })
    }

    fn disk_failure(&self) -> BoxFuture<'_, DiskFailure> {
        Box::pin(async {
            if let Ok(qmp) = self.qmp() {
                let mut failure = qmp.events().disk_failure;
                if let Ok(found) = failure.wait_for(Option::is_some).await
                    && let Some(failure) = found.clone()
                {
                    return failure;
                }
            }
            std::future::pending().await
        })
    }

    fn discards(&self) -> bool {
        self.owned.as_ref().is_some_and(|owned| owned.discards)
    }

    fn metrics(&self) -> Result<MachineMetrics> {
        self.process.alive()?;
        let stat = ProcessStat::read(self.process.pid)
            .map_err(|error| Error::new(ErrorKind::Gone, "The machine has ended").because(error))?;
        let now = Usage {
            at: Instant::now(),
            cpu_time_ms: cpu_time_ms(&stat),
        };
        let mut last = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.at.duration_since(last.at);
        let used = Duration::from_millis(now.cpu_time_ms.saturating_sub(last.cpu_time_ms));
        let metrics = MachineMetrics {
            cpu_time_ms: now.cpu_time_ms,
            // A look right after the last one has no time to share out.
            cpu_percent: if elapsed.is_zero() {
                0.0
            } else {
                100.0 * used.as_secs_f64() / elapsed.as_secs_f64()
            },
            memory_bytes: stat.resident_pages * rustix::param::page_size() as u64,
        };
        *last = now;
        Ok(metrics)
    }

    fn move_to(&self, run_dir: &Path) -> Result<()> {
        let mut current = self
            .owned()?
            .run_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Record::rename(&current, run_dir).map_err(|error| {
            let what = format!("The record cannot be moved to `{}`", run_dir.display());
            Error::new(ErrorKind::Io, what).because(error)
        })?;
        run_dir.clone_into(&mut current);
        Ok(())
    }

    fn logs(&self, lines: usize, kind: LogKind) -> Result<Vec<String>> {
        let path = match kind {
            LogKind::Console => &self.console_log,
            LogKind::Vmm => &self.vmm_log,
        };
        log_files::tail(path, lines).map_err(|error| {
            let what = format!("The log `{}` cannot be read", path.display());
            Error::new(ErrorKind::Io, what).because(error)
        })
    }

    fn balloon(&self, target_mib: u32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let controlled = self.controlled()?;
            controlled.alive()?;
            let target = u64::from(target_mib) << 20;
            if target == 0 || target > controlled.shape.memory_bytes() {
                let what = format!("`{target_mib}` MiB are not within the guest's memory");
                return Err(Error::new(ErrorKind::InvalidSpec, what));
            }
            controlled
                .or_gone(control::balloon(&controlled.qmp, target).await)
                .await
        })
    }
}

fn take(channel: &Mutex<Option<UnixStream>>, absent: &str) -> Result<UnixStream> {
    let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    channel
        .take()
        .ok_or_else(|| Error::new(ErrorKind::WrongState, absent))
}

impl Drop for QemuMachine {
    /// The process that started a machine takes it along; the task that waits for it reaps it.
    fn drop(&mut self) {
        if self.owned.is_some() {
            let _ = self.process.signal(rustix::process::Signal::KILL);
        }
    }
}

fn cpu_time_ms(stat: &ProcessStat) -> u64 {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    (stat.user_ticks + stat.system_ticks) * 1000 / per_second
}
