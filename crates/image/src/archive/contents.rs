//! The contents of an archive: its files by name, its blobs by digest, and the images in it.
//!
//! The load and the two formats read an archive through [`Archive`]. It checks the digest and the
//! size of each blob that it hands out.

use std::{fs::File, path::PathBuf};

use cofferdam_base::fs::read_bounded;
use cofferdam_types::Digest;

use super::{
    LoadSource, docker,
    oci::{self, Candidate, check_document_size, is_of_one_image},
    spool::Spool,
};
use crate::{
    error::{Error, ErrorKind, Result, host_error, path_error},
    manifest::DOCUMENT_BYTES_MAX,
    progress::{Phase, Progress, ProgressEvent},
    store::ingest::{Ingest, copy_blob, digest_mismatch},
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

impl<'a> Archive<'a> {
    /// Opens what a load reads from; a tar is read whole.
    pub(crate) fn open(
        ingest: &'a Ingest,
        source: LoadSource,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Ok(Self {
            ingest,
            content: open(ingest, source, progress)?,
        })
    }

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
    pub(crate) fn candidates(&self) -> Result<(Vec<Candidate>, Vec<Error>)> {
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
