//! The contents of an archive: its files by name and its blobs by digest.
//!
//! The load and the two formats read an archive through [`Archive`]. It checks the digest and the
//! size of each blob that it hands out.

use std::{fs::File, path::PathBuf};

use cofferdam_base::fs::read_bounded;
use cofferdam_types::Digest;

use super::{LoadSource, files::ArchiveFiles};
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
    Tar(ArchiveFiles),
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
            Content::Tar(files) => Ok(files.find(name)),
            Content::Dir(_) => Ok(None),
        }
    }

    /// Whether it can be a docker archive: those are tars; only layouts come as directories.
    pub(crate) fn is_tar(&self) -> bool {
        matches!(self.content, Content::Tar(_))
    }

    /// A small file by its name.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = match &self.content {
            Content::Tar(files) => match files.find(name) {
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
            Content::Tar(files) => match files.find(&name) {
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
    let files = ArchiveFiles::read(ingest, reader, total_bytes, progress)?;
    if files.is_empty() {
        return Err(Error::new(ErrorKind::Corrupt, "The archive is empty"));
    }
    Ok(Content::Tar(files))
}

/// Refuses documents that are too large to be one.
fn check_document_size(size: u64) -> Result<()> {
    if size > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("A manifest or config has {size} bytes; the limit is {DOCUMENT_BYTES_MAX}"),
        ));
    }
    Ok(())
}
