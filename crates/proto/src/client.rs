//! What a client and a sandbox's supervisor tell each other.
//!
//! One connection is one operation: the client sends a [`ClientRequest`], then, where there is a
//! session, data and credit frames on [`SESSION_STREAM`] and the control messages of
//! [`ClientMessage`]. The supervisor's answers are [`SupervisorMessage`]s on the control stream.
//! A session's channels start with [`crate::INITIAL_WINDOW_BYTES`] each, as on the guest's wire.

use cofferdam_types::{ExitStatus, SandboxId};
use serde::{Deserialize, Serialize};

use crate::{ProcessSpec, TerminalSize};

/// Generation of these messages. A client may be newer than a running supervisor; then they part
/// with an error that says so.
pub const CLIENT_GENERATION: u32 = 3;

/// The stream of the one session of a connection.
pub const SESSION_STREAM: u32 = 1;

/// The first message on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// The client's [`CLIENT_GENERATION`].
    pub generation: u32,
    /// What it wants.
    pub request: Request,
}

/// What a client wants of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Bring the sandbox up; only on the connection that the supervisor was born with.
    Start {
        /// Stay attached to the workload's streams.
        attach: bool,
        /// Whether this client's input is the workload's.
        stdin: bool,
        /// End the sandbox when this connection closes.
        tied: bool,
    },
    /// Become a standby: only to a process that was started as one. Answered by `Done` when it is
    /// ready.
    StandBy,
    /// Have a standby take over a sandbox that was made and not started. Answered like `Start`.
    Claim {
        /// The sandbox.
        sandbox: SandboxId,
        /// As in `Start`.
        attach: bool,
        /// As in `Start`.
        stdin: bool,
        /// As in `Start`.
        tied: bool,
    },
    /// End a standby. Answered by `Done`.
    Retire,
    /// Follow the workload's streams from now on.
    Attach {
        /// Whether this client's input is the workload's.
        stdin: bool,
    },
    /// Run one more process.
    Exec {
        /// What to run.
        process: ProcessSpec,
        /// Answer `Started` and leave it to itself.
        detach: bool,
    },
    /// Send a signal to the workload.
    Kill {
        /// Linux signal number.
        signal: u8,
    },
    /// Ask the workload to end, then make it.
    Stop {
        /// Milliseconds between the stop signal and SIGKILL; the sandbox's own when absent.
        timeout_ms: Option<u64>,
    },
    /// Answer `Exited` when the workload has ended.
    Wait,
    /// Answer `Status`.
    Status,
    /// Stop the workload and the vCPUs where they are. Answered by `Done`.
    Pause,
    /// Let them go on. Answered by `Done`.
    Unpause,
    /// Capture the sandbox into files in a directory and let it go on. Answered by `Captured`.
    Capture {
        /// A staging directory of the store's snapshots, empty.
        dir: String,
        /// The disk alone, without memory and devices.
        disk_only: bool,
    },
}

/// Control messages of a session, on [`SESSION_STREAM`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// Send a signal to the session's process.
    Signal {
        /// Linux signal number.
        signal: u8,
    },
    /// The client's terminal has a new size.
    Resize(TerminalSize),
    /// The client leaves and the sandbox goes on, also one that was to end with it.
    Leave,
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SupervisorMessage {
    /// The workload or process runs.
    Started {
        /// Process id in the workload's namespace.
        pid: u32,
        /// How long each stage of a start took; empty for an exec.
        timeline: Vec<Stage>,
    },
    /// The workload or process ended; all its output was sent before.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
    /// It was done.
    Done,
    /// The answer to `Status`.
    Status(LiveStatus),
    /// The files are whole.
    Captured {
        /// How long the sandbox stood still, in microseconds.
        pause_us: u64,
    },
    /// It could not be done; the last message of a connection.
    Failed(RemoteFailure),
}

/// One stage of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What was done.
    pub name: String,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// What a running sandbox uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveStatus {
    /// Process id of the machine's program on the host.
    pub machine_pid: u32,
    /// Share of one processor, in percent.
    pub cpu_percent: f64,
    /// Resident memory of the machine's program in bytes.
    pub memory_bytes: u64,
    /// Sessions that run, the workload included.
    pub sessions: u32,
}

/// A failure as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFailure {
    /// Kind by its stable snake-case name.
    pub kind: String,
    /// The sentence with its causes.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}
