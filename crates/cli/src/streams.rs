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
    output,
    sink::{Sink, Stream},
    terminal::{self, RawMode},
};

/// Signals that are handed on to the process, as Docker's `--sig-proxy` does: HUP, INT, QUIT,
/// USR1, USR2, ALRM, TERM, CONT. Source: signal(7), the x86 column.
const PROXIED: [u8; 8] = [1, 2, 3, 10, 12, 14, 15, 18];

/// Signals with which people and shells end a program: HUP, INT, QUIT, TERM.
const ENDING: [u8; 4] = [1, 2, 3, 15];

/// SIGHUP.
const HUP: u8 = 1;

/// SIGPIPE.
const PIPE: u8 = 13;

/// The exit code of a command that ran too long; timeout(1).
const TIMED_OUT: u8 = 124;

/// How long nothing may come behind the end of our input before we leave a workload that goes on.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a supervisor may take to hear that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a session is joined.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Send our standard input.
    pub(crate) stdin: bool,
    /// The process has a terminal.
    pub(crate) tty: bool,
    /// What we are to it.
    pub(crate) kind: Kind,
    /// Keys that leave a terminal's session.
    pub(crate) detach_keys: Option<DetachKeys>,
    /// Hand our signals on; else those that end programs end only us.
    pub(crate) proxy: bool,
    /// Whether its standard output and its standard error are shown.
    pub(crate) show: [bool; 2],
}

impl Default for Join {
    fn default() -> Self {
        Self {
            stdin: false,
            tty: false,
            kind: Kind::Command,
            detach_keys: None,
            proxy: true,
            show: [true; 2],
        }
    }
}

/// What we are to the process of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is a command that we started: it gets a signal when our output has no reader any more, or
    /// our terminal is gone.
    Command,
    /// It is a workload that we started.
    Workload,
    /// It is a workload that was there before and goes on after us, also behind our input's end.
    Visit,
}

/// How a joined session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its process ended with this code.
    Exited(u8),
    /// Its process was ended because its time limit was over.
    TimedOut,
    /// Nobody reads our standard output any more.
    OutputClosed,
    /// The user left it by the detach keys, or our input ended and nothing has come since.
    Detached,
    /// The user's terminal is gone; a command of ours was sent SIGHUP.
    HungUp,
    /// This signal ended us and was not handed on; the process goes on.
    Signalled(u8),
}

impl From<Ended> for ExitStatus {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self::Workload(code),
            Ended::TimedOut => Self::Workload(TIMED_OUT),
            Ended::OutputClosed => Self::Workload(BROKEN_PIPE),
            Ended::Detached => Self::Success,
            Ended::HungUp => Self::Workload(128 + HUP),
            Ended::Signalled(signal) => Self::Workload(128_u8.saturating_add(signal)),
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
    // Without a terminal of ours a hang-up is a signal like the others, unless we only visit.
    let hang_up = (raw.is_some() || join.kind == Kind::Visit).then_some(hang_up);
    let mut tasks = match join.proxy {
        true => forward_signals(&input, hang_up, join.kind),
        false => Vec::new(),
    };
    if join.tty {
        tasks.push(forward_size(input.clone()));
    }
    let (detach, detached) = oneshot::channel();
    let mut leaving = Leaving::Never;
    if join.stdin {
        let keys = join.detach_keys.filter(|_| raw.is_some());
        let (end, ended) = oneshot::channel();
        if join.kind == Kind::Visit {
            leaving = Leaving::After(ended);
        }
        let ends = Ends { detach, end };
        tasks.push(tokio::spawn(forward_input(input.clone(), keys, ends)));
    }
    let ended = tokio::select! {
        ended = pump(&mut session, leaving, join.show) => ended,
        signal = ending_signal(), if !join.proxy => Ok(Ended::Signalled(signal)),
        Ok(()) = detached => Ok(Ended::Detached),
        Ok(()) = hung_up => Ok(Ended::HungUp),
    };
    if matches!(ended, Ok(Ended::OutputClosed)) && join.kind == Kind::Command {
        // What would happen to it on the host. It may have ended by itself already.
        if let Ok(pipe) = Signal::try_from(PIPE) {
            let _ = input.signal(pipe).await;
        }
    }
    drop(raw);
    session.warnings().iter().for_each(output::error);
    if matches!(ended, Ok(Ended::Detached | Ended::Signalled(_))) {
        // The session may have ended in this moment, or nobody may read on its other end.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, input.leave()).await;
    }
    tasks.iter().for_each(JoinHandle::abort);
    ended
}

/// Copies output until the process ends, our own output is closed, or our input has ended and
/// nothing comes any more.
async fn pump(session: &mut Session, mut leaving: Leaving, show: [bool; 2]) -> Result<Ended> {
    let mut stdout = Sink::new(Stream::Stdout);
    let mut stderr = Sink::new(Stream::Stderr);
    let ended = loop {
        let Some(event) = leaving.next(session).await else {
            break Ended::Detached;
        };
        match event? {
            SessionEvent::Output { channel, .. }
                if !show[usize::from(channel == Channel::Stderr)] => {}
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
            SessionEvent::Exited(_) if session.timed_out() => break Ended::TimedOut,
            SessionEvent::Exited(status) => break Ended::Exited(status.code()),
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
        Ok(()) => Ok(ended),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ended),
        Err(error) => closed(error),
    }
}

/// Whether a session is left when our input has ended and nothing comes any more.
#[derive(Debug)]
enum Leaving {
    /// It is not.
    Never,
    /// It is; the input may still go on.
    After(oneshot::Receiver<()>),
    /// The input has ended.
    Now,
}

impl Leaving {
    /// What comes next; none when nothing has come for a while since our input has ended.
    async fn next(&mut self, session: &mut Session) -> Option<Result<SessionEvent>> {
        if let Self::After(ended) = self {
            let ended = tokio::select! {
                biased;
                ended = ended => ended,
                event = session.next() => return Some(event),
            };
            *self = ended.map_or(Self::Never, |()| Self::Now);
        }
        match self {
            Self::Now => {
                let next = tokio::time::timeout(QUIET_TIMEOUT, session.next());
                next.await.ok()
            }
            _ => Some(session.next().await),
        }
    }
}

/// Waits for a signal that ends programs, and returns its number.
async fn ending_signal() -> u8 {
    let ignored = ignored_signals();
    let wait = |number: u8| async move {
        let kind = SignalKind::from_raw(i32::from(number));
        match signal(kind) {
            Ok(mut stream) if ignored & (1 << (number - 1)) == 0 => {
                stream.recv().await;
                number
            }
            _ => std::future::pending().await,
        }
    };
    let [hang_up, interrupt, quit, terminate] = ENDING.map(wait);
    tokio::select! {
        number = hang_up => number,
        number = interrupt => number,
        number = quit => number,
        number = terminate => number,
    }
}

/// Sends our input, if it is wanted, to a session whose output nobody shows, then leaves it.
pub(crate) async fn feed(session: Session, stdin: bool) {
    let input = session.input();
    let (detach, _) = oneshot::channel();
    let (end, _) = oneshot::channel();
    if stdin {
        forward_input(input.clone(), None, Ends { detach, end }).await;
    }
    // The session may have ended in this moment.
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, input.leave()).await;
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

/// Events of our input.
struct Ends {
    /// The detach keys were typed.
    detach: oneshot::Sender<()>,
    /// It has ended, and there was some.
    end: oneshot::Sender<()>,
}

/// Sends our input and its end. Reads on a blocking thread: a terminal or file cannot be polled.
async fn forward_input(mut input: SessionInput, mut keys: Option<DetachKeys>, ends: Ends) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 << 10];
    let mut had_some = false;
    loop {
        let length = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The session may have ended before its input.
                let _ = input.close().await;
                if had_some {
                    // Who does not leave then does not listen.
                    let _ = ends.end.send(());
                }
                return;
            }
            Ok(length) => length,
        };
        had_some = true;
        let written = match &mut keys {
            None => input.write(&buffer[..length]).await,
            Some(keys) => {
                let (bytes, leave) = keys.filter(&buffer[..length]);
                let written = input.write(&bytes).await;
                if leave {
                    // The session may end in this moment; then nobody listens.
                    let _ = ends.detach.send(());
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
    kind: Kind,
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
                    let leaves = hang_up.is_some();
                    let sent = if leaves && kind != Kind::Command {
                        // A workload goes on without our terminal, as in Docker.
                        Ok(())
                    } else {
                        input.signal(number).await
                    };
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
