//! Inodes: directories, files and the rest, with their metadata.
//!
//! [`super::Tree`] alone makes and removes them.

use std::collections::BTreeMap;

/// Index of an inode; small, reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InodeId(pub(super) u32);

impl InodeId {
    /// For tables beside the tree.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The root directory.
pub(crate) const ROOT: InodeId = InodeId(0);

/// A point in time: seconds since 1970, which may be negative, and nanoseconds after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// What every inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Permission bits with setuid, setgid and sticky; no type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Sorted, each name once.
    pub(crate) xattrs: Box<[Xattr]>,
}

/// An extended attribute; the name is without its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xattr {
    pub(crate) namespace: XattrNamespace,
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

/// The namespaces that Linux and EROFS know. The two ACLs are whole names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum XattrNamespace {
    User,
    AclAccess,
    AclDefault,
    Trusted,
    Security,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) metadata: Metadata,
    pub(crate) kind: InodeKind,
    /// Names that lead here. Directories always have one.
    pub(crate) names: u32,
}

#[derive(Debug)]
pub(crate) enum InodeKind {
    Directory(Directory),
    File(FileData),
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Where a file's data is in the image.
#[derive(Debug)]
pub(crate) struct FileData {
    pub(crate) size: u64,
    pub(crate) first_block: u32,
    pub(crate) blocks: u32,
    /// What follows the blocks; empty if they hold everything.
    pub(crate) tail: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: InodeId,
    pub(crate) children: BTreeMap<Box<[u8]>, Child>,
    /// Components from the root.
    pub(crate) depth: u32,
    pub(super) touched_in: u32,
    pub(super) settled_in: u32,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pub(crate) id: InodeId,
    /// For directories [`Directory::touched_in`] counts instead.
    pub(super) touched_in: u32,
}
