//! A snapshot's files: memory as it is, and state behind a header that tells what it fits.
//!
//! QEMU reads the state's stream from the open file, where this module has left its position.

mod header;
mod hold;
mod runs;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use cofferdam_backend::{Error, ErrorKind, MachineSpec, Result, SnapshotFiles};

pub(crate) use header::MAX_STREAM_BYTES;
pub(crate) use hold::{HoldRelease, PIPE_BYTES, StreamHold, hold};
pub(crate) use runs::clear;

use hold::HeldSink;
use runs::Runs;

use crate::stream::{self, NO_DESCRIPTION, NoPages, PageSink, split};

/// What a snapshot's machine and a restored one must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    compatibility: String,
    vcpus: u8,
    memory_mib: u32,
    disks: Vec<bool>,
    /// MTU of the network interface, if there is one.
    mtu: Option<u16>,
    file_channel: bool,
}

impl Shape {
    pub(crate) fn of(spec: &MachineSpec, compatibility: String) -> Self {
        Self {
            compatibility,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            disks: spec
                .block_devices
                .iter()
                .map(|disk| disk.read_only)
                .collect(),
            mtu: spec.network.as_ref().map(|network| network.mtu),
            file_channel: spec.file_channel,
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// Whether memory is written, or is in its file already.
#[derive(Debug)]
pub(crate) enum MemoryFile {
    Write,
    /// Written too, but for the last part only when the gate is opened.
    WriteHeld(StreamHold),
    Present,
}

/// Writes a machine's migration stream into files that do not exist yet. After a failure neither
/// does.
///
/// # Blocking
/// Until the stream ends.
pub(crate) fn write(
    stream: impl Read,
    files: &SnapshotFiles,
    shape: &Shape,
    memory: MemoryFile,
) -> Result<()> {
    let state = create(&files.state)?;
    let hold = match memory {
        MemoryFile::Present => {
            let written = write_state(stream, &state, shape, &mut NoPages).map_err(unwritten);
            // The first error is the one to report.
            return written.inspect_err(|_| drop(std::fs::remove_file(&files.state)));
        }
        MemoryFile::Write => None,
        MemoryFile::WriteHeld(hold) => Some(hold),
    };
    let result = create(&files.memory).and_then(|file| {
        let bytes = shape.memory_bytes();
        file.set_len(bytes).map_err(unwritten)?;
        let runs = Runs::new(file, bytes).map_err(unwritten)?;
        let mut pages = HeldSink::new(runs, hold, bytes);
        write_state(stream, &state, shape, &mut pages).map_err(unwritten)?;
        pages.into_inner().finish().map_err(unwritten)
    });
    if result.is_err() {
        // A file that was there before is not touched: making it was then the failure.
        let _ = std::fs::remove_file(&files.state);
        if !already_there(&result) {
            let _ = std::fs::remove_file(&files.memory);
        }
    }
    result
}

fn already_there(result: &Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::InvalidSpec)
}

fn create(path: &Path) -> Result<File> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    opened.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::AlreadyExists => ErrorKind::InvalidSpec,
            _ => ErrorKind::Io,
        };
        let what = format!("The snapshot file `{}` cannot be made", path.display());
        Error::new(kind, what).because(error)
    })
}

fn unwritten(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "The snapshot cannot be written").because(error)
}

fn write_state(
    stream: impl Read,
    state: &File,
    shape: &Shape,
    pages: &mut impl PageSink,
) -> io::Result<()> {
    header::write(state, shape, |output| {
        let input = io::BufReader::with_capacity(PIPE_BYTES, stream);
        split(input, output, shape.memory_bytes(), pages)
    })
}

/// What comes ahead of the devices in an open state that a restore has checked, wherever the file
/// stands.
///
/// # Blocking
/// Reads 130 KiB.
pub(crate) fn read_head(state: &File, memory_bytes: u64) -> io::Result<Vec<u8>> {
    let from = Positioned {
        file: state,
        offset: header::BYTES,
    };
    stream::read_head(io::BufReader::new(from), memory_bytes)
}

/// Reads a file without moving its position, which another process may use.
struct Positioned<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Writes a state, which does not exist yet, from the `head` of another one of the same machine
/// and devices as QEMU writes them by themselves. After a failure it does not exist.
pub(crate) fn write_spliced(path: &Path, shape: &Shape, head: &[u8], devices: &[u8]) -> Result<()> {
    let file = create(path)?;
    let written = stream::device_sections(devices).and_then(|sections| {
        header::write(&file, shape, |output| {
            output.write_all(head)?;
            output.write_all(sections)?;
            output.write_all(&NO_DESCRIPTION)?;
            output.flush()
        })
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written.map_err(unwritten)
}

/// Opens a state file that is whole and fits `shape`; the file stands at its stream.
///
/// # Blocking
/// Reads the file once, 200 KiB.
pub(crate) fn open(path: &Path, shape: &Shape) -> Result<File> {
    let bad = |what: &str| {
        let what = format!("The snapshot `{}` {what}", path.display());
        Error::new(ErrorKind::BadSnapshot, what)
    };
    let mut file = File::open(path).map_err(|error| bad("cannot be opened").because(error))?;
    let header = header::read(&file)
        .map_err(|error| bad("is damaged or was never finished").because(error))?;
    if header.compatibility != shape.compatibility {
        let differ = format!(
            "it needs `{}`, this host has `{}`",
            header.compatibility.escape_debug(),
            shape.compatibility
        );
        return Err(bad("was made by another QEMU or on another processor")
            .because(io::Error::other(differ)));
    }
    if (header.vcpus, header.memory_mib) != (shape.vcpus, shape.memory_mib)
        || header.disks != shape.disks
        || (header.mtu, header.file_channel) != (shape.mtu, shape.file_channel)
    {
        let network = header.mtu.map_or_else(
            || "no network interface".to_owned(),
            |mtu| format!("a network interface with an MTU of {mtu} bytes"),
        );
        let files = if header.file_channel { "a" } else { "no" };
        return Err(bad(&format!(
            "needs {} processors, {} MiB of memory, {} disks of its kinds, {files} file channel \
             and {network}",
            header.vcpus,
            header.memory_mib,
            header.disks.len()
        )));
    }
    header::check_stream(&mut file, &header).map_err(|error| bad("is damaged").because(error))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
