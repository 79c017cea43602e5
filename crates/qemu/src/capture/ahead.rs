//! Memory that is copied ahead by QEMU's own migration, which knows what changes meanwhile.
//!
//! For machines that have too much in memory of their own for a pause. QEMU lets go of its disks
//! at the end, so theirs are whole before that.
//! Source: QEMU `docs/devel/migration.rst`.

use std::{
    io::{self, PipeReader},
    sync::Arc,
};

use cofferdam_backend::{Error, ErrorKind, Result, SnapshotFiles};
use rustix::pipe::fcntl_setpipe_size;
use tokio::task::JoinHandle;

use super::files::FileCreator;
use crate::{
    control::{self, Migration},
    controlled::Controlled,
    snapshot::{self, HoldRelease, MemoryFile, PIPE_BYTES, hold},
};

/// Bytes of the pipe from when the migration may end: what an ordinary user may ask for, unless the
/// host has another bound (pipe(7), `pipe-max-size`). A pause after 400 MiB of changes was 70-181 ms
/// without and is 29-83 with it (`tests/pause.rs`, 2 cores of an EPYC).
const LAST_PIPE_BYTES: usize = 1 << 20;

/// A migration that waits for the pause.
#[derive(Debug)]
pub(super) struct AheadMigration {
    key: HoldRelease,
    /// To change its size; held only until the end begins, as QEMU must notice when its reader goes.
    pipe: PipeReader,
    migration: Migration,
    writing: JoinHandle<Result<()>>,
}

impl AheadMigration {
    /// Copies all but the last part of memory; the machine runs.
    pub(super) async fn begin(
        machine: &Arc<Controlled>,
        files: SnapshotFiles,
        maker: FileCreator,
    ) -> Result<Self> {
        let channel = |error| {
            Error::new(ErrorKind::Io, "A channel for the state cannot be made").because(error)
        };
        let (reader, writer) = io::pipe().map_err(channel)?;
        fcntl_setpipe_size(&writer, PIPE_BYTES).map_err(|error| channel(error.into()))?;
        let (key, hold) = hold();
        let pipe = reader.try_clone().map_err(channel)?;
        let shape = machine.shape.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = snapshot::write(reader, &files, &shape, MemoryFile::WriteHeld(hold));
            maker.made(&files.memory);
            maker.made(&files.state);
            written
        });
        let migration = control::migrate(&machine.qmp, writer).await?;
        let mut ahead = Self {
            key,
            pipe,
            migration,
            writing,
        };
        if ahead.key.reached().await {
            return Ok(ahead);
        }
        // It ended before its time; why, one of both sides says.
        let early = Error::new(ErrorKind::Control, "QEMU wrote its state too early");
        Err(ahead.take().await.err().unwrap_or(early))
    }

    /// Has the migration come to its end; the machine is paused.
    pub(super) async fn take(self) -> Result<()> {
        // Slower without.
        let _ = fcntl_setpipe_size(&self.pipe, LAST_PIPE_BYTES);
        drop(self.pipe);
        self.key.open();
        let sent = self.migration.end().await;
        let written = self.writing.await.map_err(|error| {
            Error::new(ErrorKind::Io, "Writing the snapshot was cut off").because(error)
        })?;
        // If writing failed, QEMU failed because of that.
        written.and(sent)
    }

    /// Has the migration fail, and waits until the machine is as if there had been none.
    pub(super) async fn abandon(self) {
        drop((self.key, self.pipe));
        // Nor does anybody make a file any more.
        let _ = self.writing.await;
        // That it fails is what is wanted.
        let _ = self.migration.end().await;
    }
}
