//! What a store takes of the disk, by kind: what `coffer system df` shows.
//!
//! Sizes are what the disk gave, so that holes count nothing; what two names share counts once.
//! A figure is that of one moment and may be old when it is read.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cofferdam_image::ImageStore;
use cofferdam_types::{Digest, SandboxStatus};
use serde::Serialize;

use crate::{
    base::error::{Error, ErrorKind, Result, lift},
    pool::Pools,
    snapshot::Snapshots,
    store::{Store, layout::Layout},
    template::{self, TemplateKind, Templates},
};

/// Bytes of one block of `st_blocks`, stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// What a store takes of the disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskUsage {
    /// Images: layers as fetched, and the root file systems made of them.
    pub images: UsageClass,
    /// Sandboxes: their disks and their output.
    pub sandboxes: UsageClass,
    /// Templates that starts or users have made.
    pub templates: UsageClass,
    /// Snapshots.
    pub snapshots: UsageClass,
    /// Pools with their standbys.
    pub pools: UsageClass,
    /// Blank disks and findings that are made again when they are missing.
    pub cache_bytes: u64,
    /// Files that have no name any more and that machines or supervisors hold open: captured
    /// memory of forks and of templates that are gone. It is free when they end.
    pub held_open_bytes: u64,
    /// What all templates may take, in bytes; none without a limit.
    pub templates_limit_bytes: Option<u64>,
}

/// One kind of thing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UsageClass {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that `coffer prune --all` would free.
    pub reclaimable_bytes: u64,
    /// Each of them.
    pub items: Vec<UsageItem>,
}

/// One thing that takes room.
#[derive(Clone, Debug, Serialize)]
pub struct UsageItem {
    /// Its id or key.
    pub id: String,
    /// Its name for people; empty without one.
    pub name: String,
    /// Bytes of the disk. Images share layers: there it is what would be freed.
    pub size_bytes: u64,
    /// Whether something needs it: a sandbox that runs, an image that a sandbox uses.
    pub active: bool,
    /// Whether `coffer prune --all` would remove it.
    pub reclaimable: bool,
}

impl UsageClass {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.items.len()
    }

    /// How many something needs.
    #[must_use]
    pub fn active(&self) -> usize {
        self.items.iter().filter(|item| item.active).count()
    }

    /// Items that share nothing.
    fn of(items: Vec<UsageItem>) -> Self {
        let sum = |which: fn(&&UsageItem) -> bool| {
            items.iter().filter(which).map(|item| item.size_bytes).sum()
        };
        Self {
            size_bytes: sum(|_| true),
            reclaimable_bytes: sum(|item| item.reclaimable),
            items,
        }
    }
}

/// What takes room in a store, and what needs what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage<'a> {
    pub(crate) store: &'a Store,
    pub(crate) images: &'a ImageStore,
}

impl Usage<'_> {
    /// What the store takes of the disk.
    ///
    /// # Errors
    /// When a part of the store cannot be read.
    ///
    /// # Blocking
    /// One look at each file of the store and, for [`DiskUsage::held_open_bytes`], at each open
    /// file of the user's processes.
    pub(crate) fn of_disk(&self) -> Result<DiskUsage> {
        let layout = self.store.layout();
        Ok(DiskUsage {
            images: self.images_usage()?,
            sandboxes: self.sandboxes_usage()?,
            templates: self.templates_usage()?,
            snapshots: self.snapshots_usage()?,
            pools: pools_usage(self.pools(), layout),
            cache_bytes: bytes_below(&layout.cache()),
            held_open_bytes: held_open_bytes(layout.home()),
            templates_limit_bytes: template::limit_bytes()?,
        })
    }

    /// What sandbox or snapshot uses an image, for those who would remove it. Where that cannot be
    /// told, something does.
    pub(crate) fn image_user(&self, image: &Digest) -> Option<String> {
        let unknown = || Some("a sandbox or snapshot that cannot be read".to_owned());
        let (Ok(sandboxes), Ok(snapshots)) = (self.store.list(), self.snapshots().list()) else {
            return unknown();
        };
        let mut records = sandboxes.iter().map(|entry| &entry.record);
        if let Some(user) = records.find(|record| record.image.id == *image) {
            return Some(format!("the sandbox `{}`", user.name));
        }
        if let Some(pool) = self.pools().of_image(image) {
            return Some(format!(
                "the pool `{pool}` (remove it with `coffer pool rm {pool}`)"
            ));
        }
        let mut snapshots = snapshots.iter();
        if let Some(user) = snapshots.find(|found| found.manifest.sandbox.image.id == *image) {
            return Some(format!("the snapshot `{}`", user.label()));
        }
        // One of another version of this program is sound.
        let foreign = |error: &Error| error.kind() == ErrorKind::Unsupported;
        match self.store.damaged() {
            Ok(damaged) if !damaged.iter().any(foreign) => None,
            _ => unknown(),
        }
    }

    const fn templates(&self) -> Templates<'_> {
        Templates {
            store: self.store,
            images: self.images,
        }
    }

    const fn snapshots(&self) -> Snapshots<'_> {
        Snapshots {
            store: self.store,
            images: self.images,
        }
    }

    const fn pools(&self) -> Pools<'_> {
        Pools {
            store: self.store,
            images: self.images,
        }
    }

    fn images_usage(&self) -> Result<UsageClass> {
        let in_use = |id: &_| self.image_user(id).is_some();
        let usage = lift(self.images.usage(&in_use))?;
        let items = usage.images.into_iter().map(|image| UsageItem {
            id: image.id.to_string(),
            name: image.names.join(", "),
            size_bytes: image.unique_bytes,
            active: image.in_use,
            reclaimable: !image.in_use,
        });
        Ok(UsageClass {
            size_bytes: usage.size_bytes,
            reclaimable_bytes: usage.reclaimable_bytes,
            items: items.collect(),
        })
    }

    fn sandboxes_usage(&self) -> Result<UsageClass> {
        let layout = self.store.layout();
        let item = |entry: crate::store::Entry| {
            let status = entry.state.status;
            UsageItem {
                id: entry.record.id.to_string(),
                name: entry.record.name,
                size_bytes: bytes_below(&layout.sandbox(entry.record.id).dir),
                active: status.is_live(),
                reclaimable: matches!(status, SandboxStatus::Stopped | SandboxStatus::Failed),
            }
        };
        Ok(UsageClass::of(
            self.store.list()?.into_iter().map(item).collect(),
        ))
    }

    fn templates_usage(&self) -> Result<UsageClass> {
        let images = lift(self.images.list())?;
        let item = |info: crate::TemplateInfo| {
            let has_image = info
                .manifest
                .is_none_or(|manifest| images.iter().any(|image| image.manifest == manifest));
            // Those that somebody has built with commands stay as long as their image.
            let is_built = info.kind == TemplateKind::Workload || !info.commands.is_empty();
            UsageItem {
                name: info.image.unwrap_or_else(|| info.kind.to_string()),
                id: info.key,
                size_bytes: info.disk_bytes,
                active: has_image,
                reclaimable: !has_image || !is_built,
            }
        };
        Ok(UsageClass::of(
            self.templates().list()?.into_iter().map(item).collect(),
        ))
    }

    fn snapshots_usage(&self) -> Result<UsageClass> {
        let item = |snapshot: crate::Snapshot| UsageItem {
            id: snapshot.manifest.id.to_string(),
            name: snapshot.manifest.name.clone().unwrap_or_default(),
            size_bytes: bytes_below(snapshot.dir()),
            active: true,
            reclaimable: false,
        };
        Ok(UsageClass::of(
            self.snapshots().list()?.into_iter().map(item).collect(),
        ))
    }
}

fn pools_usage(pools: Pools<'_>, layout: &Layout) -> UsageClass {
    let item = |pool: crate::PoolInfo| UsageItem {
        size_bytes: bytes_below(&layout.pools().join(&pool.name)),
        id: pool.name.clone(),
        name: pool.name,
        active: true,
        reclaimable: false,
    };
    UsageClass::of(pools.list().into_iter().map(item).collect())
}

/// Bytes of the disk of a file or of all files below a directory; links count once. What goes
/// away meanwhile counts nothing.
fn bytes_below(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut pending: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.insert((found.dev(), found.ino())) {
            bytes += found.blocks() * STAT_BLOCK_BYTES;
        }
        if found.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

/// Bytes of the files below `home` that have no name any more and that a process of this user's
/// holds open. proc_pid_fd(5): such a link ends in ` (deleted)`.
fn held_open_bytes(home: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let is_process = |name: &std::ffi::OsStr| {
        name.to_str()
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|entry| is_process(&entry.file_name())) {
        let files = fs::read_dir(process.path().join("fd"));
        for file in files.into_iter().flatten().flatten() {
            let path = file.path();
            let Ok(target) = fs::read_link(&path) else {
                continue;
            };
            let is_deleted = target.to_string_lossy().ends_with(" (deleted)");
            if !is_deleted || !target.starts_with(home) {
                continue;
            }
            // Through the link: the open file itself.
            let Ok(found) = fs::metadata(&path) else {
                continue;
            };
            if found.nlink() == 0 && seen.insert((found.dev(), found.ino())) {
                bytes += found.blocks() * STAT_BLOCK_BYTES;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_holes_count_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        fs::hard_link(&file, dir.path().join("b")).unwrap();
        fs::File::create(dir.path().join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let bytes = bytes_below(dir.path());
        assert!((1 << 20..3 << 19).contains(&bytes), "{bytes}");
        assert_eq!(bytes_below(&dir.path().join("absent")), 0);
    }

    #[test]
    fn a_deleted_file_counts_as_long_as_it_is_open() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("memory");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = fs::File::open(&path).unwrap();
        assert_eq!(held_open_bytes(home.path()), 0);
        fs::remove_file(&path).unwrap();
        let held = held_open_bytes(home.path());
        assert!(held >= 1 << 20, "{held}");
        drop(file);
        assert_eq!(held_open_bytes(home.path()), 0);
    }
}
