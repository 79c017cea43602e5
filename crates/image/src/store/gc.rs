//! What nobody names any more goes: images, then their blobs and root file systems.
//!
//! Invariant: called with `index.lock` held, after the index that forgets them is published. A
//! kill between the two leaves files that no index names; the next change of the store takes them.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use cofferdam_base::fs::{remove_file_if_present, staging_owner};
use cofferdam_types::Digest;

use super::{
    ImageStore,
    index::{Found, Index, LockedIndex},
    layout::Layout,
    not_found,
};
use crate::{
    error::{Error, ErrorKind, Result},
    model::Removed,
};

/// Bytes of one block of `st_blocks`, stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// Tells who uses an image, if anybody does.
type InUse<'a> = &'a dyn Fn(&Digest) -> Option<String>;

impl ImageStore {
    /// Removes a name, and with the last name the image. By id, all names go at once; more than
    /// one only with `force`.
    ///
    /// An image that `in_use` names a user of stays; `force` then only takes its names away.
    ///
    /// # Errors
    /// `NotFound`; `InUse` when it has a user or several names; the file system's.
    pub fn remove(&self, name: &str, force: bool, in_use: InUse<'_>) -> Result<Removed> {
        let mut locked = LockedIndex::take(&self.layout)?;
        let found = locked.index.find(name)?;
        if found.records().is_empty() {
            return Err(not_found(name));
        }
        let removal = doom(name, &locked.index, &found, force, in_use)?;
        let mut removed = Removed::default();
        for ImageRemoval {
            manifest,
            names,
            whole,
        } in removal
        {
            for full in names {
                if locked.index.unname(&full, &manifest) {
                    removed.untagged.push(full);
                }
            }
            if whole {
                locked.index.forget(&manifest);
            }
        }
        self.finish_removal(&locked, removed)
    }

    /// Removes every image without a name; with `all`, every image that has no user.
    ///
    /// # Errors
    /// The file system's.
    pub fn prune(&self, all: bool, in_use: InUse<'_>) -> Result<Removed> {
        let mut locked = LockedIndex::take(&self.layout)?;
        let mut removed = Removed::default();
        let candidates: Vec<(Digest, Digest)> = locked
            .index
            .images
            .iter()
            .map(|r| (r.manifest, r.id))
            .collect();
        for (manifest, id) in candidates {
            let names = locked.index.references_of(&manifest);
            if (all || names.is_empty()) && in_use(&id).is_none() {
                locked.index.forget(&manifest);
                removed.untagged.extend(
                    names
                        .into_iter()
                        .filter(|name| !locked.index.references.contains_key(name)),
                );
            }
        }
        self.finish_removal(&locked, removed)
    }

    fn finish_removal(&self, locked: &LockedIndex<'_>, mut removed: Removed) -> Result<Removed> {
        locked.publish()?;
        let swept = sweep_blobs(&self.layout, &locked.index);
        removed.deleted = swept.deleted;
        removed.freed_bytes = swept.freed_bytes;
        removed.untagged.sort();
        Ok(removed)
    }
}

/// What a removal takes from one image.
struct ImageRemoval {
    manifest: Digest,
    names: Vec<String>,
    /// Whether the image itself goes too.
    whole: bool,
}

/// Decides what removing `name` takes, or why it may not be.
fn doom(
    name: &str,
    index: &Index,
    found: &Found<'_>,
    force: bool,
    in_use: InUse<'_>,
) -> Result<Vec<ImageRemoval>> {
    let mut removal = Vec::new();
    for record in found.records() {
        let names = index.references_of(&record.manifest);
        let going = match found {
            Found::Reference(full, _) => vec![full.clone()],
            Found::Digest(_) => names.clone(),
        };
        if matches!(found, Found::Digest(_)) && names.len() > 1 && !force {
            let what = format!("`{name}` has {} names", names.len());
            return Err(Error::new(ErrorKind::InUse, what)
                .hint("Remove it by each of its names, or add `--force`"));
        }
        let stays_named = names.iter().any(|name| !going.contains(name));
        let user = if stays_named {
            None
        } else {
            in_use(&record.id)
        };
        if let (Some(user), false) = (&user, force) {
            let what = format!("`{name}` is used by {user}");
            return Err(Error::new(ErrorKind::InUse, what).hint("Remove that first"));
        }
        removal.push(ImageRemoval {
            manifest: record.manifest,
            names: going,
            whole: !stays_named && user.is_none(),
        });
    }
    Ok(removal)
}

/// Removes blobs, root file systems and staged indexes that the index does not name.
///
/// A file that cannot be removed is left for the next time: the index is right without it.
pub(super) fn sweep_blobs(layout: &Layout, index: &Index) -> Removed {
    let live = index.live_blobs();
    let mut removed = Removed::default();
    for path in files_of(&layout.blobs()) {
        let digest = file_digest(&path, "");
        if digest.is_none_or(|digest| !live.contains(&digest)) && remove(&path, &mut removed) {
            removed.deleted.extend(digest);
        }
    }
    for path in files_of(&layout.rootfs_dir()) {
        if file_digest(&path, ".erofs").is_none_or(|digest| index.record(&digest).is_none()) {
            remove(&path, &mut removed);
        }
    }
    for path in files_of(layout.root()) {
        if path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(staging_owner)
            .is_some()
        {
            remove(&path, &mut removed);
        }
    }
    removed.deleted.sort();
    removed
}

fn files_of(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .collect()
}

fn file_digest(path: &Path, suffix: &str) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?.strip_suffix(suffix)?;
    format!("sha256:{hex}").parse().ok()
}

fn remove(path: &Path, removed: &mut Removed) -> bool {
    let bytes = fs::metadata(path).map_or(0, |found| {
        // With another link, as a running load may hold, the bytes stay.
        if found.nlink() == 1 {
            found.blocks() * STAT_BLOCK_BYTES
        } else {
            0
        }
    });
    let gone = remove_file_if_present(path).is_ok();
    removed.freed_bytes += if gone { bytes } else { 0 };
    gone
}
