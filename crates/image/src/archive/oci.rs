//! OCI layouts: `index.json` points at blobs that are named by their digest.
//!
//! *Source:* OCI image-spec v1.1, image-layout.md, annotations.md.

use cofferdam_types::{Digest, Platform};

use super::load::Archive;
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{DOCUMENT_BYTES_MAX, Descriptor, Document, Index, Manifest, parse_json},
    model::RawConfig,
};

/// Name of the layout's entry point.
pub(crate) const INDEX: &str = "index.json";
/// Name of the file that marks a layout, and its content.
pub(crate) const LAYOUT: &str = "oci-layout";
pub(crate) const LAYOUT_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// What containerd and Docker note an image's full name under.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// A tag or a name, by the choice of the tool that wrote it.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Levels of indexes in indexes that are followed.
const NESTING_MAX: usize = 4;

/// An image that an archive offers.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Of the manifest.
    pub(crate) digest: Digest,
    pub(crate) platform: Platform,
    pub(crate) manifest: Manifest,
    pub(crate) config: RawConfig,
    /// Names as the archive has them.
    pub(crate) names: Vec<String>,
}

/// The images of a layout. Configs are read, as many tools leave the platform out of the index.
pub(crate) fn candidates(archive: &Archive<'_>, index: &[u8]) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for entry in &Index::parse(index)?.manifests {
        let names = names_of(entry);
        follow(archive, entry, &names, NESTING_MAX, &mut found)?;
    }
    Ok(found)
}

fn follow(
    archive: &Archive<'_>,
    entry: &Descriptor,
    names: &[String],
    levels: usize,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    if entry.is_attestation() || !(entry.is_index() || entry.is_manifest()) {
        return Ok(());
    }
    // A layout may hold one platform of an index that lists many.
    let Some(bytes) = archive.blob_document(&entry.digest, entry.size)? else {
        return Ok(());
    };
    match Document::parse(&bytes, Some(&entry.media_type))? {
        Document::Index(_) if levels == 0 => Err(Error::new(
            ErrorKind::Corrupt,
            "The layout nests image indexes too deep",
        )),
        Document::Index(index) => index
            .manifests
            .iter()
            .try_for_each(|e| follow(archive, e, names, levels - 1, found)),
        Document::Manifest(manifest) => {
            let Some(bytes) =
                archive.blob_document(&manifest.config.digest, manifest.config.size)?
            else {
                return Ok(());
            };
            let config: RawConfig = parse_json(&bytes, "image config")?;
            found.push(Candidate {
                digest: entry.digest,
                platform: config.platform()?,
                manifest,
                config,
                names: names.to_vec(),
            });
            Ok(())
        }
    }
}

/// The names that a layout gives an entry. A bare tag names no repository and so no image.
fn names_of(entry: &Descriptor) -> Vec<String> {
    let note = |key| {
        entry
            .annotations
            .as_ref()
            .and_then(|notes| notes.get(key))
            .cloned()
    };
    note(CONTAINERD_NAME)
        .or_else(|| note(REF_NAME).filter(|name| name.contains(['/', ':'])))
        .into_iter()
        .collect()
}

/// Refuses documents that are too large to be one.
pub(crate) fn check_document_size(size: u64) -> Result<()> {
    if size > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("A manifest or config has {size} bytes; the limit is {DOCUMENT_BYTES_MAX}"),
        ));
    }
    Ok(())
}
