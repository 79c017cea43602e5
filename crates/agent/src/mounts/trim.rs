//! Telling the upper's disk which of its blocks no file uses.
//!
//! A part after the other, each at most as long as a block group: the kernel remembers of a whole
//! group that it was trimmed, and passes over it until a block of it is freed.
//!
//! Source: Linux fs/ext4/mballoc.c (`ext4_trim_fs`), include/uapi/linux/fs.h, fs/ext4/ext4.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use cofferdam_proto::DiskPart;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, fsync, futimens};

/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::Ioctl = 0xc018_5879;

/// `_IOW('f', 43, __u32)`.
const EXT4_IOC_CHECKPOINT: libc::Ioctl = 0x4004_662b;

/// `EXT4_IOC_CHECKPOINT_FLAG_DISCARD`.
const DISCARD_JOURNAL: u32 = 1;

/// Bytes of a block group with blocks of 4 KiB.
const GROUP_BYTES: u64 = 128 << 20;

/// `struct fstrim_range`.
#[repr(C)]
struct Range {
    start: u64,
    bytes: u64,
    /// Shorter runs of free blocks are left alone; none is.
    least_bytes: u64,
}

/// Trims `parts` of the file system that `directory` is on, as long as `goes_on` says so. What
/// cannot be trimmed is left as it is. Allocates nothing.
pub(crate) fn trim(
    directory: BorrowedFd<'_>,
    parts: &[DiskPart],
    mut goes_on: impl FnMut() -> bool,
) {
    for part in parts {
        let end = part.start.saturating_add(part.bytes);
        let mut start = part.start;
        while start < end && goes_on() {
            let next = (start / GROUP_BYTES + 1).saturating_mul(GROUP_BYTES);
            let mut range = Range {
                start,
                bytes: next.min(end) - start,
                least_bytes: 0,
            };
            // SAFETY: the kernel reads and stores one `fstrim_range`; `range` is one and outlives
            // the call.
            let trimmed =
                unsafe { libc::ioctl(directory.as_raw_fd(), FITRIM, &raw mut range) } == 0;
            if !trimmed {
                return;
            }
            start = next;
        }
    }
}

/// Has the journal's transaction written that is under way: blocks of deleted files are free only
/// then. To make it write one, the directory's times are changed. Allocates nothing.
pub(crate) fn commit(directory: BorrowedFd<'_>) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    // Where it fails, what was deleted in the last seconds is not trimmed.
    let _ = futimens(directory, &times).and_then(|()| fsync(directory));
}

/// Writes what the journal holds to its place, and gives back the journal's own blocks.
pub(crate) fn empty_journal(directory: BorrowedFd<'_>) {
    let flags = DISCARD_JOURNAL;
    // SAFETY: the kernel reads one `u32` from `flags`, which outlives the call. A kernel without
    // this call refuses it, and the journal stays.
    let _ = unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_CHECKPOINT, &raw const flags) };
}
