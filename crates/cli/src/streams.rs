//! A session joined to this process: its output to ours, our input and signals to it.

mod input;
mod signals;

use std::{io, time::Duration};

use cofferdam::{Channel, Error, ErrorKind, Result, Session, SessionEvent, Signal};
use tokio::{sync::oneshot, task::JoinHandle};

use self::{
    input::{InputEvents, forward_input},
    signals::{HUP, ending_signal, forward_signals, forward_size, told_to_end},
};
use crate::{
    detach_keys::DetachKeys,
    exit_status::{BROKEN_PIPE, ExitStatus},
    output,
    sink::{Sink, Stream},
    terminal::{self, RawMode},
};

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
    let input = session.writer();
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
    let mut leaving = LeaveWhen::Never;
    if join.stdin {
        let keys = join.detach_keys.filter(|_| raw.is_some());
        let (end, ended) = oneshot::channel();
        if join.kind == Kind::Visit {
            leaving = LeaveWhen::After(ended);
        }
        let ends = InputEvents { detach, end };
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
async fn pump(session: &mut Session, mut leaving: LeaveWhen, show: [bool; 2]) -> Result<Ended> {
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
            // No other is known.
            _ => {}
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
enum LeaveWhen {
    /// It is not.
    Never,
    /// It is; the input may still go on.
    After(oneshot::Receiver<()>),
    /// The input has ended.
    Now,
}

impl LeaveWhen {
    /// What comes next; none when nothing has come for a while since our input has ended.
    async fn next(&mut self, session: &mut Session) -> Option<Result<SessionEvent>> {
        if let Self::After(ended) = self {
            let ended = tokio::select! {
                biased;
                ended = ended => ended,
                event = session.next() => return event,
            };
            *self = ended.map_or(Self::Never, |()| Self::Now);
        }
        match self {
            Self::Now => {
                let next = tokio::time::timeout(QUIET_TIMEOUT, session.next());
                next.await.ok().flatten()
            }
            _ => session.next().await,
        }
    }
}

/// Sends our input, if it is wanted, to a session whose output nobody shows, then leaves it.
pub(crate) async fn feed(session: Session, stdin: bool) {
    let input = session.writer();
    let (detach, _) = oneshot::channel();
    let (end, _) = oneshot::channel();
    if stdin {
        forward_input(input.clone(), None, InputEvents { detach, end }).await;
    }
    // The session may have ended in this moment.
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, input.leave()).await;
}

fn closed(error: io::Error) -> Result<Ended> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(Ended::OutputClosed);
    }
    let what = "Could not write to standard output";
    Err(Error::new(ErrorKind::Io, what).because(error))
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
