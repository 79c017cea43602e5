//! From a reference to an image in the store.
//!
//! The image gets its name last, when every blob is checked and its root file system is built.
//! # Cancel safety
//! Dropping the future ends the transfers and the build, and leaves nothing but a work directory
//! that its last user removes.

use std::{collections::BTreeSet, sync::Arc};

use cofferdam_base::time::unix_time_ns;
use cofferdam_types::{Blame, Digest, Platform};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::{PullOptions, client::Repository, hosts::endpoints, http::Http, transfer::Fetched};
use crate::{
    error::{Error, ErrorKind, Result, host_error},
    manifest::{
        DOCUMENT_BYTES_MAX, Descriptor, Document, Manifest, check_config, parse_json,
        wrong_platform,
    },
    model::{Image, RawConfig},
    progress::{Phase, Progress, ProgressEvent},
    reference::Reference,
    store::{
        ImageStore,
        index::{LockedIndex, Record, RootfsRecord},
        ingest::{Ingest, NewImage},
        rootfs::{Cancel, LayerFile, build, layer_files},
    },
};

/// Layers that are fetched at once: enough to fill most lines, few enough for any registry.
const PARALLEL_LAYERS: usize = 4;
/// Indexes within indexes that are followed.
const NESTING_MAX: usize = 3;

/// An image that a registry offers.
struct Resolved {
    repository: Repository,
    manifest: Manifest,
    fetched: Fetched,
    repo_digests: BTreeSet<String>,
}

impl ImageStore {
    /// Fetches what `reference` names for `platform`, builds its root file system and names it.
    /// What the store has is not fetched again.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, `PlatformMismatch`, `Unsupported` of the request;
    /// `DigestMismatch`, `TooLarge`, `Corrupt`, `Registry` and `Timeout` of the registry;
    /// `NoSpace`, `Permission` and `Io` of the host. The store is then as it was.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        progress.event(ProgressEvent::Phase {
            phase: Phase::Resolving,
            total_bytes: None,
        });
        let http = Http::new(options)?;
        let ingest = Arc::new(Ingest::begin(&self.layout)?);
        let mut endpoints = endpoints(reference, options.mirrors.as_deref())?.into_iter();
        let (image, new) = loop {
            let Some(endpoint) = endpoints.next() else {
                return Err(Error::new(
                    ErrorKind::InvalidReference,
                    "The reference has no registry",
                ));
            };
            let repository = Repository::new(http.clone(), endpoint, reference.repository());
            let fetched = self
                .fetch(repository, reference, platform, &ingest, progress)
                .await;
            match fetched {
                Ok(done) => break done,
                // Whatever ails a mirror, the registry itself has the last word.
                Err(error) if endpoints.len() > 0 && is_of_the_endpoint(&error) => {}
                Err(error) => return Err(error),
            }
        };
        let Some(new) = new else { return Ok(image) };
        let ingest = Arc::into_inner(ingest)
            .ok_or_else(|| Error::new(ErrorKind::Cancelled, "The pull was given up"))?;
        aside(move || ingest.commit(vec![new])).await?;
        Ok(image)
    }

    /// Gets everything from one endpoint; no new image when the store has it whole.
    async fn fetch(
        &self,
        repository: Repository,
        reference: &Reference,
        platform: &Platform,
        ingest: &Arc<Ingest>,
        progress: &dyn Progress,
    ) -> Result<(Image, Option<NewImage>)> {
        let found = resolve_at(repository, reference, platform).await?;
        if self.rename(&found, reference, platform)?
            && let Some(image) = self.resolve(&found.fetched.digest.to_string(), platform)?
        {
            return Ok((image, None));
        }
        let config = config(&found, ingest, platform).await?;
        layers(&found, ingest, progress).await?;
        let files = layer_files(&found.manifest, &config, |digest| ingest.blob(digest));
        let built = build_aside(ingest, files, found.fetched.digest, progress).await?;
        let record = record(&found, &config, built)?;
        let image = Image {
            id: record.id,
            manifest: record.manifest,
            platform: record.platform.clone(),
            config: config.config,
        };
        let new = NewImage {
            record,
            references: names(reference),
        };
        Ok((image, Some(new)))
    }

    /// Names an image that the store has whole; `false` when it has not.
    fn rename(&self, found: &Resolved, reference: &Reference, platform: &Platform) -> Result<bool> {
        let digest = found.fetched.digest;
        let mut locked = LockedIndex::take(&self.layout)?;
        let known =
            locked.index.images.iter_mut().find(|r| {
                r.manifest == digest && r.rootfs.is_some() && r.platform.runs_on(platform)
            });
        let Some(record) = known else {
            return Ok(false);
        };
        if !self.layout.rootfs(&digest).exists() {
            return Ok(false);
        }
        record
            .repo_digests
            .extend(found.repo_digests.iter().cloned());
        for name in names(reference) {
            locked.index.name(&name, digest);
        }
        locked.publish()?;
        Ok(true)
    }
}

/// The name that a pull gives: by digest, none but the digest itself.
fn names(reference: &Reference) -> Vec<String> {
    if reference.digest().is_some() {
        Vec::new()
    } else {
        vec![reference.to_string()]
    }
}

/// Whether another endpoint may do better.
fn is_of_the_endpoint(error: &Error) -> bool {
    error.blame() == Blame::Remote
        || matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::Unauthorized
                | ErrorKind::PlatformMismatch
                | ErrorKind::Unsupported
        )
}

/// Finds the manifest for `platform`, through indexes.
async fn resolve_at(
    repository: Repository,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved> {
    let mut wanted = reference.digest();
    let mut asked = match (wanted, reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let mut repo_digests = BTreeSet::new();
    for _ in 0..=NESTING_MAX {
        let fetched = repository.manifest(&asked, wanted).await?;
        repo_digests.insert(format!("{}@{}", reference.name(), fetched.digest));
        match Document::parse(&fetched.bytes, fetched.media_type.as_deref())? {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    repository,
                    manifest,
                    fetched,
                    repo_digests,
                });
            }
            Document::Index(index) => {
                let entry = index.select(platform)?;
                wanted = Some(entry.digest);
                asked = entry.digest.to_string();
            }
        }
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "The registry nests image indexes too deep",
    ))
}

/// Fetches and checks the config.
async fn config(found: &Resolved, ingest: &Ingest, platform: &Platform) -> Result<RawConfig> {
    let descriptor = &found.manifest.config;
    if descriptor.size > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("The image's config has {} bytes", descriptor.size),
        ));
    }
    found
        .repository
        .blob(ingest, descriptor, &crate::progress::NoProgress)
        .await?;
    let bytes =
        cofferdam_base::fs::read_bounded(&ingest.blob(&descriptor.digest), DOCUMENT_BYTES_MAX)
            .map_err(|error| host_error("Could not read the image's config", error))?;
    let config: RawConfig = parse_json(&bytes, "image config")?;
    let offered = check_config(&found.manifest, &config)?;
    if !offered.runs_on(platform) {
        return Err(wrong_platform(platform, &format!("`{offered}`")));
    }
    ingest.put(&found.fetched.bytes)?;
    Ok(config)
}

async fn layers(found: &Resolved, ingest: &Ingest, progress: &dyn Progress) -> Result<()> {
    let mut seen = BTreeSet::new();
    let distinct: Vec<&Descriptor> = found
        .manifest
        .layers
        .iter()
        .filter(|layer| seen.insert(layer.digest))
        .collect();
    let total = distinct
        .iter()
        .fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    progress.event(ProgressEvent::Phase {
        phase: Phase::Downloading,
        total_bytes: Some(total),
    });
    stream::iter(distinct)
        .map(|layer| found.repository.blob(ingest, layer, progress))
        .buffer_unordered(PARALLEL_LAYERS)
        .try_collect()
        .await
}

fn record(found: &Resolved, config: &RawConfig, built: RootfsRecord) -> Result<Record> {
    Ok(Record {
        id: found.manifest.config.digest,
        manifest: found.fetched.digest,
        platform: config.platform()?,
        created: config.created.clone(),
        added_ns: unix_time_ns(),
        size_bytes: found.manifest.content_bytes(),
        repo_digests: found.repo_digests.clone(),
        layers: found
            .manifest
            .layers
            .iter()
            .map(|layer| layer.digest)
            .collect(),
        rootfs: Some(built),
    })
}

/// Builds on a blocking thread; its progress comes back here, where the caller's borrows live.
async fn build_aside(
    ingest: &Arc<Ingest>,
    layers: Vec<LayerFile>,
    manifest: Digest,
    progress: &dyn Progress,
) -> Result<RootfsRecord> {
    /// Sends what a build reports to where it can be passed on.
    struct Relay(mpsc::UnboundedSender<Option<u64>>);
    impl Progress for Relay {
        fn event(&self, event: ProgressEvent<'_>) {
            let message = match event {
                ProgressEvent::PhaseAdvanced { done_bytes } => Some(done_bytes),
                _ => None,
            };
            // The receiver lives as long as anybody wants to know.
            let _ = self.0.send(message);
        }
    }
    /// Ends the build when the pull is dropped.
    struct CancelOnDrop(Cancel);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    let (sender, mut events) = mpsc::unbounded_channel();
    let cancel = CancelOnDrop(Cancel::default());
    let (for_build, held) = (cancel.0.clone(), Arc::clone(ingest));
    let building = aside(move || {
        let built = build(layers, &held.rootfs(&manifest), &Relay(sender), &for_build);
        drop(held);
        built
    });
    let relaying = async {
        while let Some(message) = events.recv().await {
            progress.event(match message {
                Some(done_bytes) => ProgressEvent::PhaseAdvanced { done_bytes },
                None => ProgressEvent::Phase {
                    phase: Phase::Unpacking,
                    total_bytes: None,
                },
            });
        }
    };
    tokio::join!(building, relaying).0
}

/// Runs blocking work off the runtime's own threads.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(Error::new(ErrorKind::Cancelled, "The runtime is shutting down").because(error))
            }
        },
    }
}
