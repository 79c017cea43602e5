//! Paths of entries, resolved inside the tree as if it were the root of a file system.
//!
//! `..` never leaves the root, absolute links start at the root of the image, and a component that
//! does not exist is passed by name. This is what `umoci` (filepath-securejoin) does on the disk;
//! here there is no disk, so nothing can be raced or escaped.

use super::{corrupt, quoted};
use crate::{
    error::Result,
    tree::{InodeId, InodeKind, Limits, ROOT, Tree, too_large},
};

/// Links that one path may pass, as filepath-securejoin has it (the kernel stops at 40).
const MAX_LINKS: u32 = 255;
/// Components that one path may have with all its links expanded. Without this, 255 links of 4 KiB
/// each make every entry cost half a million steps.
const MAX_STEPS: u32 = 1 << 14;

/// A directory that an entry wants to be in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The last inode of the path that exists; it may turn out to be no directory.
    pub(super) existing: InodeId,
    /// Names below it that do not exist yet.
    pub(super) missing: Vec<Box<[u8]>>,
}

/// The components of `path` with `.` and `..` taken out, without regard to links: an entry's path
/// is taken from the root.
pub(super) fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            name => components.push(name),
        }
    }
    components
}

/// Follows `components` from the root, links included.
pub(super) fn resolve(tree: &Tree, components: &[&[u8]], limits: &Limits) -> Result<Resolved> {
    let mut pending: Vec<&[u8]> = components.iter().rev().copied().collect();
    let mut passed: Vec<(&[u8], Option<InodeId>)> = Vec::new();
    let (mut links, mut steps) = (0, 0);
    while let Some(name) = pending.pop() {
        steps += 1;
        if steps > MAX_STEPS {
            return Err(too_large(format!(
                "A path expands to more than {MAX_STEPS} components"
            )));
        }
        match name {
            b"" | b"." => continue,
            b".." => {
                passed.pop();
                continue;
            }
            _ => {}
        }
        let parent = passed.last().map_or(Some(ROOT), |&(_, id)| id);
        let child = parent.and_then(|parent| tree.child(parent, name));
        let Some(InodeKind::Symlink(target)) = child.map(|id| &tree.inode(id).kind) else {
            passed.push((name, child));
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(corrupt(format!(
                "The path {} leads through too many links",
                quoted(&components.join(&b'/'))
            )));
        }
        if target.starts_with(b"/") {
            passed.clear();
        }
        pending.extend(target.split(|&byte| byte == b'/').rev());
    }
    let known = passed.iter().take_while(|(_, id)| id.is_some()).count();
    let existing = passed[..known]
        .last()
        .and_then(|&(_, id)| id)
        .unwrap_or(ROOT);
    let missing: Vec<Box<[u8]>> = passed[known..]
        .iter()
        .map(|&(name, _)| name.into())
        .collect();
    check_depth(tree, existing, missing.len(), limits)?;
    Ok(Resolved { existing, missing })
}

/// One more name below the resolved directory must still be within the limit.
fn check_depth(tree: &Tree, existing: InodeId, missing: usize, limits: &Limits) -> Result<()> {
    let depth = tree
        .as_directory(existing)
        .map_or(0, |directory| directory.depth);
    if u64::from(depth) + missing as u64 + 1 > u64::from(limits.max_depth) {
        return Err(too_large(format!(
            "A path has more than {} components",
            limits.max_depth
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Metadata;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let usr = tree.insert_directory(ROOT, b"usr", Metadata::default());
        tree.insert_directory(usr, b"lib", Metadata::default());
        for (name, target) in [
            ("lib", "usr/lib"),
            ("up", "../../usr"),
            ("abs", "/usr/lib"),
            ("loop", "loop"),
            ("ghost", "nowhere/../usr"),
        ] {
            let target = InodeKind::Symlink(target.as_bytes().into());
            tree.insert(ROOT, name.as_bytes(), Metadata::default(), target);
        }
        tree
    }

    fn found(path: &str) -> (InodeId, usize) {
        let resolved = resolve(&tree(), &clean(path.as_bytes()), &Limits::default()).unwrap();
        (resolved.existing, resolved.missing.len())
    }

    #[test]
    fn links_stay_inside_the_tree() {
        assert_eq!(found("lib"), found("usr/lib"));
        assert_eq!(found("abs"), found("usr/lib"));
        assert_eq!(found("up"), found("usr"));
        assert_eq!(found("ghost"), found("usr"));
        assert_eq!(found("/../../etc/.."), (ROOT, 0));
        assert_eq!(found("lib/new/dir"), (found("usr/lib").0, 2));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let result = resolve(&tree(), &[b"loop", b"x"], &Limits::default());
        assert!(result.is_err());
    }
}
