//! Layers to one read-only root file system, in one pass over the layers.
//!
//! Called by the store with the layers of a manifest, bottom first, and an empty file.
//! Invariants: the same layers give the same bytes; memory holds metadata and a bounded amount of
//! file tails, never file bodies; nothing but `out` is touched on the host.

use std::fs::File;

use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::{
    erofs::{self, DataArea, RootfsStats},
    error::Result,
    layer::{LayerSource, apply_layer, ensure_directory},
    tree::{Budget, Limits, Tree},
};

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
    let mut tree = Tree::new();
    let mut data = DataArea::empty(out)?;
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
    let identity = Digest::from_sha256(identity.finalize().into());
    erofs::write(&tree, &data, identity, out)
}
