//! Archives into the store.
//!
//! One pass over the archive, one write of each blob; then the root file system; then all images
//! of the archive get their names in one step, or none does.

use std::{fs::File, path::PathBuf};

use cofferdam_base::{fs::read_bounded, time::unix_time_ns};
use cofferdam_types::{Digest, Platform};

use super::{
    LoadSource, docker,
    oci::{self, Candidate, check_document_size},
    spool::Spool,
};
use crate::{
    error::{Error, ErrorKind, Result, host_error, path_error},
    manifest::{DOCUMENT_BYTES_MAX, check_config, wrong_platform},
    model::{Image, LoadedImage},
    progress::{Phase, Progress, ProgressEvent},
    reference::Reference,
    store::{
        ImageStore,
        index::Record,
        ingest::{Ingest, NewImage, copy_blob, digest_mismatch},
        rootfs::{Cancel, build, layer_files},
    },
};

/// An archive whose files can be asked for by name.
#[derive(Debug)]
pub(crate) struct Archive<'a> {
    pub(crate) ingest: &'a Ingest,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Tar(Spool),
    Dir(PathBuf),
}

impl Archive<'_> {
    /// Digest and size of a file of a docker archive; it lies in the work directory.
    pub(crate) fn find(&self, name: &str) -> Result<Option<(Digest, u64)>> {
        match &self.content {
            Content::Tar(spool) => Ok(spool.find(name)),
            // Docker archives are tars; only layouts come as directories.
            Content::Dir(_) => Ok(None),
        }
    }

    /// A small file by its name.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = match &self.content {
            Content::Tar(spool) => match spool.find(name) {
                Some((digest, size)) => {
                    check_document_size(size)?;
                    self.ingest.blob(&digest)
                }
                None => return Ok(None),
            },
            Content::Dir(dir) => dir.join(name),
        };
        match read_bounded(&path, DOCUMENT_BYTES_MAX) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(path_error("read", &path)(error)),
        }
    }

    /// Brings a blob of a layout into the work directory; `false` when the layout lacks it.
    pub(crate) fn blob(&self, digest: &Digest, size: u64) -> Result<bool> {
        let name = format!("blobs/sha256/{}", digest.hex());
        let (found, found_size) = match &self.content {
            Content::Tar(spool) => match spool.find(&name) {
                Some(found) => found,
                None => return self.ingest.adopt(digest, size),
            },
            Content::Dir(_) if self.ingest.has(digest) || self.ingest.adopt(digest, size)? => {
                return Ok(true);
            }
            Content::Dir(dir) => {
                let path = dir.join(&name);
                let mut file = match File::open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(path_error("read", &path)(error)),
                };
                copy_blob(
                    self.ingest,
                    &mut file,
                    |e| path_error("read", &path)(e),
                    |_| {},
                )?
            }
        };
        if found != *digest {
            return Err(digest_mismatch("A blob of the archive", digest, &found));
        }
        if found_size != size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("The blob `{digest}` has {found_size} bytes, but its manifest says {size}"),
            ));
        }
        Ok(true)
    }

    /// A manifest or config of a layout.
    pub(crate) fn blob_document(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
        check_document_size(size)?;
        if !self.blob(digest, size)? {
            return Ok(None);
        }
        read_bounded(&self.ingest.blob(digest), DOCUMENT_BYTES_MAX)
            .map(Some)
            .map_err(|error| host_error("Could not read a blob", error))
    }

    fn candidates(&self) -> Result<Vec<Candidate>> {
        let list = self.document(docker::MANIFEST)?;
        if let (Some(index), true) = (
            self.document(oci::INDEX)?,
            self.document(oci::LAYOUT)?.is_some(),
        ) {
            let found = oci::candidates(self, &index)?;
            if !found.is_empty() || list.is_none() {
                return add_docker_names(found, list.as_deref());
            }
        }
        match (list, &self.content) {
            (Some(list), Content::Tar(_)) => docker::candidates(self, &list),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "There is no `manifest.json` of Docker's and no `index.json` of an OCI layout in it",
            )
            .hint("Write one with `docker save`, `podman save` or `skopeo copy`")),
        }
    }
}

/// Docker writes a layout with a `manifest.json` beside it, which has the names.
fn add_docker_names(mut found: Vec<Candidate>, list: Option<&[u8]>) -> Result<Vec<Candidate>> {
    let Some(list) = list else { return Ok(found) };
    let entries: Vec<docker::DockerEntry> =
        crate::manifest::parse_json(list, "archive's `manifest.json`")?;
    for candidate in &mut found {
        let config = candidate.manifest.config.digest.hex();
        let same = entries
            .iter()
            .filter(|entry| entry.config.contains(&config));
        candidate
            .names
            .extend(same.flat_map(|entry| entry.repo_tags.iter().flatten().cloned()));
    }
    Ok(found)
}

impl ImageStore {
    /// Reads the images of an archive that run on `platform`, builds their root file systems and
    /// names them as the archive does.
    ///
    /// # Errors
    /// `Corrupt`, `DigestMismatch`, `TooLarge` and `Unsupported` of the archive;
    /// `PlatformMismatch` when nothing in it runs on `platform`; `NotFound`, `Permission`,
    /// `NoSpace` and `Io` of the host. The store is then as it was.
    ///
    /// # Blocking
    /// As long as the source takes to give its bytes, and the building.
    pub fn load(
        &self,
        source: LoadSource,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>> {
        let ingest = Ingest::begin(&self.layout)?;
        let content = open(&ingest, source, progress)?;
        let archive = Archive {
            ingest: &ingest,
            content,
        };
        let mut candidates = archive.candidates()?;
        let offered: Vec<String> = candidates
            .iter()
            .map(|c| format!("`{}`", c.platform))
            .collect();
        candidates.retain(|candidate| candidate.platform.runs_on(platform));
        if candidates.is_empty() {
            return Err(wrong_platform(platform, &offered.join(", ")));
        }
        merge_names(&mut candidates);
        let mut images = Vec::new();
        let mut loaded = Vec::new();
        for candidate in candidates {
            for layer in &candidate.manifest.layers {
                if !archive.blob(&layer.digest, layer.size)? && !ingest.blob(&layer.digest).exists()
                {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("The archive lacks the layer `{}`", layer.digest),
                    ));
                }
            }
            let (image, references) = self.prepare(&ingest, candidate, progress)?;
            loaded.push(image);
            images.push(NewImage {
                record: references.0,
                references: references.1,
            });
        }
        ingest.commit(images)?;
        Ok(loaded)
    }

    fn prepare(
        &self,
        ingest: &Ingest,
        candidate: Candidate,
        progress: &dyn Progress,
    ) -> Result<(LoadedImage, (Record, Vec<String>))> {
        let Candidate {
            digest,
            manifest,
            config,
            names,
            ..
        } = candidate;
        let platform = check_config(&manifest, &config)?;
        let references = full_names(&names)?;
        let layers = layer_files(&manifest, &config, |digest| ingest.blob(digest));
        let built = build(
            layers,
            &ingest.rootfs(&digest),
            progress,
            &Cancel::default(),
        )?;
        let record = Record {
            id: manifest.config.digest,
            manifest: digest,
            platform: platform.clone(),
            created: config.created.clone(),
            added_ns: unix_time_ns(),
            size_bytes: manifest.content_bytes(),
            repo_digests: Default::default(),
            layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            rootfs: Some(built),
        };
        let image = Image {
            id: record.id,
            manifest: digest,
            platform,
            config: config.config,
        };
        Ok((
            LoadedImage {
                image,
                references: references.clone(),
            },
            (record, references),
        ))
    }
}

/// A layout lists an image once for each of its names.
fn merge_names(candidates: &mut Vec<Candidate>) {
    let mut merged: Vec<Candidate> = Vec::new();
    for candidate in candidates.drain(..) {
        match merged
            .iter_mut()
            .find(|other| other.digest == candidate.digest)
        {
            Some(other) => other.names.extend(candidate.names),
            None => merged.push(candidate),
        }
    }
    *candidates = merged;
}

fn full_names(names: &[String]) -> Result<Vec<String>> {
    let mut full = names
        .iter()
        .map(|name| {
            let reference: Reference = name.parse()?;
            Ok(reference.to_string())
        })
        .collect::<Result<Vec<_>>>()?;
    full.sort();
    full.dedup();
    Ok(full)
}

fn open(ingest: &Ingest, source: LoadSource, progress: &dyn Progress) -> Result<Content> {
    let path = match source {
        LoadSource::Reader(reader) => return tar(ingest, reader, None, progress),
        LoadSource::Path(path) => path,
    };
    let found = std::fs::metadata(&path).map_err(path_error("read", &path))?;
    if found.is_dir() {
        progress.event(ProgressEvent::Phase {
            phase: Phase::Reading,
            total_bytes: None,
        });
        return Ok(Content::Dir(path));
    }
    let file = File::open(&path).map_err(path_error("read", &path))?;
    tar(
        ingest,
        Box::new(file),
        found.is_file().then_some(found.len()),
        progress,
    )
}

fn tar(
    ingest: &Ingest,
    reader: Box<dyn std::io::Read + Send>,
    total_bytes: Option<u64>,
    progress: &dyn Progress,
) -> Result<Content> {
    let spool = Spool::read(ingest, reader, total_bytes, progress)?;
    if spool.is_empty() {
        return Err(Error::new(ErrorKind::Corrupt, "The archive is empty"));
    }
    Ok(Content::Tar(spool))
}
