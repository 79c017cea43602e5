//! What the host tells the agent.
//!
//! Order on a fresh or restored machine: [`HostMessage::Hello`] (answered by `Ready`), then
//! `Adopt`, `MountRoot` and `Start`, which the host may send at once: the agent works them off in
//! order and, after one that failed, refuses all that follow.
//!
//! Order on a machine that was captured after `Frozen` and restored: `Hello`, `Adopt`, `Inherit`,
//! `Thaw`. The agent refuses to thaw before the others are done, so that no process of the user
//! runs with another machine's clock, random numbers or names.

use serde::{Deserialize, Serialize};

use crate::{NetworkIdentity, ProcessSpec, StreamTarget, TerminalSize};
use cofferdam_types::ResourceLimits;

/// A message to the agent. Those about a session carry its number as the frame's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Asks for `Ready`.
    Hello {
        /// The host's [`crate::GENERATION`].
        generation: u32,
    },
    /// Takes on an identity: clock, entropy, machine id, host name, network. Answered by `Adopted`.
    Adopt(Identity),
    /// Mounts the root file system; in one that a template has mounted, only the tmpfs mounts of
    /// the spec, and its size of `/dev/shm`. Answered by `RootMounted`.
    MountRoot(RootSpec),
    /// Runs a process whose effect on memory and disk a template is to keep: after `MountRoot`,
    /// before `Start`, in a PID and a mount namespace of its own, so that nothing of it is left
    /// running when it has ended. A session like that of `Exec`; until its end the machine is
    /// neither started nor quiesced nor frozen.
    WarmUp(ProcessSpec),
    /// Starts the workload, once. Its session is the frame's stream. Answered by `Started` or
    /// `Failed` on that stream.
    Start {
        /// What to run as PID 1 of the workload's namespace.
        process: ProcessSpec,
        /// Limits for the workload and all its execs together.
        limits: ResourceLimits,
    },
    /// Starts one more process beside the workload. Answered like `Start`.
    Exec {
        /// What to run.
        process: ProcessSpec,
        /// Whether the session lasts until every process that has its output streams open has
        /// closed them. Else children that outlive the process have a bounded time for it.
        wait_all: bool,
    },
    /// Sends a signal to a session's process. Ignored once it has ended.
    Signal {
        /// Linux signal number, 1 to 64.
        signal: u8,
    },
    /// Sends a signal to every process of the POSIX session that a session's process leads: to
    /// itself and to its children, unless they made a session of their own.
    SignalSession {
        /// Linux signal number, 1 to 64.
        signal: u8,
    },
    /// Resizes a session's terminal.
    Resize(TerminalSize),
    /// Nobody reads this session any more: its input ends, its output is thrown away, its
    /// process goes on. A byte stream of `Connect` is closed, with a reset if its input has not
    /// ended.
    Detach,
    /// Brings the guest to a point that may be captured: file systems are synced, nothing is
    /// under way and, with a root and no workload yet, what a start will need is made ahead.
    /// Answered by `Quiesced`; the next message wakes the agent.
    Quiesce,
    /// Stops all processes of the user where they are. Answered by `Frozen`, or by `Failed` when
    /// one does not stop in time, and then all go on. Freezing what is frozen is no error.
    ///
    /// The host sends nothing more until the answer: of a frame that a capture cuts in two, a
    /// restored machine would never see the rest.
    Freeze {
        /// Whether the file systems are synced and the upper is frozen too, so that its disk
        /// alone, without the memory, is clean.
        sync: bool,
    },
    /// Sets the wall clock, which stood still with the vCPUs, and lets all go on as if nothing had
    /// been. Answered by `Thawed`, also when nothing was frozen.
    Thaw {
        /// The host's wall clock when this was sent, in nanoseconds since the Unix epoch.
        unix_ns: u64,
    },
    /// Writes dirty pages to the disks early and holds back processes that make more of them than
    /// the disks take, or ends that. Answered at once by `Dirty`, so that a host sees how far it
    /// has come. [`HostMessage::Thaw`] ends it too.
    WriteBack {
        /// Whether it begins, or ends.
        eager: bool,
    },
    /// Slows the user's processes down, so that they change little of memory and disks while these
    /// are copied. Answered at once by `Dirty`. [`HostMessage::Freeze`] and
    /// [`HostMessage::Thaw`] end it.
    HoldBack {
        /// Percent of one processor that all of them have together, from 1.
        percent: u32,
    },
    /// This host has a copy of a frozen machine and knows of no session but the workload's. The
    /// others are detached and their numbers are free. The workload's windows are fresh since
    /// `Hello`; of its output the new host gets what no host has got, and its exit if that was
    /// not told yet. Answered by `Inherited`.
    Inherit,
    /// Runs a command while the user's processes are frozen, after `Adopt` and `Inherit` and
    /// before `Thaw`, in a cgroup of its own. Answered by `HookEnded`; the agent does nothing else
    /// meanwhile. What the command leaves running is killed.
    Hook {
        /// The command, without input and without a terminal.
        process: ProcessSpec,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// Sets the workload's limits anew on a frozen machine, whose next host may give it less.
    /// Answered by `Limited`, or by `Failed` when the workload uses more.
    Limit(ResourceLimits),
    /// Ends all processes, syncs, and ends the machine.
    Shutdown {
        /// Parts of the upper's disk to be trimmed at last, as far as that takes little time.
        trim: Vec<DiskPart>,
    },
    /// Runs a process only for what it leaves in caches and translated code. Like `WarmUp`, but
    /// every file system is read-only for it, so that it leaves no file either.
    Rehearse(ProcessSpec),
    /// Asks what of the guest was settled at its boot. Answered by `Condition`.
    Examine {
        /// Answer when the kernel has chosen its last clock source, which it does a second or two
        /// after its boot, but in a few seconds in any case. Else every copy would choose it.
        settled: bool,
    },
    /// Tells the upper's disk which of its blocks no file uses, in these parts of it: the host's
    /// file gets holes there. A process of the agent's own does it, one at a time; `Freeze` ends
    /// it. Answered at once by `Trimming`. Without parts it only asks.
    Trim {
        /// What is trimmed. With one under way already, nothing new is begun.
        parts: Vec<DiskPart>,
        /// Whether what was deleted a moment ago counts too: the journal is written first. Takes
        /// the place of one that is under way.
        commit: bool,
    },
    /// Asks for the processes of the sandbox. Answered by `Processes`.
    ListProcesses,
    /// Opens a byte stream to a server in the guest, while the workload runs. Answered by
    /// `Connected` or `Failed` on the frame's stream. Then bytes for the server are data of
    /// [`crate::Channel::Stdin`], and its own of [`crate::Channel::Stdout`]; each direction ends by
    /// itself. `Disconnected` follows both ends, or `Failed` a reset. A new host (`Hello`) inherits
    /// no byte stream.
    Connect(StreamTarget),
    /// Has programs trust a certificate, in PEM: it goes into [`TRUST_CERTIFICATE`],
    /// [`TRUST_BUNDLE`] and the trust stores of the image. After `MountRoot`, and before `Start` or
    /// `Thaw`. Answered by `Trusted`.
    Trust {
        /// The certificate.
        certificate: String,
    },
    /// Changes the addresses of the interface while the workload runs; all else of the network has
    /// to be as before. TCP connections of addresses that go end with a reset of the other side.
    /// Answered by `Readdressed`, or by `Failed`, and then the addresses are as before.
    Readdress(NetworkIdentity),
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPart {
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Who a machine is after a boot, restore or fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host's wall clock when this was sent, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Fresh random bytes; credited to the guest kernel's pool, which is then reseeded.
    pub entropy: Vec<u8>,
    /// Content of `/etc/machine-id`: 32 lower-case hex digits.
    pub machine_id: String,
    /// Host name.
    pub hostname: String,
    /// Why there is a new identity.
    pub cause: IdentityCause,
    /// Different for each identity: 32 lower-case hex digits. Programs read it in
    /// [`GENERATION_FILE`].
    pub generation: String,
    /// The number of this fork among those that were made together, from 1.
    pub fork_index: Option<u32>,
    /// The network interface; `None`: the guest has its loopback only.
    pub network: Option<NetworkIdentity>,
}

/// Where the workload finds which copy of a machine it runs in. The directory is mounted
/// read-only; the agent writes the file before a process of the user runs, so a program that
/// watches it with inotify(7) gets an event as soon as it goes on.
pub const GENERATION_FILE: &str = "/run/cofferdam/generation";

/// Where the guest has the certificate of the sandbox's own authority, and where it has that and
/// the image's own certificates. Environment variables name both.
pub const TRUST_CERTIFICATE: &str = "/run/cofferdam/ca.crt";
/// See [`TRUST_CERTIFICATE`].
pub const TRUST_BUNDLE: &str = "/run/cofferdam/ca-bundle.crt";

/// Why a machine takes an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityCause {
    /// The workload starts afresh.
    Start,
    /// The workload goes on from a template that holds it running.
    Template,
    /// The workload goes on in a fork.
    Fork,
    /// The workload goes on from a snapshot of the same sandbox.
    Restore,
}

impl IdentityCause {
    /// The word in the generation file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Template => "template",
            Self::Fork => "fork",
            Self::Restore => "restore",
        }
    }
}

/// The root file system that a workload sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// Where writes go.
    pub upper: UpperDevice,
    /// Size limit of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Extra tmpfs mounts.
    pub tmpfs: Vec<TmpfsSpec>,
}

/// Where writes to the root go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpperDevice {
    /// The disk with serial number [`crate::UPPER_DISK_SERIAL`], an ext4.
    Disk,
    /// Nowhere: the root is read-only. What is on that disk already is seen.
    ReadOnly,
}

/// A tmpfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsSpec {
    /// Absolute path; made when absent.
    pub target: String,
    /// Size limit in bytes; absent is the kernel's default, half of memory.
    pub size_bytes: Option<u64>,
    /// Permission bits of its root.
    pub mode: u32,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether programs on it may run.
    pub exec: bool,
    /// User and group that own its root; 0 when absent.
    pub owner: (Option<u32>, Option<u32>),
}
