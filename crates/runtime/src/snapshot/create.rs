//! Taking a snapshot.

use std::fs::File;

use cofferdam_base::time::unix_time_ns;
use cofferdam_image::Phase;
use cofferdam_types::SnapshotId;

use super::{Snapshot, SnapshotFile, SnapshotKind, SnapshotManifest, Snapshots, Watcher, content};
use crate::{
    base::{
        error::{Result, io, lift},
        random,
    },
    store::{Entry, EventKind, snapshot::FORMAT_VERSION, staging::StagingDir},
};

/// How a snapshot is taken.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    /// How much; by default all of a live sandbox, the disk of a stopped one.
    pub kind: Option<SnapshotKind>,
    /// Its name.
    pub name: Option<String>,
    /// Who is told how far it has come.
    pub watcher: Watcher,
}

impl Snapshots<'_> {
    /// Takes a snapshot of a sandbox. One that runs stands still for a moment and goes on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`], [`crate::ErrorKind::NameTaken`],
    /// [`crate::ErrorKind::NoSpace`] and those of the backend.
    pub(crate) async fn create(&self, entry: &Entry, options: SnapshotOptions) -> Result<Snapshot> {
        self.expect_free_name(options.name.as_deref())?;
        let id = SnapshotId::from_random(random::bytes()?);
        let staging = self.staging(id)?;
        let (dir, watcher) = (staging.path(), &options.watcher);
        let capture = self.capture(entry, options.kind, dir);
        let captured = watcher.during(dir, capture).await?;
        let created_ns = unix_time_ns();
        let mut files = Vec::new();
        watcher.begin(Phase::Syncing, None);
        for name in captured.kind.files() {
            let path = staging.path().join(name.as_str());
            // What has a name outlives a power cut.
            let (digest, bytes) = File::open(&path)
                .and_then(|file| file.sync_all())
                .and_then(|()| content::digest(&path))
                .map_err(|error| io(format!("Could not keep `{}`", path.display()), error))?;
            files.push(SnapshotFile {
                name: *name,
                bytes,
                digest,
            });
            watcher.advanced(files.iter().map(|file| file.bytes).sum());
        }
        let manifest = SnapshotManifest {
            format: FORMAT_VERSION,
            id,
            name: options.name,
            created_ns,
            kind: captured.kind,
            sandbox: entry.record.clone(),
            backend: entry.state.backend.clone(),
            compatibility: self.compatibility(captured.kind, entry)?,
            counter_khz: self.counter_khz(captured.kind, entry)?,
            pause_us: captured.pause_us,
            imported: false,
            files,
        };
        let made = self.publish(staging, &manifest)?;
        self.store
            .note(&entry.record, EventKind::Snapshot { snapshot: id });
        Ok(made)
    }

    fn compatibility(&self, kind: SnapshotKind, entry: &Entry) -> Result<Option<String>> {
        if kind == SnapshotKind::Disk {
            return Ok(None);
        }
        // What the machine is, and not what this process would start.
        if let Some(key) = &entry.state.machine_key {
            return Ok(Some(key.clone()));
        }
        let layout = self.store.layout();
        let backend = crate::host::backend(layout, entry.state.backend.as_deref())?;
        lift(backend.compatibility_key()).map(Some)
    }

    fn counter_khz(&self, kind: SnapshotKind, entry: &Entry) -> Result<Option<u32>> {
        if kind == SnapshotKind::Disk {
            return Ok(None);
        }
        let layout = self.store.layout();
        let backend = crate::host::backend(layout, entry.state.backend.as_deref())?;
        Ok(crate::host::counter::rate_khz(layout, backend.as_ref()))
    }

    /// A directory for a capture.
    pub(super) fn staging(&self, id: SnapshotId) -> Result<StagingDir> {
        StagingDir::new(self.store.layout().snapshots().join(id.to_string()))
    }
}
