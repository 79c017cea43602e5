//! The image store: what `coffer images` lists and `coffer run` starts from.
//!
//! Any number of processes may use one store at once. Every change is one replaced index; a
//! process that is killed leaves nothing visible, and what it left on the disk goes with the next
//! change. [`ImageStore::resolve`] and [`ImageStore::rootfs`] are on the path of every start:
//! they read the index, one config and one file's size.

mod gc;
pub(crate) mod index;
pub(crate) mod ingest;
pub(crate) mod layout;
pub(crate) mod rootfs;
pub(crate) mod usage;

use std::{fs, path::Path};

use cofferdam_base::fs::read_bounded;
use cofferdam_types::{Digest, Platform};

use crate::{
    error::{Error, ErrorKind, Result, path_error},
    manifest::{DOCUMENT_BYTES_MAX, Manifest, parse_json, wrong_platform},
    model::{HistoryEntry, Image, ImageDetails, ImageSummary, RawConfig, RootFsDetails, Rootfs},
    reference::Reference,
};
use index::{Found, Index, LockedIndex, Record};
use layout::Layout;

/// A directory of images. Cheap to open and to clone.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) layout: Layout,
}

impl ImageStore {
    /// Opens the store below `root`, making it if it is not there, and removes what killed
    /// processes left.
    ///
    /// # Errors
    /// `Permission`, `NoSpace` or `Io` when a directory cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout::create(root)?;
        ingest::sweep(&layout);
        Ok(Self { layout })
    }

    /// The image that `name` means on `platform`, if the store has it. `name` is a reference, an
    /// image id or at least four digits of it, or `repository@digest`.
    ///
    /// A reference that the store has pulled for other platforms only is not found, so that a pull
    /// can bring the wanted one.
    ///
    /// # Errors
    /// `InvalidReference` when `name` can mean no image, or several; `PlatformMismatch` when it is
    /// that of an image for another platform, by an id or loaded from an archive.
    pub fn resolve(&self, name: &str, platform: &Platform) -> Result<Option<Image>> {
        let index = Index::read(&self.layout)?;
        let found = index.find(name)?;
        let records = found.records();
        if let Some(record) = best(records, platform) {
            return self.image(record).map(Some);
        }
        let Some(other) = records.first() else {
            return Ok(None);
        };
        let was_pulled = records.iter().any(|r| !r.repo_digests.is_empty());
        match found {
            Found::Reference(..) if was_pulled => Ok(None),
            _ => Err(wrong_platform(platform, &format!("`{}`", other.platform))),
        }
    }

    /// Gives an image one more name. The name moves if it was another's of the same platform.
    ///
    /// # Errors
    /// `NotFound`; `InvalidReference` when `new` has a digest; the file system's.
    pub fn tag(&self, name: &str, new: &Reference) -> Result<()> {
        if new.digest().is_some() {
            return Err(Error::new(
                ErrorKind::InvalidReference,
                format!("`{new}` has a digest, which no image can be given as a name"),
            )
            .hint("Leave out what follows `@`"));
        }
        if new.familiar_name() == "sha256" {
            return Err(Error::new(
                ErrorKind::InvalidReference,
                format!("`{new}` looks like an image id"),
            )
            .hint("Choose another name than `sha256`"));
        }
        let mut locked = LockedIndex::take(&self.layout)?;
        let manifests: Vec<Digest> = found(name, &locked.index.find(name)?)?
            .iter()
            .map(|r| r.manifest)
            .collect();
        // The newest is named last and so wins where two are for one platform.
        for manifest in manifests.into_iter().rev() {
            locked.index.name(&new.to_string(), manifest);
        }
        locked.publish()
    }

    /// Every image, newest first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let index = Index::read(&self.layout)?;
        let mut list: Vec<_> = index
            .images
            .iter()
            .map(|record| summary(&index, record))
            .collect();
        list.sort_by(|a, b| {
            b.added_ns
                .cmp(&a.added_ns)
                .then(a.manifest.cmp(&b.manifest))
        });
        Ok(list)
    }

    /// All about an image; where a name has several platforms, the host's if it is there.
    ///
    /// # Errors
    /// `NotFound`, `InvalidReference`; `Corrupt` when the store is damaged.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails> {
        let index = Index::read(&self.layout)?;
        let record = preferred(name, &index)?;
        let raw = self.document(&record.id)?;
        let config: RawConfig = parse_json(&raw, "image config")?;
        let short = |full: String| full.parse::<Reference>().map_or(full, |r| r.familiar());
        Ok(ImageDetails {
            id: record.id,
            manifest: record.manifest,
            repo_tags: index
                .references_of(&record.manifest)
                .into_iter()
                .map(short)
                .collect(),
            repo_digests: record.repo_digests.iter().cloned().map(short).collect(),
            created: config.created.0,
            author: config.author.0,
            architecture: record.platform.architecture().to_owned(),
            variant: record.platform.variant().map(str::to_owned),
            os: record.platform.os().to_owned(),
            size: record.size_bytes,
            config: config.config,
            root_fs: RootFsDetails {
                r#type: "layers",
                layers: config.rootfs.diff_ids,
            },
            rootfs_image: record.rootfs.map(|known| Rootfs {
                path: self.layout.rootfs(&record.manifest),
                disk_bytes: known.disk_bytes,
            }),
            raw_config: parse_json(&raw, "image config")?,
        })
    }

    /// How an image was made, newest step first.
    ///
    /// # Errors
    /// `NotFound`, `InvalidReference`; `Corrupt` when the store is damaged.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let index = Index::read(&self.layout)?;
        let record = preferred(name, &index)?;
        let config: RawConfig = parse_json(&self.document(&record.id)?, "image config")?;
        let manifest = Manifest::parse(&self.document(&record.manifest)?)?;
        let mut layers = manifest.layers.iter();
        let mut history: Vec<HistoryEntry> = config
            .history
            .into_iter()
            .map(|step| step.0.unwrap_or_default())
            .map(|step| HistoryEntry {
                id: None,
                created: step.created,
                created_by: step.created_by,
                size_bytes: if step.empty_layer {
                    0
                } else {
                    layers.next().map_or(0, |l| l.size)
                },
                comment: step.comment,
            })
            .collect();
        // Some builders write no history, or less than there are layers.
        history.extend(layers.map(|layer| HistoryEntry {
            id: None,
            created: None,
            created_by: String::new(),
            size_bytes: layer.size,
            comment: String::new(),
        }));
        history.reverse();
        if let Some(newest) = history.first_mut() {
            newest.id = Some(record.id);
        }
        Ok(history)
    }

    fn image(&self, record: &Record) -> Result<Image> {
        let config: RawConfig = parse_json(&self.document(&record.id)?, "image config")?;
        Ok(Image {
            id: record.id,
            manifest: record.manifest,
            platform: record.platform.clone(),
            config: config.config,
        })
    }

    /// Reads a manifest or a config of the store.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.layout.blob(digest);
        read_bounded(&path, DOCUMENT_BYTES_MAX).map_err(path_error("read the blob", &path))
    }

    /// Opens a blob of the store.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<fs::File> {
        let path = self.layout.blob(digest);
        fs::File::open(&path).map_err(path_error("read the blob", &path))
    }
}

/// The one image that `name` means here: the host's platform before others.
pub(crate) fn preferred<'a>(name: &str, index: &'a Index) -> Result<&'a Record> {
    let found_records = index.find(name)?;
    let records = found(name, &found_records)?;
    Ok(best(records, &Platform::host()).unwrap_or(records[0]))
}

/// The record that fits `platform` best; the newest of equals.
fn best<'a>(records: &[&'a Record], platform: &Platform) -> Option<&'a Record> {
    let ranked = records
        .iter()
        .filter_map(|record| Some((record.platform.rank_on(platform)?, *record)));
    ranked
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, record)| record)
}

fn found<'a, 'b>(name: &str, found: &'b Found<'a>) -> Result<&'b [&'a Record]> {
    match found.records() {
        [] => Err(not_found(name)),
        records => Ok(records),
    }
}

pub(crate) fn not_found(name: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("There is no image `{name}` in the store"),
    )
    .hint("List those that are there with `coffer images`")
}

fn summary(index: &Index, record: &Record) -> ImageSummary {
    ImageSummary {
        id: record.id,
        manifest: record.manifest,
        references: index.references_of(&record.manifest),
        repo_digests: record.repo_digests.iter().cloned().collect(),
        platform: record.platform.clone(),
        created: record.created.clone(),
        added_ns: record.added_ns,
        size_bytes: record.size_bytes,
        rootfs_bytes: record.rootfs.map(|known| known.image_bytes),
    }
}
