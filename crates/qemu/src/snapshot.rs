//! A snapshot's files: memory as it is, and state behind a header that tells what it fits.
//!
//! ```text
//! state: [magic: 8 bytes][header length: u32 LE][header: JSON][zeroes up to 4096][stream]
//! ```
//! The header is written last; a state file without one was never finished. QEMU reads the stream
//! from the open file, where this module has left its position.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::Path,
};

use cofferdam_backend::{Error, ErrorKind, MachineSpec, Result, SnapshotFiles};
use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::stream::{PageSink, split};

const MAGIC: [u8; 8] = *b"COFFERQS";
/// One page: the stream begins at a page of its own.
const HEADER_BYTES: u64 = 4096;
const PREFIX_BYTES: u64 = 12;
/// Devices take 200 KiB; a thousand times that is no state file.
const MAX_STREAM_BYTES: u64 = 256 << 20;

/// What a state file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    compatibility: String,
    vcpus: u8,
    memory_mib: u32,
    /// Whether each disk is read-only, in order.
    disks: Vec<bool>,
    stream_bytes: u64,
    stream_sha256: String,
}

/// What a snapshot's machine and a restored one must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    compatibility: String,
    vcpus: u8,
    memory_mib: u32,
    disks: Vec<bool>,
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
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// Whether memory is written, or is in its file already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryFile {
    Write,
    Present,
}

/// Writes a machine's migration stream into files that do not exist yet. After a failure neither
/// does.
///
/// # Blocking
/// Until the stream ends.
pub(crate) fn write(
    stream: &UnixStream,
    files: &SnapshotFiles,
    shape: &Shape,
    memory: MemoryFile,
) -> Result<()> {
    let state = create(&files.state)?;
    let result = match memory {
        MemoryFile::Present => write_state(stream, &state, shape, &mut NoPages),
        MemoryFile::Write => create(&files.memory).and_then(|file| {
            file.set_len(shape.memory_bytes()).map_err(unwritten)?;
            let mut pages = Runs::new(file);
            write_state(stream, &state, shape, &mut pages)?;
            pages.flush().map_err(unwritten)
        }),
    };
    if result.is_err() {
        // The first error is the one to report. A file that was there before is not touched:
        // making it was then the failure.
        let _ = std::fs::remove_file(&files.state);
        if memory == MemoryFile::Write && !already_there(&result) {
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
    stream: &UnixStream,
    state: &File,
    shape: &Shape,
    pages: &mut impl PageSink,
) -> Result<()> {
    let mut file = state;
    file.seek(SeekFrom::Start(HEADER_BYTES))
        .map_err(unwritten)?;
    let mut output = Hashing {
        inner: BufWriter::new(state),
        hash: Sha256::new(),
        count: 0,
    };
    let input = io::BufReader::with_capacity(1 << 20, stream);
    split(input, &mut output, shape.memory_bytes(), pages).map_err(unwritten)?;
    let header = Header {
        compatibility: shape.compatibility.clone(),
        vcpus: shape.vcpus,
        memory_mib: shape.memory_mib,
        disks: shape.disks.clone(),
        stream_bytes: output.count,
        stream_sha256: digest(output.hash),
    };
    let text = serde_json::to_vec(&header).map_err(|error| unwritten(error.into()))?;
    let length = u32::try_from(text.len()).map_err(|error| unwritten(io::Error::other(error)))?;
    if u64::from(length) > HEADER_BYTES - PREFIX_BYTES {
        return Err(unwritten(io::Error::other("the header is too long")));
    }
    let mut head = length.to_le_bytes().to_vec();
    head.extend(text);
    state.write_all_at(&head, 8).map_err(unwritten)?;
    state.write_all_at(&MAGIC, 0).map_err(unwritten)
}

fn digest(hash: Sha256) -> String {
    Digest::from_sha256(hash.finalize().into()).to_string()
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct NoPages;

impl PageSink for NoPages {
    fn put(&mut self, _: u64, _: &[u8; 4096]) -> io::Result<()> {
        Err(io::Error::other(
            "guest memory came in the stream though it is a shared file",
        ))
    }
}

/// Pages gathered into runs, so that memory is not written page by page.
struct Runs {
    file: File,
    start: u64,
    bytes: Vec<u8>,
}

/// Larger writes gain nothing.
const RUN_BYTES: usize = 1 << 20;

impl Runs {
    fn new(file: File) -> Self {
        Self {
            file,
            start: 0,
            bytes: Vec::with_capacity(RUN_BYTES),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.start)?;
        self.bytes.clear();
        Ok(())
    }
}

impl PageSink for Runs {
    fn put(&mut self, offset: u64, page: &[u8; 4096]) -> io::Result<()> {
        let next = self.start + self.bytes.len() as u64;
        if offset != next || self.bytes.len() >= RUN_BYTES {
            self.flush()?;
            self.start = offset;
        }
        self.bytes.extend_from_slice(page);
        Ok(())
    }
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
    let header = read_header(&file)
        .map_err(|error| bad("is damaged or was never finished").because(error))?;
    if header.compatibility != shape.compatibility {
        return Err(
            bad("was made by another QEMU or on another processor").because(io::Error::other(
                format!("it needs `{}`", header.compatibility),
            )),
        );
    }
    if (header.vcpus, header.memory_mib) != (shape.vcpus, shape.memory_mib)
        || header.disks != shape.disks
    {
        return Err(bad(&format!(
            "needs {} processors, {} MiB of memory and {} disks of its kinds",
            header.vcpus,
            header.memory_mib,
            header.disks.len()
        )));
    }
    check_stream(&mut file, &header).map_err(|error| bad("is damaged").because(error))?;
    Ok(file)
}

fn read_header(file: &File) -> io::Result<Header> {
    let mut head = vec![0; usize::try_from(HEADER_BYTES).map_err(io::Error::other)?];
    file.read_exact_at(&mut head, 0)?;
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let rest = head.strip_prefix(&MAGIC).ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(
        rest.get(..length).ok_or_else(damaged)?,
    )?)
}

fn check_stream(file: &mut File, header: &Header) -> io::Result<()> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let size = file.metadata()?.len();
    if header.stream_bytes > MAX_STREAM_BYTES || size != HEADER_BYTES + header.stream_bytes {
        return Err(damaged("its size is not the one that it was written with"));
    }
    file.seek(SeekFrom::Start(HEADER_BYTES))?;
    let mut stream = Vec::new();
    file.read_to_end(&mut stream)?;
    let mut hash = Sha256::new();
    hash.update(&stream);
    if digest(hash) != header.stream_sha256 {
        return Err(damaged(
            "its content is not the one that it was written with",
        ));
    }
    file.seek(SeekFrom::Start(HEADER_BYTES)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STREAM: &[u8] = b"QEVM\0\0\0\x03\x04devices";

    fn shape() -> Shape {
        Shape {
            compatibility: "qemu".to_owned(),
            vcpus: 1,
            memory_mib: 64,
            disks: vec![true, false],
        }
    }

    fn written(dir: &Path) -> SnapshotFiles {
        let files = SnapshotFiles {
            memory: dir.join("memory"),
            state: dir.join("state"),
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(STREAM).unwrap();
        drop(theirs);
        write(&ours, &files, &shape(), MemoryFile::Write).unwrap();
        files
    }

    #[test]
    fn a_written_state_opens_at_its_stream() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        let mut stream = Vec::new();
        open(&files.state, &shape())
            .unwrap()
            .read_to_end(&mut stream)
            .unwrap();
        assert_eq!(stream, STREAM);
        assert_eq!(fs::metadata(&files.memory).unwrap().len(), 64 << 20);
    }

    #[test]
    fn every_changed_or_missing_byte_that_matters_is_a_bad_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        let whole = fs::read(&files.state).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&files.state, bytes).unwrap();
            let error = open(&files.state, &shape()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadSnapshot);
        };
        for length in [0, 7, 11, 4095, 4096, whole.len() - 1] {
            refused(&whole[..length]);
        }
        for at in [0, 8, 12, 4096, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            refused(&changed);
        }
        refused(&[whole, vec![0]].concat());
    }

    #[test]
    fn another_shape_is_a_bad_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        let shape = shape();
        for other in [
            Shape {
                compatibility: "other".to_owned(),
                ..shape.clone()
            },
            Shape {
                vcpus: 2,
                ..shape.clone()
            },
            Shape {
                memory_mib: 128,
                ..shape.clone()
            },
            Shape {
                disks: vec![true],
                ..shape.clone()
            },
            Shape {
                disks: vec![true, true],
                ..shape
            },
        ] {
            let error = open(&files.state, &other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadSnapshot);
        }
    }

    #[test]
    fn a_failed_capture_leaves_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = SnapshotFiles {
            memory: dir.path().join("memory"),
            state: dir.path().join("state"),
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(write(&ours, &files, &shape(), MemoryFile::Write).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_that_exist_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = written(dir.path());
        let before = fs::read(&files.state).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = write(&ours, &files, &shape(), MemoryFile::Write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec);
        assert_eq!(fs::read(&files.state).unwrap(), before);
    }
}
