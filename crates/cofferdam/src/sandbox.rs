//! A sandbox and what can be done with it.

use std::time::Duration;

use cofferdam_runtime::{
    Entry, Error, ErrorKind, Request, Result, SandboxRecord, Stage, StartMode, SupervisorMessage,
    TerminalSize, WhenGone,
};
use cofferdam_types::{ExitStatus, NamedSecret, SandboxId, SandboxStatus, Signal};

use crate::{Coffer, LogOptions, Logs, SandboxInfo, Session};

/// A sandbox, live or not.
#[derive(Clone, Debug)]
pub struct Sandbox {
    coffer: Coffer,
    entry: Entry,
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

    /// Gives values of its secrets for the starts, forks and restores that this process does from now
    /// on. They come before those of the environment and of files. A value that is text is stored
    /// nowhere, so another process than the one that made the sandbox has to give it again.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for a value of no secret that it has.
    pub fn give_secrets(&self, values: Vec<NamedSecret>) -> Result<()> {
        self.entry.record.give_secrets(values)
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
    /// dies, the sandbox ends, unless [`crate::SessionWriter::leave`] came before.
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
            ..StartMode::default()
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

    /// Stops it as [`Self::stop`] does, and starts it again. Restarts of one sandbox wait for each
    /// other; dropping the future ends the wait.
    ///
    /// # Errors
    /// Those of [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, timeout: Option<Duration>) -> Result<Vec<Stage>> {
        let (_, started) = self.coffer.runtime.restart(&self.now()?, timeout).await?;
        Ok(timeline(started))
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

    /// Ends its time so long from now, or never, in place of the time-out that it was made with.
    /// What happens then is up to [`crate::SandboxSpec::lease`]. The next start has the old time-out.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is not live.
    pub async fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.change_timeout(timeout, false).await
    }

    /// The same, but only if that is later than the end that it has.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it is not live.
    pub async fn extend_timeout(&self, timeout: Duration) -> Result<()> {
        self.change_timeout(Some(timeout), true).await
    }

    async fn change_timeout(&self, timeout: Option<Duration>, extend: bool) -> Result<()> {
        let timeout_ms = timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let request = Request::SetTimeout { timeout_ms, extend };
        let runtime = &self.coffer.runtime;
        runtime.request(&self.now()?, request).await.map(drop)
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

pub(crate) const fn terminal_size((rows, columns): (u16, u16)) -> TerminalSize {
    TerminalSize { rows, columns }
}

fn timeline(started: SupervisorMessage) -> Vec<Stage> {
    match started {
        SupervisorMessage::Started { timeline, .. } => timeline,
        _ => Vec::new(),
    }
}
