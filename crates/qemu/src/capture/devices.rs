//! Devices and vCPUs of a machine that lives on, as the sections of a migration stream.
//!
//! QEMU writes them into a named pipe that is read only when memory has been: until then it stands
//! still in the middle of its writing, and with it everything that could still change guest memory
//! of a paused machine, such as input that comes for the guest. So memory and devices are of one
//! moment. The pipe has a name because a descriptor that QEMU is given for a file it does not close
//! before the machine runs again.
//! Source: QEMU `migration/savevm.c`, `qmp_xen_save_devices_state`; fifo(7).

use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
};

use cofferdam_backend::{Error, ErrorKind, Result};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    pipe::fcntl_setpipe_size,
};

use crate::{argv, control, qmp::Qmp, snapshot::MAX_STREAM_BYTES};

/// The smallest pipe. All but this many bytes of the state are written after memory was read.
const PIPE_BYTES: usize = 4096;

/// The devices' sections of a paused machine, and what `memory` returns, which is run while QEMU
/// stands still. `path` is free, and is so again afterwards.
pub(super) async fn save<T: Send + 'static>(
    qmp: &Qmp,
    path: PathBuf,
    memory: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<(Vec<u8>, T)> {
    let pipe = NamedPipe::make(path).map_err(unread)?;
    let reader = pipe.reader().map_err(unread)?;
    let reading = tokio::task::spawn_blocking(move || read(reader, memory));
    let sent = control::save_devices(qmp, argv::text(&pipe.path)?).await;
    // Without a writer, what was written has an end.
    drop(pipe);
    let read = reading
        .await
        .map_err(|error| unread(io::Error::other(error)))?;
    match (sent, read) {
        (Ok(()), read) => read.map_err(unread),
        // Nothing came, because QEMU refused.
        (Err(error), Err(end)) if end.kind() == io::ErrorKind::UnexpectedEof => Err(error),
        // QEMU could not write, because reading failed.
        (Err(_), Err(error)) => Err(unread(error)),
        (Err(error), Ok(_)) => Err(error),
    }
}

/// A pipe for QEMU to open. Its writing end is held here too: a reader sees no end before the
/// first writer has come.
struct NamedPipe {
    path: PathBuf,
    writer: File,
}

impl NamedPipe {
    fn make(path: PathBuf) -> io::Result<Self> {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // For both, because it waits for no other end then.
        let writer = File::options().read(true).write(true).open(&path);
        let writer = writer.inspect_err(|_| drop(fs::remove_file(&path)))?;
        let pipe = Self { path, writer };
        fcntl_setpipe_size(&pipe.writer, PIPE_BYTES)?;
        Ok(pipe)
    }

    fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for NamedPipe {
    fn drop(&mut self) {
        // Best effort; it is in the capture's own directory.
        let _ = fs::remove_file(&self.path);
    }
}

fn unread(error: io::Error) -> Error {
    Error::new(
        ErrorKind::Io,
        "The machine's memory and devices cannot be read",
    )
    .because(error)
}

fn read<T>(
    mut pipe: impl Read,
    memory: impl FnOnce() -> io::Result<T>,
) -> io::Result<(Vec<u8>, T)> {
    let mut bytes = vec![0];
    pipe.read_exact(&mut bytes)?;
    let memory = memory()?;
    let ahead = bytes.len() + PIPE_BYTES;
    pipe.take(MAX_STREAM_BYTES).read_to_end(&mut bytes)?;
    if bytes.len() <= ahead {
        // All fitted into the pipe, so QEMU did not wait.
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the devices' state is too short to be one",
        ));
    }
    Ok((bytes, memory))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread};

    use super::*;

    #[test]
    fn the_writer_stands_still_until_memory_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = NamedPipe::make(dir.path().join("pipe")).unwrap();
        let reader = pipe.reader().unwrap();
        let (done, finished) = std::sync::mpsc::channel();
        thread::spawn(move || {
            (&pipe.writer).write_all(&[7; 3 * PIPE_BYTES]).unwrap();
            done.send(()).unwrap();
        });
        let (bytes, early) = read(reader, || Ok(finished.try_recv().is_ok())).unwrap();
        assert_eq!((bytes.len(), early), (3 * PIPE_BYTES, false));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_writer_that_never_came_is_an_end_and_one_that_could_not_wait_is_invalid() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = NamedPipe::make(dir.path().join("pipe")).unwrap();
        let reader = pipe.reader().unwrap();
        drop(pipe);
        let error = read(reader, || Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = read(&b"short"[..], || Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
