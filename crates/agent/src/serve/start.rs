//! The messages that start a process: the workload, those beside it, and warm-ups before it.

use cofferdam_proto::{AgentMessage, CONTROL_STREAM, FailureKind, ProcessSpec};
use cofferdam_types::ResourceLimits;

use super::{Agent, Workload};
use crate::{
    cgroup,
    failure::{Result, failure},
    process::{self, Context, Home, Place},
    session::{MAX_SESSIONS, Streams},
};

impl Agent {
    pub(super) fn start(
        &mut self,
        stream: u32,
        process: &ProcessSpec,
        limits: ResourceLimits,
    ) -> Result<Option<AgentMessage>> {
        if self.workload != Workload::NotStarted {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The workload was started already",
            ));
        }
        self.check_warm_ups()?;
        cgroup::limit(&limits)?;
        self.rlimits = limits.rlimits;
        self.spawn(stream, process, Place::Workload, Streams::EndWithProcess)?;
        self.workload = Workload::Running(stream);
        Ok(None)
    }

    /// Fails while a warm-up runs: a template must not hold one, nor a workload have it beside it.
    pub(super) fn check_warm_ups(&self) -> Result<()> {
        if self.warm_ups.is_empty() {
            return Ok(());
        }
        Err(failure(
            FailureKind::OutOfOrder,
            "A warm-up is still running",
        ))
    }

    pub(super) fn warm_up(
        &mut self,
        stream: u32,
        process: &ProcessSpec,
        place: Place,
    ) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        if self.workload != Workload::NotStarted {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The workload was started already",
            ));
        }
        self.spawner.discard(&self.stage)?;
        self.spawn(stream, process, place, Streams::EndWithProcess)?;
        self.warm_ups.insert(stream);
        Ok(None)
    }

    pub(super) fn exec(
        &mut self,
        stream: u32,
        process: &ProcessSpec,
        wait_all: bool,
    ) -> Result<Option<AgentMessage>> {
        let ended = || failure(FailureKind::OutOfOrder, "The workload has ended");
        let workload = match self.workload {
            Workload::NotStarted => {
                return Err(failure(FailureKind::OutOfOrder, "No workload was started"));
            }
            Workload::Ended(_) => return Err(ended()),
            Workload::Running(number) => self.sessions.process(number).ok_or_else(ended)?,
        };
        if !self.joined {
            process::join(workload)?;
            self.joined = true;
        }
        let streams = if wait_all {
            Streams::WaitForAll
        } else {
            Streams::WaitAWhile
        };
        self.spawn(stream, process, Place::Beside, streams)
            .map(|()| None)
    }

    fn spawn(
        &mut self,
        stream: u32,
        process: &ProcessSpec,
        place: Place,
        streams: Streams,
    ) -> Result<()> {
        if stream == CONTROL_STREAM || self.sessions.contains(stream) {
            let message = format!("Session number {stream} is taken");
            return Err(failure(FailureKind::OutOfOrder, message));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            let message = format!("There are {MAX_SESSIONS} sessions already");
            return Err(failure(FailureKind::Limits, message));
        }
        let Some(root) = &self.root else {
            return Err(failure(FailureKind::OutOfOrder, "The root is not mounted"));
        };
        let context = Context {
            stage: &self.stage,
            root,
            hostname: &self.names.hostname,
            rlimits: &self.rlimits,
            place,
            home: Home::Sandbox {
                workload: match (place, self.workload.session()) {
                    (Place::Beside, Some(number)) => self.sessions.process(number),
                    _ => None,
                },
            },
        };
        self.untouched = false;
        let (process, stdio) = process::spawn(&context, process, &mut self.spawner)?;
        self.sessions
            .add(stream, process, stdio, streams, &mut self.port)
    }
}
