//! What the child does to itself between fork and exec.
//!
//! Source: fork(2), prctl(2), dup(2), close_range(2), signal-safety(7).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use crate::{filter, launch::Launch, result::check};

/// Everything that the child needs, laid out before the fork.
#[derive(Debug)]
pub(crate) struct Setup {
    /// (number here, number in the child)
    fds: Vec<(RawFd, RawFd)>,
    /// Where the first pass parks copies: above every number of `fds`.
    parked: Vec<RawFd>,
    park_from: RawFd,
    parent: libc::pid_t,
    /// Where the listener of a filter goes; none if it may punch holes as it likes.
    listener: Option<OwnedFd>,
    small_pages: bool,
}

impl Setup {
    pub(crate) fn new(launch: &Launch, listener: Option<OwnedFd>) -> io::Result<Self> {
        let fds: Vec<(RawFd, RawFd)> = launch
            .fds
            .iter()
            .map(|(fd, target)| (fd.as_raw_fd(), *target))
            .collect();
        let mut targets: Vec<RawFd> = fds.iter().map(|(_, target)| *target).collect();
        targets.sort_unstable();
        targets.dedup();
        if targets.len() != fds.len() || targets.first().is_some_and(|lowest| *lowest <= 2) {
            return Err(io::Error::other(
                "descriptor numbers of a child repeat, or are those of its standard streams",
            ));
        }
        let park_from = targets.last().map_or(3, |highest| highest + 1);
        Ok(Self {
            parked: vec![-1; fds.len()],
            fds,
            park_from,
            parent: i32::try_from(std::process::id()).map_err(io::Error::other)?,
            listener,
            small_pages: launch.small_pages,
        })
    }

    /// Runs in the child. Async-signal-safe: system calls only, and no allocation, since
    /// `io::Error::last_os_error` holds a number.
    pub(crate) fn apply(&mut self) -> io::Result<()> {
        // SAFETY: takes no pointers; a new session has no terminal that could signal the child.
        check(unsafe { libc::setsid() })?;
        die_with(self.parent)?;
        // SAFETY: takes numbers only.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        // Guest memory must not end in a core file.
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `none` is a valid rlimit that outlives the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
        if self.small_pages {
            // Where that is refused, the program takes more memory and works.
            // SAFETY: takes numbers only.
            let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        }
        close_strangers_at_exec()?;
        if let Some(channel) = &self.listener {
            // Before numbers are taken: the channel may have one of those.
            filter::guard_holes(channel.as_fd())?;
        }
        self.place_descriptors()
    }

    /// Moves each descriptor to its number in two passes, since one's number now may be another's
    /// number then; all else is closed by exec.
    fn place_descriptors(&mut self) -> io::Result<()> {
        for ((source, _), parked) in self.fds.iter().zip(&mut self.parked) {
            // SAFETY: duplicates a descriptor that the parent keeps open until the child execs.
            let copy = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, self.park_from) };
            *parked = check(copy)?;
        }
        for ((_, target), parked) in self.fds.iter().zip(&self.parked) {
            // SAFETY: both are descriptor numbers of this process alone, after the fork.
            check(unsafe { libc::dup2(*parked, *target) })?;
        }
        Ok(())
    }
}

/// Asks for SIGKILL at the parent's death, and fails if that has happened already.
fn die_with(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: takes nothing.
    if unsafe { libc::getppid() } == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Has exec close every descriptor above the standard streams. This process opens all of its own
/// that way; what is left are strangers that it inherited itself. Kernels before 5.11 cannot do
/// this in one call, and there those strangers stay.
fn close_strangers_at_exec() -> io::Result<()> {
    // SAFETY: takes numbers only, and closes nothing before exec.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}
