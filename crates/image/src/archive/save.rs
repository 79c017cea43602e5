//! Images of the store as an archive.
//!
//! Both forms are an OCI layout in a tar; Docker's has `manifest.json` beside it, which older
//! Docker reads. Layers are written as they are stored, so that ids and digests survive.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
};

use cofferdam_types::Digest;
use tar::{Builder, EntryType, Header};

use super::{
    SaveFormat,
    docker::{DockerEntry, MANIFEST},
    oci::{CONTAINERD_NAME, INDEX, LAYOUT, LAYOUT_CONTENT, REF_NAME},
};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    go_json::Lenient,
    layer::{Compression, MAGIC_BYTES},
    manifest::{Descriptor, Index, Manifest},
    media,
    reference::Reference,
    store::{
        ImageStore,
        index::{Found, Index as StoreIndex, Record},
        preferred,
    },
};

/// Everything that goes into an archive, opened before the first byte is written: what is removed
/// from the store meanwhile can still be read, and a missing image leaves no half archive.
#[derive(Default)]
struct Plan {
    blobs: BTreeMap<Digest, Blob>,
    index: Vec<Descriptor>,
    docker: Vec<DockerEntry>,
}

enum Blob {
    File(File, u64),
    Bytes(Vec<u8>),
}

impl ImageStore {
    /// Writes the images that `names` mean, for the host's platform where they have several. As
    /// in Docker, a repository alone means all its tags, and an image by its id has no name.
    ///
    /// # Errors
    /// `NotFound` and `InvalidReference` before anything is written; `Io`, `NoSpace` or
    /// `Permission` of `out`.
    ///
    /// # Blocking
    /// As long as `out` takes.
    pub fn save(&self, names: &[String], format: SaveFormat, out: &mut dyn Write) -> Result<()> {
        let index = StoreIndex::read(&self.layout)?;
        let mut plan = Plan::default();
        for name in names {
            for (record, references) in meant(name, &index)? {
                self.add(&mut plan, record, references, format)?;
            }
        }
        plan.write(format, out)
            .map_err(|error| host_error("Could not write the archive", error))
    }

    fn add(
        &self,
        plan: &mut Plan,
        record: &Record,
        references: Vec<String>,
        format: SaveFormat,
    ) -> Result<()> {
        let stored = self.document(&record.manifest)?;
        let parsed = Manifest::parse(&stored)?;
        let (bytes, manifest) = match format {
            SaveFormat::Oci => self.as_oci(stored, parsed)?,
            SaveFormat::Docker => (stored, parsed),
        };
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let file = self.open_blob(&blob.digest)?;
            plan.blobs.insert(blob.digest, Blob::File(file, blob.size));
        }
        let digest = sha256(&bytes);
        let kind = match manifest.media_type.as_str() {
            "" => media::OCI_MANIFEST,
            named => named,
        };
        let mut entry = Descriptor::new(kind, digest, bytes.len() as u64);
        entry.platform = Lenient(Some((&record.platform).into()));
        plan.blobs.insert(digest, Blob::Bytes(bytes));
        if references.is_empty() {
            plan.index.push(entry.clone());
        }
        let mut repo_tags = Vec::new();
        for full in references {
            let reference: Reference = full.parse()?;
            let tag = reference.tag().unwrap_or_default().to_owned();
            let notes = [
                (CONTAINERD_NAME.to_owned(), full),
                (REF_NAME.to_owned(), tag),
            ];
            plan.index.push(Descriptor {
                annotations: Lenient(Some(notes.into())),
                ..entry.clone()
            });
            repo_tags.push(reference.familiar());
        }
        plan.docker(&manifest, repo_tags);
        Ok(())
    }
}

/// The images that `name` means, and the names that each is saved under.
fn meant<'a>(name: &str, index: &'a StoreIndex) -> Result<Vec<(&'a Record, Vec<String>)>> {
    if Reference::is_repository(name) {
        let repository = name.parse::<Reference>()?.name();
        let mut found = Vec::new();
        for full in index.references.keys() {
            if full
                .parse::<Reference>()
                .is_ok_and(|other| other.name() == repository)
            {
                found.push((preferred(full, index)?, vec![full.clone()]));
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let record = preferred(name, index)?;
    Ok(vec![match index.find(name)? {
        Found::Reference(full, _) => (record, vec![full]),
        Found::Digest(_) => (record, Vec::new()),
    }])
}

impl Plan {
    /// Lists an image in `manifest.json`; one image with two names is one entry with two tags.
    fn docker(&mut self, manifest: &Manifest, repo_tags: Vec<String>) {
        let name = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let config = name(&manifest.config.digest);
        if let Some(entry) = self.docker.iter_mut().find(|entry| entry.config == config) {
            if !repo_tags.is_empty() {
                entry.repo_tags.get_or_insert_default().extend(repo_tags);
            }
            return;
        }
        let layers = manifest
            .layers
            .iter()
            .map(|layer| name(&layer.digest))
            .collect();
        self.docker.push(DockerEntry {
            config,
            // As Docker has it for an image without a name.
            repo_tags: (!repo_tags.is_empty()).then_some(repo_tags),
            layers,
        });
    }

    fn write(self, format: SaveFormat, out: &mut dyn Write) -> std::io::Result<()> {
        let mut tar = Builder::new(out);
        for dir in ["blobs/", "blobs/sha256/"] {
            append(
                &mut tar,
                dir,
                EntryType::Directory,
                0,
                &mut std::io::empty(),
            )?;
        }
        for (digest, blob) in self.blobs {
            let path = format!("blobs/sha256/{}", digest.hex());
            match blob {
                Blob::Bytes(bytes) => append_file(&mut tar, &path, &bytes)?,
                Blob::File(file, size) => {
                    append(
                        &mut tar,
                        &path,
                        EntryType::Regular,
                        size,
                        &mut ExactSize { file, left: size },
                    )?;
                }
            }
        }
        let index = Index::new(self.index);
        append_file(&mut tar, INDEX, &serde_json::to_vec(&index)?)?;
        if format == SaveFormat::Docker {
            append_file(&mut tar, MANIFEST, &serde_json::to_vec(&self.docker)?)?;
        }
        append_file(&mut tar, LAYOUT, LAYOUT_CONTENT.as_bytes())?;
        tar.into_inner()?.flush()
    }
}

fn append_file(
    tar: &mut Builder<&mut dyn Write>,
    path: &str,
    mut content: &[u8],
) -> std::io::Result<()> {
    append(
        tar,
        path,
        EntryType::Regular,
        content.len() as u64,
        &mut content,
    )
}

/// One entry, the same for the same content: no time, no owner.
fn append(
    tar: &mut Builder<&mut dyn Write>,
    path: &str,
    kind: EntryType,
    size: u64,
    content: &mut dyn Read,
) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    tar.append_data(&mut header, path, content)
}

/// A blob of the size that the header promised, or an error: never a shorter entry.
struct ExactSize {
    file: File,
    left: u64,
}

impl Read for ExactSize {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = (&mut self.file).take(self.left).read(buffer)?;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(std::io::Error::other(
                "a blob of the store is shorter than it was",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl ImageStore {
    /// A manifest with OCI's media types: tools for layouts know no others. The layers and the
    /// config keep their digests, and so the image its id.
    fn as_oci(&self, stored: Vec<u8>, mut manifest: Manifest) -> Result<(Vec<u8>, Manifest)> {
        let layers_are = |manifest: &Manifest| {
            let mut layers = manifest.layers.iter();
            layers.all(|layer| {
                layer
                    .media_type
                    .starts_with("application/vnd.oci.image.layer.")
            })
        };
        if media::is_oci_config(&manifest.config.media_type)
            && !media::is_docker_manifest(&manifest.media_type)
            && layers_are(&manifest)
        {
            return Ok((stored, manifest));
        }
        manifest.schema_version = 2;
        manifest.media_type = media::OCI_MANIFEST.to_owned();
        manifest.config.media_type = media::OCI_CONFIG.to_owned();
        for layer in &mut manifest.layers {
            let compression = match media::named_compression(&layer.media_type) {
                Some(named) => named,
                None => self.sniff(&layer.digest)?,
            };
            media::layer_type(compression).clone_into(&mut layer.media_type);
        }
        let bytes = serde_json::to_vec(&manifest).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "The image's manifest cannot be written").because(error)
        })?;
        Ok((bytes, manifest))
    }

    fn sniff(&self, blob: &Digest) -> Result<Compression> {
        let mut start = Vec::new();
        self.open_blob(blob)?
            .take(MAGIC_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(|error| host_error("Could not read a layer", error))?;
        Ok(Compression::sniff(&start))
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_sha256(sha2::Sha256::digest(bytes).into())
}
