//! One set of layers, what must become of it, and all judges at once.

use std::{
    collections::BTreeMap,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use cofferdam_image::{ErrorKind, Limits};

use super::{
    Node, Nodes, What, build, failure, judge, plain, reader, show,
    tar::{Entry, Tar},
};

/// Layers under test, bottom first, and whether `umoci` is asked.
pub struct Case {
    layers: Vec<Vec<u8>>,
    umoci: Option<&'static str>,
}

/// Layers from entries.
pub fn layers<const N: usize>(layers: [Vec<Entry>; N]) -> Case {
    raw(layers
        .into_iter()
        .map(|entries| Tar::new(entries).end())
        .collect())
}

/// Layers from bytes.
pub fn raw(layers: Vec<Vec<u8>>) -> Case {
    Case {
        layers,
        umoci: None,
    }
}

impl Case {
    /// `umoci` does otherwise, for a reason.
    pub fn unlike_umoci(mut self, reason: &'static str) -> Self {
        self.umoci = Some(reason);
        self
    }

    /// Builds, and expects exactly this tree below the root. Each line is `PATH TYPE REST`:
    /// `d`, `f CONTENT`, `l TARGET`, `c MAJOR:MINOR`, `b MAJOR:MINOR`, `p`, `h FIRST-NAME`.
    pub fn gives(self, tree: &[&str]) -> Nodes {
        let nodes = self.builds();
        let mut expected: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for line in tree {
            let (path, what) = line.split_once(' ').unwrap();
            expected.insert(path.as_bytes().to_vec(), what.to_owned());
        }
        let found: Vec<String> = nodes
            .keys()
            .filter(|path| !path.is_empty())
            .map(|p| show(p))
            .collect();
        let wanted: Vec<String> = expected.keys().map(|path| show(path)).collect();
        assert_eq!(found, wanted);
        for (path, what) in expected {
            assert_eq!(
                describe(&path, &nodes[&path], &what),
                what,
                "{}",
                show(&path)
            );
        }
        nodes
    }

    /// Builds, asks all judges, and returns the tree.
    pub fn builds(self) -> Nodes {
        let start = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let sources = self.layers.iter().map(|tar| plain(tar)).collect();
        let (stats, image) = build(sources, &Limits::default()).unwrap();
        let nodes = reader::read(&image);
        assert_eq!(stats.image_bytes, image.len() as u64);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, &image).unwrap();
        judge::fsck(&path);
        if let Some(mounted) = judge::mounted(&path, dir.path()) {
            compare(&nodes, &mounted, "the kernel", None);
        }
        if self.umoci.is_none()
            && let Some(judged) = judge::umoci(&self.layers, dir.path())
        {
            compare(&nodes, &judged.unwrap(), "umoci", Some(start));
        }
        nodes
    }

    /// Must fail with `kind`; `umoci` must refuse too.
    pub fn refused(self, kind: ErrorKind) {
        let sources = self.layers.iter().map(|tar| plain(tar)).collect();
        let error = failure(sources, &Limits::default());
        assert_eq!(error.kind(), kind, "{error:?}");
        if self.umoci.is_some() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        if let Some(judged) = judge::umoci(&self.layers, dir.path()) {
            assert!(
                judged.is_err(),
                "umoci takes it: {:?}",
                judged.map(|nodes| nodes.len())
            );
        }
    }
}

/// Compares trees. `umoci` dates directories that no entry describes with the time of unpacking:
/// times of directories after `start` say nothing.
fn compare(ours: &Nodes, theirs: &Nodes, judge: &str, start: Option<u64>) {
    let names = |nodes: &Nodes| nodes.keys().map(|path| show(path)).collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs), "{judge}");
    for (path, node) in ours {
        let mut other = theirs[path].clone();
        let undated = start.is_some_and(|start| other.mtime.0.unsigned_abs() >= start);
        if undated && other.what == What::Directory {
            other.mtime = node.mtime;
        }
        assert_eq!(*node, other, "{judge}: {}", show(path));
    }
}

fn describe(path: &[u8], node: &Node, wanted: &str) -> String {
    if node.group != path {
        return format!("h {}", show(&node.group));
    }
    match &node.what {
        What::Directory => "d".to_owned(),
        What::Symlink(target) => format!("l {}", show(target)),
        What::Fifo => "p".to_owned(),
        What::Device { major, minor } => {
            let kind = if node.mode & 0o170_000 == 0o020_000 {
                'c'
            } else {
                'b'
            };
            format!("{kind} {major}:{minor}")
        }
        What::File { sha256, .. } => {
            let content = wanted.strip_prefix("f ").unwrap_or_default();
            let is_equal = *sha256 == super::sha256(content.as_bytes()).hex();
            if is_equal {
                format!("f {content}")
            } else {
                "f with other content".to_owned()
            }
        }
    }
}
