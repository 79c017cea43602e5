//! Inodes in their extended form: 64 bytes, with nanoseconds and 32-bit owners.
//!
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h, `struct erofs_inode_extended`.

use super::bits::{
    FORMAT_EXTENDED_INLINE, FORMAT_EXTENDED_PLAIN, FT_BLOCK, FT_CHAR, FT_DIRECTORY, FT_FIFO,
    FT_REGULAR, FT_SYMLINK, INODE_BYTES, NO_BLOCK, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK,
    S_IFREG,
};
use crate::tree::{InodeKind, Metadata};

/// What an inode says beyond its metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct InodeFields {
    pub(super) mode_type: u16,
    pub(super) size: u64,
    pub(super) is_inline: bool,
    /// First block of the data, or the device number.
    pub(super) block_or_device: u32,
    /// Number for programs that want 32 bits.
    pub(super) number: u32,
    pub(super) links: u32,
    /// `i_xattr_icount`.
    pub(super) xattr_count: u16,
}

/// Appends the 64 bytes.
pub(super) fn encode(metadata: &Metadata, fields: &InodeFields, to: &mut Vec<u8>) {
    let format = if fields.is_inline {
        FORMAT_EXTENDED_INLINE
    } else {
        FORMAT_EXTENDED_PLAIN
    };
    let end = to.len() + INODE_BYTES;
    to.extend_from_slice(&format.to_le_bytes());
    to.extend_from_slice(&fields.xattr_count.to_le_bytes());
    to.extend_from_slice(&(fields.mode_type | metadata.mode).to_le_bytes());
    to.extend_from_slice(&[0; 2]);
    to.extend_from_slice(&fields.size.to_le_bytes());
    to.extend_from_slice(&fields.block_or_device.to_le_bytes());
    to.extend_from_slice(&fields.number.to_le_bytes());
    to.extend_from_slice(&metadata.uid.to_le_bytes());
    to.extend_from_slice(&metadata.gid.to_le_bytes());
    // The kernel reads the seconds as signed (fs/erofs/inode.c, inode_set_ctime).
    to.extend_from_slice(&metadata.mtime.seconds.to_le_bytes());
    to.extend_from_slice(&metadata.mtime.nanos.to_le_bytes());
    to.extend_from_slice(&fields.links.to_le_bytes());
    to.resize(end, 0);
}

/// The type bits of the mode, and the type in directories.
pub(super) fn file_type(kind: &InodeKind) -> (u16, u8) {
    match kind {
        InodeKind::Directory(_) => (S_IFDIR, FT_DIRECTORY),
        InodeKind::File(_) => (S_IFREG, FT_REGULAR),
        InodeKind::Symlink(_) => (S_IFLNK, FT_SYMLINK),
        InodeKind::CharDevice { .. } => (S_IFCHR, FT_CHAR),
        InodeKind::BlockDevice { .. } => (S_IFBLK, FT_BLOCK),
        InodeKind::Fifo => (S_IFIFO, FT_FIFO),
    }
}

/// The device number of a special file; no block for others.
pub(super) fn device(kind: &InodeKind) -> u32 {
    match *kind {
        InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
            // new_encode_dev, Linux include/linux/kdev_t.h.
            (minor & 0xff) | major << 8 | (minor & !0xff) << 12
        }
        _ => NO_BLOCK,
    }
}
