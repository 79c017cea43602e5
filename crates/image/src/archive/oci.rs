//! OCI layouts: `index.json` points at blobs that are named by their digest.
//!
//! *Source:* OCI image-spec v1.1, image-layout.md, annotations.md.

use cofferdam_types::{Digest, Platform};

use super::{
    candidate::{Candidate, is_of_one_image},
    contents::Archive,
};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{Descriptor, Document, Index, Manifest, check_config, parse_json},
    media::DocumentKind,
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

/// The images of a layout, and why others are none of them. Configs are read, as many tools leave
/// the platform out of the index.
pub(crate) fn candidates(
    archive: &Archive<'_>,
    index: &[u8],
    refusals: &mut Vec<Error>,
) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for (group, entry) in Index::parse(index)?.manifests.iter().enumerate() {
        let top = IndexNames {
            names: names_of(entry),
            group,
        };
        follow(
            archive,
            entry,
            &top,
            None,
            NESTING_MAX,
            &mut found,
            refusals,
        )?;
    }
    Ok(found)
}

/// What an entry of the layout's index says of everything below it.
struct IndexNames {
    names: Vec<String>,
    group: usize,
}

fn follow(
    archive: &Archive<'_>,
    entry: &Descriptor,
    top: &IndexNames,
    offered: Option<&Platform>,
    levels: usize,
    found: &mut Vec<Candidate>,
    refusals: &mut Vec<Error>,
) -> Result<()> {
    if entry.is_attestation() || entry.kind() == DocumentKind::Other {
        return Ok(());
    }
    let own = entry.platform();
    let offered = own.as_ref().or(offered);
    let document = || {
        // A layout may hold one platform of an index that lists many.
        let bytes = archive.blob_document(&entry.digest, entry.size)?;
        let parse = |bytes: Vec<u8>| Document::parse(&bytes, Some(&entry.media_type));
        bytes.map(parse).transpose()
    };
    let read = match document() {
        Ok(Some(Document::Index(_))) if levels == 0 => Err(Error::new(
            ErrorKind::Corrupt,
            "The layout nests image indexes too deep",
        )),
        Ok(Some(Document::Index(index))) => {
            for entry in &index.manifests {
                follow(archive, entry, top, offered, levels - 1, found, refusals)?;
            }
            return Ok(());
        }
        Ok(Some(Document::Manifest(manifest))) => {
            image(archive, entry.digest, manifest, top, offered)
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match read {
        Ok(image) => found.extend(image),
        Err(error) if is_of_one_image(&error) => refusals.push(error),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn image(
    archive: &Archive<'_>,
    digest: Digest,
    manifest: Manifest,
    top: &IndexNames,
    offered: Option<&Platform>,
) -> Result<Option<Candidate>> {
    let Some(bytes) = archive.blob_document(&manifest.config.digest, manifest.config.size)? else {
        return Ok(None);
    };
    let config: RawConfig = parse_json(&bytes, "image config")?;
    Ok(Some(Candidate {
        digest,
        platform: check_config(&manifest, &config, offered)?,
        manifest,
        config,
        names: top.names.clone(),
        group: Some(top.group),
    }))
}

/// The names that a layout gives an entry. A bare tag names no repository and so no image.
fn names_of(entry: &Descriptor) -> Vec<String> {
    let note = |key| entry.note(key).filter(|name| !name.is_empty()).cloned();
    note(CONTAINERD_NAME)
        .or_else(|| note(REF_NAME).filter(|name| name.contains(['/', ':'])))
        .into_iter()
        .collect()
}
