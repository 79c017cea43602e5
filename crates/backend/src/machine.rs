//! The two traits.

use std::{
    fmt,
    future::Future,
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use cofferdam_types::{SandboxId, Signal};
use serde::{Deserialize, Serialize};

use crate::{
    BackendCapabilities, BackendKind, Capture, CapturePlan, Diagnosis, Failure, HostProbe,
    MachineSpec, Result,
};

/// A boxed future, so that the traits are object-safe without naming an async runtime.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A way to run machines.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Name for people and for `--backend`.
    fn name(&self) -> &'static str;

    /// Which implementation this is.
    fn kind(&self) -> BackendKind;

    /// What this host really offers it, with what would mend what is missing.
    ///
    /// # Blocking
    /// Tens of milliseconds at most.
    fn probe(&self) -> HostProbe;

    /// What it can do.
    fn capabilities(&self) -> BackendCapabilities;

    /// The command that installs what it needs on this host.
    fn install_hint(&self) -> String;

    /// Everything that a snapshot's user must share with its maker, as one line: program
    /// version, accelerator, machine type, CPU model. Part of every template's key.
    fn compatibility_key(&self) -> Result<String>;

    /// Whether its guests read a counter of the host's processor as it is, so that a restored
    /// guest keeps its time only on a processor with the same rate.
    fn guests_read_host_counter(&self) -> bool {
        false
    }

    /// Starts a machine; returns when its program runs, not when the guest is ready.
    fn start<'a>(&'a self, spec: &'a MachineSpec) -> BoxFuture<'a, Result<Box<dyn Machine>>>;

    /// Starts a machine from a snapshot. `spec` must have the same processors, memory and number
    /// and order of disks as the one captured; the disks' files may differ as far as the guest
    /// had not read them. The machine runs at once.
    fn restore<'a>(
        &'a self,
        snapshot: &'a SnapshotFiles,
        spec: &'a MachineSpec,
    ) -> BoxFuture<'a, Result<Box<dyn Machine>>>;

    /// A handle to a machine that another process started and whose record is in `run_dir`. It
    /// has no agent channel.
    fn attach(&self, run_dir: PathBuf) -> BoxFuture<'_, Result<Box<dyn Machine>>>;

    /// Ends what a dead owner left in `run_dir`: the machine that is recorded there, if that very
    /// process still lives, and this backend's files. A directory without a record of this backend
    /// stays as it is.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] when the machine does not end or a file cannot be removed.
    ///
    /// # Blocking
    /// Until the machine has ended, 5 s at most.
    fn reap(&self, run_dir: &Path) -> Result<()>;

    /// Why a machine of this backend failed; `None` when its traces do not show it. Pure: it looks at
    /// nothing but `failure`.
    fn diagnose(&self, failure: &Failure<'_>) -> Option<Diagnosis>;

    /// The machines recorded in directories below `parent`, living and dead.
    fn list(&self, parent: PathBuf) -> BoxFuture<'_, Result<Vec<MachineInfo>>>;
}

/// A machine that was started.
///
/// All methods take `&self`; a machine may be shared by tasks. Dropping the last handle of a
/// started or restored machine kills it.
pub trait Machine: Send + Sync + fmt::Debug {
    /// The sandbox it belongs to.
    fn id(&self) -> SandboxId;

    /// Process id of its program.
    fn pid(&self) -> u32;

    /// What it is doing.
    fn status(&self) -> MachineStatus;

    /// Waits until it has ended. May be called by many and more than once.
    fn wait(&self) -> BoxFuture<'_, MachineExit>;

    /// How it ended, if it has.
    fn exit_status(&self) -> Option<MachineExit>;

    /// Sends `signal` to its program and kills it if it has not ended after `timeout`.
    fn stop(&self, signal: Signal, timeout: Duration) -> BoxFuture<'_, Result<MachineExit>>;

    /// Kills it now.
    fn kill(&self) -> BoxFuture<'_, Result<MachineExit>>;

    /// Stops its vCPUs.
    fn pause(&self) -> BoxFuture<'_, Result<()>>;

    /// Lets its vCPUs run again.
    fn resume(&self) -> BoxFuture<'_, Result<()>>;

    /// Captures memory and devices of a paused machine into files that do not exist yet. With
    /// [`crate::MemoryBacking::SharedFile`], `files.memory` must be that file, which then holds
    /// the memory; the machine must be killed, never resumed, before the snapshot is used.
    fn snapshot(&self, files: SnapshotFiles) -> BoxFuture<'_, Result<()>>;

    /// Begins a capture of a machine that lives on, and copies ahead what can be copied while
    /// the guest runs. The machine may be paused already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] while another capture of this machine is under way;
    /// [`crate::ErrorKind::InvalidSpec`] when a file exists, or the plan has another number of
    /// disks than the machine has writable ones.
    fn begin_capture(&self, plan: CapturePlan) -> BoxFuture<'_, Result<Box<dyn Capture>>>;

    /// Takes the host's end of the agent channel; it can be taken once.
    fn agent_channel(&self) -> Result<UnixStream>;

    /// Takes the host's end of the file channel; it can be taken once. A restored machine has a new
    /// one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when it was taken, for a machine without one, and for an
    /// attached handle.
    fn file_channel(&self) -> Result<UnixStream>;

    /// Takes the host's end of the network interface; it can be taken once. A restored machine has a
    /// new one. Dropping it takes the guest's link down.
    ///
    /// ```text
    /// [length of the frame in bytes: u32 BE][Ethernet frame without its check sum]
    /// ```
    /// The stream never ends while the machine lives; a frame that the host writes while the guest
    /// does not receive waits in the socket. Frames of the guest are untrusted: of any length up to
    /// the largest `u32`, though a sound backend sends none above the MTU with its header.
    ///
    /// *Source:* QEMU 7.2 `net/stream.c`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] when it was taken, for a machine without an interface, and
    /// for an attached handle.
    fn network_channel(&self) -> Result<UnixStream>;

    /// The parts that it has used so far of the memory file that it was restored from: ranges of
    /// bytes from the file's start, in order and apart. A page may count with its neighbours.
    /// `None` for a machine that was not restored, and where the host does not tell.
    fn touched_memory(&self) -> BoxFuture<'_, Result<Option<Vec<Range<u64>>>>>;

    /// Waits for the host's first failure to read or write one of its disks, which the guest has
    /// got as an I/O error. Never ends without one, also when the machine does.
    fn disk_failure(&self) -> BoxFuture<'_, DiskFailure>;

    /// Whether what its guest discards of a disk leaves the disk's file.
    fn discards(&self) -> bool;

    /// Moves the backend's files of this machine to the directory `run_dir`, which exists:
    /// [`Backend::attach`], [`Backend::list`] and [`Backend::reap`] find the machine there from now
    /// on, and no longer where it was.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] for an attached handle; [`crate::ErrorKind::Io`].
    fn move_to(&self, run_dir: &Path) -> Result<()>;

    /// What it uses now.
    fn metrics(&self) -> Result<MachineMetrics>;

    /// The last `lines` lines of a log.
    fn logs(&self, lines: usize, kind: LogKind) -> Result<Vec<String>>;

    /// Asks the guest to give back or take memory until it has `target_mib` MiB.
    fn balloon(&self, target_mib: u32) -> BoxFuture<'_, Result<()>>;
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineStatus {
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// It has ended.
    Exited,
}

/// How a machine's program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineExit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal that ended it, if one did.
    pub signal: Option<i32>,
}

/// What is known of a machine from its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// The sandbox it belongs to.
    pub id: SandboxId,
    /// Process id of its program.
    pub pid: u32,
    /// Its directory.
    pub run_dir: PathBuf,
    /// Whether that very process still lives.
    pub alive: bool,
}

/// What a machine uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineMetrics {
    /// Processor time used since the start, in milliseconds.
    pub cpu_time_ms: u64,
    /// Share of one processor used since the last call, in percent; since the start at first.
    pub cpu_percent: f64,
    /// Resident memory of its program in bytes.
    pub memory_bytes: u64,
}

/// Why the host could not read or write a machine's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    /// Whether it could not write because its file system has no room left.
    pub no_space: bool,
    /// The host's reason.
    pub reason: String,
}

/// Which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// The guest's console.
    Console,
    /// What the VMM printed.
    Vmm,
}

/// The files of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFiles {
    /// Guest memory, as long as the guest has memory; sparse.
    pub memory: PathBuf,
    /// Devices and vCPUs.
    pub state: PathBuf,
}
