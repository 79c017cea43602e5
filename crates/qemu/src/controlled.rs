//! A machine whose control channel is here: what its handle and its captures share.

mod capture_lock;
mod disk;
mod origin;

use std::{os::unix::net::UnixStream, sync::Arc};

use cofferdam_backend::{Error, ErrorKind, MachineStatus, Result, SnapshotFiles};

pub(crate) use capture_lock::{CaptureGuard, CaptureLock};
pub(crate) use disk::WritableDisk;
pub(crate) use origin::Origin;

use crate::{
    control,
    process::Process,
    qmp::Qmp,
    snapshot::{self, MemoryFile, Shape},
};

/// A machine whose control channel is here.
#[derive(Debug)]
pub(crate) struct Controlled {
    pub(crate) process: Arc<Process>,
    pub(crate) qmp: Qmp,
    pub(crate) shape: Shape,
    pub(crate) origin: Origin,
    /// In the spec's order.
    pub(crate) disks: Vec<WritableDisk>,
    pub(crate) captures: CaptureLock,
}

impl Controlled {
    pub(crate) fn alive(&self) -> Result<()> {
        self.process.alive()
    }

    pub(crate) fn status(&self) -> MachineStatus {
        if self.process.exit().is_some() {
            return MachineStatus::Exited;
        }
        match *self.qmp.events().running.borrow() {
            Some(false) => MachineStatus::Paused,
            // It runs from its start on.
            Some(true) | None => MachineStatus::Running,
        }
    }

    /// A command that failed because the machine ended meanwhile says so.
    pub(crate) async fn or_gone<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) if error.kind() == ErrorKind::Gone => {
                self.process.wait().await;
                Err(Error::new(ErrorKind::Gone, "The machine has ended").because(error))
            }
            Err(error) if self.process.exit().is_some() => {
                Err(Error::new(ErrorKind::Gone, "The machine has ended").because(error))
            }
            other => other,
        }
    }

    /// Has the paused machine write all of its state, and runs `then` when that is over, even if
    /// nobody waits for it any more.
    pub(crate) async fn write_stream(
        &self,
        files: SnapshotFiles,
        memory: MemoryFile,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| {
            Error::new(ErrorKind::Io, "A channel for the state cannot be made").because(error)
        })?;
        let shape = self.shape.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = snapshot::write(&ours, &files, &shape, memory);
            then();
            written
        });
        let migration = match control::migrate(&self.qmp, theirs).await {
            Ok(migration) => migration,
            Err(refused) => {
                // It finds an empty stream, which is not the reason.
                let _ = writing.await;
                return self.or_gone(Err(refused)).await;
            }
        };
        let sent = migration.end().await;
        let written = writing.await.map_err(|error| {
            Error::new(ErrorKind::Io, "Writing the snapshot was cut off").because(error)
        })?;
        // If writing failed, QEMU failed because of that.
        written.and(self.or_gone(sent).await)
    }
}
