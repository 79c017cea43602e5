//! A process as the host asks the agent for it.

use cofferdam_types::{Privileges, Rlimit};
use serde::{Deserialize, Serialize};

/// What to run. Everything of the image and of the user is already merged in by the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// `KEY=VALUE`; `HOME`, `TERM` and `PATH` are added by the agent where absent.
    pub env: Vec<String>,
    /// Absolute working directory; made when absent from the root, as Docker does, but for a
    /// process beside the workload, which must find it there. Empty is `/`.
    pub workdir: String,
    /// `uid`, `uid:gid`, `user` or `user:group`; empty is root.
    pub user: String,
    /// The terminal's first size; absent for pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether standard input is a stream; else it is `/dev/null`.
    pub stdin: bool,
    /// POSIX resource limits.
    pub rlimits: Vec<Rlimit>,
    /// What it may do beside what its user may.
    #[serde(default)]
    pub privileges: Privileges,
    /// Whether an init runs it, which hands signals on and reaps zombies; for a workload only.
    #[serde(default)]
    pub init: bool,
}

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Most processes in a [`ProcessList`].
pub const MAX_LISTED_PROCESSES: usize = 2000;

/// Longest command of a [`GuestProcess`], in bytes.
pub const MAX_LISTED_COMMAND_BYTES: usize = 256;

/// Processes of a sandbox. Comes from the guest: not to be trusted, not to be printed unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessList {
    /// The processes by number; at most [`MAX_LISTED_PROCESSES`] of them.
    pub processes: Vec<GuestProcess>,
    /// How many there are.
    pub total: u32,
}

/// One process of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcess {
    /// Number in the workload's PID namespace.
    pub pid: u32,
    /// That of its parent; 0 for one outside of that namespace.
    pub parent: u32,
    /// User id.
    pub uid: u32,
    /// Linux's letter of its state, such as `S`; proc_pid_stat(5).
    pub state: char,
    /// How many threads it has.
    pub threads: u32,
    /// Processor time in milliseconds.
    pub cpu_time_ms: u64,
    /// Time since its start in milliseconds.
    pub age_ms: u64,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// Program and arguments, at most [`MAX_LISTED_COMMAND_BYTES`]; its name in brackets if it has
    /// none.
    pub command: String,
}
