//! A process that trims the upper beside all else: the agent has one thread, and a trim may take
//! as long as a disk does.
//!
//! It has a copy of the agent's memory and of its descriptors none but the upper, so that no pipe
//! or terminal stays open for it. It is in no cgroup of the sandbox's and in a PID
//! namespace of its own, so the workload does not see it. It ends with its work.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_proto::{DiskPart, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{ChildStack, child, process_warmer, signal};
use crate::{
    failure::{OrFail, Result},
    mounts,
};

/// The process, if one was made.
#[derive(Debug, Default)]
pub(crate) struct Trimmer {
    /// Mapped when it is first needed.
    stack: Option<ChildStack>,
    last: Option<OwnedFd>,
}

/// What it is made with.
#[derive(Debug)]
struct Script<'a> {
    upper: BorrowedFd<'a>,
    parts: &'a [DiskPart],
    commit: bool,
}

impl Trimmer {
    /// Whether it works.
    pub(crate) fn is_running(&self) -> bool {
        let Some(pidfd) = &self.last else {
            return false;
        };
        // Readable once it has ended.
        let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
    }

    /// Begins to trim; the caller reaps the process by its pidfd.
    pub(crate) fn begin(
        &mut self,
        upper: &OwnedFd,
        parts: &[DiskPart],
        commit: bool,
    ) -> Result<OwnedFd> {
        let failed = || "Could not make a process that trims the upper";
        let kind = FailureKind::Internal;
        let stack = match &mut self.stack {
            Some(stack) => stack,
            none => none.insert(ChildStack::new()?),
        };
        let script = Script {
            upper: upper.as_fd(),
            parts,
            commit,
        };
        // SAFETY: `run` never returns or panics.
        let pidfd = unsafe { stack.spawn_apart(run, &script) }.or_fail(kind, failed)?;
        self.last = Some(pidfd.try_clone().or_fail(kind, failed)?);
        Ok(pidfd)
    }

    /// Has it end at the next free piece.
    pub(crate) fn cancel(&mut self) {
        const SIGKILL: u8 = 9;
        if self.is_running()
            && let Some(pidfd) = &self.last
        {
            signal(pidfd, SIGKILL);
        }
        self.last = None;
    }
}

/// Its first function. What fails is left as it is.
///
/// # Safety
/// `script` is valid.
unsafe extern "C" fn run(script: *const Script<'_>) -> ! {
    // SAFETY: valid, by this function's contract, in the copy that this process has.
    let script = unsafe { &*script };
    if let Some(upper) = process_warmer::duplicate(script.upper, 0)
        && process_warmer::keep_streams(1)
    {
        if script.commit {
            mounts::commit(upper.as_fd());
        }
        mounts::trim(upper.as_fd(), script.parts, || true);
    }
    child::exit()
}
