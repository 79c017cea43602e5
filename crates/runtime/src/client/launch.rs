//! Starting a sandbox's supervisor.

use std::{
    ffi::OsString,
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    process::Stdio,
};

use cofferdam_proto::{Request, StartMode, SupervisorMessage};
use cofferdam_types::{SandboxId, SandboxStatus};

use super::{
    Connection, from_std,
    request::{unless_stopped, what_became},
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io},
        reap::reap_in_background,
    },
    store::{Entry, Store, layout::Layout, program},
};

/// Starts a sandbox and waits until its workload runs.
///
/// # Errors
/// Why it did not start. One that is to be removed after its end is removed.
pub(crate) async fn start(
    store: &Store,
    entry: &Entry,
    mode: StartMode,
) -> Result<(Connection, SupervisorMessage)> {
    entry.expect_can_become(SandboxStatus::Starting)?;
    let id = entry.record.id;
    let launched = launch(store.layout(), id, Request::Start(mode)).await;
    if launched.is_err() && entry.record.spec.auto_remove {
        // No supervisor will do it. The first error is the one to report.
        let _ = store.remove_unused(id, &entry.record.name);
    }
    let mut connection = launched?;
    match unless_stopped(store, id, connection.answer()).await {
        Ok(started) => Ok((connection, started)),
        // It was killed, or removed by force.
        Err(error) if error.kind() == ErrorKind::SupervisorLost => {
            Err(what_became(store, id, Some(entry.state.starts + 1), error).await)
        }
        Err(error) => Err(error),
    }
}

/// Starts a supervisor for a sandbox and asks it to bring the sandbox up. The connection is its
/// first client; the first answer tells whether the workload runs.
///
/// The supervisor is a process of its own session and outlives this one unless tied to it.
///
/// # Errors
/// When the process cannot be started.
pub(crate) async fn launch(layout: &Layout, id: SandboxId, request: Request) -> Result<Connection> {
    let paths = layout.sandbox(id);
    let failed = |error: std::io::Error| {
        // The log is the first file that a start makes. It may be removed by force up to now.
        if error.kind() == std::io::ErrorKind::NotFound && !paths.dir.exists() {
            let what = format!("Sandbox `{}` was removed", id.short());
            return Error::new(ErrorKind::NotFound, what);
        }
        io("Could not open the supervisor's log", error)
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(paths.supervisor_log())
        .map_err(failed)?;
    let args = [
        program::SUPERVISE.into(),
        layout.home().as_os_str().to_owned(),
        id.to_string().into(),
    ];
    spawn_with_socket(layout, &args, log, request).await
}

/// Starts this program in a role whose first client is this process.
///
/// # Errors
/// When the process cannot be started.
pub(crate) async fn spawn_with_socket(
    layout: &Layout,
    args: &[OsString],
    log: File,
    request: Request,
) -> Result<Connection> {
    let failed = |error| io("Could not start a supervisor", error);
    let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
    #[cfg(test)]
    if let Some(play) = layout.backends().given().and_then(|given| given.play) {
        play(layout.clone(), args, theirs);
        return Connection::over(from_std(ours)?, request).await;
    }
    let (role, args) = args
        .split_first()
        .ok_or_else(|| Error::new(ErrorKind::Bug, "A process of this program needs a role"))?;
    let child = program::command(layout, role)?
        .args(args)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    // It is not waited for: it ends after its clients do, and this process may be one for long.
    reap_in_background(child);
    Connection::over(from_std(ours)?, request).await
}
