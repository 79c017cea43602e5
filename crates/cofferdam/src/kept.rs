//! Sessions of a sandbox that outlive their client, and the list of its processes.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use cofferdam_runtime::{
    Error, ErrorKind, GuestProcess, Request, Result, SessionStatus, SupervisorMessage, system_time,
};
use cofferdam_types::ExitStatus;
use serde::Serialize;

use crate::{Sandbox, Session};

/// The number of a session in its sandbox; 1 is the workload. Unique until the sandbox's next
/// start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SessionId(u32);

impl SessionId {
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A command that runs, or a kept one that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Program and arguments; a long command is cut.
    pub command: String,
    /// When it was asked for.
    pub started: SystemTime,
    /// When it ended; none while it runs.
    pub ended: Option<SystemTime>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Whether it was ended because its time limit was over.
    pub timed_out: bool,
    /// Whether it stays when no client follows it.
    pub kept: bool,
    /// How many clients follow it.
    pub clients: u32,
}

/// One process of a sandbox. What it says comes from the guest and is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Its number in the sandbox.
    pub pid: u32,
    /// That of its parent; 0 for the workload, and for commands beside it.
    pub parent: u32,
    /// User id.
    pub uid: u32,
    /// Linux's letter of its state, such as `S`; proc_pid_stat(5).
    pub state: char,
    /// How many threads it has.
    pub threads: u32,
    /// Processor time.
    pub cpu_time: Duration,
    /// Time since its start.
    pub age: Duration,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// The start of its command line; its name in brackets if it has none. May hold any characters.
    pub command: String,
}

/// The processes of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processes {
    /// By number; 2000 at most.
    pub list: Vec<ProcessInfo>,
    /// How many there are.
    pub total: u32,
}

impl Sandbox {
    /// Its sessions beside the workload: those that run, and of the kept ones that ended the last 64.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>> {
        let runtime = &self.coffer().runtime;
        match runtime.request(&self.now()?, Request::Sessions).await?.1 {
            SupervisorMessage::Sessions(all) => Ok(all.into_iter().map(info).collect()),
            _ => Err(unexpected()),
        }
    }

    /// Follows a kept session: its output from now on, or the exit of one that has ended. Several
    /// programs may follow one; the slowest of them sets its pace. With `stdin` this one writes to
    /// its input too, and may end it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such session, or it is not kept;
    /// [`ErrorKind::WrongState`] when the sandbox does not run.
    pub async fn attach_session(&self, id: SessionId, stdin: bool) -> Result<Session> {
        let session = id.0;
        self.session(Request::AttachSession { session, stdin })
            .await
    }

    /// The processes of its workload and of the commands beside it, by the guest's kernel. The image
    /// needs no program for it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run or is paused.
    pub async fn processes(&self) -> Result<Processes> {
        let runtime = &self.coffer().runtime;
        match runtime
            .request(&self.now()?, Request::ListProcesses)
            .await?
            .1
        {
            SupervisorMessage::Processes(list) => Ok(Processes {
                total: list.total,
                list: list.processes.into_iter().map(process).collect(),
            }),
            _ => Err(unexpected()),
        }
    }
}

fn info(status: SessionStatus) -> SessionInfo {
    SessionInfo {
        id: SessionId(status.session),
        command: status.command,
        started: system_time(status.started_ns),
        ended: status.ended_ns.map(system_time),
        exit: status.exit,
        timed_out: status.timed_out,
        kept: status.kept,
        clients: status.clients,
    }
}

fn process(process: GuestProcess) -> ProcessInfo {
    ProcessInfo {
        pid: process.pid,
        parent: process.parent,
        uid: process.uid,
        state: process.state,
        threads: process.threads,
        cpu_time: Duration::from_millis(process.cpu_time_ms),
        age: Duration::from_millis(process.age_ms),
        memory_bytes: process.memory_bytes,
        command: process.command,
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Bug, "The supervisor answered something else")
}
