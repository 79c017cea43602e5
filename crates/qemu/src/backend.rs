//! The backend: probe, start, restore, attach, list.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::{
    accel::Accel,
    argv::{self, MACHINE_GENERATION},
    control,
    controlled::Origin,
    diagnose,
    machine::QemuMachine,
    map,
    probe::{INSTALL, Program},
    processor,
    record::Record,
    snapshot::{self, Shape},
    spawn::{self, Spawned},
};
use cofferdam_backend::{
    Backend, BackendCapabilities, BackendKind, BoxFuture, Diagnosis, Error, ErrorKind, Failure,
    HostProbe, Machine, MachineInfo, MachineSpec, MemoryBacking, ProbeFix, Result, SnapshotFiles,
    SnapshotTier,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, pidfd_send_signal},
};

/// Whether KVM can run a kernel here. The caller has probed it; this crate does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmUsable {
    /// It can.
    Yes,
    /// It cannot.
    No {
        /// One sentence.
        reason: String,
        /// What would mend it.
        fixes: Vec<ProbeFix>,
    },
}

/// Machines by QEMU with one accelerator.
#[derive(Debug)]
pub struct QemuBackend {
    accel: Accel,
    kvm: KvmUsable,
    asked: Option<PathBuf>,
    kept: Option<PathBuf>,
    found: OnceLock<Program>,
}

impl QemuBackend {
    /// QEMU with KVM, as far as `usable` says that there is one.
    #[must_use]
    pub const fn kvm(usable: KvmUsable) -> Self {
        Self::new(Accel::Kvm, usable)
    }

    /// QEMU's emulation; it works on every host.
    #[must_use]
    pub const fn tcg() -> Self {
        Self::new(Accel::Tcg, KvmUsable::Yes)
    }

    const fn new(accel: Accel, kvm: KvmUsable) -> Self {
        Self {
            accel,
            kvm,
            asked: None,
            kept: None,
            found: OnceLock::new(),
        }
    }

    /// Uses this program instead of the one in `PATH`.
    #[must_use]
    pub fn with_program(mut self, path: PathBuf) -> Self {
        self.asked = Some(path);
        self
    }

    /// Keeps what the program says of itself in this file, so that the next process need not ask,
    /// which takes 11 ms.
    #[must_use]
    pub fn with_kept_probe(mut self, file: PathBuf) -> Self {
        self.kept = Some(file);
        self
    }

    fn program(&self) -> Result<&Program> {
        if let Some(program) = self.found.get() {
            return Ok(program);
        }
        // A failure is not kept: the user may install QEMU while this process lives.
        let program = Program::find(self.asked.as_deref(), self.kept.as_deref())?;
        Ok(self.found.get_or_init(|| program))
    }

    fn usable(&self) -> Result<&Program> {
        if let KvmUsable::No { reason, fixes } = &self.kvm {
            let error = Error::new(ErrorKind::Unavailable, reason.clone());
            let command = fixes.iter().find_map(|fix| fix.command.as_ref());
            return Err(match command {
                Some(command) => error.hint(format!("Try `{command}`, or use `--backend qemu`")),
                None => error.hint("Use `--backend qemu`"),
            });
        }
        self.program()
    }

    fn shape(&self, spec: &MachineSpec) -> Result<Shape> {
        Ok(Shape::of(spec, self.compatibility_key()?))
    }

    async fn start_machine(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>> {
        map::check(spec)?;
        let program = self.usable()?;
        let shape = self.shape(spec)?;
        let (accel, asked) = (self.accel, spec.clone());
        let plan = tokio::task::spawn_blocking(move || map::boot(accel, &asked))
            .await
            .map_err(|error| {
                Error::new(ErrorKind::StartFailed, "The start was cut off").because(error)
            })??;
        let spawned = spawn::spawn(program, &plan, spec, self.name(), None).await?;
        let origin = match &spec.memory {
            MemoryBacking::Private => Origin::Booted,
            MemoryBacking::SharedFile(path) => Origin::Shared(path.clone()),
        };
        let machine = QemuMachine::started(spawned, spec, shape, origin)?;
        match control::greet(machine.qmp()?).await {
            Ok(()) => Ok(Box::new(machine)),
            Err(error) => Err(died(&machine, ErrorKind::StartFailed, error).await),
        }
    }

    async fn restore_machine(
        &self,
        files: &SnapshotFiles,
        spec: &MachineSpec,
    ) -> Result<Box<dyn Machine>> {
        map::check(spec)?;
        let program = self.usable()?;
        let shape = self.shape(spec)?;
        let state = snapshot::open(&files.state, &shape)?;
        let plan = map::restore(self.accel, spec, &files.memory)?;
        let origin = origin(&files.memory, &state, spec)?;
        let spawned: Spawned =
            spawn::spawn(program, &plan, spec, self.name(), Some(state.into())).await?;
        let machine = QemuMachine::started(spawned, spec, shape, origin)?;
        match control::load(machine.qmp()?, spec.network.is_some()).await {
            Ok(()) => Ok(Box::new(machine)),
            // The files were whole, so what QEMU refuses is what they hold.
            Err(error) => Err(died(&machine, ErrorKind::BadSnapshot, error).await),
        }
    }
}

/// What a machine restored from these files begins with.
fn origin(memory: &Path, state: &File, spec: &MachineSpec) -> Result<Origin> {
    if let MemoryBacking::SharedFile(path) = &spec.memory {
        return Ok(Origin::Shared(path.clone()));
    }
    let memory = File::open(memory).map_err(|error| {
        let what = format!("The memory file `{}` cannot be opened", memory.display());
        Error::new(ErrorKind::BadSnapshot, what).because(error)
    })?;
    let state = state.try_clone().map_err(|error| {
        Error::new(ErrorKind::Io, "The snapshot's state cannot be kept open").because(error)
    })?;
    Ok(Origin::Restored {
        memory: Arc::new(memory),
        state: Arc::new(state),
    })
}

/// The error of a machine that did not come up: what QEMU said, or why it is not waited for.
async fn died(machine: &QemuMachine, kind: ErrorKind, error: Error) -> Error {
    // A failure to kill it leaves it to `Drop`; the first error is the one to report.
    let _ = machine.kill().await;
    let said = machine.last_words();
    let what = match kind {
        ErrorKind::BadSnapshot => "QEMU could not load the snapshot",
        _ => "QEMU ended before the machine ran",
    };
    if said.is_empty() {
        Error::new(kind, what).because(error)
    } else {
        Error::new(kind, format!("{what}: `{said}`")).because(error)
    }
}

impl Backend for QemuBackend {
    fn name(&self) -> &'static str {
        match self.accel {
            Accel::Kvm => "qemu-kvm",
            Accel::Tcg => "qemu-tcg",
        }
    }

    fn kind(&self) -> BackendKind {
        match self.accel {
            Accel::Kvm => BackendKind::QemuKvm,
            Accel::Tcg => BackendKind::QemuTcg,
        }
    }

    fn probe(&self) -> HostProbe {
        let program = self.program().ok();
        let version = program.map(|program| program.version_text.clone());
        let mut fixes = match &self.kvm {
            KvmUsable::No { fixes, .. } => fixes.clone(),
            KvmUsable::Yes => Vec::new(),
        };
        if version.is_none() {
            fixes.push(ProbeFix {
                what: "QEMU 7.2 or later".to_owned(),
                cost: format!("The backend `{}` cannot run", self.name()),
                command: Some(INSTALL.to_owned()),
            });
        }
        let usable = self.usable();
        HostProbe {
            usable: usable.is_ok(),
            summary: match usable {
                Ok(program) => format!(
                    "QEMU {} can run machines (`{}`)",
                    program.version_text,
                    program.path.display()
                ),
                Err(error) => error.chain(),
            },
            program: program.map(|program| program.path.clone()),
            version,
            isolation: match self.accel {
                Accel::Kvm => "guest kernel on virtual hardware by KVM, in QEMU".to_owned(),
                Accel::Tcg => "guest kernel on an emulated processor, in QEMU; QEMU's developers \
                               give no security promise for emulation"
                    .to_owned(),
            },
            fixes,
        }
    }

    fn capabilities(&self) -> BackendCapabilities {
        BackendCapabilities {
            pause_resume: true,
            snapshot: SnapshotTier::Live,
            fork: true,
            network: true,
            file_channel: true,
            confidential: false,
            max_vcpus: map::MAX_VCPUS,
            max_disks: map::MAX_DISKS,
            balloon: true,
        }
    }

    fn install_hint(&self) -> String {
        INSTALL.to_owned()
    }

    fn compatibility_key(&self) -> Result<String> {
        let program = self.program()?;
        let key = format!(
            "backend {}; QEMU {}; machine {MACHINE_GENERATION}; processor {}",
            self.name(),
            program.version_text,
            argv::cpu(self.accel)
        );
        match self.accel {
            // Emulated processors are the same on every host.
            Accel::Tcg => Ok(key),
            Accel::Kvm => Ok(format!("{key}; {}", processor::of_host()?)),
        }
    }

    /// An emulated time-stamp counter is the host's (QEMU `target/i386/tcg`, `helper_rdtsc`).
    fn guests_read_host_counter(&self) -> bool {
        self.accel == Accel::Tcg
    }

    fn start<'a>(&'a self, spec: &'a MachineSpec) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(self.start_machine(spec))
    }

    fn restore<'a>(
        &'a self,
        snapshot: &'a SnapshotFiles,
        spec: &'a MachineSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(self.restore_machine(snapshot, spec))
    }

    fn attach(&self, run_dir: PathBuf) -> BoxFuture<'_, Result<Box<dyn Machine>>> {
        Box::pin(async move { attach(&run_dir) })
    }

    fn reap(&self, run_dir: &Path) -> Result<()> {
        reap(run_dir, self.name())
    }

    fn diagnose(&self, failure: &Failure<'_>) -> Option<Diagnosis> {
        diagnose::diagnose(failure)
    }

    fn list(&self, parent: PathBuf) -> BoxFuture<'_, Result<Vec<MachineInfo>>> {
        Box::pin(async move { list(&parent, self.name()) })
    }
}

fn attach(run_dir: &Path) -> Result<Box<dyn Machine>> {
    let gone = |what: &str| {
        let what = format!("The machine in `{}` {what}", run_dir.display());
        Error::new(ErrorKind::Gone, what)
    };
    let record = Record::read(run_dir).map_err(|error| gone("has no record").because(error))?;
    let pidfd = record.open_process().ok_or_else(|| gone("has ended"))?;
    let machine = QemuMachine::attached(record, pidfd)
        .map_err(|error| gone("cannot be watched").because(error))?;
    Ok(Box::new(machine))
}

/// How long a killed machine may take to be gone: it has memory and files to let go of.
const DEATH_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

fn reap(run_dir: &Path, backend: &str) -> Result<()> {
    let Ok(record) = Record::read(run_dir) else {
        return Ok(());
    };
    if record.backend != backend {
        return Ok(());
    }
    if let Some(process) = record.open_process() {
        // It may die by itself at this moment.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        // While one of its threads still dies, its files are locked, and the next machine would find
        // them so. A process handle is readable once the process has ended, pidfd_open(2).
        let mut ends = [PollFd::new(&process, PollFlags::IN)];
        let ended = poll(&mut ends, Some(&DEATH_TIMEOUT)).is_ok_and(|ready| ready > 0);
        if !ended {
            let what = format!("Process {} does not end, though it was killed", record.pid);
            return Err(Error::new(ErrorKind::Io, what));
        }
    }
    Record::remove(run_dir).map_err(|error| {
        let what = format!("The record in `{}` cannot be removed", run_dir.display());
        Error::new(ErrorKind::Io, what).because(error)
    })
}

fn list(parent: &Path, backend: &str) -> Result<Vec<MachineInfo>> {
    let entries = fs::read_dir(parent).map_err(|error| {
        let what = format!("The directory `{}` cannot be read", parent.display());
        Error::new(ErrorKind::Io, what).because(error)
    })?;
    let mut machines: Vec<MachineInfo> = entries
        .filter_map(|entry| {
            let run_dir = entry.ok()?.path();
            // A directory without a whole record has no machine, or not yet.
            let record = Record::read(&run_dir).ok()?;
            (record.backend == backend).then(|| MachineInfo {
                id: record.id,
                pid: record.pid,
                alive: record.open_process().is_some(),
                run_dir,
            })
        })
        .collect();
    machines.sort_by(|a, b| a.run_dir.cmp(&b.run_dir));
    Ok(machines)
}
