//! A bundle into files.

use std::{fmt, fs::File, io::Read, mem, os::unix::fs::FileExt};

use zstd::{bulk::Decompressor, zstd_safe::find_frame_compressed_size};

use super::{
    BundleLimits,
    extents::{self, Table},
    format::{MAX_PART_DATA_BYTES, PartKind, damaged, is_valid_name, too_large},
    parts::SealedReader,
};
use crate::error::{Error, ErrorKind, Result, io as io_error};

/// Reads a bundle, front to back and without seeking: the input may be a pipe.
///
/// Memory is a few MiB whatever the bundle says. After an error nothing more is read.
pub struct BundleReader<R> {
    parts: SealedReader<R>,
    limits: BundleLimits,
    manifest: Vec<u8>,
    names: Vec<String>,
    state: State,
    /// Bytes of data unpacked so far, of all files.
    unpacked: u64,
    decompressor: Decompressor<'static>,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A file or the end comes next.
    BetweenFiles,
    /// Data of a file of `length` bytes comes next, from block `cursor` on, or its end.
    InFile { length: u64, cursor: u64 },
    /// The last part was read.
    Ended,
    /// There was an error, or there is one if this is not replaced.
    Broken,
}

impl<R: Read> BundleReader<R> {
    /// Starts to read a bundle: checks its head and manifest.
    ///
    /// # Errors
    /// [`ErrorKind::NotABundle`], [`ErrorKind::Newer`], [`ErrorKind::Damaged`], and
    /// [`ErrorKind::Io`] from the input.
    pub fn open(input: R, limits: BundleLimits) -> Result<Self> {
        let decompressor = Decompressor::new().map_err(|error| {
            Error::new(ErrorKind::Io, "Could not start to decompress").because(error)
        })?;
        let mut parts = SealedReader::open(input)?;
        match parts.read_part()? {
            PartKind::Manifest => {}
            other => return Err(misplaced(other, "a manifest")),
        }
        Ok(Self {
            manifest: parts.take_payload(),
            parts,
            limits,
            names: Vec::new(),
            state: State::BetweenFiles,
            unpacked: 0,
            decompressor,
            data: vec![0; MAX_PART_DATA_BYTES],
        })
    }

    /// Calls `progress` with the bytes of the bundle read so far.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        self.parts.progress = Some(Box::new(progress));
        self
    }

    /// The manifest: intact, but whoever made the bundle made it up.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The next file, or none when the bundle has ended as it should and nothing follows it. What
    /// is left of the file before is checked and passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::TooLarge`], and [`ErrorKind::Io`] from the input.
    pub fn next_file(&mut self) -> Result<Option<BundleFile<'_, R>>> {
        self.unpack(None)?;
        match mem::replace(&mut self.state, State::Broken) {
            State::BetweenFiles => {}
            State::Ended => {
                self.state = State::Ended;
                return Ok(None);
            }
            State::InFile { .. } | State::Broken => return Err(broken()),
        }
        match self.parts.read_part()? {
            PartKind::File => {}
            PartKind::End => {
                self.parts.expect_end()?;
                self.state = State::Ended;
                return Ok(None);
            }
            other => return Err(misplaced(other, "a file or the end")),
        }
        let (name, length) = self.parse_file()?;
        self.names.push(name.clone());
        self.state = State::InFile { length, cursor: 0 };
        Ok(Some(BundleFile {
            reader: self,
            name,
            length,
        }))
    }

    /// Checks all that was not read yet, to the end of the bundle and of the input. Data of files
    /// that were not extracted is decompressed and dropped.
    ///
    /// # Errors
    /// As [`next_file`](Self::next_file).
    pub fn finish(mut self) -> Result<()> {
        while self.next_file()?.is_some() {}
        Ok(())
    }

    fn parse_file(&self) -> Result<(String, u64)> {
        let (length, name) = self
            .parts
            .payload()
            .split_first_chunk()
            .ok_or_else(|| damaged("The head of a file in the bundle is cut short"))?;
        let length = u64::from_le_bytes(*length);
        let name = str::from_utf8(name)
            .ok()
            .filter(|name| is_valid_name(name))
            .ok_or_else(|| {
                damaged(format!(
                    "A file in the bundle has the name `{}`",
                    name.escape_ascii()
                ))
            })?;
        if self.names.iter().any(|known| known == name) {
            return Err(damaged(format!(
                "The bundle has more than one file `{name}`"
            )));
        }
        let BundleLimits {
            files, file_bytes, ..
        } = self.limits;
        if self.names.len() >= files {
            return Err(too_large(format!("The bundle has more than {files} files")));
        }
        if length > file_bytes {
            return Err(too_large(format!(
                "The file `{name}` in the bundle has {length} bytes, more than {file_bytes}"
            )));
        }
        Ok((name.to_owned(), length))
    }

    /// Reads the rest of the current file, if there is one, into `target` or into nothing.
    fn unpack(&mut self, target: Option<&File>) -> Result<()> {
        let State::InFile { length, mut cursor } = self.state else {
            return Ok(());
        };
        self.state = State::Broken;
        loop {
            match self.parts.read_part()? {
                PartKind::Data => cursor = self.unpack_part(length, cursor, target)?,
                PartKind::FileEnd => break,
                other => return Err(misplaced(other, "data of a file or its end")),
            }
        }
        self.state = State::BetweenFiles;
        Ok(())
    }

    /// Unpacks one `DATA` part; returns the block after its last extent.
    fn unpack_part(&mut self, length: u64, cursor: u64, target: Option<&File>) -> Result<u64> {
        let Table {
            extents,
            bytes,
            cursor,
            frame,
        } = extents::decode(self.parts.payload(), cursor, length)?;
        self.unpacked += bytes as u64;
        if self.unpacked > self.limits.data_bytes {
            return Err(too_large(format!(
                "The bundle has more than {} bytes of data",
                self.limits.data_bytes
            )));
        }
        decompress(&mut self.decompressor, frame, &mut self.data[..bytes])?;
        let Some(target) = target else {
            return Ok(cursor);
        };
        let mut rest = &self.data[..bytes];
        for extent in extents {
            let data;
            (data, rest) = rest.split_at(extent.bytes);
            target
                .write_all_at(data, extent.offset)
                .map_err(|error| self.unwritable(error))?;
        }
        Ok(cursor)
    }

    fn unwritable(&self, error: std::io::Error) -> Error {
        let name = self.names.last().map_or("", String::as_str);
        io_error(
            format!("Could not write the file `{name}` of the bundle"),
            error,
        )
    }
}

impl<R> fmt::Debug for BundleReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleReader")
            .field("limits", &self.limits)
            .field("names", &self.names)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A file of a bundle that is still to be read.
pub struct BundleFile<'a, R> {
    reader: &'a mut BundleReader<R>,
    name: String,
    length: u64,
}

impl<R: Read> BundleFile<'_, R> {
    /// Its name: one component of a path, 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, and the first
    /// a letter or digit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes, holes included.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Replaces the content of `target`, a file open for writing at any offset (not for appending),
    /// by this file's. What the bundle does not store becomes a hole.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::TooLarge`], [`ErrorKind::NoSpace`], and
    /// [`ErrorKind::Io`] from the input or the target, whose content is unspecified then.
    pub fn extract(self, target: &File) -> Result<()> {
        // To nothing first: old content must not show through the holes.
        target
            .set_len(0)
            .and_then(|()| target.set_len(self.length))
            .map_err(|error| self.reader.unwritable(error))?;
        self.reader.unpack(Some(target))
    }
}

impl<R> fmt::Debug for BundleFile<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleFile")
            .field("name", &self.name)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Decompresses exactly one frame into exactly `data`.
fn decompress(
    decompressor: &mut Decompressor<'static>,
    frame: &[u8],
    data: &mut [u8],
) -> Result<()> {
    let wrong = || damaged("The data of a part in the bundle does not decompress to its extents");
    // zstd would go on to further frames, and pass over skippable ones.
    if find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(wrong());
    }
    let bytes = decompressor
        .decompress_to_buffer(frame, data)
        .map_err(|error| wrong().because(error))?;
    if bytes == data.len() {
        Ok(())
    } else {
        Err(wrong())
    }
}

fn misplaced(found: PartKind, expected: &str) -> Error {
    damaged(format!(
        "The bundle has a `{found}` part where {expected} should be"
    ))
}

fn broken() -> Error {
    Error::new(ErrorKind::Io, "The bundle cannot be read on after an error")
}
