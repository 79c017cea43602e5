//! Files into a bundle.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use zstd::bulk::Compressor;

use super::{
    Progress,
    extents::{self, Run},
    format::{
        BLOCK_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_FRAME_BYTES, MAX_MANIFEST_BYTES,
        MAX_PART_BLOCKS, MAX_PART_DATA_BYTES, PartKind, is_valid_name, too_large,
    },
    parts::SealedWriter,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sparse::data_ranges,
};

/// zstd's level. On guest memory one core does 400 to 500 MB/s of it, 280 MB/s on a disk full of
/// programs; level 1 is 1.4 times as fast and makes bundles a tenth larger. Threads are not worth
/// their trouble at such speeds.
const LEVEL: i32 = 3;

/// Writes a bundle, front to back and without seeking: the output may be a pipe.
///
/// Memory is a few MiB whatever the files have. A writer whose [`add`](Self::add) failed half-way
/// through a file refuses to go on: what it wrote is no bundle.
pub struct BundleWriter<W> {
    parts: SealedWriter<W>,
    names: Vec<String>,
    chunk: Chunk,
    compressor: Compressor<'static>,
    progress: Option<Progress>,
    /// Bytes of the files that are complete.
    done: u64,
    broken: bool,
}

impl<W: Write> BundleWriter<W> {
    /// Starts a bundle with its manifest, which is opaque here.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for a manifest above 1 MiB; [`ErrorKind::NoSpace`] or
    /// [`ErrorKind::Io`] from the output.
    pub fn new(output: W, manifest: &[u8]) -> Result<Self> {
        if manifest.len() > MAX_MANIFEST_BYTES {
            return Err(too_large(format!(
                "A manifest of {} bytes does not fit into a bundle",
                manifest.len()
            )));
        }
        let compressor = Compressor::new(LEVEL).map_err(zstd_failed)?;
        let mut parts = SealedWriter::new(output)?;
        parts.write_part(PartKind::Manifest, |payload| {
            payload.extend_from_slice(manifest);
            Ok(())
        })?;
        Ok(Self {
            parts,
            names: Vec::new(),
            chunk: Chunk::new(),
            compressor,
            progress: None,
            done: 0,
            broken: false,
        })
    }

    /// Calls `progress` with the bytes of all files done so far, holes included: it ends at the
    /// sum of the files' lengths.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Adds `file` from its start to its present end, as `name`. Holes and blocks of zeros are not
    /// stored. The file must not change meanwhile; its position is unspecified afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] for a name that is not 1 to 64 of `a-z`, `0-9`, `.`, `_` and
    /// `-`, does not start with a letter or digit, or was added before; [`ErrorKind::TooLarge`]
    /// above 64 files or 8 TiB; [`ErrorKind::NoSpace`] or [`ErrorKind::Io`] from the output,
    /// [`ErrorKind::Io`] from the file.
    pub fn add(&mut self, name: &str, file: &File) -> Result<()> {
        self.check_whole()?;
        self.check_name(name)?;
        let metadata = file.metadata().map_err(|error| unreadable(name, error))?;
        if !metadata.is_file() {
            return Err(unreadable(name, io::Error::other("not a regular file")));
        }
        let length = metadata.len();
        if length > MAX_FILE_BYTES {
            return Err(too_large(format!(
                "The file `{name}` of {length} bytes does not fit into a bundle"
            )));
        }
        self.broken = true;
        self.parts.write_part(PartKind::File, |payload| {
            payload.extend_from_slice(&length.to_le_bytes());
            payload.extend_from_slice(name.as_bytes());
            Ok(())
        })?;
        self.add_data(name, file, length)?;
        self.parts.write_part(PartKind::FileEnd, |_| Ok(()))?;
        self.names.push(name.to_owned());
        self.done += length;
        self.report(0);
        self.broken = false;
        Ok(())
    }

    /// Ends the bundle and returns the output, flushed but not synced.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] or [`ErrorKind::Io`] from the output; [`ErrorKind::Io`] when an
    /// [`add`](Self::add) had failed half-way.
    pub fn finish(mut self) -> Result<W> {
        self.check_whole()?;
        self.parts.write_part(PartKind::End, |_| Ok(()))?;
        self.parts.into_output()
    }

    fn check_whole(&self) -> Result<()> {
        if self.broken {
            return Err(Error::new(
                ErrorKind::Io,
                "The bundle cannot be continued after a file that failed",
            ));
        }
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if self.names.len() >= MAX_FILES {
            return Err(too_large(format!("A bundle has at most {MAX_FILES} files")));
        }
        let wrong = if !is_valid_name(name) {
            "cannot be in a bundle"
        } else if self.names.iter().any(|known| known == name) {
            "is in the bundle already"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::InvalidName,
            format!("A file named `{name}` {wrong}"),
        ))
    }

    /// Writes the `DATA` parts of a file.
    fn add_data(&mut self, name: &str, file: &File, length: u64) -> Result<()> {
        self.chunk.start_file();
        for range in data_ranges(file, length, BLOCK_BYTES as u64) {
            let range = range.map_err(|error| unreadable(name, error))?;
            let mut position = range.start;
            while position < range.end {
                position += self
                    .chunk
                    .read(file, position, range.end)
                    .map_err(|error| unreadable(name, error))?;
                if self.chunk.is_full() {
                    self.write_chunk()?;
                }
                self.report(position);
            }
        }
        if self.chunk.runs.is_empty() {
            return Ok(());
        }
        self.write_chunk()
    }

    fn write_chunk(&mut self) -> Result<()> {
        let (chunk, compressor) = (&mut self.chunk, &mut self.compressor);
        self.parts.write_part(PartKind::Data, |payload| {
            extents::encode(&chunk.runs, chunk.cursor, payload)?;
            let start = payload.len();
            payload.resize(start + MAX_FRAME_BYTES, 0);
            let bytes = compressor
                .compress_to_buffer(&chunk.data[..chunk.filled], &mut payload[start..])
                .map_err(zstd_failed)?;
            payload.truncate(start + bytes);
            Ok(())
        })?;
        chunk.clear();
        Ok(())
    }

    fn report(&mut self, position: u64) {
        if let Some(progress) = &mut self.progress {
            progress(self.done + position);
        }
    }
}

impl<W> fmt::Debug for BundleWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleWriter")
            .field("names", &self.names)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// The data of the next `DATA` part.
struct Chunk {
    /// [`MAX_PART_DATA_BYTES`] long; the first `filled` bytes are taken.
    data: Vec<u8>,
    filled: usize,
    runs: Vec<Run>,
    /// The block after the last run of the part before.
    cursor: u64,
}

impl Chunk {
    fn new() -> Self {
        Self {
            data: vec![0; MAX_PART_DATA_BYTES],
            filled: 0,
            runs: Vec::with_capacity(MAX_PART_BLOCKS),
            cursor: 0,
        }
    }

    fn start_file(&mut self) {
        self.clear();
        self.cursor = 0;
    }

    /// Makes room after the chunk was written.
    fn clear(&mut self) {
        self.cursor = self.runs.last().map_or(self.cursor, |run| run.end());
        self.runs.clear();
        self.filled = 0;
    }

    fn is_full(&self) -> bool {
        self.filled == self.data.len()
    }

    /// Reads from `position`, which starts a block, to `end` or as far as there is room, keeps the
    /// blocks that are not zero, and returns the number of bytes read. Not for full chunks.
    fn read(&mut self, file: &File, position: u64, end: u64) -> io::Result<u64> {
        let room = &mut self.data[self.filled..];
        let bytes = usize::try_from(end - position).map_or(room.len(), |rest| rest.min(room.len()));
        file.read_exact_at(&mut room[..bytes], position)?;
        let (first, from) = (position / BLOCK_BYTES as u64, self.filled);
        for (number, start) in (first..).zip((from..from + bytes).step_by(BLOCK_BYTES)) {
            let block = start..(start + BLOCK_BYTES).min(from + bytes);
            if self.data[block.clone()] != ZEROS[..block.len()] {
                let length = block.len();
                if start != self.filled {
                    self.data.copy_within(block, self.filled);
                }
                self.filled += length;
                self.push_block(number);
            }
        }
        Ok(bytes as u64)
    }

    fn push_block(&mut self, number: u64) {
        match self.runs.last_mut() {
            Some(run) if run.end() == number => run.count += 1,
            _ => self.runs.push(Run {
                first: number,
                count: 1,
            }),
        }
    }
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

fn unreadable(name: &str, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("Could not read the file `{name}` for the bundle"),
    )
    .because(error)
}

fn zstd_failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "Could not compress for the bundle").because(error)
}
