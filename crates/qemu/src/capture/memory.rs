//! A capture's memory and devices.

use std::{
    fs::File, io, mem, ops::Range, os::fd::AsRawFd, path::PathBuf, sync::Arc, time::Duration,
};

use cofferdam_backend::{Error, ErrorKind, MachineStatus, Result, SnapshotFiles};
use tokio::task::JoinHandle;

use super::{
    ahead::AheadMigration,
    blocks::Block,
    busy::Busy,
    devices,
    files::{FileCreator, Files},
    pages::PrivateMemory,
};
use crate::{
    control,
    controlled::{Controlled, Origin},
    snapshot::{self, MemoryFile, Shape},
};

/// Memory and devices on their way into files.
#[derive(Debug)]
pub(super) struct MemoryCapture {
    files: SnapshotFiles,
    maker: FileCreator,
    method: CaptureMethod,
}

#[derive(Debug)]
enum CaptureMethod {
    /// What the guest has changed is written over a copy of what it began with.
    Changes(Changes),
    /// Nearly all in a stream that is sent ahead. Where it can be told, the second says how much the
    /// guest can have changed since.
    Ahead(AheadMigration, Option<Busy>),
    /// All in one stream, in the pause.
    Stream,
    /// The end of either.
    Ending(JoinHandle<Result<()>>),
    Ended,
}

/// Changed memory that a pause of 100 ms has room for, beside all else: two processors read
/// 4 GB/s, and a third of that beside others.
const PAUSE_BYTES: u64 = 96 << 20;

/// How long a guest's processors may have run since its memory was sent ahead. An emulated one
/// writes less than a GB/s, and QEMU sends as much.
const BUSY_TIME: Duration = Duration::from_millis(80);

/// A machine of which it can be told what it has changed.
#[derive(Debug)]
struct Found {
    /// The file of memory that it began with.
    origin: Arc<File>,
    source: PrivateMemory,
    /// Bytes changed by now.
    bytes: u64,
    /// What comes ahead of the devices in a state. It holds the firmware as it was at the first
    /// boot; a kernel leaves that alone (Linux `arch/x86/kernel/e820.c`, `trim_bios_range`).
    head: Vec<u8>,
}

#[derive(Debug)]
struct Changes {
    source: Arc<PrivateMemory>,
    target: Arc<File>,
    head: Vec<u8>,
    /// Where QEMU may write the devices.
    pipe: PathBuf,
    devices: Vec<u8>,
    /// Room for what is read in the pause; afterwards what was read.
    blocks: Vec<Block>,
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
        let runs = machine.status() == MachineStatus::Running;
        // Without it, what QEMU knows of its devices comes only at the end of all of memory.
        let by_changes = if control::can_save_devices(&machine.qmp).await? {
            Found::of(machine).await?
        } else {
            None
        };
        let method = match by_changes {
            Some(found) if !runs || found.bytes <= PAUSE_BYTES => {
                // Beside the files: the machine's own directory may have been given away.
                let pipe = files.state.with_file_name(format!("devices-{number}"));
                CaptureMethod::Changes(found.copy_ahead(files.memory.clone(), pipe, &maker).await?)
            }
            _ if runs && !matches!(machine.origin, Origin::Shared(_)) => {
                let threads = control::vcpu_threads(&machine.qmp).await?;
                let busy = Busy::begin(machine.process.pid, threads).ok();
                let ahead = AheadMigration::begin(machine, files.clone(), maker.clone()).await?;
                CaptureMethod::Ahead(ahead, busy)
            }
            _ => CaptureMethod::Stream,
        };
        Ok(Self {
            files,
            maker,
            method,
        })
    }

    /// Whether QEMU lets go of the disks when memory is taken; they have to be whole before.
    pub(super) const fn lets_go_of_disks(&self) -> bool {
        matches!(
            self.method,
            CaptureMethod::Ahead(..) | CaptureMethod::Stream
        )
    }

    /// Whether a pause has room for what has changed and was not copied yet. What cannot be told
    /// fits.
    pub(super) async fn fits(&self) -> Result<bool> {
        let fits = match &self.method {
            CaptureMethod::Changes(changes) => {
                let source = Arc::clone(&changes.source);
                let look = move || Ok(source.changed_bytes().ok());
                let bytes = super::blocking(look).await?;
                bytes.map(|bytes| bytes <= PAUSE_BYTES)
            }
            CaptureMethod::Ahead(_, Some(busy)) => busy.since().ok().map(|time| time <= BUSY_TIME),
            CaptureMethod::Ahead(_, None)
            | CaptureMethod::Stream
            | CaptureMethod::Ending(_)
            | CaptureMethod::Ended => None,
        };
        Ok(fits.unwrap_or(true))
    }

    /// Whether it has to be copied ahead again for what was changed since.
    pub(super) async fn is_behind(&self) -> Result<bool> {
        Ok(matches!(self.method, CaptureMethod::Ahead(..)) || !self.fits().await?)
    }

    /// Ends what was sent ahead, so that it can begin anew.
    ///
    /// # Cancel safety
    /// As for [`Self::take`].
    pub(super) async fn give_up(&mut self) {
        self.method = match mem::replace(&mut self.method, CaptureMethod::Ended) {
            CaptureMethod::Ahead(ahead, _) => CaptureMethod::Ending(tokio::spawn(async {
                ahead.abandon().await;
                Ok(())
            })),
            other => other,
        };
        if let CaptureMethod::Ending(end) = &mut self.method {
            // How it ended is of no interest any more.
            let _ = end.await;
            self.method = CaptureMethod::Ended;
        }
    }

    /// Gives up; the machine is then as if nothing had been begun.
    pub(super) async fn abandon(self) {
        match self.method {
            CaptureMethod::Ahead(ahead, _) => ahead.abandon().await,
            // How it ended is of no interest any more.
            CaptureMethod::Ending(end) => drop(end.await),
            CaptureMethod::Changes(_) | CaptureMethod::Stream | CaptureMethod::Ended => {}
        }
    }

    /// The machine is paused.
    ///
    /// # Cancel safety
    /// What QEMU was asked for goes on by itself, and [`Self::abandon`] waits for it.
    pub(super) async fn take(&mut self, machine: &Arc<Controlled>) -> Result<()> {
        match mem::replace(&mut self.method, CaptureMethod::Ended) {
            CaptureMethod::Changes(mut changes) => {
                changes.take(machine).await?;
                self.method = CaptureMethod::Changes(changes);
                return Ok(());
            }
            CaptureMethod::Ahead(ahead, _) => {
                self.method = CaptureMethod::Ending(tokio::spawn(ahead.take()));
            }
            CaptureMethod::Stream => {
                let (files, maker) = (self.files.clone(), self.maker.clone());
                let stream = stream(Arc::clone(machine), files, maker);
                self.method = CaptureMethod::Ending(tokio::spawn(stream));
            }
            other @ (CaptureMethod::Ending(_) | CaptureMethod::Ended) => self.method = other,
        }
        let CaptureMethod::Ending(end) = &mut self.method else {
            return Ok(());
        };
        let ended = end.await;
        self.method = CaptureMethod::Ended;
        ended
            .map_err(|error| Error::new(ErrorKind::Io, "The capture was cut off").because(error))?
    }

    pub(super) async fn settle(self, shape: &Shape) -> Result<()> {
        let CaptureMethod::Changes(changes) = self.method else {
            return Ok(());
        };
        let (state, shape, maker) = (self.files.state, shape.clone(), self.maker);
        super::blocking(move || {
            for block in changes.blocks {
                block.write(&changes.target).map_err(|error| {
                    Error::new(ErrorKind::Io, "The memory file cannot be written").because(error)
                })?;
            }
            let written = snapshot::write_spliced(&state, &shape, &changes.head, &changes.devices);
            maker.made(&state);
            written
        })
        .await
    }
}

/// What a machine has touched of the memory file that it was restored from. `None` as for
/// [`Found::of`].
pub(crate) async fn touched(machine: &Controlled) -> Result<Option<Vec<Range<u64>>>> {
    let Origin::Restored { memory, .. } = machine.origin.clone() else {
        return Ok(None);
    };
    let (pid, bytes) = (machine.process.pid, machine.shape.memory_bytes());
    let look = move || PrivateMemory::open(pid, &memory, bytes)?.touched();
    let touched = super::blocking(move || Ok(look().ok())).await?;
    // The process that was opened by its number is the machine's if that has not ended since.
    machine.alive()?;
    Ok(touched)
}

impl Found {
    /// `None` for a machine that was not restored, or into which this process may not look.
    async fn of(machine: &Controlled) -> Result<Option<Self>> {
        let Origin::Restored { memory, state } = machine.origin.clone() else {
            return Ok(None);
        };
        let (pid, bytes) = (machine.process.pid, machine.shape.memory_bytes());
        let find = move || -> io::Result<Self> {
            let source = PrivateMemory::open(pid, &memory, bytes)?;
            Ok(Self {
                bytes: source.changed_bytes()?,
                source,
                head: snapshot::read_head(&state, bytes)?,
                origin: memory,
            })
        };
        let found = super::blocking(move || Ok(find().ok())).await?;
        // The process that was opened by its number is the machine's if that has not ended since.
        machine.alive()?;
        Ok(found)
    }

    /// Copies what the machine began with to `target`.
    async fn copy_ahead(
        self,
        target: PathBuf,
        pipe: PathBuf,
        maker: &FileCreator,
    ) -> Result<Changes> {
        let opened = PathBuf::from(format!("/proc/self/fd/{}", self.origin.as_raw_fd()));
        copy(opened, target.clone(), maker).await?;
        let target = File::options().write(true).open(target).map_err(|error| {
            Error::new(ErrorKind::Io, "The memory file cannot be written").because(error)
        })?;
        let bytes = self.bytes;
        let blocks = super::blocking(move || Ok(Block::prepare(bytes))).await?;
        Ok(Changes {
            source: Arc::new(self.source),
            target: Arc::new(target),
            head: self.head,
            pipe,
            devices: Vec::new(),
            blocks,
        })
    }
}

impl Changes {
    async fn take(&mut self, machine: &Controlled) -> Result<()> {
        let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
        let room = mem::take(&mut self.blocks);
        let read = move || source.read_changed(room, &target);
        let saved = devices::save(&machine.qmp, self.pipe.clone(), read);
        (self.devices, self.blocks) = saved.await?;
        Ok(())
    }
}

/// All of a paused machine's memory and devices.
async fn stream(machine: Arc<Controlled>, files: SnapshotFiles, maker: FileCreator) -> Result<()> {
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

async fn copy(from: PathBuf, to: PathBuf, maker: &FileCreator) -> Result<()> {
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
