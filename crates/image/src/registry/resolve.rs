//! From a reference to the manifest for one platform, through indexes.

use std::collections::BTreeSet;

use cofferdam_types::{Digest, Platform};

use super::{
    client::Repository,
    hosts::is_of_the_endpoint,
    transfer::{BlobKind, Fetched},
};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    manifest::{DOCUMENT_BYTES_MAX, Document, Manifest, check_config, parse_json, wrong_platform},
    model::RawConfig,
    progress::NoProgress,
    reference::Reference,
    store::ingest::Ingest,
};

/// Indexes within indexes that are followed.
const NESTING_MAX: usize = 3;
/// Documents that are asked for on the way to one image. More than one for each level are needed
/// only where an index names no platforms.
const DOCUMENTS_MAX: usize = 32;

/// An image that a registry offers.
pub(super) struct Resolved {
    pub(super) manifest: Manifest,
    pub(super) fetched: Fetched,
    /// The platform that an index named for it.
    pub(super) offered: Option<Platform>,
    pub(super) repo_digests: BTreeSet<String>,
}

/// A document to ask for.
struct Step {
    asked: String,
    wanted: Option<Digest>,
    offered: Option<Platform>,
    repo_digests: BTreeSet<String>,
    depth: usize,
    /// Whether another entry may be meant, so that the config has to tell.
    is_a_guess: bool,
}

/// Finds the manifest for `platform`. Where an index names no platforms, the configs of its
/// images tell.
pub(super) async fn at(
    repository: &Repository,
    reference: &Reference,
    platform: &Platform,
    ingest: &Ingest,
) -> Result<Resolved> {
    let wanted = reference.digest();
    let mut steps = vec![Step {
        asked: match (wanted, reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        },
        wanted,
        offered: None,
        repo_digests: BTreeSet::new(),
        depth: 0,
        is_a_guess: false,
    }];
    let mut refusal = None;
    let mut documents = 0;
    while let Some(step) = steps.pop() {
        documents += 1;
        if step.depth > NESTING_MAX || documents > DOCUMENTS_MAX {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "The registry nests image indexes too deep",
            ));
        }
        let is_a_guess = step.is_a_guess;
        match follow(repository, step, reference, platform, ingest, &mut steps).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            // The next entry may be the one.
            Err(error) if is_a_guess && is_of_the_endpoint(&error) => {
                refusal.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| wrong_platform(platform, "")))
}

/// Fetches one document: an image, or an index, whose entries are the next steps.
async fn follow(
    repository: &Repository,
    step: Step,
    reference: &Reference,
    platform: &Platform,
    ingest: &Ingest,
    steps: &mut Vec<Step>,
) -> Result<Option<Resolved>> {
    let fetched = repository.manifest(&step.asked, step.wanted).await?;
    let mut repo_digests = step.repo_digests;
    repo_digests.insert(format!("{}@{}", reference.name(), fetched.digest));
    match Document::parse(&fetched.bytes, fetched.media_type.as_deref())? {
        Document::Manifest(manifest) => {
            let found = Resolved {
                manifest,
                fetched,
                offered: step.offered,
                repo_digests,
            };
            if step.is_a_guess {
                config(repository, &found, ingest, platform).await?;
            }
            Ok(Some(found))
        }
        Document::Index(index) => {
            let entries = index.select(platform)?;
            let is_a_guess = step.is_a_guess || entries.len() > 1;
            // The last that is pushed comes first.
            steps.extend(entries.into_iter().rev().map(|entry| Step {
                asked: entry.digest.to_string(),
                wanted: Some(entry.digest),
                offered: entry.platform().or_else(|| step.offered.clone()),
                repo_digests: repo_digests.clone(),
                depth: step.depth + 1,
                is_a_guess,
            }));
            Ok(None)
        }
    }
}

/// Fetches and checks the config.
pub(super) async fn config(
    repository: &Repository,
    found: &Resolved,
    ingest: &Ingest,
    platform: &Platform,
) -> Result<RawConfig> {
    let descriptor = &found.manifest.config;
    if descriptor.size > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The image's config has {} bytes", descriptor.size),
        ));
    }
    repository
        .blob(ingest, descriptor, BlobKind::Config, &NoProgress)
        .await?;
    let bytes =
        cofferdam_base::fs::read_bounded(&ingest.blob(&descriptor.digest), DOCUMENT_BYTES_MAX)
            .map_err(|error| host_error("Could not read the image's config", error))?;
    let config: RawConfig = parse_json(&bytes, "image config")?;
    let offered = check_config(&found.manifest, &config, found.offered.as_ref())?;
    if !offered.runs_on(platform) {
        return Err(wrong_platform(platform, &format!("`{offered}`")));
    }
    Ok(config)
}
