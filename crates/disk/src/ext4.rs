//! Blank ext4 file systems for the writes of a sandbox.

use std::path::Path;

use mkext4::{FsBuilder, InodeCount, Meta, Options, ROOT, sink::FileSink};

use crate::error::{Error, ErrorKind, Result, io as io_error};

/// Smallest upper in bytes: room for a journal and the inode tables.
pub const MIN_UPPER_BYTES: u64 = 16 << 20;

/// Largest upper in bytes: ext4 without the 64-bit feature ends at 2^32 blocks of 4 KiB.
const MAX_UPPER_BYTES: u64 = 8 << 40;

/// One inode for this many bytes, as `mke2fs` has it.
const BYTES_PER_INODE: u64 = 16 << 10;

/// Most inodes; what a huge disk would get by ratio only costs metadata to write.
const MAX_INODES: u64 = 4 << 20;

/// Makes an ext4 of `bytes` bytes with the directories `upper` and `work` that overlayfs wants.
/// The file must not exist; it is sparse.
///
/// Every file of one size is the same, byte for byte: the identity of a disk is its file.
///
/// # Errors
/// [`ErrorKind::InvalidSize`] below 16 MiB, above 8 TiB or when not a multiple of 4096.
pub fn create_upper(path: &Path, bytes: u64) -> Result<()> {
    if !(MIN_UPPER_BYTES..=MAX_UPPER_BYTES).contains(&bytes) || !bytes.is_multiple_of(4096) {
        return Err(Error::new(
            ErrorKind::InvalidSize,
            format!("A disk of {bytes} bytes cannot be made"),
        )
        .hint("Ask for 16 MiB to 8 TiB, in whole pages of 4 KiB"));
    }
    let result = write(path, bytes);
    if result.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn write(path: &Path, bytes: u64) -> Result<()> {
    let failed = |error: mkext4::Error| {
        Error::new(
            ErrorKind::Io,
            format!("Could not make the disk `{}`", path.display()),
        )
        .because(error)
    };
    let mut options = Options::new(bytes, *b"cofferdam-upper\0", 0);
    options.reserved_percent = 0;
    let inodes = (bytes / BYTES_PER_INODE).clamp(2048, MAX_INODES);
    options.inodes = InodeCount::Exact(u32::try_from(inodes).unwrap_or(u32::MAX));
    let mut builder = FsBuilder::new(options).map_err(failed)?;
    for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
        builder
            .mkdir(ROOT, name, Meta::new(mode, 0, 0, (0, 0)))
            .map_err(failed)?;
    }
    let layout = builder.seal().map_err(failed)?;
    let mut sink = FileSink::create(path, bytes).map_err(|error| {
        io_error(
            format!("Could not make the disk `{}`", path.display()),
            error,
        )
    })?;
    layout
        .writer(&mut sink)
        .and_then(|writer| writer.finish())
        .map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::allocated_bytes;

    #[test]
    fn an_upper_is_sparse_and_has_the_asked_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        create_upper(&path, 10 << 30).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10 << 30);
        assert!(allocated_bytes(&path).unwrap() < 8 << 20);
    }

    #[test]
    fn an_upper_is_clean_by_e2fsck() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [MIN_UPPER_BYTES, 1 << 30, 10 << 30] {
            let path = dir.path().join(bytes.to_string());
            create_upper(&path, bytes).unwrap();
            match Command::new("/sbin/e2fsck").arg("-fn").arg(&path).output() {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(error) => println!("SKIP an_upper_is_clean_by_e2fsck: {error}"),
            }
        }
    }

    #[test]
    fn odd_sizes_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper");
        for bytes in [
            0,
            MIN_UPPER_BYTES - 4096,
            MIN_UPPER_BYTES + 1,
            MAX_UPPER_BYTES + 4096,
        ] {
            assert_eq!(
                create_upper(&path, bytes).unwrap_err().kind(),
                ErrorKind::InvalidSize
            );
            assert!(!path.exists());
        }
    }
}
