//! One layer onto the tree: entries, whiteouts, links.
//!
//! The OCI specification says what a layer means; what it leaves open (links on the way, missing
//! parents, types that change, entries that repeat) is decided as `umoci unpack` decides it.
//! Two things differ on purpose. What `umoci` dates with the time of unpacking, here is of the
//! year 1970 (missing parents) or keeps its time (the directory that a missing parent is made in):
//! the same layers always give the same bytes. And `.wh..` names are errors, where they would
//! remove the directory itself or its parent.
//! *Source:* OCI image-spec, layer.md §Applying Changesets, §Whiteouts.

use super::{
    LayerSource, corrupt, quoted,
    resolve::{Resolved, clean, resolve},
    stream,
    tar::{Entry, EntryKind, Part, TarReader},
    xattrs,
};
use crate::{
    erofs::DataArea,
    error::{Error, Result},
    tree::{Budget, FileData, InodeId, InodeKind, Limits, Metadata, ROOT, Tree, too_large},
};

/// Prefix of a whiteout's name (OCI layer.md §Whiteouts).
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the entry that hides all lower content of its directory.
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// Longest name of a file: `NAME_MAX`, Linux limits.h; `EROFS_NAME_LEN`, erofs_fs.h.
const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link: `PATH_MAX` without its NUL, Linux limits.h.
const MAX_TARGET_BYTES: usize = 4095;

/// Unpacks `layer` over what `tree` holds and verifies it.
///
/// # Errors
/// Everything that is wrong with the layer; the tree is then of no use.
pub(crate) fn apply_layer(
    layer: LayerSource<'_>,
    tree: &mut Tree,
    data: &mut DataArea<'_>,
    budget: &mut Budget<'_>,
    progress: &dyn Fn(u64),
) -> Result<()> {
    tree.begin_layer();
    stream::with_stream(layer, budget, progress, |stream| {
        let mut reader = TarReader::new(stream);
        while let Some(entry) = reader.next_entry()? {
            let mut target = Target {
                tree,
                data,
                reader: &mut reader,
            };
            target.apply(entry)?;
        }
        Ok(())
    })
}

/// Where an entry goes, and where its data comes from.
struct Target<'t, 'd, 'r, 's, 'a, 'b> {
    tree: &'t mut Tree,
    data: &'t mut DataArea<'d>,
    reader: &'r mut TarReader<'s, 'a, 'b>,
}

impl<'b> Target<'_, '_, '_, '_, '_, 'b> {
    fn apply(&mut self, mut entry: Entry) -> Result<()> {
        let path = std::mem::take(&mut entry.path);
        self.budget().entry()?;
        self.check_lengths(&path, &entry)?;
        let components = clean(&path);
        let Some((&name, parents)) = components.split_last() else {
            return self.set_root(&path, entry);
        };
        let parent = resolve(self.tree, parents, self.limits())?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(&path, &parent, name, hidden);
        }
        let parent = self.make_missing(&path, parent)?;
        self.budget().metadata(name.len())?;
        self.put(&path, parent, name, entry)
    }

    fn budget(&mut self) -> &mut Budget<'b> {
        self.reader.stream.budget
    }

    fn limits(&self) -> &'b Limits {
        self.reader.stream.budget.limits
    }

    fn check_lengths(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let limit = self.limits().max_path_bytes;
        if path.len().max(entry.link.len()) as u64 > limit {
            return Err(too_large(format!(
                "The path or link of {} has more than {limit} bytes",
                quoted(path)
            )));
        }
        let mut names = path.split(|&byte| byte == b'/');
        if names.any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(too_large(format!(
                "A name in {} has more than {MAX_NAME_BYTES} bytes",
                quoted(path)
            )));
        }
        Ok(())
    }

    fn set_root(&mut self, path: &[u8], entry: Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(corrupt(format!(
                "The entry {} would make the root something else than a directory",
                quoted(path)
            )));
        }
        let metadata = self.metadata(path, entry)?;
        self.tree.inode_mut(ROOT).metadata = metadata;
        Ok(())
    }

    fn whiteout(
        &mut self,
        path: &[u8],
        parent: &Resolved,
        name: &[u8],
        hidden: &[u8],
    ) -> Result<()> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(corrupt(format!(
                "The whiteout {} names no file",
                quoted(path)
            )));
        }
        // In a directory that does not exist there is nothing to hide.
        if parent.missing.is_empty() {
            if name == OPAQUE_WHITEOUT {
                self.tree.whiteout_children(parent.existing);
            } else {
                self.tree.whiteout(parent.existing, hidden);
            }
        }
        Ok(())
    }

    /// Makes the directories that the layer implies without an entry.
    fn make_missing(&mut self, path: &[u8], parent: Resolved) -> Result<InodeId> {
        let mut directory = parent.existing;
        if self.tree.as_directory(directory).is_none() {
            return Err(corrupt(format!(
                "A parent of {} is not a directory",
                quoted(path)
            )));
        }
        for name in parent.missing {
            // A link's target is not checked before it is used as a path.
            if name.len() > MAX_NAME_BYTES {
                return Err(too_large(format!(
                    "A name in {} has more than {MAX_NAME_BYTES} bytes",
                    quoted(path)
                )));
            }
            self.budget().entry()?;
            self.budget().metadata(name.len())?;
            let metadata = implied_directory(&self.tree.inode(directory).metadata);
            directory = self.tree.insert_directory(directory, &name, metadata);
        }
        Ok(directory)
    }

    fn put(&mut self, path: &[u8], parent: InodeId, name: &[u8], entry: Entry) -> Result<()> {
        let existing = self.tree.child(parent, name);
        if let Some(existing) = existing {
            let stays = entry.kind == EntryKind::Directory;
            if stays && self.tree.as_directory(existing).is_some() {
                self.tree.inode_mut(existing).metadata = self.metadata(path, entry)?;
                self.tree.touch(existing);
                return Ok(());
            }
            self.tree.remove(parent, name);
        }
        match entry.kind {
            EntryKind::HardLink => return self.hard_link(path, parent, name, &entry.link),
            EntryKind::Directory => {
                let metadata = self.metadata(path, entry)?;
                self.tree.insert_directory(parent, name, metadata);
                return Ok(());
            }
            _ => {}
        }
        let link = self.symlink_target(path, &entry)?;
        let kind = entry.kind.clone();
        let mut metadata = self.metadata(path, entry)?;
        if kind == EntryKind::Symlink {
            // On Linux a symbolic link has no other mode (symlink(7)).
            metadata.mode = 0o777;
        }
        let kind = match kind {
            EntryKind::File { size, parts } => {
                InodeKind::File(self.store(&metadata, size, parts.as_deref())?)
            }
            EntryKind::CharDevice { major, minor } => InodeKind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor } => InodeKind::BlockDevice { major, minor },
            EntryKind::Fifo => InodeKind::Fifo,
            EntryKind::Symlink | EntryKind::HardLink | EntryKind::Directory => {
                InodeKind::Symlink(link)
            }
        };
        self.tree.insert(parent, name, metadata, kind);
        Ok(())
    }

    fn symlink_target(&mut self, path: &[u8], entry: &Entry) -> Result<Box<[u8]>> {
        if entry.kind != EntryKind::Symlink {
            return Ok(Box::default());
        }
        // symlink(2): an empty target is an error.
        if entry.link.is_empty() || entry.link.len() > MAX_TARGET_BYTES {
            return Err(corrupt(format!(
                "The link {} has no valid target",
                quoted(path)
            )));
        }
        self.budget().metadata(entry.link.len())?;
        Ok(entry.link.as_slice().into())
    }

    fn hard_link(
        &mut self,
        path: &[u8],
        parent: InodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<()> {
        let broken = |why: &str| -> Error {
            corrupt(format!(
                "The hard link {} leads to {}, {why}",
                quoted(path),
                quoted(target)
            ))
        };
        let components = clean(target);
        let Some((target_name, parents)) = components.split_last() else {
            return Err(broken("which is a directory"));
        };
        let directory = resolve(self.tree, parents, self.limits())?;
        // The last component is not followed: a symbolic link can have several names too.
        let id = directory
            .missing
            .is_empty()
            .then(|| self.tree.child(directory.existing, target_name))
            .flatten()
            .ok_or_else(|| broken("which does not exist"))?;
        if self.tree.as_directory(id).is_some() {
            return Err(broken("which is a directory"));
        }
        self.tree.link(parent, name, id);
        Ok(())
    }

    fn metadata(&mut self, path: &[u8], entry: Entry) -> Result<Metadata> {
        let xattrs = xattrs::kept(entry.xattrs, path, self.limits())?;
        let bytes = xattrs
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len())
            .sum();
        self.budget().metadata(bytes)?;
        Ok(Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs,
        })
    }

    /// Writes a file's data to its place in the image.
    fn store(
        &mut self,
        metadata: &Metadata,
        size: u64,
        parts: Option<&[Part]>,
    ) -> Result<FileData> {
        let Some(parts) = parts else {
            // The data is counted as it is read, but a size that lies must fail before it makes
            // the image jump.
            self.check_size(size)?;
            let mut file = self.data.begin(size, &metadata.xattrs)?;
            self.reader.read_data(&mut |bytes| file.write(bytes))?;
            return Ok(file.finish());
        };
        let held: u64 = parts.iter().map(|part| part.len).sum();
        self.budget().bytes(size - held)?;
        let mut file = self.data.begin(size, &metadata.xattrs)?;
        for part in parts {
            file.skip_to(part.offset);
            self.reader
                .read_part(part.len, &mut |bytes| file.write(bytes))?;
        }
        Ok(file.finish())
    }

    fn check_size(&mut self, size: u64) -> Result<()> {
        let limit = self.limits().max_total_bytes;
        if size > limit {
            return Err(too_large(format!(
                "The image has more than {limit} uncompressed bytes"
            )));
        }
        Ok(())
    }
}

/// Makes the directory `path` and what leads to it where it is not there, as root's with mode
/// 0755. Where a path cannot be one, such as below a file, nothing is made.
///
/// # Errors
/// Past a limit.
pub(crate) fn ensure_directory(path: &str, tree: &mut Tree, budget: &mut Budget<'_>) -> Result<()> {
    let components = clean(path.as_bytes());
    let Ok(found) = resolve(tree, &components, budget.limits) else {
        return Ok(());
    };
    let fits = found
        .missing
        .iter()
        .all(|name| name.len() <= MAX_NAME_BYTES);
    if !fits || tree.as_directory(found.existing).is_none() {
        return Ok(());
    }
    let mut directory = found.existing;
    for name in found.missing {
        budget.entry()?;
        budget.metadata(name.len())?;
        let metadata = implied_directory(&tree.inode(directory).metadata);
        directory = tree.insert_directory(directory, &name, metadata);
    }
    Ok(())
}

/// The metadata of a directory that no entry describes, below a directory with metadata `parent`.
fn implied_directory(parent: &Metadata) -> Metadata {
    // The group goes down from a set-group-ID directory, as in mkdir(2).
    let inherited = parent.mode & 0o2000;
    Metadata {
        mode: 0o755 | inherited,
        gid: if inherited == 0 { 0 } else { parent.gid },
        ..Metadata::default()
    }
}
