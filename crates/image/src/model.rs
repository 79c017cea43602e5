//! What callers see of an image: its config, its summary, its history.
//!
//! *Source:* OCI image-spec v1.1, config.md; the JSON names of [`ImageDetails`] are those of
//! `docker image inspect`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use cofferdam_types::{Digest, ParsePlatformError, Platform};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};

use crate::{
    error::{Error, ErrorKind, Result},
    go_json::Lenient,
};

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
    pub user: String,
    /// `NAME=value` entries.
    pub env: Vec<String>,
    /// The program with its fixed arguments.
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Vec<String>,
    /// The default arguments, or the program when there is no entrypoint.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Vec<String>,
    /// The directory to start in; empty for `/`.
    pub working_dir: String,
    /// Signal by name or number that asks the workload to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The image's labels.
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

/// One string is a list of it, as in Docker's `strslice`.
fn string_or_list<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Vec<String>, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_unit<E: de::Error>(self) -> std::result::Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(
            self,
            mut items: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element::<Option<String>>()? {
                list.push(item.unwrap_or_default());
            }
            Ok(list)
        }
    }
    from.deserialize_any(Either)
}

/// The config blob, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawConfig {
    #[serde(default)]
    pub(crate) created: Lenient<String>,
    #[serde(default)]
    pub(crate) author: Lenient<String>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RawRootfs,
    #[serde(default)]
    pub(crate) history: Vec<Lenient<RawHistory>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawRootfs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawHistory {
    pub(crate) created: Option<String>,
    pub(crate) created_by: String,
    pub(crate) comment: String,
    pub(crate) empty_layer: bool,
}

impl RawConfig {
    /// What the image was built for. What the config leaves open is as `offered` says, the word
    /// of an index for instance, and else this host's.
    ///
    /// # Errors
    /// `Corrupt` when it names what is no platform.
    pub(crate) fn platform(&self, offered: Option<&Platform>) -> Result<Platform> {
        let host = Platform::host();
        let fallback = offered.unwrap_or(&host);
        let or = |own: &str, other: &str| if own.is_empty() { other } else { own }.to_owned();
        if self.architecture.is_empty() {
            let os = or(&self.os, fallback.os());
            return Platform::new(&os, fallback.architecture(), fallback.variant())
                .map_err(no_platform);
        }
        let os = or(&self.os, offered.map_or("linux", Platform::os));
        Platform::new(&os, &self.architecture, Some(&self.variant)).map_err(no_platform)
    }
}

fn no_platform(error: ParsePlatformError) -> Error {
    Error::new(ErrorKind::Corrupt, "The image's config names no platform").because(error)
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
    use crate::go_json;

    fn read(text: &str) -> RawConfig {
        go_json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_config_with_nulls_and_without_fields_is_read() {
        let config = read(
            r#"{"architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Volumes":null,
            "ExposedPorts":{"80/tcp":{}},"WorkingDir":null,"Labels":{"a":null},"User":null},
            "rootfs":{"diff_ids":null},"history":[null,{"created_by":5},{"empty_layer":null}]}"#,
        );
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.config.labels["a"], "");
        assert_eq!(config.platform(None).unwrap().to_string(), "linux/amd64");
        assert!(config.config.env.is_empty());
        assert!(read(r#"{"config":null,"rootfs":{}}"#).config.cmd.is_empty());
    }

    #[test]
    fn keys_in_another_case_and_commands_of_one_string_are_read_as_docker_does() {
        let config = read(
            r#"{"config":{"cmd":"/bin/echo","ENTRYPOINT":["a",null],"env":["A=1"]},
            "rootfS":{"Diff_IDs":[]}}"#,
        );
        assert_eq!(config.config.cmd, ["/bin/echo"]);
        assert_eq!(config.config.entrypoint, ["a", ""]);
        assert_eq!(config.config.env, ["A=1"]);
    }

    #[test]
    fn a_platform_that_the_config_leaves_open_is_the_indexs_or_the_hosts() {
        let arm = "linux/arm/v6".parse().unwrap();
        let empty = read(r#"{"architecture":"","os":"","rootfs":{}}"#);
        assert_eq!(empty.platform(Some(&arm)).unwrap(), arm);
        assert_eq!(empty.platform(None).unwrap(), Platform::host());
        let named = read(r#"{"architecture":"arm64","rootfs":{}}"#);
        assert_eq!(
            named.platform(Some(&arm)).unwrap().to_string(),
            "linux/arm64"
        );
        assert!(
            read(r#"{"architecture":"a b","rootfs":{}}"#)
                .platform(None)
                .is_err()
        );
    }

    #[test]
    fn a_config_survives_json() {
        let config = ImageConfig {
            volumes: vec!["/data".into()],
            env: vec!["A=b".into()],
            cmd: vec!["sh".into()],
            ..ImageConfig::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""Volumes":{"/data":{}}"#), "{text}");
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
    }
}
