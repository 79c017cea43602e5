//! The superblock.
//!
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h, `struct erofs_super_block`; fs/erofs/super.c,
//! erofs_superblock_csum_verify.

use std::{fs::File, os::unix::fs::FileExt};

use cofferdam_types::Digest;

use super::{
    bits::{
        BLOCK_BITS, BLOCK_BYTES, FEATURE_COMPAT_MTIME, FEATURE_COMPAT_SB_CHKSUM, SUPER_MAGIC,
        SUPER_OFFSET,
    },
    writer::write_error,
};
use crate::error::Result;

/// What differs between images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) metadata_block: u32,
    /// Of the layers; gives the volume its id.
    pub(super) identity: Digest,
}

impl Superblock {
    /// Writes block 0.
    pub(super) fn write(&self, out: &File) -> Result<()> {
        let block = self.encode();
        out.write_all_at(&block, 0).map_err(write_error)
    }

    fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            let start = SUPER_OFFSET + offset;
            block[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &SUPER_MAGIC.to_le_bytes());
        put(
            8,
            &(FEATURE_COMPAT_SB_CHKSUM | FEATURE_COMPAT_MTIME).to_le_bytes(),
        );
        put(12, &[BLOCK_BITS]);
        put(14, &self.root_nid.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.metadata_block.to_le_bytes());
        put(48, &self.uuid());
        // The checksum covers the rest of the block, with its own field as zeros.
        let checksum = crc32c(&block[SUPER_OFFSET..]);
        block[SUPER_OFFSET + 4..SUPER_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// A version 8 UUID (RFC 9562 §5.8) from the layers, so that equal images are equal.
    fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&self.identity.as_bytes()[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// CRC-32C (Castagnoli, reflected 0x82f63b78) from all ones, not inverted at the end, as the
/// kernel's `crc32c(~0, …)` is.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            let carry = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc >> 1 ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_matches_the_published_check_value() {
        // RFC 3720 §B.4: 32 bytes of zeros; published inverted.
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }
}
