//! The machine's disks, found by the serial number that the host gave them.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
};

use cofferdam_proto::{FailureKind, ROOT_DISK_SERIAL, UPPER_DISK_SERIAL};

use crate::failure::{OrFail, Result, failure};

/// `_IO(0x12, 97)` of linux/fs.h.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// `_IOWR('X', 119, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xc004_5877;

/// `_IOWR('X', 120, int)` of linux/fs.h.
const FITHAW: libc::Ioctl = 0xc004_5878;

/// The device nodes of the machine's disks.
#[derive(Debug)]
pub(super) struct Disks {
    root: Option<String>,
    upper: Option<String>,
}

impl Disks {
    /// Looks for the disks. Done at boot: each answer is a request to a device.
    pub(super) fn find() -> Result<Self> {
        let failed = || "Could not look for disks";
        let mut disks = Self {
            root: None,
            upper: None,
        };
        for entry in fs::read_dir("/sys/block").or_fail(FailureKind::Mount, failed)? {
            let entry = entry.or_fail(FailureKind::Mount, failed)?;
            let Ok(serial) = fs::read_to_string(entry.path().join("serial")) else {
                continue;
            };
            let node = format!("/dev/{}", entry.file_name().to_string_lossy());
            match serial.trim_end() {
                ROOT_DISK_SERIAL => disks.root = Some(node),
                UPPER_DISK_SERIAL => disks.upper = Some(node),
                _ => {}
            }
        }
        Ok(disks)
    }

    /// The node of the image's disk, with nothing of it cached: a restored machine may have
    /// another file behind a disk than the one that its kernel probed.
    pub(super) fn root(&self) -> Result<&str> {
        fresh(self.root.as_deref(), ROOT_DISK_SERIAL)
    }

    /// The same for the disk that takes the writes.
    pub(super) fn upper(&self) -> Result<&str> {
        fresh(self.upper.as_deref(), UPPER_DISK_SERIAL)
    }
}

fn fresh<'a>(node: Option<&'a str>, serial: &str) -> Result<&'a str> {
    let missing = || {
        failure(
            FailureKind::Mount,
            format!("Machine has no disk `{serial}`"),
        )
    };
    let node = node.ok_or_else(missing)?;
    drop_cache(node)?;
    Ok(node)
}

fn drop_cache(node: &str) -> Result<()> {
    let failed = || format!("Could not drop what is cached of `{node}`");
    let disk = File::open(node).or_fail(FailureKind::Mount, failed)?;
    // SAFETY: `BLKFLSBUF` takes no argument; `disk` is open.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKFLSBUF, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).or_fail(FailureKind::Mount, failed),
    }
}

/// Writes everything to the disk that `directory` is on, marks it clean and lets nobody write to
/// it any more.
pub(crate) fn freeze(directory: &OwnedFd) -> Result<()> {
    // SAFETY: `FIFREEZE` ignores its argument; `directory` is open.
    match unsafe { libc::ioctl(directory.as_raw_fd(), FIFREEZE, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .or_fail(FailureKind::Internal, || "Could not freeze the upper"),
    }
}

/// Lets write to the disk again.
pub(crate) fn thaw(directory: &OwnedFd) -> Result<()> {
    // SAFETY: `FITHAW` ignores its argument; `directory` is open.
    match unsafe { libc::ioctl(directory.as_raw_fd(), FITHAW, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .or_fail(FailureKind::Internal, || "Could not thaw the upper"),
    }
}
