//! From a reference to an image in the store.
//!
//! The image gets its name last, when every blob is checked and its root file system is built.
//! # Cancel safety
//! Dropping the future ends the transfers and the build, and leaves nothing but a work directory
//! that its last user removes.

use std::{collections::BTreeSet, sync::Arc};

use cofferdam_base::time::unix_time_ns;
use cofferdam_types::{Digest, Platform};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::{
    PullOptions,
    client::Repository,
    hosts::{Endpoint, endpoints, is_of_the_endpoint},
    http::Http,
    resolve::{self, Resolved},
    transfer::BlobKind,
};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::Descriptor,
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
            let fetched = self
                .fetch(&http, endpoint, reference, platform, &ingest, progress)
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
        http: &Http,
        endpoint: Endpoint,
        reference: &Reference,
        platform: &Platform,
        ingest: &Arc<Ingest>,
        progress: &dyn Progress,
    ) -> Result<(Image, Option<NewImage>)> {
        let endpoint = http.settle(endpoint).await?;
        let repository = &Repository::new(http.clone(), endpoint, reference.repository());
        let found = resolve::at(repository, reference, platform, ingest).await;
        warn(repository, progress);
        let found = found?;
        if self.rename(&found, reference, platform)?
            && let Some(image) = self.resolve(&found.fetched.digest.to_string(), platform)?
        {
            return Ok((image, None));
        }
        let config = resolve::config(repository, &found, ingest, platform).await?;
        ingest.put(&found.fetched.bytes)?;
        let fetched = layers(repository, &found, ingest, progress).await;
        warn(repository, progress);
        fetched?;
        let volumes = config.config.volumes.clone();
        let files = layer_files(&found.manifest, &config, |digest| ingest.blob(digest));
        let built = build_aside(ingest, files, volumes, found.fetched.digest, progress).await?;
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

/// Tells what went wrong on the way and was no ground to give up.
fn warn(repository: &Repository, progress: &dyn Progress) {
    for text in repository.take_warnings() {
        progress.event(ProgressEvent::Warning { text: &text });
    }
}

async fn layers(
    repository: &Repository,
    found: &Resolved,
    ingest: &Ingest,
    progress: &dyn Progress,
) -> Result<()> {
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
    // All of them first: a stream that makes them has a type that is not `Send`.
    let fetches: Vec<_> = distinct
        .into_iter()
        .map(|layer| repository.blob(ingest, layer, BlobKind::Layer, progress))
        .collect();
    stream::iter(fetches)
        .buffer_unordered(PARALLEL_LAYERS)
        .try_collect()
        .await
}

fn record(found: &Resolved, config: &RawConfig, built: RootfsRecord) -> Result<Record> {
    Ok(Record {
        id: found.manifest.config.digest,
        manifest: found.fetched.digest,
        platform: config.platform(found.offered.as_ref())?,
        created: config.created.0.clone(),
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
    volumes: Vec<String>,
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
        let built = build(
            layers,
            &volumes,
            &held.rootfs(&manifest),
            &Relay(sender),
            &for_build,
        );
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
