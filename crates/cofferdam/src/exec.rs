//! Commands in a running sandbox, beside its workload.

use std::time::Duration;

use cofferdam_runtime::{Channel, Error, ErrorKind, ExecOptions, ProcessSpec, Request, Result};
use cofferdam_types::{ByteSize, ExitStatus, Privileges};

use crate::{Sandbox, Session, SessionEvent, SessionId, sandbox::terminal_size};

/// A command for a running sandbox.
///
/// Make one by [`ExecSpec::new`] and set its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `KEY=VALUE`, over the workload's environment.
    pub env: Vec<String>,
    /// Absolute working directory; the workload's when absent.
    pub workdir: Option<String>,
    /// `uid`, `uid:gid`, `user` or `user:group`; the workload's when absent.
    pub user: Option<String>,
    /// Give it a terminal of this many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Whether it gets input; else its standard input is empty.
    pub stdin: bool,
    /// Whether its session lasts until every process that has its output streams open has closed
    /// them. Else children that outlive it have 2 s for it.
    pub wait_all: bool,
    /// Whether it is killed, with its children, when its session is dropped or this process dies.
    /// [`crate::Sandbox::output`] always does that.
    pub kill_with_client: bool,
    /// Whether its session stays when no client follows it: see [`Sandbox::attach_session`]. Always
    /// so for [`Sandbox::exec_detached`].
    pub keep: bool,
    /// The longest that it may run. Then it and its children get SIGTERM, and 2 s later SIGKILL;
    /// see [`crate::Session::timed_out`]. No limit when absent.
    pub timeout: Option<Duration>,
    /// Whether it may have every capability, also those that the workload may not have.
    pub privileged: bool,
    /// The most that [`Sandbox::output`] keeps of each of its two streams; 16 MiB by default. What
    /// comes behind that is thrown away.
    pub output_limit: ByteSize,
}

impl ExecSpec {
    /// A command with everything else as the workload has it.
    ///
    /// ```
    /// let spec = cofferdam::ExecSpec::new(["echo", "hello"]);
    /// assert_eq!(spec.command, ["echo", "hello"]);
    /// ```
    pub fn new<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            workdir: None,
            user: None,
            terminal: None,
            stdin: false,
            wait_all: false,
            kill_with_client: false,
            keep: false,
            timeout: None,
            privileged: false,
            output_limit: ByteSize::from_mib(16),
        }
    }
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Whether it was ended because its time limit was over.
    pub timed_out: bool,
    /// Whether a stream was longer than [`ExecSpec::output_limit`].
    pub truncated: bool,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Sandbox {
    /// Runs one more process in it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it does not run; [`ErrorKind::ProgramNotFound`] and others
    /// when the process could not start.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Session> {
        let request = self.exec_request(spec, false)?;
        self.session(request).await
    }

    /// Runs one more process in it and leaves it to itself; returns the id of its session, which is
    /// kept.
    ///
    /// # Errors
    /// Like [`Self::exec`].
    pub async fn exec_detached(&self, spec: ExecSpec) -> Result<SessionId> {
        let request = self.exec_request(spec, true)?;
        Ok(self.session(request).await?.id())
    }

    /// Runs a command without input to its end and keeps what it prints, up to
    /// [`ExecSpec::output_limit`]. [`ExecSpec::timeout`] ends it. When the future is dropped, or
    /// this process dies, the command is killed with its children.
    ///
    /// # Errors
    /// Like [`Self::exec`].
    pub async fn output(&self, spec: ExecSpec) -> Result<Output> {
        let limit = usize::try_from(spec.output_limit.bytes()).unwrap_or(usize::MAX);
        let mut session = self
            .exec(ExecSpec {
                stdin: false,
                kill_with_client: true,
                ..spec
            })
            .await?;
        let mut kept = [Vec::new(), Vec::new()];
        let mut truncated = false;
        loop {
            match session.next().await {
                Some(Ok(SessionEvent::Output { channel, bytes })) => {
                    let kept = &mut kept[usize::from(channel == Channel::Stderr)];
                    let room = bytes.len().min(limit.saturating_sub(kept.len()));
                    truncated |= room < bytes.len();
                    kept.extend_from_slice(&bytes[..room]);
                }
                Some(Ok(SessionEvent::Exited(status))) => {
                    let [stdout, stderr] = kept;
                    return Ok(Output {
                        status,
                        timed_out: session.timed_out(),
                        truncated,
                        stdout,
                        stderr,
                    });
                }
                Some(Err(error)) => return Err(error),
                None => return Err(Error::new(ErrorKind::Bug, "A session without an end")),
            }
        }
    }

    fn exec_request(&self, spec: ExecSpec, detach: bool) -> Result<Request> {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let options = ExecOptions {
            detach,
            wait_all: spec.wait_all,
            kill_with_client: spec.kill_with_client && !detach,
            keep: spec.keep || detach,
            timeout_ms: spec.timeout.map(millis),
        };
        let process = self.process(spec)?;
        Ok(Request::Exec { process, options })
    }

    /// The workload's process with what the caller changes.
    fn process(&self, spec: ExecSpec) -> Result<ProcessSpec> {
        if spec.command.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidSpec,
                "There is no command to run",
            ));
        }
        let workload = &self.record().process;
        let mut env = workload.env.clone();
        for new in spec.env {
            let key = new.split('=').next().unwrap_or_default().to_owned() + "=";
            env.retain(|old| !old.starts_with(&key));
            env.push(new);
        }
        Ok(ProcessSpec {
            argv: spec.command,
            env,
            workdir: spec.workdir.unwrap_or_else(|| workload.workdir.clone()),
            user: spec.user.unwrap_or_else(|| workload.user.clone()),
            terminal: spec.terminal.map(terminal_size),
            stdin: spec.stdin,
            rlimits: workload.rlimits.clone(),
            privileges: Privileges {
                capabilities: workload
                    .privileges
                    .capabilities
                    .filter(|_| !spec.privileged),
                ..workload.privileges.clone()
            },
            init: false,
        })
    }
}
