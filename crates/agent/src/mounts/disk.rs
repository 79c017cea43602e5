//! The machine's disks, found by the serial number that the host gave them.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
};

use cofferdam_proto::FailureKind;

use crate::failure::{OrFail, Result, failure};

/// `_IO(0x12, 97)` of linux/fs.h.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// `_IOWR('X', 119, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xc004_5877;

/// The device node of the disk with serial number `serial`, with nothing of it cached: a restored
/// machine may have another file behind a disk than the one that its kernel probed.
pub(crate) fn find(serial: &str) -> Result<String> {
    let failed = || format!("Could not look for the disk `{serial}`");
    for entry in fs::read_dir("/sys/block").or_fail(FailureKind::Mount, failed)? {
        let entry = entry.or_fail(FailureKind::Mount, failed)?;
        let Ok(found) = fs::read_to_string(entry.path().join("serial")) else {
            continue;
        };
        if found.trim_end() == serial {
            let node = format!("/dev/{}", entry.file_name().to_string_lossy());
            drop_cache(&node)?;
            return Ok(node);
        }
    }
    Err(failure(
        FailureKind::Mount,
        format!("Machine has no disk `{serial}`"),
    ))
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
