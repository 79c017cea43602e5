//! A writer of cpio archives in the `newc` format, as the kernel unpacks them at boot.
//!
//! Deterministic: the same entries give the same bytes. Every file belongs to root and is dated
//! 1970. Source: kernel Documentation/driver-api/early-userspace/buffer-format.rst.

use anyhow::{Context, Result};

/// File type bits of a mode. Source: inode(7).
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// The fields of a header that differ between entries.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// Adds a directory, mode 0755. `name` has no leading slash.
    pub(crate) fn directory(&mut self, name: &str) -> Result<()> {
        self.append(&Entry {
            name,
            mode: S_IFDIR | 0o755,
            links: 2,
            device: (0, 0),
            data: &[],
        })
    }

    /// Adds a file that may be run, mode 0755.
    pub(crate) fn executable(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.append(&Entry {
            name,
            mode: S_IFREG | 0o755,
            links: 1,
            device: (0, 0),
            data,
        })
    }

    /// Adds a character device, mode 0600.
    pub(crate) fn char_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.append(&Entry {
            name,
            mode: S_IFCHR | 0o600,
            links: 1,
            device: (major, minor),
            data: &[],
        })
    }

    /// Ends the archive and returns it.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.append(&Entry {
            name: TRAILER,
            mode: 0,
            links: 1,
            device: (0, 0),
            data: &[],
        })?;
        Ok(self.bytes)
    }

    fn append(&mut self, entry: &Entry<'_>) -> Result<()> {
        let size = u32::try_from(entry.data.len())
            .with_context(|| format!("`{}` is too large for a cpio archive", entry.name))?;
        let name_size = u32::try_from(entry.name.len() + 1).context("Name is too long")?;
        self.entries += 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check.
        let fields = [
            self.entries,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            size,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.data);
        self.pad();
        Ok(())
    }

    /// Header plus name, and data, each end at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev").unwrap();
        archive.char_device("dev/console", 5, 1).unwrap();
        archive.executable("init", b"hello").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn headers_are_aligned_and_the_archive_ends_with_the_trailer() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        let headers: Vec<_> = (0..bytes.len() - 6)
            .filter(|at| &bytes[*at..at + 6] == b"070701")
            .collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0));
        assert!(
            bytes
                .windows(TRAILER.len())
                .any(|window| window == TRAILER.as_bytes())
        );
    }

    #[test]
    fn a_device_number_stands_in_the_rdev_fields() {
        let bytes = sample();
        let at = bytes
            .windows(11)
            .position(|window| window == b"dev/console")
            .unwrap();
        // rdevmajor and rdevminor end 16 bytes before the name, after namesize and check.
        assert_eq!(&bytes[at - 32..at - 16], b"0000000500000001");
    }
}
