//! The messages by which the upper's disk learns which blocks are free.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use cofferdam_proto::{AgentMessage, DiskPart, FailureKind};
use rustix::fs::fstatvfs;

use super::Agent;
use crate::{
    failure::{OrFail, Result},
    mounts, process,
};

/// How long a trim may go on when the machine is to end: the host waits ten seconds for that end.
const LAST_TRIM_TIME: Duration = Duration::from_secs(2);

impl Agent {
    pub(super) fn trim(
        &mut self,
        parts: &[DiskPart],
        commit: bool,
    ) -> Result<Option<AgentMessage>> {
        if self.joined && !parts.is_empty() {
            process::leave()?;
            self.joined = false;
        }
        let Some(upper) = self.root.as_ref().map(|root| &root.upper) else {
            return Ok(Some(AgentMessage::Trimming {
                running: false,
                used_bytes: 0,
            }));
        };
        if commit {
            // One that was begun before the commit misses what was deleted since.
            self.trimmer.cancel();
        }
        if !parts.is_empty() && !self.trimmer.is_running() {
            let process = self.trimmer.begin(upper, parts, commit)?;
            self.sessions.take_process(process);
        }
        Ok(Some(AgentMessage::Trimming {
            running: self.trimmer.is_running(),
            used_bytes: used_bytes(upper)?,
        }))
    }
}

/// Bytes that files use; what is deleted and not yet in the journal counts.
fn used_bytes(upper: &OwnedFd) -> Result<u64> {
    let stat = fstatvfs(upper).or_fail(FailureKind::Internal, || "Could not look at the upper")?;
    let blocks = stat.f_blocks.saturating_sub(stat.f_bfree);
    Ok(blocks.saturating_mul(stat.f_frsize))
}

/// Trims when no process runs any more, and all is written.
pub(super) fn at_end(upper: &OwnedFd, parts: &[DiskPart]) {
    if parts.is_empty() {
        return;
    }
    let began = Instant::now();
    mounts::empty_journal(upper.as_fd());
    mounts::trim(upper.as_fd(), parts, || began.elapsed() < LAST_TRIM_TIME);
}
