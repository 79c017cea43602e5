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
