//! Finding, listing and removing snapshots.

use std::path::Path;

use cofferdam_base::{LockFile, fs};
use cofferdam_types::{SnapshotId, valid_name};
use serde::Deserialize;

use super::{MANIFEST, MAX_MANIFEST_BYTES, Snapshot, SnapshotManifest, Snapshots};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::{layout::Layout, staging::StagingDir},
};

impl Snapshots<'_> {
    /// The snapshot of a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`] or [`ErrorKind::BadSnapshot`].
    pub(crate) fn find(&self, name: &str) -> Result<Snapshot> {
        let layout = self.store.layout();
        Snapshot::load(layout, find_id(layout, name)?)
    }

    /// Every snapshot that can be read, newest first.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn list(&self) -> Result<Vec<Snapshot>> {
        let layout = self.store.layout();
        let mut all: Vec<_> = ids(layout)?
            .into_iter()
            .filter_map(|id| Snapshot::load(layout, id).ok())
            .collect();
        all.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.manifest.created_ns));
        Ok(all)
    }

    /// The others: those that cannot be used.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn damaged(&self) -> Result<Vec<DamagedSnapshot>> {
        let layout = self.store.layout();
        let damage = |id| {
            let error = Snapshot::load(layout, id).err()?;
            let dir = layout.snapshots().join(id.to_string());
            // One that another process has removed since is not damaged.
            dir.exists().then(|| DamagedSnapshot {
                id,
                is_nameless: name_of(layout, id) == Some(None),
                disk_bytes: files_bytes(&dir),
                error,
            })
        };
        Ok(ids(layout)?.into_iter().filter_map(damage).collect())
    }

    /// Removes a snapshot, also a damaged one. Sandboxes that came from it go on: their machines
    /// hold its memory open.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Ambiguous`].
    pub(crate) fn remove(&self, name: &str) -> Result<SnapshotId> {
        let layout = self.store.layout();
        let id = find_id(layout, name)?;
        let dir = layout.snapshots().join(id.to_string());
        let doomed = fs::staging_path(&dir);
        match std::fs::rename(&dir, &doomed) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(name));
            }
            Err(error) => return Err(io(format!("Could not remove snapshot `{name}`"), error)),
        }
        // From here on it is gone; what is left are files that any later call sweeps.
        let _ = fs::remove_dir_if_present(&doomed);
        Ok(id)
    }

    /// Whether a name is free for a snapshot.
    pub(crate) fn expect_free_name(&self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        if !valid_name(name) {
            let what = format!("`{name}` is not a snapshot name");
            return Err(Error::new(ErrorKind::InvalidSpec, what)
                .hint("Use letters, digits, `_`, `.` and `-`; start with a letter or digit"));
        }
        match find_by_name(self.store.layout(), name)? {
            None => Ok(()),
            Some(_) => {
                let what = format!("The name `{name}` is taken by another snapshot");
                Err(Error::new(ErrorKind::NameTaken, what)
                    .hint(format!("Remove it with `coffer snapshot rm {name}`")))
            }
        }
    }

    /// Writes the manifest into a directory whose files are whole, and gives it its name.
    pub(crate) fn publish(
        &self,
        staging: StagingDir,
        manifest: &SnapshotManifest,
    ) -> Result<Snapshot> {
        let layout = self.store.layout();
        let failed = |error| io("Could not write a snapshot's manifest", error);
        fs::publish_json(&staging.path().join(MANIFEST), manifest, true).map_err(failed)?;
        // Held for the look and the rename, so that of two that want a name one gets it.
        let _lock = LockFile::exclusive(&layout.snapshots().join("lock"))
            .map_err(|error| io("Could not lock the snapshots", error))?;
        self.expect_free_name(manifest.name.as_deref())?;
        // First the names in it, then its own.
        fs::sync_dir(staging.path()).map_err(failed)?;
        staging.publish()?;
        fs::sync_dir(&layout.snapshots()).map_err(failed)?;
        Snapshot::load(layout, manifest.id)
    }
}

/// A snapshot that cannot be used, only removed.
#[derive(Debug)]
pub struct DamagedSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whether it is known to have no name.
    pub is_nameless: bool,
    /// Bytes that it uses on the disk.
    pub disk_bytes: u64,
    /// What is wrong with it.
    pub error: Error,
}

/// Bytes that the files of a directory use on the disk, as far as they can be looked at.
fn files_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| cofferdam_disk::allocated_bytes(&file.path()).ok())
        .sum()
}

fn ids(layout: &Layout) -> Result<Vec<SnapshotId>> {
    let dir = layout.snapshots();
    let entries = std::fs::read_dir(&dir)
        .map_err(|error| io(format!("Could not read `{}`", dir.display()), error))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

fn find_by_name(layout: &Layout, name: &str) -> Result<Option<SnapshotId>> {
    let named = |id: &SnapshotId| name_of(layout, *id).flatten().as_deref() == Some(name);
    Ok(ids(layout)?.into_iter().find(named))
}

/// The name of a snapshot, if it has one, also of one that is damaged; `None` where that cannot be
/// told.
fn name_of(layout: &Layout, id: SnapshotId) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
    }
    let manifest = layout.snapshots().join(id.to_string()).join(MANIFEST);
    let named: Named = fs::read_json(&manifest, MAX_MANIFEST_BYTES).ok()?;
    Some(named.name)
}

fn find_id(layout: &Layout, name: &str) -> Result<SnapshotId> {
    if let Some(id) = find_by_name(layout, name)? {
        return Ok(id);
    }
    if name.is_empty() {
        return Err(missing(name));
    }
    let starts: Vec<_> = ids(layout)?
        .into_iter()
        .filter(|id| id.to_string().starts_with(name))
        .collect();
    match starts.as_slice() {
        [] => Err(missing(name)),
        [id] => Ok(*id),
        _ => {
            let what = format!("More than one snapshot has an id that starts with `{name}`");
            Err(Error::new(ErrorKind::Ambiguous, what).hint("Give more digits"))
        }
    }
}

fn missing(name: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("There is no snapshot `{name}`"),
    )
    .hint("List them with `coffer snapshot list`")
}
