//! Asking a sandbox's supervisor, and what it means when it does not answer.
//!
//! A sandbox may end, be killed or be removed at any moment of a request. Then the socket is
//! gone or closes, and the error says what became of the sandbox. A supervisor that is
//! there and says nothing is looked at: one that was stopped by a signal is reported at once.

use std::time::Duration;

use cofferdam_base::time::Deadline;
use cofferdam_proto::{Request, SupervisorMessage};
use cofferdam_types::{ExitStatus, SandboxId, SandboxStatus};

use super::{Connection, Incoming};
use crate::{
    base::error::{Error, ErrorKind, Result, from_remote},
    host::silence::{self, Part},
    store::{Entry, Store},
};

/// How often a supervisor that has not yet heard a request is looked at. One that runs hears it
/// in milliseconds, unless it copies a disk at the moment.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a supervisor may take to hear a request.
const HEARD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a guest may take to answer before its machine is looked at.
const MACHINE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process that has closed its socket may take to be gone with its lock.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// How often that is looked at: the kernel has no event for a lock that its holder's end frees.
const DEATH_INTERVAL: Duration = Duration::from_millis(10);

/// Asks a live sandbox's supervisor; returns its first answer, and the connection. Waits for a
/// start that is under way.
///
/// # Errors
/// [`ErrorKind::WrongState`] when it does not run, or does not run any more;
/// [`ErrorKind::NotFound`] when it was removed meanwhile; [`ErrorKind::Timeout`] when its
/// supervisor is stopped; or what the supervisor answers.
pub(crate) async fn request(
    store: &Store,
    entry: &Entry,
    request: Request,
) -> Result<(Connection, SupervisorMessage)> {
    match try_request(store, entry, request).await {
        Err(error) if error.kind() == ErrorKind::SupervisorLost => {
            Err(what_became(store, entry.record.id, Some(entry.state.starts), error).await)
        }
        asked => asked,
    }
}

/// The same; [`ErrorKind::SupervisorLost`] when it has ended meanwhile.
pub(crate) async fn try_request(
    store: &Store,
    entry: &Entry,
    request: Request,
) -> Result<(Connection, SupervisorMessage)> {
    if !entry.state.status.is_live() {
        return Err(entry.does_not_run());
    }
    let socket = store.layout().sandbox(entry.record.id).socket();
    let needs_machine = !matches!(
        request,
        Request::Wait
            | Request::Status
            | Request::Sessions
            | Request::WatchStatus { .. }
            | Request::Stop { .. }
            | Request::Kill { .. }
            | Request::SetTimeout { .. }
            | Request::Network
            | Request::ChangeNetwork(_)
    );
    let mut connection = Connection::open(&socket, request).await?;
    let deadline = Deadline::after(HEARD_TIMEOUT);
    let late = || check_supervisor(entry, Some(deadline));
    let mut answer = message(&mut connection, late).await?;
    if answer == SupervisorMessage::Heard {
        let patience = Deadline::after(MACHINE_TIMEOUT);
        let late = || {
            check_supervisor(entry, None)?;
            if needs_machine && patience.has_passed() {
                check_machine(entry)?;
            }
            Ok(())
        };
        answer = message(&mut connection, late).await?;
    }
    match answer {
        SupervisorMessage::Failed(failure) => Err(from_remote(&failure)),
        answer => Ok((connection, answer)),
    }
}

/// Waits for a start that this process has asked for; looks again and again whether the sandbox's
/// supervisor and machine were stopped.
///
/// # Errors
/// [`ErrorKind::Timeout`] when one was; or those of `start`.
pub(crate) async fn unless_stopped<T>(
    store: &Store,
    id: SandboxId,
    start: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(start);
    loop {
        if let Ok(started) = tokio::time::timeout(LOOK_INTERVAL, &mut start).await {
            return started;
        }
        let entry = store.load(id)?;
        if let Some(entry) = entry.filter(|entry| entry.state.status.is_live()) {
            check_supervisor(&entry, None)?;
            check_machine(&entry)?;
        }
    }
}

/// What became of a sandbox whose supervisor was lost during a request; `lost` if it is still live.
/// `starts` counts its starts when it was asked, where that is known: it may live again since then.
pub(crate) async fn what_became(
    store: &Store,
    id: SandboxId,
    starts: Option<u32>,
    lost: Error,
) -> Error {
    match after_loss(store, id, starts).await {
        Ok(Some(entry)) if starts.is_some_and(|starts| entry.state.starts > starts) => {
            let name = &entry.record.name;
            let what = format!("Sandbox `{name}` was stopped and started again by another command");
            Error::new(ErrorKind::WrongState, what)
        }
        Ok(Some(entry)) if entry.state.status.is_live() => lost,
        // Its supervisor died before it took the sandbox.
        Ok(Some(entry)) if entry.state.status == SandboxStatus::Created => lost,
        Ok(Some(entry)) => entry.does_not_run(),
        Ok(None) => Error::new(
            ErrorKind::NotFound,
            format!("Sandbox `{}` has ended and was removed", id.short()),
        ),
        Err(error) => error,
    }
}

/// A sandbox as it is when its supervisor has let go of it, or has had the time to, or when it was
/// started once more than `starts` times.
async fn after_loss(store: &Store, id: SandboxId, starts: Option<u32>) -> Result<Option<Entry>> {
    let deadline = Deadline::after(DEATH_TIMEOUT);
    loop {
        match store.load(id)? {
            Some(entry)
                if entry.state.status.is_live()
                    && starts.is_none_or(|starts| entry.state.starts <= starts)
                    && !deadline.has_passed() =>
            {
                tokio::time::sleep(DEATH_INTERVAL).await;
            }
            found => return Ok(found),
        }
    }
}

/// Asks for what is done as well when the sandbox has ended meanwhile.
pub(crate) async fn end(store: &Store, entry: &Entry, request: Request) -> Result<()> {
    match try_request(store, entry, request).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::SupervisorLost => {
            let starts = entry.state.starts;
            match after_loss(store, entry.record.id, Some(starts)).await? {
                Some(entry) if entry.state.status.is_live() && entry.state.starts == starts => {
                    Err(error)
                }
                _ => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

/// Waits until a sandbox's workload has ended.
///
/// # Errors
/// Why it failed, if it did; [`ErrorKind::WrongState`] if it never ran.
pub(crate) async fn wait(store: &Store, entry: &Entry) -> Result<ExitStatus> {
    if entry.state.status.is_live() {
        match try_request(store, entry, Request::Wait).await {
            Ok((_, SupervisorMessage::Exited { status })) => return Ok(status),
            Ok(_) => {
                let what = "The supervisor answered something else";
                return Err(Error::new(ErrorKind::Bug, what));
            }
            Err(error) if error.kind() != ErrorKind::SupervisorLost => return Err(error),
            // It may have ended between the look and the question.
            Err(_) => {}
        }
    }
    let gone = || Error::new(ErrorKind::NotFound, "The sandbox was removed");
    // Of an older look it is not known which start is meant.
    let starts = entry.state.status.is_live().then_some(entry.state.starts);
    let ended = after_loss(store, entry.record.id, starts).await?;
    let state = ended.ok_or_else(gone)?.state;
    match (state.exit, state.failure) {
        (Some(status), _) => Ok(status),
        (None, Some(failure)) => Err(failure.into_error()),
        (None, None) => Err(Error::new(
            ErrorKind::WrongState,
            format!("Sandbox `{}` is {}", entry.record.name, state.status),
        )),
    }
}

/// The next message of a supervisor; `late` looks again and again whether it may still come.
async fn message(
    connection: &mut Connection,
    late: impl Fn() -> Result<()>,
) -> Result<SupervisorMessage> {
    loop {
        match tokio::time::timeout(LOOK_INTERVAL, connection.next()).await {
            Ok(Ok(Incoming::Message(message))) => return Ok(message),
            Ok(Ok(Incoming::Output { .. })) => {
                let what = "The supervisor sent output out of turn";
                return Err(Error::new(ErrorKind::Bug, what));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => late()?,
        }
    }
}

fn check_supervisor(entry: &Entry, deadline: Option<Deadline>) -> Result<()> {
    check_process(entry, Part::Supervisor, entry.state.supervisor_pid)?;
    if deadline.is_some_and(Deadline::has_passed) {
        let name = &entry.record.name;
        let seconds = HEARD_TIMEOUT.as_secs();
        let what = format!("The supervisor of sandbox `{name}` has not answered for {seconds} s");
        return Err(Error::new(ErrorKind::Timeout, what)
            .hint(format!("Remove the sandbox with `coffer rm -f {name}`")));
    }
    Ok(())
}

fn check_machine(entry: &Entry) -> Result<()> {
    check_process(entry, Part::Machine, entry.state.machine_pid)
}

/// Fails when a process of a sandbox was stopped by a signal.
fn check_process(entry: &Entry, part: Part, pid: Option<u32>) -> Result<()> {
    let stopped = pid.and_then(|pid| silence::stopped(part, &entry.record.name, pid));
    stopped.map_or(Ok(()), Err)
}

impl Entry {
    /// That it is not live, and why.
    pub(crate) fn does_not_run(&self) -> Error {
        let name = &self.record.name;
        let status = self.state.status;
        let what = match (&self.state.failure, status) {
            (Some(failure), SandboxStatus::Failed) => {
                format!("Sandbox `{name}` has failed: {}", failure.message)
            }
            _ => format!("Sandbox `{name}` is {status}"),
        };
        Error::new(ErrorKind::WrongState, what).hint(format!("Start it with `coffer start {name}`"))
    }
}
