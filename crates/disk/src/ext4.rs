//! Blank ext4 file systems for the writes of a sandbox.

use std::{io::Read as _, path::Path};

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

/// Files in the directory `spare`, and the size of each in bytes: inodes and blocks that the agent
/// can free when a full disk has to be mounted.
const SPARE_FILES: u32 = 16;
const SPARE_FILE_BYTES: u64 = 4096;

/// Makes an ext4 of `bytes` bytes with the directories `upper` and `work` that overlayfs wants, and with spare files.
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
    let spare = builder
        .mkdir(ROOT, "spare", Meta::new(0o700, 0, 0, (0, 0)))
        .map_err(failed)?;
    let mut files = Vec::new();
    for number in 0..SPARE_FILES {
        let meta = Meta::new(0o600, 0, 0, (0, 0));
        let file = builder.file(spare, &number.to_string(), meta, SPARE_FILE_BYTES);
        files.push(file.map_err(failed)?);
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
        .and_then(|mut writer| {
            for file in files {
                writer.fill(file, &mut std::io::repeat(0).take(SPARE_FILE_BYTES))?;
            }
            writer.finish()
        })
        .map_err(failed)?;
    drop(sink);
    allow_large_attributes(path).map_err(|error| {
        io_error(
            format!("Could not make the disk `{}`", path.display()),
            error,
        )
    })
}

/// Offset of the superblock, in bytes. *Source:* Linux fs/ext4/ext4.h, `struct ext4_super_block`,
/// for all that follows.
const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const FEATURE_INCOMPAT: std::ops::Range<usize> = 0x60..0x64;
const CHECKSUM: std::ops::Range<usize> = 0x3fc..0x400;
/// `EXT4_FEATURE_INCOMPAT_EA_INODE`: values of attributes that do not fit a block have an inode.
const EA_INODE: u32 = 0x400;

/// Turns on the feature by which values of attributes may have up to 64 KiB, as an image's may.
/// Without it a file with a larger one than 4 KiB cannot be copied up. It costs nothing until
/// there is such a value. The builder of file systems has no option for it.
fn allow_large_attributes(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET)?;
    let word = |range: std::ops::Range<usize>| {
        let bytes = superblock[range].try_into().unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let features = word(FEATURE_INCOMPAT) | EA_INODE;
    superblock[FEATURE_INCOMPAT].copy_from_slice(&features.to_le_bytes());
    let checksum = crc32c(&superblock[..CHECKSUM.start]);
    superblock[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    file.write_all_at(&superblock, SUPERBLOCK_OFFSET)
}

/// CRC-32C as ext4 has it: begun with all ones and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    /// The Castagnoli polynomial, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            crc >> 1 ^ carry
        })
    })
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
    fn an_upper_takes_large_attributes() {
        // RFC 3720 appendix B.4: 32 bytes of zeros; there the result is inverted.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        create_upper(&path, MIN_UPPER_BYTES).unwrap();
        match Command::new("/sbin/dumpe2fs").arg("-h").arg(&path).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(text.contains("ea_inode"), "{text}");
                assert!(output.status.success(), "{output:?}");
            }
            Err(error) => cofferdam_testkit::skip(&format!("dumpe2fs: {error}")),
        }
    }

    #[test]
    fn an_upper_is_clean_by_e2fsck() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [MIN_UPPER_BYTES, 1 << 30, 10 << 30] {
            let path = dir.path().join(bytes.to_string());
            create_upper(&path, bytes).unwrap();
            match Command::new("/sbin/e2fsck").arg("-fn").arg(&path).output() {
                Ok(output) => assert!(output.status.success(), "{output:?}"),
                Err(error) => cofferdam_testkit::skip(&format!("e2fsck: {error}")),
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
