//! The constants of the format and the rules for single values.
//!
//! Source: the module's head. Used by both sides, so that nothing is written that is not read.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// First bytes of every bundle.
pub(super) const MAGIC: [u8; 8] = *b"\x89CDB\r\n\x1a\n";

/// The version that this program writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;

/// Bytes of a part before its payload.
pub(super) const PART_HEAD_BYTES: usize = 8;

/// Bytes of a seal: a SHA-256.
pub(super) const SEAL_BYTES: usize = 32;

/// Granularity of extents.
pub(super) const BLOCK_BYTES: usize = 4096;

/// Most blocks of one `DATA` part.
pub(super) const MAX_PART_BLOCKS: usize = 256;

/// Most bytes of file content in one `DATA` part.
pub(super) const MAX_PART_DATA_BYTES: usize = MAX_PART_BLOCKS * BLOCK_BYTES;

/// Bytes of one extent in the table: skip and run.
pub(super) const EXTENT_BYTES: usize = 8;

/// Longest zstd frame: 1 MiB that does not compress grows by 1/256 (`ZSTD_COMPRESSBOUND`, zstd.h).
pub(super) const MAX_FRAME_BYTES: usize = MAX_PART_DATA_BYTES + (MAX_PART_DATA_BYTES >> 8);

/// Longest payload of a `DATA` part.
pub(super) const MAX_DATA_PAYLOAD_BYTES: usize =
    4 + MAX_PART_BLOCKS * EXTENT_BYTES + MAX_FRAME_BYTES;

/// Longest manifest.
pub(super) const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Longest file: the largest disk that a sandbox can have.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 40;

/// Most files of a bundle.
pub(super) const MAX_FILES: usize = 64;

/// Longest name of a file.
pub(super) const MAX_NAME_BYTES: usize = 64;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Manifest,
    File,
    Data,
    FileEnd,
    End,
}

impl PartKind {
    const ALL: [Self; 5] = [
        Self::Manifest,
        Self::File,
        Self::Data,
        Self::FileEnd,
        Self::End,
    ];

    pub(super) const fn tag(self) -> [u8; 4] {
        match self {
            Self::Manifest => *b"MANI",
            Self::File => *b"FILE",
            Self::Data => *b"DATA",
            Self::FileEnd => *b"DONE",
            Self::End => *b"LAST",
        }
    }

    pub(super) fn from_tag(tag: [u8; 4]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.tag() == tag)
    }

    /// Longest payload that a part of this kind can have.
    pub(super) const fn max_payload_bytes(self) -> usize {
        match self {
            Self::Manifest => MAX_MANIFEST_BYTES,
            Self::File => 8 + MAX_NAME_BYTES,
            Self::Data => MAX_DATA_PAYLOAD_BYTES,
            Self::FileEnd | Self::End => 0,
        }
    }
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.tag()))
    }
}

/// The head of a bundle of this program.
pub(super) fn encode_head() -> Vec<u8> {
    let flags = 0_u32;
    [
        MAGIC.as_slice(),
        &VERSION.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// Checks the version, given without a doubt that this is a bundle.
pub(super) fn check_version(version: u32) -> Result<()> {
    match version {
        VERSION => Ok(()),
        0 => Err(damaged("The bundle names version 0, which never was")),
        _ => Err(Error::new(
            ErrorKind::Newer {
                found: version,
                known: VERSION,
            },
            format!("The bundle has format version {version}, this program knows versions up to {VERSION}"),
        )
        .hint("Import it with a newer `coffer`")),
    }
}

/// Checks the flags of a bundle of version 1.
pub(super) fn check_flags(flags: u32) -> Result<()> {
    if flags == 0 {
        return Ok(());
    }
    Err(damaged(format!(
        "The bundle sets the flags `{flags:#010x}`, and its version has none"
    )))
}

/// Whether a file of a bundle may be called `name`: it is one harmless component of a path, is no
/// option to any program and does not hide.
pub(super) fn is_valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// A bundle that is not as it was written, or was written to deceive.
pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, what)
}

/// Something of a bundle that exceeds a limit.
pub(super) fn too_large(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::TooLarge, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_component() {
        for name in ["memory", "upper.ext4", "0", "a_b-c.d", &"n".repeat(64)] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "-rf",
            "_x",
            "a/b",
            "/a",
            "A",
            "a b",
            "é",
            "a\0",
            "a\n",
            &"n".repeat(65),
        ] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn the_longest_frame_is_what_zstd_may_need() {
        assert_eq!(
            zstd::zstd_safe::compress_bound(MAX_PART_DATA_BYTES),
            MAX_FRAME_BYTES
        );
    }
}
