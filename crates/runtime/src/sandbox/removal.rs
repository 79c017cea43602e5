//! Removal of sandboxes, those that do not answer among them.

use std::time::Duration;

use cofferdam_types::{SandboxId, Signal};

use super::Sandboxes;
use crate::{
    base::error::{Error, ErrorKind, Result},
    store::{Entry, end_supervisor},
};

/// How long a supervisor may take to kill its machine when it is to be removed by force: longer
/// than one whose guest has stopped answering takes.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a removal by force looks again at a sandbox that others start or use meanwhile.
const MAX_LOOKS: u32 = 200;

/// How long it waits between two looks for a command that holds the sandbox for a moment.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

impl Sandboxes<'_> {
    /// Removes a sandbox; with `force` it is killed first, also while it starts, and a damaged one
    /// goes too.
    ///
    /// # Errors
    /// [`ErrorKind::WrongState`] when it runs and `force` is not set, or when other commands go on
    /// using it.
    ///
    /// # Blocking
    /// Up to five seconds when a supervisor does not answer and is slow to die.
    pub(crate) async fn remove(&self, entry: &Entry, force: bool) -> Result<()> {
        let (id, name) = (entry.record.id, &entry.record.name);
        if !force {
            if entry.state.status.is_live() {
                return Err(Error::new(
                    ErrorKind::WrongState,
                    format!("Sandbox `{name}` is {}", entry.state.status),
                )
                .hint("Stop it first, or force it with `-f`"));
            }
            return self.store.remove_unused(id, name);
        }
        let mut looks = 0;
        loop {
            match self.store.load(id)? {
                Some(now) if now.state.status.is_live() => self.end_by_force(&now).await?,
                Some(_) => {}
                None => return Ok(()),
            }
            match self.store.remove_unused(id, name) {
                // A start has just taken it, or another command for a moment.
                Err(error) if error.kind() == ErrorKind::WrongState && looks < MAX_LOOKS => {
                    looks += 1;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                removed => return removed,
            }
        }
    }

    /// Ends a live sandbox, and its supervisor if that does not do it.
    async fn end_by_force(&self, entry: &Entry) -> Result<()> {
        let killed = tokio::time::timeout(KILL_TIMEOUT, self.kill(entry, Signal::KILL)).await;
        let kind = match killed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.kind(),
            Err(_) => ErrorKind::Timeout,
        };
        match kind {
            // It ended by itself.
            ErrorKind::WrongState | ErrorKind::NotFound => Ok(()),
            // It does not understand us, is stopped, or stuck. Its machine goes with it.
            _ => self.end_supervisor(entry.record.id),
        }
    }

    fn end_supervisor(&self, id: SandboxId) -> Result<()> {
        if let Some(now) = self.store.load(id)? {
            end_supervisor(self.store, &now);
        }
        // Puts right what it left.
        self.store.load(id).map(drop)
    }

    /// Removes a sandbox whose files are damaged.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::WrongState`] when a supervisor still holds it.
    pub(crate) fn remove_damaged(&self, name: &str) -> Result<()> {
        self.store.remove_unused(self.store.find_id(name)?, name)
    }
}
