//! A sandbox and what can be done with it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use cofferdam_runtime::{
    EndedBy, Entry, Error, ErrorKind, ForkOrigin, Layout, Request, Result, SandboxRecord, Stage,
    StartMode, SupervisorMessage, TerminalSize, WhenGone,
};
use cofferdam_types::{Digest, ExitStatus, SandboxId, SandboxSpec, SandboxStatus, Signal};
use serde::Serialize;

use crate::{Coffer, LogOptions, Logs, Session};

/// A sandbox, live or not.
#[derive(Clone, Debug)]
pub struct Sandbox {
    coffer: Coffer,
    entry: Entry,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SandboxInfo {
    /// Id.
    pub id: SandboxId,
    /// Name.
    pub name: String,
    /// Where it is in its life.
    pub status: SandboxStatus,
    /// The image as it was asked for.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: Digest,
    /// Program and arguments of the workload.
    pub command: Vec<String>,
    /// Environment of the workload.
    pub env: Vec<String>,
    /// Working directory of the workload.
    pub workdir: String,
    /// User of the workload; empty is root.
    pub user: String,
    /// Host name in the guest.
    pub hostname: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When its workload last started.
    pub started: Option<String>,
    /// When its workload last ended.
    pub finished: Option<String>,
    /// Nanoseconds since the Unix epoch of `created`.
    pub created_ns: u64,
    /// Nanoseconds since the Unix epoch of `started`.
    pub started_ns: Option<u64>,
    /// Nanoseconds since the Unix epoch of `finished`.
    pub finished_ns: Option<u64>,
    /// Exit code of the workload, 128 + n for a signal.
    pub exit_code: Option<u8>,
    /// What ended its workload; none if it ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether the guest's kernel has killed one of its processes since its last start because
    /// memory ran out.
    pub oom_killed: bool,
    /// How many it has killed.
    pub oom_kills: u64,
    /// Why the host could not read or write its disk since its last start, as when the host's disk
    /// is full.
    pub disk_failure: Option<String>,
    /// The backend that runs or ran it.
    pub backend: Option<String>,
    /// What went wrong with quicker ways to start it, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// What it was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkOrigin>,
    /// Process id of its supervisor on the host.
    pub supervisor_pid: Option<u32>,
    /// Process id of its machine on the host.
    pub machine_pid: Option<u32>,
    /// Its directory on the host, with its logs.
    pub directory: PathBuf,
    /// What was asked.
    pub spec: SandboxSpec,
}

/// Options of a session that starts its sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether the session's input is the workload's, and its end the end of it.
    pub stdin: bool,
    /// Rows and columns of the terminal that a workload with one starts on.
    pub terminal: Option<(u16, u16)>,
    /// Whether the sandbox goes on when the session is dropped or this process dies. A start that
    /// is under way is cancelled then all the same.
    pub survives: bool,
}

/// What a live sandbox uses now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SandboxStats {
    /// Share of one processor, in percent.
    pub cpu_percent: f64,
    /// Resident memory of the machine's program in bytes.
    pub memory_bytes: u64,
    /// Processes that were started through the supervisor and run.
    pub sessions: u32,
}

impl Sandbox {
    pub(crate) const fn new(coffer: Coffer, entry: Entry) -> Self {
        Self { coffer, entry }
    }

    /// Id.
    #[must_use]
    pub const fn id(&self) -> SandboxId {
        self.entry.record.id
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.record.name
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it was removed.
    pub fn info(&self) -> Result<SandboxInfo> {
        let layout = self.coffer.runtime.store().layout();
        Ok(SandboxInfo::from_entry(self.now()?, layout))
    }

    /// Starts it; returns when its workload runs, with how long each stage took. It outlives this
    /// process.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start(&self) -> Result<Vec<Stage>> {
        let (_, started) = self
            .coffer
            .runtime
            .start(&self.now()?, StartMode::default())
            .await?;
        Ok(timeline(started))
    }

    /// Starts it and stays attached to its workload. When the session is dropped, or this process
    /// dies, the sandbox ends, unless [`crate::SessionInput::leave`] came before.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start_attached(&self, stdin: bool) -> Result<(Session, Vec<Stage>)> {
        let options = AttachOptions {
            stdin,
            ..AttachOptions::default()
        };
        self.start_attached_with(options).await
    }

    /// The same with more options.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start_attached_with(
        &self,
        options: AttachOptions,
    ) -> Result<(Session, Vec<Stage>)> {
        let mode = StartMode {
            attach: true,
            stdin: options.stdin,
            when_gone: if options.survives {
                WhenGone::CancelStart
            } else {
                WhenGone::End
            },
            terminal: options.terminal.map(terminal_size),
            standby_was_silent: false,
        };
        let (connection, started) = self.coffer.runtime.start(&self.now()?, mode).await?;
        let session = Session::new(connection, self.clone(), &started);
        Ok((session, timeline(started)))
    }

    /// Waits for a start that another program has under way; at once if it runs already.
    ///
    /// # Errors
    /// Why it did not start; [`ErrorKind::WrongState`] when it is not live.
    pub async fn wait_until_started(&self) -> Result<()> {
        self.coffer.runtime.started(&self.now()?).await
    }

    /// Follows its workload from now on. Dropping the session detaches.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run or is paused.
    pub async fn attach(&self, stdin: bool) -> Result<Session> {
        let now = self.now()?;
        if now.state.status == SandboxStatus::Paused {
            let what = format!("Sandbox `{}` is paused", self.name());
            let hint = format!("Let it go on with `coffer unpause {}`", self.name());
            return Err(Error::new(ErrorKind::WrongState, what).hint(hint));
        }
        self.session(Request::Attach { stdin }).await
    }

    /// Asks its workload to end by its stop signal, and makes it after `timeout` (its own, 10 s
    /// by default, when absent). Returns when it has stopped; at once if it does not run.
    ///
    /// # Errors
    /// [`ErrorKind::SupervisorLost`] when the supervisor died meanwhile.
    pub async fn stop(&self, timeout: Option<Duration>) -> Result<()> {
        self.coffer.runtime.stop(&self.now()?, timeout).await
    }

    /// Sends a signal to its workload. SIGKILL is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.coffer.runtime.kill(&self.now()?, signal).await
    }

    /// Waits until its workload has ended; at once if it already has.
    ///
    /// # Errors
    /// Why the sandbox failed, if it did; [`ErrorKind::WrongState`] if it never ran.
    pub async fn wait(&self) -> Result<ExitStatus> {
        self.coffer.runtime.wait(&self.now()?).await
    }

    /// Removes it with its disk and logs; with `force` also when it runs.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it runs and `force` is not set.
    pub async fn remove(&self, force: bool) -> Result<()> {
        self.coffer.runtime.remove(&self.now()?, force).await
    }

    /// Its workload's output as the supervisor kept it.
    ///
    /// # Errors
    /// The file system's.
    pub fn logs(&self, options: &LogOptions) -> Result<Logs> {
        Logs::open(self, options)
    }

    /// The last `lines` lines that its kernel has printed, such as those of a process that was
    /// killed for want of memory; about a mebibyte of them is kept. The guest chooses the bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn kernel_log(&self, lines: usize) -> Result<Vec<String>> {
        cofferdam_runtime::console_lines(self.coffer.runtime.store(), self.id(), lines)
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run.
    pub async fn stats(&self) -> Result<SandboxStats> {
        let runtime = &self.coffer.runtime;
        match runtime.request(&self.now()?, Request::Status).await?.1 {
            SupervisorMessage::Status(status) => Ok(SandboxStats {
                cpu_percent: status.cpu_percent,
                memory_bytes: status.memory_bytes,
                sessions: status.sessions,
            }),
            _ => Err(Error::new(
                ErrorKind::Bug,
                "The supervisor answered something else",
            )),
        }
    }

    pub(crate) const fn record(&self) -> &SandboxRecord {
        &self.entry.record
    }

    pub(crate) fn coffer(&self) -> &Coffer {
        &self.coffer
    }

    /// The sandbox as the store has it now.
    pub(crate) fn now(&self) -> Result<Entry> {
        self.coffer.runtime.store().load(self.id())?.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("Sandbox `{}` was removed", self.name()),
            )
        })
    }

    pub(crate) async fn session(&self, request: Request) -> Result<Session> {
        let (connection, answer) = self.coffer.runtime.request(&self.now()?, request).await?;
        match answer {
            // Its machine was lost, or it stopped, while the guest had the request.
            SupervisorMessage::Exited { .. } => Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{}` ended before the command started", self.name()),
            )),
            first => Ok(Session::new(connection, self.clone(), &first)),
        }
    }

    /// What became of it when its supervisor was lost.
    pub(crate) async fn what_became(&self, lost: Error) -> Error {
        self.coffer.runtime.what_became(self.id(), lost).await
    }
}

impl SandboxInfo {
    pub(crate) fn from_entry(entry: Entry, layout: &Layout) -> Self {
        let Entry { record, state } = entry;
        let time = cofferdam_runtime::rfc3339;
        Self {
            id: record.id,
            name: record.name,
            status: state.status,
            image: record.image.name,
            image_id: record.image.id,
            command: record.process.argv,
            env: record.process.env,
            workdir: record.process.workdir,
            user: record.process.user,
            hostname: record.hostname,
            labels: record.spec.labels.clone(),
            created: time(record.created_ns),
            started: state.started_ns.map(time),
            finished: state.finished_ns.map(time),
            created_ns: record.created_ns,
            started_ns: state.started_ns,
            finished_ns: state.finished_ns,
            exit_code: state.exit.map(ExitStatus::code),
            ended_by: state.ended_by,
            failure: state.failure.map(|failure| failure.message),
            oom_killed: state.oom_kills > 0,
            oom_kills: state.oom_kills,
            disk_failure: state.disk_failure.map(|failure| failure.message),
            backend: state.backend,
            degraded: state.degraded,
            forked_from: record.forked_from,
            supervisor_pid: state.supervisor_pid,
            machine_pid: state.machine_pid,
            directory: layout.sandbox(record.id).dir,
            spec: record.spec,
        }
    }
}

pub(crate) const fn terminal_size((rows, columns): (u16, u16)) -> TerminalSize {
    TerminalSize { rows, columns }
}

impl SandboxInfo {
    /// What went wrong around the sandbox since its last start and may have ended it: memory that
    /// ran out, a host's disk that is full.
    #[must_use]
    pub fn warnings(&self) -> Vec<Error> {
        if self.exit_code == Some(0) {
            return Vec::new();
        }
        let memory = self
            .oom_killed
            .then(|| cofferdam_runtime::memory_error(&self.spec));
        let disk = self
            .disk_failure
            .as_ref()
            .map(|what| Error::new(ErrorKind::NoSpace, what.clone()));
        memory.into_iter().chain(disk).collect()
    }
}

fn timeline(started: SupervisorMessage) -> Vec<Stage> {
    match started {
        SupervisorMessage::Started { timeline, .. } => timeline,
        _ => Vec::new(),
    }
}
