//! A session joined to this process: its output to ours, our input and signals to it.

use std::io::{self, Write};

use cofferdam::{Channel, ErrorKind, Result, Session, SessionEvent, SessionInput, Signal};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    exit_status::{ExitStatus, OWN_FAILURE},
    terminal::{self, RawMode},
};

/// Signals that are handed on to the process, as Docker's `--sig-proxy` does.
const PROXIED: [u8; 7] = [1, 2, 3, 10, 12, 15, 18];

/// How a session is joined.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Join {
    /// Send our standard input.
    pub(crate) stdin: bool,
    /// The process has a terminal.
    pub(crate) tty: bool,
}

/// Joins a session until its process ends; yields its exit code.
pub(crate) async fn join(mut session: Session, join: Join) -> ExitStatus {
    let input = session.input();
    let raw = if join.tty && join.stdin && terminal::stdin_is_terminal() {
        RawMode::enter().ok()
    } else {
        None
    };
    let mut tasks = forward_signals(&input, raw.is_some());
    if join.tty {
        tasks.push(forward_size(input.clone()));
    }
    if join.stdin {
        tasks.push(tokio::spawn(forward_input(input)));
    }
    let status = pump(&mut session).await;
    tasks.iter().for_each(JoinHandle::abort);
    drop(raw);
    match status {
        Ok(Some(code)) => ExitStatus::Workload(code),
        // Nobody reads our output any more: as if SIGPIPE had ended us.
        Ok(None) => ExitStatus::Workload(141),
        Err(error) if error.kind() == ErrorKind::SupervisorLost => ExitStatus::RunError(error),
        Err(error) => ExitStatus::RunError(error),
    }
}

/// Copies output until the process ends; `None` when our own output is closed.
async fn pump(session: &mut Session) -> Result<Option<u8>> {
    loop {
        match session.next().await? {
            SessionEvent::Output { channel, bytes } => {
                let written = match channel {
                    Channel::Stderr => io::stderr().lock().write_all(&bytes),
                    _ => {
                        let mut stdout = io::stdout().lock();
                        stdout.write_all(&bytes).and_then(|()| stdout.flush())
                    }
                };
                if written.is_err() {
                    return Ok(None);
                }
            }
            SessionEvent::Exited(status) => return Ok(Some(status.code())),
        }
    }
}

/// Sends our input and its end. Reads on a blocking thread: a terminal or file cannot be polled.
async fn forward_input(mut input: SessionInput) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The session may have ended before its input.
                let _ = input.close().await;
                return;
            }
            Ok(length) => {
                if input.write(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Hands signals on; with a raw terminal its keys are bytes, and only others' signals come here.
fn forward_signals(input: &SessionInput, raw: bool) -> Vec<JoinHandle<()>> {
    let wanted = PROXIED
        .into_iter()
        .filter(|number| !raw || ![2, 3].contains(number));
    wanted
        .filter_map(|number| {
            let mut stream = signal(SignalKind::from_raw(i32::from(number))).ok()?;
            let input = input.clone();
            let number = Signal::try_from(number).ok()?;
            Some(tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if input.signal(number).await.is_err() {
                        return;
                    }
                }
            }))
        })
        .collect()
}

/// Tells the size now and whenever it changes.
fn forward_size(input: SessionInput) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((rows, columns)) = terminal::size()
                && input.resize(rows, columns).await.is_err()
            {
                return;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    })
}

/// Refuses a terminal for a standard input that is none, as Docker does.
pub(crate) fn check_terminal(interactive: bool, tty: bool) -> Option<ExitStatus> {
    if interactive && tty && !terminal::stdin_is_terminal() {
        crate::output::error_line("The input device is not a TTY");
        crate::output::note("  hint: Leave out `-t` when standard input is a pipe or file");
        return Some(ExitStatus::Workload(OWN_FAILURE));
    }
    None
}
