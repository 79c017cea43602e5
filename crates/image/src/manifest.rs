//! Manifests, indexes and descriptors, in their OCI and their Docker form.
//!
//! Called by the registry, the archives and the store. Everything here is bounded in size before
//! it is parsed and is checked as if an attacker wrote it.
//! *Source:* OCI image-spec v1.1, manifest.md, image-index.md, descriptor.md; Docker "Image
//! Manifest Version 2, Schema 2".

use std::collections::BTreeMap;

use cofferdam_types::{Digest, Platform};
use serde::{Deserialize, Serialize, de::DeserializeOwned, de::IgnoredAny};

use crate::{
    error::{Error, ErrorKind, Result},
    go_json::{self, Lenient},
    media::{self, DocumentKind},
    model::RawConfig,
};

/// Largest manifest, index, config or token answer that is read, in bytes. The distribution
/// specification asks registries to take manifests of 4 MiB and no more need be expected.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of one image; Docker stops at 127, other builders somewhat later.
const LAYERS_MAX: usize = 1024;
/// Manifests of one index.
const INDEX_ENTRIES_MAX: usize = 1024;

/// A pointer to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Lenient::is_none")]
    pub(crate) annotations: Lenient<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Lenient::is_none")]
    pub(crate) platform: Lenient<OfferedPlatform>,
}

/// A platform as an index names it, in part or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OfferedPlatform {
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl From<&Platform> for OfferedPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            os: platform.os().to_owned(),
            architecture: platform.architecture().to_owned(),
            variant: platform.variant().unwrap_or_default().to_owned(),
        }
    }
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: Lenient(None),
            platform: Lenient(None),
        }
    }

    /// The platform that an index names for this entry, where it names a good one.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let offered = self.platform.0.as_ref()?;
        let os = if offered.os.is_empty() {
            "linux"
        } else {
            &offered.os
        };
        Platform::new(os, &offered.architecture, Some(&offered.variant)).ok()
    }

    /// An annotation.
    pub(crate) fn note(&self, key: &str) -> Option<&String> {
        self.annotations.0.as_ref()?.get(key)
    }

    pub(crate) fn kind(&self) -> DocumentKind {
        media::document_kind(&self.media_type)
    }

    /// Attestations hang in an index as manifests for `unknown/unknown`.
    pub(crate) fn is_attestation(&self) -> bool {
        let unknown = |p: &OfferedPlatform| p.os == "unknown" || p.architecture == "unknown";
        self.note("vnd.docker.reference.type").is_some()
            || self.platform.0.as_ref().is_some_and(unknown)
    }
}

/// One image: its config and its layers, bottom first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// Absent in some; always 2.
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// Several images, one for each platform.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    pub(crate) media_type: &'static str,
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a registry or a layout may answer where a manifest is asked for.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// What tells the kind of a document.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Probe {
    schema_version: Lenient<u32>,
    media_type: String,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

impl Document {
    /// Parses a manifest or an index; `declared` is the media type that the transport gave.
    pub(crate) fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self> {
        let probe: Probe = parse_json(bytes, "manifest")?;
        let kind = match (probe.media_type.as_str(), declared) {
            ("", Some(declared)) => declared,
            (own, _) => own,
        };
        if probe.schema_version == Lenient(Some(1)) || media::is_schema_1(kind) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "The image has a manifest of Docker's schema 1, which is no longer supported",
            )
            .hint("Push it again with a current tool; that writes a current manifest"));
        }
        // The two shapes exclude each other, so that no manifest can be read in two ways.
        let has_image = probe.config.is_some() || probe.layers.is_some();
        match (probe.manifests.is_some(), has_image) {
            (true, false) => Ok(Self::Index(Index::parse(bytes)?)),
            (false, true) => Ok(Self::Manifest(Manifest::parse(bytes)?)),
            (false, false) if media::document_kind(kind) == DocumentKind::Index => {
                Ok(Self::Index(Index::parse(bytes)?))
            }
            _ => Err(no_image(kind)),
        }
    }
}

fn no_image(kind: &str) -> Error {
    unsupported(format!(
        "The manifest is no image: its media type is {}",
        shown(kind)
    ))
}

impl Manifest {
    /// Parses and checks a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = parse_json(bytes, "manifest")?;
        if !matches!(manifest.schema_version, 0 | 2) {
            return Err(unsupported(format!(
                "The manifest has schema version `{}`, not `2`",
                manifest.schema_version
            )));
        }
        if media::document_kind(&manifest.media_type) == DocumentKind::Other {
            return Err(no_image(&manifest.media_type));
        }
        if !media::is_image_config(&manifest.config.media_type) {
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
            if !media::is_layer(&layer.media_type) {
                return Err(unsupported(format!(
                    "The image has a layer of the media type {}",
                    shown(&layer.media_type)
                )));
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
    pub(crate) fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media::OCI_INDEX,
            manifests,
        }
    }

    /// Parses and checks an index. Entries that cannot be read are left out: one odd entry does
    /// not refuse the others.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Written {
            #[serde(default)]
            manifests: Vec<Lenient<Descriptor>>,
        }
        let index: Written = parse_json(bytes, "image index")?;
        if index.manifests.len() > INDEX_ENTRIES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("The image index has more than {INDEX_ENTRIES_MAX} entries"),
            ));
        }
        let good = index.manifests.into_iter().filter_map(|entry| entry.0);
        Ok(Self::new(good.collect()))
    }

    /// The entries to try for `platform`, best first: the one that names it, or one that names a
    /// platform that runs on it; where none does, those that name no platform. Of these the
    /// config has to tell.
    pub(crate) fn select(&self, platform: &Platform) -> Result<Vec<&Descriptor>> {
        let images = || {
            self.manifests
                .iter()
                .filter(|entry| !entry.is_attestation() && entry.kind() != DocumentKind::Other)
        };
        let named = images()
            .filter_map(|entry| Some((entry.platform()?.rank_on(platform)?, entry)))
            .min_by_key(|(rank, _)| *rank);
        if let Some((_, entry)) = named {
            return Ok(vec![entry]);
        }
        let unnamed: Vec<_> = images()
            .filter(|entry| entry.platform().is_none())
            .collect();
        if !unnamed.is_empty() {
            return Ok(unnamed);
        }
        let offered = images().filter_map(Descriptor::platform);
        let offered: Vec<_> = offered.map(|p| format!("`{p}`")).take(16).collect();
        Err(wrong_platform(platform, &offered.join(", ")))
    }
}

/// The refusal of an image that has nothing for `wanted`.
pub(crate) fn wrong_platform(wanted: &Platform, offered: &str) -> Error {
    let refused = |what: &str| {
        let what = format!("The image has nothing for `{wanted}`; {what}");
        Error::new(ErrorKind::PlatformMismatch, what)
    };
    if offered.is_empty() {
        return refused("its index lists no image");
    }
    refused(&format!("it offers {offered}"))
        .hint("Name one of these with `--platform` if the host can run it")
}

/// Checks that a config belongs to its manifest; gives the platform it is for. What the config
/// does not say of it, `offered` does: the index's word, where there is one.
pub(crate) fn check_config(
    manifest: &Manifest,
    config: &RawConfig,
    offered: Option<&Platform>,
) -> Result<Platform> {
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("The manifest has {layers} layers, but the config {diff_ids}"),
        ));
    }
    config.platform(offered)
}

/// Parses JSON from outside.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    go_json::from_slice(bytes).map_err(|error| {
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
#[path = "manifest_tests.rs"]
mod tests;
