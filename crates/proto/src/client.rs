//! What a client and a sandbox's supervisor tell each other.
//!
//! One connection is one operation: the client sends a [`ClientRequest`], then, where there is a
//! session, data and credit frames on [`SESSION_STREAM`] and the control messages of
//! [`ClientMessage`]. The supervisor's answers are [`SupervisorMessage`]s on the control stream.
//! A session's channels start with [`crate::INITIAL_WINDOW_BYTES`] each, as on the guest's wire.

use std::net::Ipv4Addr;

use cofferdam_types::{ExitStatus, NamedSecret, SandboxId};
use serde::{Deserialize, Serialize};

use crate::{NetworkChange, NetworkStatus, ProcessList, ProcessSpec, StreamTarget, TerminalSize};

/// Generation of these messages. A client may be of another version than a running supervisor. Then
/// only [`Request::is_for_every_generation`] is understood, and the rest is refused with an error
/// that says so. So new variants of [`Request`] and [`SupervisorMessage`] go to the end, and those
/// that such requests need never change.
pub const CLIENT_GENERATION: u32 = 12;

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
    Start(StartMode),
    /// Become a standby: only to a process that was started as one. Answered by `Done` when it is
    /// ready.
    StandBy,
    /// Have a standby take over a sandbox that was made and not started. Answered like `Start`.
    Claim {
        /// The sandbox.
        sandbox: SandboxId,
        /// As in `Start`.
        mode: StartMode,
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
        /// How it depends on its client.
        options: ExecOptions,
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
    /// Change when the sandbox's time is over. Answered by `Done`.
    SetTimeout {
        /// Milliseconds from now; never when absent.
        timeout_ms: Option<u64>,
        /// Only make it later.
        extend: bool,
    },
    /// Answer `Processes`.
    ListProcesses,
    /// Answer `Sessions`.
    Sessions,
    /// Follow a session that was started with [`ExecOptions::keep`] from now on. Answered as by an
    /// exec; the exit of one that has ended follows at once.
    AttachSession {
        /// Its number.
        session: u32,
        /// Whether this client writes to its input too.
        stdin: bool,
    },
    /// Answer `Status` again and again until this client goes or the sandbox ends, which is
    /// answered by `Done`.
    WatchStatus {
        /// Milliseconds between two answers.
        interval_ms: u64,
    },
    /// Answer `Network`.
    Network,
    /// Change the network. Answered by `Network`, as it is afterwards.
    ChangeNetwork(Box<NetworkChange>),
    /// Open a byte stream to a server in the guest. Answered by `Connected`; then data of
    /// [`crate::Channel::Stdin`] goes to the server and data of [`crate::Channel::Stdout`] comes
    /// from it. `Done` follows the ends of both directions. A client that is gone ends both.
    Connect(StreamTarget),
    /// Make the sandbox a member of a named network. Answered by `Done`.
    JoinNetwork {
        /// The network's name or id.
        network: String,
        /// Further names of the sandbox there.
        aliases: Vec<String>,
        /// Its address there; the lowest that is free when absent.
        address: Option<Ipv4Addr>,
    },
    /// End its membership of a named network. Answered by `Done`.
    LeaveNetwork(String),
}

impl Request {
    /// Whether supervisors of all generations obey it: what ends a sandbox, or waits for its end.
    #[must_use]
    pub const fn is_for_every_generation(&self) -> bool {
        matches!(self, Self::Kill { .. } | Self::Stop { .. } | Self::Wait)
    }
}

/// How a sandbox depends on the client that starts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartMode {
    /// Stay attached to the workload's streams.
    pub attach: bool,
    /// Whether this client's input is the workload's, and its end the end of it.
    pub stdin: bool,
    /// What follows when the client is gone.
    pub when_gone: WhenGone,
    /// Size of the client's terminal, for a workload that has one.
    pub terminal: Option<TerminalSize>,
    /// Whether the client tried a standby before that did not answer in time.
    pub standby_was_silent: bool,
    /// Values of the sandbox's secrets, which are kept nowhere.
    pub secrets: Vec<NamedSecret>,
}

/// What becomes of a sandbox when the client that started it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenGone {
    /// It goes on.
    #[default]
    GoOn,
    /// Its start is cancelled; once its workload runs, it goes on.
    CancelStart,
    /// It ends.
    End,
}

/// How a command beside the workload depends on its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOptions {
    /// Answer `Started` and leave it to itself.
    pub detach: bool,
    /// The session lasts until every process that has its output streams open has closed them.
    pub wait_all: bool,
    /// It is killed with its children when the client is gone.
    pub kill_with_client: bool,
    /// Its session stays when the client is gone: others may attach to it, and its exit status is
    /// kept for a while.
    pub keep: bool,
    /// Milliseconds after which it is ended with its children.
    pub timeout_ms: Option<u64>,
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
    /// The client leaves, and what was to end with it goes on.
    Leave,
    /// A byte stream ends at once: the server gets a reset.
    Reset,
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SupervisorMessage {
    /// The request has arrived; its answer follows. Comes once, before anything else, but on the
    /// connection that a supervisor was born with.
    Heard,
    /// The workload or process runs.
    Started {
        /// Process id in the workload's namespace.
        pid: u32,
        /// Number of the session.
        session: u32,
        /// How long each stage of a start took; empty for an exec.
        timeline: Vec<Stage>,
    },
    /// The command has reached its time limit and is being ended.
    TimedOut,
    /// What went wrong beside the session that this connection follows. Comes before `Exited`.
    Warning(RemoteFailure),
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
    /// The answer to `Sessions`: commands beside the workload that run, and kept ones that ended.
    Sessions(Vec<SessionStatus>),
    /// The answer to `ListProcesses`.
    Processes(ProcessList),
    /// The answer to `Network` and `ChangeNetwork`.
    Network(Box<NetworkStatus>),
    /// A byte stream is open.
    Connected,
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
    /// Share of one processor since the last look, by whichever client, in percent.
    pub cpu_percent: f64,
    /// Processor time of the machine's program since its start, in milliseconds.
    pub cpu_time_ms: u64,
    /// Resident memory of the machine's program in bytes.
    pub memory_bytes: u64,
    /// Sessions that run, the workload included.
    pub sessions: u32,
    /// What its network has carried; none without one.
    pub network: Option<NetworkCounters>,
}

/// What the network of a sandbox has carried since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Bytes of frames to the guest.
    pub received_bytes: u64,
    /// Frames to the guest.
    pub received_packets: u64,
    /// Bytes of frames from the guest.
    pub sent_bytes: u64,
    /// Frames from the guest.
    pub sent_packets: u64,
    /// Flows that exist now.
    pub flows: u64,
    /// Packets, names and connections that the policy has refused.
    pub denied: u64,
}

/// A command beside the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Number of its session.
    pub session: u32,
    /// Program and arguments; a long command is cut.
    pub command: String,
    /// When it was asked for, in nanoseconds since the Unix epoch.
    pub started_ns: u64,
    /// When it ended; none while it runs.
    pub ended_ns: Option<u64>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Whether it was ended because its time limit was over.
    pub timed_out: bool,
    /// Whether it stays without a client.
    pub kept: bool,
    /// How many clients follow it.
    pub clients: u32,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CONTROL_STREAM, HEADER_BYTES, encode_control};

    fn payload<T: Serialize>(message: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_control(CONTROL_STREAM, message, &mut bytes).unwrap();
        bytes.split_off(HEADER_BYTES)
    }

    /// What other versions send and expect; a change of these bytes breaks them.
    #[test]
    fn the_bytes_that_every_generation_understands_stay() {
        let request = |request| {
            payload(&ClientRequest {
                generation: 7,
                request,
            })
        };
        assert_eq!(request(Request::Kill { signal: 9 }), [7, 6, 9]);
        let timeout_ms = Some(300);
        assert_eq!(request(Request::Stop { timeout_ms }), [7, 7, 1, 0xac, 2]);
        assert_eq!(request(Request::Stop { timeout_ms: None }), [7, 7, 0]);
        assert_eq!(request(Request::Wait), [7, 8]);
        assert_eq!(payload(&SupervisorMessage::Heard), [0]);
        let exited = |status| payload(&SupervisorMessage::Exited { status });
        assert_eq!(exited(ExitStatus::Code(3)), [4, 0, 3]);
        assert_eq!(exited(ExitStatus::Signal(9)), [4, 1, 9]);
        assert_eq!(payload(&SupervisorMessage::Done), [5]);
        let failed = SupervisorMessage::Failed(RemoteFailure {
            kind: "io".to_owned(),
            message: "no".to_owned(),
            hint: None,
        });
        assert_eq!(payload(&failed), [8, 2, b'i', b'o', 2, b'n', b'o', 0]);
    }

    #[test]
    fn a_network_that_is_joined_is_read_as_it_was_written() {
        let request = Request::JoinNetwork {
            network: "lan".to_owned(),
            aliases: Vec::new(),
            address: None,
        };
        let bytes = payload(&request);
        assert_eq!(crate::decode_control::<Request>(&bytes).unwrap(), request);
    }

    #[test]
    fn only_what_ends_a_sandbox_is_for_every_generation() {
        assert!(Request::Wait.is_for_every_generation());
        assert!(Request::Kill { signal: 15 }.is_for_every_generation());
        assert!(!Request::Status.is_for_every_generation());
        assert!(!Request::Start(StartMode::default()).is_for_every_generation());
    }
}
