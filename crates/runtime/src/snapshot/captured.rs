//! From files of one moment to the directory of a sandbox.

use std::path::{Path, PathBuf};

use cofferdam_backend::SnapshotFiles;
use cofferdam_image::NoProgress;
use cofferdam_proto::IdentityCause;
use cofferdam_types::Platform;

use super::{Snapshots, bad};
use crate::{
    base::error::{Error, ErrorKind, Result, lift},
    store::{RecordedImage, SandboxRecord, resume::Resume, snapshot::SnapshotFileName},
};

/// What a sandbox is made from: files of one moment.
#[derive(Clone, Debug)]
pub(super) struct CapturedState {
    /// Where the files are.
    pub(super) dir: PathBuf,
    /// Memory and devices; none of a disk alone.
    pub(super) machine: Option<SnapshotFiles>,
    /// Whether it is for a fork or for the sandbox itself.
    pub(super) cause: IdentityCause,
}

impl CapturedState {
    /// Puts a copy of the disk, and where to go on, into a sandbox's new directory.
    pub(super) fn place(&self, dir: &Path) -> Result<()> {
        let upper = SnapshotFileName::Upper.as_str();
        lift(cofferdam_disk::copy_sparse(
            &self.dir.join(upper),
            &dir.join(upper),
        ))?;
        match &self.machine {
            Some(files) => Resume::new(files, self.cause).write(dir),
            None => Ok(()),
        }
    }
}

impl Snapshots<'_> {
    /// A captured sandbox's record with its image as this store has it. Paths of a record are
    /// never believed: it may come from another store.
    pub(super) fn repin(&self, record: &SandboxRecord) -> Result<SandboxRecord> {
        let recorded = &record.image;
        let platform = record.spec.platform.clone().unwrap_or_else(Platform::host);
        let hint = || {
            format!(
                "Get it with `coffer pull {}`, or with `coffer load` if it came from an archive",
                recorded.name.escape_debug()
            )
        };
        let found = lift(self.images.resolve(&recorded.id.to_string(), &platform))?;
        let Some(image) = found else {
            let what = format!(
                "The snapshot needs the image `{}` ({}), which is not in the store",
                recorded.name.escape_debug(),
                recorded.id
            );
            return Err(Error::new(ErrorKind::ImageNotFound, what).hint(hint()));
        };
        let rootfs = lift(self.images.rootfs(&image, &NoProgress))?;
        if image.manifest != recorded.manifest || rootfs.disk_bytes != recorded.disk_bytes {
            let what = format!(
                "needs the image `{}` by its manifest {}; the store has {}",
                recorded.name.escape_debug(),
                recorded.manifest,
                image.manifest
            );
            return Err(bad(&record.name, &what).hint(hint()));
        }
        Ok(SandboxRecord {
            image: RecordedImage {
                rootfs: rootfs.path,
                // They may be an import's: nothing of it may run in a template that others share.
                auto_warm_ups: None,
                ..recorded.clone()
            },
            ..record.clone()
        })
    }
}
