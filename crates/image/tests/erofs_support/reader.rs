//! Reads an EROFS image from bytes, checking all that the kernel relies on.
//!
//! Written from Linux v6.12 fs/erofs/erofs_fs.h alone and for tests only: it panics on an image
//! that breaks a rule.

use std::collections::{BTreeMap, HashMap};

use super::{Node, Nodes, What, sha256};

const BLOCK: usize = 4096;

pub struct Reader<'a> {
    image: &'a [u8],
    metadata: usize,
    /// Paths by inode number, as met.
    names: HashMap<u64, Vec<Vec<u8>>>,
    nodes: Nodes,
    links: BTreeMap<Vec<u8>, u32>,
}

struct Inode {
    number: u64,
    mode: u16,
    size: usize,
    value: u32,
    links: u32,
    /// Where the inode's inline data would start.
    inline_at: usize,
    is_inline: bool,
    node: Node,
}

/// Everything in the image.
pub fn read(image: &[u8]) -> Nodes {
    let superblock = &image[1024..BLOCK];
    assert_eq!(u32_at(superblock, 0), 0xe0f5_e1e2, "magic");
    assert_eq!(superblock[12], 12, "block size");
    assert_eq!(u32_at(superblock, 80), 0, "incompatible features");
    let mut summed = superblock.to_vec();
    summed[4..8].fill(0);
    assert_eq!(u32_at(superblock, 4), crc32c(&summed), "checksum");
    assert_eq!(
        u32_at(superblock, 36) as usize * BLOCK,
        image.len(),
        "blocks"
    );
    let mut reader = Reader {
        image,
        metadata: u32_at(superblock, 40) as usize * BLOCK,
        names: HashMap::new(),
        nodes: Nodes::new(),
        links: BTreeMap::new(),
    };
    let root = u64::from(u16_at(superblock, 14));
    reader.walk(root, root, b"");
    assert_eq!(
        u64_at(superblock, 16),
        reader.names.len() as u64,
        "inode count"
    );
    reader.finish()
}

impl Reader<'_> {
    fn walk(&mut self, number: u64, parent: u64, path: &[u8]) {
        let inode = self.inode(number);
        let known = self.names.entry(number).or_default();
        known.push(path.to_vec());
        let is_directory = inode.mode & 0o170_000 == 0o040_000;
        assert!(
            known.len() == 1 || !is_directory,
            "a directory has two names"
        );
        self.links.insert(path.to_vec(), inode.links);
        self.nodes.insert(path.to_vec(), inode.node.clone());
        if is_directory {
            let subdirectories = self.walk_directory(&inode, parent, path);
            assert_eq!(inode.links, subdirectories + 2, "links of a directory");
        }
    }

    fn walk_directory(&mut self, inode: &Inode, parent: u64, path: &[u8]) -> u32 {
        let data = self.data(inode);
        let mut last: Option<Vec<u8>> = None;
        let mut subdirectories = 0;
        let mut dots = 0;
        for block in data.chunks(BLOCK) {
            let count = usize::from(u16_at(block, 8)) / 12;
            assert!(
                count > 0 && u16_at(block, 8).is_multiple_of(12),
                "first name offset"
            );
            for index in 0..count {
                let entry = &block[index * 12..];
                let number = u64_at(entry, 0);
                let start = usize::from(u16_at(entry, 8));
                let end = if index + 1 < count {
                    usize::from(u16_at(&block[(index + 1) * 12..], 8))
                } else {
                    let rest = &block[start..];
                    start
                        + rest
                            .iter()
                            .position(|&byte| byte == 0)
                            .unwrap_or(rest.len())
                };
                let name = block[start..end].to_vec();
                assert!(
                    (1..=255).contains(&name.len()) && !name.contains(&b'/'),
                    "name"
                );
                assert!(last.as_ref() < Some(&name), "order of names");
                let mode = self.inode(number).mode;
                assert_eq!(entry[10], dirent_type(mode), "type of an entry");
                match name.as_slice() {
                    b"." => assert_eq!(number, inode.number),
                    b".." => assert_eq!(number, parent),
                    _ => {
                        let mut child = path.to_vec();
                        if !child.is_empty() {
                            child.push(b'/');
                        }
                        child.extend_from_slice(&name);
                        subdirectories += u32::from(mode & 0o170_000 == 0o040_000);
                        self.walk(number, inode.number, &child);
                    }
                }
                dots += u32::from(name == b"." || name == b"..");
                last = Some(name);
            }
        }
        assert_eq!(dots, 2, "`.` and `..`");
        subdirectories
    }

    fn inode(&self, number: u64) -> Inode {
        let start = self.metadata + usize::try_from(number).unwrap() * 32;
        let raw = &self.image[start..start + 64];
        // `fsck.erofs` 1.5 reads an attribute header behind every inode.
        assert!(
            start + 64 + 12 <= self.image.len(),
            "an inode ends with the image"
        );
        let format = u16_at(raw, 0);
        assert_eq!(format & !0b0100, 1, "an extended inode, plain or inline");
        let xattr_count = usize::from(u16_at(raw, 2));
        let xattr_bytes = if xattr_count == 0 {
            0
        } else {
            12 + (xattr_count - 1) * 4
        };
        let xattrs = self.xattrs(&self.image[start + 64..start + 64 + xattr_bytes]);
        let mode = u16_at(raw, 4);
        let mut inode = Inode {
            number,
            mode,
            size: usize::try_from(u64_at(raw, 8)).unwrap(),
            value: u32_at(raw, 16),
            links: u32_at(raw, 44),
            inline_at: start + 64 + xattr_bytes,
            is_inline: format & 0b0100 != 0,
            node: Node {
                mode: u32::from(mode),
                uid: u32_at(raw, 24),
                gid: u32_at(raw, 28),
                mtime: (u64_at(raw, 32).cast_signed(), u32_at(raw, 40)),
                xattrs,
                what: What::Fifo,
                links: 0,
                group: Vec::new(),
            },
        };
        inode.node.what = self.what(&inode);
        inode
    }

    fn what(&self, inode: &Inode) -> What {
        match inode.mode & 0o170_000 {
            0o040_000 => What::Directory,
            0o100_000 => What::File {
                size: inode.size as u64,
                sha256: sha256(&self.data(inode)).hex(),
            },
            0o120_000 => What::Symlink(self.data(inode)),
            0o020_000 | 0o060_000 => What::Device {
                major: inode.value >> 8 & 0xfff,
                minor: inode.value & 0xff | inode.value >> 12 & 0xf_ff00,
            },
            0o010_000 => What::Fifo,
            other => panic!("type {other:o}"),
        }
    }

    fn data(&self, inode: &Inode) -> Vec<u8> {
        let tail = if inode.is_inline {
            inode.size % BLOCK
        } else {
            0
        };
        let body = inode.size - tail;
        let start = inode.value as usize * BLOCK;
        let mut data = if body == 0 {
            Vec::new()
        } else {
            self.image[start..start + body].to_vec()
        };
        if inode.is_inline {
            assert!(tail > 0, "an inline inode without inline data");
            assert!(
                inode.inline_at % BLOCK + tail <= BLOCK,
                "inline data crosses a block"
            );
            data.extend_from_slice(&self.image[inode.inline_at..inode.inline_at + tail]);
        }
        data
    }

    fn xattrs(&self, mut body: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut xattrs = Vec::new();
        if body.is_empty() {
            return xattrs;
        }
        assert_eq!(body[..12], [0; 12], "attribute header");
        body = &body[12..];
        while !body.is_empty() {
            let (name_len, index) = (usize::from(body[0]), body[1]);
            let value_len = usize::from(u16_at(body, 2));
            let prefix = match index {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("attribute index {other}"),
            };
            let name = &body[4..4 + name_len];
            let value = body[4 + name_len..4 + name_len + value_len].to_vec();
            xattrs.push((format!("{prefix}{}", String::from_utf8_lossy(name)), value));
            body = &body[(4 + name_len + value_len).next_multiple_of(4)..];
        }
        xattrs.sort();
        xattrs
    }

    fn finish(mut self) -> Nodes {
        for paths in self.names.values() {
            let group = paths.iter().min().unwrap();
            for path in paths {
                let node = self.nodes.get_mut(path).unwrap();
                node.group.clone_from(group);
                if node.what != What::Directory {
                    node.links = paths.len() as u64;
                    assert_eq!(self.links[path] as usize, paths.len(), "links of a file");
                }
            }
        }
        self.nodes
    }
}

fn dirent_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        _ => 7,
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    crc
}
