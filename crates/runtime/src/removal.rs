//! Removal of sandboxes, those that do not answer among them.

use std::time::Duration;

use cofferdam_types::{SandboxId, Signal};

use crate::{
    error::{Error, ErrorKind, Result},
    sandbox::Runtime,
    store::{Entry, end_supervisor},
};

/// How long a supervisor may take to kill its machine when it is to be removed by force: longer
/// than one whose guest has stopped answering takes.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

impl Runtime {
    /// Removes a sandbox; with `force` it is killed first, and a damaged one goes too.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it runs and `force` is not set.
    ///
    /// # Blocking
    /// Up to five seconds when a supervisor does not answer and is slow to die.
    pub async fn remove(&self, entry: &Entry, force: bool) -> Result<()> {
        let id = entry.record.id;
        if entry.state.status.is_live() {
            if !force {
                return Err(Error::new(
                    ErrorKind::WrongState,
                    format!("Sandbox `{}` is {}", entry.record.name, entry.state.status),
                )
                .hint("Stop it first, or force it with `-f`"));
            }
            let killed = tokio::time::timeout(KILL_TIMEOUT, self.kill(entry, Signal::KILL)).await;
            let other_version = |error: &Error| error.kind() == ErrorKind::Unsupported;
            match killed {
                // It does not understand us, is stopped, or stuck. Its machine goes with it.
                Ok(Err(error)) if other_version(&error) => self.end_supervisor(id)?,
                Err(_) => self.end_supervisor(id)?,
                Ok(killed) => killed?,
            }
        }
        self.remove_files(id, &entry.record.name)
    }

    fn end_supervisor(&self, id: SandboxId) -> Result<()> {
        if let Some(now) = self.store().load(id)? {
            end_supervisor(self.store(), &now);
        }
        // Puts right what it left.
        self.store().load(id).map(drop)
    }

    /// Removes a sandbox whose files are damaged.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::WrongState`] when a supervisor still holds it.
    pub fn remove_damaged(&self, name: &str) -> Result<()> {
        self.remove_files(self.store().find_id(name)?, name)
    }

    /// Removes what a sandbox that nobody uses has.
    pub(crate) fn remove_files(&self, id: SandboxId, name: &str) -> Result<()> {
        let Some(_lock) = self.store().try_lock_existing(id)? else {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("Sandbox `{name}` is being used by another command"),
            ));
        };
        self.store().remove(id)
    }
}
