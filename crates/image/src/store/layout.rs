//! Where things lie below the store's root. The only place that makes these paths.
//!
//! ```text
//! index.json            every image and name; replaced whole
//! index.lock            held by whoever changes index.json, blobs/ or rootfs/
//! blobs/sha256/HEX      manifests, configs and layers as fetched
//! rootfs/HEX.erofs      one for each manifest, HEX its digest
//! staging/lock          held shared while a work directory is made, exclusive while swept
//! staging/.tmp-PID-N-…  one work directory for each pull or load, with a lock of its owner's
//! ```

use std::path::{Path, PathBuf};

use cofferdam_base::fs::create_private_dir;
use cofferdam_types::Digest;

use crate::error::{Result, path_error};

/// The paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes what is missing.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let layout = Self {
            root: root.to_owned(),
        };
        for dir in [layout.blobs(), layout.rootfs_dir(), layout.staging()] {
            if !dir.is_dir() {
                create_private_dir(&dir).map_err(path_error("make the directory", &dir))?;
            }
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn index_lock(&self) -> PathBuf {
        self.root.join("index.lock")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn rootfs_dir(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn rootfs(&self, manifest: &Digest) -> PathBuf {
        self.rootfs_dir().join(format!("{}.erofs", manifest.hex()))
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn staging_lock(&self) -> PathBuf {
        self.staging().join("lock")
    }
}
