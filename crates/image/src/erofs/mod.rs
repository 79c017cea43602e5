//! Layers to one read-only EROFS image, in one pass over the layers.
//!
//! Called with the layers of a manifest, bottom first, and an empty file. The image:
//!
//! ```text
//! block 0        superblock at byte 1024
//! block 1 …      data of files, in the order in which the layers bring it; each byte written once
//! metadata       inodes, each with its attributes and, where it fits, the last part of its data
//! directories    whole blocks of directories, and link targets too long for an inode
//! ```
//!
//! Data of files that a later layer hides becomes a hole of the image file.
//! Invariants: the same layers give the same bytes; memory holds metadata and a bounded amount of
//! file tails, never file bodies; nothing but `out` is touched on the host.
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
pub(crate) use data::{DataArea, FileData};
use sha2::{Digest as _, Sha256};
pub(crate) use xattr::{
    MAX_BODY_BYTES as MAX_XATTR_BODY_BYTES, MAX_VALUE_BYTES as MAX_XATTR_VALUE_BYTES,
    body_bytes as xattr_body_bytes,
};

use crate::{
    error::Result,
    layer::{Budget, LayerSource, Limits, apply_layer, ensure_directory, tree::Tree},
};
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

/// Merges `layers`, bottom first, into an EROFS image in `out`, replacing what it held.
/// `directories` are made last, as root's, where no layer has them; links on the way are followed.
///
/// `progress` gets the number of uncompressed bytes read so far, over all layers.
/// The data is not flushed to the disk. On an error `out` holds no usable image.
///
/// # Errors
/// `Corrupt` and `Unsupported` for broken or strange layers, `DigestMismatch` when a layer is not
/// the one that its `diff_id` names, `TooLarge` past a limit, `NoSpace`, `Permission` and `Io` from
/// the host, and whatever `layers` yields.
///
/// # Blocking
/// Reads the layers and writes the image on the calling thread, decompresses on another.
pub fn build_rootfs<'a>(
    layers: impl IntoIterator<Item = Result<LayerSource<'a>>>,
    directories: &[String],
    out: &mut File,
    limits: &Limits,
    progress: &dyn Fn(u64),
) -> Result<RootfsStats> {
    out.set_len(0).map_err(writer::write_error)?;
    let mut tree = Tree::new();
    let mut data = DataArea::new(out);
    let mut budget = Budget::new(limits);
    let mut identity = Sha256::new();
    for layer in layers {
        let layer = layer?;
        identity.update(layer.diff_id.as_bytes());
        apply_layer(layer, &mut tree, &mut data, &mut budget, progress)?;
        data.forget(&tree.take_dead())?;
    }
    for path in directories {
        ensure_directory(path, &mut tree, &mut budget)?;
    }
    let plan = Plan::new(&tree, data.end())?;
    plan.write(&tree, out)?;
    let superblock = Superblock {
        root_nid: plan.root_nid()?,
        inodes: plan.inodes(),
        blocks: plan.blocks(),
        metadata_block: data.end(),
        identity: Digest::from_sha256(identity.finalize().into()),
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
