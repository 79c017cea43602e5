//! One QEMU process: signalled by handle, waited for by event, reaped once.
//!
//! One thread per machine reads what the process prints and waits for its end; everyone else
//! watches what it found. It needs no runtime, so a machine whose runtime is dropped is still
//! reaped. It ends with the process; for a process that another one started, also with the last
//! handle to it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use cofferdam_backend::{Error, ErrorKind, MachineExit, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};
use tokio::sync::watch;

use crate::logs::Outputs;

/// After QEMU's end its outputs are at their end too; only a descriptor that leaked into another
/// process would hold one open, and then the exit is worth more than the rest of a log.
const DRAIN_LIMIT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// A process that may be shared by tasks.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<MachineExit>>,
    /// Its other end tells the thread that no handle is left.
    _held: OwnedFd,
}

impl Process {
    /// Watches a child of this process and reaps it. Its end is told when its outputs are in
    /// their files.
    pub(crate) fn child(pid: u32, pidfd: OwnedFd, outputs: Outputs) -> io::Result<Self> {
        Self::watch(pid, pidfd, true, outputs)
    }

    /// Watches a process that another one started; how it ended stays unknown.
    pub(crate) fn stranger(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        Self::watch(pid, pidfd, false, Outputs::none())
    }

    fn watch(pid: u32, pidfd: OwnedFd, is_child: bool, outputs: Outputs) -> io::Result<Self> {
        let (sender, exit) = watch::channel(None);
        let (let_go, held) = io::pipe()?;
        let watcher = Watcher {
            pidfd: pidfd.try_clone()?,
            is_child,
            outputs,
            let_go: let_go.into(),
        };
        thread::Builder::new()
            .name("coffer-machine".to_owned())
            .spawn(move || watcher.run(&sender))?;
        Ok(Self {
            pid,
            pidfd,
            exit,
            _held: held.into(),
        })
    }

    /// Sends a signal; a process that has ended takes it without effect.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.map_err(Into::into),
        }
    }

    pub(crate) fn exit(&self) -> Option<MachineExit> {
        self.exit.borrow().clone()
    }

    /// Fails with `Gone` when it has ended.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.exit() {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Gone, "The machine has ended")),
        }
    }

    pub(crate) async fn wait(&self) -> MachineExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        // The thread always tells; it cannot be gone without.
        ended.ok().and_then(|exit| exit.clone()).unwrap_or(UNKNOWN)
    }
}

const UNKNOWN: MachineExit = MachineExit {
    code: None,
    signal: None,
};

struct Watcher {
    pidfd: OwnedFd,
    is_child: bool,
    outputs: Outputs,
    let_go: OwnedFd,
}

impl Watcher {
    fn run(mut self, exit: &watch::Sender<Option<MachineExit>>) {
        if self.follow() {
            self.outputs.drain(DRAIN_LIMIT);
            exit.send_replace(Some(self.reap()));
        }
    }

    /// Reads outputs until the process has ended; `false` when nobody cares any more.
    fn follow(&mut self) -> bool {
        loop {
            // A process handle is readable once the process has ended, pidfd_open(2).
            let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if !self.is_child {
                polled.push(PollFd::new(&self.let_go, PollFlags::IN));
            }
            let fixed = polled.len();
            polled.extend(self.outputs.poll_fds());
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                // Out of memory is all that is left; waiting for the process still works.
                Err(_) => return true,
                Ok(_) => {}
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            match ready[..fixed] {
                [true, ..] => return true,
                [_, true] => return false,
                _ => self.outputs.read(&ready[fixed..]),
            }
        }
    }

    fn reap(&self) -> MachineExit {
        if !self.is_child {
            return UNKNOWN;
        }
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some(status)) => {
                    return MachineExit {
                        code: status.exit_status(),
                        signal: status.terminating_signal(),
                    };
                }
                Ok(None) | Err(_) => return UNKNOWN,
            }
        }
    }
}
