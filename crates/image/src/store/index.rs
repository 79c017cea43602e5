//! The index: every image and every name, in one small file that is replaced whole.
//!
//! Readers take no lock: they see the old or the new file. Writers hold `index.lock` from the
//! reading to the replacing. Blobs and root file systems appear before the index names them and
//! go after it has forgotten them.
//! Lock order: `index.lock` is the innermost lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use cofferdam_base::{
    LockFile,
    fs::{publish_json, read_json},
};
use cofferdam_types::{Digest, Platform};
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::{
    error::{Error, ErrorKind, Result, host_error, path_error},
    reference::Reference,
};

/// Version of the file's format.
const VERSION: u32 = 1;
/// Largest index, in bytes: some 50,000 images.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Fewest digits of an id that name it.
const ID_PREFIX_DIGITS_MIN: usize = 4;

/// One image of the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
    pub(crate) added_ns: u64,
    pub(crate) size_bytes: u64,
    /// `repository@digest`, of the manifest and of the index that it was chosen from.
    pub(crate) repo_digests: BTreeSet<String>,
    /// Layers, bottom first; with `id` and `manifest`, all blobs of the image.
    pub(crate) layers: Vec<Digest>,
    pub(crate) rootfs: Option<RootfsRecord>,
}

/// What is known of a built root file system.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct RootfsRecord {
    pub(crate) entries: u64,
    pub(crate) data_bytes: u64,
    pub(crate) image_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Record {
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        [self.id, self.manifest]
            .into_iter()
            .chain(self.layers.iter().copied())
    }
}

/// The content of `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    pub(crate) images: Vec<Record>,
    /// Full reference to manifests, one for each platform.
    pub(crate) references: BTreeMap<String, Vec<Digest>>,
}

/// Whether a file could be read, and what it says not.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// How a name found its images.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// By this full reference; one image for each platform.
    Reference(String, Vec<&'a Record>),
    /// By id, prefix of it, manifest digest or `repository@digest`.
    Digest(Vec<&'a Record>),
}

impl<'a> Found<'a> {
    pub(crate) fn records(&self) -> &[&'a Record] {
        match self {
            Self::Reference(_, records) | Self::Digest(records) => records,
        }
    }
}

impl Index {
    /// Reads the index; there is none before the first image.
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let path = layout.index();
        let index: Self = match read_json(&path, INDEX_BYTES_MAX) {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    version: VERSION,
                    images: Vec::new(),
                    references: BTreeMap::new(),
                });
            }
            Err(error) if is_damage(&error) => {
                let what = format!("The index of images `{}` is damaged", path.display());
                return Err(Error::new(ErrorKind::Corrupt, what).because(error).hint(
                    "Remove the file, then pull or load the images again; sandboxes need theirs",
                ));
            }
            Err(error) => return Err(path_error("read the image index", &path)(error)),
        };
        if index.version != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "The image store has format `{}`; this program knows `{VERSION}`",
                    index.version
                ),
            )
            .hint("Use the program that made the store, or another store with `COFFER_HOME`"));
        }
        Ok(index)
    }

    pub(crate) fn record(&self, manifest: &Digest) -> Option<&Record> {
        self.images
            .iter()
            .find(|record| record.manifest == *manifest)
    }

    /// Full references of an image, sorted.
    pub(crate) fn references_of(&self, manifest: &Digest) -> Vec<String> {
        self.references
            .iter()
            .filter(|(_, targets)| targets.contains(manifest))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Adds an image, or adds to what is known of it.
    pub(crate) fn add(&mut self, new: Record) {
        match self
            .images
            .iter_mut()
            .find(|record| record.manifest == new.manifest)
        {
            Some(old) => {
                old.repo_digests.extend(new.repo_digests);
                old.rootfs = old.rootfs.or(new.rootfs);
            }
            None => self.images.push(new),
        }
    }

    /// Lets `reference` name the image with `manifest` for that image's platform.
    pub(crate) fn name(&mut self, reference: &str, manifest: Digest) {
        let platform_of = |digest: &Digest| {
            self.images
                .iter()
                .find(|r| r.manifest == *digest)
                .map(|r| &r.platform)
        };
        let platform = platform_of(&manifest);
        let mut targets = self.references.get(reference).cloned().unwrap_or_default();
        targets.retain(|old| platform_of(old).is_some_and(|p| Some(p) != platform));
        targets.push(manifest);
        self.references.insert(reference.to_owned(), targets);
    }

    /// Takes the name from one image; whether no image of another platform keeps it.
    pub(crate) fn unname(&mut self, reference: &str, manifest: &Digest) -> bool {
        let Some(targets) = self.references.get_mut(reference) else {
            return false;
        };
        targets.retain(|target| target != manifest);
        let is_gone = targets.is_empty();
        if is_gone {
            self.references.remove(reference);
        }
        is_gone
    }

    /// Removes a record and what names it.
    pub(crate) fn forget(&mut self, manifest: &Digest) {
        self.images.retain(|record| record.manifest != *manifest);
        for targets in self.references.values_mut() {
            targets.retain(|target| target != manifest);
        }
        self.references.retain(|_, targets| !targets.is_empty());
    }

    /// The images that `name` means; empty when there is none.
    ///
    /// As Docker does, a name is taken for a full id, then a reference, then a prefix of an id.
    pub(crate) fn find(&self, name: &str) -> Result<Found<'_>> {
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if let Ok(digest) = format!("sha256:{digits}").parse::<Digest>() {
            return Ok(Found::Digest(self.by_digest(&digest)));
        }
        let parsed = if name.starts_with("sha256:") {
            None
        } else {
            Some(name.parse::<Reference>())
        };
        if let Some(Ok(reference)) = &parsed {
            let found = self.by_reference(reference);
            if !found.records().is_empty() {
                return Ok(found);
            }
        }
        if is_hex && digits.len() >= ID_PREFIX_DIGITS_MIN {
            return Ok(Found::Digest(self.by_prefix(name, digits)?));
        }
        match parsed {
            Some(Err(error)) => Err(error),
            _ => Ok(Found::Digest(Vec::new())),
        }
    }

    fn by_digest(&self, digest: &Digest) -> Vec<&Record> {
        self.images
            .iter()
            .rev()
            .filter(|r| r.id == *digest || r.manifest == *digest)
            .collect()
    }

    fn by_reference(&self, reference: &Reference) -> Found<'_> {
        if let Some(digest) = reference.digest() {
            let name = reference.name();
            let full = format!("{name}@{digest}");
            let has = |r: &&Record| {
                r.repo_digests.contains(&full)
                    || (r.manifest == digest
                        && self.references_of(&digest).iter().any(|other| {
                            other
                                .rsplit_once(':')
                                .is_some_and(|(other, _)| other == name)
                        }))
            };
            return Found::Digest(self.images.iter().rev().filter(has).collect());
        }
        let full = reference.to_string();
        let targets = self
            .references
            .get(&full)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let records = targets
            .iter()
            .rev()
            .filter_map(|target| self.record(target))
            .collect();
        Found::Reference(full, records)
    }

    fn by_prefix(&self, name: &str, digits: &str) -> Result<Vec<&Record>> {
        let found: Vec<&Record> = self
            .images
            .iter()
            .rev()
            .filter(|record| record.id.hex().starts_with(digits))
            .collect();
        if found.iter().any(|record| record.id != found[0].id) {
            return Err(Error::new(
                ErrorKind::InvalidReference,
                format!("`{name}` is the beginning of several image ids"),
            )
            .hint("Give more digits"));
        }
        Ok(found)
    }

    /// Every blob that an image has.
    pub(crate) fn live_blobs(&self) -> BTreeSet<Digest> {
        self.images.iter().flat_map(Record::blobs).collect()
    }
}

/// The index with the right to change it.
#[derive(Debug)]
pub(crate) struct LockedIndex<'a> {
    layout: &'a Layout,
    pub(crate) index: Index,
    _lock: LockFile,
}

impl<'a> LockedIndex<'a> {
    /// # Blocking
    /// Until other writers are done; each takes milliseconds.
    pub(crate) fn take(layout: &'a Layout) -> Result<Self> {
        let path = layout.index_lock();
        let lock = LockFile::exclusive(&path).map_err(path_error("lock", &path))?;
        let index = Index::read(layout)?;
        Ok(Self {
            layout,
            index,
            _lock: lock,
        })
    }

    /// Makes the changes visible.
    pub(crate) fn publish(&self) -> Result<()> {
        publish_json(&self.layout.index(), &self.index, true)
            .map_err(|error| host_error("Could not write the image index", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8, platform: &str) -> Record {
        Record {
            id: Digest::from_sha256([n; 32]),
            manifest: Digest::from_sha256([n ^ 0xf0; 32]),
            platform: platform.parse().unwrap(),
            created: None,
            added_ns: 0,
            size_bytes: 0,
            repo_digests: BTreeSet::new(),
            layers: Vec::new(),
            rootfs: None,
        }
    }

    fn index() -> Index {
        let mut index = Index {
            version: VERSION,
            images: Vec::new(),
            references: BTreeMap::new(),
        };
        for (n, platform) in [(1, "linux/amd64"), (2, "linux/arm64"), (3, "linux/amd64")] {
            index.add(record(n, platform));
        }
        index
    }

    #[test]
    fn a_name_holds_one_image_for_each_platform_and_moves_within_one() {
        let mut index = index();
        let manifests: Vec<Digest> = index.images.iter().map(|r| r.manifest).collect();
        for manifest in &manifests {
            index.name("docker.io/library/a:latest", *manifest);
        }
        let found = index.find("a").unwrap();
        let ids: Vec<Digest> = found.records().iter().map(|r| r.manifest).collect();
        assert_eq!(ids, [manifests[2], manifests[1]]);
        assert!(index.references_of(&manifests[0]).is_empty());
    }

    #[test]
    fn ids_prefixes_and_manifests_find_their_image() {
        let index = index();
        let id = index.images[1].id;
        for name in [
            id.to_string(),
            id.hex(),
            id.short(),
            id.hex()[..4].to_owned(),
            format!("sha256:{}", id.short()),
            index.images[1].manifest.to_string(),
        ] {
            assert_eq!(index.find(&name).unwrap().records()[0].id, id, "{name}");
        }
        assert!(index.find("020").unwrap().records().is_empty());
    }

    #[test]
    fn a_prefix_of_two_ids_is_refused() {
        let mut index = index();
        let mut twin = record(9, "linux/amd64");
        let mut bytes = [1; 32];
        bytes[31] = 2;
        twin.id = Digest::from_sha256(bytes);
        index.add(twin);
        assert_eq!(
            index.find("01010101").unwrap_err().kind(),
            ErrorKind::InvalidReference
        );
    }

    #[test]
    fn a_name_that_looks_like_an_id_wins_over_the_id() {
        let mut index = index();
        let (first, second) = (index.images[0].manifest, index.images[1].id);
        index.name("docker.io/library/02020202:latest", first);
        assert_eq!(index.find("02020202").unwrap().records()[0].manifest, first);
        assert_eq!(index.find("0202020202").unwrap().records()[0].id, second);
    }

    #[test]
    fn a_forgotten_image_leaves_no_name() {
        let mut index = index();
        let manifest = index.images[0].manifest;
        index.name("docker.io/library/a:latest", manifest);
        index.forget(&manifest);
        assert!(index.references.is_empty());
        assert!(index.find("a").unwrap().records().is_empty());
    }
}
