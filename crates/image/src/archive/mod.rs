//! Images as files: docker archives and OCI layouts, in and out.
//!
//! *Source:* OCI image-spec v1.1, image-layout.md; Docker Image Specification v1.2, "Combined
//! Image JSON + Filesystem Changeset Format".

mod candidate;
mod contents;
mod docker;
mod files;
mod images;
mod load;
mod oci;
mod save;

use std::{fmt, io::Read, path::PathBuf};

/// Where a load reads from.
pub enum LoadSource {
    /// A docker archive or an OCI layout, as a tar (plain, gzip or zstd), or a layout directory.
    Path(PathBuf),
    /// The same tars as a stream, read once from front to back.
    Reader(Box<dyn Read + Send>),
}

impl fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// The form of a saved archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// For `docker load`: an OCI layout with Docker's `manifest.json` beside it.
    #[default]
    Docker,
    /// An OCI layout alone.
    Oci,
}
