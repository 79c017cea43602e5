//! Limits against bombs, and what has been spent of them.
//!
//! Everything that a layer can make grow (memory, time) is counted here, over all layers of an
//! image together, so that many small layers are no way around a limit. What it takes of the disk
//! is bounded by what is free there, see `erofs/data.rs`: zeros take none.

use crate::error::{Error, ErrorKind, Result};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

/// What one image may cost. Passing any of these is [`ErrorKind::TooLarge`].
///
/// The defaults are several times what the largest images in use need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tar entries of all layers, and the directories that they imply.
    pub max_entries: u64,
    /// Uncompressed bytes of all layers, holes of sparse files included.
    pub max_total_bytes: u64,
    /// Components of one path, after links.
    pub max_depth: u32,
    /// Bytes of one path or link target.
    pub max_path_bytes: u64,
    /// Bytes of the extended attributes of one file, names and values.
    pub max_xattr_bytes: u64,
    /// Bytes of names, link targets and extended attributes that all layers together carry.
    pub max_metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 2_000_000,
            max_total_bytes: 128 * GIB,
            max_depth: 1024,
            // PATH_MAX, Linux limits.h: nothing longer can be named in one system call.
            max_path_bytes: 4 * KIB,
            // XATTR_SIZE_MAX, Linux limits.h.
            max_xattr_bytes: 64 * KIB,
            max_metadata_bytes: GIB,
        }
    }
}

/// What has been spent of [`Limits`] by one build.
#[derive(Debug)]
pub(crate) struct Budget<'a> {
    pub(crate) limits: &'a Limits,
    entries: u64,
    total_bytes: u64,
    metadata_bytes: u64,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            entries: 0,
            total_bytes: 0,
            metadata_bytes: 0,
        }
    }

    /// Counts one more tar entry or implied directory.
    pub(crate) fn entry(&mut self) -> Result<()> {
        spend(&mut self.entries, 1, self.limits.max_entries, "entries")
    }

    /// Counts `count` bytes of a layer's stream or of a hole.
    pub(crate) fn bytes(&mut self, count: u64) -> Result<()> {
        let limit = self.limits.max_total_bytes;
        spend(&mut self.total_bytes, count, limit, "uncompressed bytes")
    }

    /// Counts `count` bytes of names, link targets or attributes.
    pub(crate) fn metadata(&mut self, count: usize) -> Result<()> {
        let limit = self.limits.max_metadata_bytes;
        spend(
            &mut self.metadata_bytes,
            count as u64,
            limit,
            "metadata bytes",
        )
    }

    /// Uncompressed bytes so far, over all layers.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

fn spend(spent: &mut u64, count: u64, limit: u64, what: &str) -> Result<()> {
    *spent = spent.saturating_add(count);
    if *spent > limit {
        return Err(too_large(format!("The image has more than {limit} {what}")));
    }
    Ok(())
}

/// A limit was passed; `what` names it.
pub(crate) fn too_large(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, what)
}
