//! The message that opens a byte stream to a server in the guest.

use std::fs::File;

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, FailureKind, StreamTarget};
use rustix::fs::OFlags;

use super::{Agent, Workload};
use crate::{
    failure::{OrFail, Result, failure},
    mounts::resolve,
    process,
    session::{Attempt, refused},
};

impl Agent {
    pub(super) fn connect(
        &mut self,
        stream: u32,
        target: &StreamTarget,
    ) -> Result<Option<AgentMessage>> {
        let Workload::Running(workload) = self.workload else {
            return Err(failure(FailureKind::OutOfOrder, "No workload runs"));
        };
        if stream == CONTROL_STREAM || self.sessions.contains(stream) {
            let message = format!("Stream number {stream} is taken");
            return Err(failure(FailureKind::OutOfOrder, message));
        }
        let attempt = match target {
            StreamTarget::Port(port) => Attempt::to_port(*port),
            StreamTarget::Socket(path) => self.to_socket(workload, path)?,
        };
        self.sessions.connect(stream, attempt, &mut self.port)?;
        Ok(None)
    }

    /// A connection to a Unix socket as the workload sees it: its own mounts may hide others.
    fn to_socket(&self, workload: u32, path: &str) -> Result<Attempt> {
        let ended = || failure(FailureKind::OutOfOrder, "The workload has ended");
        let pidfd = self.sessions.process(workload).ok_or_else(ended)?;
        let pid = process::number(pidfd).ok_or_else(ended)?;
        let root = format!("/proc/{}/root", pid.as_raw_nonzero());
        let root =
            File::open(&root).or_fail(FailureKind::Internal, || "Could not open the root")?;
        let file = resolve::open(&root, path, OFlags::PATH)
            .map_err(|error| refused(&format!("`{path}`"), error))?;
        Attempt::to_socket(path, &file)
    }
}
