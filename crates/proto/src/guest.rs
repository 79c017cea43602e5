//! What the agent tells the host.

use std::fmt;

use cofferdam_types::ExitStatus;
use serde::{Deserialize, Serialize};

use crate::ProcessList;

/// A message from the agent. Those about a session carry its number as the frame's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// The agent serves. Pushed once after boot, and the answer to every `Hello`.
    Ready {
        /// The agent's [`crate::GENERATION`].
        generation: u32,
        /// Guest kernel start to this message, in nanoseconds of the guest's monotonic clock.
        uptime_ns: u64,
    },
    /// The identity is in force; no user process ran before this.
    Adopted,
    /// The root is mounted.
    RootMounted,
    /// A session's process runs.
    Started {
        /// Its number in the workload's PID namespace; 1 for the workload itself.
        pid: u32,
    },
    /// A session's process ended, and all that it wrote was sent before this, and what its
    /// children wrote for as long as the session waited for them.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
    /// A step or a session could not be done. On a session's stream it ends the session.
    Failed(Failure),
    /// The guest may be captured now.
    Quiesced,
    /// No process of the user runs, and nothing was left to be sent before this. After it the
    /// agent only answers: what its sessions have to say waits for `Thaw`.
    Frozen,
    /// The processes run again.
    Thawed,
    /// The sessions are the new host's.
    Inherited,
    /// The command of `Hook` is over and nothing of it is left.
    HookEnded {
        /// How it ended; absent when it took too long and was killed.
        status: Option<ExitStatus>,
        /// The end of what it wrote to standard output and standard error, at most
        /// [`MAX_HOOK_OUTPUT_BYTES`]. Not to be printed unescaped.
        output: Vec<u8>,
    },
    /// The kernel has killed processes because memory ran out. On the control stream, and before
    /// the `Exited` of a session that this ended.
    OutOfMemory {
        /// How many since the last such message.
        killed: u64,
    },
    /// The limits are set.
    Limited,
    /// How much was written by processes and not by the disks yet.
    Dirty {
        /// Bytes, of all file systems.
        bytes: u64,
    },
    /// What of the guest was settled at its boot.
    Condition(Condition),
    /// How far a trim has come.
    Trimming {
        /// Whether one is under way.
        running: bool,
        /// Bytes of the upper that files use; 0 when its disk is not mounted.
        used_bytes: u64,
    },
    /// Something that is made ahead so that the workload starts faster could not be made. Comes
    /// before `Quiesced`; the start does without.
    NotPrepared(Failure),
    /// The processes of the sandbox.
    Processes(ProcessList),
    /// A byte stream is open.
    Connected,
    /// Both directions of a byte stream have ended.
    Disconnected,
    /// Programs trust the certificate.
    Trusted,
    /// The interface has its new addresses.
    Readdressed,
}

/// What of a guest was settled when it booted, and stays so in everything that is restored from a
/// capture of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Step of the timers by which programs sleep, in nanoseconds: 1 with high-resolution timers,
    /// else the length of a tick.
    pub timer_resolution_ns: u64,
    /// The kernel's name of its clock source, such as `tsc`.
    pub clock_source: String,
    /// Memory that the kernel found, in bytes.
    pub memory_bytes: u64,
    /// Messages of the kernel about timers and clocks that do not work, a few.
    pub complaints: Vec<String>,
}

/// Most output of a hook that the agent keeps, in bytes.
pub const MAX_HOOK_OUTPUT_BYTES: usize = 2048;

/// Why the agent could not do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For control flow.
    pub kind: FailureKind,
    /// For people: a sentence without a full stop. Comes from the guest: not to be trusted, not
    /// to be printed unescaped.
    pub message: String,
}

/// What the agent could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program is not in the root; exit code 127.
    ProgramNotFound,
    /// The program is there but cannot be run; exit code 126.
    ProgramNotExecutable,
    /// The user or group is not in the root's `/etc/passwd` or `/etc/group`.
    UnknownUser,
    /// The working directory cannot be used.
    BadWorkdir,
    /// A file system could not be mounted.
    Mount,
    /// The identity could not be taken on.
    Identity,
    /// The network interface is missing or could not be set up.
    Network,
    /// A limit could not be set.
    Limits,
    /// The message does not fit the agent's state, such as an exec before the start.
    OutOfOrder,
    /// The guest's kernel refused something it should not have.
    Internal,
    /// No server listens at the target of a byte stream.
    ConnectionRefused,
    /// The server has reset a byte stream.
    ConnectionReset,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
