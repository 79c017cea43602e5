//! The fake's machine.

use std::{
    fs::File,
    io, iter,
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use cofferdam_types::{SandboxId, Signal};

use super::{
    Bug,
    capture::FakeCapture,
    channels,
    guest::{Memory, Program, Vcpu},
    inner::{Inner, State},
    program::{GuestProgram, GuestState},
    registry::Registry,
    snapshot::{self, Shape},
};
use crate::{
    BoxFuture, Capture, CapturePlan, DiskFailure, Error, ErrorKind, LogKind, Machine, MachineExit,
    MachineMetrics, MachineSpec, MachineStatus, MemoryBacking, Result, SnapshotFiles, unsupported,
};

/// A handle to a fake machine.
#[derive(Debug)]
pub(super) struct FakeMachine {
    inner: Arc<Inner>,
    records: Registry,
    owner: bool,
}

/// What a machine is made of beside its spec.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) pid: u32,
    pub(super) bug: Option<Bug>,
    pub(super) plain: bool,
    pub(super) memory: Arc<Memory>,
    pub(super) records: Registry,
    pub(super) program: Option<Arc<dyn GuestProgram>>,
}

impl FakeMachine {
    pub(super) fn start(spec: &MachineSpec, making: Making) -> io::Result<Self> {
        let Making {
            pid,
            bug,
            plain,
            memory,
            records,
            program,
        } = making;
        let vcpu = Arc::new(Vcpu::default());
        let (state, ends) = channels::make(spec, bug, &memory)?;
        if let Some(files) = ends.files {
            channels::send_back(files, Arc::clone(&vcpu), bug == Some(Bug::ChangesFiles))?;
        }
        if let Some(network) = &spec.network {
            memory.begin_with_mac(network.mac.bytes());
        }
        let disks: Vec<PathBuf> = spec
            .block_devices
            .iter()
            .filter(|disk| !disk.read_only)
            .map(|disk| disk.path.clone())
            .collect();
        let disk = disks
            .first()
            .map(|path| File::options().read(true).write(true).open(path))
            .transpose()?;
        let inner = Inner {
            id: spec.id,
            pid,
            bug,
            plain,
            shape: Shape::of(spec),
            memory_mib: spec.memory_mib,
            backing: spec.memory.clone(),
            began_with: memory.words(),
            memory,
            vcpu,
            disks,
            looks: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        let inner = Arc::new(inner);
        match program {
            Some(program) => run_program(program, ends.agent, &inner)?,
            None => {
                let program = Program {
                    memory: Arc::clone(&inner.memory),
                    vcpu: Arc::clone(&inner.vcpu),
                    disk: disk.map(Arc::new),
                    network: ends.network.map(Arc::new),
                    bug,
                };
                // It ends when the channel does.
                thread::Builder::new()
                    .name("fake-guest".to_owned())
                    .spawn(move || drop(program.run(ends.agent)))?;
            }
        }
        Ok(Self {
            inner,
            records,
            owner: true,
        })
    }

    pub(super) const fn attached(inner: Arc<Inner>, records: Registry) -> Self {
        Self {
            inner,
            records,
            owner: false,
        }
    }

    pub(super) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    fn take_channel(
        &self,
        which: impl FnOnce(&mut State) -> &mut Option<UnixStream>,
    ) -> Result<UnixStream> {
        let taken = || Error::new(ErrorKind::WrongState, "There is no such channel to take");
        if !self.owner {
            return Err(taken());
        }
        let mut state = self.inner.state();
        let channel = which(&mut state);
        if self.inner.has(Bug::GivesChannelTwice) {
            let channel = channel.as_ref().ok_or_else(taken)?;
            return channel
                .try_clone()
                .map_err(|error| Error::new(ErrorKind::Io, "No channel").because(error));
        }
        channel.take().ok_or_else(taken)
    }

    fn capture(&self, files: &SnapshotFiles) -> Result<()> {
        let inner = &self.inner;
        inner.alive()?;
        if self.status() != MachineStatus::Paused && !inner.has(Bug::CapturesRunning) {
            return Err(Error::new(
                ErrorKind::WrongState,
                "Only a paused machine is captured",
            ));
        }
        if inner.state().captures {
            return Err(Error::new(
                ErrorKind::WrongState,
                "It is being captured already",
            ));
        }
        let forgets = match &inner.backing {
            MemoryBacking::Private => {
                snapshot::make_memory(&files.memory, inner.memory_mib)?;
                inner.has(Bug::ForgetsMemory)
            }
            MemoryBacking::SharedFile(_) => inner.has(Bug::ForgetsSharedMemory),
        };
        if !forgets {
            snapshot::write_memory(&files.memory, &inner.memory.words())?;
        }
        snapshot::write_state(&files.state, inner.shape)
    }
}

/// Runs a test's program as the guest; the machine ends with it.
fn run_program(
    program: Arc<dyn GuestProgram>,
    port: UnixStream,
    inner: &Arc<Inner>,
) -> io::Result<()> {
    let state = GuestState {
        memory: Arc::clone(&inner.memory),
        vcpu: Arc::clone(&inner.vcpu),
    };
    // A machine that nobody has a handle to has ended already.
    let machine = Arc::downgrade(inner);
    thread::Builder::new()
        .name("fake-guest".to_owned())
        .spawn(move || {
            program.run(port, &state);
            if let Some(machine) = machine.upgrade() {
                machine.exit_by_itself();
            }
        })
        .map(drop)
}

impl Machine for FakeMachine {
    fn id(&self) -> SandboxId {
        self.inner.id
    }

    fn pid(&self) -> u32 {
        self.inner.pid
    }

    fn status(&self) -> MachineStatus {
        if self.inner.exit().is_some() {
            MachineStatus::Exited
        } else if self.inner.vcpu.is_paused() {
            MachineStatus::Paused
        } else {
            MachineStatus::Running
        }
    }

    fn wait(&self) -> BoxFuture<'_, MachineExit> {
        Box::pin(self.inner.wait())
    }

    fn exit_status(&self) -> Option<MachineExit> {
        self.inner.exit()
    }

    fn stop(&self, signal: Signal, _: Duration) -> BoxFuture<'_, Result<MachineExit>> {
        Box::pin(async move {
            // The fake's program ends by every signal, at once.
            if !self.inner.has(Bug::StopsForEver) {
                self.inner.end(i32::from(signal.number()));
            }
            Ok(self.inner.wait().await)
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<MachineExit>> {
        Box::pin(self.stop(Signal::KILL, Duration::ZERO))
    }

    fn pause(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.inner.expect("A pause")?;
            self.inner.alive()?;
            if !self.inner.has(Bug::IgnoresPause) {
                self.inner.vcpu.set_paused(true);
            }
            Ok(())
        })
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.inner.expect("A pause")?;
            self.inner.alive()?;
            self.inner.vcpu.set_paused(false);
            Ok(())
        })
    }

    fn snapshot(&self, files: SnapshotFiles) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.inner.expect("A snapshot")?;
            self.capture(&files)
        })
    }

    fn begin_capture(&self, plan: CapturePlan) -> BoxFuture<'_, Result<Box<dyn Capture>>> {
        Box::pin(async move {
            if !self.owner {
                let what = "The machine is controlled by the handle that started it";
                return Err(Error::new(ErrorKind::WrongState, what));
            }
            self.inner.expect("A capture")?;
            let capture = FakeCapture::begin(self.inner(), plan)?;
            Ok(Box::new(capture) as Box<dyn Capture>)
        })
    }

    fn agent_channel(&self) -> Result<UnixStream> {
        self.take_channel(|state| &mut state.channel)
    }

    fn file_channel(&self) -> Result<UnixStream> {
        self.take_channel(|state| &mut state.files)
    }

    fn network_channel(&self) -> Result<UnixStream> {
        self.take_channel(|state| &mut state.network)
    }

    fn disk_failure(&self) -> BoxFuture<'_, DiskFailure> {
        Box::pin(std::future::pending())
    }

    fn touched_memory(&self) -> BoxFuture<'_, Result<Option<Vec<Range<u64>>>>> {
        Box::pin(async {
            self.inner.alive()?;
            let memory_bytes = u64::from(self.inner.memory_mib) << 20;
            let beyond = memory_bytes + u64::from(self.inner.has(Bug::TouchesTooMuch));
            // It reads it all at the start.
            let restored = self.inner.origin().is_some();
            Ok(restored.then(|| iter::once(0..beyond).collect()))
        })
    }

    fn discards(&self) -> bool {
        true
    }

    fn move_to(&self, run_dir: &Path) -> Result<()> {
        if !self.owner {
            let what = "The machine is controlled by the handle that started it";
            return Err(Error::new(ErrorKind::WrongState, what));
        }
        if !self.inner.has(Bug::StaysBehind) {
            self.records.rename(&self.inner, run_dir);
        }
        Ok(())
    }

    fn metrics(&self) -> Result<MachineMetrics> {
        if !self.inner.has(Bug::MeasuresTheDead) {
            self.inner.alive()?;
        }
        Ok(MachineMetrics {
            cpu_time_ms: self.inner.looks.fetch_add(1, Ordering::Relaxed),
            cpu_percent: 0.0,
            memory_bytes: u64::from(self.inner.memory_mib) << 20,
        })
    }

    fn logs(&self, lines: usize, _: LogKind) -> Result<Vec<String>> {
        let all = ["The fake has started".to_owned(), "It counts".to_owned()];
        let skip = if self.inner.has(Bug::LogsTooMuch) {
            0
        } else {
            all.len().saturating_sub(lines)
        };
        Ok(all.into_iter().skip(skip).collect())
    }

    fn balloon(&self, _: u32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            Err(unsupported(
                "A balloon",
                "a fixed size",
                "Use a backend that is no fake",
            ))
        })
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        let kills = if self.owner {
            !self.inner.has(Bug::OutlivesItsHandle)
        } else {
            self.inner.has(Bug::AttachedOwns)
        };
        if kills {
            self.inner.end(i32::from(Signal::KILL.number()));
        }
    }
}
