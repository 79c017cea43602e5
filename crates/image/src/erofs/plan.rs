//! Where each inode and each directory block goes, and then writing them.
//!
//! Numbers of inodes are places, and directories name their children by number, so all places are
//! fixed before the first byte is written.

use std::{collections::VecDeque, fs::File};

use super::{
    bits::{BLOCK_BYTES, BLOCK_BYTES_U64, INODE_BYTES, NO_BLOCK, SLOT_BYTES, XATTR_HEADER_BYTES},
    data::image_full,
    directory::{self, Dirent},
    inode::{self, InodeFields},
    writer::RegionWriter,
    xattr,
};
use crate::{
    error::{Error, ErrorKind, Result},
    tree::{Directory, Inode, InodeId, InodeKind, ROOT, Tree},
};

/// Partly filled metadata blocks that the next inode may still go to. More would pack a little
/// tighter and put inodes of one directory further apart.
const OPEN_BLOCKS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    metadata_block: u32,
    /// By inode.
    places: Vec<InodePosition>,
    /// All inodes in the order of their places.
    order: Vec<InodeId>,
    /// Inodes with blocks of their own in the last area, in order.
    outlying: Vec<InodeId>,
    end_block: u32,
    data_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct InodePosition {
    /// Bytes from the start of the metadata.
    offset: u64,
    /// Of directories and links with blocks of their own.
    first_block: u32,
    /// Bytes of a directory or a link.
    size: u64,
    is_inline: bool,
}

impl Plan {
    /// Fixes all places; the metadata starts at block `metadata_block`.
    pub(super) fn new(tree: &Tree, metadata_block: u32) -> Result<Self> {
        let mut plan = Self {
            metadata_block,
            places: vec![InodePosition::default(); tree.slots()],
            order: Vec::new(),
            outlying: Vec::new(),
            end_block: metadata_block,
            data_bytes: 0,
        };
        let mut packer = Packer::new();
        plan.place(tree, ROOT, &mut packer);
        let mut directories = vec![ROOT];
        // Children of one directory stand together, since programs ask for them together.
        while let Some(directory) = directories.pop().and_then(|id| tree.as_directory(id)) {
            let below = directories.len();
            for child in directory.children.values() {
                let id = child.id;
                // A file with several names is met several times.
                if plan.places[id.index()].offset == 0 {
                    plan.place(tree, id, &mut packer);
                }
                if tree.as_directory(id).is_some() {
                    directories.push(id);
                }
            }
            directories[below..].reverse();
        }
        plan.place_outlying(packer.blocks)?;
        // `fsck.erofs` 1.5 reads where attributes would be, also of an inode that has none.
        if plan.outlying.is_empty() && packer.ends_with_inode() {
            plan.end_block += 1;
        }
        let places = &plan.places;
        plan.order
            .sort_unstable_by_key(|id| places[id.index()].offset);
        Ok(plan)
    }

    pub(super) fn inodes(&self) -> u64 {
        self.order.len() as u64
    }

    pub(super) fn blocks(&self) -> u32 {
        self.end_block
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The number of the root, which has only 16 bits in the superblock; it is placed first.
    pub(super) fn root_nid(&self) -> Result<u16> {
        u16::try_from(self.number(ROOT)).map_err(|error| {
            Error::new(ErrorKind::TooLarge, "The root directory lies too far back").because(error)
        })
    }

    /// Writes the metadata and what lies behind it.
    pub(super) fn write(&self, tree: &Tree, out: &File) -> Result<()> {
        let start = u64::from(self.metadata_block) * BLOCK_BYTES_U64;
        let mut writer = RegionWriter::new(out, start);
        for (position, &id) in self.order.iter().enumerate() {
            writer.pad_to(start + self.places[id.index()].offset)?;
            writer.append(|buffer| self.encode_inode(tree, id, position, buffer))?;
        }
        writer.pad_to_block()?;
        for &id in &self.outlying {
            self.write_outlying(tree, id, &mut writer)?;
        }
        writer.flush()
    }

    fn place(&mut self, tree: &Tree, id: InodeId, packer: &mut Packer) {
        let inode = tree.inode(id);
        let head = INODE_BYTES + xattr::body_bytes(&inode.metadata.xattrs);
        let (size, tail) = match &inode.kind {
            InodeKind::File(data) => {
                self.data_bytes += data.size;
                (data.size, data.tail.len())
            }
            InodeKind::Symlink(target) => tail_of(target.len() as u64),
            InodeKind::Directory(children) => {
                tail_of(directory::size(&directory::entries(id, children)))
            }
            _ => (0, 0),
        };
        let is_inline = tail > 0 && head + tail <= BLOCK_BYTES;
        let offset = packer.place(head + if is_inline { tail } else { 0 });
        let has_own_blocks = !matches!(inode.kind, InodeKind::File(_))
            && size > if is_inline { tail as u64 } else { 0 };
        if has_own_blocks {
            self.outlying.push(id);
        }
        self.places[id.index()] = InodePosition {
            offset,
            first_block: NO_BLOCK,
            size,
            is_inline,
        };
        self.order.push(id);
    }

    /// Gives blocks to what does not fit beside its inode.
    fn place_outlying(&mut self, metadata_blocks: u64) -> Result<()> {
        let mut next = u64::from(self.metadata_block) + metadata_blocks;
        let bounded = |block: u64| {
            let block = u32::try_from(block).ok().filter(|&block| block < NO_BLOCK);
            block.ok_or_else(image_full)
        };
        for id in &self.outlying {
            let place = &mut self.places[id.index()];
            place.first_block = bounded(next)?;
            next += if place.is_inline {
                place.size / BLOCK_BYTES_U64
            } else {
                place.size.div_ceil(BLOCK_BYTES_U64)
            };
        }
        self.end_block = bounded(next)?;
        Ok(())
    }

    fn number(&self, id: InodeId) -> u64 {
        self.places[id.index()].offset / SLOT_BYTES
    }

    fn encode_inode(&self, tree: &Tree, id: InodeId, position: usize, buffer: &mut Vec<u8>) {
        let inode = tree.inode(id);
        let place = &self.places[id.index()];
        let block_or_device = match &inode.kind {
            InodeKind::File(data) if data.blocks > 0 => data.first_block,
            InodeKind::Directory(_) | InodeKind::Symlink(_) => place.first_block,
            kind => inode::device(kind),
        };
        let xattrs = &inode.metadata.xattrs;
        let fields = InodeFields {
            mode_type: inode::file_type(&inode.kind).0,
            size: place.size,
            is_inline: place.is_inline,
            block_or_device,
            number: u32::try_from(position + 1).expect("fewer than 2^32 inodes"),
            links: links(tree, inode),
            xattr_count: xattr::count(xattr::body_bytes(xattrs)),
        };
        inode::encode(&inode.metadata, &fields, buffer);
        xattr::encode(xattrs, buffer);
        if !place.is_inline {
            return;
        }
        match &inode.kind {
            InodeKind::File(data) => buffer.extend_from_slice(&data.tail),
            InodeKind::Symlink(target) => buffer.extend_from_slice(target),
            InodeKind::Directory(children) => {
                let entries = directory::entries(id, children);
                if let Some(last) = directory::blocks(&entries).last() {
                    self.encode_block(tree, last, buffer);
                }
            }
            _ => {}
        }
    }

    fn encode_block(&self, tree: &Tree, block: &[Dirent<'_>], buffer: &mut Vec<u8>) {
        let resolve = |id| (self.number(id), inode::file_type(&tree.inode(id).kind).1);
        directory::encode(block, resolve, buffer);
    }

    fn write_outlying(
        &self,
        tree: &Tree,
        id: InodeId,
        writer: &mut RegionWriter<'_>,
    ) -> Result<()> {
        match &tree.inode(id).kind {
            InodeKind::Directory(children) => self.write_directory(tree, id, children, writer),
            InodeKind::Symlink(target) => {
                writer.append(|buffer| buffer.extend_from_slice(target))?;
                writer.pad_to_block()
            }
            _ => Ok(()),
        }
    }

    fn write_directory(
        &self,
        tree: &Tree,
        id: InodeId,
        children: &Directory,
        writer: &mut RegionWriter<'_>,
    ) -> Result<()> {
        let entries = directory::entries(id, children);
        let mut blocks: VecDeque<_> = directory::blocks(&entries).collect();
        if self.places[id.index()].is_inline {
            blocks.pop_back();
        }
        for block in blocks {
            writer.append(|buffer| self.encode_block(tree, block, buffer))?;
            writer.pad_to_block()?;
        }
        Ok(())
    }
}

/// Size and last part of data that may all go beside the inode.
fn tail_of(size: u64) -> (u64, usize) {
    (
        size,
        usize::try_from(size % BLOCK_BYTES_U64).unwrap_or_default(),
    )
}

/// Link count: names, and for a directory itself and its children's `..` too.
fn links(tree: &Tree, inode: &Inode) -> u32 {
    let InodeKind::Directory(directory) = &inode.kind else {
        return inode.names;
    };
    let children = directory.children.values();
    let subdirectories = children
        .filter(|child| tree.as_directory(child.id).is_some())
        .count();
    u32::try_from(subdirectories + 2).unwrap_or(u32::MAX)
}

/// Hands out places in the metadata such that nothing crosses a block that could stay within one.
struct Packer {
    blocks: u64,
    /// Blocks with room: number and bytes used.
    open: VecDeque<(u64, usize)>,
}

impl Packer {
    fn new() -> Self {
        // Place 0 stays empty: programs take inode number 0 for "none".
        Self {
            blocks: 1,
            open: VecDeque::from([(0, INODE_BYTES)]),
        }
    }

    fn place(&mut self, len: usize) -> u64 {
        let slot = usize::try_from(SLOT_BYTES).unwrap_or(INODE_BYTES);
        let room = len.next_multiple_of(slot);
        if let Some((block, used)) = self
            .open
            .iter_mut()
            .find(|(_, used)| *used + len <= BLOCK_BYTES)
        {
            let offset = *block * BLOCK_BYTES_U64 + *used as u64;
            *used += room;
            return offset;
        }
        // Long attributes take whole blocks.
        let first = self.blocks;
        let count = len.div_ceil(BLOCK_BYTES);
        self.blocks += count as u64;
        let used = room - (count - 1) * BLOCK_BYTES;
        if self.open.len() == OPEN_BLOCKS {
            self.open.pop_front();
        }
        self.open.push_back((self.blocks - 1, used));
        first * BLOCK_BYTES_U64
    }

    /// Whether no attributes would fit behind the inode that may end the last block.
    fn ends_with_inode(&self) -> bool {
        let used = self.open.back().map_or(0, |&(_, used)| used);
        used + XATTR_HEADER_BYTES > BLOCK_BYTES
    }
}
