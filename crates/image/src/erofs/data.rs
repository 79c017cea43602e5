//! The data area: bodies of files, written once, in the order of arrival.
//!
//! A file's last part (less than a block) stays in memory to go beside its inode, as long as the
//! memory for such tails lasts; after that it takes a block like the rest.

use std::{fs::File, os::unix::fs::FileExt};

use super::{
    bits::{BLOCK_BYTES, BLOCK_BYTES_U64, INODE_BYTES, NO_BLOCK},
    writer::write_error,
    xattr,
};
use crate::{
    error::{Error, ErrorKind, Result},
    tree::{FileData, Xattr},
};

/// Memory for tails of all files together.
const MAX_TAIL_BYTES: usize = 128 << 20;

/// Bytes between two looks at the room on the disk.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
/// What a root file system leaves free on its disk, in bytes, or a share of a small disk. An image
/// that expands without end then does not take the room of everything else there.
const SPARE_DISK_BYTES: u64 = 64 << 20;
const SPARE_DISK_SHARE: u64 = 20;

/// Blocks from 1 on, handed out in order.
#[derive(Debug)]
pub(crate) struct DataArea<'a> {
    out: &'a File,
    next_block: u32,
    tail_bytes: usize,
    /// Bytes of files since the last look at the room on the disk.
    unseen_bytes: u64,
}

/// One file being written. Bytes that are skipped are zeros.
#[derive(Debug)]
pub(crate) struct FileWriter<'a> {
    out: &'a File,
    data: FileData,
    position: u64,
    /// Bytes written since the last look at the room on the disk.
    unseen_bytes: u64,
}

impl<'a> DataArea<'a> {
    /// Empties `out`: what is not written reads as zeros.
    pub(crate) fn empty(out: &'a File) -> Result<Self> {
        out.set_len(0).map_err(write_error)?;
        Ok(Self {
            out,
            next_block: 1,
            tail_bytes: 0,
            unseen_bytes: 0,
        })
    }

    /// The block after the last one in use.
    pub(super) fn end(&self) -> u32 {
        self.next_block
    }

    /// Starts a file of `size` bytes whose inode will carry `xattrs`.
    pub(crate) fn begin(&mut self, size: u64, xattrs: &[Xattr]) -> Result<FileWriter<'a>> {
        // Larger files look for themselves: what they hold may be zeros.
        self.unseen_bytes += size.min(LOOK_EVERY_BYTES);
        if self.unseen_bytes >= LOOK_EVERY_BYTES {
            self.unseen_bytes = 0;
            expect_room(self.out)?;
        }
        let tail = usize::try_from(size % BLOCK_BYTES_U64).unwrap_or_default();
        let fits = INODE_BYTES + xattr::body_bytes(xattrs) + tail <= BLOCK_BYTES;
        let is_inline = fits && self.tail_bytes + tail <= MAX_TAIL_BYTES;
        let tail = if is_inline { tail } else { 0 };
        let blocks = (size - tail as u64).div_ceil(BLOCK_BYTES_U64);
        let first_block = self.next_block;
        // Block numbers are 32 bits and the last one means none.
        let next_block = u32::try_from(u64::from(first_block) + blocks).ok();
        self.next_block = next_block
            .filter(|&block| block < NO_BLOCK)
            .ok_or_else(image_full)?;
        self.tail_bytes += tail;
        Ok(FileWriter {
            out: self.out,
            data: FileData {
                size,
                first_block,
                blocks: self.next_block - first_block,
                tail: vec![0; tail].into_boxed_slice(),
            },
            position: 0,
            unseen_bytes: 0,
        })
    }

    /// Gives the disk back what files held that no name leads to any more.
    pub(crate) fn forget(&mut self, dead: &[FileData]) -> Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        for data in dead {
            self.tail_bytes -= data.tail.len();
            if data.blocks == 0 {
                continue;
            }
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let start = u64::from(data.first_block) * BLOCK_BYTES_U64;
            let len = u64::from(data.blocks) * BLOCK_BYTES_U64;
            match fallocate(self.out, flags, start, len) {
                Ok(()) => {}
                // Without holes the image is larger than it need be, and as right. The old data
                // stays unreachable, which is what a layer's own blob holds anyway.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
                Err(error) => return Err(write_error(error.into())),
            }
        }
        Ok(())
    }
}

impl FileWriter<'_> {
    /// Moves forward to `position`; what lies between stays zeros.
    pub(crate) fn skip_to(&mut self, position: u64) {
        self.position = self.position.max(position);
    }

    /// Writes the next bytes; what lies past the size given at the start is dropped.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let body_left =
            (u64::from(self.data.blocks) * BLOCK_BYTES_U64).saturating_sub(self.position);
        let body_left = usize::try_from(body_left).unwrap_or(usize::MAX);
        let (body, tail) = bytes.split_at(bytes.len().min(body_left));
        // Zeros are there already; a file of zeros costs no disk.
        if body.iter().any(|&byte| byte != 0) {
            let start = u64::from(self.data.first_block) * BLOCK_BYTES_U64 + self.position;
            self.out.write_all_at(body, start).map_err(write_error)?;
            self.unseen_bytes += body.len() as u64;
            if self.unseen_bytes >= LOOK_EVERY_BYTES {
                self.unseen_bytes = 0;
                expect_room(self.out)?;
            }
        }
        self.position += body.len() as u64;
        if !tail.is_empty() {
            let tail_start = self.data.size - self.data.tail.len() as u64;
            let start = usize::try_from(self.position - tail_start).unwrap_or(usize::MAX);
            if let Some(place) = self.data.tail.get_mut(start..) {
                let len = place.len().min(tail.len());
                place[..len].copy_from_slice(&tail[..len]);
            }
            self.position += tail.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> FileData {
        self.data
    }
}

/// Fails when the disk of `out` is nearly full.
fn expect_room(out: &File) -> Result<()> {
    let Ok(disk) = rustix::fs::fstatvfs(out) else {
        // If the room is unknown, a write shows whether there is enough.
        return Ok(());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let spare = spare_bytes(disk.f_blocks.saturating_mul(disk.f_frsize));
    if free >= spare {
        return Ok(());
    }
    let what = format!(
        "The image is too large for the disk of the store: {} MiB are left there",
        free >> 20
    );
    Err(Error::new(ErrorKind::NoSpace, what)
        .hint("Free some space, or move the store with `COFFER_HOME`"))
}

/// What is left free on a disk of `total` bytes.
fn spare_bytes(total: u64) -> u64 {
    SPARE_DISK_BYTES.min(total / SPARE_DISK_SHARE)
}

/// The image would have more blocks than the format can number.
pub(super) fn image_full() -> Error {
    Error::new(
        ErrorKind::TooLarge,
        "The root file system has more than 16 TiB",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_keeps_a_share_and_a_large_one_a_fixed_amount() {
        assert_eq!(spare_bytes(40 << 20), 2 << 20);
        assert_eq!(spare_bytes(1 << 40), 64 << 20);
        assert_eq!(spare_bytes(0), 0);
    }
}
