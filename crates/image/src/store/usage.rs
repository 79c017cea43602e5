//! What the images of a store take of the disk.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use cofferdam_types::Digest;

use super::{ImageStore, index::Index};
use crate::{error::Result, reference::Reference};

/// Bytes of one block of `st_blocks`, stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// What all images take.
#[derive(Clone, Debug)]
pub struct ImagesUsage {
    /// Bytes of the disk, what images share counted once.
    pub size_bytes: u64,
    /// Bytes of what only images without a user have.
    pub reclaimable_bytes: u64,
    /// Each image, newest first.
    pub images: Vec<ImageUsage>,
}

/// What one image takes.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image's id.
    pub id: Digest,
    /// Its short names.
    pub names: Vec<String>,
    /// Bytes that no other image has: what its removal frees.
    pub unique_bytes: u64,
    /// Whether something uses it.
    pub in_use: bool,
}

impl ImageStore {
    /// What the images take of the disk; `in_use` tells whether something uses an image.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn usage(&self, in_use: &dyn Fn(&Digest) -> bool) -> Result<ImagesUsage> {
        let index = Index::read(&self.layout)?;
        let used: Vec<bool> = index
            .images
            .iter()
            .map(|record| in_use(&record.id))
            .collect();
        // For each blob how many images have it, and whether one of them is used.
        let mut holders: HashMap<Digest, (u64, bool)> = HashMap::new();
        for (record, used) in index.images.iter().zip(&used) {
            let mut blobs: Vec<Digest> = record.blobs().collect();
            blobs.sort();
            blobs.dedup();
            for blob in blobs {
                let holder = holders.entry(blob).or_default();
                *holder = (holder.0 + 1, holder.1 || *used);
            }
        }
        let sizes: HashMap<Digest, u64> = holders
            .keys()
            .map(|blob| (*blob, disk_bytes(&self.layout.blob(blob))))
            .collect();
        let mut usage = ImagesUsage {
            size_bytes: sizes.values().sum(),
            reclaimable_bytes: 0,
            images: Vec::new(),
        };
        for (blob, (_, used)) in &holders {
            usage.reclaimable_bytes += if *used { 0 } else { sizes[blob] };
        }
        for (record, used) in index.images.iter().zip(used).rev() {
            let root = disk_bytes(&self.layout.rootfs(&record.manifest));
            usage.size_bytes += root;
            usage.reclaimable_bytes += if used { 0 } else { root };
            let mut own: Vec<Digest> = record.blobs().filter(|b| holders[b].0 == 1).collect();
            own.sort();
            own.dedup();
            let names = index.references_of(&record.manifest).into_iter();
            let short = |full: String| full.parse::<Reference>().map_or(full, |r| r.familiar());
            usage.images.push(ImageUsage {
                id: record.id,
                names: names.map(short).collect(),
                unique_bytes: root + own.iter().map(|blob| sizes[blob]).sum::<u64>(),
                in_use: used,
            });
        }
        Ok(usage)
    }
}

fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.blocks() * STAT_BLOCK_BYTES)
}
