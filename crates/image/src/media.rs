//! Media types: what a manifest, a configuration or a layer may say it is.
//!
//! The one place that judges them. Names are compared without case and parameters. A type that
//! says nothing (absent, `application/octet-stream`, …) is no ground for a refusal: the content
//! is checked by its digests and its form. A type that names something else is one.
//! *Source:* OCI image-spec v1.1, media-types.md; Docker "Image Manifest Version 2, Schema 2";
//! moby `distribution/pull_v2.go`, `defaultImageTypes`.

use std::borrow::Cow;

use crate::layer::Compression;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Both forms of schema 1 begin so.
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// The type alone: lower case, without parameters.
fn essence(media_type: &str) -> Cow<'_, str> {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// Whether a type says nothing about what it is the type of.
fn is_vague(essence: &str) -> bool {
    essence.is_empty()
        || essence.starts_with("text/")
        || matches!(
            essence,
            "application/octet-stream"
                | "binary/octet-stream"
                | "application/json"
                | "application/x-json"
                | "application/unknown"
        )
}

/// What a descriptor of an index points at, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Index,
    Manifest,
    /// The type does not say; the document does.
    Unknown,
    /// Something that is no image, an attestation's bundle for instance.
    Other,
}

/// What a document of `media_type` is.
pub(crate) fn document_kind(media_type: &str) -> DocumentKind {
    match &*essence(media_type) {
        OCI_INDEX | DOCKER_LIST => DocumentKind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => DocumentKind::Manifest,
        vague if is_vague(vague) => DocumentKind::Unknown,
        _ => DocumentKind::Other,
    }
}

/// Whether a document is of Docker's schema 1.
pub(crate) fn is_schema_1(media_type: &str) -> bool {
    essence(media_type).starts_with(DOCKER_SCHEMA_1)
}

/// Whether a manifest is in Docker's form.
pub(crate) fn is_docker_manifest(media_type: &str) -> bool {
    essence(media_type) == DOCKER_MANIFEST
}

/// Whether a configuration of `media_type` may be an image's.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    let essence = essence(media_type);
    is_vague(&essence) || matches!(&*essence, OCI_CONFIG | DOCKER_CONFIG)
}

/// Whether `media_type` is the OCI name of an image's configuration.
pub(crate) fn is_oci_config(media_type: &str) -> bool {
    essence(media_type) == OCI_CONFIG
}

/// Whether a blob of `media_type` may be a layer. Layers that are not to be pushed elsewhere
/// ("foreign", "nondistributable") are layers; encrypted ones cannot be read.
pub(crate) fn is_layer(media_type: &str) -> bool {
    let essence = essence(media_type);
    if essence.ends_with("+encrypted") {
        return false;
    }
    let known = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
        "application/vnd.docker.container.image.rootfs.",
    ];
    is_vague(&essence)
        || known.iter().any(|prefix| essence.starts_with(prefix))
        || matches!(
            &*essence,
            "application/tar"
                | "application/x-tar"
                | "application/x-gtar"
                | "application/tar+gzip"
                | "application/x-tgz"
                | "application/gzip"
                | "application/x-gzip"
                | "application/zstd"
                | "application/x-zstd"
        )
}

/// How a layer is compressed by the name of its type, where that says it.
pub(crate) fn named_compression(media_type: &str) -> Option<Compression> {
    let essence = essence(media_type);
    let end = |ends: [&str; 4]| ends.iter().any(|end| essence.ends_with(end));
    if end(["+gzip", ".gzip", "/gzip", "x-gzip"]) {
        return Some(Compression::Gzip);
    }
    if end(["+zstd", ".zstd", "/zstd", "x-zstd"]) {
        return Some(Compression::Zstd);
    }
    essence.ends_with("tar").then_some(Compression::None)
}

/// The OCI media type of a layer with `compression`.
pub(crate) const fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => OCI_LAYER,
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_types_are_taken_and_others_are_not() {
        for vague in [
            "",
            "application/octet-stream",
            "application/json",
            "text/html; charset=x",
        ] {
            assert!(is_image_config(vague), "{vague}");
            assert!(is_layer(vague), "{vague}");
            assert_eq!(document_kind(vague), DocumentKind::Unknown, "{vague}");
        }
        for other in [
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.oci.empty.v1+json",
        ] {
            assert!(!is_image_config(other), "{other}");
            assert!(!is_layer(other), "{other}");
            assert_eq!(document_kind(other), DocumentKind::Other, "{other}");
        }
    }

    #[test]
    fn every_kind_of_layer_is_known_and_encrypted_ones_are_refused() {
        for (kind, compression) in [
            (
                "application/vnd.oci.image.layer.v1.tar",
                Some(Compression::None),
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Some(Compression::Gzip),
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                Some(Compression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Some(Compression::Gzip),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                Some(Compression::Zstd),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                Some(Compression::None),
            ),
            (
                "Application/Vnd.OCI.image.layer.v1.tar+GZIP",
                Some(Compression::Gzip),
            ),
            ("application/octet-stream", None),
        ] {
            assert!(is_layer(kind), "{kind}");
            assert_eq!(named_compression(kind), compression, "{kind}");
        }
        assert!(!is_layer(
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
        ));
        assert!(!is_layer("application/x-cake"));
    }
}
