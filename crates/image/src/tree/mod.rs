//! The merged tree: inodes by number, directories as sorted maps of names. And its limits.
//!
//! `layer` builds it and `erofs` reads it. It knows neither. An inode lives while a name leads to
//! it.
//!
//! Whiteouts act on lower layers only, whatever the order of entries, so the tree knows for every
//! name which layer put it there last. Layers count from 1. For directories the mark is on the
//! directory itself and covers its ancestors: a directory marked for a layer has only marked
//! ancestors, so marking stops early. A directory is *settled* in a layer once nothing of lower
//! layers is left below it; a settled directory is never walked again, which keeps the cost of
//! any sequence of whiteouts linear in the size of the tree.

mod inode;
mod limits;

use std::collections::BTreeMap;

pub(crate) use inode::{
    Child, Directory, FileData, Inode, InodeId, InodeKind, Metadata, ROOT, Timestamp, Xattr,
    XattrNamespace,
};
pub use limits::Limits;
pub(crate) use limits::{Budget, too_large};

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Option<Inode>>,
    free: Vec<InodeId>,
    /// Data of files that no name leads to any more.
    dead: Vec<FileData>,
    layer: u32,
}

impl Tree {
    /// An empty root: mode 0755, owned by root, of the year 1970, as `umoci` makes it.
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            inodes: Vec::new(),
            free: Vec::new(),
            dead: Vec::new(),
            layer: 0,
        };
        let root = tree.directory(ROOT, 0);
        tree.add(
            Metadata {
                mode: 0o755,
                ..Metadata::default()
            },
            root,
        );
        tree
    }

    /// Everything from here on is of the next layer up.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        self.inodes[id.index()]
            .as_ref()
            .expect("an inode id is not kept past its last name")
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        self.inodes[id.index()]
            .as_mut()
            .expect("an inode id is not kept past its last name")
    }

    pub(crate) fn as_directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id).kind {
            InodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn as_directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.inode_mut(id).kind {
            InodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// What `name` leads to; `None` also if `directory` is none.
    pub(crate) fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        Some(self.as_directory(directory)?.children.get(name)?.id)
    }

    /// Number of inode slots, for tables beside the tree.
    pub(crate) fn slots(&self) -> usize {
        self.inodes.len()
    }

    /// Takes the data of files that are gone.
    pub(crate) fn take_dead(&mut self) -> Vec<FileData> {
        std::mem::take(&mut self.dead)
    }

    /// Makes `name` in `parent` lead to a new directory.
    pub(crate) fn insert_directory(
        &mut self,
        parent: InodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> InodeId {
        let depth = self.as_directory(parent).map_or(0, |parent| parent.depth) + 1;
        let directory = self.directory(parent, depth);
        self.insert(parent, name, metadata, directory)
    }

    /// Makes `name` in `parent`, which leads to nothing yet, lead to a new inode.
    pub(crate) fn insert(
        &mut self,
        parent: InodeId,
        name: &[u8],
        metadata: Metadata,
        kind: InodeKind,
    ) -> InodeId {
        let id = self.add(metadata, kind);
        self.name(parent, name, id);
        id
    }

    /// Makes `name` in `parent`, which leads to nothing yet, lead to `id`, which is no directory.
    pub(crate) fn link(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        self.inode_mut(id).names += 1;
        self.name(parent, name, id);
    }

    /// Marks `directory` and its ancestors as being of this layer.
    pub(crate) fn touch(&mut self, mut id: InodeId) {
        let layer = self.layer;
        while let Some(directory) = self.as_directory_mut(id) {
            if directory.touched_in == layer {
                break;
            }
            directory.touched_in = layer;
            id = directory.parent;
        }
    }

    /// Removes `name` and all below it, of whatever layer.
    pub(crate) fn remove(&mut self, parent: InodeId, name: &[u8]) {
        let child = self
            .as_directory_mut(parent)
            .and_then(|dir| dir.children.remove(name));
        let mut doomed: Vec<InodeId> = child.into_iter().map(|child| child.id).collect();
        // A loop, not recursion: the tree may be as deep as the limits allow.
        while let Some(id) = doomed.pop() {
            let inode = self.inode_mut(id);
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            let inode = self.inodes[id.index()].take();
            self.free.push(id);
            match inode.map(|inode| inode.kind) {
                Some(InodeKind::Directory(directory)) => {
                    doomed.extend(directory.children.values().map(|child| child.id));
                }
                Some(InodeKind::File(data)) => self.dead.push(data),
                _ => {}
            }
        }
    }

    /// Whites out `name`: removes what lower layers put there.
    pub(crate) fn whiteout(&mut self, parent: InodeId, name: &[u8]) {
        let Some(&child) = self
            .as_directory(parent)
            .and_then(|dir| dir.children.get(name))
        else {
            return;
        };
        if !self.is_of_this_layer(child) {
            self.remove(parent, name);
        } else if self.as_directory(child.id).is_some() {
            self.whiteout_children(child.id);
        }
    }

    /// Removes all that lower layers put into `directory`.
    pub(crate) fn whiteout_children(&mut self, directory: InodeId) {
        let layer = self.layer;
        let mut pending = vec![directory];
        while let Some(id) = pending.pop() {
            let Some(directory) = self.as_directory_mut(id) else {
                continue;
            };
            if directory.settled_in == layer {
                continue;
            }
            directory.settled_in = layer;
            let mut doomed = Vec::new();
            let directory = self.as_directory(id).into_iter();
            for (name, &child) in directory.flat_map(|directory| &directory.children) {
                if !self.is_of_this_layer(child) {
                    doomed.push(name.clone());
                } else if self.as_directory(child.id).is_some() {
                    pending.push(child.id);
                }
            }
            for name in doomed {
                self.remove(id, &name);
            }
        }
    }

    fn is_of_this_layer(&self, child: Child) -> bool {
        let touched_in = match self.as_directory(child.id) {
            Some(directory) => directory.touched_in,
            None => child.touched_in,
        };
        touched_in == self.layer
    }

    fn directory(&self, parent: InodeId, depth: u32) -> InodeKind {
        InodeKind::Directory(Directory {
            parent,
            children: BTreeMap::new(),
            depth,
            touched_in: self.layer,
            // What is new has nothing of lower layers below it.
            settled_in: self.layer,
        })
    }

    fn add(&mut self, metadata: Metadata, kind: InodeKind) -> InodeId {
        let inode = Some(Inode {
            metadata,
            kind,
            names: 1,
        });
        if let Some(id) = self.free.pop() {
            self.inodes[id.index()] = inode;
            return id;
        }
        // A slot takes far more than one byte, so memory ends before the numbers do.
        let id = InodeId(u32::try_from(self.inodes.len()).expect("fewer than 2^32 inodes"));
        self.inodes.push(inode);
        id
    }

    fn name(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        self.touch(parent);
        let child = Child {
            id,
            touched_in: self.layer,
        };
        if let Some(directory) = self.as_directory_mut(parent) {
            directory.children.insert(name.into(), child);
        }
    }
}
