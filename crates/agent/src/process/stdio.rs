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

/// Makes both ends of pipes.
pub(super) fn pipes(input: bool, user: &User) -> Result<(Stdio, ChildStdio)> {
    let failed = || "Could not make a process's streams";
    let kind = FailureKind::Internal;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).or_fail(kind, failed);
    let (child_stdin, stdin) = if input {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.or_fail(kind, failed)?, None)
    };
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    for ours in stdin.iter().chain([&stdout, &stderr]) {
        // Only the agent's end: the flag belongs to the end, not to the pipe.
        set_nonblocking(ours).or_fail(kind, failed)?;
    }
    if user.uid != 0 {
        // A program may open `/dev/stdout`, which is the pipe's inode with its owner's rights.
        let own = |fd: &OwnedFd| fchown(fd, Some(Uid::from_raw(user.uid)), None);
        own(&child_stdout)
            .and_then(|()| own(&child_stderr))
            .or_fail(kind, failed)?;
        if input {
            own(&child_stdin).or_fail(kind, failed)?;
        }
    }
    let outputs = vec![(Channel::Stdout, stdout), (Channel::Stderr, stderr)];
    let ours = Stdio {
        stdin,
        outputs,
        terminal: false,
    };
    Ok((ours, ChildStdio([child_stdin, child_stdout, child_stderr])))
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
