//! What a reader lets a bundle ask for.

use super::format::{MAX_FILE_BYTES, MAX_FILES};

/// The most that a reader accepts from a bundle. Beyond it is a
/// [`TooLarge`](crate::ErrorKind::TooLarge), noticed before anything is allocated or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleLimits {
    /// Bytes of data in all files together, holes not counted: what unpacking can take on a disk.
    pub data_bytes: u64,
    /// Length of one file in bytes, holes included.
    pub file_bytes: u64,
    /// Number of files.
    pub files: usize,
}

impl BundleLimits {
    /// Unpacks at most `data_bytes` bytes, such as the free space of the disk; the rest is what
    /// the format allows: 64 files of 8 TiB.
    #[must_use]
    pub const fn new(data_bytes: u64) -> Self {
        Self {
            data_bytes,
            file_bytes: MAX_FILE_BYTES,
            files: MAX_FILES,
        }
    }
}
