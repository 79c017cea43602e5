//! Numbers of the EROFS format.
//!
//! *Source:* Linux v6.12 fs/erofs/erofs_fs.h; names there are given in parentheses.

/// Size of a block: log2 is in the superblock (`blkszbits`); 4096 mounts on every kernel.
pub(super) const BLOCK_BYTES: usize = 1 << BLOCK_BITS;
pub(super) const BLOCK_BITS: u8 = 12;
pub(super) const BLOCK_BYTES_U64: u64 = 1 << BLOCK_BITS;

/// Superblock: place, magic (`EROFS_SUPER_OFFSET`, `EROFS_SUPER_MAGIC_V1`).
pub(super) const SUPER_OFFSET: usize = 1024;
pub(super) const SUPER_MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM` and `EROFS_FEATURE_COMPAT_MTIME`.
pub(super) const FEATURE_COMPAT_SB_CHKSUM: u32 = 1;
pub(super) const FEATURE_COMPAT_MTIME: u32 = 2;

/// An inode number is its place in units of this (`islotbits`).
pub(super) const SLOT_BYTES: u64 = 32;
/// `struct erofs_inode_extended`.
pub(super) const INODE_BYTES: usize = 64;
/// `i_format`: bit 0 is the version (`EROFS_INODE_LAYOUT_EXTENDED`), bits 1 to 3 are the layout
/// of the data (`EROFS_INODE_FLAT_PLAIN`, `EROFS_INODE_FLAT_INLINE`).
pub(super) const FORMAT_EXTENDED_PLAIN: u16 = 1;
pub(super) const FORMAT_EXTENDED_INLINE: u16 = 1 | 2 << 1;
/// No block (`EROFS_NULL_ADDR`).
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// `struct erofs_dirent`.
pub(super) const DIRENT_BYTES: usize = 12;

/// `struct erofs_xattr_ibody_header`, `struct erofs_xattr_entry` (also the unit of `i_xattr_icount`).
pub(super) const XATTR_HEADER_BYTES: usize = 12;
pub(super) const XATTR_ENTRY_BYTES: usize = 4;

/// File types in directories: `FT_*`, Linux include/linux/fs_types.h.
pub(super) const FT_REGULAR: u8 = 1;
pub(super) const FT_DIRECTORY: u8 = 2;
pub(super) const FT_CHAR: u8 = 3;
pub(super) const FT_BLOCK: u8 = 4;
pub(super) const FT_FIFO: u8 = 5;
pub(super) const FT_SYMLINK: u8 = 7;

/// File types in modes: `S_IF*`, inode(7).
pub(super) const S_IFIFO: u16 = 0o010_000;
pub(super) const S_IFCHR: u16 = 0o020_000;
pub(super) const S_IFDIR: u16 = 0o040_000;
pub(super) const S_IFBLK: u16 = 0o060_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFLNK: u16 = 0o120_000;
