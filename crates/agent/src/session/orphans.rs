//! What has no session: outputs that a process's children still write to when theirs is over,
//! processes whose host has gone to another machine's copy, and one that goes before the workload.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use rustix::{
    event::epoll::EventFlags,
    io::{Errno, read},
};

use super::{MAX_SESSIONS, flow::CHUNK_BYTES};
use crate::{
    failure::Result,
    log,
    poll::{Poll, Token},
    process,
};

/// Outputs and processes without a session, by numbers of their own.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Read into nothing, so that who writes to them neither stalls nor dies.
    outputs: BTreeMap<u32, OwnedFd>,
    /// Waited for, so that no dead one stays.
    processes: BTreeMap<u32, OwnedFd>,
    last: u32,
}

impl Orphans {
    /// Processes that still run.
    pub(super) fn processes(&self) -> usize {
        self.processes.len()
    }

    /// Reads `fd` into nothing from now on, unless there are too many such.
    pub(super) fn take_output(&mut self, poll: &Poll, fd: OwnedFd) {
        if self.outputs.len() >= MAX_SESSIONS {
            log::error("Too many outputs outlive their sessions; one is closed");
            return;
        }
        self.last = self.last.wrapping_add(1);
        match poll.add(&fd, Token::Orphan(self.last), EventFlags::IN) {
            Ok(()) => drop(self.outputs.insert(self.last, fd)),
            Err(failure) => log::error(&failure.message),
        }
    }

    /// Waits for a process's end and tells nobody.
    pub(super) fn take_process(&mut self, poll: &Poll, pidfd: OwnedFd) -> Result<()> {
        self.last = self.last.wrapping_add(1);
        poll.add(&pidfd, Token::Stray(self.last), EventFlags::IN)?;
        self.processes.insert(self.last, pidfd);
        Ok(())
    }

    /// There is something to read from an output, or nothing any more.
    pub(super) fn drain(&mut self, poll: &Poll, number: u32) {
        let Some(fd) = self.outputs.get(&number) else {
            return;
        };
        match read(fd, &mut [0; CHUNK_BYTES]) {
            Ok(1..) | Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                poll.remove(fd);
                self.outputs.remove(&number);
            }
        }
    }

    /// A process has ended.
    pub(super) fn reap(&mut self, poll: &Poll, number: u32) {
        if let Some(pidfd) = self.processes.remove(&number) {
            poll.remove(&pidfd);
            process::reap(&pidfd);
        }
    }
}
