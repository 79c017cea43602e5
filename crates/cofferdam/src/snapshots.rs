//! Snapshots, restore and forks.

use std::{
    io::{Read, Write},
    time::{Duration, SystemTime},
};

use cofferdam_runtime::{
    DamagedSnapshot, Entry, Error, ForkOptions, ForkSource, Result, SnapshotKind, SnapshotManifest,
    SnapshotOptions, image::Progress, rfc3339, system_time,
};
use cofferdam_types::{Digest, SandboxId, SnapshotId};
use serde::Serialize;

use crate::{Coffer, Sandbox};

/// The snapshots of a store.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots<'a> {
    coffer: &'a Coffer,
}

/// A snapshot: a sandbox as it was at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    coffer: Coffer,
    inner: cofferdam_runtime::Snapshot,
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Id.
    pub id: SnapshotId,
    /// Name.
    pub name: Option<String>,
    /// How much it holds.
    pub kind: SnapshotKind,
    /// Id of the sandbox that it was taken of.
    pub sandbox_id: SandboxId,
    /// Name of that sandbox then.
    pub sandbox: String,
    /// Image of that sandbox as it was asked for.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: Digest,
    /// When it was taken, RFC 3339.
    pub created: String,
    /// Nanoseconds since the Unix epoch of `created`.
    pub created_ns: u64,
    /// How long the sandbox stood still, in microseconds; none if it did not run.
    pub pause_us: Option<u64>,
    /// Bytes that it uses on the disk.
    pub disk_bytes: u64,
    /// All that its manifest says.
    pub manifest: SnapshotManifest,
}

/// What became of a fork.
#[derive(Debug)]
#[non_exhaustive]
pub struct Forks {
    /// The new sandboxes; all of them can be used.
    pub sandboxes: Vec<Sandbox>,
    /// How long the source stood still, in microseconds; none if it did not run.
    pub pause_us: Option<u64>,
    /// Why there are not as many as were asked for.
    pub failure: Option<Error>,
}

impl SnapshotInfo {
    /// When it was taken.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        system_time(self.created_ns)
    }

    /// How long the sandbox stood still; none if it did not run.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.pause_us.map(Duration::from_micros)
    }
}

impl Forks {
    /// How long the source stood still; none if it did not run.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.pause_us.map(Duration::from_micros)
    }
}

impl<'a> Snapshots<'a> {
    pub(crate) const fn new(coffer: &'a Coffer) -> Self {
        Self { coffer }
    }

    /// The snapshot of a name, an id, or the unique start of an id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Ambiguous`],
    /// [`crate::ErrorKind::BadSnapshot`].
    pub fn get(&self, name: &str) -> Result<Snapshot> {
        self.coffer
            .runtime
            .find_snapshot(name)
            .map(|inner| self.snapshot(inner))
    }

    /// Every snapshot that can be read, newest first.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        let all = self.coffer.runtime.snapshots()?;
        Ok(all.into_iter().map(|inner| self.snapshot(inner)).collect())
    }

    /// The others: those that can only be removed, and why.
    ///
    /// # Errors
    /// The file system's.
    pub fn damaged(&self) -> Result<Vec<DamagedSnapshot>> {
        self.coffer.runtime.damaged_snapshots()
    }

    /// Removes a snapshot, also a damaged one. Sandboxes that came from it go on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Ambiguous`].
    pub fn remove(&self, name: &str) -> Result<SnapshotId> {
        self.coffer.runtime.remove_snapshot(name)
    }

    /// Reads a snapshot from the form in which [`Snapshot::export`] wrote it. Nothing in it is
    /// trusted.
    ///
    /// # Errors
    /// [`crate::ErrorKind::BadSnapshot`] with the reason, [`crate::ErrorKind::ImageNotFound`] when
    /// the store lacks its image, [`crate::ErrorKind::NameTaken`], [`crate::ErrorKind::NoSpace`].
    ///
    /// # Blocking
    /// As long as reading takes; use a blocking thread in a busy runtime.
    pub fn import(
        &self,
        input: impl Read,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Snapshot> {
        let inner = self.coffer.runtime.import_snapshot(input, name, progress)?;
        Ok(self.snapshot(inner))
    }

    fn snapshot(&self, inner: cofferdam_runtime::Snapshot) -> Snapshot {
        Snapshot {
            coffer: self.coffer.clone(),
            inner,
        }
    }
}

impl Snapshot {
    /// Id.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.inner.manifest.id
    }

    /// What is known of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn info(&self) -> Result<SnapshotInfo> {
        let manifest = self.inner.manifest.clone();
        Ok(SnapshotInfo {
            id: manifest.id,
            name: manifest.name.clone(),
            kind: manifest.kind,
            sandbox_id: manifest.sandbox.id,
            sandbox: manifest.sandbox.name.clone(),
            image: manifest.sandbox.image.name.clone(),
            image_id: manifest.sandbox.image.id,
            created: rfc3339(manifest.created_ns),
            created_ns: manifest.created_ns,
            pause_us: manifest.pause_us,
            disk_bytes: self.inner.disk_bytes()?,
            manifest,
        })
    }

    /// Reads all of it and compares it with what was written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::BadSnapshot`] with what differs.
    ///
    /// # Blocking
    /// A second per gigabyte.
    pub fn verify(&self) -> Result<()> {
        self.inner.verify()
    }

    /// Writes it as one file: compressed, checksummed, versioned. The image's root file system is
    /// not in it.
    ///
    /// # Errors
    /// Of its files or of `output`.
    ///
    /// # Blocking
    /// As long as writing takes; use a blocking thread in a busy runtime.
    pub fn export(&self, output: impl Write, progress: &dyn Progress) -> Result<()> {
        self.coffer
            .runtime
            .export_snapshot(&self.inner, output, progress)
    }

    /// The disk of a full snapshot by itself, for hosts that cannot continue its machine: what is
    /// restored from it, forked, or imported after an export is there to be started. It is as after
    /// a power cut: what was only in memory is not on it.
    #[must_use]
    pub fn disk_only(&self) -> Self {
        Self {
            coffer: self.coffer.clone(),
            inner: self.inner.disk_only(),
        }
    }

    /// Brings its sandbox back, with its id and name. From a full snapshot it runs on from that
    /// moment; from a disk it is there to be started.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] while that sandbox is live, and those of a start.
    pub async fn restore(&self) -> Result<Sandbox> {
        self.restore_named(None).await
    }

    /// Like [`Self::restore`], under another name. A sandbox that is still there keeps its own.
    ///
    /// # Errors
    /// Like [`Self::restore`].
    pub async fn restore_as(&self, name: &str) -> Result<Sandbox> {
        self.restore_named(Some(name)).await
    }

    async fn restore_named(&self, name: Option<&str>) -> Result<Sandbox> {
        let entry = self.coffer.runtime.restore(&self.inner, name).await?;
        Ok(Sandbox::new(self.coffer.clone(), entry))
    }

    /// Makes new sandboxes from it; `made` is told of each as it is ready.
    ///
    /// # Errors
    /// When not even one could be made.
    pub async fn fork(
        &self,
        options: &ForkOptions,
        mut made: impl FnMut(&Sandbox) + Send,
    ) -> Result<Forks> {
        fork(
            &self.coffer,
            ForkSource::Snapshot(&self.inner),
            options,
            &mut made,
        )
        .await
    }
}

impl Sandbox {
    /// Stops its processes and vCPUs where they are.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] unless it runs.
    pub async fn pause(&self) -> Result<()> {
        self.coffer().runtime.pause(&self.now()?).await
    }

    /// Lets them go on, with the right time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`] unless it is paused.
    pub async fn unpause(&self) -> Result<()> {
        self.coffer().runtime.unpause(&self.now()?).await
    }

    /// Takes a snapshot. If it runs it stands still for a moment and goes on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WrongState`], [`crate::ErrorKind::NameTaken`],
    /// [`crate::ErrorKind::NoSpace`].
    pub async fn snapshot(&self, options: SnapshotOptions) -> Result<Snapshot> {
        let coffer = self.coffer();
        let inner = coffer
            .runtime
            .create_snapshot(&self.now()?, options)
            .await?;
        Ok(coffer.snapshots().snapshot(inner))
    }

    /// Makes new sandboxes from it as it is now; `made` is told of each as it is ready. Of one that
    /// runs or is paused they run on from there, each with an identity of its own; of a stopped
    /// one they have its disk.
    ///
    /// # Errors
    /// When not even one could be made.
    pub async fn fork(
        &self,
        options: &ForkOptions,
        mut made: impl FnMut(&Self) + Send,
    ) -> Result<Forks> {
        let entry = self.now()?;
        fork(
            self.coffer(),
            ForkSource::Sandbox(&entry),
            options,
            &mut made,
        )
        .await
    }
}

async fn fork(
    coffer: &Coffer,
    source: ForkSource<'_>,
    options: &ForkOptions,
    made: &mut (dyn FnMut(&Sandbox) + Send),
) -> Result<Forks> {
    let mut tell = |entry: &Entry| made(&Sandbox::new(coffer.clone(), entry.clone()));
    let forked = coffer.runtime.fork(source, options, &mut tell).await?;
    let sandbox = |entry| Sandbox::new(coffer.clone(), entry);
    Ok(Forks {
        sandboxes: forked.made.into_iter().map(sandbox).collect(),
        pause_us: forked.pause_us,
        failure: forked.failure,
    })
}
