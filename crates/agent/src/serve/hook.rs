//! The message that runs a command while everything else is frozen.

use std::time::Duration;

use cofferdam_proto::{AgentMessage, FailureKind, ProcessSpec};

use super::{Agent, Workload};
use crate::{
    failure::{Result, failure},
    process::{self, Context, Home, Place},
};

impl Agent {
    pub(super) fn hook(
        &mut self,
        process: &ProcessSpec,
        timeout: Duration,
    ) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        let out_of_order = |what| failure(FailureKind::OutOfOrder, what);
        let frozen = self.frozen.as_ref();
        frozen
            .ok_or_else(|| out_of_order("The machine is not frozen"))?
            .check_heir()?;
        let Workload::Running(number) = self.workload else {
            return Err(out_of_order("No workload runs"));
        };
        let workload = self.sessions.process(number);
        let workload = workload.ok_or_else(|| out_of_order("The workload has ended"))?;
        let Some(root) = &self.root else {
            return Err(out_of_order("The root is not mounted"));
        };
        if !self.joined {
            process::join(workload)?;
            self.joined = true;
        }
        let context = Context {
            stage: &self.stage,
            root,
            hostname: &self.names.hostname,
            rlimits: &self.rlimits,
            place: Place::Beside,
            home: Home::Sandbox {
                workload: Some(workload),
            },
        };
        let ended = process::hook::run(&context, process, &mut self.spawner, timeout)?;
        Ok(Some(AgentMessage::HookEnded {
            status: ended.status,
            output: ended.output,
        }))
    }
}
