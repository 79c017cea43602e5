//! A capture's memory and devices.

use std::{fs::File, io, mem, ops::Range, os::fd::AsRawFd, path::PathBuf, sync::Arc};

use cofferdam_backend::{Error, ErrorKind, MachineStatus, Result, SnapshotFiles};
use tokio::task::JoinHandle;

use super::{
    ahead::Ahead,
    devices,
    files::{Files, Maker},
    pages::{Piece, PrivateMemory},
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
    maker: Maker,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// What the guest has changed is written over a copy of what it began with.
    Changes(Changes),
    /// Nearly all in a stream that is sent ahead.
    Ahead(Ahead),
    /// All in one stream, in the pause.
    Stream,
    /// The end of either.
    Ending(JoinHandle<Result<()>>),
    Ended,
}

/// Changed memory that a pause of 100 ms has room for, beside all else: two processors read
/// 5 GB/s, and half of that beside others.
const PAUSE_BYTES: u64 = 192 << 20;

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
    pieces: Vec<Piece>,
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
        let way = match by_changes {
            Some(found) if !runs || found.bytes <= PAUSE_BYTES => {
                // Beside the files: the machine's own directory may have been given away.
                let pipe = files.state.with_file_name(format!("devices-{number}"));
                Way::Changes(found.copy_ahead(files.memory.clone(), pipe, &maker).await?)
            }
            _ if runs && !matches!(machine.origin, Origin::Shared(_)) => {
                Way::Ahead(Ahead::begin(machine, files.clone(), maker.clone()).await?)
            }
            _ => Way::Stream,
        };
        Ok(Self { files, maker, way })
    }

    /// Whether QEMU lets go of the disks when memory is taken; they have to be whole before.
    pub(super) const fn lets_go_of_disks(&self) -> bool {
        matches!(self.way, Way::Ahead(_) | Way::Stream)
    }

    /// Gives up; the machine is then as if nothing had been begun.
    pub(super) async fn abandon(self) {
        match self.way {
            Way::Ahead(ahead) => ahead.abandon().await,
            // How it ended is of no interest any more.
            Way::Ending(end) => drop(end.await),
            Way::Changes(_) | Way::Stream | Way::Ended => {}
        }
    }

    /// The machine is paused.
    ///
    /// # Cancel safety
    /// What QEMU was asked for goes on by itself, and [`Self::abandon`] waits for it.
    pub(super) async fn take(&mut self, machine: &Arc<Controlled>) -> Result<()> {
        match mem::replace(&mut self.way, Way::Ended) {
            Way::Changes(mut changes) => {
                changes.take(machine).await?;
                self.way = Way::Changes(changes);
                return Ok(());
            }
            Way::Ahead(ahead) => self.way = Way::Ending(tokio::spawn(ahead.take())),
            Way::Stream => {
                let (files, maker) = (self.files.clone(), self.maker.clone());
                let stream = stream(Arc::clone(machine), files, maker);
                self.way = Way::Ending(tokio::spawn(stream));
            }
            other @ (Way::Ending(_) | Way::Ended) => self.way = other,
        }
        let Way::Ending(end) = &mut self.way else {
            return Ok(());
        };
        let ended = end.await;
        self.way = Way::Ended;
        ended
            .map_err(|error| Error::new(ErrorKind::Io, "The capture was cut off").because(error))?
    }

    pub(super) async fn settle(self, shape: &Shape) -> Result<()> {
        let Way::Changes(changes) = self.way else {
            return Ok(());
        };
        let (state, shape, maker) = (self.files.state, shape.clone(), self.maker);
        super::blocking(move || {
            for piece in changes.pieces {
                piece.write(&changes.target).map_err(|error| {
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
    async fn copy_ahead(self, target: PathBuf, pipe: PathBuf, maker: &Maker) -> Result<Changes> {
        let opened = PathBuf::from(format!("/proc/self/fd/{}", self.origin.as_raw_fd()));
        copy(opened, target.clone(), maker).await?;
        let target = File::options().write(true).open(target).map_err(|error| {
            Error::new(ErrorKind::Io, "The memory file cannot be written").because(error)
        })?;
        Ok(Changes {
            source: Arc::new(self.source),
            target: Arc::new(target),
            head: self.head,
            pipe,
            devices: Vec::new(),
            pieces: Vec::new(),
        })
    }
}

impl Changes {
    async fn take(&mut self, machine: &Controlled) -> Result<()> {
        let (source, target) = (Arc::clone(&self.source), Arc::clone(&self.target));
        let read = move || source.read_changed(&target);
        let saved = devices::save(&machine.qmp, self.pipe.clone(), read);
        (self.devices, self.pieces) = saved.await?;
        Ok(())
    }
}

/// All of a paused machine's memory and devices.
async fn stream(machine: Arc<Controlled>, files: SnapshotFiles, maker: Maker) -> Result<()> {
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
