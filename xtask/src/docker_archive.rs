//! A one-layer docker archive, for an image that needs no other tool to be made.
//!
//! Deterministic: the same files give the same bytes. Source: moby image-spec v1.2.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The one layer of an image under construction.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    /// A layer without files.
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0);
        append(&mut self.0, &mut header, path, &[])
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, content.len());
        append(&mut self.0, &mut header, path, content)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.0
            .append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
            .with_context(|| format!("Could not pack `{path}`"))
    }

    /// Writes the archive of an image with this layer, named `reference`, that runs `command`.
    ///
    /// # Errors
    /// When `out` fails.
    pub(crate) fn write(self, reference: &str, command: &[&str], out: impl Write) -> Result<()> {
        let layer = self.0.into_inner().context("Could not pack the layer")?;
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": command,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask demo"}],
        }))?;
        let config_name = format!("{}.json", sha256(&config));
        let layer_name = format!("{}/layer.tar", sha256(&layer));
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_name,
            "RepoTags": [reference],
            "Layers": [layer_name],
        }]))?;
        let mut archive = Builder::new(out);
        for (path, content) in [
            (config_name.as_str(), &config),
            (layer_name.as_str(), &layer),
            ("manifest.json", &manifest),
        ] {
            let mut header = header(EntryType::Regular, 0o644, content.len());
            append(&mut archive, &mut header, path, content)?;
        }
        archive.finish().context("Could not write the image")
    }
}

/// A header of a file of root's, dated 1970.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

fn append<W: Write>(
    archive: &mut Builder<W>,
    header: &mut Header,
    path: &str,
    content: &[u8],
) -> Result<()> {
    archive
        .append_data(header, path, content)
        .with_context(|| format!("Could not pack `{path}`"))
}

fn sha256(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read};

    use serde_json::Value;

    use super::*;

    fn members(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(bytes)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect()
    }

    #[test]
    fn the_manifest_names_a_config_and_a_layer_that_are_there() {
        let mut layer = Layer::new();
        layer.directory("bin", 0o755).unwrap();
        layer.file("bin/busybox", 0o755, b"program").unwrap();
        layer.symlink("bin/sh", "busybox").unwrap();
        let mut out = Vec::new();
        layer.write("demo:latest", &["/bin/sh"], &mut out).unwrap();
        let members = members(&out);
        let manifest: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        let config: Value =
            serde_json::from_slice(&members[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        let layer = &members[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", sha256(layer)).as_str()
        );
        assert_eq!(manifest[0]["RepoTags"][0], "demo:latest");
    }
}
