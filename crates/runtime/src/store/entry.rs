//! A sandbox as the store has it, and what its status forbids.

use cofferdam_types::SandboxStatus;

use super::record::{SandboxRecord, SandboxState};
use crate::base::error::{Error, ErrorKind, Result};

/// A sandbox as the store has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was asked and resolved.
    pub record: SandboxRecord,
    /// Where it is in its life.
    pub state: SandboxState,
}

impl Entry {
    /// Fails unless the sandbox may become `next`.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`].
    pub fn expect_can_become(&self, next: SandboxStatus) -> Result<()> {
        if self.state.status.can_become(next) {
            return Ok(());
        }
        let name = &self.record.name;
        let error = Error::new(
            ErrorKind::WrongState,
            format!("Sandbox `{name}` is {}", self.state.status),
        );
        Err(match self.state.status {
            SandboxStatus::Paused => {
                error.hint(format!("Let it go on with `coffer unpause {name}`"))
            }
            SandboxStatus::Running => error.hint(format!("Follow it with `coffer attach {name}`")),
            SandboxStatus::Starting | SandboxStatus::Stopping => error.hint(format!(
                "Another command is about it: see `coffer ps -a --filter name={name}`"
            )),
            _ => error,
        })
    }
}
