//! A capture's disks: copied while the guest writes, then made to be of one moment.
//!
//! ```text
//! begin   a bitmap on the disk's node notes what is written from now on; the file is copied, and
//!         in rounds what was written meanwhile (see [`super::rounds`])
//! take    the machine stands still: a job is started that copies what the bitmap notes
//! settle  the job has preserved what the guest overwrote meanwhile, and is over
//! ```
//! The job is QEMU's: it copies a cluster before the guest's next write to it goes through.
//! Source: QEMU `docs/interop/bitmaps.rst`, `qapi/block-core.json`.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_backend::{Error, ErrorKind, Result};

use super::files::FileCreator;
use crate::{
    argv,
    control::{self, BitmapEnd, JOB_TIMEOUT},
    controlled::WritableDisk,
    qmp::{JobEnd, Qmp},
};

/// A disk on its way into a file.
#[derive(Debug)]
pub(super) struct DiskCopy {
    source: WritableDisk,
    target: PathBuf,
    /// Name of the bitmap, the target's node and the job; each is of a kind of its own.
    name: String,
    maker: FileCreator,
    has_bitmap: bool,
    has_target: bool,
    /// Whether the guest's writes are slowed down.
    is_slowed: bool,
    job: Option<JobEnd>,
}

impl DiskCopy {
    /// A copy that has not begun. `capture` is a number that no other capture of the machine has.
    pub(super) fn new(
        source: WritableDisk,
        target: PathBuf,
        capture: u64,
        maker: FileCreator,
    ) -> Self {
        Self {
            name: format!("capture{capture}-{}", source.node),
            source,
            target,
            maker,
            has_bitmap: false,
            has_target: false,
            is_slowed: false,
            job: None,
        }
    }

    /// Copies the disk as it is now, and lets QEMU note what changes from here on.
    pub(super) async fn copy_ahead(&mut self, qmp: &Qmp) -> Result<()> {
        self.has_bitmap = true;
        control::add_bitmap(qmp, &self.source.node, &self.name).await?;
        self.copy().await?;
        self.has_target = true;
        control::add_target(qmp, &self.name, argv::text(&self.target)?).await
    }

    /// Copies the disk's file as it is now.
    pub(super) async fn copy(&self) -> Result<()> {
        let (from, to) = (Arc::clone(&self.source.file), self.target.clone());
        let maker = self.maker.clone();
        super::blocking(move || {
            let copied = copy_file(&from, &to);
            maker.made(&to);
            copied
        })
        .await
    }

    /// Bytes that were written and are not in the copy yet.
    pub(super) async fn left_bytes(&self, qmp: &Qmp) -> Result<u64> {
        control::bitmap_bytes(qmp, &self.source.node, &self.name).await
    }

    /// Copies what was written until now; what is written meanwhile is noted anew.
    pub(super) async fn copy_changes(&mut self, qmp: &Qmp) -> Result<()> {
        self.job = Some(qmp.job_end(&self.name));
        control::start_backup(qmp, &self.source.node, &self.name, BitmapEnd::Clear).await?;
        self.finish().await
    }

    /// Has the host write to its disk what QEMU has written to the file: QEMU does it when it stops
    /// the vCPUs, and then has little to do.
    pub(super) async fn flush_source(&self) -> Result<()> {
        let file = Arc::clone(&self.source.file);
        super::blocking(move || file.sync_data().map_err(unflushed)).await
    }

    /// The same for the copy.
    pub(super) async fn flush_copy(&self) -> Result<()> {
        let path = self.target.clone();
        super::blocking(move || {
            let synced = File::open(path).and_then(|file| file.sync_data());
            synced.map_err(unflushed)
        })
        .await
    }

    /// From now on the guest writes no more than this many bytes in a second.
    pub(super) async fn slow_down(&mut self, qmp: &Qmp, bytes: u64) -> Result<()> {
        self.is_slowed = true;
        control::limit_writes(qmp, &self.source.device, bytes).await
    }

    /// Ends [`Self::slow_down`].
    pub(super) async fn let_loose(&mut self, qmp: &Qmp) -> Result<()> {
        if std::mem::take(&mut self.is_slowed) {
            control::limit_writes(qmp, &self.source.device, 0).await?;
        }
        Ok(())
    }

    /// Pins the disk as it is now. The machine is paused.
    pub(super) async fn pin(&mut self, qmp: &Qmp) -> Result<()> {
        self.job = Some(qmp.job_end(&self.name));
        control::start_backup(qmp, &self.source.node, &self.name, BitmapEnd::Keep).await
    }

    /// Waits until what was pinned is in the file.
    pub(super) async fn finish(&mut self) -> Result<()> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let result = control::within(JOB_TIMEOUT, "a disk's copy", job.wait()).await?;
        self.job = None;
        result
    }

    /// Takes down what the copy has set up in QEMU; tries all and returns the first failure.
    pub(super) async fn take_down(&mut self, qmp: &Qmp) -> Result<()> {
        let mut result = self.let_loose(qmp).await;
        if let Some(mut job) = self.job.take() {
            // It may not have been started, or be over; its end is what counts.
            if control::cancel_job(qmp, &self.name).await.is_ok() {
                let ended = control::within(JOB_TIMEOUT, "a copy's end", job.wait()).await;
                // That it was cancelled is no failure here.
                let ended = ended.map(drop);
                result = result.and(ended);
            }
        }
        if std::mem::take(&mut self.has_target) {
            result = result.and(control::remove_target(qmp, &self.name).await);
        }
        if std::mem::take(&mut self.has_bitmap) {
            result = result.and(control::remove_bitmap(qmp, &self.source.node, &self.name).await);
        }
        result
    }
}

/// Copies what is open, whatever its path is by now.
fn copy_file(from: &File, to: &Path) -> Result<()> {
    let opened = PathBuf::from(format!("/proc/self/fd/{}", from.as_raw_fd()));
    cofferdam_disk::copy_sparse(&opened, to).map_err(|error| {
        let what = format!("The disk cannot be copied to `{}`", to.display());
        Error::new(ErrorKind::Io, what).because(error)
    })
}

fn unflushed(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "The disk cannot be flushed").because(error)
}
