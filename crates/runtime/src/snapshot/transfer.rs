//! Export and import: a snapshot as one file.
//!
//! The file is a bundle of `cofferdam-disk` with the snapshot's manifest and files. The image's
//! root file system is not in it: the manifest names it by digest, and the importing store must
//! have it. What is read is a stranger's until each file has the digest that the manifest names,
//! and the manifest is checked like any other; what then runs is a guest like any other.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cofferdam_disk::{BundleLimits, BundleReader, BundleWriter};
use cofferdam_image::{Phase, Progress, ProgressEvent};
use cofferdam_types::{NetworkSpec, SnapshotId};
use serde::Deserialize;

use super::{
    Snapshot, SnapshotFileName, SnapshotKind, SnapshotManifest, Snapshots, bad, check_manifest,
    content,
};
use crate::{
    base::{
        error::{Error, ErrorKind, Result, io as io_error, lift},
        random,
    },
    store::snapshot::FORMAT_VERSION,
};

impl Snapshots<'_> {
    /// Writes a snapshot as one file, after a look whether it is what it was: no import takes
    /// another, and whoever exports may remove the original.
    ///
    /// # Errors
    /// [`ErrorKind::BadSnapshot`], those of the snapshot's files or of `output`.
    ///
    /// # Blocking
    /// As long as compressing and writing take; use a blocking thread in a busy runtime.
    pub(crate) fn export(
        &self,
        snapshot: &Snapshot,
        output: impl Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut said = snapshot.manifest.clone();
        if snapshot.is_part {
            // Another snapshot than the whole one, and a store may have both.
            said.id = SnapshotId::from_random(random::bytes()?);
        }
        let manifest = serde_json::to_vec(&said).map_err(|error| {
            Error::new(ErrorKind::Bug, "Could not write a manifest").because(error)
        })?;
        progress.event(ProgressEvent::Phase {
            phase: Phase::Reading,
            total_bytes: None,
        });
        snapshot.verify()?;
        progress.event(ProgressEvent::Phase {
            phase: Phase::Writing,
            total_bytes: Some(snapshot.disk_bytes()?),
        });
        let done = Arc::new(AtomicU64::new(0));
        let output = CountedStream {
            inner: output,
            done: done.clone(),
            progress,
        };
        let writer = lift(BundleWriter::new(output, &manifest))?;
        let mut writer = writer.on_progress(move |bytes| done.store(bytes, Ordering::Relaxed));
        for file in &snapshot.manifest.files {
            let path = snapshot.file(file.name);
            let content = File::open(&path)
                .map_err(|error| io_error(format!("Could not read `{}`", path.display()), error))?;
            lift(writer.add(file.name.as_str(), &content))?;
        }
        let mut output = lift(writer.finish())?;
        output
            .flush()
            .map_err(|error| io_error("Could not write the export", error))
    }

    /// Reads a snapshot from one file into the store, under its own name or another.
    ///
    /// # Errors
    /// [`ErrorKind::BadSnapshot`] when the file is no snapshot, damaged, hostile, of a newer
    /// version or of another processor; [`ErrorKind::ImageNotFound`] when the store lacks its
    /// image; [`ErrorKind::NameTaken`], [`ErrorKind::NoSpace`].
    ///
    /// # Blocking
    /// As long as reading and checking take; use a blocking thread in a busy runtime.
    pub(crate) fn import(
        &self,
        input: impl Read,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Snapshot> {
        progress.event(ProgressEvent::Phase {
            phase: Phase::Reading,
            total_bytes: None,
        });
        let input = CountedStream {
            inner: input,
            done: Arc::default(),
            progress,
        };
        let mut reader = lift(BundleReader::open(
            input,
            limits(self.store.layout().home()),
        ))?;
        let mut manifest = parse(reader.manifest())?;
        check_manifest(&manifest)?;
        if let Some(name) = name {
            manifest.name = Some(name.to_owned());
        }
        self.expect_importable(&mut manifest)?;
        manifest.imported = true;
        let staging = self.staging(manifest.id)?;
        let mut seen = Vec::new();
        while let Some(file) = lift(reader.next_file())? {
            let known = SnapshotFileName::parse(file.name());
            let wanted = known.and_then(|name| {
                let is_it = |wanted: &&super::SnapshotFile| wanted.name == name;
                manifest.files.iter().find(is_it)
            });
            let Some(wanted) = wanted else {
                let what = format!("has a file `{}` that none such has", file.name());
                return Err(bad(&manifest.id.short(), &what));
            };
            if file.length() != wanted.bytes {
                let what = format!(
                    "has a file `{}` of another length than it says",
                    file.name()
                );
                return Err(bad(&manifest.id.short(), &what));
            }
            seen.push(wanted.name);
            lift(file.extract(&create(&staging.path().join(wanted.name.as_str()))?))?;
        }
        lift(reader.finish())?;
        seen.sort_unstable();
        if seen != manifest.kind.files() {
            return Err(bad(&manifest.id.short(), "lacks a file of its kind"));
        }
        check_contents(staging.path(), &manifest)?;
        self.publish(staging, &manifest)
    }

    /// Refuses what could be read but not used here, before anything is unpacked.
    fn expect_importable(&self, manifest: &mut SnapshotManifest) -> Result<()> {
        self.expect_free_name(manifest.name.as_deref())?;
        let dir = self
            .store
            .layout()
            .snapshots()
            .join(manifest.id.to_string());
        if dir.exists() {
            let what = format!(
                "The snapshot {} is in the store already",
                manifest.id.short()
            );
            return Err(Error::new(ErrorKind::NameTaken, what));
        }
        // A path of another host's kernel means nothing here.
        manifest.sandbox.spec.kernel = None;
        // Nor does a stranger decide what may be reached from here. The interface itself is part of
        // the machine.
        manifest.sandbox.spec.network = NetworkSpec {
            mode: manifest.sandbox.spec.network.mode,
            ..NetworkSpec::default()
        };
        manifest.sandbox.image = self.repin(&manifest.sandbox)?.image;
        if manifest.kind == SnapshotKind::Full {
            self.expect_same_machine(manifest)?;
        }
        Ok(())
    }
}

/// Reads a manifest; one of a newer form is told apart before its unknown fields are.
fn parse(bytes: &[u8]) -> Result<SnapshotManifest> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let unreadable =
        |error| bad("in the file", "has a manifest that cannot be read").because(error);
    let version: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
    if version.format > FORMAT_VERSION {
        let what = format!(
            "has form {}, this version knows {FORMAT_VERSION}",
            version.format
        );
        return Err(bad("in the file", &what).hint("Use a newer Cofferdam"));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// Most that an import may put on the disk: what is free on it.
fn limits(home: &Path) -> BundleLimits {
    let free = rustix::fs::statvfs(home)
        .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    BundleLimits::new(free)
}

fn create(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| io_error(format!("Could not make `{}`", path.display()), error))
}

/// Compares what was unpacked with what the manifest says.
fn check_contents(dir: &Path, manifest: &SnapshotManifest) -> Result<()> {
    for file in &manifest.files {
        let path = dir.join(file.name.as_str());
        let (digest, _) = content::digest(&path)
            .map_err(|error| io_error(format!("Could not read `{}`", path.display()), error))?;
        if digest != file.digest {
            let what = format!(
                "has a file `{}` that is not the one it says",
                file.name.as_str()
            );
            return Err(bad(&manifest.id.short(), &what));
        }
    }
    Ok(())
}

/// A stream that tells how far the work has come.
struct CountedStream<'a, T> {
    inner: T,
    done: Arc<AtomicU64>,
    progress: &'a dyn Progress,
}

impl<T> CountedStream<'_, T> {
    fn tell(&self) {
        self.progress.event(ProgressEvent::PhaseAdvanced {
            done_bytes: self.done.load(Ordering::Relaxed),
        });
    }
}

impl<T: Write> Write for CountedStream<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.tell();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for CountedStream<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        self.tell();
        Ok(count)
    }
}
