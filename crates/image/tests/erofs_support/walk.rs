//! A real directory as [`Nodes`].

use std::{
    collections::HashMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use super::{Node, Nodes, What, sha256};

pub fn read(root: &Path) -> Nodes {
    let mut nodes = Nodes::new();
    let mut groups: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    let mut pending = vec![(root.to_owned(), Vec::new())];
    while let Some((path, name)) = pending.pop() {
        let node = node(&path);
        groups
            .entry(fs::symlink_metadata(&path).unwrap().ino())
            .or_default()
            .push(name.clone());
        if node.what == What::Directory {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let file_name = entry.file_name();
                let child = if name.is_empty() {
                    file_name.as_bytes().to_vec()
                } else {
                    [&name, &b"/"[..], file_name.as_bytes()].concat()
                };
                pending.push((entry.path(), child));
            }
        }
        nodes.insert(name, node);
    }
    for paths in groups.values() {
        let group = paths.iter().min().unwrap();
        for path in paths {
            nodes.get_mut(path).unwrap().group.clone_from(group);
        }
    }
    nodes
}

fn node(path: &Path) -> Node {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        What::Directory
    } else if kind.is_symlink() {
        What::Symlink(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_char_device() || kind.is_block_device() {
        let device = metadata.rdev();
        What::Device {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        }
    } else if kind.is_fifo() {
        What::Fifo
    } else {
        What::File {
            size: metadata.len(),
            sha256: sha256(&fs::read(path).unwrap()).hex(),
        }
    };
    Node {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (
            metadata.mtime(),
            u32::try_from(metadata.mtime_nsec()).unwrap(),
        ),
        xattrs: xattrs(path),
        links: if what == What::Directory {
            0
        } else {
            metadata.nlink()
        },
        what,
        group: Vec::new(),
    }
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0_u8; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut xattrs = Vec::new();
    for name in names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = std::str::from_utf8(name).unwrap();
        let mut value = vec![0_u8; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        xattrs.push((name.to_owned(), value[..len].to_vec()));
    }
    xattrs.sort();
    xattrs
}
