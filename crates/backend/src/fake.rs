//! The fake backend: machines that are threads, whose guest counts.
//!
//! For tests of what uses a backend. It keeps the whole contract, and can be given one [`Bug`] to
//! show that the contract's checks find it. The guest speaks the contract's wire
//! ([`crate::contract::operation`]); its memory is a few words ahead of an area of pages.
//! Needs no async runtime.
//!
//! Locks: [`FakeBackend`]'s list of machines, then a machine's state, then its processor, then its
//! memory; none across an await.

mod bug;
mod capture;
mod channels;
mod contents;
mod guest;
mod inner;
mod machine;
mod program;
mod registry;
mod snapshot;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cofferdam_types::Signal;

pub use self::bug::Bug;
pub use self::program::{GuestProgram, GuestState};
use self::{
    inner::Inner,
    machine::{FakeMachine, Making},
    registry::Registry,
};
use crate::{
    Backend, BackendCapabilities, BackendKind, BoxFuture, Diagnosis, DiagnosisKind, Error,
    ErrorKind, Failure, HostProbe, Machine, MachineInfo, MachineSpec, MemoryBacking, Result,
    SnapshotFiles, SnapshotTier,
    diagnosis::{of_end, of_guest},
    unsupported,
};

/// The first bytes of a file that the fake takes for a kernel.
pub const KERNEL_MAGIC: &[u8] = b"fake kernel\n";

/// A backend whose machines are threads of this process.
#[derive(Debug, Default)]
pub struct FakeBackend {
    bug: Option<Bug>,
    machines: Registry,
    /// In place of the guest that counts.
    program: Option<Arc<dyn GuestProgram>>,
    /// Whether it has the least that a backend has.
    plain: bool,
    /// How many restores are still to fail.
    failing_restores: AtomicU32,
}

impl FakeBackend {
    /// One that keeps the contract.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that breaks it.
    #[must_use]
    pub fn with_bug(bug: Bug) -> Self {
        Self {
            bug: Some(bug),
            ..Self::default()
        }
    }

    /// One whose guests run `program`.
    #[must_use]
    pub fn with_program(program: Arc<dyn GuestProgram>) -> Self {
        Self {
            program: Some(program),
            ..Self::default()
        }
    }

    /// The same without what a backend need not have: pauses, snapshots, forks, a network interface
    /// and a file channel.
    #[must_use]
    pub fn plain(self) -> Self {
        Self {
            plain: true,
            ..self
        }
    }

    /// Has the next `count` restores fail, as of damaged files.
    pub fn fail_restores(&self, count: u32) {
        self.failing_restores.store(count, Ordering::Relaxed);
    }

    /// How many of its machines have not ended.
    #[must_use]
    pub fn living(&self) -> usize {
        let machines = self.machines.all().into_iter();
        machines
            .filter(|(_, machine)| machine.exit().is_none())
            .count()
    }

    fn fails_now(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.failing_restores
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn check(&self, spec: &MachineSpec) -> Result<()> {
        let lacks = |asked: &str| {
            Err(unsupported(
                asked,
                "a counting guest",
                "Use a backend that is no fake",
            ))
        };
        if spec.confidential.is_some() {
            return lacks("Confidential computing");
        }
        if self.plain && (spec.network.is_some() || spec.file_channel) {
            return lacks("A network interface or a file channel");
        }
        let invalid = |what: &str| Error::new(ErrorKind::InvalidSpec, what);
        if spec.vcpus == 0 || spec.vcpus > self.capabilities().max_vcpus {
            return Err(invalid("The number of processors is out of range"));
        }
        // 1 TiB: more than any host has.
        if spec.memory_mib == 0 || spec.memory_mib >= 1 << 20 {
            return Err(invalid("The memory size is out of range"));
        }
        if spec.block_devices.len() > self.capabilities().max_disks {
            return Err(invalid("There are too many disks"));
        }
        if spec
            .network
            .as_ref()
            .is_some_and(|network| !network.has_valid_mtu())
        {
            return Err(invalid("The MTU is out of range"));
        }
        if let Some(disk) = spec.block_devices.iter().find(|disk| !disk.path.exists()) {
            let what = format!("There is no disk `{}`", disk.path.display());
            return Err(invalid(&what));
        }
        Ok(())
    }

    fn check_kernel(&self, spec: &MachineSpec) -> Result<()> {
        if self.has(Bug::TakesAnyKernel) {
            return Ok(());
        }
        match fs::read(&spec.kernel) {
            Ok(bytes) if bytes.starts_with(KERNEL_MAGIC) => Ok(()),
            _ => Err(Error::new(ErrorKind::InvalidSpec, "The kernel is none")),
        }
    }

    fn run(&self, spec: &MachineSpec, memory: Arc<guest::Memory>) -> Result<Box<dyn Machine>> {
        static NEXT_PID: AtomicU32 = AtomicU32::new(1);
        let io = |error| Error::new(ErrorKind::Io, "The fake cannot start").because(error);
        fs::create_dir_all(&spec.run_dir).map_err(io)?;
        let pid = NEXT_PID.fetch_add(1, Ordering::Relaxed);
        let making = Making {
            pid,
            bug: self.bug,
            plain: self.plain,
            memory,
            records: self.machines.clone(),
            program: self.program.clone(),
        };
        let machine = FakeMachine::start(spec, making).map_err(io)?;
        self.machines.put(&spec.run_dir, machine.inner());
        Ok(Box::new(machine))
    }

    fn recorded(&self) -> Vec<(PathBuf, Arc<Inner>)> {
        self.machines.all()
    }
}

impl Backend for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Fake
    }

    fn probe(&self) -> HostProbe {
        HostProbe {
            usable: true,
            summary: "The fake works everywhere".to_owned(),
            program: None,
            version: None,
            isolation: "none: a thread of this process".to_owned(),
            fixes: Vec::new(),
        }
    }

    fn capabilities(&self) -> BackendCapabilities {
        BackendCapabilities {
            pause_resume: !self.has(Bug::HidesPause) && !self.plain,
            snapshot: if self.has(Bug::ContradictsItself) || self.plain {
                SnapshotTier::None
            } else {
                SnapshotTier::Live
            },
            fork: !self.plain,
            network: !self.has(Bug::DropsNetwork) && !self.plain,
            file_channel: !self.plain,
            confidential: false,
            max_vcpus: 4,
            max_disks: 5,
            balloon: self.has(Bug::BoastsBalloon),
        }
    }

    fn install_hint(&self) -> String {
        "true".to_owned()
    }

    fn compatibility_key(&self) -> Result<String> {
        Ok("fake-1".to_owned())
    }

    fn start<'a>(&'a self, spec: &'a MachineSpec) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            self.check(spec)?;
            self.check_kernel(spec)?;
            if let MemoryBacking::SharedFile(path) = &spec.memory {
                snapshot::make_memory(path, spec.memory_mib)?;
            }
            self.run(spec, Arc::new(guest::Memory::default()))
        })
    }

    fn restore<'a>(
        &'a self,
        files: &'a SnapshotFiles,
        spec: &'a MachineSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            self.check(spec)?;
            if self.plain {
                return Err(unsupported(
                    "A restore",
                    "a machine that boots",
                    "Use a backend that is not plain",
                ));
            }
            if self.fails_now() {
                return Err(Error::new(ErrorKind::BadSnapshot, "A restore that fails"));
            }
            let words = snapshot::read(files, spec, self.bug)?;
            if self.has(Bug::WritesSnapshot) {
                snapshot::write_memory(&files.memory, &[u64::MAX])?;
            }
            let shared = self
                .recorded()
                .into_iter()
                .find(|_| self.has(Bug::SharesForks));
            let memory = match shared {
                Some((_, first)) => first.memory(),
                None => Arc::new(guest::Memory::of(&words)),
            };
            self.run(spec, memory)
        })
    }

    fn attach(&self, run_dir: PathBuf) -> BoxFuture<'_, Result<Box<dyn Machine>>> {
        Box::pin(async move {
            let living = self.machines.find(&run_dir);
            let living = living.filter(|inner| inner.exit().is_none());
            let inner =
                living.ok_or_else(|| Error::new(ErrorKind::Gone, "There is no such machine"))?;
            Ok(Box::new(FakeMachine::attached(inner, self.machines.clone())) as Box<dyn Machine>)
        })
    }

    fn reap(&self, run_dir: &Path) -> Result<()> {
        let in_question = |(path, _): &(PathBuf, _)| {
            path == run_dir || self.has(Bug::ReapsNeighbours) && path.parent() == run_dir.parent()
        };
        for (path, machine) in self.recorded().into_iter().filter(in_question) {
            if !self.has(Bug::ReapsNothing) {
                machine.end(i32::from(Signal::KILL.number()));
            }
            if !self.has(Bug::LeavesRecords) {
                self.machines.remove(&path);
            }
        }
        Ok(())
    }

    fn diagnose(&self, failure: &Failure<'_>) -> Option<Diagnosis> {
        let mut found = of_guest(failure).or_else(|| of_end(failure));
        if self.has(Bug::DiagnosesNothing) {
            return None;
        }
        if self.has(Bug::QuotesTheGuest)
            && let Some(found) = &mut found
        {
            found.client.push_str(failure.console_tail);
        }
        if self.has(Bug::BlamesTheHost) && found.is_none() {
            return Some(Diagnosis::new(DiagnosisKind::VmmCrash, ""));
        }
        found
    }

    fn list(&self, parent: PathBuf) -> BoxFuture<'_, Result<Vec<MachineInfo>>> {
        Box::pin(async move {
            let below = |(path, _): &(PathBuf, _)| path.parent() == Some(&parent);
            let info = |(run_dir, inner): (PathBuf, Arc<Inner>)| MachineInfo {
                id: inner.id(),
                pid: inner.pid(),
                run_dir,
                alive: inner.exit().is_none() || self.has(Bug::ListsTheDead),
            };
            Ok(self
                .recorded()
                .into_iter()
                .filter(below)
                .map(info)
                .collect())
        })
    }
}
