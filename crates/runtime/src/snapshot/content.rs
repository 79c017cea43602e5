//! The digest of a sparse file: the same for the same content, however its holes lie.
//!
//! SHA-256 over the length (u64 LE) and, for each 4096-byte block that is not all zeroes, its
//! offset (u64 LE) and its bytes (the last block as long as it is).

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path};

use cofferdam_types::Digest;
use sha2::{Digest as _, Sha256};

const BLOCK_BYTES: usize = 4096;

/// Larger reads gain nothing.
const READ_BYTES: u64 = 1 << 20;

/// The digest of the file at `path`, and its length in bytes.
///
/// # Errors
/// The file system's.
///
/// # Blocking
/// Reads all data of the file: 100 MiB in 0.1 s.
pub(crate) fn digest(path: &Path) -> io::Result<(Digest, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(length.to_le_bytes());
    let mut buffer = vec![0; usize::try_from(READ_BYTES).map_err(io::Error::other)?];
    // Blocks are counted from the file's start wherever a hole ends.
    for range in cofferdam_disk::data_ranges(&file, length, BLOCK_BYTES as u64) {
        let Range { start: mut at, end } = range?;
        while at < end {
            let want = usize::try_from(READ_BYTES.min(end - at)).map_err(io::Error::other)?;
            let part = &mut buffer[..want];
            file.read_exact_at(part, at)?;
            for (index, block) in part.chunks(BLOCK_BYTES).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    hash.update((at + (index * BLOCK_BYTES) as u64).to_le_bytes());
                    hash.update(block);
                }
            }
            at += want as u64;
        }
    }
    Ok((Digest::from_sha256(hash.finalize().into()), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, length: u64, writes: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = dir.join(name);
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in writes {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    #[test]
    fn written_zeroes_and_holes_are_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        let zeroes = vec![0; 3 << 20];
        let sparse = file(dir.path(), "sparse", 5 << 20, &[(4 << 20, b"x")]);
        let dense = file(
            dir.path(),
            "dense",
            5 << 20,
            &[(0, &zeroes), (4 << 20, b"x")],
        );
        assert_eq!(digest(&sparse).unwrap(), digest(&dense).unwrap());
    }

    #[test]
    fn a_moved_or_changed_byte_and_another_length_are_other_content() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, length, writes: &[(u64, &[u8])]| {
            digest(&file(dir.path(), name, length, writes)).unwrap().0
        };
        let digests = [
            of("empty", 1 << 20, &[]),
            of("longer", (1 << 20) + 1, &[]),
            of("byte", 1 << 20, &[(4096, b"x")]),
            of("moved", 1 << 20, &[(8192, b"x")]),
            of("changed", 1 << 20, &[(4096, b"y")]),
        ];
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    #[test]
    fn the_last_block_may_be_short() {
        let dir = tempfile::tempdir().unwrap();
        let (one, length) = digest(&file(dir.path(), "a", 5000, &[(4999, b"x")])).unwrap();
        assert_eq!(length, 5000);
        let (other, _) = digest(&file(dir.path(), "b", 5000, &[(4998, b"x")])).unwrap();
        assert_ne!(one, other);
    }
}
