//! The messages that stop everything for a capture and let it go on, here or in a copy.

use cofferdam_proto::{AgentMessage, FailureKind};
use cofferdam_types::ResourceLimits;

use super::{Agent, Workload};
use crate::{
    cgroup,
    failure::{Result, failure},
    frozen::Frozen,
    identity, mounts, write_back,
};

impl Agent {
    pub(super) fn freeze(&mut self, sync: bool) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        self.check_warm_ups()?;
        if let Workload::Ended(number) = self.workload
            && !self.sessions.contains(number)
        {
            return Err(failure(FailureKind::OutOfOrder, "The workload has ended"));
        }
        if let Some(frozen) = &mut self.frozen {
            if sync {
                frozen.sync(self.root.as_ref())?;
            }
            return Ok(Some(AgentMessage::Frozen));
        }
        self.trimmer.cancel();
        if sync {
            // Most of what is dirty is written while the processes still run.
            rustix::fs::sync();
        }
        self.throttle.end();
        let mut frozen = Frozen::freeze(&self.port)?;
        self.sessions.hold();
        let synced = if sync {
            frozen.sync(self.root.as_ref())
        } else {
            Ok(())
        };
        self.frozen = Some(frozen);
        if let Err(failure) = synced {
            self.go_on()?;
            return Err(failure);
        }
        Ok(Some(AgentMessage::Frozen))
    }

    pub(super) fn thaw(&mut self, unix_ns: u64) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        if let Some(frozen) = &self.frozen {
            frozen.check_heir()?;
        }
        identity::set_clock(unix_ns)?;
        self.go_on()?;
        Ok(Some(AgentMessage::Thawed))
    }

    pub(super) fn write_back(&mut self, eager: bool) -> Result<Option<AgentMessage>> {
        if eager {
            self.write_back.begin()?;
        } else {
            self.write_back.end()?;
        }
        let bytes = write_back::dirty_bytes()?;
        Ok(Some(AgentMessage::Dirty { bytes }))
    }

    pub(super) fn hold_back(&mut self, percent: u32) -> Result<Option<AgentMessage>> {
        self.throttle.hold_back(percent);
        let bytes = write_back::dirty_bytes()?;
        Ok(Some(AgentMessage::Dirty { bytes }))
    }

    /// Lets the workload and its sessions go on.
    fn go_on(&mut self) -> Result<()> {
        self.throttle.end();
        // The processes go on even if their writes stay slow.
        let relaxed = self.write_back.end();
        if let Some(frozen) = &mut self.frozen {
            if let (Some(root), Some(certificate)) = (&self.root, self.trust.take()) {
                frozen.release_disk(Some(root))?;
                mounts::install_trust(root, &certificate);
            }
            frozen.thaw(self.root.as_ref())?;
            self.frozen = None;
            self.sessions.release(&mut self.port);
        }
        relaxed
    }

    pub(super) fn inherit(&mut self) -> Result<Option<AgentMessage>> {
        let Some(frozen) = &mut self.frozen else {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The machine is not frozen",
            ));
        };
        self.sessions.inherit(self.workload.session())?;
        frozen.inherited();
        Ok(Some(AgentMessage::Inherited))
    }

    /// Sets limits before the workload goes on with another host.
    pub(super) fn limit_again(&mut self, limits: ResourceLimits) -> Result<Option<AgentMessage>> {
        if self.frozen.is_none() {
            return Err(failure(
                FailureKind::OutOfOrder,
                "The machine is not frozen",
            ));
        }
        cgroup::limit_again(&limits)?;
        self.rlimits = limits.rlimits;
        Ok(Some(AgentMessage::Limited))
    }
}
