//! One read-only EROFS image from a tree.
//!
//! [`DataArea`] takes the data of files while [`crate::layer`] reads them; then [`write`] adds all
//! else. The image:
//!
//! ```text
//! block 0        superblock at byte 1024
//! block 1 …      data of files, in the order in which the layers bring it; each byte written once
//! metadata       inodes, each with its attributes and, where it fits, the last part of its data
//! directories    whole blocks of directories, and link targets too long for an inode
//! ```
//!
//! Data of files that a later layer hides becomes a hole of the image file.
//! Invariant: the same tree and data give the same bytes.
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst.

mod bits;
mod data;
mod directory;
mod inode;
mod plan;
mod superblock;
mod writer;
mod xattr;

use std::fs::File;

use cofferdam_types::Digest;
pub(crate) use data::DataArea;
pub(crate) use xattr::{
    MAX_BODY_BYTES as MAX_XATTR_BODY_BYTES, MAX_VALUE_BYTES as MAX_XATTR_VALUE_BYTES,
    body_bytes as xattr_body_bytes,
};

use crate::{error::Result, tree::Tree};
use plan::Plan;
use superblock::Superblock;

/// What a finished root file system holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootfsStats {
    /// Inodes, the root included.
    pub entries: u64,
    /// Bytes of all regular files, each counted once however many names it has.
    pub data_bytes: u64,
    /// Size of the image; what the disk gives for it is less when there are holes.
    pub image_bytes: u64,
}

/// Writes the rest of the image: the metadata of `tree`, its directories and the superblock.
///
/// # Errors
/// `TooLarge` for what the format cannot number; `NoSpace`, `Permission` and `Io` from the host.
pub(crate) fn write(
    tree: &Tree,
    data: &DataArea<'_>,
    identity: Digest,
    out: &File,
) -> Result<RootfsStats> {
    let plan = Plan::new(tree, data.end())?;
    plan.write(tree, out)?;
    let superblock = Superblock {
        root_nid: plan.root_nid()?,
        inodes: plan.inodes(),
        blocks: plan.blocks(),
        metadata_block: data.end(),
        identity,
    };
    superblock.write(out)?;
    let image_bytes = u64::from(plan.blocks()) * bits::BLOCK_BYTES_U64;
    out.set_len(image_bytes).map_err(writer::write_error)?;
    Ok(RootfsStats {
        entries: plan.inodes(),
        data_bytes: plan.data_bytes(),
        image_bytes,
    })
}
