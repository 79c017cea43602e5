//! From the layers of an image to the file that a machine boots from.
//!
//! Pull and load build it before the image gets its name, so that a start never waits for it;
//! [`ImageStore::rootfs`] builds it only when somebody has removed the file.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cofferdam_types::Digest;

use super::{
    ImageStore,
    index::{LockedIndex, RootfsRecord},
    ingest::{Ingest, sync},
    not_found,
};
use crate::{
    erofs::RootfsStats,
    error::{Error, ErrorKind, Result, host_error, path_error},
    layer::{Compression, LayerSource, MAGIC_BYTES},
    manifest::{Manifest, check_config, parse_json},
    model::{Image, RawConfig, Rootfs},
    progress::{Phase, Progress, ProgressEvent},
    rootfs::build_rootfs,
    tree::Limits,
};

/// Sizes that root disks have, in bytes, smallest first.
///
/// A machine template has seen the root disk's size before the image is known, and the guest
/// keeps it; so there are few sizes, and a template for each. The file is extended with a hole:
/// EROFS takes its size from its superblock and ignores what follows.
pub const ROOT_DISK_CLASSES_BYTES: [u64; 4] = [16 << 30, 64 << 30, 256 << 30, 1 << 40];

/// A layer on the disk.
#[derive(Clone, Debug)]
pub(crate) struct LayerFile {
    pub(crate) path: PathBuf,
    pub(crate) diff_id: Digest,
}

/// Tells a build that its caller has gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ImageStore {
    /// The file to boot `image` from, built now if it is missing.
    ///
    /// # Errors
    /// `NotFound` when the image is gone; those of the layers and of the host when it must be
    /// built.
    ///
    /// # Blocking
    /// Not at all when the file is there; else as long as building takes.
    pub fn rootfs(&self, image: &Image, progress: &dyn Progress) -> Result<Rootfs> {
        let path = self.layout.rootfs(&image.manifest);
        match fs::metadata(&path) {
            Ok(found) => {
                return Ok(Rootfs {
                    path,
                    disk_bytes: found.len(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(path_error("read", &path)(error)),
        }
        let known = super::index::Index::read(&self.layout)?;
        if known.record(&image.manifest).is_none() {
            return Err(not_found(&image.id.to_string()));
        }
        self.rebuild(image, progress)
    }

    fn rebuild(&self, image: &Image, progress: &dyn Progress) -> Result<Rootfs> {
        let manifest = Manifest::parse(&self.document(&image.manifest)?)?;
        let config: RawConfig = parse_json(&self.document(&image.id)?, "image config")?;
        check_config(&manifest, &config, Some(&image.platform))?;
        let ingest = Ingest::begin(&self.layout)?;
        let layers = layer_files(&manifest, &config, |digest| self.layout.blob(digest));
        let staged = ingest.rootfs(&image.manifest);
        let volumes = &config.config.volumes;
        let built = build(layers, volumes, &staged, progress, &Cancel::default())?;
        sync(&staged)?;
        let mut locked = LockedIndex::take(&self.layout)?;
        let Some(record) = locked
            .index
            .images
            .iter_mut()
            .find(|record| record.manifest == image.manifest)
        else {
            return Err(not_found(&image.id.to_string()));
        };
        record.rootfs = Some(built);
        ingest.place_rootfs(&image.manifest)?;
        locked.publish()?;
        let path = self.layout.rootfs(&image.manifest);
        Ok(Rootfs {
            path,
            disk_bytes: built.disk_bytes,
        })
    }
}

/// The layers of `manifest`, bottom first; `place` tells where a blob lies.
pub(crate) fn layer_files(
    manifest: &Manifest,
    config: &RawConfig,
    place: impl Fn(&Digest) -> PathBuf,
) -> Vec<LayerFile> {
    let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
    pairs
        .map(|(layer, diff_id)| LayerFile {
            path: place(&layer.digest),
            diff_id: *diff_id,
        })
        .collect()
}

/// Builds the root file system of `layers` in a new file at `out`, with the length of its class.
/// The directories of `volumes` are in it, whether a layer has them or not.
pub(crate) fn build(
    layers: Vec<LayerFile>,
    volumes: &[String],
    out: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<RootfsRecord> {
    progress.event(ProgressEvent::Phase {
        phase: Phase::Unpacking,
        total_bytes: None,
    });
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(out)
        .map_err(path_error("write", out))?;
    let sources = layers.into_iter().map(|layer| open_layer(&layer, cancel));
    let limits = Limits::default();
    let stats = build_rootfs(sources, volumes, &mut file, &limits, &|done_bytes| {
        progress.event(ProgressEvent::PhaseAdvanced { done_bytes });
    })
    .map_err(|error| {
        if cancel.is_cancelled() {
            return Error::new(
                ErrorKind::Cancelled,
                "The building of the root file system was given up",
            );
        }
        error
    })?;
    let disk_bytes = disk_class(&stats)?;
    file.set_len(disk_bytes).map_err(|error| {
        host_error(
            "Could not extend the root file system to its disk's size",
            error,
        )
        .hint("The file system of the store must allow sparse files of that size")
    })?;
    Ok(RootfsRecord {
        entries: stats.entries,
        data_bytes: stats.data_bytes,
        image_bytes: stats.image_bytes,
        disk_bytes,
    })
}

fn disk_class(stats: &RootfsStats) -> Result<u64> {
    ROOT_DISK_CLASSES_BYTES
        .into_iter()
        .find(|class| stats.image_bytes <= *class)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::TooLarge,
                format!(
                    "The root file system has {} bytes, more than any root disk",
                    stats.image_bytes
                ),
            )
        })
}

/// Opens a layer. Its first bytes tell the compression: media types are known to be wrong.
fn open_layer(layer: &LayerFile, cancel: &Cancel) -> Result<LayerSource<'static>> {
    let failed = |error| path_error("read the layer", &layer.path)(error);
    let mut file = File::open(&layer.path).map_err(failed)?;
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    (&mut file)
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut magic)
        .map_err(failed)?;
    file.rewind().map_err(failed)?;
    if let Some(program) = Compression::unread_program(&magic) {
        let what =
            format!("A layer is compressed by {program}; gzip, zstd and plain tars are read");
        return Err(Error::new(ErrorKind::Unsupported, what).hint(
            "Copy the image by `skopeo copy --dest-force-compress-format \
             --dest-compress-format gzip`, and take the copy",
        ));
    }
    Ok(LayerSource {
        reader: Box::new(Cancellable {
            file: BufReader::new(file),
            cancel: cancel.clone(),
        }),
        compression: Compression::sniff(&magic),
        diff_id: layer.diff_id,
    })
}

/// A layer's bytes until the caller has gone.
struct Cancellable {
    file: BufReader<File>,
    cancel: Cancel,
}

impl Read for Cancellable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the caller gave up"));
        }
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_disk_has_the_smallest_class_that_holds_it() {
        let of = |image_bytes| {
            disk_class(&RootfsStats {
                entries: 1,
                data_bytes: 0,
                image_bytes,
            })
        };
        assert_eq!(of(4096).unwrap(), 16 << 30);
        assert_eq!(of(16 << 30).unwrap(), 16 << 30);
        assert_eq!(of((16 << 30) + 1).unwrap(), 64 << 30);
        assert_eq!(of((1 << 40) + 1).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
