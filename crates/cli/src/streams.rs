//! A session joined to this process: its output to ours, our input and signals to it.

use std::{io, time::Duration};

use cofferdam::{Channel, Error, ErrorKind, Result, Session, SessionEvent, SessionInput, Signal};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    detach_keys::DetachKeys,
    exit_status::{BROKEN_PIPE, ExitStatus},
    sink::{Sink, Stream},
    terminal::{self, RawMode},
};

/// Signals that are handed on to the process, as Docker's `--sig-proxy` does: HUP, INT, QUIT,
/// USR1, USR2, ALRM, TERM, CONT. Source: signal(7), the x86 column.
const PROXIED: [u8; 8] = [1, 2, 3, 10, 12, 14, 15, 18];

/// SIGHUP.
const HUP: u8 = 1;

/// SIGPIPE.
const PIPE: u8 = 13;

/// How long a supervisor may take to hear that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a session is joined.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Send our standard input.
    pub(crate) stdin: bool,
    /// The process has a terminal.
    pub(crate) tty: bool,
    /// The process is there for our sake: it hears of it when nobody reads its output any more.
    pub(crate) owned: bool,
    /// Keys that leave a terminal's session.
    pub(crate) detach_keys: Option<DetachKeys>,
}

/// How a joined session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its process ended with this code.
    Exited(u8),
    /// Nobody reads our standard output any more.
    OutputClosed,
    /// The user left it by the detach keys.
    Detached,
    /// The user's terminal is gone; the process was told.
    HungUp,
}

impl From<Ended> for ExitStatus {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self::Workload(code),
            Ended::OutputClosed => Self::Workload(BROKEN_PIPE),
            Ended::Detached => Self::Success,
            Ended::HungUp => Self::Workload(128 + HUP),
        }
    }
}

/// Joins a session until its process ends.
///
/// # Errors
/// Why the session broke, or our standard output could not be written.
pub(crate) async fn join(mut session: Session, join: Join) -> Result<Ended> {
    let input = session.input();
    let raw = if join.tty && join.stdin && terminal::stdin_is_terminal() {
        RawMode::enter().ok()
    } else {
        None
    };
    let (hang_up, hung_up) = oneshot::channel();
    // Without a terminal of ours a hang-up is a signal like the others.
    let hang_up = raw.is_some().then_some(hang_up);
    let mut tasks = forward_signals(&input, hang_up);
    if join.tty {
        tasks.push(forward_size(input.clone()));
    }
    let (detach, detached) = oneshot::channel();
    if join.stdin {
        let keys = join.detach_keys.filter(|_| raw.is_some());
        tasks.push(tokio::spawn(forward_input(input.clone(), keys, detach)));
    }
    let ended = tokio::select! {
        ended = pump(&mut session) => ended,
        Ok(()) = detached => Ok(Ended::Detached),
        Ok(()) = hung_up => Ok(Ended::HungUp),
    };
    if matches!(ended, Ok(Ended::OutputClosed)) && join.owned {
        // What would happen to it on the host. It may have ended by itself already.
        if let Ok(pipe) = Signal::try_from(PIPE) {
            let _ = input.signal(pipe).await;
        }
    }
    drop(raw);
    if matches!(ended, Ok(Ended::Detached)) {
        // The session may have ended in this moment, or nobody may read on its other end.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, input.leave()).await;
    }
    tasks.iter().for_each(JoinHandle::abort);
    ended
}

/// Copies output until the process ends or our own output is closed.
async fn pump(session: &mut Session) -> Result<Ended> {
    let mut stdout = Sink::new(Stream::Stdout);
    let mut stderr = Sink::new(Stream::Stderr);
    let code = loop {
        match session.next().await? {
            SessionEvent::Output {
                channel: Channel::Stderr,
                bytes,
            } => {
                // A standard error that nobody reads ends no program.
                let _ = stderr.write(bytes).await;
            }
            SessionEvent::Output { bytes, .. } => {
                if let Err(error) = stdout.write(bytes).await {
                    return closed(error);
                }
            }
            SessionEvent::Exited(status) => break status.code(),
        }
    };
    let drained = tokio::select! {
        drained = async {
            let _ = stderr.finish().await;
            stdout.finish().await
        } => drained,
        // The process is gone and cannot hear it: it is for us, who wait for a reader.
        () = told_to_end() => Ok(()),
    };
    match drained {
        // The process ended before it could notice.
        Ok(()) => Ok(Ended::Exited(code)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ended::Exited(code)),
        Err(error) => closed(error),
    }
}

/// Waits for a signal that ends programs.
async fn told_to_end() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    let [Ok(mut interrupt), Ok(mut terminate)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn closed(error: io::Error) -> Result<Ended> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Ended::OutputClosed);
    }
    let what = "Could not write to standard output";
    Err(Error::new(ErrorKind::Io, what).because(error))
}

/// Sends our input and its end. Reads on a blocking thread: a terminal or file cannot be polled.
async fn forward_input(
    mut input: SessionInput,
    mut keys: Option<DetachKeys>,
    detach: oneshot::Sender<()>,
) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The session may have ended before its input.
                let _ = input.close().await;
                return;
            }
            Ok(length) => length,
        };
        let written = match &mut keys {
            None => input.write(&buffer[..length]).await,
            Some(keys) => {
                let (bytes, leave) = keys.filter(&buffer[..length]);
                let written = input.write(&bytes).await;
                if leave {
                    // The session may end in this moment; then nobody listens.
                    let _ = detach.send(());
                    return;
                }
                written
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Hands signals on. With a raw terminal its keys are bytes, and only others' signals come here.
/// What our caller made us ignore, as `nohup` does, stays ignored.
fn forward_signals(
    input: &SessionInput,
    mut hang_up: Option<oneshot::Sender<()>>,
) -> Vec<JoinHandle<()>> {
    let ignored = ignored_signals();
    PROXIED
        .into_iter()
        .filter(|number| ignored & (1 << (number - 1)) == 0)
        .filter_map(|number| {
            let mut stream = signal(SignalKind::from_raw(i32::from(number))).ok()?;
            let input = input.clone();
            let mut hang_up = hang_up.take_if(|_| number == HUP);
            let number = Signal::try_from(number).ok()?;
            Some(tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let sent = input.signal(number).await;
                    if let Some(hang_up) = hang_up.take() {
                        // The session may end in this moment; then nobody listens.
                        let _ = hang_up.send(());
                    }
                    if sent.is_err() {
                        return;
                    }
                }
            }))
        })
        .collect()
}

/// The signals that this process ignores, signal n as bit n - 1.
/// Source: proc_pid_status(5), SigIgn.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
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
///
/// # Errors
/// [`ErrorKind::InvalidSpec`].
pub(crate) fn check_terminal(interactive: bool, tty: bool) -> Result<()> {
    if interactive && tty && !terminal::stdin_is_terminal() {
        let what = "The input device is not a TTY";
        return Err(Error::new(ErrorKind::InvalidSpec, what)
            .hint("Leave out `-t` when standard input is a pipe or file"));
    }
    Ok(())
}
