//! Random layers against a model that is as simple as the rules allow: a map from paths to files
//! and a set of the paths that the current layer has touched.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod erofs_support;

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_image::Limits;
use erofs_support::{
    Nodes, What, build, case, plain, reader,
    tar::{Entry, Tar},
};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Directory { mode: u32 },
    File { id: usize, content: Vec<u8> },
    Symlink { id: usize, target: String },
}

#[derive(Clone, Debug)]
enum Operation {
    Directory(String, u32),
    File(String, Vec<u8>),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

#[derive(Clone, Default)]
struct Model {
    /// Absolute paths, `/a/b`; the root is the empty path and always there.
    items: BTreeMap<String, Item>,
    touched: BTreeSet<String>,
    next_id: usize,
}

impl Model {
    /// The whole of securejoin: text in, text out.
    fn resolve(&self, path: &str) -> Option<String> {
        let mut done = String::new();
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.truncate(done.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{done}/{part}");
            if let Some(Item::Symlink { target, .. }) = self.items.get(&next) {
                links += 1;
                if links > 255 {
                    return None;
                }
                if target.starts_with('/') {
                    done.clear();
                }
                rest.extend(target.split('/').rev().map(str::to_owned));
            } else {
                done = next;
            }
        }
        Some(done)
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.items.get(path), Some(Item::Directory { .. }))
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.items
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    /// Whether the layer may do this; a refused operation changes nothing that counts.
    fn apply(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::Whiteout(path) => self.whiteout(path, false),
            Operation::Opaque(path) => self.whiteout(path, true),
            Operation::Directory(path, mode) => {
                self.put(path, |_| Some(Item::Directory { mode: *mode }))
            }
            Operation::File(path, content) => self.put(path, |model| {
                model.next_id += 1;
                Some(Item::File {
                    id: model.next_id,
                    content: content.clone(),
                })
            }),
            Operation::Symlink(path, target) => self.put(path, |model| {
                model.next_id += 1;
                Some(Item::Symlink {
                    id: model.next_id,
                    target: target.clone(),
                })
            }),
            Operation::HardLink(path, target) => self.put(path, |model| {
                let (dir, name) = target.rsplit_once('/').unwrap_or(("", target));
                let target = format!("{}/{name}", model.resolve(dir)?);
                model
                    .items
                    .get(&target)
                    .filter(|item| !matches!(item, Item::Directory { .. }))
                    .cloned()
            }),
        }
    }

    fn put(&mut self, path: &str, make: impl FnOnce(&mut Self) -> Option<Item>) -> bool {
        let mut after = self.clone();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(dir) = after.resolve(dir) else {
            return false;
        };
        let path = format!("{dir}/{name}");
        for (end, _) in path.match_indices('/').skip(1) {
            let parent = &path[..end];
            if !after.items.contains_key(parent) {
                let above = parent
                    .rsplit_once('/')
                    .and_then(|(dir, _)| after.items.get(dir));
                let inherited = match above {
                    Some(Item::Directory { mode }) => mode & 0o2000,
                    _ => 0,
                };
                let mode = 0o755 | inherited;
                after
                    .items
                    .insert(parent.to_owned(), Item::Directory { mode });
            } else if !after.is_directory(parent) {
                return false;
            }
        }
        let was_directory = after.is_directory(&path);
        let kept: BTreeMap<_, _> = after.items.clone();
        after.remove(&path);
        let Some(item) = make(&mut after) else {
            return false;
        };
        if was_directory && matches!(item, Item::Directory { .. }) {
            after.items = kept;
        }
        after.items.insert(path.clone(), item);
        for (end, _) in path.match_indices('/').skip(1) {
            after.touched.insert(path[..end].to_owned());
        }
        after.touched.insert(path);
        *self = after;
        true
    }

    fn whiteout(&mut self, path: &str, is_opaque: bool) -> bool {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if is_opaque { path } else { dir };
        let Some(dir) = self.resolve(dir) else {
            return false;
        };
        let root = if is_opaque {
            dir
        } else {
            format!("{dir}/{name}")
        };
        let below = format!("{root}/");
        let touched = &self.touched;
        self.items.retain(|path, _| {
            let is_hit = path.starts_with(&below) || !is_opaque && *path == root;
            !is_hit || touched.contains(path)
        });
        true
    }

    /// Path to what it is, with the first name of the same inode.
    fn tree(&self) -> BTreeMap<String, (Item, String)> {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut tree = BTreeMap::new();
        for (path, item) in &self.items {
            let group = match item {
                Item::File { id, .. } | Item::Symlink { id, .. } => {
                    first.entry(*id).or_insert_with(|| path.clone()).clone()
                }
                Item::Directory { .. } => path.clone(),
            };
            tree.insert(path.clone(), (item.clone(), group));
        }
        tree
    }
}

fn entry(operation: &Operation) -> Entry {
    match operation {
        Operation::Directory(path, mode) => Entry::dir(path).mode(*mode),
        Operation::File(path, content) => Entry::file(path, content),
        Operation::Symlink(path, target) => Entry::symlink(path, target),
        Operation::HardLink(path, target) => Entry::hard_link(path, target),
        Operation::Whiteout(path) => match path.rsplit_once('/') {
            Some((dir, name)) => Entry::file(format!("{dir}/.wh.{name}"), ""),
            None => Entry::file(format!(".wh.{path}"), ""),
        },
        Operation::Opaque(path) => Entry::file(format!("{path}/.wh..wh..opq"), ""),
    }
}

fn check(tree: &BTreeMap<String, (Item, String)>, nodes: &Nodes) {
    let mut found = nodes
        .keys()
        .map(|path| format!("/{}", String::from_utf8_lossy(path)));
    found.next();
    let mut found: Vec<String> = found.collect();
    found.sort();
    let wanted: Vec<String> = tree.keys().cloned().collect();
    assert_eq!(found, wanted);
    let groups: BTreeMap<String, BTreeSet<&String>> = tree.iter().fold(
        BTreeMap::new(),
        |mut groups: BTreeMap<String, BTreeSet<&String>>, (path, (_, group))| {
            groups.entry(group.clone()).or_default().insert(path);
            groups
        },
    );
    for (path, (item, group)) in tree {
        let node = &nodes[&path.as_bytes()[1..]];
        match item {
            Item::Directory { mode } => {
                assert_eq!(
                    (&node.what, node.mode & 0o7777),
                    (&What::Directory, *mode),
                    "{path}"
                );
            }
            Item::File { content, .. } => {
                let sha256 = erofs_support::sha256(content).hex();
                assert_eq!(
                    node.what,
                    What::File {
                        size: content.len() as u64,
                        sha256
                    },
                    "{path}"
                );
            }
            Item::Symlink { target, .. } => {
                assert_eq!(
                    node.what,
                    What::Symlink(target.clone().into_bytes()),
                    "{path}"
                );
            }
        }
        if node.what != What::Directory {
            assert_eq!(node.links, groups[group].len() as u64, "{path}");
            let same = groups[group]
                .iter()
                .map(|path| path.as_bytes()[1..].to_vec())
                .min();
            assert_eq!(Some(node.group.clone()), same, "{path}");
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "d", "..", "."]);
    let parts = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    (any::<bool>(), parts).prop_map(|(is_absolute, path)| {
        if is_absolute {
            format!("/{path}")
        } else {
            path
        }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let content = prop::collection::vec(any::<u8>(), 0..6)
        .prop_flat_map(|seed| (Just(seed), 0_usize..2000))
        .prop_map(|(seed, times)| seed.repeat(times));
    prop_oneof![
        3 => (path(), 0_u32..0o10000).prop_map(|(path, mode)| Operation::Directory(path, mode)),
        4 => (path(), content).prop_map(|(path, content)| Operation::File(path, content)),
        2 => (path(), target()).prop_map(|(path, target)| Operation::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Operation::HardLink(path, target)),
        2 => path().prop_map(Operation::Whiteout),
        1 => path().prop_map(Operation::Opaque),
    ]
}

/// Layers of the operations that the model allows, and the model after them.
fn layers(layers: &[Vec<Operation>]) -> (Vec<Vec<u8>>, Model) {
    let mut model = Model::default();
    let mut tars = Vec::new();
    for operations in layers {
        model.touched.clear();
        let mut tar = Tar::default();
        for operation in operations {
            if model.apply(operation) {
                tar.push(&entry(operation));
            }
        }
        tars.push(tar.end());
    }
    (tars, model)
}

fn operations() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    prop::collection::vec(prop::collection::vec(operation(), 1..25), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn random_layers_merge_as_umoci_merges_them(operations in operations()) {
        case::raw(layers(&operations).0).builds();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn random_layers_merge_as_the_model_says(operations in operations()) {
        let (tars, model) = layers(&operations);
        let sources = tars.iter().map(|tar| plain(tar)).collect();
        let (_, image) = build(sources, &Limits::default()).unwrap();
        check(&model.tree(), &reader::read(&image));
    }

    #[test]
    fn what_the_model_refuses_is_refused(
        operations in prop::collection::vec(operation(), 1..25)
    ) {
        let mut model = Model::default();
        let mut tar = Tar::default();
        let all_fine = operations.iter().all(|operation| {
            tar.push(&entry(operation));
            model.apply(operation)
        });
        let built = build(vec![plain(&tar.end())], &Limits::default());
        prop_assert_eq!(built.is_ok(), all_fine);
    }

    #[test]
    fn random_bytes_behind_a_good_header_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
        kind in prop::sample::select(b"0125xgLKS67\0".to_vec()),
    ) {
        let mut header = Entry::new(kind, "name").size(bytes.len() as u64).header();
        if kind == b'S' && bytes.len() >= 200 {
            header[257..265].copy_from_slice(b"ustar  \0");
            header[386..500].copy_from_slice(&bytes[..114]);
            erofs_support::tar::seal(&mut header);
        }
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let tar = Tar([header.to_vec(), bytes].concat()).end();
        if let Ok((_, image)) = build(vec![plain(&tar)], &Limits::default()) {
            reader::read(&image);
        }
    }
}
