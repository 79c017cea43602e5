//! Manifests, indexes and descriptors, in their OCI and their Docker form.
//!
//! Called by the registry, the archives and the store. Everything here is bounded in size before
//! it is parsed and is checked as if an attacker wrote it.
//! *Source:* OCI image-spec v1.1, manifest.md, image-index.md, descriptor.md; Docker "Image
//! Manifest Version 2, Schema 2".

use cofferdam_types::{Digest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::{Error, ErrorKind, Result},
    layer::Compression,
    model::RawConfig,
};

/// Largest manifest, index, config or token answer that is read, in bytes. The distribution
/// specification asks registries to take manifests of 4 MiB and no more need be expected.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of one image; Docker stops at 127, other builders somewhat later.
const LAYERS_MAX: usize = 1024;
/// Manifests of one index.
const INDEX_ENTRIES_MAX: usize = 1024;

/// Media types, OCI and Docker.
pub(crate) mod media {
    pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub(crate) const DOCKER_LIST: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Both forms of schema 1 begin so.
    pub(crate) const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
}

/// A pointer to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Kept loose: one entry with an odd platform must not spoil the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<serde_json::Value>,
}

impl Descriptor {
    /// The platform that an index names for this entry, where it names a good one.
    pub(crate) fn platform(&self) -> Option<Platform> {
        serde_json::from_value(self.platform.clone()?).ok()
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            media::OCI_INDEX | media::DOCKER_LIST
        )
    }

    pub(crate) fn is_manifest(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            media::OCI_MANIFEST | media::DOCKER_MANIFEST
        )
    }

    /// Attestations hang in an index as manifests for `unknown/unknown`.
    pub(crate) fn is_attestation(&self) -> bool {
        self.annotations
            .as_ref()
            .is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
            || self.platform().is_some_and(|p| p.os() == "unknown")
    }
}

/// One image: its config and its layers, bottom first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several images, one for each platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a registry or a layout may answer where a manifest is asked for.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe<'a> {
    schema_version: Option<u32>,
    media_type: Option<String>,
    #[serde(borrow)]
    manifests: Option<&'a RawValue>,
    #[serde(borrow)]
    layers: Option<&'a RawValue>,
}

impl Document {
    /// Parses a manifest or an index; `declared` is the media type that the transport gave.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self> {
        let probe: Probe<'_> = parse_json(bytes, "manifest")?;
        let kind = probe.media_type.as_deref().or(declared).unwrap_or_default();
        if probe.schema_version == Some(1) || kind.starts_with(media::DOCKER_SCHEMA_1) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "The image has a manifest of Docker's schema 1, which is no longer supported",
            )
            .hint("Push it again with a current tool; that writes a current manifest"));
        }
        // The two shapes exclude each other, so that no manifest can be read in two ways.
        match (probe.manifests, probe.layers) {
            (Some(_), None) => Ok(Self::Index(Index::parse(bytes)?)),
            (None, Some(_)) => Ok(Self::Manifest(Manifest::parse(bytes)?)),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "The manifest is no image: its media type is {}",
                    shown(kind)
                ),
            )),
        }
    }
}

impl Manifest {
    /// Parses and checks a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = parse_json(bytes, "manifest")?;
        if manifest.schema_version != 2 {
            return Err(unsupported(format!(
                "The manifest has schema version `{}`, not `2`",
                manifest.schema_version
            )));
        }
        if let Some(kind) = &manifest.media_type
            && !matches!(kind.as_str(), media::OCI_MANIFEST | media::DOCKER_MANIFEST)
        {
            return Err(unsupported(format!(
                "The manifest has the unknown media type {}",
                shown(kind)
            )));
        }
        if !matches!(
            manifest.config.media_type.as_str(),
            media::OCI_CONFIG | media::DOCKER_CONFIG
        ) {
            return Err(unsupported(format!(
                "The manifest is no image: its config has the media type {}",
                shown(&manifest.config.media_type)
            )));
        }
        if manifest.layers.len() > LAYERS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The image has more than {LAYERS_MAX} layers"),
            ));
        }
        for layer in &manifest.layers {
            layer_compression(&layer.media_type)?;
            if !layer.urls.is_empty() {
                return Err(unsupported(
                    "The image has a layer that lives outside its registry",
                ));
            }
        }
        Ok(manifest)
    }

    /// Bytes of the config and of all layers, as stored.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| {
            sum.saturating_add(layer.size)
        })
    }
}

impl Index {
    /// Parses and checks an index.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let index: Self = parse_json(bytes, "image index")?;
        if index.manifests.len() > INDEX_ENTRIES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The image index has more than {INDEX_ENTRIES_MAX} entries"),
            ));
        }
        Ok(index)
    }

    /// The entry for `platform`: an exact match before one that runs on it.
    pub(crate) fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let candidates = || {
            self.manifests
                .iter()
                .filter(|entry| !entry.is_attestation())
                .filter_map(|entry| Some((entry, entry.platform()?)))
        };
        candidates()
            .find(|(_, offered)| offered == platform)
            .or_else(|| candidates().find(|(_, offered)| offered.runs_on(platform)))
            .map(|(entry, _)| entry)
            .ok_or_else(|| {
                let offered: Vec<_> = candidates()
                    .map(|(_, p)| format!("`{p}`"))
                    .take(16)
                    .collect();
                wrong_platform(platform, &offered.join(", "))
            })
    }
}

/// The refusal of an image that has nothing for `wanted`.
pub(crate) fn wrong_platform(wanted: &Platform, offered: &str) -> Error {
    let offered = if offered.is_empty() { "none" } else { offered };
    Error::new(
        ErrorKind::PlatformMismatch,
        format!("The image has nothing for `{wanted}`; it offers {offered}"),
    )
    .hint("Name one of these with `--platform` if the host can run it")
}

/// How a layer of `media_type` is compressed by its name; `Err` for what is no layer.
pub(crate) fn layer_compression(media_type: &str) -> Result<Compression> {
    match media_type {
        media::OCI_LAYER | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        media::OCI_LAYER_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        media::OCI_LAYER_ZSTD | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok(Compression::Zstd)
        }
        // Non-distributable layers were withdrawn from the specification; some images have them.
        "application/vnd.oci.image.layer.nondistributable.v1.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip" => Ok(Compression::Gzip),
        other => Err(unsupported(format!(
            "The image has a layer of the media type {}",
            shown(other)
        ))),
    }
}

/// The OCI media type of a layer with `compression`.
pub(crate) const fn layer_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => media::OCI_LAYER,
        Compression::Gzip => media::OCI_LAYER_GZIP,
        Compression::Zstd => media::OCI_LAYER_ZSTD,
    }
}

/// Checks that a config belongs to its manifest; gives the platform it is for.
pub(crate) fn check_config(manifest: &Manifest, config: &RawConfig) -> Result<Platform> {
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("The manifest has {layers} layers, but the config {diff_ids}"),
        ));
    }
    config.platform()
}

/// Parses JSON from outside.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            format!("The {what} is not what it should be"),
        )
        .because(error)
    })
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

/// Foreign text, bounded and printable.
pub(crate) fn shown(text: &str) -> String {
    let text: String = text
        .chars()
        .take(120)
        .flat_map(char::escape_debug)
        .collect();
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: &str, platform: Option<&str>) -> String {
        let platform = platform.map_or(String::new(), |p| {
            let (os, architecture) = p.split_once('/').unwrap();
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
        });
        let digest = Digest::from_sha256([7; 32]);
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1{platform}}}"#)
    }

    fn manifest(config: &str, layer: &str) -> String {
        let (config, layer) = (descriptor(config, None), descriptor(layer, None));
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#)
    }

    #[test]
    fn docker_and_oci_manifests_are_read() {
        for (config, layer) in [
            (media::OCI_CONFIG, media::OCI_LAYER_ZSTD),
            (
                media::DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        ] {
            let text = manifest(config, layer);
            assert!(matches!(
                Document::parse(text.as_bytes(), None),
                Ok(Document::Manifest(_))
            ));
        }
    }

    #[test]
    fn artifacts_schema_1_and_unknown_layers_are_refused_as_unsupported() {
        for text in [
            manifest("application/vnd.cncf.helm.config.v1+json", media::OCI_LAYER),
            manifest(media::OCI_CONFIG, "application/x-cake"),
            r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#.to_owned(),
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
            r#"{"schemaVersion":2}"#.to_owned(),
        ] {
            let error = Document::parse(text.as_bytes(), None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        }
    }

    #[test]
    fn the_exact_platform_wins_and_attestations_are_never_chosen() {
        let entries = [
            descriptor(media::OCI_MANIFEST, Some("unknown/unknown")),
            descriptor(media::OCI_MANIFEST, Some("linux/arm64")),
            descriptor(media::OCI_MANIFEST, Some("linux/amd64")),
        ];
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        let Document::Index(index) = Document::parse(text.as_bytes(), None).unwrap() else {
            panic!("no index");
        };
        let amd64 = "linux/amd64".parse().unwrap();
        assert_eq!(index.select(&amd64).unwrap().platform(), Some(amd64));
        let error = index.select(&"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PlatformMismatch);
        assert!(
            error.to_string().contains("`linux/arm64`, `linux/amd64`"),
            "{error}"
        );
    }
}
