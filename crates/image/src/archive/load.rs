//! Archives into the store.
//!
//! One pass over the archive, one write of each blob; then the root file system; then all images
//! of the archive get their names in one step, or none does.

use std::{collections::HashMap, fs::File, path::PathBuf};

use cofferdam_base::{fs::read_bounded, time::unix_time_ns};
use cofferdam_types::{Digest, Platform};

use super::{
    LoadSource, docker,
    oci::{self, Candidate, check_document_size, is_of_one_image},
    spool::Spool,
};
use crate::{
    error::{Error, ErrorKind, Result, host_error, path_error},
    manifest::{DOCUMENT_BYTES_MAX, shown, wrong_platform},
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

    /// The images in it, and why others that it lists are none of them.
    fn candidates(&self) -> Result<(Vec<Candidate>, Vec<Error>)> {
        let mut refusals = Vec::new();
        let index = self.document(oci::INDEX)?;
        let mut found = match &index {
            Some(index) => oci::candidates(self, index, &mut refusals)?,
            None => Vec::new(),
        };
        // Docker archives are tars; only layouts come as directories.
        let list = match &self.content {
            Content::Tar(_) => self.document(docker::MANIFEST)?,
            Content::Dir(_) => None,
        };
        for entry in list.as_deref().map_or(Ok(Vec::new()), docker::entries)? {
            self.add_docker_entry(&entry, &mut found, &mut refusals)?;
        }
        if found.is_empty() {
            let nothing = || {
                Error::new(
                    ErrorKind::Corrupt,
                    "There is no `manifest.json` of Docker's and no `index.json` of an OCI layout \
                     in it that lists an image",
                )
                .hint("Write one with `docker save`, `podman save` or `skopeo copy`")
            };
            return Err(refusals.pop().unwrap_or_else(nothing));
        }
        Ok((found, refusals))
    }

    /// Docker writes a layout with a `manifest.json` beside it, which has the names. What only
    /// that lists is an image too.
    fn add_docker_entry(
        &self,
        entry: &docker::DockerEntry,
        found: &mut Vec<Candidate>,
        refusals: &mut Vec<Error>,
    ) -> Result<()> {
        let mut is_known = false;
        for candidate in &mut *found {
            if entry.is_of(self, &candidate.manifest.config.digest)? {
                candidate
                    .names
                    .extend(entry.repo_tags.iter().flatten().cloned());
                is_known = true;
            }
        }
        if is_known {
            return Ok(());
        }
        match docker::candidate(self, entry) {
            Ok(candidate) => {
                found.push(candidate);
                // It is what the layout failed to give.
                refusals.pop();
            }
            Err(error) if is_of_one_image(&error) => refusals.push(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Keeps what runs on `platform`, the best of each group; tells what is left out.
fn choose(candidates: &mut Vec<Candidate>, platform: &Platform, progress: &dyn Progress) {
    let rank = |candidate: &Candidate| candidate.platform.rank_on(platform);
    let mut best = HashMap::new();
    for candidate in &*candidates {
        if let (Some(group), Some(rank)) = (candidate.group, rank(candidate)) {
            let known = best.entry(group).or_insert(rank);
            *known = rank.min(*known);
        }
    }
    candidates.retain(|candidate| {
        let is_best = match (rank(candidate), candidate.group) {
            (Some(rank), Some(group)) => best.get(&group) == Some(&rank),
            (rank, _) => rank.is_some(),
        };
        // Of an image with many platforms one is enough.
        let is_replaced = candidate
            .group
            .is_some_and(|group| best.contains_key(&group));
        if !is_best && !is_replaced {
            let name = candidate.names.first().map_or_else(
                || candidate.manifest.config.digest.to_string(),
                |name| name.to_owned(),
            );
            let text = format!(
                "Skipped {}: it is for `{}`, not for `{platform}`",
                shown(&name),
                candidate.platform
            );
            progress.event(ProgressEvent::Warning { text: &text });
        }
        is_best
    });
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
        let (mut candidates, refusals) = archive.candidates()?;
        let offered: Vec<String> = candidates
            .iter()
            .map(|c| format!("`{}`", c.platform))
            .collect();
        if !candidates.iter().any(|c| c.platform.runs_on(platform)) {
            return Err(wrong_platform(platform, &offered.join(", ")));
        }
        for error in refusals {
            let text = format!("Skipped an image: {}", error.chain());
            progress.event(ProgressEvent::Warning { text: &text });
        }
        choose(&mut candidates, platform, progress);
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
            platform,
            ..
        } = candidate;
        let references = full_names(&names, progress);
        let layers = layer_files(&manifest, &config, |digest| ingest.blob(digest));
        let built = build(
            layers,
            &config.config.volumes,
            &ingest.rootfs(&digest),
            progress,
            &Cancel::default(),
        )?;
        let record = Record {
            id: manifest.config.digest,
            manifest: digest,
            platform: platform.clone(),
            created: config.created.0.clone(),
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

/// The full names among `names`; what cannot be one is told and left out, and the image is there
/// by its id.
fn full_names(names: &[String], progress: &dyn Progress) -> Vec<String> {
    let mut full = Vec::new();
    // Docker and podman write these for an image without a name.
    let given = |name: &&String| !name.is_empty() && !name.contains("<none>");
    for name in names.iter().filter(given) {
        match name
            .parse::<Reference>()
            .map(|reference| reference.tagged())
        {
            Ok(Some(reference)) => full.push(reference.to_string()),
            // A digest alone is no name that an image can be given; the image has it anyway.
            Ok(None) => {}
            Err(error) => {
                let text = format!("Left a name out: {error}");
                progress.event(ProgressEvent::Warning { text: &text });
            }
        }
    }
    full.sort();
    full.dedup();
    full
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
