//! The message that changes the addresses of the interface.

use cofferdam_proto::{AgentMessage, FailureKind, NetworkIdentity};

use super::{Agent, Workload};
use crate::failure::{Result, failure};

impl Agent {
    /// Changes the addresses of the interface while processes of the user run.
    pub(super) fn readdress(&mut self, network: &NetworkIdentity) -> Result<Option<AgentMessage>> {
        self.check_steps()?;
        if self.workload == Workload::NotStarted {
            let message = "No workload runs";
            return Err(failure(FailureKind::OutOfOrder, message));
        }
        self.network.readdress(network)?;
        Ok(Some(AgentMessage::Readdressed))
    }
}
