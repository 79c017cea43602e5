//! What callers see of an image: its config, its summary, its history.
//!
//! *Source:* OCI image-spec v1.1, config.md; the JSON names of [`ImageDetails`] are those of
//! `docker image inspect`.

use std::{collections::BTreeMap, path::PathBuf};

use cofferdam_types::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the config: the image's id.
    pub id: Digest,
    /// Digest of the manifest; names the root file system.
    pub manifest: Digest,
    /// What it was built for.
    pub platform: Platform,
    /// How to run it.
    pub config: ImageConfig,
}

/// How to run an image; what the image does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    /// `NAME=value` entries.
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// The program with its fixed arguments.
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// The default arguments, or the program when there is no entrypoint.
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// The directory to start in; empty for `/`.
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    /// Signal by name or number that asks the workload to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The image's labels.
    #[serde(deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// `port/protocol` entries.
    #[serde(with = "keys_of_object")]
    pub exposed_ports: Vec<String>,
    /// Paths that hold data of their own.
    #[serde(with = "keys_of_object")]
    pub volumes: Vec<String>,
}

/// `{"80/tcp": {}}`: a set as Go's JSON has it.
mod keys_of_object {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, de::IgnoredAny};

    pub(super) fn serialize<S: Serializer>(keys: &[String], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            keys.iter()
                .map(|key| (key, BTreeMap::<String, String>::new())),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(from)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

fn null_as_default<'de, D, T>(from: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The config blob, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawConfig {
    #[serde(default)]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) author: Option<String>,
    #[serde(default)]
    os: Option<String>,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RawRootfs,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) history: Vec<RawHistory>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawRootfs {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawHistory {
    pub(crate) created: Option<String>,
    pub(crate) created_by: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) empty_layer: bool,
}

impl RawConfig {
    pub(crate) fn platform(&self) -> Result<Platform> {
        let os = self
            .os
            .as_deref()
            .filter(|os| !os.is_empty())
            .unwrap_or("linux");
        Platform::new(os, &self.architecture, self.variant.as_deref()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "The image's config names no platform").because(error)
        })
    }
}

/// One line of `coffer images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// The image's id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its full names, sorted; empty for a dangling image.
    pub references: Vec<String>,
    /// `repository@digest` names under which it was fetched.
    pub repo_digests: Vec<String>,
    /// What it was built for.
    pub platform: Platform,
    /// When it was built, RFC 3339; absent when the image does not say.
    pub created: Option<String>,
    /// When it came into the store, nanoseconds since the Unix epoch.
    pub added_ns: u64,
    /// Bytes of config and layers as stored; layers shared with other images count in each.
    pub size_bytes: u64,
    /// Bytes of the root file system; absent until it is built.
    pub rootfs_bytes: Option<u64>,
}

/// All about one image, in the shape of `docker image inspect`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageDetails {
    /// The image's id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its short names.
    pub repo_tags: Vec<String>,
    /// `repository@digest` names under which it was fetched.
    pub repo_digests: Vec<String>,
    /// When it was built, RFC 3339.
    pub created: Option<String>,
    /// Who built it.
    pub author: Option<String>,
    /// Architecture by its Go name.
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system.
    pub os: String,
    /// Bytes of config and layers as stored.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers.
    #[serde(rename = "RootFS")]
    pub root_fs: RootFsDetails,
    /// The built root file system; absent until it is built.
    pub rootfs_image: Option<Rootfs>,
    /// The config blob as the image has it.
    pub raw_config: serde_json::Value,
}

/// The layers of an image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFsDetails {
    /// Always `layers`.
    pub r#type: &'static str,
    /// Digests of the uncompressed layers, bottom first.
    pub layers: Vec<Digest>,
}

/// One step of an image's making, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// The image's id on the newest step.
    pub id: Option<Digest>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// Bytes of its layer as stored; 0 for a step without one.
    pub size_bytes: u64,
    /// The builder's remark.
    pub comment: String,
}

/// A built root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rootfs {
    /// The EROFS file; read-only, and never changed once it is there.
    pub path: PathBuf,
    /// Length of the file and so of the guest's disk: one of [`crate::ROOT_DISK_CLASSES_BYTES`].
    pub disk_bytes: u64,
}

/// An image that a load brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub image: Image,
    /// The full names that it got.
    pub references: Vec<String>,
}

/// What a removal removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Names that are gone, full form.
    pub untagged: Vec<String>,
    /// Ids of images and digests of blobs that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes that the disk got back.
    pub freed_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_with_nulls_and_without_fields_is_read() {
        let text = r#"{"architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Volumes":null,
            "ExposedPorts":{"80/tcp":{}},"WorkingDir":null},"rootfs":{"diff_ids":null}}"#;
        let config: RawConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.platform().unwrap().to_string(), "linux/amd64");
        assert!(config.config.env.is_empty());
    }

    #[test]
    fn a_config_survives_json() {
        let config = ImageConfig {
            volumes: vec!["/data".into()],
            env: vec!["A=b".into()],
            ..ImageConfig::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""Volumes":{"/data":{}}"#), "{text}");
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
    }
}
