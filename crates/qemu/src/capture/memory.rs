//! A capture's memory and devices.

use std::{fs::File, os::fd::AsRawFd, path::PathBuf, sync::Arc};

use cofferdam_backend::{Error, ErrorKind, Result, SnapshotFiles};

use super::{
    devices,
    files::{Files, Maker},
    pages::PrivateMemory,
};
use crate::{
    controlled::Controlled,
    snapshot::{self, MemoryFile, Shape},
};

/// What a machine began with.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// Its kernel, and memory of its own.
    Booted,
    /// A snapshot, mapped privately; its files may have lost their names since.
    Restored { memory: Arc<File>, state: Arc<File> },
    /// Memory that is this file.
    Shared(PathBuf),
}

/// Memory and devices on their way into files.
#[derive(Debug)]
pub(super) struct MemoryCapture {
    files: SnapshotFiles,
    maker: Maker,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// What the guest has changed is written over a copy of what it began with.
    Changes(Changes),
    /// All in one stream, in the pause.
    Stream,
}

#[derive(Debug)]
struct Changes {
    source: Arc<PrivateMemory>,
    target: Arc<File>,
    /// What comes ahead of the devices in a state.
    head: Vec<u8>,
    /// Where QEMU may write the devices.
    pipe: PathBuf,
    devices: Vec<u8>,
}

impl MemoryCapture {
    pub(super) async fn begin(
        machine: &Arc<Controlled>,
        files: SnapshotFiles,
        number: u64,
        made: &mut Files,
    ) -> Result<Self> {
        made.add(files.memory.clone());
        made.add(files.state.clone());
        let maker = made.maker();
        let way = match Changes::begin(machine, &files, number, &maker).await? {
            Some(changes) => Way::Changes(changes),
            None => Way::Stream,
        };
        Ok(Self { files, maker, way })
    }

    pub(super) const fn is_stream(&self) -> bool {
        matches!(self.way, Way::Stream)
    }

    /// The machine is paused.
    pub(super) async fn take(&mut self, machine: &Arc<Controlled>) -> Result<()> {
        match &mut self.way {
            Way::Changes(changes) => changes.take(machine).await,
            Way::Stream => {
                let (files, maker) = (self.files.clone(), self.maker.clone());
                let memory = match &machine.origin {
                    Origin::Shared(path) => {
                        copy(path.clone(), files.memory.clone(), &maker).await?;
                        MemoryFile::Present
                    }
                    Origin::Booted | Origin::Restored { .. } => MemoryFile::Write,
                };
                let made = files.clone();
                let then = move || {
                    maker.made(&made.memory);
                    maker.made(&made.state);
                };
                machine.write_stream(files, memory, then).await
            }
        }
    }

    pub(super) async fn settle(self, shape: &Shape) -> Result<()> {
        let Way::Changes(changes) = self.way else {
            return Ok(());
        };
        let (state, shape, maker) = (self.files.state, shape.clone(), self.maker);
        super::blocking(move || {
            let written = snapshot::write_spliced(&state, &shape, &changes.head, &changes.devices);
            maker.made(&state);
            written
        })
        .await
    }
}

impl Changes {
    /// `None` for a machine that was not restored, or into which this process may not look.
    async fn begin(
        machine: &Arc<Controlled>,
        files: &SnapshotFiles,
        number: u64,
        maker: &Maker,
    ) -> Result<Option<Self>> {
        let Origin::Restored { memory, state } = machine.origin.clone() else {
            return Ok(None);
        };
        let (pid, shape) = (machine.process.pid, machine.shape.clone());
        let origin = Arc::clone(&memory);
        let opened = super::blocking(move || {
            let bytes = shape.memory_bytes();
            let source = PrivateMemory::open(pid, &origin, bytes);
            let head = snapshot::read_head(&state, bytes);
            Ok(source.and_then(|source| Ok((source, head?))).ok())
        });
        let Some((source, head)) = opened.await? else {
            return Ok(None);
        };
        // The process that was opened by its number is the machine's if that has not ended since.
        machine.alive()?;
        let opened = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        copy(opened, files.memory.clone(), maker).await?;
        let target = File::options().write(true).open(&files.memory);
        let target = target.map_err(|error| {
            Error::new(ErrorKind::Io, "The memory file cannot be written").because(error)
        })?;
        Ok(Some(Self {
            source: Arc::new(source),
            target: Arc::new(target),
            head,
            pipe: machine.run_dir.join(format!("devices-{number}")),
            devices: Vec::new(),
        }))
    }

    async fn take(&mut self, machine: &Arc<Controlled>) -> Result<()> {
        let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
        let write = move || source.write_changed(&target);
        let (devices, _) = devices::save(&machine.qmp, self.pipe.clone(), write).await?;
        self.devices = devices;
        Ok(())
    }
}

async fn copy(from: PathBuf, to: PathBuf, maker: &Maker) -> Result<()> {
    let maker = maker.clone();
    super::blocking(move || {
        let copied = cofferdam_disk::copy_sparse(&from, &to);
        maker.made(&to);
        copied.map_err(|error| {
            let what = format!("Memory cannot be copied to `{}`", to.display());
            Error::new(ErrorKind::Io, what).because(error)
        })
    })
    .await
}
