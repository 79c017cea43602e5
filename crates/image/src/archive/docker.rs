//! Docker archives: `manifest.json` lists images by the names of their files in the archive.

use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};

use super::{candidate::Candidate, contents::Archive};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    layer::Compression,
    manifest::{Descriptor, Manifest, check_config, parse_json, shown},
    media,
    model::RawConfig,
    store::ingest::Ingest,
};

/// One image of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerEntry {
    pub(crate) config: String,
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) layers: Vec<String>,
}

/// Name of the list.
pub(crate) const MANIFEST: &str = "manifest.json";

/// What a docker archive lists.
pub(crate) fn entries(list: &[u8]) -> Result<Vec<DockerEntry>> {
    parse_json(list, "archive's `manifest.json`")
}

impl DockerEntry {
    /// Whether this lists the image with that config.
    pub(crate) fn is_of(&self, archive: &Archive<'_>, config: &Digest) -> Result<bool> {
        let found = archive.find(&self.config)?;
        Ok(found.is_some_and(|(digest, _)| digest == *config)
            || self.config.contains(&config.hex()))
    }
}

/// An image of a docker archive. It has no manifest, so one is written: the same layers and config
/// give the same manifest, wherever they come from.
pub(crate) fn candidate(archive: &Archive<'_>, entry: &DockerEntry) -> Result<Candidate> {
    let (config_digest, config_size) = find(archive, &entry.config)?;
    let config_bytes = archive
        .document(&entry.config)?
        .ok_or_else(|| lacks(&entry.config))?;
    let config: RawConfig = parse_json(&config_bytes, "image config")?;
    // Docker names the config by its digest, so that a changed one shows.
    let claimed = entry
        .config
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    if let Ok(claimed) = format!("sha256:{claimed}").parse::<Digest>()
        && claimed != config_digest
    {
        return Err(crate::store::ingest::digest_mismatch(
            "The image config",
            &claimed,
            &config_digest,
        ));
    }
    let layers = entry
        .layers
        .iter()
        .map(|name| {
            let (digest, size) = find(archive, name)?;
            let compression = sniff(archive.ingest, &digest)?;
            Ok(Descriptor::new(
                media::layer_type(compression),
                digest,
                size,
            ))
        })
        .collect::<Result<_>>()?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.to_owned(),
        config: Descriptor::new(media::OCI_CONFIG, config_digest, config_size),
        layers,
    };
    let platform = check_config(&manifest, &config, None)?;
    let written = serde_json::to_vec(&manifest).map_err(|error| {
        Error::new(ErrorKind::Corrupt, "The image's manifest cannot be written").because(error)
    })?;
    Ok(Candidate {
        digest: archive.ingest.put(&written)?,
        platform,
        manifest,
        config,
        names: entry.repo_tags.clone().unwrap_or_default(),
        group: None,
    })
}

fn find(archive: &Archive<'_>, name: &str) -> Result<(Digest, u64)> {
    archive.find(name)?.ok_or_else(|| lacks(name))
}

fn lacks(name: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("The archive lacks {}, which it lists", shown(name)),
    )
}

fn sniff(ingest: &Ingest, digest: &Digest) -> Result<Compression> {
    use std::io::Read as _;
    let mut start = Vec::new();
    std::fs::File::open(ingest.blob(digest))
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(|error| host_error("Could not read a layer", error))?;
    Ok(Compression::sniff(&start))
}
