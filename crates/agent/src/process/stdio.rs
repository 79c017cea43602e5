//! A process's three streams: pipes, or a terminal of the root's own `/dev/pts`.

use std::os::fd::{AsFd, OwnedFd};

use cofferdam_proto::{Channel, FailureKind, TerminalSize};
use rustix::{
    fs::{Mode, OFlags, fchown, fcntl_getfl, fcntl_setfl, openat},
    pipe::{PipeFlags, pipe_with},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
    thread::{Gid, Uid},
};

use super::user::User;
use crate::{
    failure::{OrFail, Result},
    mounts::Stage,
};

/// The agent's ends; none of them blocks.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// Where input goes; absent without input and with a terminal.
    pub(crate) stdin: Option<OwnedFd>,
    /// Where output comes from; with a terminal the one and its input too.
    pub(crate) outputs: Vec<(Channel, OwnedFd)>,
    /// Whether `outputs` is a terminal.
    pub(crate) terminal: bool,
}

/// The process's ends, dropped once it has them.
#[derive(Debug)]
pub(super) struct ChildStdio(pub(super) [OwnedFd; 3]);

/// A pipe; the agent's end does not block.
#[derive(Debug)]
struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Pipe {
    /// Through which the agent reads.
    fn output() -> Result<Self> {
        let (ours, theirs) = pipe()?;
        Self { ours, theirs }.nonblocking()
    }

    /// Through which the agent writes.
    fn input() -> Result<Self> {
        let (theirs, ours) = pipe()?;
        Self { ours, theirs }.nonblocking()
    }

    /// Only the agent's end: the flag belongs to the end, not to the pipe.
    fn nonblocking(self) -> Result<Self> {
        set_nonblocking(&self.ours).or_fail(KIND, failed)?;
        Ok(self)
    }
}

/// Pipes made ahead; each is used once.
#[derive(Debug, Default)]
pub(super) struct SparePipes {
    inputs: Vec<Pipe>,
    outputs: Vec<Pipe>,
}

impl SparePipes {
    /// Makes those for a workload and an exec that both have an input.
    pub(super) fn fill(&mut self) -> Result<()> {
        while self.inputs.len() < 2 {
            self.inputs.push(Pipe::input()?);
        }
        while self.outputs.len() < 4 {
            self.outputs.push(Pipe::output()?);
        }
        Ok(())
    }

    fn input(&mut self) -> Result<Pipe> {
        self.inputs.pop().map_or_else(Pipe::input, Ok)
    }

    fn output(&mut self) -> Result<Pipe> {
        self.outputs.pop().map_or_else(Pipe::output, Ok)
    }
}

const KIND: FailureKind = FailureKind::Internal;

fn failed() -> &'static str {
    "Could not make a process's streams"
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).or_fail(KIND, failed)
}

/// Makes both ends of pipes.
pub(super) fn pipes(
    input: bool,
    user: &User,
    spare: &mut SparePipes,
) -> Result<(Stdio, ChildStdio)> {
    let (child_stdin, stdin) = if input {
        let Pipe { ours, theirs } = spare.input()?;
        (theirs, Some(ours))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.or_fail(KIND, failed)?, None)
    };
    let [stdout, stderr] = [spare.output()?, spare.output()?];
    if user.uid != 0 {
        // A program may open `/dev/stdout`, which is the pipe's inode with its owner's rights.
        let own = |fd: &OwnedFd| fchown(fd, Some(Uid::from_raw(user.uid)), None);
        own(&stdout.theirs)
            .and_then(|()| own(&stderr.theirs))
            .or_fail(KIND, failed)?;
        if input {
            own(&child_stdin).or_fail(KIND, failed)?;
        }
    }
    let outputs = vec![
        (Channel::Stdout, stdout.ours),
        (Channel::Stderr, stderr.ours),
    ];
    let ours = Stdio {
        stdin,
        outputs,
        terminal: false,
    };
    let theirs = ChildStdio([child_stdin, stdout.theirs, stderr.theirs]);
    Ok((ours, theirs))
}

/// Makes a terminal of `size`, owned by `user`.
pub(super) fn terminal(
    stage: &Stage,
    size: TerminalSize,
    user: &User,
) -> Result<(Stdio, ChildStdio)> {
    let failed = || "Could not make a terminal";
    let kind = FailureKind::Internal;
    let flags =
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = openat(&stage.pts, "ptmx", flags, Mode::empty()).or_fail(kind, failed)?;
    unlockpt(&master).or_fail(kind, failed)?;
    resize(&master, size).or_fail(kind, failed)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = || ioctl_tiocgptpeer(&master, flags).or_fail(kind, failed);
    let child = ChildStdio([peer()?, peer()?, peer()?]);
    // The group stays `tty`, as the mount has it.
    fchown(&child.0[0], Some(Uid::from_raw(user.uid)), None::<Gid>).or_fail(kind, failed)?;
    let outputs = vec![(Channel::Stdout, master)];
    Ok((
        Stdio {
            stdin: None,
            outputs,
            terminal: true,
        },
        child,
    ))
}

/// Gives a terminal a new size; its foreground processes get SIGWINCH.
pub(crate) fn resize(terminal: impl AsFd, size: TerminalSize) -> rustix::io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size)
}

fn set_nonblocking(fd: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)
}
