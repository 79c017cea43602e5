//! One pull or load in the making: a private work directory until everything is there.
//!
//! Blobs of the store that are used again are hard-linked in at once, so that a removal meanwhile
//! takes nothing away. [`Ingest::commit`] moves all into place and names it in one step. The
//! owner holds a lock in its directory; a directory whose lock is free has no owner, and
//! [`sweep`] removes it.
//! Lock order: `staging/lock` → the directory's lock; `index.lock` is taken with neither waited for.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use cofferdam_base::{
    LockFile,
    fs::{remove_dir_if_present, remove_file_if_present, staging_owner, staging_path},
};
use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

use super::{
    gc,
    index::{Index, LockedIndex, Record},
    layout::Layout,
};
use crate::error::{Error, ErrorKind, Result, host_error, path_error};

/// Size of the buffer of a copy: few system calls, and still within the cache.
const COPY_BYTES: usize = 256 << 10;

/// A work directory.
#[derive(Debug)]
pub(crate) struct Ingest {
    layout: Layout,
    dir: PathBuf,
    counter: AtomicU64,
    _lock: LockFile,
}

/// An image that is ready to be named.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) record: Record,
    /// Full references to give it.
    pub(crate) references: Vec<String>,
}

impl Ingest {
    pub(crate) fn begin(layout: &Layout) -> Result<Self> {
        let guard_path = layout.staging_lock();
        // Keeps sweepers off between the making of the directory and the taking of its lock.
        let guard = LockFile::shared(&guard_path).map_err(path_error("lock", &guard_path))?;
        let dir = staging_path(&layout.staging().join("ingest"));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(path_error("make the directory", &dir))?;
        let lock = LockFile::exclusive(&dir.join("lock")).map_err(path_error("lock", &dir))?;
        drop(guard);
        Ok(Self {
            layout: layout.clone(),
            dir,
            counter: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// Where a blob lies until the commit.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Where a root file system lies until the commit.
    pub(crate) fn rootfs(&self, manifest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.erofs", manifest.hex()))
    }

    /// Whether a blob is here, checked.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.blob(digest).exists()
    }

    /// Takes a blob from the store if it is there with `size` bytes.
    pub(crate) fn adopt(&self, digest: &Digest, size: u64) -> Result<bool> {
        let (from, to) = (self.layout.blob(digest), self.blob(digest));
        match fs::metadata(&from) {
            Ok(found) if found.len() == size => {}
            _ => return Ok(false),
        }
        match fs::hard_link(&from, &to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // A file system without links: a copy is as safe, only slower.
            Err(_) => match fs::copy(&from, &to) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(path_error("copy", &from)(error)),
            },
        }
    }

    /// Begins a blob whose digest shows at its end.
    pub(crate) fn create(&self) -> Result<BlobWriter> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("part-{number}"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(path_error("write", &path))?;
        Ok(BlobWriter {
            file,
            path,
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// Keeps a small document as a blob.
    pub(crate) fn put(&self, content: &[u8]) -> Result<Digest> {
        let mut blob = self.create()?;
        blob.write(content)?;
        let (digest, _) = blob.finish(self)?;
        Ok(digest)
    }

    /// Moves everything into the store and names it, all or nothing.
    pub(crate) fn commit(self, images: Vec<NewImage>) -> Result<()> {
        let wanted: BTreeSet<Digest> = images.iter().flat_map(|i| i.record.blobs()).collect();
        for digest in &wanted {
            sync(&self.blob(digest))?;
        }
        for image in &images {
            sync(&self.rootfs(&image.record.manifest))?;
        }
        let mut locked = LockedIndex::take(&self.layout)?;
        let result = self.place(&wanted, images, &mut locked);
        match &result {
            Ok(()) => drop(gc::sweep_blobs(&self.layout, &locked.index)),
            // What was placed and not named goes again; the old index still names the rest.
            Err(_) => {
                if let Ok(old) = Index::read(&self.layout) {
                    gc::sweep_blobs(&self.layout, &old);
                }
            }
        }
        result
    }

    /// The part of the commit that the index's lock guards.
    fn place(
        &self,
        wanted: &BTreeSet<Digest>,
        images: Vec<NewImage>,
        locked: &mut LockedIndex<'_>,
    ) -> Result<()> {
        for digest in wanted {
            let to = self.layout.blob(digest);
            fs::rename(self.blob(digest), &to).map_err(path_error("write", &to))?;
        }
        for NewImage { record, references } in images {
            self.place_rootfs(&record.manifest)?;
            let manifest = record.manifest;
            locked.index.add(record);
            for reference in references {
                locked.index.name(&reference, manifest);
            }
        }
        locked.publish()
    }

    /// Moves a root file system into place. One that is there stays: a machine may have it open
    /// by its path, and equal layers give equal bytes.
    pub(crate) fn place_rootfs(&self, manifest: &Digest) -> Result<()> {
        let to = self.layout.rootfs(manifest);
        if to.exists() {
            return Ok(());
        }
        fs::rename(self.rootfs(manifest), &to).map_err(path_error("write", &to))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // What cannot be removed now, the next sweep removes.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Flushes a file to the disk before its name appears, so that a power cut leaves no torn blob.
pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_data())
        .map_err(path_error("write", path))
}

/// A blob that is being written and hashed.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

impl BlobWriter {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| host_error("Could not write a blob to the image store", error))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what was written.
    pub(crate) fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| host_error("Could not write a blob to the image store", error))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// The digest of what was written so far.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_sha256(self.hash.clone().finalize().into())
    }

    /// What was written, decoded into another blob of at most `limit` bytes.
    pub(crate) fn decoded<'a>(
        &self,
        ingest: &Ingest,
        limit: u64,
        decode: impl FnOnce(BufReader<File>) -> io::Result<Box<dyn Read + 'a>>,
    ) -> Result<Self> {
        let failed = |error| host_error("Could not decode a blob", error);
        let coded = File::open(&self.path).map_err(failed)?;
        let mut decoded = decode(BufReader::new(coded))
            .map_err(failed)?
            .take(limit + 1);
        let mut blob = ingest.create()?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match decoded.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => blob.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        // What is left of it goes with the work directory.
        let _ = remove_file_if_present(&self.path);
        Ok(blob)
    }

    /// Ends the blob and gives it its name.
    pub(crate) fn finish(self, ingest: &Ingest) -> Result<(Digest, u64)> {
        let digest = Digest::from_sha256(self.hash.finalize().into());
        let to = ingest.blob(&digest);
        fs::rename(&self.path, &to).map_err(path_error("write", &to))?;
        Ok((digest, self.bytes))
    }

    /// Ends the blob if it is the one that is wanted.
    pub(crate) fn finish_as(self, ingest: &Ingest, wanted: &Digest, what: &str) -> Result<()> {
        let path = self.path.clone();
        let found = self.digest();
        if found != *wanted {
            let _ = remove_file_if_present(&path);
            return Err(digest_mismatch(what, wanted, &found));
        }
        self.finish(ingest).map(|_| ())
    }
}

/// Copies all of `from` into a new blob; `advance` gets the bytes of each step.
pub(crate) fn copy_blob(
    ingest: &Ingest,
    from: &mut dyn Read,
    read_error: impl Fn(io::Error) -> Error,
    mut advance: impl FnMut(u64),
) -> Result<(Digest, u64)> {
    let mut blob = ingest.create()?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return blob.finish(ingest),
            Ok(n) => {
                blob.write(&buffer[..n])?;
                advance(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
}

pub(crate) fn digest_mismatch(what: &str, wanted: &Digest, found: &Digest) -> Error {
    Error::new(
        ErrorKind::DigestMismatch,
        format!("{what} should have the digest `{wanted}`, but has `{found}`"),
    )
}

/// Removes work directories that no living process owns. Quick when there are none.
pub(crate) fn sweep(layout: &Layout) {
    let Ok(entries) = fs::read_dir(layout.staging()) else {
        return;
    };
    let leftovers: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(staging_owner).is_some())
        .map(|entry| entry.path())
        .collect();
    if leftovers.is_empty() {
        return;
    }
    // Somebody is about to make a directory, or sweeps: the next one will do.
    let Ok(Some(_guard)) = LockFile::try_exclusive(&layout.staging_lock()) else {
        return;
    };
    for dir in leftovers {
        let free = LockFile::try_exclusive(&dir.join("lock"));
        // An owner that ends removes its directory itself; then there is no lock to be had.
        if matches!(free, Ok(Some(_))) {
            let _ = remove_dir_if_present(&dir);
        }
    }
}
