//! Sequential writing at an offset, in large pieces.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::bits::BLOCK_BYTES_U64;
use crate::error::{Error, ErrorKind, Result};

/// Bytes per write.
const BUFFER_BYTES: usize = 256 << 10;

/// Appends to a region of a file.
#[derive(Debug)]
pub(super) struct RegionWriter<'a> {
    out: &'a File,
    /// Where the buffer goes.
    offset: u64,
    buffer: Vec<u8>,
}

impl<'a> RegionWriter<'a> {
    pub(super) fn new(out: &'a File, offset: u64) -> Self {
        Self {
            out,
            offset,
            buffer: Vec::new(),
        }
    }

    /// Lets `encode` append to the region.
    pub(super) fn append(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        encode(&mut self.buffer);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Leaves zeros up to `offset`, which is not behind.
    pub(super) fn pad_to(&mut self, offset: u64) -> Result<()> {
        let gap = offset.saturating_sub(self.offset + self.buffer.len() as u64);
        let gap = usize::try_from(gap).expect("gaps are smaller than a block");
        self.append(|buffer| buffer.resize(buffer.len() + gap, 0))
    }

    /// Leaves zeros up to the next block.
    pub(super) fn pad_to_block(&mut self) -> Result<()> {
        let end = self.offset + self.buffer.len() as u64;
        self.pad_to(end.next_multiple_of(BLOCK_BYTES_U64))
    }

    /// Writes what is left.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.out
            .write_all_at(&self.buffer, self.offset)
            .map_err(write_error)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Sorts what the host says about a write into this crate's kinds.
pub(super) fn write_error(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Io,
    };
    Error::new(kind, "Could not write the root file system").because(error)
}
