//! Snapshots: sandboxes as they were at one moment, kept until removed.
//!
//! ```text
//! snapshots/<id>/   manifest.json, upper.ext4; of a full one also memory and state
//! ```
//! A directory appears whole, by the rename of a staging directory, and disappears by the rename
//! to another. Nothing in it is trusted on load: see [`Snapshot::load`].
//!
//! [`create`] takes one, [`catalogue`] finds and removes them, [`moment`] makes sandboxes of them
//! (restore: the same; fork: new ones), [`transfer`] moves them between stores.

mod capture;
mod captured;
mod catalogue;
mod changes;
mod content;
mod create;
mod fit;
mod fork;
mod restore;
mod transfer;
mod watcher;

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cofferdam_backend::SnapshotFiles;
use cofferdam_base::fs;
use cofferdam_image::ImageStore;
use cofferdam_types::{CpuCount, SnapshotId};

pub use self::{
    catalogue::DamagedSnapshot,
    changes::ForkChanges,
    create::SnapshotOptions,
    fork::{ForkOptions, ForkSource, Forked},
    watcher::Watcher,
};
use crate::{
    base::error::{Error, ErrorKind, Result, io},
    store::{
        RECORD_VERSION, Store,
        layout::Layout,
        snapshot::{
            FORMAT_VERSION, SnapshotFile, SnapshotFileName, SnapshotKind, SnapshotManifest,
            machine_files,
        },
    },
    template::MachineShape,
};

/// A manifest holds one sandbox's record and a few lines.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;

const MANIFEST: &str = "manifest.json";

/// What is done with the snapshots of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshots<'a> {
    pub(crate) store: &'a Store,
    pub(crate) images: &'a ImageStore,
}

/// A snapshot of this store.
#[derive(Clone, Debug)]
pub struct Snapshot {
    dir: PathBuf,
    /// What it says of itself.
    pub manifest: SnapshotManifest,
    /// Whether it is the disk of a full snapshot, whose directory has more.
    is_part: bool,
}

impl Snapshot {
    /// Reads the snapshot of an id: its manifest, and that its files have the lengths that they
    /// had. Their content is checked by [`Self::verify`], which reads all of it, and the device
    /// state whenever it is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::BadSnapshot`].
    pub(crate) fn load(layout: &Layout, id: SnapshotId) -> Result<Self> {
        let dir = layout.snapshots().join(id.to_string());
        let manifest: SnapshotManifest = fs::read_json(&dir.join(MANIFEST), MAX_MANIFEST_BYTES)
            .map_err(|error| {
                let may_be_sound = error.kind() == std::io::ErrorKind::PermissionDenied;
                let what = "has no manifest that can be read";
                let unreadable = bad(&id.short(), what).because(error);
                if may_be_sound {
                    return unreadable;
                }
                unreadable.hint(format!(
                    "Remove it with `coffer snapshot rm {}`",
                    id.short()
                ))
            })?;
        let snapshot = Self {
            dir,
            manifest,
            is_part: false,
        };
        check_manifest(&snapshot.manifest)?;
        if snapshot.manifest.id != id {
            return Err(bad(&id.short(), "has the manifest of another"));
        }
        for file in &snapshot.manifest.files {
            let length = std::fs::metadata(snapshot.file(file.name)).map(|meta| meta.len());
            if !length.is_ok_and(|length| length == file.bytes) {
                let what = format!(
                    "has a file `{}` that is missing or of another size",
                    file.name.as_str()
                );
                let label = snapshot.label();
                let hint = format!("Remove it with `coffer snapshot rm {label}`");
                return Err(bad(&label, &what).hint(hint));
            }
        }
        Ok(snapshot)
    }

    /// The disk of a full snapshot by itself, for hosts that cannot continue its machine. It is as
    /// after a power cut: what was only in memory is not on it.
    #[must_use]
    pub fn disk_only(&self) -> Self {
        let mut part = self.clone();
        if part.manifest.kind == SnapshotKind::Disk {
            return part;
        }
        let kind = SnapshotKind::Disk;
        part.manifest.kind = kind;
        part.manifest.backend = None;
        part.manifest.compatibility = None;
        part.manifest
            .files
            .retain(|file| kind.files().contains(&file.name));
        part.is_part = true;
        part
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: SnapshotFileName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Its name, or the start of its id.
    #[must_use]
    pub fn label(&self) -> String {
        let short = || self.manifest.id.short();
        self.manifest.name.clone().unwrap_or_else(short)
    }

    /// Bytes that it uses on the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn disk_bytes(&self) -> Result<u64> {
        self.manifest.files.iter().try_fold(0, |sum, file| {
            let bytes = cofferdam_disk::allocated_bytes(&self.file(file.name));
            Ok(sum + crate::base::error::lift(bytes)?)
        })
    }

    /// Reads all of its files and compares them with what was written.
    ///
    /// # Errors
    /// [`ErrorKind::BadSnapshot`] with the file that differs.
    ///
    /// # Blocking
    /// Reads all data: a second per gigabyte.
    pub fn verify(&self) -> Result<()> {
        self.manifest
            .files
            .iter()
            .try_for_each(|file| self.verify_file(file))
    }

    /// Reads those of its files that were written to after it was published, which nobody has a
    /// reason to do, and compares them with what was written then.
    ///
    /// # Errors
    /// [`ErrorKind::BadSnapshot`] with the file that differs.
    pub(crate) async fn expect_untouched(&self) -> Result<()> {
        let snapshot = self.clone();
        let verified = tokio::task::spawn_blocking(move || snapshot.verify_touched()).await;
        verified.map_err(|error| Error::new(ErrorKind::Bug, "A task was lost").because(error))?
    }

    fn verify_touched(&self) -> Result<()> {
        // The manifest is the last file of a snapshot that is written, when all others have been
        // read again for it; a file system's clock may stand still for some milliseconds.
        let manifest = self.dir.join(MANIFEST);
        let published = modified(&manifest)?;
        let mut touched = Vec::new();
        for file in &self.manifest.files {
            if modified(&self.file(file.name))? >= published {
                touched.push(file);
            }
        }
        touched.iter().try_for_each(|file| self.verify_file(file))?;
        if !touched.is_empty() {
            // As in a copy of a store, whose files come in any order: once is enough. Where it
            // cannot be noted, the next does it again.
            let _ = File::open(&manifest).and_then(|file| file.set_modified(SystemTime::now()));
        }
        Ok(())
    }

    /// Reads the device state alone, which is small, and compares it with what was written.
    pub(crate) fn verify_state(&self) -> Result<()> {
        let mut files = self.manifest.files.iter();
        let state = files.find(|file| file.name == SnapshotFileName::State);
        state.map_or(Ok(()), |file| self.verify_file(file))
    }

    fn verify_file(&self, file: &SnapshotFile) -> Result<()> {
        let path = self.file(file.name);
        let (digest, bytes) = content::digest(&path)
            .map_err(|error| io(format!("Could not read `{}`", path.display()), error))?;
        if (digest, bytes) == (file.digest, file.bytes) {
            return Ok(());
        }
        let what = format!("has a file `{}` that was changed", file.name.as_str());
        Err(bad(&self.label(), &what).hint("Remove it and take another"))
    }

    /// Memory and devices; none of a disk's snapshot.
    pub(crate) fn machine_files(&self) -> Option<SnapshotFiles> {
        (self.manifest.kind == SnapshotKind::Full).then(|| machine_files(&self.dir))
    }
}

fn modified(path: &Path) -> Result<SystemTime> {
    std::fs::metadata(path)
        .and_then(|meta| meta.modified())
        .map_err(|error| io(format!("Could not look at `{}`", path.display()), error))
}

/// Refuses a manifest that contradicts itself.
pub(crate) fn check_manifest(manifest: &SnapshotManifest) -> Result<()> {
    let label = manifest.id.short();
    if manifest.format > FORMAT_VERSION {
        let what = format!(
            "has form {}, this version knows {FORMAT_VERSION}",
            manifest.format
        );
        return Err(bad(&label, &what).hint("Use a newer Cofferdam"));
    }
    if manifest.format < FORMAT_VERSION {
        let what = format!("has form {}, which never was", manifest.format);
        return Err(bad(&label, &what));
    }
    let mut names: Vec<_> = manifest.files.iter().map(|file| file.name).collect();
    names.sort_unstable();
    if names != manifest.kind.files() {
        return Err(bad(&label, "does not have the files of its kind"));
    }
    if let Some(name) = manifest
        .name
        .as_deref()
        .filter(|name| !cofferdam_types::valid_name(name))
    {
        return Err(bad(
            &label,
            &format!("has the name `{}`", name.escape_debug()),
        ));
    }
    let sandbox = &manifest.sandbox;
    let names = [&sandbox.name, &sandbox.hostname];
    if sandbox.version != RECORD_VERSION
        || !names.iter().all(|name| cofferdam_types::valid_name(name))
    {
        return Err(bad(&label, "is of a sandbox that cannot be"));
    }
    crate::host::admission::possible(&sandbox.spec)
        .map_err(|error| bad(&label, "is of a sandbox that cannot be").because(error))?;
    if !(1..=CpuCount::MAX_VCPUS).contains(&sandbox.spec.cpus.vcpus()) {
        return Err(bad(
            &label,
            "is of a sandbox with too many or no processors",
        ));
    }
    let shape = MachineShape::of(&sandbox.spec, sandbox.image.disk_bytes);
    for file in &manifest.files {
        let wanted = match file.name {
            SnapshotFileName::Memory => u64::from(shape.memory_mib) << 20,
            SnapshotFileName::Upper => shape.upper_bytes,
            // As long as the devices make it; its content is checked when it is loaded.
            SnapshotFileName::State => continue,
        };
        if file.bytes != wanted {
            let what = format!(
                "has a file `{}` of {} bytes; its sandbox has {wanted}",
                file.name.as_str(),
                file.bytes
            );
            return Err(bad(&label, &what));
        }
    }
    Ok(())
}

pub(crate) fn bad(label: &str, what: &str) -> Error {
    Error::new(ErrorKind::BadSnapshot, format!("Snapshot `{label}` {what}"))
}
