//! Small images in every form, made in memory.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::{
    io::{Cursor, Write},
    path::Path,
};

use cofferdam_image::{ErrorKind, ImageStore, LoadSource, LoadedImage, NoProgress, Result};
use cofferdam_testkit::registry::{FakeRegistry, digest};
use cofferdam_types::Platform;
use flate2::{Compression, write::GzEncoder};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// When samples were made.
pub const MADE: &str = "2024-01-02T03:04:05Z";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// A tar of files by name and content.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// One image with one layer.
#[derive(Clone)]
pub struct Sample {
    /// As stored.
    pub layer: Vec<u8>,
    pub layer_kind: String,
    pub config: Vec<u8>,
}

impl Sample {
    /// An image whose one file holds `content`.
    pub fn new(content: &str) -> Self {
        Self::of("amd64", &tar(&[("file", content.as_bytes())]))
    }

    pub fn of(architecture: &str, layer: &[u8]) -> Self {
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","created":"{MADE}",
            "config":{{"Cmd":["/bin/sh"],"Env":["A=b"],"Labels":{{"l":"v"}}}},
            "rootfs":{{"type":"layers","diff_ids":["{}"]}},
            "history":[{{"created":"{MADE}","created_by":"ADD file"}},
            {{"created":"{MADE}","created_by":"CMD","empty_layer":true}}]}}"#,
            digest(layer)
        );
        Self {
            layer: layer.to_vec(),
            layer_kind: OCI_LAYER.into(),
            config: config.into(),
        }
    }

    /// The same image with its layer compressed.
    pub fn gzipped(self) -> Self {
        Self {
            layer: gzip(&self.layer),
            layer_kind: format!("{OCI_LAYER}+gzip"),
            ..self
        }
    }

    pub fn id(&self) -> String {
        digest(&self.config)
    }

    pub fn manifest(&self) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}",
            "digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            self.id(),
            self.config.len(),
            self.layer_kind,
            digest(&self.layer),
            self.layer.len()
        )
        .into()
    }

    /// As old `docker save` writes it: `manifest.json` last.
    pub fn docker_archive(&self, names: &[&str]) -> Vec<u8> {
        let config = format!("{}.json", &self.id()[7..]);
        let tags = serde_json::to_string(names).unwrap();
        let list =
            format!(r#"[{{"Config":"{config}","RepoTags":{tags},"Layers":["l/layer.tar"]}}]"#);
        tar(&[
            ("l/layer.tar", &self.layer),
            (&config, &self.config),
            ("manifest.json", list.as_bytes()),
        ])
    }

    /// The files of an OCI layout.
    pub fn layout(&self, annotations: &str) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}{annotations}}}]}}"#,
            digest(&manifest),
            manifest.len()
        );
        let blob = |content: &[u8]| {
            (
                format!("blobs/sha256/{}", &digest(content)[7..]),
                content.to_vec(),
            )
        };
        vec![
            (
                "oci-layout".into(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            blob(&manifest),
            blob(&self.config),
            blob(&self.layer),
            ("index.json".into(), index.into()),
        ]
    }

    pub fn layout_tar(&self, annotations: &str) -> Vec<u8> {
        let files = self.layout(annotations);
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(n, c)| (n.as_str(), c.as_slice()))
            .collect();
        tar(&files)
    }

    /// Puts the image into a registry.
    pub fn push(&self, registry: &FakeRegistry, repository: &str, tag: &str) -> String {
        registry.put_blob(&self.config);
        registry.put_blob(&self.layer);
        registry.put_manifest(repository, tag, OCI_MANIFEST, &self.manifest())
    }
}

/// A store in a directory that goes with it.
pub struct TestStore {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

impl TestStore {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    pub fn load(&self, archive: Vec<u8>) -> Result<Vec<LoadedImage>> {
        load(&self.store, archive)
    }

    pub fn load_path(&self, path: &Path) -> Result<Vec<LoadedImage>> {
        self.store
            .load(LoadSource::Path(path.to_owned()), &amd64(), &NoProgress)
    }

    /// The kind of the failure of a load, which must leave nothing behind.
    pub fn refused(&self, archive: Vec<u8>) -> ErrorKind {
        let error = self.load(archive).expect_err("the load fails");
        assert!(
            self.store.list().unwrap().is_empty(),
            "an image became visible"
        );
        assert_eq!(
            files_below(self.dir.path()),
            Vec::<String>::new(),
            "debris after {error:?}"
        );
        error.kind()
    }
}

pub fn load(store: &ImageStore, archive: Vec<u8>) -> Result<Vec<LoadedImage>> {
    store.load(
        LoadSource::Reader(Box::new(Cursor::new(archive))),
        &amd64(),
        &NoProgress,
    )
}

/// Files below a store's root but for locks and the index, sorted.
pub fn files_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path();
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if !matches!(name.as_str(), "index.json" | "index.lock" | "staging/lock") {
                    found.push(name);
                }
            }
        }
    }
    found.sort();
    found
}
