//! Directories as blocks of sorted entries.
//!
//! ```text
//! { [inode number: u64 LE][name offset: u16 LE][type: u8][reserved: u8] } …  { name } …
//! ```
//!
//! Names are sorted as bytes within and across blocks, `.` and `..` among them; the last name of a
//! block ends with the block, the directory, or a NUL.
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h, `struct erofs_dirent`; fs/erofs/namei.c for the order.

use super::bits::{BLOCK_BYTES, BLOCK_BYTES_U64, DIRENT_BYTES};
use crate::tree::{Directory, InodeId};

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) id: InodeId,
}

/// All entries of a directory in order.
pub(super) fn entries(id: InodeId, directory: &Directory) -> Vec<Dirent<'_>> {
    let children = directory.children.iter();
    let mut entries: Vec<Dirent<'_>> = children
        .map(|(name, child)| Dirent { name, id: child.id })
        .collect();
    for (name, id) in [(&b"."[..], id), (b"..", directory.parent)] {
        let place = entries.partition_point(|entry| entry.name < name);
        entries.insert(place, Dirent { name, id });
    }
    entries
}

/// The entries block by block.
pub(super) fn blocks<'e, 'a>(entries: &'e [Dirent<'a>]) -> impl Iterator<Item = &'e [Dirent<'a>]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = |entry: &&Dirent<'_>| {
            used += DIRENT_BYTES + entry.name.len();
            used <= BLOCK_BYTES
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// Bytes of the whole directory: full blocks and what the last one uses.
pub(super) fn size(entries: &[Dirent<'_>]) -> u64 {
    let (mut count, mut last) = (0_u64, 0);
    for block in blocks(entries) {
        count += 1;
        last = block
            .iter()
            .map(|entry| DIRENT_BYTES + entry.name.len())
            .sum();
    }
    count.saturating_sub(1) * BLOCK_BYTES_U64 + last as u64
}

/// Appends one block, without padding. `resolve` gives an inode's number and type.
pub(super) fn encode(
    block: &[Dirent<'_>],
    resolve: impl Fn(InodeId) -> (u64, u8),
    to: &mut Vec<u8>,
) {
    let mut name_offset = block.len() * DIRENT_BYTES;
    for entry in block {
        let (number, file_type) = resolve(entry.id);
        let offset = u16::try_from(name_offset).expect("a name starts within its block");
        to.extend_from_slice(&number.to_le_bytes());
        to.extend_from_slice(&offset.to_le_bytes());
        to.extend_from_slice(&[file_type, 0]);
        name_offset += entry.name.len();
    }
    for entry in block {
        to.extend_from_slice(entry.name);
    }
}
