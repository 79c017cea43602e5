//! The supervisor: one process for each live sandbox, which owns its machine.
//!
//! A client starts it and passes a socket as stdin: that is its first client. It
//! holds the sandbox's lock for life, listens for further clients ([`early`]), has its caller bring
//! the machine up ([`serve`]), then works off one queue of events ([`switchboard`]) until the workload has
//! ended and every client has its answer.
//!
//! One thread, one owner of all state; tasks only carry bytes. No lock is held across an await.

mod client;
mod early;
mod event;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hostile;
mod input;
#[cfg(test)]
mod kept_tests;
mod lease;
#[cfg(test)]
mod lease_tests;
mod live;
mod session;
mod stream;
#[cfg(test)]
mod stream_tests;
mod switchboard;
mod workload;

use std::{
    os::{fd::AsFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use cofferdam_base::{LockFile, fs, time::unix_time_ns};
use cofferdam_proto::{CLIENT_GENERATION, ClientRequest, Request, StartMode, SupervisorMessage};
use cofferdam_types::{ExitStatus, SandboxId, SandboxStatus, Signal};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};

pub(crate) use self::{
    client::Client,
    event::{Event, queue},
    live::{AfterStart, Live, Recorded, Starting},
    switchboard::forward_signals,
};
use self::{
    early::{EarlyClients, NotStarted},
    event::{ClientEvent, ClientId},
    switchboard::{End, Parts, Switchboard, spawn_accept},
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io, to_remote},
        socket,
        task::log_line,
    },
    host::silence,
    network::Endpoints,
    store::{
        Entry, Store,
        event::EventKind,
        layout::{Layout, SandboxPaths},
    },
};

/// The first client: the one whose socket is the supervisor's standard input.
pub(crate) const FIRST_CLIENT: ClientId = 0;

/// When a long-lived sandbox's image gets its template, and its template learns what the start
/// has touched: late enough not to slow the start.
const TEMPLATE_DELAY: Duration = Duration::from_secs(2);

/// What a supervisor is to do.
pub(crate) struct Duty {
    pub(crate) layout: Layout,
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// What its first client wants.
    pub(crate) request: ClientRequest,
}

/// Has `bring_up` make the sandbox's machine, then works for the sandbox until its end.
///
/// # Errors
/// Why the sandbox did not come up; its clients have been told. The end of one that came up is no
/// error.
pub(crate) async fn serve<B>(
    duty: Duty,
    client: Client,
    events: mpsc::Sender<Event>,
    mut queue: mpsc::Receiver<Event>,
    bring_up: B,
) -> Result<()>
where
    B: AsyncFnOnce(Starting<'_>) -> Result<(Live, Box<dyn AfterStart>)>,
{
    let (layout, id) = (&duty.layout, duty.id);
    let prepared = prepare(layout, id, &duty.request);
    let (store, entry, lock, mut mode, listener, endpoints) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return not_started(client, EarlyClients::new(), "", error.into()).await,
    };
    spawn_accept(listener, events.clone());
    let mut early = EarlyClients::new();
    let paths = layout.sandbox(id);
    // From here on the proxy has them, and nobody else.
    let secrets = std::mem::take(&mut mode.secrets);
    let started = bring_up(Starting {
        layout,
        store: &store,
        entry: &entry,
        paths: &paths,
        terminal: mode.terminal,
        standby_was_silent: mode.standby_was_silent,
        secrets: &secrets,
        endpoints: &endpoints,
    });
    let (live, after) = match early::bring_up(started, &events, &mut queue, &mode, &mut early).await
    {
        Ok(live) => live,
        Err(not) => {
            record_failure(&store, &entry, &not);
            let name = entry.record.name;
            drop(lock);
            return not_started(client, early, &name, not).await;
        }
    };
    let name = entry.record.name.clone();
    let parts = Parts {
        store,
        entry,
        paths,
        live,
        after,
        lock,
        events,
        client,
        mode,
        early,
    };
    match Switchboard::open(parts) {
        Ok((mut board, frames)) => {
            let end = board.run(frames, &mut queue).await;
            finish(board, end, &mut queue).await;
            Ok(())
        }
        Err((client, early, error)) => not_started(client, early, &name, error.into()).await,
    }
}

/// The client whose socket is this process's standard input.
pub(crate) fn accept_first(events: &mpsc::Sender<Event>) -> Result<Client> {
    let what = "The first client is not the owner of this process";
    Client::accept(FIRST_CLIENT, first_client()?, events.clone())
        .ok_or_else(|| Error::new(ErrorKind::Permission, what))
}

pub(crate) async fn first_request(queue: &mut mpsc::Receiver<Event>) -> Option<ClientRequest> {
    match queue.recv().await? {
        Event::Client(FIRST_CLIENT, ClientEvent::Request(request)) => Some(request),
        _ => None,
    }
}

/// Tells every client that the sandbox did not come up.
async fn not_started(
    client: Client,
    early: EarlyClients,
    name: &str,
    not: NotStarted,
) -> Result<()> {
    client.answer(&SupervisorMessage::Failed(to_remote(&not.error)));
    client.close().await;
    early.tell_all(name, &not).await;
    Err(not.error)
}

/// How long a look at a machine's memory may take: milliseconds, unless its program hangs in the
/// kernel, and then it still has to be killed.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a guest may take to put its file systems in order.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Puts a sandbox's end on record, then tells everybody.
///
/// The order matters: who is told that a sandbox has stopped may at once start or remove it, and
/// so its lock is given up first. Its network ends before both: until then its ports and its
/// numbers on named networks are in use, and nobody else may have them.
async fn finish(mut board: Switchboard, end: End, queue: &mut mpsc::Receiver<Event>) {
    board.end_network_changes().await;
    board.finished(&end);
    let id = board.entry.record.id;
    let recorded;
    if board.entry.record.spec.auto_remove {
        board.close_network();
        if let Err(error) = board.store.remove(id) {
            log_line(&error.chain());
        }
        board.lock = None;
        board.tell_all(&end);
        recorded = look_at_short_life(&mut board).await;
        let _ = board.machine.kill().await;
    } else {
        recorded = look_at_short_life(&mut board).await;
        // A machine whose process is stopped puts nothing in order.
        if matches!(end, End::Exited(_)) && !silence::is_stopped(board.machine.pid()) {
            board.shut_down();
            let ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, board.machine.wait());
            if ended.await.is_err() {
                log_line("The guest did not shut down in time");
            }
        }
        let _ = board.machine.kill().await;
        board.close_network();
        if let Err(error) = board.store.set_state(id, &board.entry.state) {
            log_line(&error.chain());
        }
        let layout = board.store.layout();
        layout.remove_sockets(&layout.sandbox(id));
        board.lock = None;
        board.tell_all(&end);
    }
    // Nobody waits for this, and it would slow what whoever waits does next.
    for note in board.make_ready_for_the_next() {
        log_line(&note);
    }
    board.linger(queue).await;
    let _ = recorded.await;
}

/// Records what the start of a sandbox that has already ended has touched, while its machine is
/// there. The task that it returns waits for the disk.
async fn look_at_short_life(board: &mut Switchboard) -> JoinHandle<()> {
    let record = tokio::time::timeout(RECORD_TIMEOUT, board.record_start());
    let Recorded { wait, failure } = record.await.unwrap_or_else(|_| Recorded {
        failure: Some("No working set was recorded: it could not be read in time".to_owned()),
        ..Recorded::default()
    });
    board.look_at_read_ahead().await;
    if let Some(note) = failure {
        // The caller writes the state.
        board.degraded(note);
    }
    tokio::spawn(async {
        if let Some(wait) = wait {
            let _ = tokio::task::spawn_blocking(wait).await;
        }
    })
}

type Prepared = (Store, Entry, LockFile, StartMode, UnixListener, Endpoints);

/// Takes the sandbox and says that it is starting.
fn prepare(layout: &Layout, id: SandboxId, request: &ClientRequest) -> Result<Prepared> {
    let mode = mode_of(request)?;
    let store = Store::open(layout.clone())?;
    let gone = || Error::new(ErrorKind::NotFound, "The sandbox was removed");
    let name = store.load(id)?.ok_or_else(gone)?.record.name;
    let Some(lock) = store.try_lock_existing(id)? else {
        return Err(Error::new(
            ErrorKind::WrongState,
            format!("Sandbox `{name}` is being used by another command"),
        ));
    };
    let lock = lock.ok_or_else(gone)?;
    // With the lock held the state cannot change under us.
    let mut entry = store.load(id)?.ok_or_else(gone)?;
    entry.expect_can_become(SandboxStatus::Starting)?;
    // The first thing that can fail, before anything is changed: the sandbox is then as before.
    let endpoints = Endpoints::take(&entry.record.spec.network).inspect_err(|_| {
        if entry.record.spec.auto_remove && entry.state.starts == 0 {
            // It is nobody's, and the first error is the one to report.
            let _ = store.remove(id);
        }
    })?;
    entry.state.status = SandboxStatus::Starting;
    entry.state.starts += 1;
    entry.state.supervisor_pid = Some(std::process::id());
    entry.state.exit = None;
    entry.state.ended_by = None;
    entry.state.failure = None;
    entry.state.machine_key = None;
    entry.state.degraded = Vec::new();
    entry.state.oom_kills = 0;
    entry.state.disk_failure = None;
    entry.state.lease = None;
    entry.state.ports = Vec::new();
    store.reserve_state(id);
    // Before the status changes: a client that sees the new one can connect.
    let paths = layout.sandbox(id);
    let listening = layout.make_sockets(&paths).and_then(|()| listen(&paths));
    let listener = listening.map_err(NotStarted::from).map_err(|not| {
        record_failure(&store, &entry, &not);
        not.error
    })?;
    store.set_state(id, &entry.state)?;
    Ok((store, entry, lock, mode, listener, endpoints))
}

/// What the first client wants besides the start.
fn mode_of(request: &ClientRequest) -> Result<StartMode> {
    match &request.request {
        _ if request.generation != CLIENT_GENERATION => Err(other_generation()),
        Request::Start(mode) | Request::Claim { mode, .. } => Ok(mode.clone()),
        _ => Err(Error::new(
            ErrorKind::Bug,
            "A supervisor starts with a start",
        )),
    }
}

pub(crate) fn other_generation() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "The sandbox was started by another version of Cofferdam",
    )
    .hint("Stop it with that version, or remove it with `coffer rm -f`")
}

/// The state after a start that failed or was cancelled: the sandbox is there to be looked at, or
/// gone if it was to be removed. What there was of its machine is ended.
fn record_failure(store: &Store, entry: &Entry, not: &NotStarted) {
    let id = entry.record.id;
    let paths = store.layout().sandbox(id);
    store.layout().backends().reap(&paths.run);
    let result = if entry.record.spec.auto_remove {
        store.remove(id)
    } else {
        let mut state = entry.state.clone();
        state.supervisor_pid = None;
        state.machine_pid = None;
        state.finished_ns = Some(unix_time_ns());
        if not.by.is_some() {
            state.status = SandboxStatus::Stopped;
            state.exit = Some(ExitStatus::Signal(Signal::KILL.number()));
            state.ended_by = not.by;
        } else {
            state.status = SandboxStatus::Failed;
            state.failure = Some(to_remote(&not.error).into());
        }
        store.note(&entry.record, EventKind::died(&state));
        store.set_state(id, &state)
    };
    if let Err(second) = result {
        log_line(&second.chain());
    }
    store.layout().remove_sockets(&paths);
}

/// The socket that this process was given as its standard input.
fn first_client() -> Result<UnixStream> {
    let failed = |error| io("Could not take the first client's socket", error);
    let fd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(failed)?;
    let stream = StdUnixStream::from(fd);
    stream.set_nonblocking(true).map_err(failed)?;
    UnixStream::from_std(stream).map_err(failed)
}

/// Opens the socket on which further clients come.
fn listen(paths: &SandboxPaths) -> Result<UnixListener> {
    let failed = |error| {
        io(
            format!("Could not listen at `{}`", paths.socket().display()),
            error,
        )
    };
    fs::remove_file_if_present(&paths.socket()).map_err(failed)?;
    socket::bind(&paths.socket()).map_err(failed)
}
